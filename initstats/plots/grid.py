"""Layout of figures: panels in a grid, matrices, and keys.

Constrained layout places the parts. This module computes how many go side by side, and how high a
figure must be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from initstats.plots.results import Block, headings, order
from initstats.plots.style import PAGE, Stroke, StyledFigure, inches, shortened, wrapped

PANEL = 1.15
"""Least width of a panel, inches."""
LINE = 0.165
"""Height of a line of text, inches."""
TALL = 8.0
"""Greatest height of all panels of a figure together, inches, unless they would be too flat."""
NARROW = 5.0
"""Width of a figure up to which names are smaller or in more lines, inches."""


def rows_of(count: int, width: float, most: int = 7, least: float = PANEL) -> list[int]:
    """Number of panels in each row of a figure, as equal as possible.

    >>> rows_of(14, 9.0), rows_of(14, 3.3), rows_of(11, 9.0)
    ([7, 7], [2, 2, 2, 2, 2, 2, 2], [6, 5])
    """
    most = min(count, most, max(1, int((width - 0.45) / least)))
    even = [columns for columns in range(most, most * 2 // 3, -1) if count % columns == 0]
    rows = count // even[0] if even else math.ceil(count / most)
    return [len(part) for part in np.array_split(range(count), rows)]


def panels(
    titles: Sequence[str],
    width: float | None,
    *,
    blocks: Sequence[str] = ("",),
    labels: tuple[str, str] = ("", ""),
    key: Mapping[str, Stroke] | None = None,
    most: int = 7,
    least: float = PANEL,
    height: float | None = None,
    share: str = "xy",
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of equal panels.

    Args:
        titles: of the panels of a block.
        width: of the figure, inches; by default what the panels need.
        blocks: headings; each has all panels, one block below the other.
        labels: of the axes, x and y.
        key: lines that are explained above the panels.
        most: panels side by side.
        least: width of a panel, inches.
        height: of a panel, inches; by default what suits its width.
        share: the axes, of "x" and "y", that the panels of a block have in common.

    Returns:
        The figure, and the panels by block.
    """
    width = width or min(PAGE, 0.6 + 3.4 * len(titles))
    rows = rows_of(len(titles), width, most, least)
    room = (width - 0.5) / rows[0] - 0.1
    names = [fitted(title, room) for title in titles]
    around = 0.12 + LINE * _lines(names)
    tallest = min(2.1, TALL / (len(rows) * len(blocks)) - around)
    panel = (height or max(0.75, min(tallest, max(0.8 * room, 0.95)))) + around
    panel += 0.15 * ("x" not in share)
    each = 0.25 * any(blocks) + len(rows) * panel + 0.2
    figure = StyledFigure((width, len(blocks) * each + 0.1))
    if "x" not in share:  # titles keep clear of the numbers above them
        figure.set_layout_engine("constrained", h_pad=0.06)
    if key:
        add_key(figure, {name: Line2D([], [], **line._asdict()) for name, line in key.items()})
    numbers = np.array_split(range(len(titles)), len(rows))
    # a row of fewer panels has wider ones
    mosaic: Any = [np.repeat(row, math.lcm(*rows) // len(row)).tolist() for row in numbers]
    parts = parts_of(figure, blocks)
    grid: list[list[Axes]] = []
    for part in parts:
        drawn = part.subplot_mosaic(mosaic, sharex="x" in share, sharey="y" in share)
        grid.append([drawn[number] for number in range(len(titles))])
        for axes, name in zip(grid[-1], names, strict=True):
            axes.set_title(name, fontsize=7 if "\n" in name else None, linespacing=1.0)
        part.supylabel(labels[1])
    parts[-1].supxlabel(labels[0])
    return figure, grid


def fitted(name: str, room: float, size: float = 8.5, weight: str = "bold") -> str:
    """A name in as many lines as it needs to fit into some inches."""
    if inches(name, size, weight) <= room:
        return name
    return wrapped(name, max(6, int(room / inches("n", size, weight))))


def parts_of(figure: Figure, names: Sequence[str]) -> Sequence[FigureBase]:
    """Parts of a figure one below the other, each under its heading."""
    parts: list[FigureBase] = [figure]
    if any(names):  # a heading of the figure itself would lie on a key above the panels
        parts = list(figure.subfigures(len(names), 1, squeeze=False)[:, 0])
    for part, name in zip(parts, names, strict=True):
        if name:
            part.suptitle(name, x=0.005, ha="left")
    return parts


def add_key(
    figure: Figure, handles: Mapping[str, Artist], side: str = "upper", title: str = ""
) -> None:
    """Explain lines or colours above or below all panels; the figure becomes higher by that."""
    width = figure.get_figwidth()
    names = [shortened(name) if width > NARROW else wrapped(name, 17) for name in handles]
    widths = [0.45 + inches(name, 8) for name in names]  # with the line, and the space behind
    room = width + 0.15
    columns = len(names) if sum(widths) < room else max(1, int(room / max(widths)))
    lines = math.ceil(len(names) / columns) * _lines(names) + bool(title)
    figure.set_figheight(figure.get_figheight() + LINE * lines + 0.08)
    place: Any = f"outside {side} left"
    figure.legend(
        list(handles.values()),
        names,
        loc=place,
        ncols=columns,
        title=title or None,
        title_fontsize=8,
        alignment="left",
    )


def _lines(names: Iterable[str]) -> int:
    """Number of lines of the name that has most."""
    return max(name.count("\n") + 1 for name in names)


@dataclass(frozen=True)
class Cells:
    """A matrix of inits (down) x activations (across), or some of its columns.

    Attributes:
        axes: a cell is a unit square of them, the first init on top.
        block: the network and width.
        inits, activations: how the rows and columns are written, by name.
        width: of a cell, inches.
        size: of the letters around the matrix, points.
    """

    axes: Axes
    block: Block
    inits: dict[str, str]
    activations: dict[str, str]
    width: float
    size: int

    def letter(self) -> None:
        """Write the names around the matrix."""
        axes, rows, columns = self.axes, list(self.inits.values()), list(self.activations.values())
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows, va="center", linespacing=1.1)
        axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=self.size, pad=3)
        upright = any(inches(name, self.size) > self.width for name in columns)
        axes.tick_params("x", rotation=90 if upright else 0)
        axes.spines[:].set_visible(False)

    def matrix(self, frame: pd.DataFrame, column: str) -> pd.DataFrame:
        """A column of a frame as a matrix; NaN where nothing was measured."""
        here = self.block.rows(frame).astype({"init": str, "activation": str})
        wide = here.pivot(index="init", columns="activation", values=column)
        return wide.reindex(index=[*self.inits], columns=[*self.activations])


def matrices(
    frame: pd.DataFrame,
    width: float | None,
    *,
    widths: tuple[float, float],
    heights: tuple[float, float],
) -> tuple[Figure, list[Cells]]:
    """A figure of a matrix of inits x activations for each block of a frame.

    Matrices that would be too wide are cut into several, one below the other.

    Args:
        frame: `network width init activation`, and what is shown.
        width: of the figure, inches; by default what the cells need.
        widths: of a cell, inches: the least, and the usual one.
        heights: of a cell, inches: the least and the greatest; between them, 3/4 of its width.
    """
    inits, activations = order(frame["init"]), order(frame["activation"])
    size = 8 if (width or PAGE) > NARROW else 7
    rows = {name: wrapped(name, 17) for name in inits}
    left = 0.12 + max(inches(name, size) for name in rows.values())
    width = width or min(PAGE, max(5.2, left + widths[1] * len(activations) + 0.1))
    most = max(1, min(len(activations), int((width - left) / widths[0])))
    chunks = np.array_split(activations, math.ceil(len(activations) / most))
    cell = min((width - left) / len(chunks[0]), 2 * widths[1])
    columns = {name: fitted(name, cell - 0.04, size, "normal") for name in activations}
    head = 0.1 + LINE * _lines(columns.values())
    if any(inches(name, size) > cell for name in columns.values()):  # they stand upright
        columns = {name: shortened(name) for name in activations}
        head = 0.12 + max(inches(name, size) for name in columns.values())
    tall = max(np.clip(0.75 * cell, *heights), 0.13 * _lines(rows.values()))
    blocks = headings(frame)
    each = 0.25 * (len(blocks) > 1) + len(chunks) * (head + tall * len(inits) + 0.06)
    figure = StyledFigure((width, each * len(blocks) + 0.04))
    cells = []
    for part, block in zip(parts_of(figure, list(blocks.values())), blocks, strict=True):
        grid = part.subplots(len(chunks), 1, squeeze=False)[:, 0]
        for axes, names in zip(grid, chunks, strict=True):
            here = {str(name): columns[name] for name in names}
            cells.append(Cells(axes, block, rows, here, cell, size))
    return figure, cells
