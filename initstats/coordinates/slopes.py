"""Slopes of log rms over log width, with intervals over seeds.

A power law is a line in logarithms. The slope is fitted to each seed by least squares, and the
seeds are the sample: mean and 95% Student-t interval. Where there is one seed, the interval is that
of the line's own residuals. Whether the widths suffice shows in the curvature: the slope at the
largest widths minus that at the smallest, of a parabola.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
STATISTICS = ["slope", "low", "high", "end", "curvature", "curvature_low", "curvature_high"]
"""What `slopes` gives: the slope and its interval; the slope between the two largest sizes; the
curvature and its interval."""
FAR = 0.25
"""The distance of a slope from what is expected from which on it is told."""
WIDE = 0.5
"""The half width of an interval from which on it says nothing: powers differ by halves."""
LINE = ["slope", "end", "expected", "low", "high"]
"""What a verdict needs."""


def slopes(table: pd.DataFrame, keys: Sequence[str], over: str) -> pd.DataFrame:
    """The slope of log `rms` over log `over` of each group.

    Args:
        table: with the columns `keys`, `over`, `seed` and `rms`.
        keys: what names a group.
        over: "width" or "depth".

    Returns:
        A row a group: the keys, `STATISTICS`, and `note`: why there is no slope, "" where there is
        one.
    """
    sizes = np.sort(table[over].unique())
    columns = [*keys, "seed"]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = table.assign(log=np.log(table["rms"].to_numpy(dtype=float)))
    wide = logs.pivot_table(
        index=columns, columns=over, values="log", dropna=False, aggfunc="first", observed=True
    )
    wide = wide.reindex(columns=sizes).dropna(how="all")
    rows = []
    for key, block in wide.groupby(list(keys), sort=False, observed=True, dropna=False):
        found, note = fit(np.log(sizes.astype(float)), block.to_numpy(dtype=float))
        rows.append((*(key if isinstance(key, tuple) else (key,)), *found, note))
    return pd.DataFrame(rows, columns=[*keys, *STATISTICS, "note"])


def fit(x: Array, logs: Array) -> tuple[list[float], str]:
    """The `STATISTICS` of some lines, and why there are none.

    Args:
        x: logarithms of sizes, (sizes,).
        logs: of values, (seeds, sizes); -inf is a value of 0.
    """
    nothing = [np.nan] * len(STATISTICS)
    if len(x) < 2:
        return nothing, "one size only"
    if np.isneginf(logs).all():
        return nothing, "zero at every size"
    if np.isnan(logs).any(axis=0).all():
        return nothing, "not there at every size"
    if not np.isfinite(logs).all():
        return nothing, "zero, missing or not finite at some sizes"
    degree = min(len(x) - 1, 2)
    line = _solving(tuple(x.tolist()), 1) @ logs.T
    mean, low, high = interval(line[1])
    if len(logs) == 1 and len(x) > 2:
        result = stats.linregress(x, logs[0])
        half = _quantile(len(x) - 2) * float(result.stderr)
        low, high = mean - half, mean + half
    end = float(((logs[:, -1] - logs[:, -2]) / (x[-1] - x[-2])).mean())
    if degree < 2:
        return [mean, low, high, end, np.nan, np.nan, np.nan], ""
    bend = 2 * (_solving(tuple(x.tolist()), 2) @ logs.T)[2] * (x[-1] - x[0])
    return [mean, low, high, end, *interval(bend)], ""


def verdict_of(
    slope: float, end: float, expected: float, low: float, high: float, far: float = FAR
) -> str:
    """A slope in a word.

    It is `too uncertain` where the interval holds what is expected though the slope is far from it,
    or is wider than half a power to each side; `curved` where the largest sizes say something else.
    Without an interval (one seed and two sizes) the slope is believed.
    """
    if np.isnan(slope) or np.isnan(expected):
        return ""
    near = abs(slope - expected) <= far
    if (high - low) / 2 > WIDE if near else low <= expected <= high:
        return "too uncertain"
    if near:
        return "as expected"
    if abs(end - expected) <= far or (end - expected) * (slope - expected) < 0:
        return "curved"
    return "grows" if slope > expected else "vanishes"


def interval(sample: Array) -> tuple[float, float, float]:
    """Mean and 95% Student-t interval, without an interval of a single number."""
    mean = float(sample.mean())
    if len(sample) < 2:
        return mean, np.nan, np.nan
    error = float(sample.std(ddof=1)) / np.sqrt(len(sample))
    half = _quantile(len(sample) - 1) * error
    return mean, mean - half, mean + half


@cache
def _quantile(freedom: int) -> float:
    """Half the width of a 95% interval in standard errors."""
    return float(stats.t.ppf(0.975, freedom))


@cache
def _solving(x: tuple[float, ...], degree: int) -> Array:
    """What makes of values at some places the coefficients of the polynomial nearest to them."""
    solving: Array = np.linalg.pinv(
        np.vander(np.array(x) - np.mean(x), degree + 1, increasing=True)
    )
    return solving
