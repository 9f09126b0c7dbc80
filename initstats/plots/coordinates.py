"""Figures of a coordinate check: sizes over width, and the powers of every parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from initstats.plots.catalog import register_figure
from initstats.plots.curves import Scale, note
from initstats.plots.grid import add_key, panels
from initstats.plots.results import evenly
from initstats.plots.style import ABOVE, BELOW, FIT, INK, PAGE, PALETTE, StyledFigure, shortened
from initstats.registry import Need

COLOURS = {"as expected": FIT, "grows": ABOVE, "vanishes": BELOW, "curved": PALETTE[4]}
WORDS = {
    "as expected": "as it should be",
    "grows": "grows too fast",
    "vanishes": "shrinks too fast",
    "curved": "no straight line: the widths do not suffice",
}
"""What a colour says of a line."""
FACTOR = Scale(True, (-0.35, 0.35), (-6, 6), 0.1)
"""The axis of factors: logarithmic."""
NAMED = 3
"""Lines of a panel that are named, those that are off most."""
MOST = 40
"""Parameters of a figure; of more, those that are off, and some of the others, evenly taken."""
PANELS = {"value": "values at init", "change": "how far they moved by step"}

SOME = Need[Any](
    lambda found: bool(found.slopes["verdict"].ne("").any()),
    "no operation has a slope that is known for this parametrization",
)
POWERS = Need[Any](
    lambda found: bool(
        found.parameters["rate"].notna().any() or found.parameters["init"].notna().any()
    ),
    "no parameter was judged",
)


def over_width(found: Any) -> pd.DataFrame:
    """Sizes of values at init, and of their changes, over what they should be, by width.

    Returns:
        A row for each operation, quantity and width: `factor`, the rms over that at the smallest
        width and over what the parametrization makes of it (geometric mean over seeds), and the
        `verdict` about its slope.
    """
    keys = ["name", "op", "call", "turn", "tensor", "quantity", "step"]
    slopes = found.slopes[found.slopes["verdict"] != ""]
    shown = (slopes["quantity"] == "value") & (slopes["step"] == 0)
    shown |= (slopes["quantity"] == "change") & (slopes["step"] == slopes["step"].max())
    slopes = slopes.loc[shown, [*keys, "layer", "slope", "expected", "verdict"]]
    table = found.table
    if "depth" in table:
        table = table[table["depth"] == table["depth"].min()]
    rows = table.drop(columns="layer").merge(slopes, on=keys)
    rows = rows.assign(log=np.log(rows["rms"].to_numpy(dtype=float)))
    groups = [*keys, "layer", "slope", "expected", "verdict", "width"]
    logs = rows.groupby(groups, observed=True, as_index=False)["log"].mean()
    smallest = logs["width"].min()
    first = logs[logs["width"] == smallest].set_index(keys)["log"]
    began = logs.set_index(keys).index.map(first).to_numpy(dtype=float)
    wider = np.log(logs["width"].to_numpy(dtype=float) / smallest)
    factor = np.exp(logs["log"].to_numpy() - began - logs["expected"].to_numpy() * wider)
    lines: pd.DataFrame = logs.assign(factor=factor).drop(columns="log")
    return lines.sort_values(["layer", "width"])


@register_figure(
    page="coordinates",
    title="Sizes over width: flat is as it should be",
    data=over_width,
    needs=[SOME],
)
def coordinate_lines(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """A flat line is what you want: that operation behaves alike at every width. Each line is one
    operation. Its height is the size (rms) of its values at init, on the left, and of how far one
    step or a few of training moved them, on the right, as a factor: divided by the size at the
    smallest width, and by what the parametrization makes of it at larger ones. A line that rises
    explodes in wider models, one that falls stops to learn there. The ones furthest off are named.
    """
    drawn = [rows for _, rows in frame.groupby("quantity", sort=False)]
    drawn.sort(key=lambda rows: list(PANELS).index(str(rows["quantity"].iloc[0])))
    titles = [_title(rows) for rows in drawn]
    key = {}
    figure, (grid,) = panels(
        titles, width, labels=("width", "factor"), most=2, least=2.4, height=2.3
    )
    for verdict in COLOURS:
        if (frame["verdict"] == verdict).any():
            key[WORDS[verdict]] = Line2D([], [], color=COLOURS[verdict], lw=1.6)
    add_key(figure, key)
    heights = FACTOR.height(frame["factor"])
    limits = FACTOR.limits(heights)
    for axes, rows in zip(grid, drawn, strict=True):
        _lines(axes, rows, limits)
    return figure


def _title(rows: pd.DataFrame) -> str:
    quantity, step = str(rows["quantity"].iloc[0]), int(rows["step"].iloc[0])
    return PANELS[quantity] + (f" {step}" if quantity == "change" else "")


def _lines(axes: Axes, rows: pd.DataFrame, limits: tuple[float, float]) -> None:
    """The lines of a panel; the worst are named at their ends."""
    ends = []
    for (name, op, *_, verdict), line in rows.groupby(
        ["name", "op", "call", "turn", "layer", "verdict"], sort=False
    ):
        at, heights = np.log2(line["width"]), FACTOR.height(line["factor"])
        color = COLOURS[str(verdict)]
        axes.plot(at, heights.clip(*limits), color=color, lw=1.3, alpha=0.85)
        axes.plot(at, heights.clip(*limits), "o", color=color, ms=2.4, mew=0)
        if verdict != "as expected" and np.isfinite(heights[-1]):
            ends.append((float(heights[-1]), f"{name} ({op})", color))
    size_axis(axes, rows["width"])
    factor_axis(axes, limits)
    _name_ends(axes, ends, float(np.log2(rows["width"].max())), limits)


def _name_ends(
    axes: Axes, ends: list[tuple[float, str, str]], at: float, limits: tuple[float, float]
) -> None:
    """Names beside the ends of the lines that are off most, from above, none on another."""
    low, high = limits
    gap, last = (high - low) / 17, math.inf
    for end, name, color in sorted(sorted(ends, key=lambda e: -abs(e[0]))[:NAMED], reverse=True):
        last = min(float(np.clip(end, low, high)), last - gap)
        note(axes, shortened(name), (at, last), (6, 0), ha="left", color=color)


def factor_axis(axes: Axes, limits: tuple[float, float]) -> None:
    """The upright axis of factors, with a line at 1."""
    axes.axhline(0, color=to_rgba(INK, 0.35), lw=0.6, zorder=0)
    axes.set_ylim(*limits)
    ticks = _ticks(limits)
    axes.set_yticks(np.log10(ticks), [_factor(tick) for tick in ticks])


def size_axis(axes: Axes, sizes: Iterable[int]) -> None:
    """The level axis of widths or depths."""
    shown = sorted({*sizes})
    axes.set_xticks(np.log2(shown), [f"{size:,}" for size in shown])
    axes.xaxis.set_minor_locator(NullLocator())


def _ticks(limits: tuple[float, float]) -> list[float]:
    """Factors that are powers of 2, or of 4, 16, ... where there would be many."""
    low, high = (math.floor(limit / math.log10(2)) for limit in limits)
    step = 1
    while (high - low) / step > 7:
        step *= 2
    return [2.0**n for n in range(low - low % step + step, high + 1, step)]


def _factor(value: float) -> str:
    return f"× {value:g}" if value >= 1 else f"× 1/{1 / value:g}"


def powers(found: Any) -> pd.DataFrame:
    """The powers of the parameters, in long form: those that are off, and some others.

    Returns:
        A row for each use of a parameter and each of `init` and `rate`: `power`, `expected`, `off`.
    """
    frame: pd.DataFrame = found.parameters.reset_index(drop=True)
    off = frame[["init_off", "rate_off"]].fillna(0).ne(0).any(axis=1)
    bad, good = list(frame.index[off]), list(frame.index[~off])
    kept = sorted([*evenly(bad, MOST), *evenly(good, max(MOST - len(bad), 0))])
    parts = []
    for what in ("init", "rate"):
        names = {what: "power", f"{what}_expected": "expected", f"{what}_off": "off"}
        part = frame.loc[kept, ["parameter", "op", "kind", *names]].rename(columns=names)
        parts.append(part.assign(what=what, row=range(len(kept))))
    return pd.concat(parts, ignore_index=True)


@register_figure(page="coordinates", title="Powers of width", data=powers, needs=[POWERS])
def parameter_powers(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """One row for each parameter. The dot is the power of the width with which its initial values
    (left) and its learning rate (right) change, multipliers included; the upright mark is the power
    that the parametrization has. A green dot is on its mark. A red one is too large: multiply by
    the width to the power of the difference. A blue one is too small. A grey dot is of values that
    may as well be smaller, as they may begin at zero.
    """
    rows = frame[frame["what"] == "init"]
    labels = [shortened(name) for name in rows["parameter"]]
    figure = StyledFigure((width, 0.165 * len(labels) + 0.75))
    grid = figure.subplots(1, 2, sharey=True)
    titles = {"init": "initial values", "rate": "learning rate"}
    for axes, (what, title) in zip(grid, titles.items(), strict=True):
        _dots(axes, frame[frame["what"] == what])
        axes.set_title(title)
    figure.supxlabel("power of the width")
    grid[0].set_yticks(range(len(labels)), labels, fontsize=7)
    grid[0].set_ylim(len(labels) - 0.4, -0.6)
    return figure


def _dots(axes: Axes, rows: pd.DataFrame) -> None:
    """The dots of a panel and their marks."""
    axes.axvline(0, color=to_rgba(INK, 0.3), lw=0.6, zorder=0)
    for power, expected, off, at in _judged(rows):
        beside = abs(power - expected) > 0.15 and not off
        color = INK if beside else FIT if not off else ABOVE if off > 0 else BELOW
        axes.hlines(
            at, min(power, expected), max(power, expected), colors=[color], lw=1.0, alpha=0.5
        )
        axes.plot(expected, at, "|", color=INK, ms=9, mew=1.2)
        axes.plot(power, at, "o", color=color, ms=4.5, mew=0, alpha=0.5 if beside else 1)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -1.15), max(high, 1.15))


def _judged(rows: pd.DataFrame) -> Iterator[tuple[float, float, float, int]]:
    known = rows.dropna(subset=["power", "expected"])
    yield from zip(
        known["power"], known["expected"], known["off"].fillna(0), known["row"], strict=True
    )
