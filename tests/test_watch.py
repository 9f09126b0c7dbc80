"""Trainings that are watched: scalars on the way, a page at the end, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks
from torch.utils.data import TensorDataset

import initstats as ist
from initstats.callbacks import Watcher
from initstats.callbacks.scalars import scalars_of

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(64) % 3
STEPS = 4


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            generator = torch.Generator().manual_seed(index)
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        dict(net.named_parameters())["0.bias"][0] = -100.0  # the first unit is dead
    return net


def train(model: nn.Module, each: Callable[[int], object], steps: int = STEPS) -> None:
    """A loop of one's own; `each` is called with the number of each update."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for number in range(1, steps + 1):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(X), Y))
        optimizer.step()
        each(number)


@pytest.fixture(autouse=True)
def no_residue() -> Iterator[None]:
    """Nothing stays on torch, however a training ends."""
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks


class WandbRun:
    """What a run of W&B takes; `trackio.log` takes the same without `commit`."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, dict[str, float]]] = []

    def log(
        self, data: dict[str, Any], step: int | None = None, commit: bool | None = None
    ) -> None:
        assert step is not None
        self.taken.append((step, data))


class TrackioRun(WandbRun):
    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:  # type: ignore[override]
        super().log(metrics, step)


class LightningLogger(WandbRun):
    log = None  # type: ignore[assignment]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        super().log(metrics, step)


class Writer(WandbRun):
    log = None  # type: ignore[assignment]

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        assert global_step is not None
        if not self.taken or self.taken[-1][0] != global_step:
            self.taken.append((global_step, {}))
        self.taken[-1][1][tag] = scalar_value


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("logger", [WandbRun, TrackioRun, LightningLogger, Writer])
def test_scalars_are_those_of_each_measured_step(logger: type[WandbRun], every: int) -> None:
    log, model = logger(), network()
    by_hand: dict[int, dict[str, float]] = {}
    watcher = Watcher(every=every, log=log)

    def each(number: int) -> None:
        watcher.step(number)

    def expect(number: int) -> None:
        """The scalars of the step that begins now."""
        hidden = model[0](X)
        hidden.retain_grad()
        rectified = hidden.relu()
        scores = model[2](rectified)
        scores.retain_grad()
        torch.autograd.backward(functional.cross_entropy(scores, Y))
        dead = (rectified == rectified[:1]).all(0).double().mean().item()
        by_hand[number] = {
            "std/001_0_linear": hidden.std().item(),
            "gradient_std/001_0_linear": hidden.grad.std().item(),
            "std/003_2_linear": scores.std().item(),
            "gradient_std/003_2_linear": scores.grad.std().item(),
            "dead_fraction/002_1_relu": dead,
            "nonfinite": 0.0,
        }

    expect(1)
    watcher.begin(model)
    train(model, each)
    watcher.end()
    assert [number for number, _ in log.taken] == list(range(1, STEPS + 1, every))
    first = {tag: x for tag, x in log.taken[0][1].items() if not tag.startswith("update_ratio/")}
    assert first == pytest.approx(by_hand[1], rel=1e-5)
    assert by_hand[1]["dead_fraction/002_1_relu"] >= 1 / 8


def test_a_later_step_has_its_own_scalars() -> None:
    log, model = WandbRun(), network()
    with Watcher(every=2, log=log) as watcher:
        watcher.begin(model)
        train(model, watcher.step, steps=2)
        weights = [*model.parameters()]
        hidden = functional.linear(X, weights[0], weights[1]).relu()
        right = functional.linear(hidden, weights[2], weights[3]).std().item()
        train(model, lambda number: watcher.step(number + 2), steps=1)
    assert [number for number, _ in log.taken] == [1, 3]
    assert log.taken[-1][1]["std/003_2_linear"] == pytest.approx(right, rel=1e-5)


def test_update_ratios_and_entries_that_are_not_finite() -> None:
    table = ist.measure(nn.Linear(2, 2), torch.tensor([[1.0, float("nan")], [1.0, 2.0]]))
    scalars = scalars_of(table.assign(update_ratio=table["layer"] * 0.25))
    assert scalars["nonfinite"] == 1 + 2  # an entry of the input, and a row of the output
    assert scalars["update_ratio/001_weight_linear"] == 0.25
    assert not any(tag.startswith("gradient_std/") for tag in scalars)


def test_what_is_no_logger() -> None:
    with pytest.raises(ValueError, match="list is no logger: it has none of add_scalar"):
        Watcher(log=[])
    with pytest.raises(ValueError, match="every=0"):
        Watcher(every=0)


def test_the_page_is_written_at_the_end(tmp_path: Path) -> None:
    watcher, model = Watcher(every=1, page=tmp_path), network()
    watcher.step(1)  # nothing is watched yet
    watcher.end()
    assert not [*tmp_path.iterdir()]
    watcher.begin(model)
    train(model, watcher.step)
    watcher.end()
    html = (tmp_path / "index.html").read_text()
    assert f"It watched {STEPS} steps of a training" in html
    assert "Through training" in html
    assert "The colourful dimension" in html
    assert watcher.probe is not None
    assert sorted(set(watcher.probe.table()["step"])) == list(range(STEPS))


def test_an_error_ends_the_training_and_leaves_a_page(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt), Watcher(every=1, page=tmp_path) as watcher:
        watcher.begin(model := network())
        train(model, fail)
        pytest.fail("the error is not passed on")
    assert (tmp_path / "index.html").exists()


def test_a_training_that_never_ran_has_a_page(tmp_path: Path) -> None:
    with Watcher(page=tmp_path) as watcher:
        watcher.begin(network())
    assert (tmp_path / "index.html").exists()


def test_a_second_training_ends_the_first() -> None:
    watcher = Watcher(every=1)
    watcher.begin(first := network())
    before = watcher.probe
    watcher.begin(second := network())
    train(first, watcher.step, steps=1)
    train(second, watcher.step, steps=2)
    watcher.end()
    assert before is not watcher.probe
    assert watcher.probe is not None
    assert set(watcher.probe.table()["step"]) == {0, 1}


@pytest.mark.parametrize("name", ["depth_profile", "distribution_profile"])
def test_figures_of_a_batch(name: str, tmp_path: Path) -> None:
    probe = ist.Probe(network()).run(X)
    drawn = getattr(ist, name)(probe, width=5.0)
    assert isinstance(drawn, Figure)
    assert drawn.get_figwidth() == 5
    page = probe.report(tmp_path / "page")
    assert page == tmp_path / "page" / "index.html"
    assert (tmp_path / "page" / "figures" / f"{name}.png").exists()


@pytest.mark.parametrize("name", ["training_lines", "training_distributions"])
def test_figures_of_a_training(name: str) -> None:
    with ist.Probe(model := network()) as probe:
        train(model, id)
    assert isinstance(getattr(ist, name)(probe), Figure)
    with pytest.raises(ValueError, match="only one step was measured"):
        getattr(ist, name)(ist.Probe(model).run(X))


class Model(nn.Module):
    """What `transformers.Trainer` trains: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def stds(log: WandbRun) -> list[float]:
    """The logged std of the last layer, by step."""
    return [
        value
        for _, scalars in log.taken
        for tag, value in scalars.items()
        if tag.startswith("std/") and tag.endswith("2_linear")
    ]


@pytest.mark.parametrize("evaluate", [False, True])
def test_the_events_of_transformers(evaluate: bool) -> None:
    """The library's own handler calls the callback, in the order of its training loop."""
    pytest.importorskip("transformers")
    callbacks: Any = import_module("transformers.trainer_callback")
    ours: Any = import_module("initstats.callbacks.transformers")
    log, model = WandbRun(), Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with ours.ProbeCallback(every=1, log=log) as callback:
        handler = callbacks.CallbackHandler([callback], model, None, optimizer, None)
        arguments, state = SimpleNamespace(), callbacks.TrainerState()
        control = handler.on_train_begin(arguments, state, callbacks.TrainerControl())
        for _ in range(STEPS):
            control = handler.on_step_begin(arguments, state, control)
            for part in (slice(0, 32), slice(32, 64)):  # two micro-batches
                (model(X[part], Y[part])["loss"] / 2).backward()
                control = handler.on_substep_end(arguments, state, control)
            optimizer.step()
            model.zero_grad()
            state.global_step += 1
            control = handler.on_step_end(arguments, state, control)
            if evaluate:
                with torch.no_grad():
                    model.eval()(X[:8], Y[:8])
                model.train()
                handler.on_evaluate(arguments, state, control, {})
        handler.on_train_end(arguments, state, control)
    assert [number for number, _ in log.taken] == list(range(1, STEPS + 1))
    assert {tag.split("/")[0] for tag in log.taken[0][1]} >= {"std", "gradient_std", "nonfinite"}
    expected, plain = [], network()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        scores = plain(X)
        expected.append(scores.std().item())
        torch.autograd.backward(functional.cross_entropy(scores, Y))
        optimizer.step()
    if not evaluate:
        assert stds(log) == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("default")
def test_a_trainer_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    transformers: Any = import_module("transformers")
    ours: Any = import_module("initstats.callbacks.transformers")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    log = WandbRun()
    callback = ours.ProbeCallback(every=1, page=tmp_path / "page", log=log)
    transformers.Trainer(Model(), arguments, train_dataset=data, callbacks=[callback]).train()
    assert [number for number, _ in log.taken] == list(range(1, STEPS + 1))
    assert (tmp_path / "page" / "index.html").exists()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("fails", [False, True])
def test_a_trainer_of_lightning(tmp_path: Path, fails: bool) -> None:
    lightning: Any = pytest.importorskip("lightning.pytorch")
    ours: Any = import_module("initstats.callbacks.lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, index: int) -> Tensor:
            if fails and index == STEPS:
                raise ZeroDivisionError
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        validation_step = training_step

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    log = LightningLogger()
    callback = ours.ProbeCallback(every=1, page=tmp_path / "page", log=log)
    trainer = lightning.Trainer(
        max_epochs=1,
        accumulate_grad_batches=2,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(tmp_path),
    )
    loader: Any = torch.utils.data.DataLoader(TensorDataset(X, Y), batch_size=8)
    if fails:
        with pytest.raises(ZeroDivisionError):
            trainer.fit(Module(), loader)
    else:
        trainer.fit(Module(), loader, loader)
    assert [number for number, _ in log.taken] == ([1, 2] if fails else [1, 2, 3, 4])
    assert (tmp_path / "page" / "index.html").exists()


@pytest.mark.filterwarnings("default")
def test_a_learner_of_fastai(tmp_path: Path) -> None:
    pytest.importorskip("fastai")
    fastai: Any = import_module("fastai.basics")
    import_module("fastai.callback.progress")  # gives a learner no_bar
    ours: Any = import_module("initstats.callbacks.fastai")
    data = TensorDataset(X, Y)
    loaders = [fastai.DataLoader(data, bs=16, num_workers=0) for _ in range(2)]
    learner = fastai.Learner(
        fastai.DataLoaders(*loaders),
        network(),
        loss_func=nn.CrossEntropyLoss(),
        opt_func=fastai.SGD,
        lr=0.1,
    )
    log = WandbRun()
    callback = ours.ProbeCallback(every=1, page=tmp_path / "page", log=log)
    with callback, learner.no_bar(), learner.no_logging():
        learner.fit(1, cbs=callback)
    assert [number for number, _ in log.taken] == [1, 2, 3, 4]
    assert (tmp_path / "page" / "index.html").exists()


@pytest.mark.filterwarnings("default")
def test_tensorboard_keeps_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tensorboard: Any = import_module("torch.utils.tensorboard")
    events: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    model = network()
    with tensorboard.SummaryWriter(str(tmp_path)) as log, Watcher(every=2, log=log) as watcher:
        watcher.begin(model)
        train(model, watcher.step)
    kept = events.EventAccumulator(str(tmp_path))
    kept.Reload()
    assert [event.step for event in kept.Scalars("std/001_0_linear")] == [1, 3]
