"""The catalog of figures: adding one is writing one decorated function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

from initstats.plots.results import Results
from initstats.plots.style import STYLE
from initstats.registry import Catalog

Draw = Callable[[Results], Figure]


@dataclass(frozen=True)
class Need:
    """What a figure asks of the results, and what to say where they lack it."""

    met: Callable[[Results], bool]
    otherwise: str


DEPTH = Need(lambda results: results.depth > 1, "it needs a stack of at least two layers")
HISTOGRAMS = Need(
    lambda results: results.bands is not None,
    "it needs the histograms that a run's folder keeps; a bare table has none",
)
GRADIENTS = Need(
    lambda results: bool((results.table["direction"] == "backward").any()),
    "gradients were not measured: sweep with backward=True (on the command line --backward)",
)


@dataclass(frozen=True)
class Picture:
    """A figure of the catalog.

    Attributes:
        name: of the function, and of the files.
        title: a short heading.
        caption: what to see in it.
        needs: what the results must hold.
    """

    name: str
    title: str
    caption: str
    needs: Sequence[Need]
    function: Draw

    def missing(self, results: Results) -> str:
        """Why it cannot be drawn from these results; empty where it can."""
        return next((need.otherwise for need in self.needs if not need.met(results)), "")

    def draw(self, results: Results) -> Figure:
        """Draw it.

        Raises:
            ValueError: the results lack what it needs.
        """
        if reason := self.missing(results):
            raise ValueError(f"cannot draw {self.name}: {reason}")
        with mpl.rc_context(STYLE):
            return self.function(results)


FIGURES: Catalog[Picture] = Catalog("figure")
"""Every figure by name, in the order of a report."""


def register_figure(*, title: str, needs: Sequence[Need] = ()) -> Callable[[Draw], Draw]:
    """Add a figure: the function's name is the figure's, its docstring the caption."""

    def add(function: Draw) -> Draw:
        name = function.__name__
        caption = " ".join((inspect.getdoc(function) or "").split())
        entry = Picture(name, title, caption, tuple(needs), function)
        FIGURES.add_one(name, entry, meaning=title, module=function.__module__)
        return function

    return add
