"""Nothing that the probe does, or fails to do, reaches the model: it runs, and stays as it was."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import module as torch_module
from torch.nn.utils import prune

from initstats.moments import STATISTICS, Field, Moments, register_statistic
from initstats.probe import Probe, measure
from initstats.probe.heap import _trimming, resident
from initstats.probe.objective import sent_back
from initstats.probe.recording import Recorder
from initstats.probe.slots import Slot
from initstats.probe.updates import Updates


def batch(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    return x + torch.arange(float(shape[0])).view(-1, *[1] * (len(shape) - 1))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


class Trained:
    """What two steps of a training leave, all of it."""

    def __init__(self, watched: bool, model: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        model = model or small()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        self.probe = Probe(model, backward=True)
        if watched:
            self.probe.__enter__()
        for i in range(2):
            y = model(batch(6, 4) * (i + 1))
            y.square().mean().backward()
            optimizer.step()
        if watched:
            self.probe.__exit__(None, None, None)
        self.left = [y, *model.state_dict().values(), *(p.grad for p in model.parameters())]
        self.hooks = [p._backward_hooks for p in model.parameters()]
        self.hooks += [p._post_accumulate_grad_hooks for p in model.parameters()]
        hooks = [name for name in vars(torch_module) if name.startswith("_global_")]
        self.world: list[Any] = [len(repr(getattr(torch_module, name))) for name in hooks]
        self.world += [torch._C._len_torch_function_stack(), torch.get_rng_state().tolist()]
        self.world += [random.getstate(), torch.is_grad_enabled(), repr(model)]


def assert_harmless(watched: Trained, alone: Trained) -> None:
    for ours, theirs in zip(watched.left, alone.left, strict=True):
        assert torch.equal(ours, theirs)
    assert watched.hooks == [None] * len(watched.hooks)
    assert watched.world == alone.world


class Broken(RuntimeError):
    """An error of ours, wherever it comes from."""


def fail(*_: Any, **__: Any) -> Any:
    raise Broken("on purpose\nand more")


PARTS = [
    (Moments, "add"),
    (Moments, "__init__"),
    (Slot, "add"),
    (Slot, "close"),
    (Slot, "put"),
    (Slot, "once"),
    (Recorder, "begin_pass"),
    (Recorder, "end_pass"),
    (Recorder, "observe"),
    (Recorder, "observe_result"),
    (Recorder, "_measure"),
    (Recorder, "_measure_weights"),
    (Recorder, "_origin"),
    (Recorder, "_slot"),
    (Recorder, "weight"),
    (Recorder, "_take_gradient"),
    (Updates, "begin"),
    (Updates, "end"),
    (Updates, "tell"),
]


@pytest.mark.parametrize(("owner", "name"), PARTS, ids=lambda part: getattr(part, "__name__", part))
def test_no_error_of_ours_reaches_a_training(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Trained(watched=False)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fail)
        watched = Trained(watched=True)
    assert_harmless(watched, alone)
    missed = watched.probe.missed()
    told = missed[missed["reason"] == "measuring it failed: Broken: on purpose"]
    assert len(told) > 0
    watched.probe.table()


def test_what_fails_once_does_not_hide_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(small(), batch(6, 4), backward=True)
    add = Slot.add

    def sometimes(self: Slot, *arguments: Any, **options: Any) -> None:
        if self.address.op == "tanh":
            fail()
        add(self, *arguments, **options)

    monkeypatch.setattr(Slot, "add", sometimes)
    probe = Probe(small(), backward=True).run(batch(6, 4))
    rest = whole[whole["op"] != "tanh"].reset_index(drop=True)
    table = probe.table()
    assert table.drop(columns="inputs").equals(rest.drop(columns="inputs"))
    missed = probe.missed()
    assert missed[["kind", "name", "op"]].to_numpy().tolist() == [
        ["tensor", "2", "tanh"],
        ["gradient", "2", "tanh"],
    ]


def test_a_statistic_that_fails_while_it_is_taken() -> None:
    alone = Trained(watched=False)

    @register_statistic(field=Field(fail))
    def broken(s: Any) -> Any:
        """a number that cannot be taken"""
        return s.total("broken")

    try:
        watched = Trained(watched=True)
        assert_harmless(watched, alone)
        assert watched.probe.table().empty
    finally:
        STATISTICS.remove("broken")
    reasons = watched.probe.missed()["reason"]
    assert reasons.str.contains("the field of statistic 'broken' cannot be computed").any()


def test_a_statistic_that_fails_when_it_is_read() -> None:
    """The training runs on; whoever asks for the table is told, in one line."""
    alone = Trained(watched=False)

    @register_statistic()
    def broken(s: Any) -> Any:
        """a number that cannot be read"""
        raise Broken("on purpose")

    try:
        watched = Trained(watched=True)
        assert_harmless(watched, alone)
        with pytest.raises(ValueError, match="statistic 'broken' cannot be computed: Broken"):
            watched.probe.table()
    finally:
        STATISTICS.remove("broken")
    assert watched.probe.table()["step"].unique().tolist() == [0, 1]


# what cannot be measured is told, and what surrounds it is measured


class Uses(nn.Module):
    """Multiplies its input by some parameter that is awkward."""

    def __init__(self, parameter: Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.w = nn.Parameter(parameter, requires_grad=parameter.is_floating_point())

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        w = self.w
        if w.is_complex():
            return torch.tanh((h * w).real)
        if w.is_quantized:
            return torch.tanh(h * w.dequantize())
        if w.layout == torch.sparse_coo:
            return torch.tanh(torch.sparse.mm(w, h.t()).t())
        if w.layout == torch.sparse_csr:
            return torch.tanh((w @ h.t()).t())
        return torch.tanh(h * w)


def awkward() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "complex": torch.randn(4, dtype=torch.cfloat),
        "sparse": torch.randn(4, 4).to_sparse(),
        "csr": torch.randn(4, 4).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8),
    }


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.filterwarnings("ignore:.*quantize.*")
@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("kind", ["complex", "sparse", "csr", "quantized"])
def test_parameters_that_cannot_be_measured(kind: str, steps: bool) -> None:
    model, x = Uses(awkward()[kind]), batch(6, 4)
    expected = model(x)
    probe = Probe(model, backward=True)
    if steps:
        with probe:
            for _ in range(2):
                model(x).sum().backward()
                model.fc.weight.data.mul_(1.5)
        assert probe.table()["step"].unique().tolist() == [0, 1]
    else:
        probe.run(x)
    row = probe.table().query("op == 'tanh' and direction == 'forward'").iloc[0]
    assert row["mean"] == pytest.approx(expected.mean().item(), rel=1e-6)
    assert "w" in probe.missed()["name"].tolist()
    assert "fc.weight" in probe.table()["name"].tolist()


def test_a_model_without_numbers() -> None:
    with torch.device("meta"):
        model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(6, 4)
    with Probe(model, backward=True) as probe:
        for _ in range(2):
            model(x).sum().backward()
    assert probe.table().empty
    assert {"0.weight", "0.bias"} <= set(probe.missed()["name"])
    assert probe.missed()["reason"].str.contains("meta").all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_convolutions(rank: int, groups: int, bias: bool) -> None:
    torch.manual_seed(0)
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    model = nn.Sequential(kind(4, 6, 3, 2, 1, groups=groups, bias=bias), nn.ReLU())
    x = batch(3, 4, *[5] * rank)
    y, table = model(x), measure(model, x, backward=True)
    made = table[(table["op"] == f"conv_transpose{rank}d") & (table["tensor"] == "preactivation")]
    forward = table[table["direction"] == "forward"].set_index("name")
    assert made["std"].iloc[0] == pytest.approx(model[0](x).std().item(), rel=1e-6)
    assert forward.loc["1", "mean"] == pytest.approx(y.mean().item(), rel=1e-6)
    assert forward.loc["0.weight", "unit_axis"] == 1
    assert ("0.bias" in forward.index) == bias
    if bias:
        assert forward.loc["0.bias", "unit_axis"] == 0
        mean = model[0].bias.mean().item()  # type: ignore[operator]
        assert forward.loc["0.bias", "mean"] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("parameters", [False, True])
def test_an_input_that_asks_for_gradients(parameters: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4) if parameters else nn.Tanh(), nn.Softmax(-1))
    x = batch(6, 4).requires_grad_()
    table = measure(model, x, backward=True)
    g = torch.randn(6, 4, generator=sent_back())
    (expected,) = torch.autograd.grad(model(x), x, g)
    row = table[(table["op"] == "input") & (table["direction"] == "backward")]
    assert row["std"].item() == pytest.approx(expected.std().item(), rel=1e-6)
    assert x.grad is None
    with pytest.raises(ValueError, match="no gradient flows back"):
        measure(nn.Tanh(), batch(6, 4), backward=True)


# measuring puts back what a forward pass moves


def in_place(model: Moves, x: Tensor) -> None:
    model.fc.weight.data.mul_(2)


def one_entry(model: Moves, x: Tensor) -> None:
    model.fc.weight.data[1, 2] = 5


def without_gradients(model: Moves, x: Tensor) -> None:
    with torch.no_grad():
        model.fc.weight.clamp_(-0.1, 0.1)


def into(model: Moves, x: Tensor) -> None:
    torch.mul(model.fc.weight.detach(), 2, out=model.fc.weight.data)


def foreach(model: Moves, x: Tensor) -> None:
    torch._foreach_mul_([p.data for p in model.parameters()], 2.0)


def through_numpy(model: Moves, x: Tensor) -> None:
    model.fc.weight.detach().numpy()[:] *= 2


def drawn_anew(model: Moves, x: Tensor) -> None:
    nn.init.normal_(model.fc.weight)


def swapped_data(model: Moves, x: Tensor) -> None:
    model.fc.weight.data = torch.zeros(4, 4)


def replaced(model: Moves, x: Tensor) -> None:
    model.fc.weight = nn.Parameter(torch.zeros(4, 4))


def deleted(model: Moves, x: Tensor) -> None:
    w = model.fc.weight
    del model.fc.weight
    model.fc.weight = w * 2


def frozen(model: Moves, x: Tensor) -> None:
    model.fc.weight.requires_grad_(False)


def attributes(model: Moves, x: Tensor) -> None:
    model.calls += 1
    model.seen, model.new = x, nn.Linear(2, 2)


def buffers(model: Moves, x: Tensor) -> None:
    model.mean.lerp_(x.mean(0), 0.1)
    model.register_buffer("count", torch.ones(()))


def mode(model: Moves, x: Tensor) -> None:
    model.eval()


def max_norm(model: Moves, x: Tensor) -> None:
    model.table(torch.arange(6))


MOVES = (
    *(in_place, one_entry, without_gradients, into, foreach, through_numpy, drawn_anew),
    *(swapped_data, replaced, deleted, frozen, attributes, buffers, mode, max_norm),
)


class Moves(nn.Module):
    """Changes itself in its forward pass."""

    mean: Tensor

    def __init__(self, how: Callable[[Moves, Tensor], None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.how, self.calls = nn.Linear(4, 4), how, 0
        self.table = nn.Embedding(6, 4, max_norm=0.5)
        self.register_buffer("mean", torch.zeros(4))
        self.seen: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.how(self, x)
        out: Tensor = self.fc(x)
        return out


def everything(model: nn.Module) -> dict[str, Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    facts = {name: (id(x), x.data_ptr(), x.requires_grad) for name, x in tensors.items()}
    values = {name: x.tolist() for name, x in tensors.items()}
    own = {name: sorted(map(str, vars(module))) for name, module in model.named_modules()}
    modes = [module.training for module in model.modules()]
    seen = getattr(model, "calls", None), getattr(model, "seen", None)
    return {"facts": facts, "values": values, "own": own, "modes": modes, "seen": seen}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("how", MOVES, ids=lambda how: how.__name__)
def test_what_a_forward_moves_is_put_back(
    how: Callable[[Moves, Tensor], None], backward: bool
) -> None:
    model = Moves(how)
    before = everything(model)
    model(batch(6, 4))
    assert everything(model) != before  # it does move
    model = Moves(how)
    before = everything(model)
    measure(model, batch(6, 4), backward=backward)
    assert everything(model) == before


def test_it_is_put_back_after_an_error_too() -> None:
    class Raises(Moves):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise KeyError("half-way")

    model = Raises(one_entry)
    before = everything(model)
    with pytest.raises(KeyError):
        measure(model, batch(6, 4), backward=True)
    assert everything(model) == before
    assert all(p._backward_hooks is None for p in model.parameters())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("method", ["weight_norm", "spectral_norm", "prune"])
def test_weights_that_a_hook_makes_are_put_back(method: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    if method == "prune":
        prune.random_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    else:
        getattr(nn.utils, method)(layer)
    before, used = everything(layer), layer.weight
    measure(nn.Sequential(layer), batch(6, 4), backward=True)
    assert everything(layer) == before
    assert layer.weight is used


def test_models_made_for_inference() -> None:
    with torch.inference_mode():
        model = small().eval()
        x = batch(6, 4)
        before = [p.clone() for p in model.state_dict().values()]
    table = measure(model, x)
    assert len(table) > 5
    assert all(torch.equal(p, q) for p, q in zip(model.state_dict().values(), before, strict=True))
    with torch.inference_mode(), Probe(model) as probe:
        model(x)
        model[0].weight.mul_(2)  # type: ignore[operator]
        model(x)
    assert probe.table()["step"].unique().tolist() == [0, 1]


def test_a_probe_leaves_a_training_as_it_is() -> None:
    assert_harmless(Trained(watched=True), Trained(watched=False))


def test_lazy_modules_are_made() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    assert len(measure(model, batch(6, 4))) > 3
    assert type(model[0]) is nn.Linear
    assert np.isfinite(model(batch(6, 4)).detach().numpy()).all()


# what a model may do in its pass, and what was not seen then


class Does(nn.Module):
    """Does something of its own between two layers."""

    new: nn.Module
    buffer: Tensor
    inference: Tensor

    def __init__(self, how: Callable[[Does, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.how = nn.Linear(4, 5), nn.Linear(5, 3), how
        self.register_buffer("buffer", torch.ones(5))
        with torch.inference_mode():
            self.register_buffer("inference", torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.how(self, x))
        return out


def gradient_inside(model: Does, x: Tensor) -> Tensor:
    slope = torch.func.grad(lambda z: model.first(z).tanh().sum())(x)
    return model.first(x + slope)  # type: ignore[no-any-return]


def mapped(model: Does, x: Tensor) -> Tensor:
    out: Tensor = torch.func.vmap(lambda z: model.first(z).tanh())(x)
    return out


def forward_mode(model: Does, x: Tensor) -> Tensor:
    found = torch.func.jvp(model.first, (x,), (torch.ones_like(x),))
    return found[0] + found[1]  # type: ignore[no-any-return]


def other_weights(model: Does, x: Tensor) -> Tensor:
    weights = {name: p * 2 for name, p in model.first.named_parameters()}
    return torch.func.functional_call(model.first, weights, (x,))  # type: ignore[no-any-return]


def grown(model: Does, x: Tensor) -> Tensor:
    if not hasattr(model, "new"):
        model.new = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    return model.new(x)  # type: ignore[no-any-return]


def resized(model: Does, x: Tensor) -> Tensor:
    model.buffer.resize_(7).fill_(2)
    return model.first(x) + model.buffer[:5]  # type: ignore[no-any-return]


def swapped(model: Does, x: Tensor) -> Tensor:
    model.buffer.data = x[0, :1]
    return model.first(x) + model.buffer  # type: ignore[no-any-return]


def inference(model: Does, x: Tensor) -> Tensor:
    with torch.inference_mode():
        model.inference.add_(1)
        h = model.first(x) + model.inference
    return h.clone()  # type: ignore[no-any-return]


def elsewhere(model: Does, x: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(model.first, x).result()  # type: ignore[no-any-return]


def recursive(model: Does, x: Tensor, depth: int = 3) -> Tensor:
    return recursive(model, x, depth - 1) / 2 if depth else model.first(x)


def caught(model: Does, x: Tensor) -> Tensor:
    with suppress(RuntimeError):
        model.first(x[:, :2])
    return model.first(x)  # type: ignore[no-any-return]


def probed(model: Does, x: Tensor) -> Tensor:
    measure(model.first, x)
    with Probe(model.first):
        return model.first(x)  # type: ignore[no-any-return]


def copied(model: Does, x: Tensor) -> Tensor:
    again = pickle.loads(pickle.dumps(model.first))
    return copy.deepcopy(model.first)(x) + again(x)  # type: ignore[no-any-return]


def drawn(model: Does, x: Tensor) -> Tensor:
    return model.first(x) + torch.randn(5) + random.random()  # type: ignore[no-any-return]


def traced(model: Does, x: Tensor) -> Tensor:
    return torch.jit.trace(model.first, x)(x)  # type: ignore[no-any-return,no-untyped-call]


def faked(model: Does, x: Tensor) -> Tensor:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.first(torch.empty(2, 4))
    return model.first(x)  # type: ignore[no-any-return]


NO_NUMBERS = "it holds no numbers of its own"
DOINGS: dict[Callable[[Does, Tensor], Tensor], set[str]] = {
    gradient_inside: {NO_NUMBERS, "no value that is made of it"},
    mapped: {NO_NUMBERS, "no value that is made of it"},
    forward_mode: {NO_NUMBERS},
    other_weights: set(),
    grown: {"never executed"},
    resized: set(),
    swapped: set(),
    inference: set(),
    elsewhere: {"not counted: its calls in other threads"},
    recursive: set(),
    caught: set(),
    probed: set(),
    copied: {"never executed"},
    drawn: set(),
    traced: {"not counted: its calls while torch.jit traced it"},
    faked: {NO_NUMBERS, "no value that is made of it"},
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("how", DOINGS, ids=lambda how: how.__name__)
def test_models_run_on_and_what_was_not_seen_is_told(how: Callable[..., Tensor]) -> None:
    def outcome(run: Callable[[Tensor], Any]) -> tuple[Any, list[Any]]:
        torch.manual_seed(1)
        random.seed(1)
        return run(batch(6, 4)), [torch.get_rng_state().tolist(), random.getstate()]

    alone, end = outcome(Does(how))
    begin = outcome(id)[1]
    for backward in (False, True):
        with Probe(Does(how), backward=backward) as probe:
            y, after = outcome(probe.model)
        assert torch.equal(y, alone)
        assert after == end
        missed = probe.missed()["reason"]
        told = [why for why in missed if not why.startswith("a constant")]
        for known in DOINGS[how]:
            assert any(why.startswith(known) for why in told)
        assert all(why.startswith(tuple(DOINGS[how])) for why in told)
        assert (probe.table()["op"] == "linear").any()

        model = Does(how)
        before = everything(model)
        assert outcome(Probe(model, backward=backward).run)[1] == begin
        now = everything(model)
        assert now["values"] == before["values"] if how is resized else now == before


def test_modules_that_come_in_a_pass_are_measured() -> None:
    with Probe(Does(grown), backward=True) as probe:
        probe.model(batch(6, 4)).sum().backward()
    table = probe.table()
    new = table[table["name"].str.startswith("new.0") & (table["op"] == "linear")]
    assert new["name"].tolist() == ["new.0"] * 2 + ["new.0.weight"] * 2 + ["new.0.bias"] * 2
    assert (table["op"] == "input").sum() == 1


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), StopIteration(), OSError()]
)
def test_whatever_a_pass_raises_comes_out(error: BaseException) -> None:
    def raises(model: Does, x: Tensor) -> Tensor:
        model.buffer.add_(1)
        raise error

    model = Does(raises)
    before = everything(model)
    with pytest.raises(type(error)):
        measure(model, batch(6, 4), backward=True)
    assert everything(model) == before
    assert torch._C._len_torch_function_stack() == 0
    assert all(p._backward_hooks is None for p in model.parameters())


def test_a_model_is_traced_exported_and_copied_while_it_is_probed() -> None:
    model, x = small().eval(), batch(6, 4)
    y = model(x)
    with Probe(model, backward=True) as probe:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            made = [torch.jit.trace(model, x)]  # type: ignore[no-untyped-call]
        made += [torch.export.export(model, (x,)).module(), copy.deepcopy(model)]
        made += [pickle.loads(pickle.dumps(model))]
        assert all(torch.equal(other(x), y) for other in made)
        for name, q in made[2].named_parameters():
            assert q._backward_hooks is None, name
        model(x)
    assert (probe.table()["count"] <= x.numel()).all()
    assert "not counted: its calls while torch.jit traced it" in set(probe.missed()["reason"])


def test_probes_of_several_threads_and_tasks() -> None:
    """They may end in any order, and see their own passes."""
    x, own = batch(6, 4), ["requires_grad", "no_grad"]  # `measure` needs no gradients
    alone = measure(small().eval(), x).drop(columns=own)

    def watched(model: nn.Module) -> Probe:
        with Probe(model) as probe:
            model(x)
        return probe

    async def waiting(first: float, last: float) -> Probe:
        model = small().eval()
        with Probe(model) as probe:
            await asyncio.sleep(first)
            model(x)
            await asyncio.sleep(last)
        return probe

    async def together() -> tuple[Probe, ...]:
        return await asyncio.gather(waiting(0.01, 0), waiting(0, 0.04), waiting(0.03, 0))

    with ThreadPoolExecutor(4) as pool:
        probes = list(pool.map(watched, [small().eval() for _ in range(4)]))
    for probe in [*probes, *asyncio.run(together())]:
        assert probe.table().drop(columns=own).equals(alone)
        assert probe.missed().empty
    model = small().eval()
    with Probe(model) as around, ThreadPoolExecutor(2) as pool:
        list(pool.map(model, [x, x]))
        model(x)
    assert around.table().drop(columns=own).equals(alone)
    assert around.missed()["name"].tolist() == ["Sequential"]
    assert torch._C._len_torch_function_stack() == 0


def test_compiled_models_are_compiled_again_once_all_probes_have_ended() -> None:
    before = torch._dynamo.eval_frame._stance
    first, second = Probe(small()), Probe(small())
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance == before


# memory


def probed_once(kind: str) -> Probe:
    model, x = small(), batch(6, 4)
    if kind == "training":
        return Trained(watched=True, model=model).probe
    probe = Probe(model, backward=kind != "values", spectra=kind == "spectra")
    if kind == "error":
        model[3] = nn.Linear(9, 3)
        with suppress(RuntimeError):
            probe.run(x)
    else:
        probe.run(x)
    probe.table()
    return probe


def test_accumulators_go_with_their_probe() -> None:
    """No cycle of references keeps them until the garbage collector runs."""
    kinds = ["values", "gradients", "spectra", "error", "training"]
    for kind in kinds:
        probed_once(kind)  # what torch loads at its first use may hold frames
    gc.collect()
    gc.disable()
    try:
        for kind in kinds:
            probe = probed_once(kind)
            slots = probe._recorder.slots.values()
            kept = [ref(moments) for slot in slots for moments in slot.current.values()]
            assert len(kept) > 3
            del probe, slots
            assert [one() for one in kept] == [None] * len(kept), kind
    finally:
        gc.enable()


GROWS = """
import resource, torch
from torch import nn
from initstats.probe import heap, measure

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
heap.GROWTH = 2**22
model = nn.Sequential(*[layer for _ in range(60) for layer in (nn.Linear(32, 32), nn.ReLU())])
x = torch.randn(8000, 32)
measure(nn.Sequential(nn.Linear(32, 32), nn.ReLU()), x[:600])
with torch.no_grad():
    model(x)
before = peak()
measure(model, x)
once = peak()
measure(model, x)
print(once - before, peak() - once)
"""


@pytest.mark.skipif(_trimming() is None or not resident(), reason="the heap is not glibc's")
def test_memory_does_not_grow_with_the_layers() -> None:
    """If no gaps are given back, it grows by nearly all values, 123 MB, where one takes 1 MB."""
    done = subprocess.run([sys.executable, "-c", GROWS], capture_output=True, check=True)
    first, second = map(int, done.stdout.split())
    assert first < 60e6
    assert second < 20e6
