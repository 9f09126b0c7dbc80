"""Zeros that are parts of a map's output: gates of branches, queries, keys and values."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initstats as ist
from initstats.diagnosis.findings import Findings

SIZE = 16
CUTS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "chunk": lambda m: [*m[:, None].chunk(6, -1)],
    "slice": lambda m: [m[:, None, SIZE * i : SIZE * (i + 1)] for i in range(6)],
    "unbind": lambda m: [*m.view(-1, 1, 6, SIZE).unbind(2)],
}


class Modulated(nn.Module):
    """A block of a diffusion transformer (Peebles & Xie 2023), without its attention."""

    def __init__(self, zeros: str, cut: str) -> None:
        super().__init__()
        self.ada, self.first = nn.Linear(SIZE, 6 * SIZE), nn.Linear(SIZE, SIZE)
        self.up, self.down = nn.Linear(SIZE, 32), nn.Linear(32, SIZE)
        self.cut = cut
        with torch.no_grad():
            for name in zeros.split():
                gate = name == "gate"  # the rows that make the second branch's
                for parameter in (self.ada if gate else self.get_submodule(name)).parameters():
                    parameter[-SIZE if gate else 0 :] = 0

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = CUTS[self.cut](self.ada(F.silu(c)))
        x = x + gate * self.first(F.layer_norm(x, (SIZE,)) * (1 + scale) + shift)
        h = F.gelu(self.up(F.layer_norm(x, (SIZE,)) * (1 + scale_2) + shift_2))
        y: Tensor = x + gate_2 * self.down(h)
        return y


class Attentive(nn.Module):
    """Attention whose queries, keys and values come from one matrix."""

    def __init__(self, zeros: str, cut: str) -> None:
        super().__init__()
        self.qkv, self.fused = nn.Linear(SIZE, 3 * SIZE), cut == "fused"
        with torch.no_grad():
            for name in zeros:
                for parameter in self.qkv.parameters():
                    at = SIZE * "qkv".index(name)
                    parameter[at : at + SIZE] = 0

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.fused:
            y: Tensor = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.mT / SIZE**0.5).softmax(-1) @ v
        return x + y


class Network(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.enter, self.block, self.head = nn.Linear(SIZE, SIZE), block, nn.Linear(SIZE, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.block(self.enter(x), x.mean(1)))
        return y


def never_move(model: nn.Module, x: Tensor) -> set[str]:
    """The parameters with zeros that get no gradient in some steps in which all others move."""
    model = copy.deepcopy(model).double()
    named = {**dict(model.named_parameters())}
    still = {name: p == 0 for name, p in named.items()}
    for _ in range(6):
        model.zero_grad()
        y = model(x.double())
        (y * torch.randn_like(y)).sum().backward()
        with torch.no_grad():
            for name, p in named.items():
                assert p.grad is not None
                still[name] &= p.grad == 0
                p.sub_(0.01 * p.grad.sign() * torch.rand_like(p))
    return {name for name, at in still.items() if at.any() and "bias" not in name}


def told(found: Findings, rule: str) -> set[str]:
    grave = found[(found["rule"] == rule) & (found["severity"] <= "warning")]
    return {name for where in grave["where"] for name in where.split(", ")}


@pytest.mark.parametrize(
    ("kind", "zeros", "cut"),
    [
        *((Modulated, zeros, "chunk") for zeros in ("ada", "ada down", "ada first", "gate down")),
        *((Modulated, "ada down", cut) for cut in ("slice", "unbind")),
        (Modulated, "ada first down", "chunk"),
        (Modulated, "gate", "chunk"),
        (Modulated, "first down", "slice"),
        *((Attentive, zeros, cut) for zeros in ("qkv", "qk", "v") for cut in ("fused", "plain")),
    ],
)
def test_rows_that_never_move_are_found(
    kind: Callable[[str, str], nn.Module], zeros: str, cut: str
) -> None:
    torch.manual_seed(0)
    model, x = Network(kind(zeros, cut)), torch.randn(4, 6, SIZE)
    stuck = never_move(model, x)
    assert bool(stuck) == (zeros not in ("ada", "gate", "first down", "v"))
    assert told(ist.audit(model, x).findings, "zeros") == stuck
    for backward in (True, False):
        found = ist.diagnose(ist.measure(model, x, backward=backward))
        assert told(found, "zero_weights") == stuck, str(found)
    for remedy in map(str, found.loc[found["rule"] == "zero_weights", "remedy"]):
        if remedy.startswith("nn.init"):
            exec(remedy, {"model": model, "nn": nn, "math": math})
            assert not never_move(model, x)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d])
@pytest.mark.parametrize("act", [nn.ReLU(), nn.Tanh()])
def test_gains_of_zeros_stop_a_chain_where_a_slope_is_0(
    norm: type[nn.Module], act: nn.Module
) -> None:
    torch.manual_seed(0)
    norms = [norm(SIZE) for _ in range(2)]
    model = nn.Sequential(nn.Linear(SIZE, SIZE), norms[0], act, nn.Linear(SIZE, SIZE), norms[1])
    model.extend([act, nn.Linear(SIZE, 5)])
    for each in norms:
        nn.init.zeros_(each.weight)  # type: ignore[arg-type]
    x = torch.randn(8, SIZE)
    found = told(ist.audit(model, x).findings, "zeros")
    assert found == never_move(model, x) - {"0.weight", "3.weight"}
    # a batch norm makes 0 of what is the same for all samples, and its gain has no gradient
    assert bool(found) == (isinstance(act, nn.ReLU) or norm is nn.BatchNorm1d)
