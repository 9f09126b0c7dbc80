"""Maps of init x activation at the last layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from initstats.diagnosis import VERDICTS
from initstats.plots.catalog import register_figure
from initstats.plots.matrix import Matrix
from initstats.plots.results import Block, Results
from initstats.plots.style import (
    ABOVE,
    BELOW,
    FIT,
    INK,
    PALETTE,
    decimal,
    diverging,
    fade,
    power_of_ten,
    sequential,
)

LIMIT = 4
"""Decades at which the colours of the spread are full."""

FILLED = 0.82
"""From this opacity on, white letters stand out better than ink on white paper."""

_WORDS = {
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


class Map(NamedTuple):
    """What a map shows of a block: matrices of inits x activations."""

    values: pd.DataFrame
    labels: pd.DataFrame


@register_figure(title="What becomes of the signal", data=lambda results: results)
def verdicts(results: Results) -> Figure:
    """Each cell says what became of the signal at the last layer, in the word that most seeds
    deserve; a smaller line says how many, where they disagree. Read a column to choose an init for
    your activation, a row to see how far an init can be trusted.
    """
    words = [verdict.name for verdict in VERDICTS]

    def content(block: Block) -> Map:
        verdict = results.summaries(block, "verdict").astype(object)
        agreement = results.summaries(block, "agreement") * results.summaries(block, "seeds")
        seeds = results.summaries(block, "seeds")
        labels = verdict.map(lambda word: "" if pd.isna(word) else str(word).replace(" ", "\n"))
        split = (agreement < seeds) & seeds.notna()
        votes = agreement.map("\n{:.0f} of ".format) + seeds.map("{:.0f}".format)
        return Map(verdict.map(words.index, na_action="ignore"), labels + votes.where(split, ""))

    colours = ListedColormap([_WORDS[word] for word in words])
    return _maps(results, content, colours, (-0.5, len(words) - 0.5), row=0.31)


@register_figure(title="Spread of the last layer's activations", data=lambda results: results)
def last_layer_std(results: Results) -> Figure:
    """The power of ten of the standard deviation of the last layer's activations, median over
    seeds: 0 is a spread of 1, −3 a thousandth. Blue has shrunk, red has grown, and beyond
    10⁻⁴ and 10⁴ the colour is full. A bare 0 in a full blue cell is a spread of exactly zero, ∞ an
    overflow. Bold cells are the healthy ones: a spread near 1 is not enough where every input
    gives the same output.
    """

    def content(block: Block) -> Map:
        values = results.summaries(block, "std").astype(float).map(_log10)
        return Map(values, values.map(_exponent))

    figure = _maps(results, content, diverging(), (-LIMIT, LIMIT), key=True)
    for axes, block in zip(figure.axes, results.blocks, strict=False):
        healthy = (results.summaries(block, "verdict") == "healthy").to_numpy().ravel()
        for text, bold in zip(axes.texts, healthy, strict=True):
            text.set_fontweight("bold" if bold else "normal")
    return figure


@register_figure(title="Dead units in the last layer", data=lambda results: results)
def dead_units(results: Results) -> Figure:
    """Share of the last layer's units that give one and the same value for every sample, in
    percent, median over seeds: rectifiers that never fire, units that saturated, or, where the
    signal collapsed, all of them. Nothing can be learned through such a unit. A dot is none, ∞ an
    overflow.
    """

    def content(block: Block) -> Map:
        values = results.summaries(block, "dead").astype(float)
        labels = values.map(lambda share: f"{100 * share:.0f}" if share > 0 else "·")
        overflow = results.summaries(block, "verdict") == "overflows"
        return Map(values, labels.where(values.notna(), "").mask(overflow, "∞"))

    return _maps(results, content, sequential(PALETTE[3]), (0, 1))


def _log10(value: float) -> float:
    """Minus infinity for zero."""
    return math.log10(value) if value else -math.inf


def _exponent(value: float) -> str:
    """The label of a log10: what vanished and what overflowed are marked as that."""
    if np.isfinite(value):
        return decimal(value, 1)
    return {-np.inf: "0", np.inf: "∞"}.get(value, "")


def _maps(
    results: Results,
    content: Callable[[Block], Map],
    colours: Colormap,
    limits: tuple[float, float],
    *,
    row: float = 0.27,
    key: bool = False,
) -> Figure:
    """One map a block, stacked.

    Args:
        results: of the sweep.
        content: what to show of a block.
        colours, limits: of the values; infinite ones take the extremes.
        row: height of a cell, inches.
        key: whether the powers of ten need one.
    """
    matrix = Matrix(results, lambda width: row, foot=0.3 * key)
    for block, axes in matrix.axes():
        _map(axes, content(block), colours, limits)
    if key:
        _key(matrix.figure, matrix.left, 0.17, colours)
    return matrix.figure


def _map(axes: Axes, content: Map, colours: Colormap, limits: tuple[float, float]) -> None:
    """Cells with their labels; a configuration that was not measured stays empty."""
    values = content.values.astype(float)
    sns.heatmap(
        values.clip(*limits),
        ax=axes,
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
    share = np.interp(values.fillna(limits[0]), limits, (0, 1))
    filled = (np.asarray(colours(share))[..., 3] > FILLED) & values.notna().to_numpy()
    for (row, column), label in np.ndenumerate(content.labels.to_numpy()):
        axes.text(
            column + 0.5,
            row + 0.5,
            label,
            ha="center",
            va="center",
            color="white" if filled[row, column] else INK,
            fontsize=(7.5 if len(label) < 6 else 6.8) - label.count("\n"),
            linespacing=1.0,
        )


def _key(figure: Figure, left: float, bottom: float, colours: Colormap) -> None:
    """What the powers of ten mean in colour."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, 3.4 / width, 0.14 / height))
    steps = np.arange(-LIMIT, LIMIT + 1)
    for step in steps:
        color = colours((step + LIMIT) / (2 * LIMIT))
        edge = fade(INK, 0.25)
        axes.add_patch(Rectangle((step - 0.5, 0), 1, 1, facecolor=color, edgecolor=edge, lw=0.5))
    axes.set(xlim=(steps[0] - 0.5, steps[-1] + 0.5), ylim=(0, 1), yticks=[], xticks=steps[::2])
    ends = {-LIMIT: "≤ ", LIMIT: "≥ "}
    axes.set_xticklabels([ends.get(int(s), "") + power_of_ten(int(s)) for s in steps[::2]])
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    axes.annotate(
        "standard deviation", (1.02, 0.5), xycoords="axes fraction", va="center", fontsize=7.5
    )
