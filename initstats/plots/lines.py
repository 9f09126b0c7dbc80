"""Statistics against depth: a panel for each activation, a line for each init."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from initstats.plots.catalog import DEPTH, GRADIENTS, register_figure
from initstats.plots.curves import (
    DOTTED,
    THEORY,
    Curve,
    decorate,
    draw_curves,
    draw_theory,
    layer_ticks,
    over_seeds,
    scale_of,
)
from initstats.plots.grid import panels
from initstats.plots.results import Results, headings, order
from initstats.plots.style import strokes


def by_layer(
    results: Results, statistic: str, tensor: str, direction: str = "forward"
) -> pd.DataFrame:
    """A statistic by configuration and layer, as `over_seeds` gives it; of a long sweep, a part."""
    return over_seeds(results.few, statistic, tensor, direction)


@register_figure(
    title="Spread against depth",
    data=partial(by_layer, statistic="std", tensor="activation"),
    needs=[DEPTH],
)
def std_by_depth(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Standard deviation of the activations, layer by layer: geometric mean over seeds with its 95%
    Student-t interval. A straight line is a constant factor per layer. The band is a factor of ten
    around 1; strong lines are the healthy configurations, faint ones lose the signal in one way or
    another. ▾ marks where a line leaves the panel towards zero (or is zero), ▴ where it leaves
    upwards (or overflows); from there it is not followed.
    """
    return lines(frame, "std", "standard deviation", width)


@register_figure(
    title="Mean against depth",
    data=partial(by_layer, statistic="mean", tensor="activation"),
    needs=[DEPTH],
)
def mean_by_depth(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Mean of the activations, layer by layer, over seeds with its 95% Student-t interval. A mean
    that stays away from zero adds the same amount for every input, which the next layer turns into
    an offset of every unit. Strong lines are the healthy configurations; ▴ and ▾ mark where a line
    leaves the panel, × where it ends in an overflow.
    """
    return lines(frame, "mean", "mean", width)


@register_figure(
    title="Do inputs stay distinguishable?",
    data=partial(by_layer, statistic="sample_correlation", tensor="preactivation"),
    needs=[DEPTH],
)
def sample_correlation(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Mean correlation of the pre-activations of two samples, over seeds with its 95% Student-t
    interval. At 1 every input looks the same to the layer, whatever the standard deviation says:
    a bias, or an activation with a large mean, has drowned the signal. × is where a line ends
    because the signal is exactly zero or has overflowed.
    """
    return lines(frame, "sample_correlation", "sample correlation", width)


@register_figure(
    title="Gradient against depth",
    data=partial(by_layer, statistic="std", tensor="preactivation", direction="backward"),
    needs=[DEPTH, GRADIENTS],
)
def gradient_by_depth(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Standard deviation of the gradient with respect to the pre-activations, starting from a
    random gradient of standard deviation 1 at the last activation: geometric mean over seeds with
    its 95% Student-t interval. Read it from right to left, as the gradient travels. What falls
    towards the left vanishes before it reaches the first layers.
    """
    return lines(frame, "std", "gradient's std", width)


def lines(frame: pd.DataFrame, statistic: str, label: str, width: float | None) -> Figure:
    """A panel for each activation and block, in which each init has a line.

    Args:
        frame: as `over_seeds` gives it.
        statistic: the column to draw.
        label: its name on the axis.
        width: of the figure, inches.
    """
    scale, depth = scale_of(statistic), int(frame["layer"].max())
    frame = frame.sort_values("layer", ascending=bool((frame["direction"] == "forward").all()))
    healthy = frame["verdict"] == "healthy"
    # what explodes would flatten all others where heights are not logarithms
    shown = (frame["source"] == "measured") & (healthy | scale.logarithmic)
    limits = scale.limits([scale.height(frame.loc[shown, statistic].to_numpy())])
    styles = strokes(order(frame["init"]))
    expected = {THEORY: DOTTED} if (frame["source"] == "theory").any() else {}
    activations, blocks = order(frame["activation"]), headings(frame)
    figure, grid = panels(
        activations,
        width,
        blocks=list(blocks.values()),
        labels=("layer", label),
        key=styles | expected,
    )
    decorate([axes for part in grid for axes in part], scale, limits)
    grid[0][0].set(xlim=(0.5, depth + 0.5), xticks=layer_ticks(depth))
    for block, part in zip(blocks, grid, strict=True):
        here = frame[(frame["network"] == block.network) & (frame["width"] == block.width)]
        for activation, axes in zip(activations, part, strict=True):
            drawn, theory = [], []
            rows = here[here["activation"] == activation]
            for (init, source), row in rows.groupby(["init", "source"], observed=True):
                curve = Curve.of(row, "layer", statistic, scale)
                if source == "theory":
                    theory.append(curve)
                else:
                    strong = row["verdict"].iloc[0] == "healthy"
                    drawn.append((curve, styles[str(init)], strong))
            draw_curves(axes, drawn, limits)
            draw_theory(axes, theory)
    return figure
