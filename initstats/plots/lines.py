"""Statistics against depth: a panel for each activation, a line for each init."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from initstats.plots.catalog import DEPTH, GRADIENTS, register_figure
from initstats.plots.curves import draw_curve, layer_ticks, over_seeds, panels_of_lines
from initstats.plots.results import MAIN, Results


def by_layer(
    results: Results, statistic: str, tensor: str, direction: str = "forward"
) -> pd.DataFrame:
    """A statistic by configuration and layer, as `over_seeds` gives it; of a long sweep, a part."""
    return over_seeds(results.few, statistic, tensor, direction)


@register_figure(
    title="Spread against depth",
    data=partial(by_layer, statistic="std", tensor="activation"),
    needs=[DEPTH],
    inline=False,
)
def std_by_depth(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Standard deviation of the activations, layer by layer: geometric mean over seeds with its 95%
    Student-t interval. A straight line is a constant factor per layer. The band is a factor of ten
    around 1; strong lines are the healthy configurations, faint ones lose the signal in one way or
    another. ▾ marks where a line leaves the panel towards zero (or is zero), ▴ where it leaves
    upwards (or overflows); from there it is not followed.
    """
    return lines(frame, "standard deviation", width)


@register_figure(
    title="Mean against depth",
    data=partial(by_layer, statistic="mean", tensor="activation"),
    needs=[DEPTH],
    inline=False,
)
def mean_by_depth(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Mean of the activations, layer by layer, over seeds with its 95% Student-t interval. A mean
    that stays away from zero adds the same amount for every input, which the next layer turns into
    an offset of every unit. Strong lines are the healthy configurations; ▴ and ▾ mark where a line
    leaves the panel, × where it ends in an overflow.
    """
    return lines(frame, "mean", width)


@register_figure(
    title="Do inputs stay distinguishable?",
    data=partial(by_layer, statistic="sample_correlation", tensor=MAIN),
    needs=[DEPTH],
    inline=False,
)
def sample_correlation(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Mean correlation of the pre-activations of two samples, or of the stream where layers add to
    one, over seeds with its 95% Student-t interval. At 1 every input looks the same to the layer,
    whatever the standard deviation says: a bias, or an activation with a large mean, has drowned
    the signal. × is where a line ends because the signal is exactly zero or has overflowed.
    """
    return lines(frame, "sample correlation", width)


@register_figure(
    title="Gradient against depth",
    data=partial(by_layer, statistic="std", tensor=MAIN, direction="backward"),
    needs=[DEPTH, GRADIENTS],
    inline=False,
)
def gradient_by_depth(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Standard deviation of the gradient with respect to the pre-activations, or to the stream
    where layers add to one, starting from a random gradient of standard deviation 1 at the
    network's output: geometric mean over seeds with its 95% Student-t interval. Read it from right
    to left, as the gradient travels. What falls towards the left vanishes before it reaches the
    first layers.
    """
    return lines(frame, "gradient's std", width)


def lines(frame: pd.DataFrame, label: str, width: float | None) -> Figure:
    """A panel for each activation and block, in which each init has a line."""
    depth, forward = int(frame["layer"].max()), frame["direction"].iloc[0] == "forward"
    keys = ["network", "width", "activation", "layer"]
    frame = frame.sort_values(keys, ascending=[True, True, True, forward], kind="stable")
    names = {"x": "layer", "panel": "activation", "line": "init"}
    span, labels = (0.5, depth + 0.5), ("layer", label)
    figure, first = panels_of_lines(
        frame, width, **names, span=span, labels=labels, draw=draw_curve
    )
    for axes in first:
        axes.set_xticks(layer_ticks(depth))
    return figure
