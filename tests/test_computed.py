"""Parameters that follow a formula are told apart from those that were drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import initstats as ist
from initstats.audits.computed import computed, independent

ANGLES = torch.arange(16)[:, None] * 1e4 ** (-torch.arange(32) / 32)
PLACES = torch.arange(12.0)
ROOTS = torch.sqrt(2 * torch.arange(16) + 1)
FORMULAS: dict[str, Tensor] = {
    "S4D-Lin": math.pi * torch.arange(16).float().repeat(32, 1),
    "Mamba": torch.log(torch.arange(1, 17).float()).repeat(64, 1),
    "rotary": 1e4 ** (-torch.arange(0, 64, 2) / 64),
    "forget gates": torch.linspace(3, 6, 64),
    "ALiBi": 2.0 ** -torch.arange(1, 9)[:, None, None],
    "columns": torch.logspace(-3, -1, 32)[:, None].repeat(1, 8),
    "sines beside cosines": torch.cat([ANGLES.sin(), ANGLES.cos()], -1)[None],
    "sines and cosines in turn": torch.stack([ANGLES.sin(), ANGLES.cos()], -1).flatten(1),
    "HiPPO": -(ROOTS[:, None] * ROOTS).tril(-1) - torch.diag(torch.arange(16) + 1.0),
    "distances": -0.3 * (PLACES[:, None] - PLACES).abs().repeat(4, 1, 1),
    "sorted": torch.rand(8, 16, generator=torch.Generator().manual_seed(0)).sort(1).values,
}
DRAWN = {
    "normal": lambda: torch.randn(64, 32),
    "rows of several scales": lambda: torch.randn(64, 32) * torch.logspace(-2, 2, 64)[:, None],
    "long tails": lambda: torch.randn(64, 32) / torch.rand(64, 32),
    "six": lambda: torch.randn(6),
    "six in half": lambda: torch.randn(6).half(),
    "a kernel": lambda: torch.rand(32, 1, 3, 3) - 0.5,
    "bfloat16": lambda: torch.randn(16, 16).bfloat16(),
    "complex": lambda: torch.randn(8, 8, dtype=torch.cfloat),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(32, 32)),
    "a row that is repeated": lambda: torch.randn(16).repeat(8, 1),
    "units that are repeated": lambda: torch.randn(8, 16).repeat_interleave(4, 0),
    "sparse": lambda: torch.randn(32, 32) * (torch.rand(32, 32) < 0.1),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_are_not_drawn(name: str) -> None:
    x = FORMULAS[name]
    assert not independent(x)
    # only what follows a formula exactly is said to do so
    assert computed(x) == (name not in ("HiPPO", "distances", "sorted"))


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_is_not_taken_for_a_formula(name: str) -> None:
    """Of 100 seeds none, as less than one in a million should."""
    for seed in range(100):
        torch.manual_seed(seed)
        x = DRAWN[name]()
        assert independent(x)
        assert not computed(x)


class Block(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.own, self.map = nn.Parameter(FORMULAS[name].clone()), nn.Linear(8, 8)


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_are_equal_in_all_blocks(name: str) -> None:
    torch.manual_seed(0)
    blocks = [Block(name) for _ in range(3)]
    model = nn.Sequential(*blocks)
    audited = ist.audit(model)
    assert audited.findings["severity"].eq("healthy").all(), str(audited)
    law = audited.table.set_index("name")["law"]["0.own"]
    assert (law == "computed") == ("other parameters computed" in audited.words)
    assert (law == "computed") == computed(FORMULAS[name])
    with torch.no_grad():
        for block in blocks:
            block.map.weight.copy_(blocks[0].map.weight)
    (row,) = ist.audit(model).findings.query("severity == 'warning'").itertuples()
    assert row.rule == "equal_parameters"
    assert row.where == "0.map.weight, 1.map.weight, 2.map.weight"
