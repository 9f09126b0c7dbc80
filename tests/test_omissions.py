"""What is left out around a model: weights that nobody knows, updates, a mode."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from initstats.diagnosis import diagnose
from initstats.probe import Probe

WIDTH, SAMPLES = 8, 32


class Net(nn.Module):
    """A map, what is made in `between`, and a map behind it."""

    def __init__(self, between: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.between = between
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor, *others: Tensor, **named: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        y: Tensor = self.last(self.between(self, h, *others, **named))
        return y


def batch() -> Tensor:
    return torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1))


def watched(
    model: nn.Module, *others: Tensor, optimized: tuple[Tensor, ...] = (), **named: Tensor
) -> Probe:
    optimizer = torch.optim.SGD([*model.parameters(), *optimized], 0.01)
    with Probe(model, backward=True) as probe:
        for _ in range(2):
            optimizer.zero_grad()
            model(batch(), *others, **named).square().mean().backward()
            optimizer.step()
    return probe


def found(probe: Probe, rule: str) -> Any:
    """The only finding of a rule; None where it holds."""
    findings = diagnose(probe)
    rows = findings[(findings["rule"] == rule) & ~findings["severity"].isin(["healthy"])]
    assert len(rows) < 2
    return next(rows.itertuples(), None)


def free(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def linear() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


def through_list(model: Any, h: Tensor) -> Tensor:
    for layer in model.kept:
        h = layer(h)
    return h


def through(layer: nn.Module, _: nn.Module, h: Tensor) -> Any:
    return layer(h)


HIDDEN: dict[str, Callable[[], nn.Module]] = {
    "list": lambda: Net(through_list, kept=[linear(), linear()]),
    "nested": lambda: Net(lambda m, h: m.kept["a"][0](h), kept={"a": (linear(),)}),
    "closure": lambda: Net(partial(through, linear())),
    "weight_norm": lambda: Net(through_list, kept=[weight_norm(linear())]),
    "norm": lambda: Net(through_list, kept=[nn.LayerNorm(WIDTH)]),
    "convolution": lambda: Net(
        lambda m, h: m.kept[0](h[:, None])[:, 0], kept=[nn.Conv1d(1, 1, 3, padding=1)]
    ),
    "functional": lambda: Net(lambda m, h: F.linear(h, m.kept[0].weight), kept=[linear()]),
    "tensor": lambda: Net(lambda m, h: h @ m.kept, kept=free(WIDTH, WIDTH)),
    "tensors": lambda: Net(
        lambda m, h: torch.einsum("bi,oi->bo", h, m.kept[0]), kept=[free(WIDTH, WIDTH)]
    ),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_weights_that_are_no_parameters(kind: str) -> None:
    finding = found(watched(HIDDEN[kind]()), "unregistered_weights")
    assert finding.severity == "warning"
    assert "Net" in finding.where
    assert "no parameters of the model" in finding.evidence
    assert "nn.ModuleList" in finding.remedy


def test_their_entries_are_counted() -> None:
    table = watched(HIDDEN["list"]()).table()
    forward = table[(table["step"] == 0) & (table["direction"] == "forward")]
    counts = forward[forward["unregistered"] > 0]["unregistered"]
    assert [*counts] == [WIDTH * WIDTH + WIDTH] * 2
    assert forward[forward["tensor"] == "weight"]["unregistered"].isna().all()


def without_gradients(model: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        return through_list(model, h)


def made(model: Any, h: Tensor) -> Tensor:
    """Weights that another map makes."""
    return F.linear(h, model.first(torch.ones(WIDTH, WIDTH)))


def ensemble() -> nn.Module:
    """Two networks of one form, whose weights are stacked parameters of the model."""
    layers = [linear(), linear()]
    stacked, _ = stack_module_state(layers)
    base = copy.deepcopy(layers[0])

    def run(model: Any, h: Tensor) -> Tensor:
        weights = {"weight": model.weight, "bias": model.bias}
        many = vmap(partial(functional_call, base), in_dims=(0, None))
        out: Tensor = many(weights, (h,)).mean(0)
        return out

    return Net(run, **{name: nn.Parameter(x) for name, x in stacked.items()})


SOUND: dict[str, Callable[[], Probe]] = {
    "registered": lambda: watched(Net(through_list, kept=nn.ModuleList([linear()]))),
    "registered, and in a list": lambda: watched(
        Net(through_list, kept=[one := linear()], also=one)
    ),
    "frozen": lambda: watched(Net(through_list, kept=[linear().requires_grad_(False)])),
    "no_grad": lambda: watched(Net(without_gradients, kept=[linear()])),
    "made": lambda: watched(Net(made)),
    "ensemble": lambda: watched(ensemble()),
    "prompt": lambda: watched(Net(lambda m, h, p: h + h @ p.T @ p), free(4, WIDTH)),
    "named prompt": lambda: watched(
        Net(lambda m, h, p: h + h @ p.T @ p), p=nn.Parameter(free(4, WIDTH))
    ),
    "optimized": lambda: watched(
        Net(through_list, kept=[one := linear()]), optimized=tuple(one.parameters())
    ),
}


@pytest.mark.parametrize("kind", SOUND)
def test_weights_that_are_meant_so(kind: str) -> None:
    assert found(SOUND[kind](), "unregistered_weights") is None


def test_weights_given_to_a_functional_call() -> None:
    model = Net(lambda m, h: h)
    weights = {name: x.detach().clone().requires_grad_() for name, x in model.named_parameters()}
    with Probe(model, backward=True) as probe:
        functional_call(model, weights, (batch(),)).sum().backward()
        grad(lambda w: functional_call(model, w, (batch(),)).sum())(weights)
    assert found(probe, "unregistered_weights") is None


def test_an_input_that_asks_for_gradients() -> None:
    model = Net(lambda m, h: h)
    with Probe(model, backward=True) as probe:
        model(batch().requires_grad_()).sum().backward()
    assert found(probe, "unregistered_weights") is None


def test_without_gradients_nothing_is_told() -> None:
    model = HIDDEN["list"]()
    finding = found(Probe(model).run(batch()), "unregistered_weights")
    assert finding.severity == "unchecked"
    assert "backward=False" in finding.evidence


def accumulated(passes: int, *, step: bool = False, mode: bool = True) -> Probe:
    """Backward passes of one batch, and maybe an update after the last."""
    model = Net(lambda m, h: h).train(mode)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Probe(model, backward=True) as probe:
        for _ in range(passes):
            model(batch()).sum().backward()
        if step:
            optimizer.step()
    return probe


def test_no_update_after_many_passes() -> None:
    finding = found(accumulated(12), "missing_updates")
    assert finding.severity == "warning"
    assert finding.evidence.startswith("12 backward passes, and no update of the weights")
    assert "optimizer.step()" in finding.remedy


@pytest.mark.parametrize(
    "sound",
    [
        lambda: accumulated(8),
        lambda: accumulated(12, step=True),
        lambda: accumulated(12, mode=False),
        lambda: watched(Net(lambda m, h: h)),
    ],
    ids=["few", "accumulated", "evaluated", "trained"],
)
def test_updates_that_are_there(sound: Callable[[], Probe]) -> None:
    told = found(sound(), "missing_updates")
    assert told is None or told.severity == "unchecked"


def written_to(model: nn.Linear) -> None:
    model.weight.data -= 0.1


def assigned(model: nn.Linear) -> None:
    model.load_state_dict({name: 2 * x for name, x in model.state_dict().items()}, assign=True)


def made_anew(model: nn.Linear) -> None:
    model.weight = nn.Parameter(2 * model.weight.detach())


@pytest.mark.parametrize("update", [written_to, assigned, made_anew])
def test_an_update_of_any_kind_ends_a_step(update: Callable[[nn.Linear], None]) -> None:
    model = nn.Linear(WIDTH, 1)
    with Probe(model, backward=True) as probe:
        for _ in range(2):
            model(batch()).sum().backward()
        assert not probe.table()["updated"].any()
        update(model)
    assert probe.table()["updated"].all()
    assert not Probe(model, backward=True).run(batch()).table()["updated"].any()


def test_a_training_in_evaluation_mode() -> None:
    model = Net(lambda m, h: m.kept(h), kept=nn.BatchNorm1d(WIDTH)).eval()
    finding = found(watched(model), "evaluation_mode")
    assert finding.severity == "note"
    assert finding.where.startswith("kept")
    assert "model.train()" in finding.remedy


@pytest.mark.parametrize(
    "sound",
    [
        lambda: watched(Net(lambda m, h: m.kept(h), kept=nn.BatchNorm1d(WIDTH))),
        lambda: watched(Net(lambda m, h: m.kept(h), kept=nn.LayerNorm(WIDTH)).eval()),
        lambda: accumulated(2, mode=False),
    ],
    ids=["training mode", "one mode alone", "not updated"],
)
def test_modes_that_are_meant_so(sound: Callable[[], Probe]) -> None:
    assert found(sound(), "evaluation_mode") is None


def stepping(model: nn.Module, zeroes: bool, *, rate: Any = 0.01, batches: int = 1) -> Probe:
    """A training of six steps, with or without gradients that are set to zero."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    y = torch.randn(SAMPLES, 3)
    with Probe(model, backward=True) as probe:
        for step in range(6):
            if zeroes:
                optimizer.zero_grad()
            for number in range(batches):
                x = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(step))
                ((model(x) - y).square().mean() * (1 + number)).backward()
            optimizer.step()
    return probe


def convolved() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


@pytest.mark.parametrize("build", [lambda: Net(lambda m, h: h), convolved], ids=["dense", "conv"])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("rate", [0.01, 0.0])
def test_gradients_that_nothing_sets_to_zero(
    build: Callable[[], nn.Module], batches: int, rate: float
) -> None:
    torch.manual_seed(0)
    finding = found(stepping(build(), False, rate=rate, batches=batches), "added_gradients")
    assert finding.severity == "warning"
    assert "bias" in finding.where
    assert "optimizer.zero_grad()" in finding.remedy
    assert found(stepping(build(), True, rate=rate, batches=batches), "added_gradients") is None


def test_a_loss_that_is_no_tensor() -> None:
    loss: Any = lambda y: y.detach().sum().item()  # noqa: E731
    with pytest.raises(TypeError, match="returns a tensor .* returned float"):
        Probe(nn.Linear(WIDTH, 1), backward=True).run(batch(), loss)


def test_a_probe_that_measured_nothing() -> None:
    with Probe(nn.Linear(WIDTH, 1)) as probe:
        pass
    findings = diagnose(probe)
    assert {*findings["severity"]} == {"unchecked"}
    assert "nothing was measured" in str(findings)
