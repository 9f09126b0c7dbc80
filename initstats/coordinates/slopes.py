"""Slopes of log rms over log width, with intervals over seeds.

A power law is a line in logarithms. The slope is fitted to each seed by least squares, and the
seeds are the sample: mean and 95% Student-t interval. Where there is one seed, the interval is that
of the line's own residuals. Whether the widths suffice shows in the curvature: the slope at the
largest widths minus that at the smallest, of a parabola.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
STATISTICS = ["slope", "low", "high", "end", "curvature", "curvature_low", "curvature_high"]
"""What `slopes` gives: the slope and its interval; the slope between the two largest sizes; the
curvature and its interval."""


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
    design = np.vander(x - x.mean(), degree + 1, increasing=True)
    line = np.linalg.pinv(design[:, :2]) @ logs.T
    mean, low, high = interval(line[1])
    if len(logs) == 1 and len(x) > 2:
        result = stats.linregress(x, logs[0])
        half = float(stats.t.ppf(0.975, len(x) - 2) * result.stderr)
        low, high = mean - half, mean + half
    end = float(((logs[:, -1] - logs[:, -2]) / (x[-1] - x[-2])).mean())
    if degree < 2:
        return [mean, low, high, end, np.nan, np.nan, np.nan], ""
    bend = 2 * (np.linalg.pinv(design) @ logs.T)[2] * (x[-1] - x[0])
    return [mean, low, high, end, *interval(bend)], ""


def interval(sample: Array) -> tuple[float, float, float]:
    """Mean and 95% Student-t interval, without an interval of a single number."""
    mean = float(sample.mean())
    if len(sample) < 2:
        return mean, np.nan, np.nan
    error = float(sample.std(ddof=1)) / np.sqrt(len(sample))
    half = float(stats.t.ppf(0.975, len(sample) - 1)) * error
    return mean, mean - half, mean + half
