"""Where the parts of a figure go: panels in a grid that fills, matrices, and keys.

Constrained layout places them; what is computed here is how many go side by side and how high a
figure must be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from initstats.plots.results import Block, headings, order
from initstats.plots.style import INK, PAGE, Stroke, StyledFigure, fade, inches, wrapped

PANEL = 1.15
"""Least width of a panel, inches."""
LINE = 0.165
"""Height of a line of text, inches."""
TALL = 8.0
"""Height of all panels of a figure that is not exceeded without need, inches."""
NARROW = 5.0
"""Width of a figure up to which its names are set smaller, or in more lines, inches."""
WIDEST = 0.9
"""Greatest width of a matrix's cell, inches."""


def rows_of(count: int, width: float, most: int = 7) -> list[int]:
    """How many panels go into each row of a figure, so that no row is left half empty.

    >>> rows_of(14, 9.0), rows_of(14, 3.3), rows_of(11, 9.0)
    ([7, 7], [2, 2, 2, 2, 2, 2, 2], [6, 5])
    """
    most = min(count, most, max(1, int((width - 0.45) / PANEL)))
    rows = math.ceil(count / most)
    even = [columns for columns in range(most, most * 2 // 3, -1) if count % columns == 0]
    if even:
        rows = count // even[0]
    return [len(part) for part in np.array_split(range(count), rows)]


def panels(
    titles: Sequence[str],
    width: float | None,
    *,
    blocks: Sequence[str] = ("",),
    labels: tuple[str, str] = ("", ""),
    key: Mapping[str, Stroke] | None = None,
    most: int = 7,
    height: float | None = None,
    same_x: bool = True,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of equal panels, which share their axes.

    Args:
        titles: of the panels of a block.
        width: of the figure, inches; by default what the panels need.
        blocks: headings; each has all panels, one block below the other.
        labels: of the axes, x and y.
        key: lines that are explained above the panels.
        most: panels side by side.
        height: of a panel, inches; by default what suits its width.
        same_x: whether they share the x axis, too.

    Returns:
        The figure, and the panels by block.
    """
    width = width or min(PAGE, 0.6 + 3.4 * len(titles))
    rows = rows_of(len(titles), width, most)
    room = (width - 0.5) / rows[0] - 0.1
    names = [fitted(title, room) for title in titles]
    lines = max(name.count("\n") + 1 for name in names)
    around = 0.12 + LINE * lines
    panel = min(max(0.8 * room, 0.95), 2.1, TALL / (len(rows) * len(blocks)) - around)
    panel = (height or max(panel, 0.75)) + around + 0.15 * (not same_x)
    heading = 0.25 * (len(blocks) > 1)
    figure = StyledFigure((width, len(blocks) * (heading + len(rows) * panel + 0.2) + 0.1))
    if key:
        add_key(figure, key)
    shared: Axes | None = None
    grid: list[list[Axes]] = []
    for number, part in enumerate(parts_of(figure, blocks)):
        cells = part.add_gridspec(len(rows), math.lcm(*rows))
        grid.append([])
        for row, count in enumerate(rows):
            span = cells.ncols // count
            for column in range(count):
                cell = cells[row, column * span : (column + 1) * span]
                axes = part.add_subplot(cell, sharex=shared if same_x else None, sharey=shared)
                shared = shared or axes
                last = row == len(rows) - 1
                axes.tick_params(labelleft=column == 0, labelbottom=last or not same_x)
                grid[-1].append(axes)
        for axes, name in zip(grid[-1], names, strict=True):
            small = 7 if "\n" in name else None
            axes.set_title(name, fontsize=small, linespacing=1.0)
        part.supylabel(labels[1])
        if number == len(blocks) - 1:
            part.supxlabel(labels[0])
    return figure, grid


def fitted(name: str, room: float, size: float = 8.5, weight: str = "bold") -> str:
    """A name in as many lines as it needs, inches being given."""
    if inches(name, size, weight) <= room:
        return name
    return wrapped(name, max(6, int(room / inches("n", size, weight))))


def parts_of(figure: Figure, names: Sequence[str]) -> Sequence[FigureBase]:
    """Parts of a figure one below the other, each under its heading."""
    parts: list[FigureBase] = [figure]
    if len(names) > 1:
        parts = list(figure.subfigures(len(names), 1, squeeze=False)[:, 0])
    for part, name in zip(parts, names, strict=True):
        if name:
            part.suptitle(name, x=0.005, ha="left")
    return parts


def key_columns(names: Sequence[str], width: float, handle: float = 0.5) -> int:
    """How many columns of a key fit into a width, inches; a column is as wide as its names."""
    for columns in range(len(names), 1, -1):
        widest = (max(inches(name, 8) for name in part) for part in _columns(names, columns))
        if sum(handle + wide for wide in widest) <= width:
            return columns
    return 1


def add_key(figure: Figure, key: Mapping[str, Stroke]) -> None:
    """What lines mean, above all panels, which the figure grows by."""
    width = figure.get_figwidth()
    names = [name if width > NARROW else wrapped(name, 17) for name in key]
    columns = key_columns(names, width)
    lines = max(sum(name.count("\n") + 1 for name in part) for part in _columns(names, columns))
    figure.set_figheight(figure.get_figheight() + LINE * lines + 0.05)
    marks = [
        Line2D([], [], color=stroke.color, linestyle=stroke.linestyle, lw=stroke.weight)
        for stroke in key.values()
    ]
    figure.legend(marks, names, loc="outside upper left", ncols=columns)


def _columns(names: Sequence[str], columns: int) -> list[list[str]]:
    """Names in the columns of a key."""
    return [[str(name) for name in part] for part in np.array_split(names, columns)]


def add_patches(figure: Figure, key: Mapping[str, Any], title: str) -> None:
    """What colours mean, below all panels, which the figure grows by."""
    columns = key_columns(list(key), figure.get_figwidth(), 0.42)
    lines = math.ceil(len(key) / columns) + bool(title)
    figure.set_figheight(figure.get_figheight() + LINE * lines + 0.08)
    patches = [
        Patch(facecolor=colour, edgecolor=fade(INK, 0.25), lw=0.5) for colour in key.values()
    ]
    figure.legend(
        patches,
        list(key),
        loc="outside lower left",
        ncols=columns,
        handlelength=1.6,
        title=title or None,
        title_fontsize=8,
        alignment="left",
    )


@dataclass(frozen=True)
class Cells:
    """The axes of a matrix of inits (down) x activations (across), or of some of its columns.

    Attributes:
        axes: a cell is a unit square of them, the first init on top.
        block: the network and width.
        inits, activations: names of the rows and columns.
        labels: the names of columns and rows as they are written.
        width: of a cell, inches.
        size: of the letters around the matrix, points.
    """

    axes: Axes
    block: Block
    inits: list[str]
    activations: list[str]
    labels: tuple[list[str], list[str]]
    width: float
    size: int

    def letter(self) -> None:
        """Write the names around the matrix."""
        columns, rows = self.labels
        self.axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
        self.axes.set_yticks(np.arange(len(rows)) + 0.5, rows, va="center", linespacing=1.1)
        self.axes.tick_params(
            length=0, labeltop=True, labelbottom=False, labelsize=self.size, pad=3
        )
        upright = any(inches(name, self.size) > self.width for name in columns)
        self.axes.tick_params("x", rotation=90 if upright else 0)
        self.axes.spines[:].set_visible(False)

    def matrix(self, frame: pd.DataFrame, column: str) -> pd.DataFrame:
        """A column of a frame as a matrix; NaN where nothing was measured."""
        here = frame[
            (frame["network"] == self.block.network) & (frame["width"] == self.block.width)
        ]
        here = here.astype({"init": str, "activation": str})
        wide = here.pivot(index="init", columns="activation", values=column)
        return wide.reindex(index=self.inits, columns=self.activations)


def matrices(
    frame: pd.DataFrame,
    width: float | None,
    *,
    height: float | Callable[[float], float],
    least: float,
    widest: float = WIDEST,
) -> tuple[Figure, list[Cells]]:
    """A figure of a matrix of inits x activations for each block of a frame.

    Matrices that would be too wide are cut into several, one below the other.

    Args:
        frame: `network width init activation`, and what is shown.
        width: of the figure, inches; by default what the cells need.
        height: of a cell, inches, or what gives it from the cell's width.
        least, widest: of a cell, inches.
    """
    inits, activations = order(frame["init"]), order(frame["activation"])
    size = 8 if (width or PAGE) > NARROW else 7
    rows = [wrapped(name, 17) for name in inits]
    left = 0.12 + max(inches(name, size) for name in rows)
    width = width or min(PAGE, max(5.2, left + widest * len(activations) + 0.1))
    most = max(1, min(len(activations), int((width - left) / least)))
    chunks = [
        [str(name) for name in part]
        for part in np.array_split(activations, math.ceil(len(activations) / most))
    ]
    cell = min((width - left) / len(chunks[0]), 2 * widest)
    columns = {name: fitted(name, cell - 0.04, size, "normal") for name in activations}
    upright = any(inches(name, size) > cell for name in columns.values())
    head = 0.1 + LINE * max(name.count("\n") + 1 for name in columns.values())
    if upright:
        columns = {name: name for name in activations}
        head = 0.12 + max(inches(name, size) for name in activations)
    tall = height if isinstance(height, float) else height(cell)
    tall = max(tall, 0.13 * max(name.count("\n") + 1 for name in rows))
    blocks = headings(frame)
    each = 0.25 * (len(blocks) > 1) + len(chunks) * (head + tall * len(inits) + 0.06)
    figure = StyledFigure((width, each * len(blocks) + 0.04))
    cells = []
    for part, block in zip(parts_of(figure, list(blocks.values())), blocks, strict=True):
        grid = part.subplots(len(chunks), 1, squeeze=False)[:, 0]
        for axes, names in zip(grid, chunks, strict=True):
            labels = [columns[name] for name in names], rows
            cells.append(Cells(axes, block, inits, names, labels, cell, size))
    return figure, cells
