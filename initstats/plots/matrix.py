"""The frame of every picture of inits x activations: where it goes, and the names around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from initstats.plots.results import Block, Results
from initstats.plots.style import PAGE, wrapped

LETTER = 0.062
"""Width of a letter, inches."""
WIDEST, NARROWEST = 0.9, 5.2
"""Of a cell, and of a figure with its key, inches."""


class Matrix:
    """Axes for a matrix of inits (down) x activations (across), one a block, one below the other.

    Args:
        results: of the sweep.
        cell: from the width of a cell to its height, inches.
        widest: a cell is never wider than this.
        right, below: room beside and below each matrix.
        foot: room at the end of the figure.
    """

    def __init__(
        self,
        results: Results,
        cell: Callable[[float], float],
        *,
        widest: float = WIDEST,
        right: float = 0.02,
        below: float = 0.12,
        foot: float = 0.0,
    ) -> None:
        self.results = results
        self.rows = [wrapped(name, 17) for name in results.inits]
        lines = [line for name in self.rows for line in name.split("\n")]
        self.left = 0.12 + LETTER * max(map(len, lines))
        width = min((PAGE - self.left - right) / len(results.activations), widest)
        self.columns = [wrapped(name, max(6, int(width / LETTER))) for name in results.activations]
        self.head = 0.08 + 0.125 * max(name.count("\n") + 1 for name in self.columns)
        self.head += 0.26 * (len(results.blocks) > 1)
        self.size = (width * len(self.columns), cell(width) * len(self.rows))
        self.step = self.head + self.size[1] + below
        height = self.step * len(results.blocks) + foot
        across = max(self.left + self.size[0] + right, NARROWEST)
        self.figure = Figure(figsize=(across, height))

    def axes(self) -> Iterator[tuple[Block, Axes]]:
        """Each block with its axes: a cell is a unit square, the first init on top."""
        width, height = self.figure.get_size_inches()
        for number, block in enumerate(self.results.blocks):
            bottom = height - self.step * number - self.head - self.size[1]
            box = (self.left / width, bottom / height, self.size[0] / width, self.size[1] / height)
            axes = self.figure.add_axes(box, label=f"{block.network} {block.width}")
            yield block, axes
            self._letter(axes)
            top = (height - self.step * number - 0.04) / height
            self.figure.text(
                0.03 / width, top, self.results.name(block), fontweight="bold", va="top"
            )

    def _letter(self, axes: Axes) -> None:
        columns, rows = len(self.columns), len(self.rows)
        axes.set(xlim=(0, columns), ylim=(rows, 0), xlabel="", ylabel="")
        axes.set_xticks(np.arange(columns) + 0.5, self.columns)
        axes.set_yticks(np.arange(rows) + 0.5, self.rows, va="center", linespacing=1.15)
        axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=8, pad=3)
        axes.spines[:].set_visible(False)
