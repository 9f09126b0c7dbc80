"""Normalizations are known by what they do, also those that are written out in operations."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initstats.probe import measure

Function = Callable[[Tensor], Tensor]


class After(nn.Module):
    """A function of what a linear layer gives."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.fc, self.function = nn.Linear(16, 24), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.fc(x))


def mean_square(h: Tensor) -> Tensor:
    return h.pow(2).mean(-1, keepdim=True)


def standardized(h: Tensor) -> Tensor:
    variance, mean = torch.var_mean(h, -1, keepdim=True)
    out: Tensor = (h - mean) / (variance + 1e-5).sqrt()
    return out


def rectified(h: Tensor) -> Tensor:
    r = F.leaky_relu(h)
    out: Tensor = r / r.norm(dim=-1, keepdim=True)
    return out


NORMALIZED: dict[str, Function] = {
    "norm": lambda h: h / h.norm(dim=-1, keepdim=True),
    "normalize": lambda h: F.normalize(h, dim=-1),
    "normalize, samples": lambda h: F.normalize(h, dim=0),
    "rsqrt": lambda h: h * torch.rsqrt(mean_square(h) + 1e-6),
    "sqrt": lambda h: h / torch.sqrt((h * h).mean(-1, keepdim=True) + 1e-5),
    "power": lambda h: h * ((h**2).sum(-1)[:, None] + 1e-5).pow(-0.5),
    "cast": lambda h: (h.double() * torch.rsqrt(mean_square(h.double()) + 1e-6)).float(),
    "std": lambda h: (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1e-6),
    "var": standardized,
    "largest": lambda h: h / h.abs().amax(-1, keepdim=True),
    "absolute": lambda h: h / h.abs().sum(-1, keepdim=True).clamp_min(1e-9),
    "in place": lambda h: h.div_(h.norm(dim=-1, keepdim=True).clamp(min=1e-12)),
    "einsum": lambda h: h / torch.einsum("bd,bd->b", h, h).sqrt()[:, None],
    "vector_norm": lambda h: h / (torch.linalg.vector_norm(h, dim=1, keepdim=True) + 1e-8),
    "batch": lambda h: (h - h.mean(0)) / torch.sqrt(h.var(0) + 1e-5),
    "cubes": lambda h: h / (h.abs() ** 3).mean(-1, keepdim=True) ** (1 / 3),
    "after an activation": rectified,
    "one operation": lambda h: F.layer_norm(h, (24,)),
}
OTHERS: dict[str, Function] = {
    "of another size": lambda h: h / (1 + h.norm(dim=-1, keepdim=True)),
    "softsign": lambda h: h / (1 + h.abs()),
    "constant": lambda h: h / math.sqrt(64),
    "softplus": lambda h: h / F.softplus(h),
    "gate": lambda h: h * torch.sigmoid(h),
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "centred": lambda h: h - h.mean(-1, keepdim=True),
    "softmax": lambda h: h.softmax(-1),
    "pooled": lambda h: F.avg_pool1d(h[:, None], 2),
    "dropped": lambda h: F.dropout(h, 0.5),
}


@pytest.mark.parametrize(
    ("name", "expected"), [*((n, True) for n in NORMALIZED), *((n, False) for n in OTHERS)]
)
def test_a_normalization_is_what_undoes_a_factor(name: str, expected: bool) -> None:
    """The oracle: what the function gives for values that are a thousand times as large."""
    torch.manual_seed(0)
    function = (NORMALIZED | OTHERS)[name]
    h, x, model = 3 * torch.randn(32, 24), torch.randn(32, 16), After(function)
    once, again = function(h.clone()), function(1000 * h)
    assert torch.allclose(once, again, rtol=1e-3, atol=1e-4) == expected
    state = torch.get_rng_state()
    table = measure(model, x)
    assert (table["normalized"] == 1).any() == expected
    assert torch.equal(torch.get_rng_state(), state) or name == "dropped"


def test_the_factor_of_another_layer_is_not_undone() -> None:
    """What divides must be a statistic of what is divided."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 24), nn.Linear(16, 24)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.a(x) / self.b(x).norm(dim=-1, keepdim=True)
            return out

    assert not (measure(Apart(), torch.randn(32, 16))["normalized"] == 1).any()


def softmax_by_hand(dim: int) -> Function:
    def softmax(h: Tensor) -> Tensor:
        e = (h - h.amax(dim, keepdim=True)).exp()
        return e / e.sum(dim, keepdim=True)

    return softmax


@pytest.mark.parametrize(
    ("function", "axis"),
    [
        (lambda h: h.softmax(0), 0),
        (lambda h: F.softmax(h, dim=-1), 1),
        (nn.LogSoftmax(dim=1), 1),
        (lambda h: F.softmin(h, dim=0), 0),
        (softmax_by_hand(0), 0),
        (softmax_by_hand(1), 1),
        (lambda h: h.relu() / h.relu().norm(dim=1, keepdim=True), math.nan),
        (torch.sigmoid, math.nan),
    ],
)
def test_the_dimension_of_shares(function: Function, axis: float) -> None:
    last = measure(After(function), torch.randn(32, 16)).query("tensor == 'activation'").iloc[-1]
    assert last["shares_axis"] == pytest.approx(axis, nan_ok=True)


def mask_of(x: Tensor) -> Tensor:
    return x.new_empty(len(x), 1).bernoulli_(0.5)


@pytest.mark.parametrize(
    ("function", "draws"),
    [
        (nn.Dropout(0.5), 32 * 24),
        (lambda h: F.dropout(h, 0.5, training=False), math.nan),
        (lambda h: h * (torch.rand_like(h) < 0.5) / 0.5, 32 * 24),
        (lambda h: h.masked_fill(torch.rand(32, 24) < 0.5, 0.0), 32 * 24),
        (lambda h: h * mask_of(h).div_(0.5), 32),
        (lambda h: h * (h > 0), math.nan),
        (lambda h: h * torch.ones(32, 1), math.nan),
    ],
)
def test_random_numbers_are_counted(function: Function, draws: float) -> None:
    rows = measure(After(function), torch.randn(32, 16)).query("op != 'div'")
    assert rows["draws"].max() == pytest.approx(draws, nan_ok=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
@pytest.mark.parametrize("permuted", [False, True])
def test_integers_of_images_are_a_signal(dtype: torch.dtype, permuted: bool) -> None:
    """Bytes that the model itself makes numbers of are its input, as numbers would be."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.permute(0, 3, 1, 2) if permuted else x
            out: Tensor = self.conv(x.float() / 255)
            return out

    x = torch.randint(0, 256, (4, 9, 9, 3) if permuted else (4, 3, 9, 9)).to(dtype)
    model = Net()
    table = measure(model, x, backward=True)
    assert table.query("direction == 'forward' and tensor != 'weight'")["op"].tolist() == [
        "input",
        "div",
        "conv2d",
    ]
    twin = measure(model, x.float(), backward=True)
    columns = ["op", "mean", "second_moment", "gain"]
    assert table[columns].equals(twin[columns])


@pytest.mark.parametrize(
    ("function", "gain"),
    [
        (lambda x: x / 255, 1.0),
        (lambda x: (x - 0.5) / 0.25, 1.0),
        (lambda x: x.mul(100).add(1), 1.0),
        (torch.relu, math.sqrt(2)),
        (torch.tanh, 1.5925),
    ],
)
def test_scaled_data_has_no_gain_of_its_own(function: Function, gain: float) -> None:
    """A gain is that of a function of N(0, 1), which data is at best once it was scaled."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(function(x))
            return out

    rows = measure(Net(), torch.rand(16, 16)).query("tensor == 'activation' and op != 'input'")
    assert rows["gain"].iloc[-1] == pytest.approx(gain, rel=1e-3)
