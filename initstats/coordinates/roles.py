"""Roles of operations over width, and the slopes that a parametrization has for each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from initstats.coordinates.parameters import GROWS, Grid, power, uses_of
from initstats.coordinates.parametrization import CHANGE, MUP, OUTPUT_VALUE
from initstats.coordinates.response import Response
from initstats.coordinates.slopes import LINE, verdict_of
from initstats.coordinates.trial import PLACE, Trial


def roles_of(grid: Grid) -> dict[int, str]:
    """The role of each layer of the smallest model.

    `input` and `hidden` values grow with the width, before and after the first hidden weights;
    `output` values do not, and output weights made them; all others (masks, scores of attention,
    the model's input, what a multiplier goes with) are `other`.
    """
    anatomy = grid.first[0].anatomy
    kinds: dict[int, set[str]] = {}
    for (use, *_), growth in uses_of(grid):
        kinds.setdefault(use.layer, set()).add(growth.kind)
    roles, between = dict[int, str](), anatomy.between()
    for layer in anatomy.places:
        behind = {kind for each in anatomy.behind(layer) for kind in kinds.get(each, ())}
        counts = [trial.anatomy.entries.get(layer, 0) for trial in grid.first]
        if layer in between:
            roles[layer] = "other"
        elif all(counts) and power(grid.x, counts) > GROWS and behind:
            roles[layer] = "hidden" if "hidden" in behind else "input"
        else:
            roles[layer] = "output" if "output" in behind else "other"
    return roles


def expected_slopes(
    slopes: pd.DataFrame,
    trial: Trial,
    roles: Mapping[int, str],
    parametrization: str,
    response: Response,
) -> pd.DataFrame:
    """Slopes with the `layer`, the `role`, what is `expected`, and a `verdict` in a word."""
    keys = PLACE[1:]
    places = trial.table.drop_duplicates(keys).set_index(keys)["layer"]
    layers = [places.get(key, -1) for key in slopes[keys].itertuples(index=False, name=None)]
    named = [roles.get(layer, "other") for layer in layers]
    weights = (slopes["tensor"] == "weight").to_numpy()
    named = ["parameter" if w else role for w, role in zip(weights, named, strict=True)]
    found = slopes.assign(layer=layers, role=named)
    degree = response.degree
    change = CHANGE.get((parametrization, round(degree) if degree == degree else 1))
    if response.orthogonal and parametrization != MUP:
        change = None
    found["expected"] = [
        _expected(role, quantity, step, parametrization, change)
        for role, quantity, step in zip(named, found["quantity"], found["step"], strict=True)
    ]
    found["verdict"] = [
        verdict_of(*line) for line in zip(*(found[name] for name in LINE), strict=True)
    ]
    return found


def _expected(
    role: str,
    quantity: str,
    step: int,
    parametrization: str,
    change: tuple[float, float, float] | None,
) -> float:
    places = ["input", "hidden", "output"]
    if role not in places:
        return np.nan
    if quantity == "value" and step == 0:
        return OUTPUT_VALUE[parametrization] if role == "output" else 0.0
    if quantity == "change" and change is not None and (step == 1 or parametrization == MUP):
        return change[places.index(role)]
    if quantity == "gradient" and parametrization == MUP:
        return 0.0 if role == "output" else -1.0
    return np.nan
