"""Figures as files: PNG, SVG, and SVG inside a page, drawn here or by other processes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple, Self

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from initstats.plots import FIGURES
from initstats.plots.style import FIT, INK, PALETTE, STYLE
from initstats.processes import LostError, Processes

DOTS = 200
"""Resolution of a PNG, per inch."""
TYPE = 'font-family: "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'


class Drawing(NamedTuple):
    """A figure as files; `width` is in inches."""

    name: str
    width: float
    png: bytes
    svg: str

    @property
    def inline(self) -> str:
        """The SVG for a page: transparent, in the page's colours, with ids of its own."""
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<(metadata|defs)>\s*<(rdf|style).*?</\1>", "", svg, count=2, flags=re.DOTALL)
        svg = svg.replace(PAPER, "")
        svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
        used = set(re.findall(r'#([\w-]+)["\')]', svg))
        svg = re.sub(
            r' id="([^"]*)"',
            lambda found: f' id="{self.name}-{found[1]}"' if found[1] in used else "",
            svg,
        )
        svg = re.sub(r'(?<=[("])#([\w-]+)(?=["\')])', rf"#{self.name}-\1", svg)
        # lines, bands, dots and words; cells stay, so that what is written there keeps its contrast
        svg = re.sub("stroke: (#[0-9a-f]{6})", _on_any_paper, svg)
        svg = re.sub(
            "<(?:use|text) [^>]*>",
            lambda found: re.sub("fill: (#[0-9a-f]{6})", _on_any_paper, found[0]),
            svg,
        )
        return svg.replace(INK, "currentColor")


def _on_any_paper(found: re.Match[str]) -> str:
    """A colour as a variable of the page, which has lighter ones on dark paper."""
    what, color = found[0].split(": ")
    return f"{what}: var({_VARIABLES[color]}, {color})" if color in _VARIABLES else found[0]


_VARIABLES = {color: f"--line-{number}" for number, color in enumerate(PALETTE)}
_VARIABLES[FIT] = "--accent"
PAPER = '<rect width="100%" height="100%" fill="#ffffff"/>'


def draw(figure: str, results: Any, name: str = "") -> Drawing:
    """Draw a figure of the catalogue, under its own name or another."""
    return rendered(name or figure, partial(FIGURES[figure].draw, results))


def rendered(name: str, function: Callable[[], Figure]) -> Drawing:
    """The figure that a function draws, as files."""
    png, svg = BytesIO(), BytesIO()
    with mpl.rc_context(STYLE):
        figure = function()
        figure.savefig(png, format="png", dpi=DOTS, facecolor="white")
        figure.savefig(svg, format="svg", metadata={"Date": None})
    text = re.sub(r"font-family: [^;\"]*", TYPE.replace('"', "&quot;"), svg.getvalue().decode())
    text = re.sub(r"(<svg[^>]*>)", rf"\1\n{PAPER}", text, count=1)
    return Drawing(name, float(figure.get_figwidth()), png.getvalue(), text)


class Studio:
    """Where figures are drawn: in this process, or in others while this one does something else."""

    def __init__(self, workers: int = 1) -> None:
        self._processes: Processes | None = None
        if workers > 1:
            self._processes = Processes(min(workers - 1, len(FIGURES)), _prepare)

    def begin(self, names: Sequence[str], results: Any) -> list[Callable[[], Drawing]]:
        """Begin to draw; each call of what is returned gives a drawing, in the order of names."""
        processes = self._processes
        finish: dict[str, Callable[[], Drawing]] = {
            name: partial(draw, name, results) for name in names
        }
        if processes is None:
            return list(finish.values())
        for name in names:
            # a figure of the user's own may not be known to another process
            if FIGURES[name].drawing.__module__.startswith("initstats."):
                # its frame is small, where results may be half of the memory
                future = processes.submit(_draw_frame, name, FIGURES[name].frame(results))
                finish[name] = partial(_finish, future, finish[name])
        return list(finish.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if self._processes:
            self._processes.__exit__(kind, error, None)


def _finish(future: Future[Drawing], draw_here: Callable[[], Drawing]) -> Drawing:
    """A drawing from another process, or from here where that could not make it."""
    try:
        return future.result()
    except (LostError, OSError):
        return draw_here()


def _prepare() -> None:
    """Do nothing: a process that finds this has imported the module."""


def _draw_frame(name: str, frame: pd.DataFrame) -> Drawing:
    return rendered(name, partial(FIGURES[name].draw_frame, frame))
