"""Maps of init x activation at the last layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from initstats.diagnosis import CONFIGURATION, VERDICTS
from initstats.plots.catalog import register_figure
from initstats.plots.grid import Cells, add_patches, matrices
from initstats.plots.results import Results
from initstats.plots.style import (
    ABOVE,
    BELOW,
    FIT,
    INK,
    PALETTE,
    decimal,
    diverging,
    fade,
    inches,
    power_of_ten,
    sequential,
)

LIMIT = 4
"""Decades at which the colours of the spread are full."""
FILLED = 0.82
"""From this opacity on, white letters stand out better than ink on white paper."""
SMALLEST, LARGEST = 5.5, 7.5
"""Sizes of letters in cells, points."""
LEAST = 0.16
"""Least width of a cell, inches."""

_COLOURS = {
    "healthy": fade(FIT, 1),
    "vanishes": fade(BELOW, 0.3),
    "gradient vanishes": fade(BELOW, 0.15),
    "explodes": fade(ABOVE, 0.3),
    "gradient explodes": fade(ABOVE, 0.15),
    "overflows": fade(ABOVE, 0.5),
    "collapses": fade(PALETTE[3], 0.22),
    "dead": fade(INK, 0.2),
    "shifted": fade(PALETTE[4], 0.35),
}


def summarized(*columns: str) -> Callable[[Results], pd.DataFrame]:
    """A function from results to columns of their summary, of a long sweep to a part of it."""

    def frame(results: Results) -> pd.DataFrame:
        few = results.few
        return few.ordered(few.summary[[*CONFIGURATION, *columns]].astype({"verdict": str}))

    return frame


@register_figure(
    title="What becomes of the signal", data=summarized("verdict", "agreement", "seeds")
)
def verdicts(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """What became of the signal at the last layer: each seed is judged; the commonest verdict
    counts, and small print counts its seeds where they disagree. Read a column to choose an init
    for your activation, a row to see for which activations an init works.
    """
    words = [verdict.name for verdict in VERDICTS]
    colours, limits = ListedColormap([_COLOURS[word] for word in words]), (-0.5, len(words) - 0.5)
    figure, cells = matrices(frame, width, height=0.31, least=LEAST)
    narrow = cells[0].width < inches("collapses", SMALLEST) + 0.03
    for part in cells:
        verdict = part.matrix(frame, "verdict")
        share, seeds = part.matrix(frame, "agreement"), part.matrix(frame, "seeds")
        votes = (share * seeds).map("\n{:.0f} of ".format) + seeds.map("{:.0f}".format)
        labels = verdict.map(_initials if narrow else _two_lines)
        labels += (votes if not narrow else votes.map(lambda _: "*")).where(share < 1, "")
        _map(part, verdict.map(words.index, na_action="ignore"), labels, colours, limits)
    if narrow:
        met = [word for word in words if (frame["verdict"] == word).any()]
        key = {f"{_initials(word)}  {word}": _COLOURS[word] for word in met}
        add_patches(figure, key, "* seeds disagree" if (frame["agreement"] < 1).any() else "")
    return figure


@register_figure(title="Spread of the last layer's activations", data=summarized("std", "verdict"))
def last_layer_std(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """The power of ten of the standard deviation of the last layer's activations, median over
    seeds: 0 is a spread of 1, −3 a thousandth. Blue has shrunk, red has grown, and beyond
    10⁻⁴ and 10⁴ the colour is full. −∞ is a spread of exactly zero, ∞ an overflow. Bold cells are
    the healthy ones: a spread near 1 is not enough where every input gives the same output.
    """
    colours = diverging()
    figure, cells = matrices(frame, width, height=0.27, least=LEAST)
    digits = int(cells[0].width >= inches("−12.3", SMALLEST) + 0.03)
    for part in cells:
        values = part.matrix(frame, "std").astype(float).map(_log10)
        labels = values.map(lambda value: _exponent(value, digits))
        healthy = part.matrix(frame, "verdict") == "healthy"
        _map(part, values, labels, colours, (-LIMIT, LIMIT), bold=healthy)
    steps = range(-LIMIT, LIMIT + 1, 2)
    ends = {-LIMIT: "≤ ", LIMIT: "≥ "}
    key = {
        ends.get(step, "") + power_of_ten(step): colours((step + LIMIT) / (2 * LIMIT))
        for step in steps
    }
    add_patches(figure, key, "standard deviation")
    return figure


@register_figure(title="Dead units in the last layer", data=summarized("dead", "verdict"))
def dead_units(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Share of the last layer's units that give one and the same value for every sample, in
    percent, median over seeds: rectifiers that never fire, units that saturated, or, where the
    signal collapsed, all of them. Such a unit tells the next layer nothing about the input. A dot
    is none, ∞ an overflow.
    """
    figure, cells = matrices(frame, width, height=0.27, least=LEAST)
    for part in cells:
        values = part.matrix(frame, "dead").astype(float)
        labels = values.map(lambda share: f"{100 * share:.0f}" if share > 0 else "·")
        overflow = part.matrix(frame, "verdict") == "overflows"
        labels = labels.where(values.notna(), "").mask(overflow, "∞")
        _map(part, values, labels, sequential(PALETTE[3]), (0, 1))
    return figure


def _two_lines(word: object) -> str:
    return word.replace(" ", "\n") if isinstance(word, str) else ""


def _initials(word: object) -> str:
    return "".join(part[0] for part in word.split()) if isinstance(word, str) else ""


def _log10(value: float) -> float:
    """The logarithm of a spread; minus infinity for zero."""
    return math.log10(value) if value else -math.inf


def _exponent(value: float, digits: int) -> str:
    """A logarithm in print; nothing where nothing was measured."""
    if np.isfinite(value):
        return decimal(value, digits)
    return {-np.inf: "−∞", np.inf: "∞"}.get(value, "")


def _map(
    part: Cells,
    values: pd.DataFrame,
    labels: pd.DataFrame,
    colours: Colormap,
    limits: tuple[float, float],
    bold: pd.DataFrame | None = None,
) -> None:
    """Draw cells with their labels; a configuration that was not measured stays empty.

    Args:
        part: the matrix's axes.
        values, labels: of the cells.
        colours, limits: of the values; infinite ones take the extremes.
        bold: which labels stand out.
    """
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
        linecolor=fade(INK, 0.12),
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
