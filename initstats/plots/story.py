"""The lesson's question: does subtracting a constant bring the mean of ReLU back?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from initstats.diagnosis import CONFIGURATION, seed_interval
from initstats.plots.catalog import register_figure
from initstats.plots.curves import Scale, apart, decorate, draw_seeds, layer_ticks, note
from initstats.plots.grid import panels
from initstats.plots.results import Results, headings, order
from initstats.plots.style import INK, PAGE, decimal, strokes
from initstats.registry import Need

LESSON = "kaiming_normal"
ROOM = 0.18
"""What a label of two lines needs, as a share of a panel's height."""
"""The lesson's init."""


PANELS = {
    "mean": ("mean", Scale(False, (-0.25, 0.75), (-3.0, 6.0), 0.25)),
    "std": ("standard deviation", Scale(False, (0, 1), (0, 6.0), 0.25)),
}
"""The statistics, their titles and their axes."""


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
    rows = results.ordered(results.measured("activation"))
    rows = rows[(rows["init"] == init) & rows["activation"].isin(["relu", *shifted(results)])]
    by = [*CONFIGURATION, "layer", "statistic"]
    rows = rows.melt([*by[:-1], "seed", "nonfinite"], list(PANELS), "statistic", "value")
    finite = rows.assign(value=rows["value"].where(rows["nonfinite"] == 0))
    means = seed_interval(finite, "value", by).rename(columns={"mean": "value"}).reset_index()
    return pd.concat([rows, means], ignore_index=True)[[*by, "seed", "value", "low", "high"]]


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
    names, under = headings(frame), f"under {frame['init'].iloc[0]}"
    figure, grid = panels(
        [title for title, _ in PANELS.values()],
        width or PAGE,
        blocks=[", ".join(filter(None, (heading, under))) for heading in names.values()],
        labels=("layer", ""),
        least=2.5,
        height=1.75,
        share="x",
    )
    for block, part in zip(names, grid, strict=True):
        for axes, statistic in zip(part, PANELS, strict=True):
            rows = block.rows(frame)
            draw_story(axes, rows[rows["statistic"] == statistic], statistic)
    return figure


def draw_story(axes: Axes, rows: pd.DataFrame, statistic: str) -> None:
    """One statistic of relu and of its shifted variants, labelled at the last layer."""
    styles, depth = strokes(order(rows["activation"])), int(rows["layer"].max())
    scale = PANELS[statistic][1]
    limits = scale.limits(rows.loc[rows["seed"].notna(), "value"].to_numpy())
    decorate([axes], scale, limits)
    axes.set(xlim=(0.5, depth + 0.5), xticks=layer_ticks(depth))
    axes.axhline(0, color=to_rgba(INK, 0.5), lw=0.6, zorder=0)
    starts, ends = {}, {}
    for name, (color, *_) in styles.items():
        mean = draw_seeds(axes, rows[rows["activation"] == name], color)
        mean = mean.reindex(columns=["layer", "value", "low", "high"])  # a lesson has no interval
        at, value, low, high = mean.to_numpy(dtype=float).T
        axes.fill_between(at, low, high, color=to_rgba(color, 0.18), lw=0, zorder=1)
        if limits[0] <= value[0] <= limits[1]:
            starts[_value(value[0])] = value[0]  # what coincides, once
        ends[name] = value[-1]
    for text, height in starts.items():
        note(axes, text, (1, height), (0, 8))
    heights = np.nan_to_num(np.array(list(ends.values())), nan=limits[1]).clip(*limits)
    for (name, end), height in zip(ends.items(), apart(heights, limits, ROOM), strict=True):
        end_at, color = (depth + 0.5, height), styles[name].color
        note(axes, f"{name}\n{_value(end)}", end_at, (3, -2), color=color)


def _value(mean: float) -> str:
    return "overflow" if np.isnan(mean) else decimal(mean, 2)
