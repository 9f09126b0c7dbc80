"""Figures of a sweep's table: one function a figure, drawn with seaborn and matplotlib.

A figure is drawn once for three readers: its ink is one colour, which a page replaces by the
colour of its own text, and its other colours keep their meaning on white and on black. What
vanished, overflowed or collapsed is drawn as that. `FIGURES` holds them all in the order of a
report; `Results` is what they are drawn from.
"""

from __future__ import annotations

from initstats.plots.bands import band_of, banded
from initstats.plots.catalog import FIGURES, Need, Picture, register_figure
from initstats.plots.results import Results

# each of these adds its figures to the catalog, which is the order of a report
from initstats.plots import maps, lines, story, distribution  # isort: skip

__all__ = [
    "FIGURES",
    "Need",
    "Picture",
    "Results",
    "band_of",
    "banded",
    "distribution",
    "lines",
    "maps",
    "register_figure",
    "story",
]
