"""The catalogue of figures, those of every page: adding one is writing one decorated function.

A figure is two functions: one from results to a tidy frame, one from that frame to a drawing. The
frame is what a figure shows, for other programs and other pages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from initstats.plots.results import Probed, Results
from initstats.plots.style import STYLE
from initstats.plots.trained import Trained
from initstats.registry import Catalog, Need, missing, unknown

PAGES: dict[str, Callable[[Any], Any]] = {
    "study": Results.of,
    "model": Probed.of,
    "theory": lambda diagram: diagram,
    "lesson": lambda evidence: evidence,
    "bench": lambda ratios: ratios,
    "training": lambda run: run if isinstance(run, Trained) else Trained.of(run),
    "comparison": lambda both: both,
    "architectures": lambda evidence: evidence,
    "coordinates": lambda found: found,
    "audit": lambda found: found,
}
"""The pages that show figures, and what makes the results of each page from what users have."""

DEPTH = Need[Any](lambda results: results.depth > 1, "it needs a stack of at least two layers")
HISTOGRAMS = Need[Any](
    lambda results: bool(results.bands),
    "it needs the histograms that a run's folder keeps; a bare table has none",
)
GRADIENTS = Need[Any](
    lambda results: bool((results.table["direction"] == "backward").any()),
    "gradients were not measured: sweep with backward=True (on the command line --backward)",
)


@dataclass(frozen=True)
class Picture:
    """A figure of the catalogue.

    Attributes:
        name: of the drawing function, and of the files.
        page: the page that it belongs to, one of `PAGES`.
        caption: what to see in it.
        needs: what the results must hold.
        data: the function from results to the frame.
        drawing: the function from the frame, and a width in inches, to a figure.
        inline: whether the page shows it; else it is only a file beside the page.
    """

    name: str
    page: str
    title: str
    caption: str
    needs: Sequence[Need[Any]]
    data: Callable[[Any], pd.DataFrame]
    drawing: Callable[..., Figure]
    inline: bool = True

    def missing(self, results: Any) -> str:
        """Why it cannot be drawn from these results; empty where it can."""
        return missing(self.needs, results)

    def frame(self, results: Any) -> pd.DataFrame:
        """What the figure shows, as a tidy table.

        Raises:
            ValueError: the results lack what it needs.
        """
        if reason := self.missing(results):
            raise ValueError(f"cannot draw {self.name}: {reason}")
        return self.data(results)

    def draw(self, results: Any, width: float | None = None) -> Figure:
        """Draw it, as wide as it likes to be or `width` inches wide; see `frame`."""
        return self.draw_frame(self.frame(results), width)

    def draw_frame(self, frame: pd.DataFrame, width: float | None = None) -> Figure:
        """Draw what `frame` returned."""
        with mpl.rc_context(STYLE):
            figure = self.drawing(frame) if width is None else self.drawing(frame, width)
            if engine := figure.get_layout_engine():
                # once, and not again each time that it is saved
                engine.execute(figure)
                figure.set_layout_engine("none")
        return figure


FIGURES: Catalog[Picture] = Catalog("figure")
"""Every figure by name; those of a page are in the order of that page."""


def of_page(page: str) -> list[Picture]:
    """The figures of a page, in its order."""
    return [picture for picture in FIGURES.values() if picture.page == page]


def register_figure(
    *,
    title: str,
    data: Callable[[Any], pd.DataFrame],
    page: str = "study",
    needs: Sequence[Need[Any]] = (),
    inline: bool = True,
) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Add a figure: the function's name is the figure's, its docstring the caption.

    Args:
        title: a short heading.
        data: a function from the page's results to the frame that is drawn. The results of a study
            are `plots.Results` (its `table`, its `summary`, ...), those of a model `plots.Probed`,
            those of a training study `plots.Trained`.
        page: the page that it belongs to: study, model, theory, lesson, bench, training,
            comparison, architectures, coordinates or audit.
        needs: what the results must hold; elsewhere the page leaves the figure out and says why.
        inline: whether the page shows it; else it is only a file beside the page, which links to
            it, and is drawn when the page is in its place.

    Returns:
        A decorator of the function that draws: `def mine(frame, width=9.0) -> Figure`.

    Raises:
        ValueError: no such page, or the name is another module's figure.
    """
    if page not in PAGES:
        raise unknown("page", page, PAGES)

    def add(function: Callable[..., Figure]) -> Callable[..., Figure]:
        name = function.__name__
        caption = " ".join((inspect.getdoc(function) or "").split())
        entry = Picture(name, page, title, caption, tuple(needs), data, function, inline)
        FIGURES.add_one(name, entry, meaning=title, module=function.__module__)
        return function

    return add


def figure(name: str, results: Any, width: float = 3.3) -> Figure:
    """A figure of the catalogue for a paper, as wide as its column.

    Args:
        name: of the figure, see `FIGURES`.
        results: what the figure's page shows: for a study its table, the folder of its run or
            `Results`; for a training study its folder; for a model its probe or the probe's table.
        width: inches.

    Raises:
        ValueError: no such figure, or the results lack what it needs.
    """
    picture = FIGURES[name]
    return picture.draw(PAGES[picture.page](results), width)
