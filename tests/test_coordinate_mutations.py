"""Mutated muP models: the coordinate check names the parameter and the power, and nothing else."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import pytest

import initstats as ist
from initstats.coordinates import Coordinates
from initstats.coordinates.trial import records

SCALED = runpy.run_path(str(Path(__file__).with_name("scaled.py")))
NETS, OPTIMIZERS = SCALED["NETS"], ("sgd", "adam")
POWERS = (-1.0, -0.5, 0.5, 1.0)
WIDTHS = (16, 32, 64)
CANCELLED = ("attention.k.bias",)
"""Gradients of these are zero, so that no learning rate changes anything."""


def checked(net: Any, optimizer: str, **settings: Any) -> Coordinates:
    factory = SCALED["mup"](net, optimizer, **settings)
    return ist.coordinate_check(factory, WIDTHS, x=net.x, seeds=2)


def faults(found: Coordinates) -> list[dict[str, Any]]:
    severe = found.findings["severity"].isin(["error", "warning", "note"])
    return records(found.findings[severe])


def mutations(count: int, seed: int) -> list[tuple[str, str, str, str, float]]:
    """Nets, optimizers, what is mutated of which parameter, and by which power, at random."""
    draw, found = random.Random(seed), list[tuple[str, str, str, str, float]]()
    while len(found) < count:
        name = draw.choice([*NETS])
        net, optimizer = NETS[name], draw.choice(OPTIMIZERS)
        named = dict(net.make(16).named_parameters())
        parameter, what = draw.choice([*named]), draw.choice(["init", "rate"])
        idle = parameter.endswith(CANCELLED) or ("norm" in name and parameter.endswith(".bias"))
        if what == "init" and named[parameter].ndim < 2:
            continue  # a bias that begins small begins as zero
        if what == "rate" and idle:
            continue
        found.append((name, optimizer, what, parameter, draw.choice(POWERS)))
    return found


def outcome(mutation: tuple[str, str, str, str, float]) -> tuple[bool, bool]:
    """Whether a mutated parameter is named with the power, and whether another one is, too."""
    name, optimizer, what, parameter, power = mutation
    found = checked(NETS[name], optimizer, **{what: {parameter: power}})
    rule = {"init": "init_scale", "rate": "learning_rate"}[what]
    told = faults(found)
    repairs = f"** {-power:g}"
    named = [f for f in told if f["where"] == parameter and f["rule"] == rule]
    return bool(named) and repairs in named[0]["remedy"], len(told) > len(named)


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize("mutation", mutations(4, seed=0), ids=str)
def test_a_mutated_parameter_is_named(mutation: tuple[str, str, str, str, float]) -> None:
    assert outcome(mutation) == (True, False)


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["relu", "batch norm", "conv", "transformer"])
def test_a_sound_model_raises_no_alarm(name: str, optimizer: str) -> None:
    found = checked(NETS[name], optimizer)
    assert not faults(found), found
    assert found.nearest == "mup"


@pytest.mark.mutations
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETS)
def test_sound_models_raise_no_alarm(name: str, optimizer: str) -> None:
    assert not faults(checked(NETS[name], optimizer))


@pytest.mark.mutations
def test_of_a_hundred_mutations_nearly_all_are_named() -> None:
    drawn = mutations(100, seed=17)
    found = {mutation: outcome(mutation) for mutation in drawn}
    missed = [mutation for mutation, (named, _) in found.items() if not named]
    others = [mutation for mutation, (_, other) in found.items() if other]
    assert len(missed) <= 5, missed
    assert len(others) <= 5, others
