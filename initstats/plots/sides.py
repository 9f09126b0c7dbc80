"""Two runs side by side: the same statistic of both, by layer or by place."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from initstats.diagnosis import seed_interval
from initstats.differences.ends import moved, ranked
from initstats.differences.pair import Pair
from initstats.differences.side import MODEL
from initstats.plots.catalog import register_figure
from initstats.plots.curves import (
    CORRELATION,
    SHARE,
    decorate,
    draw_curve,
    layer_ticks,
    mark,
    scale_of,
)
from initstats.plots.grid import add_key, panels
from initstats.plots.results import MAIN, of_tensor, order
from initstats.plots.style import INK, PAGE, PALETTE, Stroke, StyledFigure
from initstats.registry import Need

PANELS = 12
"""Configurations, the most changed, that have a panel."""
STROKES = (Stroke(PALETTE[0]), Stroke(PALETTE[1], (0, (4, 1.6))))
"""Of the first run and of the second, whose dashes let the first one show through."""
SHOWN = {
    ("std", "forward"): "std",
    ("sample_correlation", "forward"): "correlation",
    ("dead_fraction", "forward"): "dead units",
    ("std", "backward"): "gradient's std",
}
"""The panels of a model: a statistic and a direction, and their label."""


class Comparison(NamedTuple):
    """What the figures of two runs are drawn from: the pair, and what `ends` tells of it."""

    pair: Pair
    told: pd.DataFrame


DIFFERS = Need[Any](lambda both: bool(moved(both.told).any()), "nothing differs")
STUDIES = Need[Any](lambda both: both.pair.kind is not MODEL, "it is about studies")
MODELS = Need[Any](lambda both: both.pair.kind is MODEL, "it is about models")
DEEP = Need[Any](lambda both: both.pair.depth > 1, "it needs stacks of at least two layers")
GRADIENTS = Need[Any](
    lambda both: all(side.backward for side in both.pair.sides),
    "gradients were not measured in both",
)


def by_side(
    both: Comparison, statistic: str, tensor: str, direction: str = "forward"
) -> pd.DataFrame:
    """A statistic of the most changed configurations by layer: means over all seeds of each run.

    Returns:
        The keys of a configuration; `panel`, its name; `run`; `layer`; the statistic (geometric
        mean where its axis is logarithmic), `low` and `high`, its 95% Student-t interval.
    """
    pair, scale = both.pair, scale_of(statistic)
    chosen = ranked(pair, both.told).head(PANELS)[pair.configuration]
    chosen = chosen.assign(panel=_panels(chosen))
    overflow = np.inf if scale.logarithmic else np.nan
    parts = []
    for rows, name in zip(pair.rows, pair.names, strict=True):
        rows = of_tensor(rows, tensor, direction)
        rows = rows.merge(chosen, on=pair.configuration)
        heights = scale.height(rows[statistic])
        heights = heights.clip(*scale.bounds) if scale in (SHARE, CORRELATION) else heights
        rows = rows.assign(height=np.where(rows["nonfinite"] > 0, overflow, heights))
        by = [*pair.configuration, "panel", "layer"]
        found = seed_interval(rows, "height", by).apply(scale.value).reset_index()
        parts.append(found.rename(columns={"mean": statistic}).assign(run=name))
    frame = pd.concat(parts, ignore_index=True)
    kinds = {"panel": [*chosen["panel"]], "run": [*pair.names]}
    frame = frame.astype({name: pd.CategoricalDtype(values) for name, values in kinds.items()})
    return frame.assign(statistic=statistic, depth=pair.depth)


def _panels(chosen: pd.DataFrame) -> list[str]:
    """A name for each configuration: init and activation, and whatever else varies among them."""
    told = [key for key in chosen if key in ("init", "activation") or chosen[key].nunique() > 1]
    first = [key for key in ("init", "activation") if key in told]
    others = [key for key in told if key not in first]
    rows = chosen[[*first, *others]].to_dict("records")
    return [
        ", ".join(
            str(row[key]) if key in (*first, "network") else f"{key} {row[key]}" for key in row
        )
        or "both"
        for row in rows
    ]


@register_figure(
    page="comparison",
    title="Spread against depth in both",
    data=partial(by_side, statistic="std", tensor="activation"),
    needs=[STUDIES, DIFFERS, DEEP],
)
def std_side_by_side(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Standard deviation of the activations by layer in the combinations that changed most (first
    those with another verdict): geometric mean over all seeds of each run with its 95% Student-t
    interval. The grey band is a factor of ten around 1. ▾ and ▴ mark where a line leaves the panel,
    or where the signal is zero or overflows.
    """
    return _lines(frame, "standard deviation", width)


@register_figure(
    page="comparison",
    title="Do inputs stay distinguishable in both?",
    data=partial(by_side, statistic="sample_correlation", tensor=MAIN),
    needs=[STUDIES, DIFFERS, DEEP],
)
def correlation_side_by_side(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Mean correlation of the pre-activations of two samples in the same combinations (of the
    stream, where layers add to one), over all seeds of each run with its 95% Student-t interval.
    At 1 every input looks the same to the layer. × is where a line ends because the signal is
    exactly zero or has overflowed.
    """
    return _lines(frame, "sample correlation", width)


@register_figure(
    page="comparison",
    title="Gradient against depth in both",
    data=partial(by_side, statistic="std", tensor=MAIN, direction="backward"),
    needs=[STUDIES, DIFFERS, DEEP, GRADIENTS],
)
def gradient_side_by_side(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Standard deviation of the gradient with respect to the pre-activations in the same
    combinations (to the stream, where layers add to one): geometric mean over all seeds of each run
    with its 95% Student-t interval. It travels from right to left; a stack of another depth begins
    at another layer.
    """
    return _lines(frame, "gradient's std", width, backward=True)


def _lines(
    frame: pd.DataFrame, label: str, width: float | None, *, backward: bool = False
) -> Figure:
    """A panel for each configuration, with a line for each run."""
    statistic = str(frame["statistic"].iloc[0])
    scale, names, runs = scale_of(statistic), order(frame["panel"]), order(frame["run"])
    frame = frame.sort_values("layer", ascending=not backward, kind="stable")
    heights = scale.height(frame[[statistic, "low", "high"]])
    limits = scale.limits(heights[:, 0])
    low, high = limits[0] - 2 * np.ptp(limits), limits[1] + 2 * np.ptp(limits)
    heights = np.nan_to_num(heights, nan=np.nan, neginf=low, posinf=high)
    points = np.column_stack([frame["layer"], heights])
    key = dict(zip(runs, STROKES, strict=False))
    labels = ("layer", label)
    figure, (part,) = panels(names, width, labels=labels, key=key, most=4, least=1.9)
    decorate(part, scale, limits)
    last = int(frame["layer"].max())
    part[0].set_xlim(0.5, last + 0.5)
    part[0].set_xticks(layer_ticks(last))
    axes = dict(zip(names, part, strict=True))
    groups: Any = frame.groupby(["panel", "run"], observed=True).indices
    for (panel, run), rows in groups.items():
        draw_curve(axes[str(panel)], points[rows].T, key[str(run)], True, limits)
    return figure


def by_place(both: Comparison) -> pd.DataFrame:
    """What a model's panels show: each value in the order of execution, of both measurements.

    Returns:
        `place`, a number in the order of execution; `name`, `op`, `tensor`, `direction`;
        `statistic`; `run`; `value`.
    """
    told = both.told
    shown = pd.MultiIndex.from_tuples([*SHOWN])
    rows = told[pd.MultiIndex.from_frame(told[["statistic", "direction"]].astype(str)).isin(shown)]
    calls = rows[["name", "op", "call", "layer"]].astype({"name": str, "op": str})
    places = calls.sort_values("layer", kind="stable").drop_duplicates(ignore_index=True)
    numbers = places.assign(place=np.arange(1, len(places) + 1))
    place = calls.merge(numbers, how="left")["place"].to_numpy()
    keys = ["name", "op", "tensor", "direction", "statistic"]
    found = rows[keys].astype(str).assign(place=place)
    parts = [
        found.assign(run=name, value=rows[side].to_numpy())
        for side, name in zip("ab", both.pair.names, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


@register_figure(
    page="comparison", title="Every value in both", data=by_place, needs=[MODELS, DIFFERS]
)
def places_side_by_side(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Every value that both measurements hold, in the order of execution: its standard deviation,
    the correlation of two inputs, the share of units that are constant and, where gradients were
    measured in both, their standard deviation. Large dots, joined by a line, are the outputs of
    operations with weights. ▾ and ▴ are values of zero and overflows.
    """
    shown = {
        (statistic, way): label
        for (statistic, way), label in SHOWN.items()
        if ((frame["statistic"] == statistic) & (frame["direction"] == way)).any()
    }
    figure = StyledFigure((width, 1.35 * len(shown) + 0.4))
    drawn = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    runs = [*dict.fromkeys(frame["run"])]
    key = dict(zip(runs, STROKES, strict=True))
    for axes, ((statistic, way), label) in zip(drawn, shown.items(), strict=True):
        rows = frame[(frame["statistic"] == statistic) & (frame["direction"] == way)]
        _dots(axes, rows, statistic, key)
        axes.set_ylabel(label)
    drawn[-1].set_xlabel("value, in the order of execution")
    drawn[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels(list(drawn))
    add_key(
        figure,
        {name: Line2D([], [], marker="o", ms=3.5, **line._asdict()) for name, line in key.items()},
    )
    return figure


def _dots(axes: Axes, rows: pd.DataFrame, statistic: str, key: dict[str, Stroke]) -> None:
    """A dot for each value of both; those of operations with weights are joined."""
    scale = scale_of(statistic)
    heights = scale.height(rows["value"])
    limits = scale.limits(heights)
    decorate([axes], scale, limits)
    for run, stroke in key.items():
        here: NDArray[np.bool_] = (rows["run"] == run).to_numpy()
        weighted = (rows["tensor"] == "preactivation").to_numpy()
        at, height = rows["place"].to_numpy(), heights.clip(*limits)
        color = stroke.color
        axes.plot(
            at[here & ~weighted],
            height[here & ~weighted],
            "o",
            ms=2,
            mew=0,
            color=to_rgba(color, 0.7),
        )
        joined = here & weighted
        axes.plot(
            at[joined],
            height[joined],
            "o",
            ms=3.5,
            mew=0,
            lw=1.2,
            color=color,
            linestyle=stroke.linestyle,
        )
        for place, end in zip(at[here], heights[here], strict=True):
            if end < limits[0] or end > limits[1]:
                mark(axes, place, np.clip(end, *limits), "v" if end < limits[0] else "^", color)
    axes.axhline(0, color=to_rgba(INK, 0.3), lw=0.5, zorder=0)
