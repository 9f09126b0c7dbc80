"""The benchmark as a picture: what each ratio came to, and what it was to be."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from initstats.plots.catalog import register_figure
from initstats.plots.style import ABOVE, FIT, INK, PAGE, STYLE, fade

ACROSS = 4
"""Panels in a row."""


@register_figure(page="bench", title="Ratios of times", data=lambda given: given)
def timings(ratios: pd.DataFrame) -> Figure:
    """One panel for each ratio, one row for each workload: the median (dot), the range over the
    rounds (line) and the goal (upright mark). Green reaches its goal, red does not.
    """
    if ratios.empty:
        raise ValueError("there are no ratios to draw: time two variants of a workload at least")
    names, workloads = list(ratios["ratio"].unique()), list(ratios["workload"].unique())
    rows = -(-len(names) // ACROSS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, rows * (0.7 + 0.24 * len(workloads))), layout="constrained")
        panels = figure.subplots(rows, ACROSS, sharey=True, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            _panel(axes, ratios[ratios["ratio"] == name], workloads)
            axes.set_title(name)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, workloads: list[str]) -> None:
    height = np.array([workloads.index(name) for name in rows["workload"]])
    judged = rows["reached"].map({True: FIT, False: ABOVE})
    colors = judged.where(rows["reached"].notna(), INK).tolist()
    axes.hlines(height, rows["low"], rows["high"], colors=colors, linewidth=1.2)
    axes.scatter(rows["median"], height, s=22, c=colors, zorder=3, clip_on=False)
    axes.scatter(rows["goal"], height, s=90, marker="|", color=INK, linewidth=1.2)
    axes.axvline(1, color=fade(INK, 0.3), linewidth=0.6, zorder=0)
    axes.set_xlim(0, 1.05 * max(1.0, *rows[["high", "goal"]].max().dropna()))
    axes.set_yticks(range(len(workloads)), workloads)
    axes.set_ylim(len(workloads) - 0.5, -0.5)
