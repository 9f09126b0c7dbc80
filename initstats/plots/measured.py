"""The figures of a measured model as functions of its probe."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from initstats.plots.catalog import figure
from initstats.plots.style import PAGE


def depth_profile(measured: Any, width: float = PAGE) -> Figure:
    """The standard deviation, mean and dead units of every value, in the order of execution.

    Args:
        measured: a probe, or the table of one; its last step is drawn.
        width: inches.

    Raises:
        ValueError: nothing was measured.
    """
    return figure("depth_profile", measured, width)


def distribution_profile(measured: Any, width: float = PAGE) -> Figure:
    """The distribution of every value, in the order of execution.

    Args:
        measured: a probe; its last step is drawn.
        width: inches.

    Raises:
        ValueError: nothing was measured, or only a table is given.
    """
    return figure("distribution_profile", measured, width)


def training_lines(measured: Any, width: float = PAGE) -> Figure:
    """The standard deviation, mean and dead units of some layers over the steps of a training.

    Args:
        measured: a probe, or the table of one.
        width: inches.

    Raises:
        ValueError: only one step was measured.
    """
    return figure("training_lines", measured, width)


def training_distributions(measured: Any, width: float = PAGE) -> Figure:
    """The colourful dimension: the distributions of some layers over the steps of a training.

    Args:
        measured: a probe.
        width: inches.

    Raises:
        ValueError: only one step was measured, or only a table is given.
    """
    return figure("training_distributions", measured, width)
