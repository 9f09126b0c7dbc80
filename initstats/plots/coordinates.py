"""The figure of a coordinate check: sizes over width."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
from initstats.plots.style import ABOVE, BELOW, FIT, INK, PAGE, PALETTE, shortened
from initstats.registry import Need

UNSURE = "#8b8f96"
COLOURS = {
    "as expected": FIT,
    "grows": ABOVE,
    "vanishes": BELOW,
    "curved": PALETTE[4],
    "too uncertain": UNSURE,
}
WORDS = {
    "as expected": "as it should be",
    "grows": "grows too fast",
    "vanishes": "shrinks too fast",
    "curved": "no straight line: the widths do not suffice",
    "too uncertain": "too uncertain: take more seeds",
}
"""What a colour says of a line."""
FACTOR = Scale(True, (-0.35, 0.35), (-6, 6), 0.1)
"""The axis of factors: logarithmic."""
NAMED = 3
"""Lines of a panel that are named, those that are off most."""
PANELS = {"value": "values at init", "change": "how far they moved by step"}

SOME = Need[Any](
    lambda found: bool(found.slopes["verdict"].ne("").any()),
    "no operation has a slope that is known for this parametrization",
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
    explodes in wider models, one that falls stops learning there. The ones furthest off are named.
    A grey line may be right or wrong: the draws of the weights differ too much to tell.
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
        if verdict not in ("as expected", "too uncertain") and np.isfinite(heights[-1]):
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
