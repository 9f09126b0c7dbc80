"""Figures of all pages: for each a tidy frame, and its drawing with seaborn and matplotlib.

A figure is drawn once for three readers: its ink is one colour, which a page replaces by the
colour of its own text, and its other colours keep their meaning on white and on black. What
vanished, overflowed or collapsed is drawn as that. `FIGURES` holds them all in the order of a
report; `Results` is what they are drawn from.
"""

from __future__ import annotations

from initstats.plots.bands import band_of, banded
from initstats.plots.catalog import FIGURES, Picture, figure, of_page, register_figure
from initstats.plots.parameter import against
from initstats.plots.results import Probed, Results
from initstats.registry import Need

# each of these adds its figures to the catalog, which is the order of a report
from initstats.plots import parameter, maps, lines, story, distribution, probed, phases, timings  # isort: skip # noqa: F401

__all__ = [
    "FIGURES",
    "Need",
    "Picture",
    "Probed",
    "Results",
    "against",
    "band_of",
    "banded",
    "figure",
    "of_page",
    "register_figure",
]
