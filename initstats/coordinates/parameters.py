"""Parameters of a model over width: their kinds, and the powers that they have and should have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.coordinates.anatomy import Use
from initstats.coordinates.parametrization import Growth, Parametrization
from initstats.coordinates.response import Response
from initstats.coordinates.slopes import fit
from initstats.coordinates.trial import Trial

Array = NDArray[np.float64]
GROWS = 0.1
"""The power of width from which on something grows with it."""
TOLERANCE = 0.15
"""The largest deviation of a power that is none, where chance does not make it larger."""
ERRORS = 4.0
"""Standard errors of a power, by chance of the initial draw, that are no deviation."""
BENT = 0.25
"""The change of a slope over the widths from which on the largest two widths are believed."""
CANCELLED = 1e-4
"""A gradient this much smaller than that of the values it is summed over is rounding."""
COLUMNS = [
    *("parameter", "op", "kind", "fan_in", "fan_out", "multiplier"),
    *("init", "init_expected", "init_off", "rate", "rate_expected", "rate_off", "degree"),
    *("orthogonal", "update", "gradient", "curved", "note"),
]


@dataclass(frozen=True)
class Grid:
    """The trials of several sizes and seeds: a row a seed, a column a size.

    Attributes:
        sizes: widths, or depths.
        trials: (seeds, sizes).
    """

    sizes: Sequence[int]
    trials: Sequence[Sequence[Trial]]

    @property
    def x(self) -> Array:
        """Logarithms of the sizes."""
        logs: Array = np.log(np.array(self.sizes, dtype=np.float64))
        return logs

    @property
    def first(self) -> Sequence[Trial]:
        """The trials of the first seed."""
        return self.trials[0]


def exponents(grid: Grid, response: Response, expected: Parametrization) -> pd.DataFrame:
    """The powers of width of every parameter, a row for each of its uses.

    Args:
        response: of the optimizer.
        expected: the parametrization to compare with.

    Returns:
        The columns

        - `parameter`, `op`: its name, and the operation that uses it;
        - `kind`, `fan_in`, `fan_out`: see `Growth`;
        - `multiplier`: power of the constants that it, its input and its output are multiplied by;
        - `init`: power of the initial rms, with the multiplier; `rate`: power of the learning rate,
          with the multiplier as it acts on it; each with what is expected and the difference, which
          is NaN where it is not judged;
        - `degree` of the optimizer; `orthogonal`: whether it makes the updates orthogonal, so that
          `rate` is the power of their spectral norm; `update` and `gradient`: powers of the rms of
          the first update and of its gradient;
        - `curved`: whether it is no power law, so that the two largest widths were taken;
        - `note`: why something is not judged.
    """
    sizes = [sizes_of(trials) for trials in grid.trials]
    rows = []
    for use, growth in uses_of(grid):
        rows.append(_row(grid, sizes, use, growth, response, expected))
    return pd.DataFrame(rows, columns=COLUMNS)


def uses_of(grid: Grid) -> list[tuple[list[Use], Growth]]:
    """The uses of parameters that all sizes have, each with its growth."""
    listed = [trial.anatomy.uses for trial in grid.first]
    named = [{_key(uses, at): use for at, use in enumerate(uses)} for uses in listed]
    shared = [key for key in named[0] if all(key in each for each in named)]
    found = []
    for key in shared:
        uses = [each[key] for each in named]
        shapes = [trial.shapes.get(key[0], ()) for trial in grid.first]
        found.append((uses, growth_of(uses, shapes, grid.x)))
    return found


def growth_of(uses: Sequence[Use], shapes: Sequence[tuple[int, ...]], x: Array) -> Growth:
    """How a parameter grows, from its fans or, where nothing is summed, from its entries."""
    if math.isnan(uses[0].fan_in):
        grown = min(power(x, [math.prod(shape) for shape in shapes]), 1.0)
        return Growth("vector" if abs(grown) > GROWS else "fixed", 0.0, grown)
    fan_in = power(x, [use.fan_in for use in uses])
    fan_out = power(x, [use.fan_out for use in uses])
    grows = fan_in > GROWS, fan_out > GROWS
    kinds = {(0, 1): "input", (1, 1): "hidden", (1, 0): "output", (0, 0): "fixed"}
    return Growth(kinds[grows], fan_in, fan_out)


def power(x: Array, values: Sequence[float]) -> float:
    """The power of size with which some numbers grow."""
    return fit(x, np.log([[float(value) for value in values]]))[0][0]


def _key(uses: Sequence[Use], at: int) -> tuple[str, str, int]:
    """A use by parameter and operation, counted where these repeat."""
    use = uses[at]
    before = sum((u.parameter, u.op) == (use.parameter, use.op) for u in uses[:at])
    return use.parameter, use.op, before


Sizes = Mapping[tuple[str, str, int], float]


def sizes_of(trials: Sequence[Trial]) -> list[Sizes]:
    """The rms of parameters by name, quantity and step, of each trial."""
    found: list[Sizes] = []
    for trial in trials:
        own = trial.table[trial.table["tensor"] == "weight"]
        keys = zip(own["name"], own["quantity"], own["step"], strict=True)
        found.append(dict(zip(keys, own["rms"], strict=True)))
    return found


def _row(
    grid: Grid,
    sizes: Sequence[Sequence[Sizes]],
    uses: Sequence[Use],
    growth: Growth,
    response: Response,
    expected: Parametrization,
) -> dict[str, object]:
    name, degree = uses[0].parameter, response.degrees.get(uses[0].parameter, math.nan)
    orthogonal = name in response.orthogonal and uses[0].sums
    scales = np.array([t.anatomy.multiplier(u) for t, u in zip(grid.first, uses, strict=True)])
    row: dict[str, object] = {"parameter": name, "op": uses[0].op, "kind": growth.kind}
    row |= {"fan_in": growth.fan_in, "fan_out": growth.fan_out, "degree": degree}
    row["orthogonal"] = orthogonal
    row["multiplier"] = power(grid.x, scales.tolist()) if (scales > 0).all() else math.nan
    if math.isnan(float(str(row["multiplier"]))):
        return row | {"note": "it is another function of the parameter than a multiple"}

    def of(quantity: str, step: int) -> Array:
        return np.array([[each.get((name, quantity, step), math.nan) for each in r] for r in sizes])

    numels = np.array([math.prod(trial.shapes[name]) for trial in grid.first])
    constant, shape = name in grid.first[-1].constant, grid.first[-1].shapes[name]
    chance = 0.0 if constant else chance_of(grid, numels)
    init, curved, zero = power_of(grid.x, of("value", 0) * scales)
    row |= {"init": init, "init_expected": expected.init(growth, degree)}
    if not zero:
        off = _told(init - expected.init(growth, degree), max(TOLERANCE, chance * (1 + curved)))
        # what is added, and no gain, may begin at zero
        added = growth.kind in ("vector", "fixed") and len(shape) < 2 and not constant
        row["init_off"] = max(off, 0.0) if added else off
    steps = [s for (n, q, s) in sizes[0][0] if (n, q) == (name, "update")]
    moved = [s for s in sorted(steps) if _moves(of("update", s), of("gradient", s - 1))]
    row["curved"] = curved
    if not moved:
        return row | {"note": "it is not updated"}
    if is_rounding(grid, uses, of("gradient", 0)):
        return row | {"note": "its gradient is zero, up to rounding"}
    update, gradient = of("update", moved[0]), of("gradient", moved[0] - 1)
    row["update"] = power_of(grid.x, update * scales)[0]
    row["gradient"] = power_of(grid.x, gradient / scales)[0]
    if math.isnan(degree) or 0.1 < degree < 0.9:
        mixed = "the optimizer's updates are between those of SGD and Adam"
        return row | {"note": f"{mixed} (degree {degree:.2f})"}
    moves = update / gradient**degree
    if orthogonal:
        norms = [[trial.spectral[name, moved[0]] for trial in trials] for trials in grid.trials]
        moves = np.array(norms)
    rate, bent, note = power_of(grid.x, moves * scales ** (1 + degree))
    if note:
        return row | {"note": f"its updates are {note}"}
    wanted = expected.rate_of(growth, degree, orthogonal=orthogonal)
    row |= {"rate": rate, "rate_expected": wanted, "curved": curved or bent}
    row["rate_off"] = _told(rate - wanted, TOLERANCE)
    return row | {"note": ""}


def power_of(x: Array, values: Array) -> tuple[float, bool, str]:
    """The power, whether it is that of the largest two sizes only, and why there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        (slope, *_, end, bend, low, high), note = fit(x, np.log(values))
    bent = abs(bend) > BENT and not low <= 0 <= high
    return (end if bent else slope), bool(bent), note


def chance_of(grid: Grid, numels: Array) -> float:
    """What the power of an initial rms may be off by chance."""
    weights = np.linalg.pinv(np.vander(grid.x - grid.x.mean(), 2, increasing=True))[1]
    return float(ERRORS * np.sqrt((weights**2 / (2 * numels * len(grid.trials))).sum()))


def is_rounding(grid: Grid, uses: Sequence[Use], gradients: Array) -> bool:
    """Whether the gradient of a vector is what remains where the gradients of a batch cancel."""
    if uses[0].sums:
        return False
    for at, (trial, use) in enumerate(zip(grid.first, uses, strict=True)):
        many = trial.anatomy.entries[use.layer] / math.prod(trial.shapes[use.parameter])
        size = trial.anatomy.gradients.get(use.layer, 0.0) * math.sqrt(many)
        if 0 < gradients[:, at].max() < CANCELLED * size:
            return True
    return False


def _told(off: float, tolerance: float) -> float:
    """A deviation; 0 where it is none."""
    return off if abs(off) > tolerance else 0.0


def _moves(update: Array, gradient: Array) -> bool:
    return bool((update > 0).all() and (gradient > 0).all())
