"""Depth: do the branches of a residual stream, and what they learn, add up alike at any depth.

Depth-muP (Yang et al. 2023, arXiv:2310.02244; Bordelon et al. 2023, arXiv:2309.16620) multiplies
each of L branches by L^-1/2, so that the sum of L independent branches keeps its size. Updates
agree, and add up as L: each may change its branch by 1/L. Under SGD that needs no change of the
learning rate, under Adam L^-1/2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from initstats.coordinates.anatomy import Anatomy, Use
from initstats.coordinates.parameters import (
    TOLERANCE,
    Array,
    Grid,
    chance_of,
    is_rounding,
    power,
    power_of,
    sizes_of,
)
from initstats.coordinates.remedies import depth_rate_lines, snapped, written
from initstats.coordinates.slopes import fit, verdict_of
from initstats.coordinates.trial import Trial
from initstats.plural import counted

Told = tuple[str, str, str, str, str]

BRANCH_SCALE, DEPTH_RATE = "branch_scale", "depth_learning_rate"
"""The rules about depth."""
CHANCE = 0.25
"""A difference by chance between the power of a branch's size and that of its multiplier."""


class Branch(NamedTuple):
    """A branch that is added to a stream.

    Attributes:
        stream, end: the layers that are added: the stream, and what the branch made.
        layers: of the branch.
    """

    stream: int
    end: int
    layers: frozenset[int]


def branches_of(anatomy: Anatomy) -> list[Branch]:
    """The branches of a model as they run: each begins at the stream that it is added to."""
    found = []
    for layer in sorted(anatomy.inputs):
        if not anatomy.is_sum(layer):
            continue
        behind = {each: {*anatomy.behind(each)} for each in anatomy.inputs[layer]}
        for stream, branch in (sorted(behind), sorted(behind, reverse=True)):
            if stream in behind[branch] and stream != 0:
                own = behind[branch] - behind[stream]
                found.append(Branch(stream, branch, frozenset(own)))
                break
    return found


def over_depth_of(grid: Grid, degrees: Mapping[str, float]) -> tuple[list[Told], pd.DataFrame]:
    """The findings of `depth_findings` and the lines of `depth_lines`."""
    ratios = branch_sizes(grid)
    return depth_findings(grid, degrees, ratios), depth_lines(grid, ratios)


def branch_sizes(grid: Grid) -> pd.DataFrame:
    """How large branches are beside their stream at init, over depth.

    Returns:
        A row for each depth and seed: `ratio`, the geometric mean of the rms of a branch over that
        of its stream, of the branches that all depths have. Empty where the number of branches does
        not grow with the depth.
    """
    counts = [len(branches_of(trial.anatomy)) for trial in grid.first]
    if min(counts) < 1 or len({*counts}) < len(counts):
        return pd.DataFrame({"depth": [], "seed": [], "ratio": []})
    rows = []
    for trial in (trial for trials in grid.trials for trial in trials):
        rms = trial.anatomy.rms
        pairs = [(rms[b.end], rms[b.stream]) for b in branches_of(trial.anatomy)[: counts[0]]]
        logs = [math.log(branch / stream) for branch, stream in pairs if branch and stream]
        ratio = math.exp(np.mean(logs)) if logs else 0.0
        rows.append((trial.size.depth, trial.size.seed, ratio))
    return pd.DataFrame(rows, columns=["depth", "seed", "ratio"])


def depth_lines(grid: Grid, ratios: pd.DataFrame) -> pd.DataFrame:
    """Branches at init and the change of the output over depth, beside depth-muP.

    Args:
        ratios: what `branch_sizes` gives.

    Returns:
        A row for each depth, seed and `what`: `branch`, its size over that of its stream at init,
        or `output`, how far training moved it by the last step: `size`; and of the line, the
        `slope` of log size over log depth with its 95% interval (`low`, `high`), what is `expected`
        and a `verdict` in a word. Empty where `ratios` is.
    """
    if ratios.empty:
        return ratios
    branch = ratios["ratio"].to_numpy(dtype=float).reshape(len(grid.trials), -1)
    output = np.array([[_moved(trial) for trial in trials] for trials in grid.trials])
    parts = []
    for what, sizes, expected in (("branch", branch, -0.5), ("output", output, 0.0)):
        with np.errstate(divide="ignore", invalid="ignore"):
            (slope, low, high, end, *_), _ = fit(grid.x, np.log(sizes))
        word = verdict_of(slope, end, expected, low, high, TOLERANCE)
        part = ratios[["depth", "seed"]].assign(what=what, size=sizes.ravel())
        part = part.assign(slope=slope, low=low, high=high, expected=expected, verdict=word)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _moved(trial: Trial) -> float:
    """How far training moved the output."""
    rows = trial.table[trial.table["quantity"] == "change"]
    ends = rows[rows["step"] == rows["step"].max()].sort_values("layer")["rms"]
    return float(ends.iloc[-1]) if len(ends) else math.nan


def depth_findings(grid: Grid, degrees: Mapping[str, float], ratios: pd.DataFrame) -> list[Told]:
    """What is off over depth, in the form of findings without their subject.

    Args:
        grid: trials of one width over the depths.
        degrees: of the optimizer by parameter.
        ratios: what `branch_sizes` gives.
    """
    if ratios.empty:
        reason = "the number of branches that are added to a stream does not grow with the depth"
        return [("unchecked", BRANCH_SCALE, "", reason, "")]
    scale, note = _scale(grid, ratios)
    if note:
        return [("unchecked", BRANCH_SCALE, "", f"the branches' sizes at init: {note}", "")]
    branches = branches_of(grid.first[0].anatomy)
    told = [*_branch(scale, branches, grid)]
    # what learning rates are to be once the branches are repaired
    mended = -0.5 if scale + 0.5 > TOLERANCE else scale
    told += _rates(grid, degrees, mended, branches)
    if not told:
        told.append(("healthy", BRANCH_SCALE, "", "branches and their updates add up alike", ""))
    return told


def _scale(grid: Grid, ratios: pd.DataFrame) -> tuple[float, str]:
    """The power of depth of a branch's size over its stream's."""
    sizes = ratios["ratio"].to_numpy().reshape(len(grid.trials), len(grid.sizes))
    value, _, note = power_of(grid.x, sizes)
    with np.errstate(divide="ignore"):
        (_, low, high, *_), _ = fit(grid.x, np.log(sizes))
    ends = [(t.anatomy, branches_of(t.anatomy)[0].end) for t in grid.first]
    given = power(grid.x, [abs(anatomy.from_source(end)) for anatomy, end in ends])
    if abs(value - given) <= CHANCE:
        return given, note
    return value, note or "too uncertain, more seeds would tell" * bool(low <= given <= high)


def _branch(scale: float, branches: list[Branch], grid: Grid) -> Iterator[Told]:
    off = scale + 0.5
    if abs(off) <= TOLERANCE:
        return
    name, op = grid.first[0].anatomy.places[branches[0].end]
    effect = (
        "their sum grows with the depth L"
        if off > 0
        else "deep branches do less than they might (1/L, as some have it, is the lazy end)"
    )
    yield (
        "error" if off > 0 else "note",
        BRANCH_SCALE,
        f"{name} ({op}) and {counted(len(branches) - 1, 'other branch', 'other branches')}",
        f"branches over their stream are proportional to {written(scale, 'L')}, with depth-muP it "
        f"is {written(-0.5, 'L')}: {effect}",
        f"x = x + branch(x) * (depth / {grid.sizes[0]}) ** {-snapped(off):g}",
    )


def _rates(
    grid: Grid, degrees: Mapping[str, float], scale: float, branches: list[Branch]
) -> Iterator[Told]:
    """Learning rates over depth, those together that are off alike."""
    inside = {layer for branch in branches for layer in branch.layers}
    groups: dict[tuple[float, float, bool], list[str]] = {}
    sizes = [sizes_of(trials) for trials in grid.trials]
    for use in grid.first[0].anatomy.uses:
        degree = degrees.get(use.parameter, math.nan)
        own = _own(grid, sizes, use, degree)
        if own is None:
            continue
        initial, bent, rate = own
        branch = use.layer in inside
        wanted = -1 - (1 + degree) * (scale - initial) if branch else 0.0
        numels = [float(math.prod(trial.shapes[use.parameter])) for trial in grid.first]
        chance = (1 + degree) * (1 + bent) * chance_of(grid, np.array(numels))
        if abs(rate - wanted) > max(TOLERANCE, chance if branch and initial else 0.0):
            key = snapped(rate - wanted), snapped(rate), branch
            groups.setdefault(key, []).append(use.parameter)
    for (off, rate, branch), several in groups.items():
        names = [*dict.fromkeys(several)]
        of = "parameters in branches" if branch else "parameters outside of branches"
        effect = "more" if off > 0 else "less"
        yield (
            "error" if off > 0 else "warning",
            DEPTH_RATE,
            ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else ""),
            f"the learning rate of {of} is proportional to {written(rate, 'L')}, with depth-muP it "
            f"is {written(rate - off, 'L')}: updates change the model {effect}, the deeper it is",
            depth_rate_lines(names, off, grid.sizes[0]),
        )


def _own(
    grid: Grid, sizes: list[list[Mapping[tuple[str, str, int], float]]], use: Use, degree: float
) -> tuple[float, bool, float] | None:
    """Of a parameter, powers of depth: that of its initial rms, whether of two depths only, and
    that of its learning rate.
    """

    def of(quantity: str, step: int) -> Array:
        key = use.parameter, quantity, step
        return np.array([[each.get(key, math.nan) for each in row] for row in sizes])

    value, update, gradient = of("value", 0), of("update", 1), of("gradient", 0)
    moves = (update > 0).all() and (gradient > 0).all()
    if not moves or math.isnan(degree) or 0.1 < degree < 0.9:
        return None
    same = [[u for u in t.anatomy.uses if u.parameter == use.parameter] for t in grid.first]
    if not all(same) or is_rounding(grid, [each[0] for each in same], gradient):
        return None
    initial, bent, zero = power_of(grid.x, value)
    rate, *_ = power_of(grid.x, update / gradient**degree)
    return (0.0 if zero else initial), bent, rate
