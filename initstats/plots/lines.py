"""Statistics against depth: a panel an activation, a line an init."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from initstats.diagnosis import CONFIGURATION, seed_interval
from initstats.plots.bands import Key
from initstats.plots.catalog import DEPTH, GRADIENTS, register_figure
from initstats.plots.matrix import LETTER
from initstats.plots.results import Results
from initstats.plots.style import INK, PAGE, Stroke, decimal, fade, power_of_ten, strokes, wrapped

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """How values become heights in a panel.

    Attributes:
        height: of a value; applied before averaging over seeds.
        shown: range that is shown whatever the data.
        bounds: range that is never gone beyond; lines leave the panel there.
        tick: distance of two ticks, at least.
        label: of a tick.
        band: heights between which a signal keeps its scale.
    """

    height: Callable[[Array], Array]
    shown: tuple[float, float]
    bounds: tuple[float, float]
    tick: float
    label: Callable[[float], str]
    band: tuple[float, float] | None = None

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


def _log10(values: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log10(values)


LOG = Scale(_log10, (-1, 1), (-6, 6), 1, lambda x: power_of_ten(round(x)), (-1, 1))
LINEAR = Scale(lambda values: values, (-0.5, 1), (-5, 5), 0.5, lambda x: decimal(x, 1))
SHARE = Scale(lambda values: values.clip(0, 1), (0, 1), (0, 1), 0.5, lambda x: decimal(x, 1))

THEORY = "theory, where it applies"
"""The name of its lines in a key."""
DOTTED = Stroke(INK, (1.2, 2.2))
"""Lets the measured line show through."""
_HEIGHTS = ("height", "low", "high")


@register_figure(title="Spread against depth", data=lambda results: results, needs=[DEPTH])
def std_by_depth(results: Results) -> Figure:
    """Standard deviation of the activations, layer by layer: geometric mean over seeds with its 95%
    Student-t interval. A straight line is a constant factor a layer. The band is a factor of ten
    around 1; strong lines are the healthy configurations, faint ones lose the signal in one way or
    another. ▾ marks where a line leaves the panel towards zero (or is zero), ▴ where it leaves
    upwards (or overflows); from there it is not followed.
    """
    return _panels(results, "std", "activation", "forward", LOG, "standard deviation")


@register_figure(title="Mean against depth", data=lambda results: results, needs=[DEPTH])
def mean_by_depth(results: Results) -> Figure:
    """Mean of the activations, layer by layer, over seeds with its 95% Student-t interval. A mean
    that stays away from zero is the same push for every input, which the next layer turns into an
    offset of every unit. Strong lines are the healthy configurations; ▴ and ▾ mark where a line
    leaves the panel, × where it ends in an overflow.
    """
    return _panels(results, "mean", "activation", "forward", LINEAR, "mean")


@register_figure(
    title="Do inputs stay distinguishable?", data=lambda results: results, needs=[DEPTH]
)
def sample_correlation(results: Results) -> Figure:
    """Mean correlation of the pre-activations of two samples, over seeds with its 95% Student-t
    interval. At 1 every input looks the same to the layer, whatever the standard deviation says:
    that is how a bias, or an activation with a large mean, drowns the signal. × is where a line
    ends because the signal is exactly zero or has overflowed.
    """
    return _panels(
        results, "sample_correlation", "preactivation", "forward", SHARE, "sample correlation"
    )


@register_figure(
    title="Gradient against depth", data=lambda results: results, needs=[DEPTH, GRADIENTS]
)
def gradient_by_depth(results: Results) -> Figure:
    """Standard deviation of the gradient with respect to the pre-activations, for a cotangent of
    standard deviation 1 at the last activation: geometric mean over seeds with its 95% Student-t
    interval. Read it from right to left, as the gradient travels. What falls towards the left
    vanishes before it reaches the first layers.
    """
    return _panels(results, "std", "preactivation", "backward", LOG, "gradient's std")


class Curve(NamedTuple):
    """One configuration's heights, in the order in which the signal travels."""

    layers: NDArray[np.int64]
    mean: Array
    low: Array
    high: Array


def by_depth(
    results: Results, statistic: str, tensor: str, direction: str, scale: Scale
) -> dict[Key, Curve]:
    """The curve of every configuration: mean over seeds, and its interval.

    An overflow is infinitely high where heights are logarithms, and unknown elsewhere.
    """
    rows = results.measured(tensor, direction)
    heights = scale.height(rows[statistic].to_numpy())
    overflow = np.inf if scale is LOG else np.nan
    rows = rows.assign(height=np.where(rows["nonfinite"] > 0, overflow, heights))
    interval = seed_interval(rows, "height", [*CONFIGURATION, "layer"]).reset_index("layer")
    way = 1 if direction == "forward" else -1
    return {
        cast(Key, key): Curve(*(column.to_numpy()[::way] for _, column in curve.items()))
        for key, curve in interval.groupby(level=CONFIGURATION, observed=True)
    }


def theory_by_depth(
    results: Results, statistic: str, tensor: str, direction: str, scale: Scale
) -> dict[Key, Curve]:
    """What theory says of every configuration; unknown in the layers where it does not apply.

    The interval is where two draws of three lie at this width: where heights are logarithms, that
    of a log-normal length of the predicted spread, whose middle is below its mean.
    """
    rows = results.predicted
    if rows is None:
        return {}
    rows = rows[(rows["tensor"] == tensor) & (rows["direction"] == direction)]
    height = scale.height(rows[statistic].to_numpy())
    height = np.where((rows["note"] == "") & np.isfinite(height), height, np.nan)
    low = high = np.full(len(rows), np.nan)
    if scale is LOG:
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = (rows["second_moment_spread"] / rows["second_moment"]).to_numpy()
        variance = np.log1p(relative**2)  # of the logarithm of a second moment
        middle, half = (part / math.log(10) for part in (-variance / 4, np.sqrt(variance) / 2))
        low, high = height + middle - half, height + middle + half
    rows = rows[[*CONFIGURATION, "layer"]].assign(height=height, low=low, high=high)
    return {
        cast(Key, key): Curve(*(curve[name].to_numpy() for name in ("layer", *_HEIGHTS)))
        for key, curve in rows.sort_values("layer").groupby(CONFIGURATION, observed=True)
    }


def draw_theory(axes: Axes, curve: Curve) -> None:
    """What theory says: a thin line of the ink on its band, neither of them an init's."""
    axes.fill_between(curve.layers, curve.low, curve.high, color=fade(INK, 0.1), lw=0, zorder=1)
    axes.plot(curve.layers, curve.mean, color=INK, linestyle=DOTTED.linestyle, lw=0.9, zorder=4)


def _theory_stroke(results: Results) -> dict[str, Stroke]:
    """The key's last entry, where there is something to explain."""
    return {} if results.predicted is None else {THEORY: DOTTED}


def _panels(
    results: Results, statistic: str, tensor: str, direction: str, scale: Scale, label: str
) -> Figure:
    """A panel an activation, for every block."""
    curves = by_depth(results, statistic, tensor, direction, scale)
    healthy = {
        tuple(key)
        for key in results.summary.query("verdict == 'healthy'")[CONFIGURATION].to_numpy()
    }
    # what explodes would flatten all others where heights are not logarithms
    limits = scale.limits(c.mean for key, c in curves.items() if scale is LOG or key in healthy)
    expected = theory_by_depth(results, statistic, tensor, direction, scale)
    styles = strokes(results.inits)
    layout = Layout.of(results)
    figure = Figure(figsize=(PAGE, layout.height))
    for number, block in enumerate(results.blocks):
        for index, activation in enumerate(results.activations):
            axes = layout.panel(figure, number, index, label)
            layout.title(axes, activation)
            decorate(axes, scale, limits, results.depth)
            for init in results.inits:
                key = (block.network, init, activation, block.width)
                if key in curves:
                    draw_curve(axes, curves[key], styles[init], limits, strong=key in healthy)
                if key in curves and key in expected:
                    draw_theory(axes, expected[key])
    layout.head(figure, styles | _theory_stroke(results))
    return figure


@dataclass(frozen=True)
class Layout:
    """Where panels go, in inches: `rows` x `columns` a block, blocks one below the other."""

    blocks: Sequence[str]
    panels: int
    columns: int
    key: float

    @classmethod
    def of(cls, results: Results) -> Layout:
        """Room for a panel an activation, and a key of the inits."""
        panels = len(results.activations)
        columns = min(panels, 5) if panels != 6 else 3
        names = [results.name(block) for block in results.blocks]
        lines = _key([*results.inits, *_theory_stroke(results)])[-1][1] + 1
        return cls(names, panels, columns, 0.04 + 0.18 * lines)

    @property
    def rows(self) -> int:
        """Rows of panels in a block."""
        return math.ceil(self.panels / self.columns)

    @property
    def block(self) -> float:
        """Height of a block."""
        return 0.3 * (len(self.blocks) > 1) + self.rows * self.step[1] + 0.3

    @property
    def height(self) -> float:
        """Of the figure."""
        return self.key + self.block * len(self.blocks)

    @property
    def step(self) -> tuple[float, float]:
        """From one panel to the next, across and down."""
        across = min((PAGE - 0.6) / self.columns, 4.0)
        return across, max(1.55, min(0.75 * across, 2.6))

    def panel(self, figure: Figure, block: int, index: int, label: str) -> Axes:
        """The axes of a panel; those at the left and at the bottom are labelled."""
        row, column = divmod(index, self.columns)
        across, down = self.step
        top = self.height - self.key - self.block * (block + 1) + 0.3 + self.rows * down
        box = (0.6 + column * across, top - (row + 1) * down + 0.12, across - 0.22, down - 0.36)
        size = (PAGE, self.height)
        axes = figure.add_axes(
            (box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]),
            label=f"{block} {index}",
        )
        axes.tick_params(labelleft=column == 0, labelbottom=index + self.columns >= self.panels)
        if column == 0:
            axes.set_ylabel(label)
        if index + self.columns >= self.panels:
            axes.set_xlabel("layer", labelpad=1)
        return axes

    def title(self, axes: Axes, name: str) -> None:
        """The name above a panel, smaller and in two lines where it is too long for one."""
        room = self.step[0] - 0.22
        if len(name) * 1.1 * LETTER > room:
            name = wrapped(name, int(room / LETTER))
            axes.set_title(name, fontsize=7, pad=3, linespacing=1.0)
        else:
            axes.set_title(name)

    def head(self, figure: Figure, styles: dict[str, Stroke]) -> None:
        """The key of the lines, and the blocks' names."""
        for (name, style), (left, line) in zip(styles.items(), _key(list(styles)), strict=True):
            height = self.height - 0.12 - 0.18 * line
            mark = Line2D([left, left + 0.3], [height, height], transform=figure.dpi_scale_trans)
            mark.set(color=style.color, linestyle=style.linestyle)
            mark.set_linewidth(0.9 if name == THEORY else 1.6)
            figure.add_artist(mark)
            figure.text(
                left + 0.36,
                height,
                name,
                va="center_baseline",
                transform=figure.dpi_scale_trans,
            )
        for number, name in enumerate(self.blocks):
            top = self.height - self.key - self.block * number - 0.12
            figure.text(0.02, top / self.height, name, fontweight="bold", va="top")


def _key(names: Sequence[str]) -> list[tuple[float, int]]:
    """Where the names of the lines go, set like words of a text: inches from the left, and line."""
    places: list[tuple[float, int]] = []
    left, line = 0.05, 0
    for name in names:
        width = 0.55 + LETTER * len(name)
        if places and left + width > PAGE:
            left, line = 0.05, line + 1
        places.append((left, line))
        left += width
    return places


def decorate(axes: Axes, scale: Scale, limits: tuple[float, float], depth: int) -> None:
    """Range, ticks, and the band in which a signal keeps its scale."""
    axes.set(xlim=(0.5, depth + 0.5), ylim=limits)
    ticks = scale.ticks(limits)
    axes.set_yticks(ticks, [scale.label(height) for height in ticks])
    axes.set_xticks(layer_ticks(depth))
    for height in ticks:
        axes.axhline(height, color=fade(INK, 0.1), lw=0.5, zorder=0)
    if scale.band:
        axes.axhspan(*scale.band, color=fade(INK, 0.06), lw=0, zorder=0)


def layer_ticks(depth: int) -> list[int]:
    """The first layer, the last, and round numbers between."""
    step = max(5, 5 * round(depth / 20))
    between = [layer for layer in range(step, depth, step) if depth - layer > step / 2]
    return [1, *between, depth] if depth > 2 else list(range(1, depth + 1))


def draw_curve(
    axes: Axes, curve: Curve, stroke: Stroke, limits: tuple[float, float], *, strong: bool = True
) -> None:
    """A mean with its interval; marked where it leaves the panel or ends.

    Args:
        axes: of the panel.
        curve: what to draw.
        stroke: colour and dash.
        limits: of the panel.
        strong: whether the line is to stand out.
    """
    beyond = 2 * (limits[1] - limits[0])
    mean, least, most = (
        np.nan_to_num(heights, nan=np.nan, neginf=limits[0] - beyond, posinf=limits[1] + beyond)
        for heights in curve[1:]
    )
    outside = (mean < limits[0]) | (mean > limits[1])
    until = int(outside.argmax()) + 1 if outside.any() else len(mean)
    layers, mean, least, most = curve.layers[:until], mean[:until], least[:until], most[:until]
    weight, alpha = (1.4, 1.0) if strong else (0.9, 0.6)
    color = fade(stroke.color, alpha)
    band = fade(stroke.color, 0.18 if strong else 0.07)
    axes.fill_between(layers, least, most, color=band, lw=0)
    axes.plot(layers, mean, color=color, linestyle=stroke.linestyle, lw=weight)
    for at, height, marker in _marks(mean, limits):
        axes.plot(
            np.interp(at, range(len(mean)), layers),
            height,
            marker,
            color=color,
            ms=4,
            mew=1.2 if marker == "x" else 0,
            clip_on=False,
            zorder=5,
        )


def _marks(mean: Array, limits: tuple[float, float]) -> Iterator[tuple[float, float, str]]:
    """Position, height and marker of what a line cannot say: leaving, ending, a single point."""
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
