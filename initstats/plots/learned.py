"""Activation statistics of a training study: what training made of them, and what they foretold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from initstats.diagnosis import seed_interval
from initstats.outcome.predictors import PREDICTORS
from initstats.plots.catalog import register_figure
from initstats.plots.curves import SHARE, Scale, decorate, layer_ticks, mark
from initstats.plots.grid import add_key, panels
from initstats.plots.results import order
from initstats.plots.style import INK, PAGE
from initstats.plots.ticks import clear_ticks
from initstats.plots.trained import VARIANT, Trained, styles_of, titles
from initstats.registry import Need

STATISTICS = Need[Any](
    lambda trained: trained.statistics is not None and len(trained.statistics) > 0,
    "no statistics were measured",
)
STARTED = Need[Any](
    lambda trained: trained.distances is not None, "no statistics of step 0 were measured"
)
LABELS = {
    "gradient_ratio": "gradient, first / last layer",
    "std": "std of the last layer",
    "sample_correlation": "correlation of two inputs",
    "chi_1": "chi_1, from theory",
}
SHOWN = {
    "std": ("std", "activation", "forward", Scale(True, (-1, 1), (-6, 6), 1)),
    "dead units": ("dead_fraction", "activation", "forward", SHARE),
    "gradient’s std": ("std", "preactivation", "backward", Scale(True, (-3, -2), (-12, 6), 1)),
}
"""The panels of the figure: statistic, tensor, direction and axis of each."""
ENDS = {"start": (0, (1.2, 1.2)), "end": (0, ())}
"""The dashes of the two ends of a training."""
PARTS = 6
"""Greatest number of combinations of network and init that the figure shows."""


def predictors(trained: Trained) -> pd.DataFrame:
    """The distance from 1 at initialization and the outcome, one row per variant and predictor.

    Returns:
        The columns of a variant, `predictor`, `distance` (mean over runs), `accuracy` (percent,
        mean over the runs that trained), `failed` (a share).
    """
    few = trained.few
    distances = few.distances
    assert distances is not None
    known = [name for name in PREDICTORS if distances[name].notna().any()]
    rows = distances.melt([*VARIANT, "failed", "outcome"], known, "predictor", "distance")
    rows["accuracy"] = (100 * rows["outcome"]).where(~rows["failed"])
    groups = rows.groupby([*VARIANT, "predictor"], observed=True, sort=False)
    frame = groups[["distance", "accuracy", "failed"]].mean().reset_index()
    return trained.named(frame)


@register_figure(
    page="training",
    title="Do statistics at initialization predict it?",
    data=predictors,
    needs=[STATISTICS, STARTED],
)
def statistics_and_outcome(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Validation accuracy against the distance from 1 of statistics before the first update, a mark
    for each variant: means over seeds. The distance is the absolute natural logarithm; for
    the correlation, 1 minus the correlation. A hollow mark is a variant of which some runs failed,
    × one of which all did; ▸ lies beyond the panel.
    """
    nets = titles(frame)
    names = {name: LABELS[name] for name in PREDICTORS if name in set(frame["predictor"])}
    layout: Any = {"labels": ("distance from 1", "validation accuracy, %"), "share": "y"}
    figure, grid = panels(
        list(names.values()), width, blocks=list(nets.values()), least=1.6, height=1.7, **layout
    )
    styles = styles_of(frame)
    markers = dict(zip(order(frame["init"]), "os^Dvp" * 9, strict=False))
    for net, part in zip(nets, grid, strict=True):
        here = net.rows(frame)
        for axes, name in zip(part, names, strict=True):
            _scatter(axes, here[here["predictor"] == name], styles, markers)
    shapes = [(name, "o", stroke.color, stroke.color) for name, stroke in styles.items()]
    shapes += [(name, marker, INK, "none") for name, marker in markers.items()]
    style: Any = {"ls": "none", "ms": 5}
    handles = {n: Line2D([], [], marker=m, color=c, mfc=f, **style) for n, m, c, f in shapes}
    add_key(figure, handles)
    return figure


def _scatter(axes: Axes, rows: pd.DataFrame, styles: Any, markers: dict[str, str]) -> None:
    """A mark for each variant."""
    finite = rows.loc[np.isfinite(rows["distance"]), "distance"]
    right = 1.08 * max(finite.max() if len(finite) else 0.0, 0.1)
    low, high = rows["accuracy"].min(), rows["accuracy"].max()
    low, high = (low, high) if np.isfinite(low) else (0.0, 1.0)
    room = max(0.1 * (high - low), 0.05)
    axes.set(xlim=(-0.04 * right, right), ylim=(low - room, high + room))
    clear_ticks(axes.xaxis)
    style: Any = {"ms": 5, "clip_on": False}
    for row in rows.to_dict("records"):
        at, accuracy = float(row["distance"]), float(row["accuracy"])
        color, marker = styles[str(row["activation"])].color, markers[str(row["init"])]
        if np.isnan(accuracy):
            mark(axes, min(at, right), low - room, "x", color)
        elif at > right:
            mark(axes, right, accuracy, ">", color)
        elif not np.isnan(at):
            face = "none" if row["failed"] else color
            axes.plot(at, accuracy, marker, color=color, mfc=face, **style)


def ends(trained: Trained) -> pd.DataFrame:
    """Statistics by layer at the first and at the last measured step.

    Returns:
        The columns of a variant, `layer`, `panel` (a key of `SHOWN`), `moment` (`start` or `end`)
        and `value`: the mean over runs, geometric where the axis is logarithmic. An
        overflow is NaN.
    """
    rows = trained.lines.statistics
    assert rows is not None
    first, last = rows["step"].min(), rows["step"].max()
    moments = {first: "start"} if first == last else {first: "start", last: "end"}
    rows = rows[rows["step"].isin(moments)]
    parts = []
    for panel, (statistic, tensor, direction, scale) in SHOWN.items():
        here = rows[(rows["tensor"] == tensor) & (rows["direction"] == direction)]
        value = np.where(here["nonfinite"] > 0, np.nan, scale.height(here[statistic]))
        here = here[[*VARIANT, "layer", "step"]].assign(value=value)
        means = seed_interval(here, "value", [*VARIANT, "layer", "step"])["mean"].reset_index()
        value = scale.value(means.pop("mean").to_numpy(dtype=float))
        parts.append(means.assign(value=value, panel=panel))
    frame = pd.concat(parts, ignore_index=True)
    return trained.named(frame.assign(moment=frame.pop("step").map(moments)))


@register_figure(
    page="training",
    title="What training makes of the statistics",
    data=ends,
    needs=[STATISTICS],
)
def statistics_over_training(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Standard deviation of the activations, share of units that give the same value for every
    input, and standard deviation of the gradient with respect to the pre-activations, by layer:
    before the first update (dotted) and at the end (solid). Means over runs, geometric for the
    standard deviations.
    """
    styles = styles_of(frame)
    nets = titles(frame)
    parts = [(net, init) for net in nets for init in order(frame["init"])][:PARTS]
    names = [", ".join(filter(None, (nets[net], init))) for net, init in parts]
    shown = [name for name in SHOWN if name in set(frame["panel"])]
    layout: Any = {"labels": ("layer", ""), "share": "x", "key": styles}
    figure, grid = panels(shown, width, blocks=names, **layout)
    limits = {name: _limits(frame[frame["panel"] == name], name) for name in shown}
    for (net, init), part in zip(parts, grid, strict=True):
        rows = net.rows(frame)
        rows = rows[rows["init"] == init]
        depth = int(rows["layer"].max()) if len(rows) else 1
        part[0].set(xlim=(0.5, depth + 0.5), xticks=layer_ticks(depth))
        for axes, name in zip(part, shown, strict=True):
            decorate([axes], SHOWN[name][3], limits[name])
            _lines(axes, rows[rows["panel"] == name], name, styles)
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, name: str, styles: Any) -> None:
    """A line for each activation and moment."""
    for (activation, moment), line in rows.groupby(["activation", "moment"], observed=True):
        heights = SHOWN[name][3].height(line["value"])
        style = styles[str(activation)]._replace(linestyle=ENDS[str(moment)], lw=1.2)
        axes.plot(line["layer"], heights, marker=".", ms=3, **style._asdict())


def _limits(rows: pd.DataFrame, name: str) -> tuple[float, float]:
    scale = SHOWN[name][3]
    return scale.limits(scale.height(rows["value"]))
