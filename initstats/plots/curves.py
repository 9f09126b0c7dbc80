"""Curves with intervals: what they show, and how they and their ends are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from numpy.typing import NDArray

from initstats.diagnosis import CONFIGURATION, seed_interval
from initstats.plots.results import Results
from initstats.plots.style import INK, Stroke, decimal, fade, power_of_ten

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """The axis on which a statistic is averaged over seeds and drawn.

    Attributes:
        logarithmic: whether a height is the logarithm of a value, to base 10.
        shown: range that is shown whatever the data.
        bounds: range that is never exceeded; lines leave the panel there.
        tick: least distance of two ticks.
        label: what is written at a tick.
        band: heights between which a signal keeps its scale.
    """

    logarithmic: bool
    shown: tuple[float, float]
    bounds: tuple[float, float]
    tick: float
    label: Callable[[float], str]
    band: tuple[float, float] | None = None

    def height(self, values: Array) -> Array:
        """Heights of values; zero is infinitely low on a logarithmic axis."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(values) if self.logarithmic else values

    def value(self, heights: Array) -> Array:
        """Values of heights."""
        return 10.0**heights if self.logarithmic else heights

    def limits(self, curves: Iterable[Array]) -> tuple[float, float]:
        """The range of a panel that shows these heights, as far as its bounds allow."""
        heights = np.concatenate([np.empty(0), *curves])
        known = heights[np.isfinite(heights)]
        low = math.floor(known.min(initial=self.shown[0]) / self.tick) * self.tick
        high = math.ceil(known.max(initial=self.shown[1]) / self.tick) * self.tick
        return max(low, self.bounds[0]), min(high, self.bounds[1])

    def ticks(self, limits: tuple[float, float]) -> list[float]:
        """Six ticks or fewer, one of them at 0."""
        low, high = (round(limit / self.tick) for limit in limits)
        step = max(1, math.ceil((high - low) / 6))
        return [self.tick * n for n in range(low, high + 1) if n % step == 0]


LOG = Scale(True, (-1, 1), (-6, 6), 1, lambda x: power_of_ten(round(x)), (-1, 1))
LINEAR = Scale(False, (-0.5, 1), (-5, 5), 0.5, lambda x: decimal(x, 1))
SHARE = Scale(False, (0, 1), (0, 1), 0.5, lambda x: decimal(x, 1))


def scale_of(statistic: str) -> Scale:
    """The axis of a statistic of the table."""
    if statistic == "sample_correlation" or statistic.endswith("_fraction"):
        return SHARE
    return LOG if "std" in statistic or statistic == "second_moment" else LINEAR


def over_seeds(
    results: Results,
    statistic: str,
    tensor: str,
    direction: str = "forward",
    scale: Scale | None = None,
) -> pd.DataFrame:
    """A statistic of every configuration and layer: its mean over seeds, and theory.

    Returns:
        The columns of a configuration, `layer`, `tensor`, `direction`; `source`, "measured" or
        "theory"; the statistic, `low` and `high`; `verdict`. Of what was measured, it is the mean
        (geometric where its axis is logarithmic) with its 95% Student-t interval; an overflow is
        infinite on a logarithmic axis and NaN on others. Of theory, it is what is expected, NaN
        where theory does not apply, and the interval holds two thirds of single networks.
    """
    scale = scale or scale_of(statistic)
    rows = results.measured(tensor, direction)
    heights = scale.height(rows[statistic].to_numpy(dtype=float))
    heights = heights.clip(0, 1) if scale is SHARE else heights
    overflow = np.inf if scale.logarithmic else np.nan
    rows = rows.assign(height=np.where(rows["nonfinite"] > 0, overflow, heights))
    interval = seed_interval(rows, "height", [*CONFIGURATION, "layer"]).apply(scale.value)
    parts = [interval.rename(columns={"mean": statistic}).reset_index().assign(source="measured")]
    if results.predicted is not None:
        parts.append(_expected(results.predicted, statistic, tensor, direction, scale))
    frame = pd.concat([results.ordered(part) for part in parts], ignore_index=True)
    verdicts = results.ordered(results.summary[[*CONFIGURATION, "verdict"]])
    frame = frame.assign(tensor=tensor, direction=direction).merge(
        verdicts.astype({"verdict": str}), on=CONFIGURATION
    )
    columns = [*CONFIGURATION, "layer", "tensor", "direction", "source"]
    return frame[[*columns, statistic, "low", "high", "verdict"]]


def _expected(
    predicted: pd.DataFrame, statistic: str, tensor: str, direction: str, scale: Scale
) -> pd.DataFrame:
    """What theory says of a statistic, in the layers where it applies.

    Where heights are logarithms, two thirds of single networks lie within the interval of a
    log-normal length of the predicted spread, whose middle is below its mean.
    """
    rows = predicted[(predicted["tensor"] == tensor) & (predicted["direction"] == direction)]
    rows = rows.sort_values("layer", kind="stable")
    value = rows[statistic].to_numpy(dtype=float)
    applies = (rows["note"] == "").to_numpy() & np.isfinite(scale.height(value))
    value = np.where(applies, value, np.nan)
    low = high = np.full(len(rows), np.nan)
    if scale.logarithmic:
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = (rows["second_moment_spread"] / rows["second_moment"]).to_numpy()
            variance = np.log1p(relative**2)  # of the logarithm of a second moment
            middle, half = -variance / 4, np.sqrt(variance) / 2
            low, high = value * np.exp(middle - half), value * np.exp(middle + half)
    rows = rows[[*CONFIGURATION, "layer"]].assign(low=low, high=high, source="theory")
    rows[statistic] = value
    return rows


class Curve(NamedTuple):
    """A line's heights, in the order in which the signal travels."""

    at: Array
    mean: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, rows: pd.DataFrame, x: str, statistic: str, scale: Scale) -> Curve:
        """The curve of one configuration's rows."""
        heights = (scale.height(rows[name].to_numpy()) for name in (statistic, "low", "high"))
        return cls(rows[x].to_numpy(dtype=float), *heights)


THEORY = "theory, where it applies"
"""The name of its lines in a key."""
DOTTED = Stroke(INK, (1.2, 2.2), 0.9)
"""The stroke of theory, which lets the measured line show through."""


def decorate(panels: Sequence[Axes], scale: Scale, limits: tuple[float, float]) -> None:
    """Range and ticks of panels that share them, and the band in which a signal keeps its scale."""
    ticks = scale.ticks(limits)
    panels[0].set_ylim(limits)
    panels[0].set_yticks(ticks, [scale.label(height) for height in ticks])
    for axes in panels:
        axes.grid(axis="y", color=fade(INK, 0.1), lw=0.5)
        if scale.band:
            axes.axhspan(*scale.band, color=fade(INK, 0.06), lw=0, zorder=0)


def layer_ticks(depth: int) -> list[int]:
    """The first layer, the last, and round numbers between."""
    step = max(5, 5 * round(depth / 20))
    between = [layer for layer in range(step, depth, step) if depth - layer > step / 2]
    return [1, *between, depth] if depth > 2 else list(range(1, depth + 1))


def draw_theory(axes: Axes, curves: Sequence[Curve]) -> None:
    """What theory says: thin dotted lines on bands, none in an init's colour."""
    add_bands(axes, curves, [fade(INK, 0.1)])
    lines = [np.column_stack([curve.at, curve.mean]) for curve in curves]
    axes.add_collection(
        LineCollection(
            lines, colors=INK, linestyles=[DOTTED.linestyle], linewidths=DOTTED.weight, zorder=4
        ),
        autolim=False,
    )


def draw_curves(
    axes: Axes,
    curves: Sequence[tuple[Curve, Stroke, bool]],
    limits: tuple[float, float],
) -> None:
    """Means with their intervals, marked where they leave the panel or end.

    Args:
        axes: of the panel.
        curves: each with its stroke, and whether it is to stand out.
        limits: of the panel.
    """
    drawn = []
    for curve, stroke, strong in curves:
        mean = within(curve, limits).mean
        outside = (mean < limits[0]) | (mean > limits[1])
        until = int(outside.argmax()) + 1 if outside.any() else len(mean)
        drawn.append(Curve(*(part[:until] for part in within(curve, limits))))
        weight, color = (1.4, stroke.color) if strong else (0.9, fade(stroke.color, 0.6))
        axes.plot(drawn[-1].at, drawn[-1].mean, color=color, linestyle=stroke.linestyle, lw=weight)
        for position, height, marker in _marks(drawn[-1].mean, limits):
            place = np.interp(position, range(until), drawn[-1].at)
            mark(axes, place, height, marker, color)
    add_bands(
        axes, drawn, [fade(stroke.color, 0.18 if strong else 0.07) for _, stroke, strong in curves]
    )


def draw_points(
    axes: Axes, curves: Sequence[tuple[Curve, Stroke]], limits: tuple[float, float]
) -> None:
    """Means with their intervals, a dot for each; marked where one lies outside the panel."""
    drawn = [within(curve, limits) for curve, _ in curves]
    for _, mean, low, high in drawn:  # what lies outside is marked, and has no band
        outside = (mean < limits[0]) | (mean > limits[1])
        low[outside], high[outside] = np.nan, np.nan
    add_bands(axes, drawn, [fade(stroke.color, 0.18) for _, stroke in curves])
    for (at, mean, *_), (_, stroke) in zip(drawn, curves, strict=True):
        axes.plot(at, mean, "o", color=stroke.color, linestyle=stroke.linestyle, lw=1.2, ms=2.6)
        for outside, edge, marker in (
            (mean < limits[0], limits[0], "v"),
            (mean > limits[1], limits[1], "^"),
        ):
            for place in at[outside]:
                mark(axes, place, edge, marker, stroke.color)


def within(curve: Curve, limits: tuple[float, float]) -> Curve:
    """A curve in which what is infinite lies well outside a panel, where it can be drawn to."""
    beyond = 2 * (limits[1] - limits[0])
    low, high = limits[0] - beyond, limits[1] + beyond
    heights = (np.nan_to_num(part, nan=np.nan, neginf=low, posinf=high) for part in curve[1:])
    return Curve(curve.at, *heights)


def add_bands(axes: Axes, curves: Sequence[Curve], colors: Sequence[Any]) -> None:
    """The intervals of curves as one artist; each stretch that is known is a polygon."""
    polygons, faces = [], []
    for number, (at, _, low, high) in enumerate(curves):
        known = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
        for part in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
            there, back = part, part[::-1]
            edge = np.concatenate([low[there], high[back]])
            polygons.append(np.column_stack([np.concatenate([at[there], at[back]]), edge]))
            faces.append(colors[number % len(colors)])
    if polygons:
        bands = PolyCollection(polygons, facecolors=faces, linewidths=0, zorder=1)
        axes.add_collection(bands, autolim=False)


def mark(axes: Axes, at: float, height: float, marker: str, color: Any) -> None:
    """A mark that says what a line cannot."""
    edge = 1.2 if marker == "x" else 0
    axes.plot(at, height, marker, color=color, ms=4, mew=edge, clip_on=False, zorder=5)


def _marks(mean: Array, limits: tuple[float, float]) -> Iterator[tuple[float, float, str]]:
    """Position, height and marker where a line leaves the panel or ends, or is a single point."""
    low, high = limits
    known = np.flatnonzero(~np.isnan(mean))
    if len(known) == 0:
        yield 0, min(max(0.0, low), high), "x"
        return
    last = int(known[-1])
    height = mean[last]
    if low <= height <= high:
        if len(mean) == 1:
            yield last, height, "o"
        elif last < len(mean) - 1:
            yield last, height, "x"
        return
    edge = low if height < low else high
    before = mean[last - 1] if last else np.nan
    share = 1.0 if np.isnan(before) else (edge - before) / (height - before)
    yield last - 1 + share, edge, "v" if height < low else "^"


def draw_seeds(axes: Axes, rows: pd.DataFrame, statistic: str, color: str) -> None:
    """A thin line for each seed, layer by layer."""
    wide = rows.pivot(index="layer", columns="seed", values=statistic)
    axes.plot(wide.index, wide, color=fade(color, 0.28 if wide.shape[1] < 15 else 0.15), lw=0.6)


def note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any
) -> None:
    """Small print beside a point of a panel; `offset` is in points."""
    given: dict[str, Any] = {"va": "center", "fontsize": 7.5, "annotation_clip": False} | style
    axes.annotate(text, at, offset, textcoords="offset points", **given)
