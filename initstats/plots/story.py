"""The lesson's question: does subtracting a constant bring the mean of ReLU back?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from initstats.plots.catalog import Need, register_figure
from initstats.plots.lines import Scale, by_depth, decorate, draw_curve
from initstats.plots.results import Block, Results
from initstats.plots.style import INK, PAGE, decimal, fade, strokes

LESSON = "kaiming_normal"


def _plain(shown: tuple[float, float], bounds: tuple[float, float]) -> Scale:
    return Scale(lambda values: values, shown, bounds, 0.25, lambda x: decimal(x, 2))


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


RELU_AND_SHIFTED = Need(
    lambda results: "relu" in results.activations and bool(shifted(results)),
    "it compares relu with shifted_relu; ask for both",
)


@register_figure(
    title="Does subtracting a constant bring the mean back?",
    data=lambda results: results,
    needs=[RELU_AND_SHIFTED],
)
def shifted_relu_story(results: Results) -> Figure:
    """Mean and standard deviation of the activations under relu and under relu minus a constant,
    for one init: every seed (thin), their mean and its 95% Student-t interval, with the values at
    both ends. See whether the constant that suits the first layer still suits the deeper ones,
    whose input has changed. With kaiming's variance and infinite width the mean settles at minus
    half the constant.
    """
    init = lesson_init(results)
    rows, across = 2.6, 3.1
    height = rows * len(results.blocks)
    figure = Figure(figsize=(PAGE, height))
    for number, block in enumerate(results.blocks):
        bottom = height - rows * (number + 1) + 0.36
        for column, statistic in enumerate(PANELS):
            box = (0.6 + 4.45 * column, bottom, across, rows - 0.66)
            axes = figure.add_axes(
                (box[0] / PAGE, box[1] / height, box[2] / PAGE, box[3] / height),
                label=f"{number} {statistic}",
            )
            _panel(axes, results, block, init, statistic)
            heading = ", ".join(filter(None, (results.name(block), f"under {init}")))
            axes.set_title(heading if column == 0 else "")
            axes.set_xlabel("layer", labelpad=1)
    return figure


def _panel(axes: Axes, results: Results, block: Block, init: str, statistic: str) -> None:
    """One statistic of relu and of its shifted variants, labelled at the last layer."""
    names = ["relu", *shifted(results)]
    styles = strokes(names)
    label, scale = PANELS[statistic]
    curves = by_depth(results, statistic, "activation", "forward", scale)
    draws = _draws(results, block, init, statistic)
    measured = [name for name in names if (block.network, init, name, block.width) in curves]
    limits = scale.limits(draws[name].to_numpy().ravel() for name in measured)
    decorate(axes, scale, limits, results.depth)
    starts, ends = {}, {}
    for name in measured:
        curve = curves[block.network, init, name, block.width]
        axes.plot(draws.index, draws[name], color=fade(styles[name].color, 0.28), lw=0.6)
        draw_curve(axes, curve, styles[name], limits)
        if limits[0] <= curve.mean[0] <= limits[1]:
            starts[_value(curve.mean[0])] = (1.0, curve.mean[0])  # what coincides, once
        ends[name] = curve.mean[-1]
    for text, place in starts.items():
        _note(axes, text, place, (0, 8), "center")
    heights = np.nan_to_num(np.array(list(ends.values())), nan=limits[1]).clip(*limits)
    for (name, end), height in zip(ends.items(), _apart(heights, limits), strict=True):
        _note(axes, f"{name}\n{_value(end)}", (results.depth + 0.5, height), (3, -2), "left")
    axes.set_ylabel(label)
    axes.axhline(0, color=fade(INK, 0.5), lw=0.6, zorder=0)


def _value(mean: float) -> str:
    return "overflow" if np.isnan(mean) else decimal(mean, 2)


def _note(
    axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], side: str
) -> None:
    """Small print beside a place in the panel."""
    axes.annotate(
        text,
        place,
        offset,
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=7.5,
        annotation_clip=False,
    )


def _apart(heights: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    """Heights of labels near these, moved up until they do not overlap."""
    room = 0.15 * (limits[1] - limits[0])
    placed = heights.copy()
    for below, above in pairwise(np.argsort(heights, kind="stable")):
        placed[above] = max(placed[above], placed[below] + room)
    return placed


def _draws(results: Results, block: Block, init: str, statistic: str) -> pd.DataFrame:
    """A statistic of the activations by layer, a column for every (activation, seed)."""
    rows = results.measured("activation")
    here = rows[
        (rows["network"] == block.network) & (rows["width"] == block.width) & (rows["init"] == init)
    ]
    here = here.astype({"activation": str})
    return here.pivot(index="layer", columns=["activation", "seed"], values=statistic)
