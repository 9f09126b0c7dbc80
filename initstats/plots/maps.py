"""Maps of init x activation at the last layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import Colormap, ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from initstats.diagnosis import CONFIGURATION, VERDICTS
from initstats.plots.catalog import register_figure
from initstats.plots.grid import Cells, add_key, matrices
from initstats.plots.results import Results
from initstats.plots.style import (
    ABOVE,
    BELOW,
    FIT,
    INK,
    PALETTE,
    decimal,
    diverging,
    inches,
    power_of_ten,
    sequential,
)

LIMIT = 4
"""Decades at which the colours of the spread are full."""
FILLED = 0.82
"""Opacity of a cell from which on white letters are easier to read than ink."""
SMALLEST, LARGEST = 5.5, 7.5
"""Sizes of letters in cells, points."""
WIDTHS = (0.16, 0.9)
"""Least and greatest width of a cell, inches."""

COLOURS = {
    "healthy": to_rgba(FIT, 1),
    "vanishes": to_rgba(BELOW, 0.3),
    "gradient vanishes": to_rgba(BELOW, 0.15),
    "explodes": to_rgba(ABOVE, 0.3),
    "gradient explodes": to_rgba(ABOVE, 0.15),
    "overflows": to_rgba(ABOVE, 0.5),
    "collapses": to_rgba(PALETTE[3], 0.22),
    "dead": to_rgba(INK, 0.2),
    "constant": to_rgba(INK, 0.1),
    "shifted": to_rgba(PALETTE[4], 0.35),
    "idle": to_rgba(INK, 0.06),
    "front-loaded": to_rgba(PALETTE[4], 0.18),
}
"""The colours of verdicts, as those of a page's map."""


def summarized(results: Results, columns: list[str]) -> pd.DataFrame:
    """Columns of the summary, for the configurations of `few`."""
    few = results.outline
    return few.ordered(few.summary[[*CONFIGURATION, *columns]].astype({"verdict": str}))


@register_figure(
    title="What becomes of the signal",
    data=partial(summarized, columns=["verdict", "agreement", "seeds", "tied"]),
    inline=False,
)
def verdicts(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """What became of the signal at the last layer: each seed is judged; the commonest verdict
    counts, and small print counts its seeds where they disagree. Read a column to choose an init
    for your activation, a row to see for which activations an init works.
    """
    words = [verdict.name for verdict in VERDICTS]
    colours, limits = ListedColormap([COLOURS[word] for word in words]), (-0.5, len(words) - 0.5)
    figure, cells = matrices(frame, width, widths=WIDTHS, heights=(0.31, 0.31))
    narrow = cells[0].width < inches("collapses", SMALLEST) + 0.03
    for part in cells:
        verdict = part.matrix(frame, "verdict")
        share, seeds = part.matrix(frame, "agreement"), part.matrix(frame, "seeds")
        votes = (share * seeds).map("{:.0f} of ".format) + seeds.map("{:.0f}".format)
        tied = part.matrix(frame, "tied").astype(object).fillna("") != ""
        votes = "\n" + votes.mask(tied, "tie, " + votes)
        written = verdict.astype(object).fillna("")
        labels = written.map(_initials if narrow else _two_lines)
        if narrow:
            votes[:] = "*"
        labels += votes.where(share < 1, "")
        _map(part, verdict.map(words.index, na_action="ignore"), labels, colours, limits)
    if narrow:
        met = [word for word in words if (frame["verdict"] == word).any()]
        key = {f"{_initials(word)}  {word}": COLOURS[word] for word in met}
        _key(figure, key, "* seeds disagree" if (frame["agreement"] < 1).any() else "")
    return figure


@register_figure(
    title="Spread of the last layer's activations",
    data=partial(summarized, columns=["std", "verdict"]),
    inline=False,
)
def last_layer_std(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """The power of ten of the standard deviation of the last layer's activations, median over
    seeds: 0 is a spread of 1, −3 a thousandth. Blue has shrunk, red has grown, and beyond
    10⁻⁴ and 10⁴ the colour is full. −∞ is a spread of exactly zero, ∞ an overflow. Bold cells are
    the healthy ones: a spread near 1 is not enough where every input gives the same output.
    """
    colours = diverging()
    figure, cells = matrices(frame, width, widths=WIDTHS, heights=(0.27, 0.27))
    digits = int(cells[0].width >= inches("−12.3", SMALLEST) + 0.03)
    for part in cells:
        with np.errstate(divide="ignore"):
            values = part.matrix(frame, "std").astype(float).apply(np.log10)
        labels = values.map(partial(decimal, digits=digits)).where(values.notna(), "")
        healthy = part.matrix(frame, "verdict") == "healthy"
        _map(part, values, labels, colours, (-LIMIT, LIMIT), bold=healthy)
    steps = range(-LIMIT, LIMIT + 1, 2)
    ends = {-LIMIT: "≤ ", LIMIT: "≥ "}
    key = {
        ends.get(step, "") + power_of_ten(step): colours((step + LIMIT) / (2 * LIMIT))
        for step in steps
    }
    _key(figure, key, "standard deviation")
    return figure


@register_figure(
    title="Dead units in the last layer",
    data=partial(summarized, columns=["dead", "verdict"]),
    inline=False,
)
def dead_units(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Share of the last layer's units that never fire or are saturated, in percent, median over
    seeds: they are given different values, and give the same value for every sample. Such a unit
    tells the next layer nothing about the input. A dot is none, ∞ an overflow.
    """
    figure, cells = matrices(frame, width, widths=WIDTHS, heights=(0.27, 0.27))
    for part in cells:
        values = part.matrix(frame, "dead").astype(float)
        labels = values.map(lambda share: f"{100 * share:.0f}" if share > 0 else "·")
        overflow = part.matrix(frame, "verdict") == "overflows"
        labels = labels.where(values.notna(), "").mask(overflow, "∞")
        _map(part, values, labels, sequential(PALETTE[3]), (0, 1))
    return figure


def _two_lines(word: str) -> str:
    return word.replace(" ", "\n")


def _initials(word: str) -> str:
    return "".join(part[0] for part in word.split())


def _key(figure: Figure, colours: Mapping[str, Any], title: str) -> None:
    """What colours mean, below the maps."""
    edge = to_rgba(INK, 0.25)
    patches = {name: Patch(fc=color, ec=edge, lw=0.5) for name, color in colours.items()}
    add_key(figure, patches, "lower", title)


def _map(
    part: Cells,
    values: pd.DataFrame,
    labels: pd.DataFrame,
    colours: Colormap,
    limits: tuple[float, float],
    bold: pd.DataFrame | None = None,
) -> None:
    """Draw cells with their labels, empty where nothing was measured; `limits` are of colours."""
    import seaborn as sns  # it takes longer to import than a page to write

    values = values.astype(float).clip(*limits)
    sns.heatmap(
        values,
        ax=part.axes,
        mask=values.isna(),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        cbar=False,
        linewidths=0.5,
        linecolor=to_rgba(INK, 0.12),
        xticklabels=False,
        yticklabels=False,
    )
    part.letter()
    part.axes.set(xlabel="", ylabel="")
    opaque = np.asarray(colours(np.interp(values.fillna(limits[0]), limits, (0, 1))))[..., 3]
    filled = (opaque > FILLED) & values.notna().to_numpy()
    for (row, column), label in np.ndenumerate(labels.to_numpy()):
        fits = LARGEST * (part.width - 0.04) / max(inches(label, LARGEST), 0.01)
        part.axes.text(
            column + 0.5,
            row + 0.5,
            label,
            ha="center",
            va="center",
            color="white" if filled[row, column] else INK,
            fontsize=max(SMALLEST, min(LARGEST - label.count("\n"), fits)),
            fontweight="bold" if bold is not None and bold.iloc[row, column] else "normal",
            linespacing=1.0,
            in_layout=False,
        )
