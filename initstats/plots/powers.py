"""The figure of a coordinate check about parameters: their powers of the width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from initstats.plots.catalog import register_figure
from initstats.plots.results import evenly
from initstats.plots.style import ABOVE, BELOW, FIT, INK, PAGE, StyledFigure, shortened
from initstats.registry import Need

MOST = 40
"""Parameters of a figure; of more, those that are off, and some of the others, evenly taken."""

POWERS = Need[Any](
    lambda found: bool(
        found.parameters["rate"].notna().any() or found.parameters["init"].notna().any()
    ),
    "no parameter was judged",
)


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
    (left) and its learning rate (right) change, multipliers included: at 0 they are the same at
    every width, at -1 they halve when the width doubles. The upright mark is the power that they
    should have. A green dot is on its mark. A red one is too large, a blue one too small: multiply
    by the width to the power of the difference. A dark dot beside its mark is of values that may
    begin at zero, so that smaller ones do no harm.
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
