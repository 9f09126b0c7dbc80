"""Curves with intervals: their data, and how they and their ends are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from initstats.diagnosis import CONFIGURATION, seed_interval
from initstats.moments.table import STATISTICS
from initstats.plots.grid import panels
from initstats.plots.results import Results, headings, of_tensor, order
from initstats.plots.style import INK, Stroke, decimal, power_of_ten, strokes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """The axis of a statistic, on which it is averaged over seeds and drawn.

    Attributes:
        logarithmic: whether a height is the logarithm of a value, to base 10.
        shown: range that is shown whatever the data.
        bounds: range that is never exceeded; lines leave the panel there.
        tick: least distance of two ticks.
        band: heights between which a signal keeps its scale.
    """

    logarithmic: bool
    shown: tuple[float, float]
    bounds: tuple[float, float]
    tick: float
    band: tuple[float, float] | None = None

    def height(self, values: ArrayLike) -> Array:
        """Heights of values; zero is infinitely low on a logarithmic axis."""
        heights = np.asarray(values, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(heights) if self.logarithmic else heights

    def value(self, heights: Array) -> Array:
        """Values of heights."""
        return 10.0**heights if self.logarithmic else heights

    def limits(self, heights: Array) -> tuple[float, float]:
        """The range of a panel that shows these heights, as far as its bounds allow."""
        known = heights[np.isfinite(heights)]
        low = math.floor(known.min(initial=self.shown[0]) / self.tick) * self.tick
        high = math.ceil(known.max(initial=self.shown[1]) / self.tick) * self.tick
        return max(low, self.bounds[0]), min(high, self.bounds[1])

    def label(self, height: float) -> str:
        """What is written at a tick."""
        if self.logarithmic:
            return power_of_ten(round(height))
        return decimal(height, len(f"{self.tick:g}".partition(".")[2]))

    def ticks(self, limits: tuple[float, float]) -> list[float]:
        """Six ticks or fewer, one of them at 0."""
        low, high = (round(limit / self.tick) for limit in limits)
        step = max(1, math.ceil((high - low) / 6))
        return [self.tick * n for n in range(low, high + 1) if n % step == 0]


class CountScale(Scale):
    """The logarithmic axis of a number of things, as near to the data as their labels allow."""

    def limits(self, heights: Array) -> tuple[float, float]:
        """The range of these heights, at least a factor of two, with a margin."""
        known = heights[np.isfinite(heights)]
        low, high = (known.min(), known.max()) if known.size else self.shown
        margin = _MARGIN * max(high - low, math.log10(2))
        high = max(high, low + math.log10(2))
        return max(low - margin, self.bounds[0]), min(high + margin, self.bounds[1])

    def label(self, height: float) -> str:
        """What is written at a tick, a number without powers."""
        return f"{10**height:,.9g}"

    def ticks(self, limits: tuple[float, float]) -> list[float]:
        """Six ticks or fewer where that is possible: 1, 2, 3 and so on, 1, 2 and 5, or tens."""
        found: list[float] = []
        powers = range(math.floor(limits[0]), math.ceil(limits[1]) + 1)
        for digits in ((1, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
            every = [power + math.log10(digit) for power in powers for digit in digits]
            found = [height for height in every if limits[0] <= height <= limits[1]]
            if len(found) <= 6:
                break
        return found


_MARGIN = 0.05
"""What is left free at each end, of the range of the data."""

LOG = Scale(True, (-1, 1), (-6, 6), 1, band=(-1, 1))
LINEAR = Scale(False, (-0.5, 1), (-5, 5), 0.5)
SHARE = Scale(False, (0, 1), (0, 1), 0.5)
CORRELATION = Scale(False, (0, 1), (-1, 1), 0.1)
NUMBER = CountScale(True, (0, 1), (-6, 6), 1)
PART = Scale(False, (0, 1), (0, 5), 0.5)  # a branch may be larger than the sum that it is part of


def scale_of(statistic: str) -> Scale:
    """The axis of a statistic of the table."""
    if statistic.endswith("_correlation"):
        return CORRELATION
    if statistic.endswith("_fraction") or statistic in _SHARES:
        return SHARE
    if statistic == "branch_share":
        return PART
    if statistic == "participation_ratio":
        return NUMBER
    return LOG if statistic in STATISTICS and STATISTICS[statistic].size else LINEAR


_SHARES = ("attention_entropy", "concentration")


def over_seeds(
    results: Results, statistic: str, tensor: str, direction: str = "forward"
) -> pd.DataFrame:
    """A statistic of every configuration and layer with the tensor: mean over seeds, and theory.

    Returns:
        The columns of a configuration, `layer`, `tensor`, `direction`; `source`, "measured" or
        "theory"; the statistic, `low` and `high`; `verdict`. Of what was measured, it is the mean
        (geometric where its axis is logarithmic) with its 95% Student-t interval; an overflow is
        infinite on a logarithmic axis and NaN on others. Of theory, it is what is expected, NaN
        where theory does not apply, and the interval holds two thirds of single networks.
    """
    scale, rows = scale_of(statistic), results.measured(tensor, direction)
    heights = scale.height(rows[statistic])
    heights = heights.clip(*scale.bounds) if scale in (SHARE, CORRELATION) else heights
    overflow = np.inf if scale.logarithmic else np.nan
    rows = rows.assign(height=np.where(rows["nonfinite"] > 0, overflow, heights))
    interval = seed_interval(rows, "height", [*CONFIGURATION, "layer", "tensor"]).apply(scale.value)
    parts = [interval.rename(columns={"mean": statistic}).reset_index().assign(source="measured")]
    if results.predicted is not None:
        parts.append(_expected(results.predicted, statistic, tensor, direction, scale))
    frame = pd.concat([results.ordered(part) for part in parts], ignore_index=True)
    verdicts = results.ordered(results.summary[[*CONFIGURATION, "verdict"]])
    frame = frame.assign(direction=direction).merge(
        verdicts.astype({"verdict": str}), on=CONFIGURATION
    )
    columns = [*CONFIGURATION, "layer", "tensor", "direction", "source"]
    return frame[[*columns, statistic, "low", "high", "verdict"]]


def statistic_of(frame: pd.DataFrame) -> str:
    """The statistic that a frame by `over_seeds` is about."""
    names = [str(name) for name in frame]
    return names[names.index("source") + 1]


def _expected(
    predicted: pd.DataFrame, statistic: str, tensor: str, direction: str, scale: Scale
) -> pd.DataFrame:
    """The prediction of a statistic, NaN in layers where theory does not apply.

    On a logarithmic axis it has an interval, which holds two thirds of single networks: q is taken
    as log-normal with the predicted spread, so that the middle is below the mean.
    """
    rows = of_tensor(predicted, tensor, direction)
    rows = rows.sort_values("layer", kind="stable")
    value = rows[statistic].to_numpy(dtype=float)
    applies = (rows["note"] == "").to_numpy() & np.isfinite(scale.height(value))
    value = np.where(applies, value, np.nan)
    low = high = np.full(len(rows), np.nan)
    if scale.logarithmic:
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = (rows["second_moment_spread"] / rows["second_moment"]).to_numpy()
            variance = np.log1p(relative**2)  # that of log q
            middle, half = -variance / 4, np.sqrt(variance) / 2
            low, high = value * np.exp(middle - half), value * np.exp(middle + half)
    rows = rows[[*CONFIGURATION, "layer", "tensor"]].assign(low=low, high=high, source="theory")
    rows[statistic] = value
    return rows


THEORY = "theory, where it applies"
"""The name of its lines in a key."""
DOTTED = Stroke(INK, (0, (1.2, 2.2)), 0.9)
"""The stroke of theory, which lets the measured line show through."""


def decorate(panels: Sequence[Axes], scale: Scale, limits: tuple[float, float]) -> None:
    """Range and ticks of panels that share them, and the band in which a signal keeps its scale."""
    ticks = scale.ticks(limits)
    panels[0].set_ylim(limits)
    panels[0].set_yticks(ticks, [scale.label(height) for height in ticks])
    for axes in panels:
        axes.grid(axis="y", color=to_rgba(INK, 0.1), lw=0.5)
        if scale.band:
            axes.axhspan(*scale.band, color=to_rgba(INK, 0.06), lw=0, zorder=0)


def layer_ticks(depth: int) -> list[int]:
    """The first layer, the last, and round numbers between."""
    step = max(5, 5 * round(depth / 20))
    between = [layer for layer in range(step, depth, step) if depth - layer > step / 2]
    return [1, *between, depth] if depth > 2 else list(range(1, depth + 1))


def panels_of_lines(
    frame: pd.DataFrame,
    width: float | None,
    *,
    x: str,
    panel: str,
    line: str,
    span: tuple[float, float],
    labels: tuple[str, str],
    draw: Callable[[Axes, Array, Stroke, bool, tuple[float, float]], None],
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each block and value of a column, and lines in each.

    Args:
        frame: as `over_seeds` gives it, in the order of the lines' points.
        width: of the figure, inches.
        x, panel, line: columns: the flat axis, what has a panel, what has a line.
        span: limits of the flat axis.
        labels: of the axes.
        draw: draws one line into axes with these limits: its points (at, height, low and high)
            in its stroke, strong or faint.

    Returns:
        The figure, and the first panel of each block, whose axes all panels of a block share.
    """
    statistic = statistic_of(frame)
    scale, measured = scale_of(statistic), frame["source"] == "measured"
    heights = scale.height(frame[[statistic, "low", "high"]])
    # on a linear axis, lines that explode would flatten all others
    shown = measured & ((frame["verdict"] == "healthy") | scale.logarithmic)
    limits = scale.limits(heights[shown, 0])
    # infinite values are drawn well outside the panel
    low, high = limits[0] - 2 * np.ptp(limits), limits[1] + 2 * np.ptp(limits)
    heights = np.nan_to_num(heights, nan=np.nan, neginf=low, posinf=high)
    points = np.column_stack([frame[x], heights])
    healthy = (frame["verdict"] == "healthy").to_numpy()
    styles = strokes(order(frame[line]))
    key = styles if measured.all() else styles | {THEORY: DOTTED}
    names, blocks = order(frame[panel]), headings(frame)
    figure, grid = panels(names, width, blocks=list(blocks.values()), labels=labels, key=key)
    axes: dict[tuple[Any, ...], Axes] = {}
    theory: dict[Axes, list[Array]] = {}
    for block, part in zip(blocks, grid, strict=True):
        decorate(part, scale, limits)
        part[0].set_xlim(span)  # before anything is drawn: looking for limits again would be slow
        axes |= {(*block, name): each for name, each in zip(names, part, strict=True)}
    by = ["network", "width", panel, line, "source"]
    groups: Any = frame.groupby(by, observed=True).indices
    for (network, size, name, drawn, source), rows in groups.items():
        here = axes[network, size, name]
        if source == "theory":
            theory.setdefault(here, []).append(points[rows])
        else:
            draw(here, points[rows].T, styles[str(drawn)], bool(healthy[rows[0]]), limits)
    for here, lines in theory.items():
        draw_theory(here, lines)
    return figure, [part[0] for part in grid]


def draw_theory(axes: Axes, lines: Sequence[Array]) -> None:
    """Predictions: thin dotted lines on bands, in the colour of the text."""
    ended = [np.pad(line, [(0, 1), (0, 0)], constant_values=np.nan) for line in lines]
    at, height, low, high = np.concatenate(ended).T
    axes.fill_between(at, low, high, color=to_rgba(INK, 0.1), lw=0, zorder=1)
    axes.plot(at, height, **DOTTED._asdict(), zorder=4)


def draw_curve(
    axes: Axes, points: Array, stroke: Stroke, strong: bool, limits: tuple[float, float]
) -> None:
    """A mean with its interval up to where it leaves the panel or ends, and a mark there."""
    at, height, low, high = points
    outside = (height < limits[0]) | (height > limits[1])
    until = int(outside.argmax()) + 1 if outside.any() else len(at)
    at, height, low, high = (values[:until] for values in (at, height, low, high))
    color, weight = to_rgba(stroke.color, 1 if strong else 0.6), 1.4 if strong else 0.9
    axes.plot(at, height, color=color, linestyle=stroke.linestyle, lw=weight)
    band = to_rgba(stroke.color, 0.18 if strong else 0.07)
    axes.fill_between(at, low, high, color=band, lw=0, zorder=1)
    known = np.flatnonzero(~np.isnan(height))
    if not len(known):
        mark(axes, at[0], np.clip(0, *limits), "x", color)
    elif outside.any():
        end, edge = height[-1], np.clip(height[-1], *limits)
        rising = known[-2:][np.argsort(height[known[-2:]])]
        crossing = np.interp(edge, height[rising], at[rising])
        mark(axes, crossing, edge, "v" if end < edge else "^", color)
    elif known[-1] < len(at) - 1:
        mark(axes, at[known[-1]], height[known[-1]], "x", color)
    elif len(at) == 1:
        mark(axes, at[0], height[0], "o", color)


def draw_points(
    axes: Axes, points: Array, stroke: Stroke, strong: bool, limits: tuple[float, float]
) -> None:
    """Means with their intervals, a dot for each; marked where one lies outside the panel."""
    at, height, low, high = points
    outside = (height < limits[0]) | (height > limits[1])
    band = to_rgba(stroke.color, 0.18)
    axes.fill_between(at, low, high, where=~outside, color=band, lw=0, zorder=1)
    color, dashes = stroke.color, stroke.linestyle
    axes.plot(at, height, "o", color=color, linestyle=dashes, lw=1.2, ms=2.6)
    for place, end in zip(at[outside], height[outside], strict=True):
        mark(axes, place, np.clip(end, *limits), "v" if end < limits[0] else "^", color)


def mark(axes: Axes, at: float, height: float, marker: str, color: Any) -> None:
    """A mark where a line ends or leaves the panel."""
    edge = 1.2 if marker == "x" else 0
    axes.plot(at, height, marker, color=color, ms=4, mew=edge, clip_on=False, zorder=5)


def draw_seeds(axes: Axes, rows: pd.DataFrame, color: str) -> pd.DataFrame:
    """A thin line for each seed, and a strong one for the rows without, which are returned."""
    seeds = rows.dropna(subset="seed").pivot(index="layer", columns="seed", values="value")
    axes.plot(seeds, color=to_rgba(color, 0.28 if seeds.shape[1] < 15 else 0.15), lw=0.6)
    mean = rows[rows["seed"].isna()]
    axes.plot(mean["layer"], mean["value"], color=color, lw=1.6)
    return mean


def note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any
) -> None:
    """Small print beside a point of a panel; `offset` is in points."""
    given: dict[str, Any] = {"va": "center", "fontsize": 7.5, "annotation_clip": False} | style
    axes.annotate(text, at, offset, textcoords="offset points", **given)


def apart(heights: Array, limits: tuple[float, float], room: float) -> Array:
    """Heights of labels near these and within limits, moved until they do not overlap.

    Args:
        room: what a label needs, as a share of the height of the panel.
    """
    room *= limits[1] - limits[0]
    placed = heights.copy()
    for below, above in pairwise(np.argsort(heights, kind="stable")):
        placed[above] = max(placed[above], placed[below] + room)
    return np.asarray(placed - max(0.0, placed.max() - limits[1]))
