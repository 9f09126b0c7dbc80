"""Models of any width whose parametrization is known, and what is wrong with mutated ones.

The kinds of the parameters are written down by hand, and so are the powers of muP: table 3 of
Yang et al. 2022 (arXiv:2203.03466).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

BASE = 16
RATES = {
    "sgd": {"input": 1.0, "hidden": 0.0, "output": -1.0, "vector": 1.0, "fixed": 0.0},
    "adam": {"input": 0.0, "hidden": -1.0, "output": -1.0, "vector": 0.0, "fixed": 0.0},
}
LR = {"sgd": 0.02, "adam": 1e-3}


class Net(NamedTuple):
    """A factory, the kinds of its parameters by pattern, and its input."""

    make: Callable[[int], nn.Module]
    kinds: Mapping[str, str]
    x: Tensor


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def mlp(phi: Callable[[], nn.Module], norm: Callable[[int], nn.Module] | None = None) -> Net:
    def make(n: int) -> nn.Module:
        def norms() -> list[nn.Module]:
            return [norm(n)] if norm else []

        ends = [(8, n), (n, n), (n, n)]
        layers = [part for a, b in ends for part in (nn.Linear(a, b), *norms(), phi())]
        return nn.Sequential(*layers, nn.Linear(n, 4))

    at = 3 if norm else 2
    kinds = {"0.weight": "input", f"{at}.weight": "hidden", f"{2 * at}.weight": "hidden"}
    kinds |= {f"{3 * at}.weight": "output", f"{3 * at}.bias": "fixed", "*": "vector"}
    return Net(make, kinds, normal(32, 8))


def conv(norm: bool) -> Net:
    def make(n: int) -> nn.Module:
        def block(a: int) -> list[nn.Module]:
            own: list[nn.Module] = [nn.Conv2d(a, n, 3, padding=1), nn.ReLU()]
            return [own[0], nn.BatchNorm2d(n), own[1]] if norm else own

        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(
            *block(3), *block(n), nn.AvgPool2d(2), *block(n), *pool, nn.Linear(n, 4)
        )

    at = 3 if norm else 2
    last = 3 * at + 3
    kinds = {"0.weight": "input", f"{at}.weight": "hidden", f"{2 * at + 1}.weight": "hidden"}
    kinds |= {f"{last}.weight": "output", f"{last}.bias": "fixed", "*": "vector"}
    return Net(make, kinds, normal(12, 3, 6, 6))


class Attention(nn.Module):
    def __init__(self, n: int, heads: int, power: float, fused: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(n, n) for _ in range(4))
        self.heads, self.power, self.fused = heads, power, fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        scale = 4 * q.shape[-1] ** -self.power
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
        else:
            y = (scale * q @ k.transpose(-1, -2)).softmax(-1) @ v
        out: Tensor = self.o(y.transpose(1, 2).flatten(2))
        return out


class Transformer(nn.Module):
    """Tokens, learned positions, pre-norm blocks."""

    def __init__(self, n: int, power: float = 1.0, fused: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, n), nn.Parameter(torch.randn(6, n))
        self.blocks = nn.ModuleList()
        for _ in range(2):
            attention = Attention(n, 2, power, fused)
            mlp = nn.Sequential(nn.Linear(n, 4 * n), nn.GELU(), nn.Linear(4 * n, n))
            parts = {"norm1": nn.LayerNorm(n), "attention": attention, "norm2": nn.LayerNorm(n)}
            self.blocks.append(nn.ModuleDict({**parts, "mlp": mlp}))
        self.norm = nn.LayerNorm(n)
        self.head = nn.Linear(n, 11, bias=False)
        self.multiplier = 1.0
        if tied:
            self.head.weight, self.multiplier = self.tokens.weight, BASE / n

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            x = x + block["attention"](block["norm1"](x))
            x = x + block["mlp"](block["norm2"](x))
        out: Tensor = self.head(self.norm(x) * self.multiplier)
        return out


IDS = torch.randint(11, (8, 6), generator=torch.Generator().manual_seed(1))


def transformer(**settings: Any) -> Net:
    kinds = {"tokens.weight": "input", "positions": "input", "head.weight": "output"}
    kinds |= {"*norm*": "vector", "*.bias": "vector", "blocks.*": "hidden"}
    return Net(lambda n: Transformer(n, **settings), kinds, IDS)


NETS = {
    "relu": mlp(nn.ReLU),
    "tanh": mlp(nn.Tanh),
    "gelu": mlp(nn.GELU),
    "layer norm": mlp(nn.ReLU, nn.LayerNorm),
    "batch norm": mlp(nn.Tanh, nn.BatchNorm1d),
    "conv": conv(False),
    "conv norm": conv(True),
    "transformer": transformer(),
    "fused": transformer(fused=True),
    "tied": transformer(tied=True),
}


def kind_of(net: Net, name: str) -> str:
    return next(kind for pattern, kind in net.kinds.items() if fnmatchcase(name, pattern))


def mup(
    net: Net,
    optimizer: str,
    *,
    init: Mapping[str, float] | None = None,
    rate: Mapping[str, float] | None = None,
    lr: float | None = None,
) -> Callable[[int], tuple[nn.Module, torch.optim.Optimizer]]:
    """A factory in muP; `init` and `rate` are powers of width too many, by parameter."""

    def make(n: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = net.make(n)
        groups = []
        for name, p in model.named_parameters():
            kind = kind_of(net, name)
            wide = n / BASE
            if p.ndim > 1 and name not in ("tokens.weight", "positions"):
                fan_in = p[0].numel()
                gain = 1.0 if kind == "output" else 1.4
                nn.init.normal_(
                    p, std=gain * wide ** (-0.5 * (kind == "output")) / math.sqrt(fan_in)
                )
            with torch.no_grad():
                p.mul_(wide ** (init or {}).get(name, 0.0))
            power = RATES[optimizer][kind] + (rate or {}).get(name, 0.0)
            groups.append({"params": [p], "lr": (lr or LR[optimizer]) * wide**power})
        made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
        return model, made(groups)

    return make
