"""The lesson's question: does subtracting a constant bring the mean of ReLU back?"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from initstats.diagnosis import CONFIGURATION
from initstats.plots.catalog import register_figure
from initstats.plots.curves import (
    Curve,
    Scale,
    decorate,
    draw_curves,
    draw_seeds,
    layer_ticks,
    note,
    over_seeds,
)
from initstats.plots.grid import parts_of
from initstats.plots.results import Results, headings, order
from initstats.plots.style import INK, PAGE, StyledFigure, decimal, fade, strokes
from initstats.registry import Need

LESSON = "kaiming_normal"
"""The lesson's init."""


def _plain(shown: tuple[float, float], bounds: tuple[float, float]) -> Scale:
    return Scale(False, shown, bounds, 0.25, lambda x: decimal(x, 2))


PANELS = {
    "mean": ("mean", _plain((-0.25, 0.75), (-1.5, 2.0))),
    "std": ("standard deviation", _plain((0, 1), (0, 2.0))),
}


def shifted(results: Results) -> list[str]:
    """The ReLU variants that subtract a constant, by name."""
    return [name for name in results.activations if name.partition("(")[0] == "shifted_relu"]


def lesson_init(results: Results) -> str:
    """The init of the lesson where it was measured, else the first that keeps relu healthy."""
    healthy = results.summary.query("activation == 'relu' and verdict == 'healthy'")["init"]
    names = [LESSON, *healthy, *results.inits]
    return next(str(name) for name in names if name in results.inits)


RELU_AND_SHIFTED = Need[Any](
    lambda results: "relu" in results.activations and bool(shifted(results)),
    "it compares relu with shifted_relu; ask for both",
)


def by_seed(results: Results) -> pd.DataFrame:
    """Mean and std of relu and its shifted variants under one init, by layer.

    Returns:
        The columns of a configuration, `layer`, `statistic`, `seed`, `value`; of the mean over
        seeds, whose `seed` is missing, `low` and `high` are its 95% Student-t interval.
    """
    results, init = results.few, lesson_init(results.few)
    names = ["relu", *shifted(results)]

    def chosen(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[(rows["init"] == init) & rows["activation"].isin(names)]

    part = replace(results, table=chosen(results.table), summary=chosen(results.summary))
    part = replace(part, predicted=None)
    parts = []
    for statistic, (_, scale) in PANELS.items():
        mean = over_seeds(part, statistic, "activation", scale=scale)
        parts += [
            rows.rename(columns={statistic: "value"}).assign(statistic=statistic)
            for rows in (part.ordered(part.measured("activation")), mean)
        ]
    columns = [*CONFIGURATION, "layer", "statistic", "seed", "value", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns]


@register_figure(
    title="Does subtracting a constant bring the mean back?", data=by_seed, needs=[RELU_AND_SHIFTED]
)
def shifted_relu_story(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Mean and standard deviation of the activations under relu and under relu minus a constant,
    for one init: every seed (thin), their mean and its 95% Student-t interval, with the values at
    both ends. See whether the constant that suits the first layer still suits the deeper ones,
    whose input has changed. With kaiming's variance and infinite width the mean settles at minus
    half the constant.
    """
    width = width or PAGE
    across = 2 if width >= 6 else 1
    names = headings(frame)
    figure = StyledFigure((width, 2.3 * len(names) * (2 // across)))
    under = f"under {frame['init'].iloc[0]}"
    texts = [", ".join(filter(None, (heading, under))) for heading in names.values()]
    for part, block in zip(parts_of(figure, texts), names, strict=True):
        here = frame[(frame["network"] == block.network) & (frame["width"] == block.width)]
        grid = part.subplots(2 // across, across).ravel()
        for axes, statistic in zip(grid, PANELS, strict=True):
            _panel(axes, here[here["statistic"] == statistic], statistic)
        grid[-1].set_xlabel("layer")
        if across > 1:
            grid[0].set_xlabel("layer")
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, statistic: str) -> None:
    """One statistic of relu and of its shifted variants, labelled at the last layer."""
    names, depth = order(rows["activation"]), int(rows["layer"].max())
    styles = strokes(names)
    label, scale = PANELS[statistic]
    draws = rows[rows["seed"].notna()]
    limits = scale.limits([draws["value"].to_numpy()])
    decorate([axes], scale, limits)
    axes.set(xlim=(0.5, depth + 0.5), xticks=layer_ticks(depth), ylabel=label)
    axes.axhline(0, color=fade(INK, 0.5), lw=0.6, zorder=0)
    starts, ends = {}, {}
    for name in names:
        draw_seeds(axes, draws[draws["activation"] == name], "value", styles[name].color)
        mean = rows[(rows["activation"] == name) & rows["seed"].isna()]
        curve = Curve.of(mean, "layer", "value", scale)
        draw_curves(axes, [(curve, styles[name], True)], limits)
        if limits[0] <= curve.mean[0] <= limits[1]:
            starts[_value(curve.mean[0])] = curve.mean[0]  # what coincides, once
        ends[name] = curve.mean[-1]
    for text, height in starts.items():
        note(axes, text, (1, height), (0, 8), ha="center")
    heights = np.nan_to_num(np.array(list(ends.values())), nan=limits[1]).clip(*limits)
    for (name, end), height in zip(ends.items(), _apart(heights, limits), strict=True):
        note(axes, f"{name}\n{_value(end)}", (depth + 0.5, height), (3, -2))


def _value(mean: float) -> str:
    return "overflow" if np.isnan(mean) else decimal(mean, 2)


def _apart(heights: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    """Heights of labels near these, moved up until they do not overlap."""
    room = 0.18 * (limits[1] - limits[0])
    placed = heights.copy()
    for below, above in pairwise(np.argsort(heights, kind="stable")):
        placed[above] = max(placed[above], placed[below] + room)
    return placed
