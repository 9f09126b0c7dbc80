"""Distributions by depth: a small picture for each configuration, all on the same axes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from initstats.diagnosis import CONFIGURATION
from initstats.plots.bands import BANDS, DECADES, OVERFLOW, ZERO, counts_of, tidy
from initstats.plots.catalog import HISTOGRAMS, register_figure
from initstats.plots.grid import Cells, matrices
from initstats.plots.results import Results
from initstats.plots.style import ABOVE, INK, PALETTE, fade, inches, power_of_ten

FULL = 0.1
"""Share of a layer's values at which a band's colour is full: that of a Gaussian's fullest band."""
MIDDLE = 3
"""Rows of pixels of the band of zeros; one would be hard to see."""
TICKS = {0.08: f"−{power_of_ten(DECADES[1])}", 0.5: "0", 0.92: power_of_ten(DECADES[1])}
"""Ticks of a picture's upright axis, as shares of its height."""
SCALE = (6, 2)
"""Pixels across per layer, and upwards per band, so that enlarging the picture does not blur it."""


def by_band(results: Results) -> pd.DataFrame:
    """Counts of the activations in bands, by configuration, layer and band."""
    bands, few = results.bands or {}, results.few
    measured = few.ordered(few.summary[CONFIGURATION])
    keys = [key for key in measured.itertuples(index=False, name=None) if key in bands]
    layers = np.concatenate([np.arange(1, len(bands[key]) + 1) for key in keys])
    rows = pd.DataFrame(keys, columns=CONFIGURATION).loc[
        np.repeat(np.arange(len(keys)), [len(bands[key]) for key in keys])
    ]
    counts = np.concatenate([bands[key] for key in keys])
    return few.ordered(tidy(rows.assign(layer=layers), counts))


@register_figure(title="Distributions by depth", data=by_band, needs=[HISTOGRAMS])
def distribution_by_depth(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Distribution of the activations of every configuration, all seeds together: layers from left
    to right, values upwards on an axis that is logarithmic to both sides of zero. The stronger the
    colour, the more values; the share that is exactly zero is drawn in red on the middle line, an
    overflow as a red column. A healthy signal is a ribbon of constant height; one that narrows to
    the middle vanishes, one that opens like a fan explodes. A thin line away from zero: nearly
    constant output. This does not show whether inputs differ: see the correlation figure.
    """
    figure, cells = matrices(
        frame,
        width,
        height=lambda wide: float(np.clip(0.75 * wide, 0.42, 1.6)),
        least=0.3,
        widest=2.6,
    )
    depth = int(frame["layer"].max())
    keys = [*CONFIGURATION, "layer"]
    layers = frame[keys].drop_duplicates().reset_index(drop=True)
    colours = picture(counts_of(frame, keys))
    pictures = {
        key: colours[:, rows.index] for key, rows in layers.groupby(CONFIGURATION, observed=True)
    }
    for part in cells:
        _mosaic(part, pictures, depth)
        _rule(part, depth)
    return figure


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


def _mosaic(
    part: Cells, pictures: Mapping[tuple[Hashable, ...], NDArray[np.float64]], depth: int
) -> None:
    """All pictures of a matrix as one image: a cell of the axes is a configuration."""
    across, down = depth * SCALE[0], (BANDS + MIDDLE - 1) * SCALE[1]
    image = np.zeros((down * len(part.inits), across * len(part.activations), 4))
    for row, init in enumerate(part.inits):
        for column, activation in enumerate(part.activations):
            small = pictures.get((part.block.network, init, activation, part.block.width))
            if small is not None:
                large = small.repeat(SCALE[1], axis=0).repeat(SCALE[0], axis=1)
                here = image[row * down :, column * across :]
                here[: large.shape[0], : large.shape[1]] = large
    extent = (0, len(part.activations), len(part.inits), 0)
    part.axes.imshow(
        (255 * image).round().astype(np.uint8), extent=extent, aspect="auto", interpolation="none"
    )
    part.letter()


def _rule(part: Cells, depth: int) -> None:
    """A frame around every picture, and the axes of the corner ones."""
    axes, columns, rows = part.axes, len(part.activations), len(part.inits)
    for lines in (
        axes.vlines(np.arange(columns + 1), 0, rows),
        axes.hlines(np.arange(rows + 1), 0, columns),
    ):
        lines.set(color=fade(INK, 0.3), linewidth=0.5, clip_on=False)
    for share, text in TICKS.items():
        axes.annotate(
            text,
            (columns, 1 - share),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
        )
    ends = [(0.0, "1", "left"), (0.5, "layer", "center"), (1.0, str(depth), "right")]
    if part.width < inches(f"1 layer {depth}", 6.5):
        ends = [(0.0, f"layers 1 to {depth}", "left")]
    for at, text, side in ends:
        axes.annotate(
            text, (at, rows), (0, -3), textcoords="offset points", va="top", ha=side, fontsize=6.5
        )
