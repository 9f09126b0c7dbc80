"""Distributions by depth: every configuration a small picture, all on the same axes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from initstats.plots.bands import BANDS, DECADES, OVERFLOW, ZERO
from initstats.plots.catalog import HISTOGRAMS, register_figure
from initstats.plots.matrix import Matrix
from initstats.plots.results import Block, Results
from initstats.plots.style import ABOVE, INK, PALETTE, fade, power_of_ten

FULL = 0.1
"""Share of a layer's values at which a band's colour is full: the fullest of a Gaussian."""
MIDDLE = 3
"""Rows of the band of zeros, which would be hard to see in one."""
SCALE = (6, 2)
"""Pixels of a layer across, and of a band up: what enlarges the picture cannot blur it."""


@register_figure(title="Distributions by depth", data=lambda results: results, needs=[HISTOGRAMS])
def distribution_by_depth(results: Results) -> Figure:
    """Distribution of the activations of every configuration, all seeds together: layers from left
    to right, values upwards on an axis that is logarithmic to both sides of zero. The stronger the
    colour, the more values; the share that is exactly zero is drawn in red on the middle line, an
    overflow as a red column. A healthy signal is a ribbon of constant height; one that narrows to
    the middle vanishes, one that opens like a fan explodes, one that thins to a line away from the
    middle has collapsed. A ribbon does not tell whether inputs differ: see whether they stay
    distinguishable.
    """
    matrix = Matrix(
        results,
        lambda width: float(np.clip(0.75 * width, 0.42, 1.6)),
        widest=2.6,
        right=0.35,
        below=0.3,
    )
    for block, axes in matrix.axes():
        _mosaic(axes, results, block)
        _rule(axes, results)
    return matrix.figure


def picture(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Layers across, bands down from the highest, as colours: (rows, layers, 4).

    Args:
        counts: (layers, BANDS + 1).
    """
    share = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).T
    colors = np.empty((BANDS, len(counts), 4))
    colors[..., :3] = to_rgb(PALETTE[2])
    colors[..., 3] = np.minimum(share[:BANDS] / FULL, 1) ** 0.7
    colors[ZERO, :, :3] = to_rgb(ABOVE)
    colors[ZERO, :, 3] = share[ZERO]
    colors[:, share[OVERFLOW] > 0] = fade(ABOVE, 0.5)
    return colors[::-1].repeat(np.where(np.arange(BANDS) == ZERO, MIDDLE, 1), axis=0)


def _mosaic(axes: Axes, results: Results, block: Block) -> None:
    """All pictures of a block as one image: a cell of the axes is a configuration."""
    bands = results.bands or {}
    across, down = results.depth * SCALE[0], (BANDS + MIDDLE - 1) * SCALE[1]
    image = np.zeros((down * len(results.inits), across * len(results.activations), 4))
    for row, init in enumerate(results.inits):
        for column, activation in enumerate(results.activations):
            counts = bands.get((block.network, init, activation, block.width))
            if counts is not None:
                small = picture(counts)
                large = small.repeat(SCALE[1], axis=0).repeat(SCALE[0], axis=1)
                here = image[row * down :, column * across :]
                here[: large.shape[0], : large.shape[1]] = large
    extent = (0, len(results.activations), len(results.inits), 0)
    axes.imshow(
        (255 * image).round().astype(np.uint8), extent=extent, aspect="auto", interpolation="none"
    )


def _rule(axes: Axes, results: Results) -> None:
    """A frame around every picture, and the axes of the corner ones."""
    columns, rows = len(results.activations), len(results.inits)
    for lines in (
        axes.vlines(np.arange(columns + 1), 0, rows),
        axes.hlines(np.arange(rows + 1), 0, columns),
    ):
        lines.set(color=fade(INK, 0.3), linewidth=0.5, clip_on=False)
    most = power_of_ten(DECADES[1])
    for share, text in ((0.08, most), (0.5, "0"), (0.92, f"−{most}")):
        axes.annotate(
            text, (columns, share), (3, 0), textcoords="offset points", va="center", fontsize=6.5
        )
    ends = ((0.03, "1", "left"), (0.5, "layer", "center"), (0.97, str(results.depth), "right"))
    for at, text, side in ends:
        axes.annotate(
            text, (at, rows), (0, -3), textcoords="offset points", va="top", ha=side, fontsize=6.5
        )
