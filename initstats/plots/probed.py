"""Figures of a measured model: its values by depth, and through training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from initstats.plots.bands import BANDS, band_of
from initstats.plots.catalog import Need, register_figure
from initstats.plots.distribution import picture
from initstats.plots.results import Probed
from initstats.plots.style import ABOVE, BELOW, INK, PAGE, PALETTE, fade, power_of_ten, sequential
from initstats.probe.kinds import LINEAR

Array = NDArray[np.float64]

FOLLOWED = 12
"""So many layers, evenly taken, are followed through training."""
VALUES = Need(lambda probed: not probed.table.empty, "nothing was measured")
STEPS = Need(
    lambda probed: probed.table["step"].nunique() > 1, "it needs several steps of a training"
)


@register_figure(
    page="model", title="Depth profile", data=lambda probed: probed.table, needs=[VALUES]
)
def depth_profile(table: pd.DataFrame) -> Figure:
    """Every value of the forward pass in the order of execution: its standard deviation, how far
    its mean is from zero in units of that, the share of units that are constant and, where
    gradients were measured, theirs. Blue dots, joined by a line, are what operations with weights
    give; the others are turquoise. A value that is exactly constant lies on the lower edge, one
    with entries that are not finite is a red line.
    """
    rows = values(table, "forward")
    gradients = values(table, "backward")
    panels = 4 if len(gradients) else 3
    figure = Figure(figsize=(PAGE, 1.35 * panels + 0.5))
    axes: Sequence[Axes] = figure.subplots(panels, 1, sharex=True)
    _logarithmic(axes[0], rows, "std")
    _dots(axes[1], rows, _shift(rows), "mean / std")
    axes[1].set_ylim(-3.2, 3.2)
    _dots(axes[2], rows, rows["dead_fraction"], "dead units")
    axes[2].set_ylim(-0.04, 1.04)
    if len(gradients):
        _logarithmic(axes[3], gradients, "std of gradient")
    for panel in axes:
        for layer in rows.loc[rows["nonfinite"] > 0, "layer"]:
            panel.axvline(layer, color=fade(ABOVE, 0.6), lw=1)
    axes[-1].set_xlabel("layer, in the order of execution")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.subplots_adjust(left=0.08, right=0.99, top=0.98, bottom=0.5 / (1.35 * panels + 0.5))
    return figure


@register_figure(
    page="model", title="Distributions by depth", data=lambda given: given, needs=[VALUES]
)
def distribution_profile(probed: Probed) -> Figure:
    """The distribution of every value of the forward pass: layers from left to right, values
    upwards on an axis that is logarithmic to both sides of zero. The stronger the colour, the more
    entries; exact zeros are red on the middle line, a red column holds entries that are not finite.
    """
    table, histograms = probed.table, probed.histograms
    assert histograms is not None
    rows = values(table, "forward")
    counts = banded_counts(histograms, rows)
    figure = Figure(figsize=(PAGE, 2.6))
    axes = figure.add_axes((0.08, 0.18, 0.91, 0.78))
    extent = (0.0, float(len(rows)), 0.0, 1.0)
    axes.imshow(picture(counts), aspect="auto", interpolation="none", extent=extent)
    axes.set_yticks([0.08, 0.5, 0.92], [f"−{power_of_ten(3)}", "0", power_of_ten(3)])
    marks = np.unique(np.linspace(0, len(rows) - 1, min(10, len(rows))).astype(int))
    axes.set_xticks(marks + 0.5, [str(rows["layer"].iloc[mark]) for mark in marks])
    axes.set_xlabel("layer, in the order of execution")
    return figure


@register_figure(
    page="model", title="Through training", data=lambda probed: probed.table, needs=[STEPS]
)
def training_lines(table: pd.DataFrame) -> Figure:
    """Standard deviation of some layers with weights over the steps of a training, how far the
    mean is from zero in units of that, and the share of units that are constant: the fainter the
    line, the nearer to the input. The activation behind a layer is shown where there is one. A red
    line is a step at which some of them hold entries that are not finite.
    """
    followed = followed_values(table)
    colours = sequential(BELOW)(np.linspace(0.35, 1, len(followed)))
    figure = Figure(figsize=(PAGE, 5.2))
    axes: Sequence[Axes] = figure.subplots(3, 1, sharex=True)
    together = pd.concat([rows for _, rows in followed])
    low = _decades(axes[0], together)
    for (_, rows), colour in zip(followed, colours, strict=True):
        for panel, heights in zip(
            axes, (_log_std(rows, low), _shift(rows), rows["dead_fraction"]), strict=True
        ):
            panel.plot(rows["step"], heights, color=colour, lw=1.2)
    for panel, label in zip(axes, ("std", "mean / std", "dead units"), strict=True):
        panel.set_ylabel(label)
        for step in together.loc[together["nonfinite"] > 0, "step"].unique():
            panel.axvline(step, color=fade(ABOVE, 0.6), lw=1)
    axes[1].set_ylim(-3.2, 3.2)
    axes[2].set_ylim(-0.04, 1.04)
    axes[2].set_xlabel("step")
    axes[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.subplots_adjust(left=0.08, right=0.99, top=0.98, bottom=0.1)
    return figure


@register_figure(
    page="model", title="The colourful dimension", data=lambda given: given, needs=[STEPS]
)
def training_distributions(probed: Probed) -> Figure:
    """The colourful dimension: of some layers the distribution at every measured step, steps from
    left to right, values upwards as in the distribution by depth. A layer that dies turns into a
    red line; one that saturates, into two bands.
    """
    table, histograms = probed.table, probed.histograms
    assert histograms is not None
    followed = followed_values(table)
    columns = min(3, len(followed))
    rows = -(-len(followed) // columns)
    height = 1.5 * rows + 0.3
    figure = Figure(figsize=(PAGE, height))
    for number, (title, values_) in enumerate(followed, start=1):
        axes = figure.add_subplot(rows, columns, number)
        extent = (float(values_["step"].min()), float(values_["step"].max()) + 1, 0.0, 1.0)
        image = picture(banded_counts(histograms, values_))
        axes.imshow(image, aspect="auto", interpolation="none", extent=extent)
        axes.set_title(title, fontsize=7.5)
        if number > len(followed) - columns:
            axes.set_xlabel("step", labelpad=1)
        axes.set_yticks([0.08, 0.5, 0.92], [f"−{power_of_ten(3)}", "0", power_of_ten(3)])
    figure.subplots_adjust(
        left=0.06, right=0.99, top=1 - 0.2 / height, bottom=0.42 / height, hspace=0.55, wspace=0.25
    )
    return figure


def values(table: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The values (not weights) of the last step in one direction, in order."""
    chosen = (table["tensor"] != "weight") & (table["direction"] == direction)
    rows = table[chosen & (table["step"] == table["step"].max())]
    ordered: pd.DataFrame = rows.sort_values("layer", kind="stable")
    return ordered


def followed_values(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The layers that training is shown of: what reads a layer with weights, else itself."""
    forward = table[(table["tensor"] != "weight") & (table["direction"] == "forward")]
    last = forward.drop_duplicates("layer")
    weighted = last[last["op"].isin(LINEAR) & (last["tensor"] == "preactivation")]["layer"]
    shown = []
    for layer in weighted:
        reads = last["inputs"].eq(str(layer)) & (last["tensor"] == "activation")
        shown.append(int(last.loc[reads, "layer"].iloc[0]) if reads.any() else int(layer))
    wanted = list(dict.fromkeys(shown)) or last["layer"].astype(int).tolist()
    picked = np.unique(np.linspace(0, len(wanted) - 1, min(FOLLOWED, len(wanted))).astype(int))
    followed = []
    for index in picked:
        rows = forward[forward["layer"] == wanted[index]]
        first = rows.iloc[0]
        rows = rows[(rows["name"] == first["name"]) & (rows["op"] == first["op"])]
        followed.append((f"{first['name']} ({first['op']})", rows.sort_values("step")))
    return followed


def banded_counts(histograms: pd.DataFrame, rows: pd.DataFrame) -> NDArray[np.int64]:
    """The histograms of some rows of a table in bands, (rows, BANDS + 1)."""
    keys = ["step", "layer", "name", "op", "call", "tensor", "direction"]
    order = pd.Series(np.arange(len(rows)), index=pd.MultiIndex.from_frame(rows[keys].astype(str)))
    order = order[~order.index.duplicated()]
    entries = pd.MultiIndex.from_frame(histograms[keys].astype(str))
    row = order.reindex(entries).to_numpy()
    known = ~np.isnan(row)
    band = band_of(histograms["low"].tolist(), histograms["high"].tolist())
    counts = np.zeros((len(rows), BANDS + 1), np.int64)
    np.add.at(counts, (row[known].astype(int), band[known]), histograms["count"].to_numpy()[known])
    return counts


def _dots(axes: Axes, rows: pd.DataFrame, heights: pd.Series[float], label: str) -> None:
    weighted = rows["tensor"] == "preactivation"
    here = rows["layer"]
    axes.plot(here[~weighted], heights[~weighted], "o", ms=3, mew=0, color=fade(PALETTE[2], 0.8))
    axes.plot(here[weighted], heights[weighted], "o-", ms=3.5, mew=0, lw=0.8, color=BELOW)
    axes.axhline(0, color=fade(INK, 0.3), lw=0.5, zorder=0)
    axes.set_ylabel(label)


def _logarithmic(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    """Standard deviations as powers of ten."""
    _dots(axes, rows, _log_std(rows, _decades(axes, rows)), label)


def _log_std(rows: pd.DataFrame, low: float) -> pd.Series[float]:
    """Logarithms of standard deviations; what has none lies on the lower edge."""
    with np.errstate(divide="ignore"):
        heights: pd.Series[float] = np.log10(rows["std"])
    return heights.where(heights != -np.inf, low)


def _shift(rows: pd.DataFrame) -> pd.Series[float]:
    """Means in units of the standard deviation, as far as they are shown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shift: pd.Series[float] = (rows["mean"] / rows["std"]).clip(-3, 3)
    return shift


def _decades(axes: Axes, rows: pd.DataFrame) -> float:
    """Let an axis show the powers of ten that standard deviations span; returns its lower edge."""
    known = _log_std(rows, np.nan)
    known = known[np.isfinite(known)]
    low, high = (np.floor(known.min()), np.ceil(known.max())) if len(known) else (-1.0, 1.0)
    low, high = float(min(low, -1)), float(max(high, 1))
    axes.set_ylim(low - 0.1, high + 0.1)
    step = max(1, round((high - low) / 5))
    ticks = range(int(low), int(high) + 1, step)
    axes.set_yticks(list(ticks), [power_of_ten(tick) for tick in ticks])
    return low
