"""A fault of a parameter is told once, with lines that mend it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import initstats as ist


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.map = nn.LayerNorm(16), nn.Linear(16, 64)
        self.experts = nn.Parameter(torch.randn(8, 12, 16) * 0.02)
        nn.init.normal_(self.map.weight, std=0.02)
        nn.init.zeros_(self.map.bias)


def blocks(number: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(number)))


def faults(model: nn.Module) -> list[tuple[str, str, str]]:
    found = ist.audit(model).findings.query("severity in ('error', 'warning')")
    return [(str(row.rule), str(row.where), str(row.remedy)) for row in found.itertuples()]


FAULTS: dict[str, tuple[Callable[[Tensor], object], str, str]] = {
    "norm.weight": (lambda x: x[3:].fill_(math.nan), "uninitialized", "nn.init.ones_("),
    "norm.bias": (lambda x: x[3:].fill_(math.inf), "uninitialized", "nn.init.zeros_("),
    "map.bias": (lambda x: x.fill_(1e20).mul_(torch.rand(64)), "uninitialized", "nn.init.zeros_("),
    "map.weight": (lambda x: x[0].fill_(math.nan), "uninitialized", "initialize it as 0.map.w"),
    "experts": (lambda x: x[3].fill_(0), "zeros", "draw all of them"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_finding_about_one_fault(name: str) -> None:
    harm, rule, remedy = FAULTS[name]
    model = blocks()
    assert not faults(model)
    with torch.no_grad():
        harm(model.get_parameter(f"2.{name}"))
    ((told, where, text),) = faults(model)
    assert (told, where) == (rule, f"2.{name}")
    assert text.startswith(remedy)
    if text.startswith("nn.init"):
        exec(text, {"model": model, "nn": nn})
        assert not faults(model)


def test_gains_that_are_no_ones_are_mended_as_their_siblings() -> None:
    model = blocks()
    for block in model:
        nn.init.constant_(block.norm.weight, 0.1)  # type: ignore[union-attr,arg-type]
    model.get_parameter("1.norm.weight").data[0] = math.nan
    assert faults(model) == [("uninitialized", "1.norm.weight", "initialize it as 0.norm.weight")]


def test_the_only_weight_is_drawn_by_a_law_of_its_own() -> None:
    model = nn.Linear(16, 16)
    model.weight.data[0] = math.nan
    ((_, where, remedy),) = faults(model)
    assert where == "weight"
    assert "or its own law" in remedy


def test_units_of_one_number_are_told_once() -> None:
    model = blocks()
    nn.init.constant_(model.get_parameter("1.map.weight"), 0.02)
    assert [rule for rule, *_ in faults(model)] == ["equal_units"]


def test_two_faults_of_one_parameter_are_told_both() -> None:
    model = blocks()
    with torch.no_grad():
        model.get_parameter("1.map.weight").mul_(3)[1:4] = model.get_parameter("1.map.weight")[0]
    assert {rule for rule, *_ in faults(model)} == {"equal_units", "out_of_line"}


class Tied(nn.Module):
    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.table, self.other = nn.Embedding(300, 64), other
        self.other.weight = nn.Parameter(self.table.weight.detach().clone())


@pytest.mark.parametrize("other", [nn.Linear(64, 300), nn.Embedding(300, 64)])
def test_copies_of_an_embedding_are_to_be_tied(other: nn.Module) -> None:
    model = Tied(other)
    ((rule, where, remedy),) = faults(model)
    assert (rule, where) == ("equal_parameters", "table.weight, other.weight")
    exec(remedy, {"model": model})
    assert model.other.weight is model.table.weight
    assert not faults(model)


def test_copies_of_a_layer_are_to_be_drawn_anew() -> None:
    model = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])
    model.load_state_dict({**model.state_dict(), "1.weight": model[0].weight})
    ((rule, _, remedy),) = faults(model)
    assert rule == "equal_parameters"
    assert remedy.startswith("draw each anew")
