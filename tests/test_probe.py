from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import random
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import initstats as ist
from initstats.moments import STATISTICS, Moments
from initstats.probe import Probe, measure
from initstats.probe.objective import sent_back
from initstats.probe.slots import tiles_of

SIZED = ("mean", "unit_mean_std", "unit_std_std")


def by_hand(x: Tensor, axis: int = -1) -> dict[str, float]:
    """Statistics of all entries in float64, each by its definition."""
    x = x.detach().double()
    units = x.movedim(axis, 0).flatten(1) if x.ndim > 1 else x.reshape(-1, 1)
    centred = x - x.mean()
    spread = centred.square().mean()
    dead = (units.amin(1) == units.amax(1)).double()
    pairs = units.shape[1] > 1
    n = units.shape[1]
    own = units.square().sum(1)
    correlation = (units.sum(1).square() - own).mean() / max(n - 1, 1) / own.mean()
    return {
        "count": x.numel(),
        "nonfinite": 0,
        "infinite": 0,
        "mean": x.mean().item(),
        "std": x.std().item() if x.numel() > 1 else float("nan"),
        "second_moment": x.square().mean().item(),
        "abs_mean": x.abs().mean().item(),
        "skewness": (centred.pow(3).mean() / spread**1.5).item(),
        "kurtosis": (centred.pow(4).mean() / spread**2 - 3).item(),
        "min": x.min().item(),
        "max": x.max().item(),
        "negative_fraction": (x < 0).double().mean().item(),
        "zero_fraction": (x == 0).double().mean().item(),
        "dead_fraction": dead.mean().item() if pairs else float("nan"),
        "unit_mean_std": units.mean(1).std(correction=0).item(),
        "unit_std_mean": units.std(1, correction=0).mean().item(),
        "unit_std_std": units.std(1, correction=0).std(correction=0).item(),
        "sample_correlation": correlation.item() if pairs else float("nan"),
    }


def check(row: pd.Series[Any], x: Tensor, axis: int = -1) -> None:
    """A row of the table holds the statistics of a tensor."""
    for name, value in by_hand(x, axis).items():
        # in the end float32 products: relative to the size of what is measured
        size = float(x.detach().abs().max()) if name in SIZED else 0
        size = 1 if name in ("skewness", "kurtosis", "sample_correlation") else size
        assert row[name] == pytest.approx(value, rel=2e-6, abs=2e-6 * size, nan_ok=True), name


def one(table: pd.DataFrame, **keys: Any) -> pd.Series[Any]:
    """The only row with these keys; forward unless said otherwise."""
    keys = {"direction": "forward", **keys}
    found = table[np.logical_and.reduce([table[key] == value for key, value in keys.items()])]
    assert len(found) == 1, f"{len(found)} rows for {keys}"
    return found.iloc[0]


def uneven(*shape: int, seed: int = 0) -> Tensor:
    """Entries whose mean differs by sample and by feature: what i.i.d. data would hide."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x = x + torch.arange(shape[0], dtype=torch.float32).view(-1, *[1] * (len(shape) - 1))
    return x * torch.linspace(0.5, 2.0, shape[-1])


class Functional(nn.Module):
    """All that tools with hooks on modules miss."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = F.relu(self.norm(self.conv(x)))
        h = h.mean([2, 3])
        h = h + self.act(self.fc(h))
        residual = self.act(self.fc(h)) * self.scale
        residual += h
        h = residual
        attention = (h @ h.t()).softmax(-1)
        return {"y": torch.cat([attention @ h, torch.tanh(h)], 1), "none": None, "n": 3}


def test_every_operation_as_by_hand() -> None:
    torch.manual_seed(0)
    model, x = Functional(), uneven(5, 3, 7, 8)
    twin = copy.deepcopy(model)
    table = measure(model, x, backward=True)

    # the same expressions, written again, each value kept
    def kept(value: Tensor) -> Tensor:
        value.retain_grad()
        values.append(value)
        return value

    values: list[Tensor] = []
    h = kept(twin.conv(x))
    h = kept(twin.norm(h))
    h = kept(F.relu(h))
    h = kept(h.mean([2, 3]))
    f = kept(twin.fc(h))
    r = kept(torch.relu(f))
    h = kept(h + r)
    f = kept(twin.fc(h))
    r = kept(torch.relu(f))
    r = kept(r * twin.scale)
    h = kept(h + r)
    a = kept(h @ h.t())
    a = kept(a.softmax(-1))
    b = kept(a @ h)
    t = kept(torch.tanh(h))
    y = kept(torch.cat([b, t], 1))
    torch.autograd.backward(y, torch.randn(y.shape, generator=sent_back()))

    rows = table[table["tensor"] != "weight"]
    expected = "conv2d batch_norm relu mean linear relu_ add linear relu_ mul add_ matmul softmax"
    forward = rows[(rows["direction"] == "forward") & (rows["layer"] > 0)]
    assert forward["op"].tolist() == [*expected.split(), "matmul", "tanh", "cat"]
    assert forward["layer"].tolist() == list(range(1, 17))
    calls = forward.set_index("layer")
    assert calls.loc[[5, 6, 8, 9], "name"].tolist() == ["fc", "act", "fc", "act"]
    assert calls.loc[[5, 6, 8, 9], "call"].tolist() == [1, 1, 2, 2]
    assert set(calls.loc[[3, 4, 7, 10, 11, 12], "name"]) == {"Functional"}
    assert " ".join(calls["inputs"]) == "0 1 2 3 4 5 4,6 7 8 9 10,7 11 12 13,11 11 14,15"
    for layer, value in enumerate(values, 1):
        axis = 1 if layer <= 3 else -1
        check(one(table, layer=layer, tensor=calls.loc[layer, "tensor"]), value, axis)
        assert value.grad is not None
        back = one(table, layer=layer, tensor=calls.loc[layer, "tensor"], direction="backward")
        check(back, value.grad, axis)
    check(one(table, op="input"), x, 1)
    for name, parameter in twin.named_parameters():
        check(one(table, name=name), parameter, 0)
        assert parameter.grad is not None
        if parameter.grad.abs().max() > 1e-5:  # elsewhere it is rounding
            check(one(table, name=name, direction="backward"), parameter.grad, 0)
    preactivations = table.loc[table["tensor"] == "preactivation", "op"].unique()
    assert preactivations.tolist() == ["conv2d", "batch_norm", "linear", "mul"]


def test_columns() -> None:
    table = measure(nn.Linear(3, 2), uneven(5, 3))
    keys = "network step mode layer name op call tensor direction inputs shape dtype unit_axis"
    keys += " units entries requires_grad no_grad updated update_ratio"
    keys += " gain factor low high saturated_fraction shut_fraction fan_in fan_out sigma_w2"
    keys += " normalized shares_axis summed_axis paired paired_terms draws unregistered"
    keys += " read_as_logits"
    assert table.columns.tolist() == [*keys.split(), *STATISTICS]
    row = one(table, tensor="preactivation")
    assert row[["network", "name", "shape", "dtype", "unit_axis"]].tolist() == [
        "Linear",
        "Linear",
        "5x2",
        "float32",
        1,
    ]
    assert table["count"].dtype == np.int64


# it changes nothing


def state(model: nn.Module) -> dict[str, Any]:
    """Whatever a measurement could leave behind, on the model and in the world."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    hook_names = [name for name in vars(torch_module) if name.startswith("_global_")]
    return {
        "values": {name: pickle.dumps(t.detach().numpy()) for name, t in tensors.items()},
        "identities": {name: (id(t), id(t.grad)) for name, t in tensors.items()},
        "gradients": [None if t.grad is None else t.grad.clone() for t in tensors.values()],
        "tensor hooks": [t._backward_hooks for t in tensors.values()],
        "requires grad": [t.requires_grad for t in tensors.values()],
        "attributes": [
            {key: repr(value) for key, value in vars(m).items() if key != "_buffers"}
            for m in model.modules()
        ],
        "forwards": [m.forward.__func__ for m in model.modules()],  # type: ignore[attr-defined]
        "global hooks": {name: repr(getattr(torch_module, name)) for name in hook_names},
        "modes": torch._C._len_torch_function_stack(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "torch random": torch.get_rng_state().tolist(),
        "python random": random.getstate(),
        "numpy random": repr(np.random.get_state()),  # noqa: NPY002
    }


def same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(before, after)
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[k], after[k]) for k in before)
    if isinstance(before, list):
        return len(before) == len(after) and all(map(same, before, after))
    return bool(before == after)


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for what in before:
        assert same(before[what], after[what]), what


class Noisy(nn.Module):
    """Draws from every random state, moves buffers, and may raise half-way."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)
        self.fails = ""

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x) * random.random() + float(np.random.rand())  # noqa: NPY002
        if self.fails == "python":
            raise KeyError("half-way")
        if self.fails == "torch":
            x = F.relu(x) @ x
        out: Tensor = self.head(x)
        return out


@pytest.fixture
def noisy() -> nn.Module:
    torch.manual_seed(1)
    model = Noisy()
    x = uneven(6, 4)
    model(x).sum().backward()  # gradients that must stay
    model.head.register_forward_hook(lambda *_: None)  # hooks, too
    model.head.weight.register_hook(lambda g: g)  # type: ignore[no-untyped-call]
    model.body[2].eval()
    model.head.bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("backward", [False, True])
def test_measure_changes_nothing(noisy: nn.Module, backward: bool) -> None:
    x = uneven(6, 4).requires_grad_()
    before = state(noisy)
    assert len(measure(noisy, x, backward=backward)) > 5
    assert_same(before, state(noisy))
    assert x.grad is None
    assert x._backward_hooks is None


@pytest.mark.parametrize("fails", ["python", "torch"])
def test_nothing_stays_when_the_forward_raises(noisy: nn.Module, fails: str) -> None:
    noisy.fails = fails  # type: ignore[assignment]
    before = state(noisy)
    with pytest.raises((KeyError, RuntimeError)) as caught:
        measure(noisy, uneven(6, 4), backward=True)
    assert_same(before, state(noisy))
    place = "raised in matmul of Noisy" if fails == "torch" else "raised in Noisy"
    assert caught.value.__notes__[-1].startswith(place)
    ran = caught.value.table["op"].tolist()  # type: ignore[attr-defined]
    assert "batch_norm" in ran
    assert ("relu" in ran) == (fails == "torch")
    assert "head" not in caught.value.table["name"].tolist()  # type: ignore[attr-defined]


def test_error_names_the_innermost_module() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)))
    with pytest.raises(RuntimeError, match="shapes") as caught, Probe(model):
        model(uneven(2, 3))
    assert caught.value.__notes__[-1].startswith("raised in linear of 1.1;")
    assert caught.value.table["op"].tolist()[-1] == "relu"  # type: ignore[attr-defined]


def test_probe_only_watches(noisy: nn.Module) -> None:
    """What the user's own pass and backward do is what they do without a probe."""
    twin, x = copy.deepcopy(noisy), uneven(6, 4)
    results = []
    for model, probe in ((noisy, Probe(noisy, backward=True)), (twin, None)):
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        model.zero_grad()
        if probe:
            with probe:
                y = model(x)
                y.square().sum().backward()
        else:
            y = model(x)
            y.square().sum().backward()
        assert y._backward_hooks is None
        results.append((y, torch.get_rng_state(), model))
    (y, rng, _), (z, other, _) = results
    assert torch.equal(y, z)
    assert torch.equal(rng, other)
    for (name, p), q in zip(noisy.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
    assert {k: repr(v) for k, v in noisy.state_dict().items()} == {
        k: repr(v) for k, v in twin.state_dict().items()
    }


def test_measure_runs_no_hook_of_an_optimizer() -> None:
    """Accumulating gradients would, where an optimizer steps as they come."""
    model = nn.Linear(3, 2)
    stepped: list[Tensor] = []
    model.weight.register_post_accumulate_grad_hook(stepped.append)  # type: ignore[no-untyped-call]
    measure(model, uneven(4, 3), backward=True)
    assert not stepped


# values are taken when they exist


def test_in_place_operations_cannot_corrupt() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = self.fc(x)
            h.add_(2).mul_(3).sub_(1)
            h[:, 0] = 7.0
            return h

    torch.manual_seed(0)
    model, x = InPlace(), uneven(6, 4)
    table = measure(model, x, backward=True)
    h = model.fc(x)
    shifted = 3 * (h + 2) - 1
    replaced = torch.cat([torch.full((6, 1), 7.0), shifted[:, 1:]], 1)
    g = torch.randn(6, 4, generator=sent_back())
    inside = torch.cat([torch.zeros(6, 1), g[:, 1:]], 1)
    for op, value, gradient in [
        ("linear", h, 3 * inside),
        ("add_", h + 2, 3 * inside),
        ("mul_", 3 * (h + 2), inside),
        ("sub_", shifted, inside),
        ("setitem", replaced, g),
    ]:
        keys = {"op": op, "tensor": "preactivation" if op == "linear" else "activation"}
        check(one(table, **keys), value)
        check(one(table, **keys, direction="backward"), gradient)


@torch.library.custom_op("initstats_tests::double", mutates_args={"x"})
def double(x: Tensor) -> None:
    x.mul_(2)


class Overwrites(nn.Module):
    """Writes to its inputs before anything else reads them."""

    def __init__(self, how: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.how(x, y)
        return torch.sin(x) + torch.sin(y)


OVERWRITING: list[Callable[[Tensor, Tensor], Any]] = [
    lambda x, y: F.relu(x, inplace=True),
    lambda x, y: nn.ReLU(inplace=True)(y),
    lambda x, y: F.dropout(x, 0.5, inplace=True),
    lambda x, y: x.__iadd__(1),
    lambda x, y: x.__ipow__(2),
    lambda x, y: x.mul_(y),
    lambda x, y: x.__setitem__((slice(None), 0), 0.0),
    lambda x, y: torch.exp(x, out=x),
    lambda x, y: x[:, 1:].neg_(),
    lambda x, y: x.T.exp_(),
    lambda x, y: torch._foreach_mul_([x, y], 2.0),
    lambda x, y: x.index_put_((torch.tensor([0]),), torch.tensor(9.0)),
    lambda x, y: torch.ops.aten.exp_.default(y),
    lambda x, y: torch.ops.initstats_tests.double(x),
    lambda x, y: np.exp(x.numpy(), out=x.numpy()),
    lambda x, y: setattr(x, "data", torch.ones(6, 4)),
]
UNREAD: list[Callable[[Tensor, Tensor], Any]] = [
    lambda x, y: torch.add(y, 1, out=x),
    lambda x, y: x.copy_(y),
]


@pytest.mark.parametrize("how", [*OVERWRITING, *UNREAD])
def test_inputs_are_measured_before_they_are_overwritten(how: Callable[..., Any]) -> None:
    x, y = uneven(6, 4) - 0.5, uneven(6, 4) + 0.5
    read = [y.clone()] if how in UNREAD else [x.clone(), y.clone()]
    before = x.clone(), y.clone()
    table = measure(Overwrites(how), (x, y))
    assert not (torch.equal(x, before[0]) and torch.equal(y, before[1]))
    inputs, sines = table[table["op"] == "input"], table[table["op"] == "sin"]
    means = sorted(value.mean().item() for value in read)
    assert sorted(inputs["mean"]) == pytest.approx(means)
    assert sines["mean"].tolist() == pytest.approx([x.sin().mean().item(), y.sin().mean().item()])


def test_what_is_written_without_being_read_is_no_input() -> None:
    class Scratch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.mul(x, 2, out=scratch)
            return nn.init.uniform_(tensor=noise) + scratch

    scratch, noise = torch.full((6, 4), math.nan), torch.full((6, 4), math.nan)
    probe = Probe(Scratch()).run(uneven(6, 4))
    table = probe.table()
    assert table["op"].tolist() == ["input", "mul", "add"]
    assert table["nonfinite"].tolist() == [0, 0, 0]
    assert probe.missed()["op"].tolist() == ["uniform_"]


def by_division(layer: nn.Linear) -> None:
    layer.weight.div_(layer.weight.norm())


def through_data(layer: nn.Linear) -> None:
    layer.weight.data.div_(layer.weight.data.norm())


def as_data(layer: nn.Linear) -> None:
    layer.weight.data = F.normalize(layer.weight.data)


def of_a_row(layer: nn.Linear) -> None:
    layer.weight[0].zero_()


@pytest.mark.parametrize("how", [by_division, through_data, as_data, of_a_row])
def test_weights_are_measured_as_their_layer_used_them(how: Callable[[nn.Linear], None]) -> None:
    class Rewrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                how(self.fc)
            out: Tensor = self.fc(x)
            return out

    x, used = uneven(6, 4), Rewrites()
    used(x)
    table = measure(Rewrites(), x)
    check(one(table, name="fc.weight"), used.fc.weight, axis=0)
    square = used.fc.weight.detach().double().square().mean().item()
    assert one(table, name="fc", op="linear")["sigma_w2"] == pytest.approx(4 * square)


def test_shared_module_keeps_its_calls_apart() -> None:
    torch.manual_seed(0)
    fc = nn.Linear(4, 4)
    model, x = nn.Sequential(fc, nn.Tanh(), fc), uneven(6, 4)
    table = measure(model, x)
    check(one(table, op="linear", tensor="preactivation", call=1), fc(x))
    check(one(table, op="linear", tensor="preactivation", call=2), fc(torch.tanh(fc(x))))
    assert one(table, name="0.weight")["count"] == 16  # once


def test_repeated_operations_keep_their_turns() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(3 * torch.tanh(x))

    x = uneven(5, 3)
    table = measure(Twice(), x)
    first, second = (row for _, row in table[table["op"] == "tanh"].iterrows())
    check(first, x.tanh())
    check(second, (3 * x.tanh()).tanh())


def test_gradients_of_parts() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.fc(x).chunk(2, -1)
            c: Tensor = a + 2 * b
            return c

    table = measure(Parts(), uneven(5, 3), backward=True)
    g = torch.randn(5, 2, generator=sent_back())
    check(one(table, op="chunk", direction="backward"), g)
    check(one(table, op="chunk[1]", direction="backward"), 2 * g)


def test_views_are_folded_away() -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.view(2, 3, 4).transpose(1, 2).contiguous().reshape(-1)[:, None].expand(-1, 3)
            y = y.to(torch.float64).detach().clone().flip(0).squeeze().T
            y = y.unsqueeze_(0).requires_grad_().squeeze(0)
            return F.dropout(y, 0.5, training=False)[None][0]

    assert measure(Views(), uneven(6, 4))["op"].tolist() == ["input"]


def test_parts_are_not_folded() -> None:
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b, _ = x.chunk(3, -1)
            return a * b[:, 1:2] + x.half()[:, :2].float()

    table = measure(Parts(), x := uneven(4, 6))
    expected = "input chunk chunk[1] chunk[2] getitem mul half getitem add"  # float() is exact
    assert table["op"].tolist() == expected.split()
    check(one(table, op="chunk[1]"), x[:, 2:4])


# whose units


def test_unit_axis_follows_the_channels() -> None:
    class Channels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 2)
            self.token = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = F.gelu(self.conv(x))  # (N, 5, H, W)
            h = F.max_pool2d(h, 2) * 2
            h = F.silu(h.permute(0, 2, 3, 1))  # (N, H, W, 5)
            h = torch.sin(h.flatten(1, 2).transpose(1, 2))  # (N, 5, HW)
            h = self.token(h.transpose(1, 2)).tanh()  # (N, HW, 4)
            return torch.relu(h.flatten(1))

    x = uneven(3, 3, 7, 9)
    table = measure(Channels(), x)
    axis = table[table["tensor"] != "weight"].set_index("op")["unit_axis"]
    assert axis.to_dict() == {
        "input": 1,
        "conv2d": 1,
        "gelu": 1,
        "max_pool2d": 1,
        "mul": 1,
        "silu": 3,
        "sin": 1,
        "linear": 2,
        "tanh": 2,
        "relu": 1,
    }
    assert table.set_index("op").loc["relu", "shape"] == "3x48"


def test_unit_axis_can_be_set() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), uneven(5, 6, 4)
    table = measure(model, x, unit_axis={"1": 1})
    check(one(table, op="relu"), model(x), axis=1)
    check(one(table, op="linear", tensor="preactivation"), model[0](x))


def test_weights_know_their_outputs() -> None:
    """Units of a weight are what it makes, however a module keeps it."""

    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 3))
            self.v = nn.Parameter(torch.randn(4, 3))
            self.e = nn.Embedding(7, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(torch.zeros(3), self.e(x), self.w) @ self.v.t()

    table = measure(Transposed(), torch.arange(5))
    axis = table[table["tensor"] == "weight"].set_index("name")["unit_axis"]
    assert axis.to_dict() == {"e.weight": 1, "w": 1, "v": 0}


# batches and steps


def test_batches_are_pooled() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    batches = [uneven(n, 4, seed=n) for n in (1, 7, 3)]
    with Probe(model, backward=True) as probe:
        for x in batches:
            model(x).sum().backward()
    h = model[0](torch.cat(batches))
    table = probe.table()
    check(one(table, op="linear", tensor="preactivation"), h)
    check(one(table, op="relu"), h.relu())
    back = one(table, op="linear", tensor="preactivation", direction="backward")
    check(back, (h > 0).float())
    assert one(table, name="0.weight")["count"] == 20  # the same weights, once
    whole = one(table, name="0.weight", direction="backward")  # the sum of three batches'
    check(whole, model[0].weight.grad, 0)  # type: ignore[arg-type]
    assert table["step"].unique().tolist() == [0]
    assert table["shape"].tolist()[0] == "1x4"  # as first seen


def test_the_same_batch_again_counts_again() -> None:
    model, x = nn.Linear(4, 2), uneven(5, 4).requires_grad_()
    with Probe(model, backward=True) as probe:
        for _ in range(3):
            model(x).sum().backward()
    table = probe.table()
    for direction in ("forward", "backward"):
        assert one(table, op="input", direction=direction)["count"] == 60
        assert one(table, tensor="preactivation", direction=direction)["count"] == 30
        assert one(table, name="weight", direction=direction)["count"] == 8
    assert x._backward_hooks is None


@pytest.mark.parametrize("every", [1, 2])
def test_steps_follow_the_weights(every: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    outputs: list[list[Tensor]] = []
    with Probe(model, backward=True, every=every) as probe:
        for step in range(5):
            outputs.append([])
            for batch in range(2):  # gradients accumulate over two batches
                y = model(uneven(6, 4, seed=10 * step + batch))
                y.square().sum().backward()
                outputs[-1].append(y)
            optimizer.step()
            optimizer.zero_grad()
    table = probe.table()
    measured = list(range(0, 5, every))
    assert table["step"].unique().tolist() == measured
    for step in measured:
        here = table[table["step"] == step]
        check(one(here, op="tanh"), torch.cat(outputs[step]))
        check(one(here, op="tanh", direction="backward"), 2 * torch.cat(outputs[step]))
        assert len(here) == 2 * len(here[here["direction"] == "forward"]) - 1  # input has none
    histograms = probe.histograms()
    assert histograms.groupby("step")["count"].sum().tolist() == (
        table.groupby("step")["count"].sum().tolist()
    )


def test_histograms_hold_every_entry() -> None:
    model, x = nn.Linear(3, 4), uneven(9, 3)
    histograms = Probe(model).run(x).histograms()
    entries = model(x).flatten()
    here = histograms[histograms["tensor"] == "preactivation"]
    for low, high, count in here[["low", "high", "count"]].itertuples(index=False):
        inside = (entries >= low) & (entries <= high)
        assert inside.sum() == count


def test_lengths_that_change_get_rows_of_their_own() -> None:
    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(1, 2)

    model = Scores()
    with Probe(model) as probe:
        for length in (3, 5, 3):
            model(uneven(2, length, 4))
    rows = probe.table().query("op == 'matmul'")
    assert rows["count"].tolist() == [2 * 2 * 9, 2 * 25]


# what is asked


def test_include_and_exclude() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 2))
    x = uneven(4, 3)
    probe = Probe(model, include="0.*", exclude=["*.1"]).run(x)
    names = set(probe.table()["name"])
    assert names == {"0.0", "0.0.weight", "0.0.bias"}
    missed = probe.missed().set_index("name")["reason"]
    assert missed.to_dict() == {"0.1": "excluded", "1": "excluded"}
    assert Probe(model, weights=False).run(x).table()["tensor"].tolist().count("weight") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every=0 was given, 1 or more"),
        ({"include": "encoder.*"}, r"no module's name matches 'encoder.\*'; the modules are: Seq"),
        ({"unit_axis": {"9": 1}}, "no module's name matches '9'"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Probe(nn.Sequential(nn.ReLU()), **arguments)


def test_opens_once() -> None:
    model = nn.Linear(2, 2)
    with Probe(model) as probe:
        pass
    with pytest.raises(RuntimeError, match="opens or runs once"), probe:
        pass
    with pytest.raises(RuntimeError, match="opens or runs once"):
        probe.run(uneven(3, 2))


def test_options_are_attributes() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    probe = Probe(model, include=(name for name in ("0", "1")), exclude="1")
    assert (probe.model, probe.backward, probe.every, probe.exclude) == (model, False, 1, "1")
    assert [probe.selected(name) for name in ("0", "1", "0")] == [True, False, True]
    with pytest.raises(TypeError, match="positional argument"):
        Probe(model, True)  # type: ignore[call-arg]


def test_run_gives_the_probe() -> None:
    model, x = Functional().eval(), uneven(5, 3, 7, 8)
    probe = Probe(model, backward=True)
    assert probe.run(x, loss=lambda y: y["y"].square().sum()) is probe
    again = measure(model, x, backward=True, loss=lambda y: y["y"].square().sum())
    pd.testing.assert_frame_equal(probe.table(), again)
    assert "backward" in probe.table()["direction"].tolist()


@pytest.mark.parametrize(
    ("inputs", "positional"), [((1.0, 2.0), True), ({"a": 1.0, "b": 2.0}, False)]
)
def test_inputs(inputs: Any, positional: bool) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
            assert b is not None
            return a - b

    tensors = {key: torch.full((2, 2), value) for key, value in (("a", 1.0), ("b", 2.0))}
    given = tuple(tensors.values()) if positional else tensors
    assert one(measure(Two(), given), op="sub")["mean"] == -1.0


def test_loss() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2), uneven(5, 3), torch.tensor([0, 1, 1, 0, 1])
    table = measure(model, x, backward=True, loss=lambda out: F.cross_entropy(out, y))
    out = model(x)
    gradient = (out.softmax(-1) - F.one_hot(y, 2)) / 5
    check(one(table, tensor="preactivation", direction="backward"), gradient)


def test_no_gradient_to_send() -> None:
    model = nn.Linear(3, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="no gradient flows back .*are the parameters frozen"):
        measure(model, uneven(2, 3), backward=True)


def test_unit_normal_gradient() -> None:
    table = measure(nn.Linear(3, 200), uneven(100, 3), backward=True)
    row = one(table, tensor="preactivation", direction="backward")
    assert row["second_moment"] == pytest.approx(1, abs=4 * (2 / 20000) ** 0.5)


# what models are made of


@dataclasses.dataclass
class Output:
    y: Tensor
    extra: Any = None


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x) * x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        out: Tensor = gradients[0] * torch.exp(x) * (1 + x)
        return out


def test_custom_autograd_function() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Output:
            y = Square.apply(self.fc(x).tanh())  # type: ignore[no-untyped-call]
            return Output(y, [None, {"a": 1}])

    torch.manual_seed(0)
    model, x = Custom(), uneven(4, 3)
    probe = Probe(model, backward=True).run(x)
    t = model.fc(x).tanh()
    check(one(probe.table(), op="exp"), t.exp())
    check(one(probe.table(), op="mul"), t.exp() * t)
    g = torch.randn(4, 3, generator=sent_back())
    check(one(probe.table(), op="mul", direction="backward"), g)
    check(one(probe.table(), op="tanh", direction="backward"), g * t.exp() * (1 + t))
    missed = probe.missed()
    assert missed[["kind", "op"]].to_numpy().tolist() == [["gradient", "exp"]]
    assert "custom autograd function" in missed["reason"][0]
    assert probe.coverage == "7 of 8 measured"


def test_scripted_module_is_missed() -> None:
    with pytest.warns(DeprecationWarning, match="jit.script"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    model, x = nn.Sequential(nn.Tanh(), scripted, nn.Sigmoid()), uneven(4, 3)
    probe = Probe(model).run(x)
    assert probe.table()["op"].tolist() == ["input", "tanh", "output", "sigmoid"]
    check(one(probe.table(), op="output"), scripted(x.tanh()))
    reasons = probe.missed().set_index("name")["reason"]
    assert "scripted" in reasons["1"]


def test_idle_modules_and_parameters_are_missed() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 3), nn.ModuleList([nn.Linear(3, 3), nn.ReLU()])
            self.forgotten = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(x) + torch.ones(3) * 2
            return y

    probe = Probe(Idle()).run(uneven(4, 3))
    missed = probe.missed()
    assert missed[["kind", "name"]].to_numpy().tolist() == [
        ["tensor", "Idle"],
        ["tensor", "Idle"],
        ["module", "idle.0"],
        ["module", "idle.1"],
        ["parameter", "forgotten"],
    ]
    assert missed["op"].tolist()[:2] == ["ones", "mul"]
    assert missed["reason"].tolist() == [
        "a constant: neither input nor weights reach it",
        "a constant: neither input nor weights reach it",
        "never executed",
        "never executed",
        "no operation used it",
    ]
    assert probe.coverage == "5 of 10 measured"


def test_gradients_that_never_came_are_missed() -> None:
    class Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            self.b(x)
            with torch.no_grad():
                x = self.c(x)
            y: Tensor = self.a(x)
            return y

    missed = Probe(Side(), backward=True).run(uneven(4, 3)).missed()
    assert missed.set_index("name")["reason"].to_dict() == {
        "b": "the loss does not depend on it",
        "c": "made while gradients were off (no_grad, or a custom autograd function)",
    }


def test_fused_attention_says_what_it_hides() -> None:
    torch.manual_seed(0)
    model, x = nn.MultiheadAttention(8, 2, batch_first=True), uneven(3, 5, 8)
    probe = Probe(model, backward=True).run((x, x, x))
    assert probe.missed().empty  # weights were asked for: the plain attention runs
    table = probe.table()
    check(
        one(table, op="linear", tensor="preactivation", name="MultiheadAttention", call=1, layer=1),
        F.linear(x, model.in_proj_weight, model.in_proj_bias).transpose(0, 1),
    )
    q, k, v = F.linear(x, model.in_proj_weight, model.in_proj_bias).chunk(3, -1)

    def heads(t: Tensor) -> Tensor:
        return t.view(3, 5, 2, 4).transpose(1, 2)

    weights = (heads(q) @ heads(k).mT / 2).softmax(-1)
    check(one(table, op="softmax"), weights.flatten(0, 1))
    out = (weights @ heads(v)).transpose(1, 2).flatten(-2)
    check(one(table, name="out_proj.weight"), model.out_proj.weight, 0)
    linear = table[(table["op"] == "linear") & (table["tensor"] == "preactivation")]
    check(linear[linear["direction"] == "forward"].iloc[-1], model.out_proj(out))
    assert (linear["direction"] == "backward").sum() == 2

    fused = Probe(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()).run(x)
    assert fused.missed()["op"].tolist() == ["scaled_dot_product_attention"]
    ops = fused.table()["op"].tolist()
    assert [op for op in ops if op in ("add", "relu", "layer_norm")].count("add") == 2


def test_recurrent() -> None:
    torch.manual_seed(0)
    model, x = nn.LSTM(3, 5, num_layers=2, batch_first=True), uneven(4, 6, 3)
    probe = Probe(model, backward=True).run(x)
    y, (h, c) = model(x)
    generator = sent_back()
    for op, value in (("lstm", y), ("lstm[1]", h), ("lstm[2]", c)):
        row = {"op": op, "tensor": "preactivation"}
        check(one(probe.table(), **row), value)
        sent = torch.randn(value.shape, generator=generator)
        check(one(probe.table(), **row, direction="backward"), sent)
    missed = probe.missed()
    assert "gates" in missed.loc[missed["op"] == "lstm", "reason"].item()
    assert (probe.table()["tensor"] == "weight").sum() == 16


def test_compiled_runs_its_own_code() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.GELU())
    compiled: Any = torch.compile(plain, backend="eager")
    x = uneven(5, 3)
    compiled(x)
    expected, table = measure(plain, x, backward=True), measure(compiled, x, backward=True)
    pd.testing.assert_frame_equal(table, expected)
    counters = torch._dynamo.utils.counters["frames"]["total"]
    compiled(x)
    assert torch._dynamo.utils.counters["frames"]["total"] == counters  # nothing to compile again


def test_compiled_inside_compiles_as_before() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
            self.inner.compile(backend="eager")

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x) * 2
            return y

    table = measure(Half(), uneven(5, 3), backward=True)
    assert table.query("tensor != 'weight' and direction == 'forward'")["op"].tolist() == [
        "input",
        "linear",
        "tanh",
        "mul",
    ]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_counts_once(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.block = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = checkpoint(self.block, self.first(x), use_reentrant=reentrant)
            return y

    torch.manual_seed(0)
    model, x = Checkpointed(), uneven(6, 4)
    with Probe(model, backward=True) as probe:
        model(x).square().sum().backward()
    h = model.block[0](model.first(x))
    table = probe.table()
    check(one(table, op="tanh"), h.tanh())
    check(one(table, name="block.0", op="linear"), h)
    check(one(table, op="tanh", direction="backward"), 2 * h.tanh())
    if reentrant:
        assert probe.missed()["name"].tolist() == ["block.0"]
        assert "gradients were off" in probe.missed()["reason"][0]
    else:
        gradient = 2 * h.tanh() * (1 - h.tanh() ** 2)
        check(one(table, name="block.0", op="linear", direction="backward"), gradient)


def test_autocast() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)), uneven(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        table = measure(model, x, backward=True)
        h = model[0](x)
    row = one(table, op="linear", tensor="preactivation")
    assert row["dtype"] == "bfloat16"
    check(row, h.float())


def test_parametrized_weight_is_a_weight() -> None:
    torch.manual_seed(0)
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    table = measure(nn.Sequential(linear), uneven(5, 4))
    check(one(table, op="_weight_norm", name="0.parametrizations.weight.0"), linear.weight, 0)
    assert one(table, op="linear", name="0")["tensor"] == "preactivation"


def test_lazy_modules() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with Probe(model, backward=True) as probe:
        model(uneven(4, 5)).sum().backward()
    assert one(probe.table(), name="0.weight")["count"] == 15
    assert one(probe.table(), name="0.weight", direction="backward")["count"] == 15


def test_another_thread_is_not_the_probe_s() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with Probe(model) as probe:
        thread = Thread(target=model, args=(torch.ones(1, 2),))
        thread.start()
        thread.join()
    assert probe.table().empty
    reason = "not counted: its calls in other threads"
    assert probe.missed()["reason"].tolist() == [reason]


def test_probes_nest() -> None:
    inner, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), uneven(4, 3)
    model = nn.Sequential(inner, nn.Sigmoid())
    with Probe(model) as whole, Probe(inner) as part:
        model(x)
    assert whole.table()["op"].tolist() == [
        "input",
        "linear",
        "linear",
        "linear",
        "tanh",
        "sigmoid",
    ]
    assert part.table()["op"].tolist() == ["input", "linear", "linear", "linear", "tanh"]
    check(one(whole.table(), op="tanh"), inner(x))


def test_submodules_called_by_themselves_count() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    with Probe(model) as probe:
        torch.sigmoid(model[0](uneven(4, 3)))
        model[0](uneven(2, 3))
    table = probe.table()
    assert table["op"].unique().tolist() == ["input", "linear"]
    assert one(table, op="linear", tensor="preactivation")["count"] == 18


def test_other_modes_see_no_statistics() -> None:
    class Count(TorchFunctionMode):
        seen: Sequence[str] = ()

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.seen = [*self.seen, func.__name__]
            return func(*args, **(kwargs or {}))

    model, x = nn.Linear(2, 2), torch.ones(3, 2)
    with Count() as count:
        model(x)
        alone = list(count.seen)
    with Count() as count, Probe(model):
        model(x)
    assert [name for name in count.seen if name == "linear"] == ["linear"]
    assert len(count.seen) == len(alone)


# awkward numbers


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    x = uneven(6, 4).to(dtype)
    if dtype == torch.float64:
        x = x * 1e-9 + 1e5  # nothing is left of it in float32
    row = one(measure(Negate(), x), op="neg")
    assert row["std"] == pytest.approx(x.double().std().item(), rel=1e-6)
    assert row["mean"] == pytest.approx(-x.double().mean().item(), rel=1e-6)


class Negate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


def test_nonfinite_entries_are_counted() -> None:
    x = torch.tensor([[1.0, float("inf")], [float("nan"), 3.0], [5.0, -float("inf")]])
    row = one(measure(Negate(), x), op="neg")
    assert row[["count", "nonfinite", "infinite"]].tolist() == [6, 3, 2]
    assert row["mean"] == -3.0


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0), (5,), (2, 3, 1, 2, 1)])
def test_shapes(shape: tuple[int, ...]) -> None:
    row = one(measure(Negate(), torch.ones(shape)), op="neg")
    assert row["count"] == torch.ones(shape).numel()


def test_what_has_no_order_is_missed() -> None:
    class Complex(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.fft.fft(x)
            total: Tensor = torch.view_as_real(z).square().sum() + z.abs().sum()
            return total

    probe = Probe(Complex()).run(x := uneven(3, 4))
    missed = probe.missed()
    assert missed["op"].tolist() == ["fft_fft"]
    assert "complex" in missed["reason"][0]
    check(one(probe.table(), op="square"), torch.view_as_real(torch.fft.fft(x)).square())


def test_transforms_are_missed() -> None:
    class Mapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.func.vmap(torch.tanh)(x) * 2

    probe = Probe(Mapped()).run(uneven(3, 4))
    assert "torch.func" in " ".join(probe.missed()["reason"])


# in lines of text


def test_printed_table() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 300), nn.ReLU())
    nn.init.constant_(model[0].bias[:150], -100.0)  # type: ignore[index]
    probe = Probe(model).run(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    lines = str(probe).splitlines()
    assert lines[0].split() == ["layer", "name", "op", "shape", "mean", "std", "dead"]
    assert lines[-1] == "5 of 5 measured"
    assert len(lines) == 5
    layer, name, op, shape, mean, std, bars, dead = lines[3].split()
    assert (layer, name, op, shape, dead) == ("2", "1", "relu", "500x300", "50%")
    row = one(probe.table(), op="relu")
    assert float(mean) == pytest.approx(row["mean"], rel=1e-2)
    assert float(std) == pytest.approx(row["std"], rel=1e-2)
    assert bars.count("█") == 1  # the zeros
    normal = lines[1].split()[6]
    heights = ["▁▂▃▄▅▆▇█".index(bar) for bar in normal]
    assert max(heights[4:8]) == 7
    assert heights[0] < 3 > heights[-1]


def test_printed_table_tells_what_is_not_finite() -> None:
    x = torch.tensor([[1.0, float("inf")], [float("nan"), 3.0]])
    assert str(Probe(Negate()).run(x)).splitlines()[2].endswith("2 not finite")


def test_shown_in_a_notebook() -> None:
    model = nn.Sequential()
    model.add_module("of a name with <b> and more than fifty characters, all of them", Negate())
    probe = Probe(model)
    assert repr(probe) == "<Probe of Sequential: 0 of 1 measured>"
    probe.run(torch.tensor([[1.0, float("inf")], [float("nan"), 3.0]]))
    assert repr(probe) == "<Probe of Sequential: 2 of 2 measured>"
    shown = probe._repr_html_()
    assert "of a name with &lt;b&gt; and more than fifty characters, all of them" in shown
    assert "2 not finite" in shown
    assert shown.endswith("<p>2 of 2 measured</p>")


def test_public_names() -> None:
    assert ist.Probe is Probe
    assert ist.measure is measure


def test_samples_at_positions_are_paired_and_none_with_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 2, 2, 2, generator=generator)
    row = one(Probe(nn.Conv2d(2, 3, 1)).run(images).table(), op="input")
    units = images.double().movedim(1, 0).flatten(1)
    pairs = [(units[:, i] @ units[:, j] / 2).item() for i in range(8) for j in range(8) if i != j]
    expected = float(np.mean(pairs)) / units.square().mean().item()
    assert row["sample_correlation"] == pytest.approx(expected, rel=1e-5)
    # two samples, opposite to each other: not half alike, as their own squares would make them
    x = torch.randn(1, 6, generator=generator)
    table = Probe(nn.Linear(6, 50, bias=False)).run(torch.cat([x, -x])).table()
    assert one(table, tensor="preactivation")["sample_correlation"] == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize("size", [(3, 16, 33, 32), (2, 5, 4096), (2, 9, 8, 16, 16)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_samples_that_are_measured_one_by_one_are_pooled(size: Any, layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator) + torch.arange(size[1]).view(
        -1, *[1] * len(size[2:])
    )
    given = x.movedim(1, -1).contiguous().movedim(-1, 1) if layout == "channels_last" else x
    assert (len(tiles_of(given, 1, None)) > 1) == (layout == "contiguous")
    probe = Probe(nn.ReLU(), unit_axis={"*": 1}).run(given)
    row = one(probe.table(), op="input")
    for name, value in by_hand(x, 1).items():
        assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True), name
    moments = Moments(1, size[1], every=8 if x.numel() > 2**17 else 1)
    moments.add(0, x.movedim(1, 0).flatten(1))
    rows = probe.histograms().query("op == 'input'")
    assert rows["count"].tolist() == moments.histogram[0][moments.histogram[0] > 0].tolist()
