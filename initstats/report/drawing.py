"""Figures as files: PNG, SVG, and SVG inside a page, drawn here or by other processes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Protocol, Self

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from initstats.plots import FIGURES, Picture
from initstats.plots.style import FIT, INK, PALETTE, STYLE
from initstats.processes import LostError, Processes

DOTS = 200
"""Resolution of a PNG, per inch."""
WORTH = 2
"""Figures for which it pays to start another process, which takes as long to import its modules."""
TYPE = 'font-family: "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'


@dataclass(frozen=True)
class Drawing:
    """A figure that was drawn and laid out once, and is written in several formats."""

    name: str
    figure: Figure

    @property
    def width(self) -> float:
        """Inches."""
        return float(self.figure.get_figwidth())

    @property
    def png(self) -> bytes:
        """The picture in pixels, on white."""
        png = BytesIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(png, format="png", dpi=DOTS, facecolor="white")
        return png.getvalue()

    @cached_property
    def svg(self) -> str:
        """The picture in strokes, on white."""
        svg = StringIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(svg, format="svg", metadata={"Date": None})
        text = re.sub(r"font-family: [^;\"]*", TYPE.replace('"', "&quot;"), svg.getvalue())
        return re.sub(r"(<svg[^>]*>)", rf"\1\n{PAPER}", text, count=1)

    def save(self, folder: Path) -> None:
        """Write `NAME.png` and `NAME.svg`."""
        (folder / f"{self.name}.png").write_bytes(self.png)
        (folder / f"{self.name}.svg").write_text(self.svg, encoding="utf-8")

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
    return Drawing(name or figure, FIGURES[figure].draw(results))


class Task(Protocol):
    """A figure that is wanted as files."""

    @property
    def name(self) -> str:
        """What its files are called."""

    @property
    def picture(self) -> Picture:
        """Its entry in the catalogue."""

    @property
    def results(self) -> Any:
        """What it is drawn from."""

    @property
    def drawing(self) -> Drawing:
        """It, drawn by this process, once."""


class Studio:
    """Where files of figures are drawn: by this process, and by others at the same time.

    Others take the figures that are not drawn yet, each as its frame, which is small, where results
    may be half of the memory. What they have not begun when this process has done its own share, it
    takes back. They end with the context.

    Args:
        folder: where the files go.
        workers: processes at work, this one among them.
    """

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self._folder, self._workers = folder, workers
        self._processes: Processes | None = None
        self._here: list[Task] = []
        self._there: list[tuple[Task, Future[None]]] = []

    def begin(self, tasks: Sequence[Task]) -> None:
        """Hand out what others can draw."""
        for task in tasks:
            # a figure of the user's own may not be known to another process
            own = task.picture.drawing.__module__.startswith("initstats.")
            if own and "drawing" not in vars(task):
                self._there.append((task, Future()))
            else:
                self._here.append(task)
        others = min(self._workers - 1, len(self._there) // WORTH)
        if others > 0:
            self._processes = Processes(others, _prepare)
            self._there = [(task, self._submit(task)) for task, _ in self._there]

    def finish(self) -> None:
        """Draw the rest, and wait for what others have begun."""
        for task in self._here:
            task.drawing.save(self._folder)
        for task, future in reversed(self._there):
            if future.cancel() or not _is_done(future):
                task.drawing.save(self._folder)

    def _submit(self, task: Task) -> Future[None]:
        assert self._processes
        frame = task.picture.frame(task.results)
        return self._processes.submit(
            _save_frame, task.picture.name, frame, task.name, self._folder
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._processes:
            self._processes.kill()  # whatever they do, nobody waits for it


def _is_done(future: Future[None]) -> bool:
    """Wait for another process; whether it made its figure."""
    try:
        future.result()
    except (LostError, OSError):
        return False
    return True


def _prepare() -> None:
    """Do nothing: a process that finds this has imported the module."""


def _save_frame(figure: str, frame: pd.DataFrame, name: str, folder: Path) -> None:
    Drawing(name, FIGURES[figure].draw_frame(frame)).save(folder)
