"""Figures of all pages: for each a tidy frame, and its drawing with seaborn and matplotlib.

Text and axes have one colour, which a page replaces by the colour of its own text; all other
colours can be read on white and on black. Values that vanished or overflowed are marked, not left
out. `FIGURES` holds all figures in the order of a report; a study's are drawn from `Results`.
"""

from __future__ import annotations

from initstats.plots.bands import band_of, banded
from initstats.plots.catalog import FIGURES, Picture, figure, of_page, register_figure
from initstats.plots.parameter import against
from initstats.plots.results import Probed, Results
from initstats.plots.trained import Trained
from initstats.registry import Need

# each of these adds its figures to the catalog, which is the order of a report
from initstats.plots import parameter, maps, lines, story, distribution, probed, phases, timings  # isort: skip # noqa: F401
from initstats.plots import compared, training, learned, sides, survey, initialization  # isort: skip # noqa: F401
from initstats.plots import coordinates, depths, powers  # isort: skip # noqa: F401

__all__ = [
    "FIGURES",
    "Need",
    "Picture",
    "Probed",
    "Results",
    "Trained",
    "against",
    "band_of",
    "banded",
    "figure",
    "of_page",
    "register_figure",
]
