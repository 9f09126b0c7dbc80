"""The benchmark as a picture: what each ratio came to, and what it was to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from initstats.plots.catalog import register_figure
from initstats.plots.grid import panels
from initstats.plots.style import ABOVE, FIT, INK, PAGE
from initstats.registry import Need

SOME = Need[Any](
    lambda ratios: len(ratios) > 0,
    "there are no ratios to draw: time two variants of a workload at least",
)


@register_figure(
    page="bench", title="Ratios of times", data=lambda ratios: ratios.copy(), needs=[SOME]
)
def timings(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """One panel for each ratio, one row for each workload: the median (dot), the range over the
    rounds (line) and the goal (upright mark). Green reaches its goal, red does not.
    """
    names, workloads = list(frame["ratio"].unique()), list(frame["workload"].unique())
    height = 0.2 * len(workloads) + 0.1
    figure, (grid,) = panels(names, width, most=4, height=height, share="y")
    for axes, name in zip(grid, names, strict=True):
        _panel(axes, frame[frame["ratio"] == name], workloads)
    grid[0].set_yticks(range(len(workloads)), workloads)
    grid[0].set_ylim(len(workloads) - 0.5, -0.5)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, workloads: list[str]) -> None:
    height = np.array([workloads.index(name) for name in rows["workload"]])
    judged = rows["reached"].map({True: FIT, False: ABOVE})
    colors = judged.where(rows["reached"].notna(), INK).tolist()
    axes.hlines(height, rows["low"], rows["high"], colors=colors, linewidth=1.2)
    axes.scatter(rows["median"], height, s=22, c=colors, zorder=3, clip_on=False)
    axes.scatter(rows["goal"], height, s=90, marker="|", color=INK, linewidth=1.2)
    axes.axvline(1, color=to_rgba(INK, 0.3), linewidth=0.6, zorder=0)
    axes.set_xlim(0, 1.05 * max(1.0, *rows[["high", "goal"]].max().dropna()))
