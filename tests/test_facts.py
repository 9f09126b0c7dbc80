"""What a probe's table says of the operations: gains, bounds, fans and axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from initstats import gain
from initstats.diagnosis import diagnose
from initstats.probe import Probe, measure

VALUES = ["activation", "preactivation"]


class Function(nn.Module):
    """A function of the input and of parameters as a module."""

    def __init__(self, function: Callable[..., Any], *parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        self.w = nn.ParameterList(nn.Parameter(p) for p in parameters)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.w)


def last(function: Callable[..., Any], x: Tensor, *parameters: Tensor) -> pd.Series[Any]:
    """The row of the last value that a function makes."""
    table = measure(Function(function, *parameters), x)
    return table[table["tensor"].isin(VALUES)].iloc[-1]


def root_mean_square(phi: Callable[[float], float], kinks: tuple[float, ...]) -> float:
    """sqrt(E phi(z)^2) by an independent quadrature between the kinks."""

    def integrand(z: float) -> float:
        return phi(z) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    edges = [-12.0, *sorted(kinks), 12.0]
    parts = [quad(integrand, a, b, epsabs=1e-12, limit=200)[0] for a, b in pairwise(edges)]
    return math.sqrt(sum(parts))


def relu(z: float) -> float:
    return max(z, 0.0)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


def gelu_tanh(z: float) -> float:
    return z / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


GAINS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[float], float], tuple[float, ...]]] = {
    "leaky": (lambda h: F.leaky_relu(h, 1 / 3), lambda z: z if z > 0 else z / 3, (0,)),
    "leaky module": (nn.LeakyReLU(0.2, inplace=True), lambda z: z if z > 0 else z / 5, (0,)),
    "elu(3)": (lambda h: F.elu(h, 3.0), lambda z: z if z > 0 else 3 * math.expm1(z), (0,)),
    "hardtanh(-3, 3)": (nn.Hardtanh(-3, 3), lambda z: min(max(z, -3), 3), (-3, 3)),
    "softplus(10)": (
        lambda h: F.softplus(h, beta=10),
        lambda z: math.log1p(math.exp(10 * z)) / 10 if z < 2 else z,
        (0, 2),
    ),
    "shifted and clamped": (
        lambda h: (F.leaky_relu(h, 0.1) - 0.4).clamp_(max=2.0),
        lambda z: min((z if z > 0 else z / 10) - 0.4, 2.0),
        (0, 2.4),
    ),
    "written out silu": (lambda h: h * torch.sigmoid(h), lambda z: z * sigmoid(z), ()),
    "gelu by tanh": (lambda h: F.gelu(h, approximate="tanh"), gelu_tanh, ()),
    "written out gelu": (
        lambda h: 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))),
        gelu_tanh,
        (),
    ),
    "squared relu": (lambda h: torch.relu(h) ** 2, lambda z: relu(z) ** 2, (0,)),
    "relu6": (F.relu6, lambda z: min(relu(z), 6), (0, 6)),
    "threshold": (nn.Threshold(0.1, 20), lambda z: z if z > 0.1 else 20, (0.1,)),
    "where": (lambda h: torch.where(h > 0, h, 0.1 * h), lambda z: z if z > 0 else z / 10, (0,)),
    "where zeros": (lambda h: torch.where(h > 0, h, torch.zeros_like(h)), relu, (0,)),
    "times a mask": (lambda h: h * (h > 0), relu, (0,)),
    "times a mask of floats": (lambda h: h * (h > 0).float(), relu, (0,)),
    "one less a mask": (lambda h: h * (1 - (h < 0).to(h.dtype)), relu, (0,)),
    "filled": (lambda h: h.masked_fill(h < 0, -0.5), lambda z: z if z > 0 else -0.5, (0,)),
    "maximum": (lambda h: torch.maximum(h, torch.tensor(0.2)), lambda z: max(z, 0.2), (0.2,)),
    "a branch of its own": (lambda h: h + torch.relu(h), lambda z: z + relu(z), (0,)),
    "reversed": (lambda h: 2 - torch.tanh(h), lambda z: 2 - math.tanh(z), ()),
    "softsign": (F.softsign, lambda z: z / (1 + abs(z)), (0,)),
    "in place": (
        lambda h: h.clone().sub_(0.5).relu_().mul_(2),
        lambda z: 2 * relu(z - 0.5),
        (0.5,),
    ),
    "through half": (lambda h: torch.relu(h.half()).float(), relu, (0,)),
    "reshaped on the way": (
        lambda h: (v := h.view(2, -1).t()).contiguous() * torch.sigmoid(v),
        lambda z: z * sigmoid(z),
        (),
    ),
}


@pytest.mark.parametrize("name", GAINS)
def test_gain_as_by_quadrature(name: str) -> None:
    function, phi, kinks = GAINS[name]
    torch.manual_seed(0)
    x, w = torch.randn(6, 5), torch.randn(8, 5)
    expected = 1 / root_mean_square(phi, kinks)
    alone = last(lambda x: function(x.clone()), x)
    behind = last(lambda x, w: function(F.linear(x, w)), x, w)
    assert [alone["gain"], behind["gain"]] == pytest.approx([expected] * 2, rel=1e-6)


CARRIED: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda h: F.dropout(h, 0.3),
    "dropout2d": lambda h: F.dropout2d(h, 0.3),
    "pool": lambda h: F.max_pool2d(h, 2),
    "pool to one": lambda h: F.adaptive_avg_pool2d(h, 1),
    "mean of positions": lambda h: h.mean((2, 3)),
    "flatten": lambda h: h.flatten(1) * 1.0,
    "permute": lambda h: h.permute(0, 2, 3, 1).contiguous() * 1.0,
    "slice": lambda h: h[:, :, 0],
    "chunk": lambda h: h.chunk(2, 1)[1],
    "upsample": lambda h: F.interpolate(h, scale_factor=2),
    "pad": lambda h: F.pad(h, (1, 1)),
    "strided": lambda h: h.as_strided((4, 2, 4), (96, 16, 1)) * 1.0,
    "strided in place": lambda h: h.as_strided_((4, 96), (96, 1)),
    "cast": lambda h: h.half(),
}


@pytest.mark.parametrize("name", CARRIED)
def test_gain_is_carried_on(name: str) -> None:
    conv = nn.Conv2d(3, 6, 1)
    row = last(lambda x: CARRIED[name](torch.relu(conv(x))), torch.randn(4, 3, 4, 4))
    assert row["gain"] == pytest.approx(math.sqrt(2))


def test_values_of_one_function_side_by_side() -> None:
    a, b = torch.randn(8, 5), torch.randn(8, 5)

    def both(x: Tensor, a: Tensor, b: Tensor, second: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([torch.relu(F.linear(x, a)), second(F.linear(x, b))], 1)

    same = last(lambda x, a, b: both(x, a, b, torch.relu), torch.randn(6, 5), a, b)
    other = last(lambda x, a, b: both(x, a, b, torch.tanh), torch.randn(6, 5), a, b)
    tanh = root_mean_square(math.tanh, ())
    both_squares = (0.5 + tanh**2) / 2  # of as many entries
    assert [same["gain"], other["gain"]] == pytest.approx([math.sqrt(2), both_squares**-0.5])


@pytest.mark.parametrize("dim", [0, 1])
def test_values_of_different_functions_side_by_side(dim: int) -> None:
    """Sines and cosines of one value have squares that sum to 1; others count by their entries."""
    waves = last(lambda x: torch.cat([(2 * x).sin(), (2 * x).cos()], dim), torch.randn(6, 5))
    assert waves["gain"] == pytest.approx(math.sqrt(2))
    uneven = last(
        lambda x: torch.cat([x, x.narrow(1 - dim, 0, 2).relu()], 1 - dim), torch.randn(6, 5)
    )
    count = (2 * (6, 5)[dim], 30)
    square = (count[1] + count[0] / 2) / sum(count)
    assert uneven["gain"] == pytest.approx(square**-0.5)


ROOTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda h, w: F.linear(torch.relu(h), w),
    "written out linear": lambda h, w: torch.relu(h) @ w + w[0],
    "norm": lambda h, w: F.layer_norm(torch.relu(h), (5,)),
    "batch norm": lambda h, w: F.batch_norm(torch.relu(h), torch.zeros(5), torch.ones(5)),
    "softmax": lambda h, w: torch.softmax(torch.relu(h), -1),
    "running sum": lambda h, w: torch.relu(h).cumsum(-1),
    "residual sum": lambda h, w: h + torch.relu(F.linear(h, w)),
    "less its mean": lambda h, w: torch.relu(h) - torch.relu(h).mean(-1, keepdim=True),
    "noise": lambda h, w: torch.relu(h) + torch.randn(6, 5),
    "sorted": lambda h, w: torch.relu(h).sort(-1).values,
}


@pytest.mark.parametrize("name", ROOTS)
def test_gain_is_one_where_no_elementwise_function_made_a_value(name: str) -> None:
    row = last(ROOTS[name], torch.randn(6, 5), torch.randn(5, 5))
    assert row["gain"] == 1
    assert np.isnan([row["low"], row["high"], row["saturated_fraction"]]).all()


def halves(h: Tensor) -> Tensor:
    value, gate = h.chunk(2, -1)
    return value * F.silu(gate)


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda h: F.silu(h[..., :8]) * h[..., 8:],
    "sigmoid in place": lambda h: torch.tanh(h[..., :8]).mul_(torch.sigmoid(h[..., 8:])),
    "halves": halves,
    "glu": F.glu,
    "glu of an activation": lambda h: F.glu(torch.relu(h)),
    "carried on": lambda h: F.dropout(F.gelu(h[..., :8]) * h[..., 8:], 0.0).flatten(),
    "bilinear": lambda h: h[..., :8] * h[..., 8:],
}


@pytest.mark.parametrize("name", GATES)
def test_gain_of_a_gate_is_that_of_independent_values(name: str) -> None:
    """The oracle: the second moment that a gate gives for independent N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    squares = GATES[name](torch.randn(20_000, 16, generator=generator)).square()
    error = squares.std().item() / math.sqrt(squares.numel()) / squares.mean().item()
    row = last(lambda x, w: GATES[name](F.linear(x, w)), torch.randn(4, 5), torch.randn(16, 5))
    assert row["gain"] == pytest.approx(squares.mean().item() ** -0.5, rel=2.5 * error)


def test_gain_begins_anew_behind_each_value() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    table = measure(model, torch.randn(7, 5))
    found = table[table["tensor"].isin(VALUES)].set_index("op")["gain"].round(4)
    assert found.tolist() == [1, 1, 1.5925, 1, 1.4142, 1]


@pytest.mark.parametrize("slopes", [[0.25], [0.0, 0.5, 2.0]])
@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gain_with_slopes(slopes: list[float], functional: bool, dtype: torch.dtype) -> None:
    module = nn.PReLU(len(slopes), dtype=dtype)
    module.weight.data = torch.tensor(slopes, dtype=dtype)
    model = Function(F.prelu, module.weight.data) if functional else nn.Sequential(module)
    table = measure(model, torch.randn(4, 3, 5, dtype=dtype))
    row = table[table["tensor"] == "preactivation"].iloc[0]
    square = sum((1 + slope**2) / 2 for slope in slopes) / len(slopes)
    assert row["gain"] == pytest.approx(1 / math.sqrt(square), rel=1e-9)
    found = gain(module)
    assert found.forward == pytest.approx(1 / math.sqrt(square), rel=1e-9)
    assert found.backward == pytest.approx(1 / math.sqrt(square), rel=1e-9)
    mean = sum(1 - slope for slope in slopes) / len(slopes) / math.sqrt(2 * math.pi)
    assert found.variance == pytest.approx(1 / math.sqrt(square - mean**2), rel=1e-9)


def test_gain_with_parameters_of_one_s_own() -> None:
    """Swish with a slope for every channel, and a rectifier with a learned shift."""
    beta = torch.tensor([0.5, 1.0, 3.0])
    row = last(lambda x, b: x * torch.sigmoid(b[:, None] * x), torch.randn(4, 3, 5), beta)
    squares = [root_mean_square(lambda z, b=b: z * sigmoid(b * z), ()) ** 2 for b in beta.tolist()]  # type: ignore[misc]
    assert row["gain"] == pytest.approx(1 / math.sqrt(sum(squares) / 3), rel=1e-6)
    row = last(lambda x, s: torch.relu(x) - s, torch.randn(4, 3), torch.tensor(0.4))
    assert row["gain"] == pytest.approx(1 / root_mean_square(lambda z: relu(z) - 0.4, (0,)), 1e-6)
    outside = torch.tensor([0.4])
    row = last(lambda x: torch.relu(x) - outside, torch.randn(4, 3))
    assert row["gain"] == pytest.approx(1 / root_mean_square(lambda z: relu(z) - 0.4, (0,)), 1e-6)


def test_gain_follows_the_slope_from_step_to_step() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.PReLU())
    with Probe(model) as probe:
        model(torch.randn(4, 3))
        with torch.no_grad():
            model[1].weight.fill_(1.0)  # type: ignore[operator]
        model(torch.randn(4, 3))
    table = probe.table()
    rows = table[(table["op"] == "prelu") & (table["tensor"] == "preactivation")]
    assert rows["gain"].tolist() == pytest.approx([math.sqrt(2 / (1 + 0.25**2)), 1])


def test_what_cannot_be_known() -> None:
    with pytest.warns(DeprecationWarning, match="jit.script"):
        scripted = torch.jit.script(nn.ReLU())
    table = measure(nn.Sequential(scripted, nn.Tanh(), nn.Linear(3, 2)), torch.randn(4, 3))
    found = table.set_index("op")["gain"]
    assert np.isnan(found[["output", "tanh"]]).all()
    row = last(lambda x: x.reciprocal(), torch.randn(4, 3))  # E 1 / z^2 does not exist
    assert np.isnan(row["gain"])


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (torch.tanh, -1, 1),
        (torch.sigmoid, 0, 1),
        (lambda x: torch.sigmoid(-x), 0, 1),
        (lambda x: 1.7159 * torch.tanh(2 / 3 * x), -1.7159, 1.7159),
        (torch.atan, -math.pi / 2, math.pi / 2),
        (F.softsign, -1, 1),
        (F.relu6, None, 6),
        (nn.Hardtanh(), -1, 1),
        (nn.Hardtanh(-5, 5), -5, 5),
        (F.hardsigmoid, 0, 1),
        (lambda x: F.elu(x, 3.0), -3, None),
        (F.selu, -1.7580993408473766, None),
        (torch.relu, None, None),
        (lambda x: torch.relu(x) - 0.4, None, None),
        (lambda x: F.leaky_relu(x, 0.1), None, None),
        (F.gelu, None, None),
        (F.silu, None, None),
        (torch.sin, None, None),
        (lambda x: x * 3, None, None),
        (lambda x: torch.softmax(x, -1), None, None),
        (lambda x: F.dropout(torch.tanh(x), 0.5), -1, 1),
        (lambda x: torch.heaviside(x, x[:1, :1] * 0), None, None),
        (torch.sign, None, None),
        (lambda x: -F.softplus(x - 5), None, None),
    ],
)
def test_bounds(function: Callable[[Tensor], Tensor], low: float, high: float) -> None:
    row = last(function, torch.randn(6, 5))
    expected = [math.nan if bound is None else bound for bound in (low, high)]
    assert [row["low"], row["high"]] == pytest.approx(expected, rel=1e-5, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("function", "bounds", "middle"),
    [
        (torch.tanh, [-1, 1], 0),
        (torch.sigmoid, [0, 1], 0.5),
        (F.relu6, [6], 0),
        (nn.Hardtanh(-5, 5), [-5, 5], 0),
        (F.elu, [-1], 0),
    ],
)
def test_saturated_fraction_counts_entries(
    function: Callable[[Tensor], Tensor], bounds: list[float], middle: float
) -> None:
    x = torch.linspace(-9, 9, 1001).view(13, 77)
    model = Function(function)
    with Probe(model) as probe:
        for batch in (x[:2], x[2:]):
            model(batch)
    row = probe.table().iloc[-1]
    y = function(x).double()
    distances = [(y - bound).abs() / abs(bound - middle) for bound in bounds]
    at = torch.stack(distances).amin(0) <= 0.01
    assert row["saturated_fraction"] == pytest.approx(at.double().mean().item(), abs=2e-3)
    assert 0.1 < row["saturated_fraction"] < 1


def white(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Packed(nn.Module):
    """Weights of three layers in one parameter, used a third at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(60, 30))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.w.chunk(3)[1])


class Direct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.second = nn.Linear(30, 20, bias=False), nn.Linear(20, 9, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.sign(self.fc.forward(x)), self.second.weight)


def map_of(function: Callable[..., Any], *shape: int) -> nn.Module:
    return Function(function, torch.randn(shape))


MASK = torch.arange(600).view(20, 30) % 3 == 0
LINEAR: dict[str, tuple[Callable[[], nn.Module], Tensor, float, int]] = {
    # a model, its input, the fan-in, the dimension of the weight that counts units
    "linear": (lambda: nn.Linear(30, 20, bias=False), white(9, 30), 30, 0),
    "tokens": (lambda: nn.Linear(30, 20, bias=False), white(3, 7, 30), 30, 0),
    "w @ x": (lambda: map_of(lambda x, w: w @ x, 20, 30), white(30, 40), 30, 0),
    "x @ w": (lambda: map_of(lambda x, w: x @ w, 30, 20), white(40, 30), 30, 1),
    "w @ batch": (lambda: map_of(lambda x, w: w @ x, 20, 30), white(3, 30, 40), 30, 0),
    "vector": (lambda: map_of(lambda x, w: w @ x, 20, 30), white(30), 30, 0),
    "dot by hand": (lambda: map_of(lambda x, w: (x * w).sum(-1), 30), white(40, 30), 30, 0),
    "row by hand": (
        lambda: map_of(lambda x, w: (w * x).sum(-1, keepdim=True), 1, 30),
        white(40, 30),
        30,
        0,
    ),
    "w @ x by hand": (
        lambda: map_of(lambda x, w: (x[:, None] * w).sum(dim=-1), 20, 30),
        white(40, 30),
        30,
        0,
    ),
    "x @ w by hand": (
        lambda: map_of(lambda x, w: torch.sum(w * x[..., None], 1), 30, 20),
        white(40, 30),
        30,
        1,
    ),
    "two dimensions by hand": (
        lambda: map_of(lambda x, w: (x[:, None] * w).sum((2, 3)), 20, 5, 6),
        white(40, 5, 6),
        30,
        0,
    ),
    "mv": (lambda: map_of(lambda x, w: w.mv(x), 20, 30), white(30), 30, 0),
    "transposed": (lambda: map_of(lambda x, w: F.linear(x, w.t()), 30, 20), white(40, 30), 30, 1),
    "addmm": (
        lambda: map_of(lambda x, w: torch.addmm(torch.zeros(20), x, w), 30, 20),
        white(40, 30),
        30,
        1,
    ),
    "baddbmm": (
        lambda: map_of(lambda x, w: torch.baddbmm(torch.zeros(1, 1, 20), x, w), 4, 30, 20),
        white(4, 9, 30),
        30,
        2,
    ),
    "addbmm": (
        lambda: map_of(lambda x, w: torch.addbmm(torch.zeros(1, 20), x, w), 4, 30, 20),
        white(4, 9, 30),
        120,
        2,
    ),
    "experts": (lambda: map_of(lambda x, w: x.bmm(w), 4, 30, 20), white(4, 9, 30), 30, 2),
    "experts on the left": (
        lambda: map_of(lambda x, w: w.bmm(x), 4, 20, 30),
        white(4, 30, 9),
        30,
        1,
    ),
    "one expert": (lambda: map_of(lambda x, w: F.linear(x, w[1]), 3, 20, 30), white(40, 30), 30, 1),
    "chosen experts": (
        lambda: map_of(lambda x, w: x.bmm(w[torch.tensor([0, 2, 2, 1])]), 3, 30, 20),
        white(4, 9, 30),
        30,
        2,
    ),
    "ni,io->no": (
        lambda: map_of(lambda x, w: torch.einsum("ni,io->no", x, w), 30, 20),
        white(40, 30),
        30,
        1,
    ),
    "qp,rp->qr": (
        lambda: map_of(lambda x, w: torch.einsum("qp, rp -> qr", x, w), 20, 30),
        white(40, 30),
        30,
        0,
    ),
    "implicit": (
        lambda: map_of(lambda x, w: torch.einsum("ai,iz", x, w), 30, 20),
        white(40, 30),
        30,
        1,
    ),
    "ellipsis": (
        lambda: map_of(lambda x, w: torch.einsum("...i,oi->...o", x, w), 20, 30),
        white(3, 5, 30),
        30,
        0,
    ),
    "channels first": (
        lambda: map_of(lambda x, w: torch.einsum("bihw,oi->bohw", x, w), 20, 30),
        white(3, 30, 5, 4),
        30,
        0,
    ),
    "heads": (
        lambda: map_of(lambda x, w: torch.einsum("bte,ehd->bthd", x, w), 30, 3, 8),
        white(3, 9, 30),
        30,
        2,
    ),
    "heads together": (
        lambda: map_of(lambda x, w: torch.einsum("bthd,hde->bte", x, w), 3, 8, 30),
        white(3, 9, 3, 8),
        24,
        2,
    ),
    "experts by einsum": (
        lambda: map_of(lambda x, w: torch.einsum("eti,eio->eto", x, w), 4, 30, 20),
        white(4, 9, 30),
        30,
        2,
    ),
    "a sum for each channel": (
        lambda: map_of(lambda x, w: torch.einsum("bci,ci->bc", x, w), 20, 30),
        white(9, 20, 30),
        30,
        0,
    ),
    "tensordot": (
        lambda: map_of(lambda x, w: torch.tensordot(x, w, dims=([1, 2], [1, 0])), 8, 5, 20),
        white(40, 5, 8),
        40,
        2,
    ),
    "chain": (
        lambda: map_of(lambda x, w: torch.linalg.multi_dot([x, w]), 30, 20),
        white(9, 30),
        30,
        1,
    ),
    "chain from the left": (
        lambda: map_of(lambda x, w: torch.linalg.multi_dot([w, x]), 20, 30),
        white(30, 9),
        30,
        0,
    ),
    "bilinear": (
        lambda: map_of(lambda x, w: F.bilinear(x[:, :12], x[:, 12:], w), 20, 12, 18),
        white(50, 30),
        216,
        0,
    ),
    "scaled": (
        lambda: map_of(lambda x, w: F.linear(x, w * 0.1), 20, 30),
        white(40, 30),
        30,
        0,
    ),
    "scaled and turned": (
        lambda: map_of(lambda x, w: x @ (w / math.sqrt(30)), 30, 20),
        white(40, 30),
        30,
        1,
    ),
    "masked": (lambda: map_of(lambda x, w: F.linear(x, w * MASK), 20, 30), white(40, 30), 30, 0),
    "standardized": (
        lambda: map_of(
            lambda x, w: F.linear(x, (w - w.mean(1, True)) / w.std(1, keepdim=True)), 20, 30
        ),
        white(40, 30),
        30,
        0,
    ),
    "packed": (Packed, white(40, 30), 30, 0),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(30, 20, bias=False)),
        white(40, 30),
        30,
        0,
    ),
    "pruned": (
        lambda: prune.l1_unstructured(nn.Linear(30, 20, bias=False), "weight", 0.5),  # type: ignore[no-untyped-call]
        white(40, 30),
        30,
        0,
    ),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, stride=2, bias=False), white(5, 6, 41), 18, 0),
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, dilation=2, bias=False), white(5, 6, 12, 12), 54, 0),
    "conv3d": (lambda: nn.Conv3d(4, 8, 2, bias=False), white(2, 4, 6, 6, 6), 32, 0),
    "groups": (lambda: nn.Conv2d(6, 9, 3, groups=3, bias=False), white(5, 6, 12, 12), 18, 0),
    "depthwise": (lambda: nn.Conv2d(40, 40, 3, groups=40, bias=False), white(5, 40, 9, 9), 9, 0),
    "unbatched": (lambda: nn.Conv2d(6, 8, 3, bias=False), white(6, 22, 22), 54, 0),
    "transposed conv": (
        lambda: nn.ConvTranspose2d(12, 10, 4, stride=2, padding=3, bias=False),
        white(5, 12, 20, 20),
        48,
        1,
    ),
    "transposed by an odd kernel": (
        lambda: nn.ConvTranspose1d(12, 10, 3, stride=2, padding=2, bias=False),
        white(5, 12, 300),
        18,
        1,
    ),
    "transposed in groups": (
        lambda: nn.ConvTranspose2d(12, 10, 4, stride=2, padding=3, groups=2, bias=False),
        white(5, 12, 20, 20),
        24,
        1,
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_fan_in_by_measuring(name: str) -> None:
    """White inputs: the output's second moment is sigma_w2, for a draw of the inputs on average."""
    make, x, fan_in, axis = LINEAR[name]
    torch.manual_seed(0)
    model = make()
    table = measure(model, x)
    made = table[table["tensor"].isin(VALUES) & (table["op"] != "getitem")].iloc[-1]
    assert made["fan_in"] == fan_in
    with torch.no_grad():
        draws = [torch.randn(x.shape) for _ in range(64)]
        squares = torch.stack([model(draw).double().square().mean() for draw in draws])
    error = (squares.std() / 8).item()
    assert abs(squares.mean().item() - made["sigma_w2"]) < 5 * error
    assert error < 0.15 * made["sigma_w2"]
    rows = table[(table["tensor"] == "weight") & table["fan_in"].notna()]
    assert len(rows) == 1, "only the parameter itself"
    weight = rows.iloc[0]
    assert weight["sigma_w2"] == pytest.approx(made["sigma_w2"])
    assert (weight["fan_in"], weight["unit_axis"]) == (fan_in, axis)
    shape = dict(model.named_parameters())[weight["name"]].shape
    assert weight["units"] == shape[axis]
    assert weight["entries"] == math.prod(shape) / shape[axis]


@pytest.mark.parametrize(
    ("equation", "shape", "fan_out"),
    [("bi,ihd->bhd", (12, 3, 4), 12), ("bi,hid->bhd", (3, 12, 4), 12), ("bi,io->bo", (12, 5), 5)],
)
def test_fan_out_counts_all_units_that_read_an_input(
    equation: str, shape: tuple[int, ...], fan_out: int
) -> None:
    row = last(lambda x, w: torch.einsum(equation, x, w), torch.randn(7, 12), torch.randn(shape))
    assert (row["fan_in"], row["fan_out"]) == (12, fan_out)


SCALES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "one factor": lambda x, w: (x * w[:1]).sum(-1),
    "over samples": lambda x, w: (x * w).sum(0),
    "of everything": lambda x, w: (x * w).sum(),
    "of another value": lambda x, w: (x * w).relu().sum(-1),
}


@pytest.mark.parametrize("name", SCALES)
def test_a_sum_of_what_was_only_scaled_is_no_product(name: str) -> None:
    table = measure(map_of(SCALES[name], 30), white(40, 30))
    assert table["fan_in"].isna().all()


def test_fans_outside_of_a_module_s_call() -> None:
    torch.manual_seed(0)
    table = measure(Direct(), torch.randn(9, 30)).set_index("name")
    assert table.loc["fc.weight", "fan_in"] == 30
    assert table.loc["second.weight", "fan_in"] == 20
    made = table[(table["tensor"] == "preactivation")]
    assert made["fan_in"].tolist() == [30, 20]


def test_fans_of_gates_are_those_of_each_matrix() -> None:
    for layer in (nn.LSTM(3, 5, num_layers=2), nn.GRU(3, 5, bidirectional=True), nn.RNNCell(3, 5)):
        table = measure(layer, torch.randn(7, 3))
        weights: Any = table[table["tensor"] == "weight"].set_index("name")
        for name, parameter in layer.named_parameters():
            fan_in = parameter.shape[1] if parameter.ndim == 2 else math.nan
            found = weights.loc[name, ["fan_in", "sigma_w2"]].tolist()
            square = parameter.double().square().mean().item()
            assert found == pytest.approx([fan_in, fan_in * square], rel=1e-6, nan_ok=True)
        assert table[table["tensor"] == "preactivation"]["fan_in"].isna().all()


def test_fans_of_packed_attention() -> None:
    model = nn.MultiheadAttention(16, 4, kdim=6, vdim=10, batch_first=True)
    x = (torch.randn(4, 5, 16), torch.randn(4, 5, 6), torch.randn(4, 5, 10))
    table = measure(model, x)
    fans = table[table["tensor"] == "weight"].set_index("name")["fan_in"].dropna()
    assert fans.to_dict() == {
        "q_proj_weight": 16,
        "k_proj_weight": 6,
        "v_proj_weight": 10,
        "out_proj.weight": 16,
    }
    packed = measure(nn.MultiheadAttention(16, 4), (torch.randn(5, 4, 16),) * 3)
    row = packed[packed["name"] == "in_proj_weight"].iloc[0]
    assert row[["fan_in", "units"]].tolist() == [16, 48]
    other = measure(nn.MultiheadAttention(16, 4), tuple(torch.randn(5, 4, 16) for _ in range(3)))
    row = other[other["name"] == "in_proj_weight"].iloc[0]
    assert row[["fan_in", "units"]].tolist() == [16, 48]


def test_no_fan_where_nothing_is_summed() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.PReLU())
    assert measure(model, torch.arange(9))["fan_in"].isna().all()


def test_tied_weights_have_the_fan_of_the_map() -> None:
    table = last_table = measure(
        Function(lambda x, w: F.linear(F.embedding(x, w), w), torch.randn(50, 16)), torch.arange(50)
    )
    weight = table[table["tensor"] == "weight"].iloc[0]
    assert weight[["op", "fan_in"]].tolist() == ["embedding", 16]
    assert last_table.iloc[-1]["sigma_w2"] == pytest.approx(weight["sigma_w2"])


AXES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], int]] = {
    # what is done to the output of a convolution of 8 channels; the units' dimension afterwards
    "contiguous": (lambda h: h.permute(0, 2, 3, 1).contiguous(), (8, 8), 3),
    "channels last": (lambda h: h.contiguous(memory_format=torch.channels_last), (8, 8), 1),
    "there and back": (lambda h: h.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), (8, 8), 1),
    "moved": (lambda h: h.movedim(1, 0).clone(), (8, 8), 0),
    "transposed twice": (
        lambda h: h.transpose(1, 2).transpose(2, 3).reshape(4, 8, 8, 8),
        (8, 8),
        3,
    ),
    "tokens": (lambda h: h.flatten(2).transpose(1, 2), (8, 1), 2),
    "merged": (lambda h: h.flatten(1), (5, 5), 1),
    "merged in front": (lambda h: h.permute(0, 2, 3, 1).reshape(-1, 8), (8, 8), 1),
    "split": (lambda h: h.reshape(4, 8, 2, 4, 8), (8, 8), 1),
    "pixel_shuffle": (lambda h: F.pixel_shuffle(h, 2), (8, 8), 1),
    "pixel_unshuffle": (lambda h: F.pixel_unshuffle(h, 2), (8, 8), 1),
    "channel_shuffle": (lambda h: F.channel_shuffle(h, 4), (8, 8), 1),
    "squeezed": (lambda h: h[..., 0], (8, 8), 1),
    "a sample": (lambda h: h[0], (8, 8), 0),
    "new dimension": (lambda h: h[:, None], (8, 8), 2),
    "stacked": (lambda h: torch.stack([h, h]), (8, 8), 2),
    "mean over positions": (lambda h: h.mean((2, 3)), (8, 8), 1),
    "mean over samples": (lambda h: h.mean(0), (8, 8), 0),
    "largest": (lambda h: h.amax(-1), (8, 8), 1),
    "unfolded": (lambda h: F.unfold(h, 2), (8, 8), 1),
    "transposed in place": (lambda h: h.transpose_(0, 1), (8, 8), 0),
    "swapped in place": (lambda h: h.swapaxes_(1, 3), (8, 8), 3),
    "turned in place": (lambda h: h[..., 0, 0].t_(), (8, 8), 0),
    "longer in place": (lambda h: h.unsqueeze_(0), (8, 8), 2),
    "shorter in place": (lambda h: h[:1].squeeze_(0), (8, 8), 0),
}


@pytest.mark.parametrize("name", AXES)
def test_units_follow_the_computation(name: str) -> None:
    """Half of the channels are dead, and stay the dead half, wherever they are moved."""
    change, size, axis = AXES[name]
    conv = nn.Conv2d(3, 8, 1)
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([-100.0] * 4 + [100.0] * 4))  # type: ignore[union-attr]
    table = measure(Function(lambda x: torch.relu(change(conv(x)))), torch.randn(4, 3, *size))
    row = table[table["op"] == "relu"].iloc[0]
    assert (row["unit_axis"], row["dead_fraction"]) == (axis, 0.5)
    sizes = [int(n) for n in row["shape"].split("x")]
    assert (row["units"], row["entries"]) == (sizes[axis], math.prod(sizes) // sizes[axis])


def test_one_channel_keeps_its_place() -> None:
    conv = nn.Conv2d(3, 1, 1)
    table = measure(Function(lambda x: conv(x).permute(0, 2, 3, 1) * 2), torch.randn(4, 3, 5, 5))
    assert table.iloc[-1]["unit_axis"] == 3


def test_two_modules_of_one_name_are_two() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.Linear, self.w = nn.Linear(5, 5), nn.Parameter(torch.randn(5, 5) * 10)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.Linear(x), self.w)

    model, x = Linear(), torch.randn(9, 5)
    table = measure(model, x)
    rows = table[table["tensor"] == "preactivation"]
    expected = [model.Linear(x).std().item(), model(x).std().item()]
    assert rows["std"].tolist() == pytest.approx(expected, rel=1e-5)
    assert rows["name"].is_unique


def test_facts_leave_random_states_alone() -> None:
    def noisy(x: Tensor) -> Tensor:
        h = torch.dropout(torch.rrelu(x, 0.1, 0.3, True), 0.25, True)
        return h + torch.empty_like(h).normal_()

    torch.manual_seed(3)
    expected = noisy(x := torch.ones(4, 5))
    model = Function(noisy)
    torch.manual_seed(3)
    with Probe(model):
        found = model(x)
    assert torch.equal(found, expected)


def test_random_functions_are_not_known() -> None:
    row = last(lambda x: torch.relu(torch.rrelu(x, 0.1, 0.3, True)), torch.randn(4, 5))
    assert np.isnan(row["gain"])
    row = last(lambda x: torch.rrelu(x, 0.1, 0.3, False), torch.randn(4, 5))
    assert row["gain"] == pytest.approx(math.sqrt(2 / (1 + 0.2**2)))


def test_rows_that_are_looked_up_are_no_weights_of_the_map_behind_them() -> None:
    index = torch.arange(7)
    table = measure(
        Function(lambda x, e, w: F.linear(e[x], w), torch.randn(9, 5), torch.randn(6, 5)), index
    )
    fans = table.dropna(subset="fan_in").set_index("name")["fan_in"]
    assert fans.to_dict() == {"Function": 5, "w.1": 5}
    attended = measure(Function(lambda x, e: e[x] @ e[x].t(), torch.randn(9, 5)), index)
    assert attended["fan_in"].isna().all()


class Recurrent(nn.Module):
    """Sentences of several lengths, packed, through a recurrent layer in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(5, 4, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(torch.tanh(x), lengths, True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.body(packed)[0], batch_first=True)
        made: Tensor = self.head(out)
        return made


def test_packed_sequences() -> None:
    """Torch does not check what it is given to unpack: other numbers would end the process."""
    x, lengths = torch.randn(6, 9, 5), torch.tensor([9, 2, 7, 7, 1, 4])
    model = Recurrent()
    table = measure(model, (x, lengths))
    values = table[table["tensor"].isin(VALUES)].set_index("op")
    chosen = torch.cat([row[:length] for row, length in zip(x, lengths.tolist(), strict=True)])
    row = values.loc[["_pack_padded_sequence"]].iloc[0]
    assert row["count"] == chosen.numel()
    assert row["std"] == pytest.approx(chosen.double().tanh().std().item(), rel=1e-6)
    assert row["gain"] == pytest.approx(1 / root_mean_square(math.tanh, ()), rel=1e-5)
    made = model(x, lengths).double()
    assert values["std"]["linear"] == pytest.approx(made.std().item(), rel=1e-5)


CALLS: list[tuple[int, ...]] = []


@torch.library.custom_op("initstats_tests::counted", mutates_args=())
def counted(x: Tensor) -> Tensor:
    CALLS.append(tuple(x.shape))
    return x.clone()


def test_operators_of_others_are_not_tried() -> None:
    CALLS.clear()
    row = last(lambda x: torch.ops.initstats_tests.counted(x.tanh()), torch.randn(4, 3))
    assert CALLS == [(4, 3)]
    assert math.isnan(row["gain"])


@pytest.mark.parametrize(
    "fire",
    [
        lambda z: (z > 0).float(),
        lambda z: z.gt(0).to(z.dtype),
        lambda z: torch.where(z > 0, 1.0, 0.0),
        lambda z: (z > 0) * 1.0,
        lambda z: (~(z <= 0)).int().float(),
        lambda z: torch.bernoulli(torch.sigmoid(z)),
    ],
)
def test_masks_that_a_map_reads_are_signals(fire: Callable[[Tensor], Tensor]) -> None:
    def spiking(x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return F.linear(fire(F.linear(x, v)), w)

    torch.manual_seed(0)
    table = measure(Function(spiking, torch.randn(6, 5), torch.randn(3, 6)), torch.randn(50, 5))
    values = table[table["tensor"].isin(VALUES)].set_index("layer")
    before, spikes, second = (row for _, row in values[-3:].iterrows())
    assert (spikes["tensor"], second["tensor"]) == ("activation", "preactivation")
    assert (spikes["inputs"], second["inputs"]) == (str(before.name), str(spikes.name))
    assert spikes["second_moment"] == pytest.approx(spikes["mean"])
    assert (second["fan_in"], second["units"]) == (6, 3)
    assert np.isnan([spikes["low"], spikes["high"]]).all()


@pytest.mark.parametrize(
    "used",
    [
        lambda x, w: F.linear(x * (x > 0).float(), w),
        lambda x, w: (x > 0).float() * w[:1] + x,
        lambda x, w: F.linear(x, w * (w > 0).float()),
        lambda x, w: F.linear(torch.ones_like(x), w) + x[:, :1],
    ],
)
def test_masks_of_other_uses_are_none(used: Callable[..., Tensor]) -> None:
    table = measure(Function(used, torch.randn(6, 5)), torch.randn(50, 5))
    masks = table["op"].isin(["gt", "float", "ones_like"])
    assert not (masks & table["tensor"].isin(VALUES)).any()


def test_each_of_several_tensors_keeps_what_it_is() -> None:
    def normal(x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        mean, size = torch.functional.broadcast_tensors(F.linear(x, v), w.exp())  # type: ignore[no-untyped-call]
        out: Tensor = mean / size
        return out

    table = measure(Function(normal, torch.randn(4, 5), torch.randn(4)), torch.randn(9, 5))
    values = table[table["tensor"].isin(VALUES)]
    assert values["op"].tolist() == ["input", "linear", "div"]
    assert values["tensor"].tolist() == ["activation", "preactivation", "preactivation"]


def test_weights_of_changing_shape() -> None:
    model = Function(lambda x, w: F.linear(x, (w * 2)[:, : x.shape[1]]), torch.randn(6, 9))
    with Probe(model) as probe:
        for width in (9, 4, 7):
            model(torch.randn(5, width))
    made = probe.table().query("op == 'linear'")
    assert made["count"].tolist() == [90]


@torch.no_grad()
def gates_by_hand(model: nn.RNNBase, x: Tensor) -> Tensor:
    """The gates and candidates of a layer, step by step, as fractions of their way to a bound."""
    size, h = model.hidden_size, torch.zeros(len(x), model.hidden_size)
    c, seen = h, []
    weights = dict(model.named_parameters())
    for t in x.unbind(1):
        a = t @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        b = h @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        if isinstance(model, nn.LSTM):
            i, f, o = (torch.sigmoid((a + b)[:, n * size : (n + 1) * size]) for n in (0, 1, 3))
            g = torch.tanh((a + b)[:, 2 * size : 3 * size])
            c = f * c + i * g
            h = o * torch.tanh(c)
            bias = (weights["bias_ih_l0"] + weights["bias_hh_l0"])[size : 2 * size]
            meant = (bias > math.log(9)) & (i > (1 - f) / 10)  # to remember for long
            written, kept = (2 * i - 1) * ~(meant & (i < 0.5)), (2 * f - 1) * ~(meant & (f > 0.5))
            seen += [written, kept, 2 * o - 1, g]
        elif isinstance(model, nn.GRU):
            r, z = (torch.sigmoid((a + b)[:, n * size : (n + 1) * size]) for n in (0, 1))
            n = torch.tanh(a[:, 2 * size :] + r * b[:, 2 * size :])
            h = (1 - z) * n + z * h
            seen += [2 * r - 1, 2 * z - 1, n]
        else:
            h = torch.tanh(a + b)
            seen += [h]
    torch.testing.assert_close(
        h, model(x)[1][0][0] if isinstance(model, nn.LSTM) else model(x)[1][0]
    )
    return torch.cat(seen, 1)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_gates_inside_of_recurrent_operations(kind: Any) -> None:
    """Fused, packed, two ways and step by step: the share of gates and candidates at a bound."""
    torch.manual_seed(0)
    model, x = kind(6, 8, batch_first=True), torch.randn(5, 7, 6)
    for parameter in model.parameters():
        parameter.data.mul_(6)
    share = float((gates_by_hand(model, x).abs() >= 0.99).double().mean())
    assert 0.1 < share < 0.9

    def measured(net: nn.Module, given: Any) -> list[float]:
        rows = measure(net, given).query("saturated_fraction == saturated_fraction")
        rows = rows[rows["op"].str.match("rnn|gru|lstm")]
        assert rows[["low", "high"]].to_numpy().tolist() == [[-1.0, 1.0]] * len(rows)
        return rows["saturated_fraction"].tolist()

    assert measured(model, x) == pytest.approx([share])
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7] * 5), batch_first=True)
    assert measured(model, (packed,)) == pytest.approx([share])
    both = kind(6, 8, batch_first=True, bidirectional=True)
    for name, parameter in both.named_parameters():
        parameter.data = model.get_parameter(name.removesuffix("_reverse")).data.clone()
    back = float((gates_by_hand(model, x.flip(1)).abs() >= 0.99).double().mean())
    assert measured(both, x) == pytest.approx([(share + back) / 2])
    cell = {nn.RNN: nn.RNNCell, nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell}[kind](6, 8)
    for name, parameter in cell.named_parameters():
        parameter.data = model.get_parameter(f"{name}_l0").data.clone()

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Tensor) -> Any:
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return state

    assert sum(measured(Steps(), x)) / 7 == pytest.approx(share)


@pytest.mark.parametrize("gate", range(4))
@pytest.mark.parametrize("bias", [-10.0, 10.0, -2.0])
def test_gates_that_are_shut(gate: int, bias: float) -> None:
    """Of input, forget, candidate and output those count that lose the state, in either layer."""
    torch.manual_seed(0)
    model, x = nn.LSTM(6, 8, 2, batch_first=True), torch.randn(5, 7, 6)
    for layer in ("l0", "l1"):
        model.load_state_dict(nn.LSTM(6, 8, 2).state_dict())
        model.get_parameter(f"bias_ih_{layer}").data[8 * gate : 8 * gate + 8] = bias
        table = measure(model, x)
        shut = table.query("op == 'lstm' and tensor != 'weight'")["shut_fraction"]
        lost = gate in (1, 3) and bias == -10.0
        assert shut.tolist() == [float(lost)] * len(shut)
        found = diagnose(table).query("rule == 'saturation'").iloc[0]
        assert (found["severity"] == "warning") == lost
        if lost:
            exec(found["remedy"], {"model": model})
            again = diagnose(measure(model, x)).query("rule == 'saturation'").iloc[0]
            assert again["severity"] == "healthy"


@pytest.mark.parametrize("lower", [0.0, 20.0])
@pytest.mark.parametrize("span", [20, 784, 10000])
@pytest.mark.parametrize("build", [nn.LSTM, nn.LSTMCell])
def test_gates_that_begin_as_they_are_to_remember(build: Any, span: int, lower: float) -> None:
    """Of T steps to remember forget gates have biases of log U(1, T - 1), input gates those below.

    The share at a bound is that of the other gates; input gates that are lower write nothing.
    """
    torch.manual_seed(0)
    model, x = build(6, 32), torch.randn(7, 5, 6)
    biases = [p for name, p in model.named_parameters() if name.startswith("bias")]
    for bias in biases:
        nn.init.zeros_(bias)
    with torch.no_grad():
        biases[0][32:64] = torch.empty(32).uniform_(1, span - 1).log()
        biases[0][:32] = -biases[0][32:64] - lower
    table = measure(model, x if build is nn.LSTM else x[0])
    row = table[table["op"].isin(["lstm", "lstm_cell"]) & (table["tensor"] != "weight")].iloc[0]
    found = diagnose(table).query("rule == 'saturation'").iloc[0]
    grave = lower > 0 and span > 20
    assert found["severity"] == ("warning" if grave else "healthy")
    assert row["saturated_fraction"] > 0.35 if grave else row["saturated_fraction"] < 0.3


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
@pytest.mark.parametrize("factor", [0.01, 1.0])
def test_a_state_that_nothing_carries_on(kind: Any, factor: float) -> None:
    torch.manual_seed(0)
    model = kind(6, 48, batch_first=True)
    model.weight_hh_l0.data.mul_(factor)
    found = diagnose(measure(model, torch.randn(5, 7, 6))).query("rule == 'lost_state'").iloc[0]
    lost = kind is nn.RNN and factor < 1
    assert (found["severity"], found["where"]) == (
        ("note", "weight_hh_l0") if lost else ("healthy", "")
    )


def test_a_rectified_recurrent_operation_has_no_bounds() -> None:
    rows = measure(nn.RNN(6, 8, nonlinearity="relu"), torch.randn(5, 7, 6)).query(
        "op == 'rnn_relu'"
    )
    assert rows[["low", "high", "saturated_fraction"]].isna().all(axis=None)
