"""Distributions by depth: a small picture for each configuration, all on the same axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from initstats.diagnosis import CONFIGURATION
from initstats.plots.bands import BANDS, LARGEST, OVERFLOW, ZERO, counts_of, tidy
from initstats.plots.catalog import HISTOGRAMS, register_figure
from initstats.plots.curves import note
from initstats.plots.grid import Cells, matrices
from initstats.plots.results import Results
from initstats.plots.style import ABOVE, INK, PALETTE, inches, power_of_ten

FULL = 0.1
"""Share of a layer's values at which a band's colour is full: that of a Gaussian's fullest band."""
MIDDLE = 3
"""Rows of pixels of the band of zeros; one would be hard to see."""
TICKS = {0.08: f"−{power_of_ten(LARGEST)}", 0.5: "0", 0.92: power_of_ten(LARGEST)}
"""Ticks of a picture's upright axis, as shares of its height."""
SCALE = (6, 2)
"""Pixels across per layer, and upwards per band, so that enlarging the picture does not blur it."""


def by_band(results: Results) -> pd.DataFrame:
    """Counts of the activations in bands, by configuration, layer and band."""
    bands = results.bands or {}
    keys = pd.DataFrame(bands.keys(), columns=CONFIGURATION)
    rows = keys.loc[keys.index.repeat([len(counts) for counts in bands.values()])]
    rows["layer"] = rows.groupby(level=0).cumcount() + 1
    return results.outline.ordered(tidy(rows, np.concatenate([*bands.values()])))


@register_figure(title="Distributions by depth", data=by_band, needs=[HISTOGRAMS], inline=False)
def distribution_by_depth(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Distribution of the activations of every configuration, all seeds together: layers from left
    to right, values upwards on an axis that is logarithmic to both sides of zero. The stronger the
    colour, the more values; the share that is exactly zero is drawn in red on the middle line, an
    overflow as a red column. A healthy signal is a ribbon of constant height; one that narrows to
    the middle vanishes, one that opens like a fan explodes. A thin line away from zero: nearly
    constant output. A layer without an activation is blank. This does not show whether inputs
    differ: see the correlation figure.
    """
    figure, cells = matrices(frame, width, widths=(0.3, 2.6), heights=(0.42, 1.6))
    depth = int(frame["layer"].max())
    keys = [*CONFIGURATION, "layer"]
    layers = frame[keys].drop_duplicates(ignore_index=True)
    colours = picture(counts_of(frame, keys))
    pictures = {
        key: np.pad(colours[:, index], [(0, 0), (0, depth - len(index)), (0, 0)])
        for key, index in layers.groupby(CONFIGURATION, observed=True).groups.items()
    }
    for part in cells:
        _mosaic(part, pictures)
        part.letter()
        _rule(part, depth)
    return figure


def picture(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counts (layers, BANDS + 1) as colours (rows, layers, 4), the highest band on top."""
    share = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).T
    colors = np.empty((BANDS, len(counts), 4))
    colors[..., :3] = to_rgb(PALETTE[2])
    colors[..., 3] = np.minimum(share[:BANDS] / FULL, 1) ** 0.7
    colors[ZERO, :, :3] = to_rgb(ABOVE)
    colors[ZERO, :, 3] = share[ZERO]
    colors[:, share[OVERFLOW] > 0] = to_rgba(ABOVE, 0.5)
    return colors[::-1].repeat(np.where(np.arange(BANDS) == ZERO, MIDDLE, 1), axis=0)


def _mosaic(part: Cells, pictures: Mapping[Any, NDArray[np.float64]]) -> None:
    """All pictures of a matrix as one image: a cell of the axes is a configuration."""
    blank = np.zeros_like(next(iter(pictures.values())))
    network, width = part.block
    rows = [
        [
            [pictures.get((network, init, activation, width), blank)]
            for activation in part.activations
        ]
        for init in part.inits
    ]
    image = np.block(rows).repeat(SCALE[1], axis=0).repeat(SCALE[0], axis=1)
    part.axes.imshow(
        (255 * image).round().astype(np.uint8),
        extent=(0, len(part.activations), len(part.inits), 0),
        aspect="auto",
        interpolation="none",
    )


def _rule(part: Cells, depth: int) -> None:
    """A frame around every picture, and the axes of the corner ones."""
    axes, columns, rows = part.axes, len(part.activations), len(part.inits)
    style: Any = {"colors": [to_rgba(INK, 0.3)], "linewidths": 0.5, "clip_on": False}
    axes.vlines(np.arange(columns + 1), 0, rows, **style)
    axes.hlines(np.arange(rows + 1), 0, columns, **style)
    for share, text in TICKS.items():
        note(axes, text, (columns, 1 - share), (3, 0), fontsize=6.5)
    ends = [(0.0, "1", "left"), (0.5, "layer", "center"), (1.0, str(depth), "right")]
    if part.width < inches(f"1 layer {depth}", 6.5):
        ends = [(0.0, f"layers 1 to {depth}", "left")]
    for at, text, side in ends:
        note(axes, text, (at, rows), (0, -3), va="top", ha=side, fontsize=6.5)
