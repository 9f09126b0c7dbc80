"""The figure of a coordinate check over depth: branches, and what a step does to the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from initstats.plots.catalog import register_figure
from initstats.plots.coordinates import COLOURS, FACTOR, WORDS, factor_axis, size_axis
from initstats.plots.grid import add_key, panels
from initstats.plots.style import INK, PAGE
from initstats.registry import Need

OTHERS = {"without a multiplier": 0.5, "multiplied by 1/L": -0.5}
"""Multipliers of branches that some use, and the slopes that they have here."""

SOME = Need[Any](
    lambda found: not found.over_depth.empty,
    "no models of several depths were made, or their number of branches does not grow",
)


def over_depth(found: Any) -> pd.DataFrame:
    """Branches at init, and the change of the output, over depth, as factors.

    Returns:
        A row for each `depth` and each `what`: `factor`, the size over that at the smallest depth
        and over what depth-muP makes of it (geometric mean over seeds), and the `verdict` about
        its slope.
    """
    lines = found.over_depth
    with np.errstate(divide="ignore"):
        logs = lines.assign(log=np.log(lines["size"].to_numpy(dtype=float)))
    keys = ["what", "depth", "slope", "expected", "verdict"]
    logs = logs.groupby(keys, sort=False, as_index=False, dropna=False)["log"].mean()
    logs = logs.sort_values(["what", "depth"])
    deeper = np.log(logs["depth"].to_numpy(dtype=float) / logs["depth"].min())
    began = logs.groupby("what")["log"].transform("first").to_numpy()
    with np.errstate(invalid="ignore"):
        logs["factor"] = np.exp(logs["log"].to_numpy() - began - logs["expected"] * deeper)
    last = int(found.table["step"].max())
    titles = {"branch": "branches at init", "output": f"output, moved by step {last}"}
    named: pd.DataFrame = logs.assign(what=logs["what"].map(titles)).drop(columns="log")
    return named.reset_index(drop=True)


@register_figure(
    page="coordinates",
    title="Sizes over depth: flat is as it should be",
    data=over_depth,
    needs=[SOME],
)
def coordinate_depth(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """A flat line is what you want: the model behaves alike at every depth. Left: the size of a
    branch (what a block computes) over that of the stream (the running sum that it is added to), at
    init. Right: how far training moved the output. Both are factors: divided by the value at the
    smallest depth, and on the left by what depth-muP has at larger ones, which multiplies each of L
    branches by 1/√L. Dashed lines: what branches without a multiplier do, and those with 1/L. A
    line that rises explodes in deeper models, one that falls does less there. A grey line may be
    right or wrong: the draws of the weights differ too much to tell.
    """
    titles = [*dict.fromkeys(frame["what"])]
    figure, (grid,) = panels(
        titles, width, labels=("depth", "factor"), most=2, least=2.4, height=2.3
    )
    heights = FACTOR.height(frame["factor"])
    deepest = np.log10(frame["depth"].max() / frame["depth"].min())
    limits = FACTOR.limits(np.append(heights, [slope * deepest for slope in OTHERS.values()]))
    verdicts = {}
    for axes, title in zip(grid, titles, strict=True):
        rows = frame[frame["what"] == title]
        at, line = np.log2(rows["depth"]), FACTOR.height(rows["factor"])
        verdict = str(rows["verdict"].iloc[0]) or "too uncertain"
        verdicts[WORDS[verdict]] = Line2D([], [], color=COLOURS[verdict], lw=1.6)
        if title == titles[0]:
            _others(axes, np.asarray(at))
        axes.plot(at, line.clip(*limits), "o-", color=COLOURS[verdict], lw=1.5, ms=3.5, mew=0)
        size_axis(axes, rows["depth"])
        factor_axis(axes, limits)
    add_key(figure, verdicts)
    return figure


def _others(axes: Axes, at: np.ndarray[Any, Any]) -> None:
    """The dashed lines of other multipliers, named at their ends."""
    for name, slope in OTHERS.items():
        ends = np.array([at[0], at[-1]])
        axes.plot(ends, (ends - at[0]) * slope * np.log10(2), "--", color=to_rgba(INK, 0.5), lw=0.9)
        axes.annotate(
            name,
            (ends[1], (ends[1] - at[0]) * slope * np.log10(2)),
            xytext=(-4, 5 if slope > 0 else -5),
            textcoords="offset points",
            ha="right",
            va="bottom" if slope > 0 else "top",
            fontsize=7,
            color=to_rgba(INK, 0.8),
        )
