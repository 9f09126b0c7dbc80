"""Ticks of numbers that stand side by side, as many as have room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import (
    Formatter,
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullLocator,
    ScalarFormatter,
)

from initstats.plots.results import evenly
from initstats.plots.style import STYLE, inches

MOST, GAP = 9, 0.08
"""Greatest number of ticks, and the least distance between two labels, inches."""


def clear_ticks(axis: Axis) -> None:
    """Ticks of a horizontal linear axis: round numbers, whose labels keep clear of each other."""

    def round_numbers(low: float, high: float, most: int) -> Sequence[float]:
        ticks: Sequence[float] = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return ticks

    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    _set(axis, _Clear(axis, round_numbers), formatter)


def ticks_at(axis: Axis, values: Sequence[float]) -> None:
    """Ticks of a horizontal axis at some of these values, evenly."""
    formatter = FuncFormatter(lambda value, _: f"{value:.2g}")
    _set(axis, _Clear(axis, lambda low, high, most: evenly(values, most)), formatter)


def plain_ticks(axis: Axis) -> None:
    """Few ticks of a logarithmic axis, written out: of a wide one, 1, 2 and 5 by powers of ten."""
    low, high = axis.get_view_interval()
    locator = MaxNLocator(5) if high < 10 * low else LogLocator(subs=(1, 2, 5))
    _set(axis, locator, FuncFormatter(lambda value, _: f"{value:g}"))


def _set(axis: Axis, locator: Locator, formatter: Formatter) -> None:
    axis.set_major_locator(locator)
    axis.set_major_formatter(formatter)
    axis.set_minor_locator(NullLocator())


class _Clear(Locator):
    """The most ticks whose labels have room on an axis, as wide as it is when it is drawn.

    Args:
        on: the axis.
        some: ticks between two values, at most so many.
    """

    def __init__(self, on: Axis, some: Callable[[float, float, int], Sequence[float]]) -> None:
        self.on, self.some = on, some

    def __call__(self) -> Sequence[float]:
        low, high = self.on.get_view_interval()
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """The ticks between two values."""
        ticks: list[float] = []
        for most in range(MOST, 0, -1):
            ticks = [tick for tick in self.some(vmin, vmax, most) if vmin <= tick <= vmax]
            if self._have_room(ticks, vmin, vmax):
                return ticks
        while len(ticks) > 2 and not self._have_room(ticks, vmin, vmax):
            ticks = ticks[::2]
        return ticks

    def _have_room(self, ticks: list[float], low: float, high: float) -> bool:
        labels = self.on.get_major_formatter().format_ticks(ticks)
        widths = np.array([inches(label, STYLE["xtick.labelsize"]) for label in labels])
        start, *at, end = self.on.get_transform().transform([low, *ticks, high])
        box, figure = self.on.axes.bbox, self.on.axes.figure
        places = (np.array(at) - start) / (end - start) * box.width / figure.dpi
        return bool((np.diff(places) >= (widths[1:] + widths[:-1]) / 2 + GAP).all())
