"""Distributions by depth: every configuration a small picture, all on the same axes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from initstats.plots.catalog import HISTOGRAMS, figure
from initstats.plots.results import Block, Histograms, Results
from initstats.plots.style import ABOVE, INK, PAGE, PALETTE, fade, power_of_ten, wrapped

Array = NDArray[np.float64]

DECADES = (-3, 3)
"""Magnitudes that are told apart; smaller ones lie next to zero, larger ones at the edge."""
STEPS = 4
"""Bands of a decade."""
ZERO = STEPS * (DECADES[1] - DECADES[0]) + 1
"""The band of exact zeros; as many bands on either side, the first of them next to zero."""
BANDS = 2 * ZERO + 1
FULL = 0.1
"""Share of a layer's values at which a band's colour is full: the fullest of a Gaussian."""
MIDDLE = 3
"""Rows of the band of zeros, which would be hard to see in one."""
SCALE = (6, 2)
"""Pixels of a layer across, and of a band up: what enlarges the picture cannot blur it."""


class Cell(NamedTuple):
    """Size of a picture and the room around all of them, inches."""

    width: float
    height: float
    left: float
    head: float


@figure(title="Distributions by depth", needs=[HISTOGRAMS])
def distribution_by_depth(results: Results) -> Figure:
    """Distribution of the activations of every configuration, all seeds together: layers from left
    to right, values upwards on an axis that is logarithmic to both sides of zero. The darker, the
    more values, relative to the layer's fullest band; the share that is exactly zero is drawn in
    red on the middle line, an overflow as a red column. A healthy signal is a ribbon of constant
    height; one that narrows to the middle vanishes, one that opens like a fan explodes.
    """
    assert results.histograms is not None
    inits, activations = results.inits, results.activations
    left = 0.12 + 0.06 * max(map(len, inits))
    width = min((PAGE - left - 0.35) / len(activations), 2.6)
    names = [wrapped(name, max(6, int(width / 0.062))) for name in activations]
    head = 0.1 + 0.125 * max(name.count("\n") + 1 for name in names)
    head += 0.24 * (len(results.blocks) > 1)
    cell = Cell(width, float(np.clip(0.75 * width, 0.42, 1.6)), left, head)
    block_height = head + cell.height * len(inits) + 0.3
    height = block_height * len(results.blocks)
    figure = Figure(figsize=(left + width * len(activations) + 0.35, height))
    for number, block in enumerate(results.blocks):
        bottom = height - block_height * (number + 1) + 0.3
        axes = figure.add_axes(
            (
                left / figure.get_figwidth(),
                bottom / height,
                width * len(activations) / figure.get_figwidth(),
                cell.height * len(inits) / height,
            ),
            label=f"{block.network} {block.width}",
        )
        _mosaic(axes, results, results.histograms, block)
        _lettering(axes, names, inits, results.depth)
        axes.annotate(
            results.name(block),
            (0, 1),
            (-left * 72 + 2, (head - 0.14) * 72),
            xycoords="axes fraction",
            textcoords="offset points",
            fontweight="bold",
        )
    return figure


def bands(histograms: Histograms) -> NDArray[np.int64]:
    """The band of every bin, 0 for the lowest; -1 for the bins of what is not finite."""
    low, high = histograms.low, histograms.high
    finite = np.isfinite(low) & np.isfinite(high)
    middle = np.where(finite, (low + high) / 2, 0.0)
    with np.errstate(divide="ignore"):
        steps = np.floor((np.log10(np.abs(middle)) - DECADES[0]) * STEPS) + 1
    away = 1 + steps.clip(0, ZERO - 1)
    band = ZERO + np.where(low == high, 0, np.sign(middle) * away).astype(np.int64)
    return np.where(finite, band, -1)


def picture(counts: NDArray[np.int64], band: NDArray[np.int64]) -> Array:
    """Layers across, bands down from the highest, as colours (bands, layers, 4).

    Args:
        counts: (layers, bins).
        band: of every bin.
    """
    total = counts.sum(axis=1)
    share = np.zeros((BANDS, len(counts)))
    for index in range(BANDS):
        share[index] = counts[:, band == index].sum(axis=1) / np.maximum(total, 1)
    overflow = counts[:, band == -1].sum(axis=1) > 0
    zero = share[ZERO].copy()
    share[ZERO] = 0
    colors = np.empty((*share.shape, 4))
    colors[..., :3] = to_rgb(PALETTE[2])
    colors[..., 3] = np.minimum(share / FULL, 1) ** 0.7
    colors[ZERO, :, :3] = to_rgb(ABOVE)
    colors[ZERO, :, 3] = zero
    colors[:, overflow, :3] = to_rgb(ABOVE)
    colors[:, overflow, 3] = 0.5
    return colors[::-1].repeat(np.where(np.arange(BANDS) == ZERO, MIDDLE, 1), axis=0)


def _mosaic(axes: Axes, results: Results, histograms: Histograms, block: Block) -> None:
    """All pictures of a block as one image: a cell of the axes is a configuration."""
    band = bands(histograms)
    across, down = results.depth * SCALE[0], (BANDS + MIDDLE - 1) * SCALE[1]
    image = np.zeros((down * len(results.inits), across * len(results.activations), 4))
    for row, init in enumerate(results.inits):
        for column, activation in enumerate(results.activations):
            counts = histograms.counts.get((block.network, init, activation, block.width))
            if counts is not None:
                small = picture(counts, band)
                large = small.repeat(SCALE[1], axis=0).repeat(SCALE[0], axis=1)
                here = image[row * down :, column * across :]
                here[: large.shape[0], : large.shape[1]] = large
    extent = (0, len(results.activations), len(results.inits), 0)
    axes.imshow(
        (255 * image).round().astype(np.uint8), extent=extent, aspect="auto", interpolation="none"
    )


def _lettering(axes: Axes, names: list[str], inits: list[str], depth: int) -> None:
    """Names around the mosaic, a frame around every picture, the axes of the corner ones."""
    columns, rows = len(names), len(inits)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_xticks(np.arange(columns) + 0.5, names)
    axes.set_yticks(np.arange(rows) + 0.5, inits)
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=8, pad=3)
    axes.spines[:].set_visible(False)
    axes.vlines(np.arange(columns + 1), 0, rows, color=fade(INK, 0.3), lw=0.5)
    axes.hlines(np.arange(rows + 1), 0, columns, color=fade(INK, 0.3), lw=0.5)
    for share, text in (
        (0.06, power_of_ten(DECADES[1])),
        (0.5, "0"),
        (0.94, f"−{power_of_ten(DECADES[1])}"),
    ):
        axes.annotate(
            text, (columns, share), (3, 0), textcoords="offset points", va="center", fontsize=6.5
        )
    for at, text, side in (
        (0.03, "1", "left"),
        (0.5, "layer", "center"),
        (0.97, str(depth), "right"),
    ):
        axes.annotate(
            text, (at, rows), (0, -3), textcoords="offset points", va="top", ha=side, fontsize=6.5
        )
