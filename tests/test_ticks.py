"""Ticks: labels that keep clear of each other, whatever the numbers and the room."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from initstats.plots.style import STYLE, StyledFigure
from initstats.plots.ticks import GAP, clear_ticks, ticks_at

RANGES = [
    *((-0.55, 1.6), (-0.25, 0.25), (-0.24, 0.37), (-1.1, 1.9), (0, 2346), (782, 2346)),
    *((-0.0011, 0.0009), (-1e-5, 3e-5), (-63, 98), (-1e5, 1e6), (99.9, 100.1), (0, 1)),
]


def drawn(axes: Axes) -> list[str]:
    """The labels of an axis, which are clear of each other and inside the figure."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw(renderer)
    low, high = axes.get_xlim()
    labels = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    boxes = [label.get_window_extent(renderer) for label in labels]
    for left, right in itertools.pairwise(boxes):
        assert right.x0 - left.x1 > 0.6 * GAP * figure.dpi  # the hinting of letters takes some
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("width", [1.6, 2.9, 9.0])
@pytest.mark.parametrize("limits", RANGES)
def test_labels_keep_clear_of_each_other(limits: tuple[float, float], width: float) -> None:
    with mpl.rc_context(STYLE):
        axes = StyledFigure((width, 1.0)).subplots()
        axes.set_xlim(limits)
        clear_ticks(axes.xaxis)
        labels = drawn(axes)
    numbers = [float(label.replace("−", "-")) for label in labels]
    assert 2 <= len(numbers) <= 10
    np.testing.assert_allclose(np.diff(numbers, 2), 0, atol=1e-9 * np.ptp(limits))
    assert len({*numbers}) == len(numbers)


@pytest.mark.parametrize(("width", "count"), [(1.6, 3), (2.0, 4), (6.0, 8)])
def test_given_values_are_thinned_evenly(width: float, count: int) -> None:
    rates = [0.003 * 2.0**place for place in range(8)]
    with mpl.rc_context(STYLE):
        axes = StyledFigure((width, 1.0)).subplots()
        axes.set(xscale="log", xlim=(rates[0] / 1.2, rates[-1] * 1.2))
        ticks_at(axes.xaxis, rates)
        labels = drawn(axes)
    assert abs(len(labels) - count) <= 1
    assert labels[0] == "0.003"
    assert labels[-1] == "0.38"
    assert {*labels} <= {f"{rate:.2g}" for rate in rates}
