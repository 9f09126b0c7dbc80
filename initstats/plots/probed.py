"""Figures of a measured model: its values by depth, and through training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from initstats.plots.bands import BANDS, band_of, counts_of, tidy
from initstats.plots.catalog import register_figure
from initstats.plots.distribution import TICKS, picture
from initstats.plots.grid import panels
from initstats.plots.results import Probed
from initstats.plots.style import (
    ABOVE,
    BELOW,
    INK,
    PAGE,
    PALETTE,
    StyledFigure,
    fade,
    power_of_ten,
    sequential,
)
from initstats.probe.kinds import LINEAR
from initstats.registry import Need

Array = NDArray[np.float64]

FOLLOWED = 12
"""Layers, evenly taken, that are followed through training."""
KEYS = ["step", "layer", "name", "op", "call", "tensor", "direction"]
SHOWN = {"std": "std", "mean_over_std": "mean / std", "dead_fraction": "dead units"}
"""The statistics of a profile, and their labels."""

SOME = Need[Any](lambda probed: len(probed.table) > 0, "nothing was measured")
TRAINING = Need[Any](
    lambda probed: probed.table["step"].nunique() > 1, "only one step was measured"
)
HISTOGRAMS = Need[Any](
    lambda probed: probed.histograms is not None, "it needs the probe's histograms, too"
)


def by_layer(probed: Probed) -> pd.DataFrame:
    """Statistics of the values (not weights) of the last step, in the order of execution."""
    return _with_shift(_last_step(probed.table))


def layers_by_band(probed: Probed) -> pd.DataFrame:
    """Distributions of the values of the forward pass at the last step, by layer and band."""
    rows = _last_step(probed.table)
    return _by_band(probed, rows[rows["direction"] == "forward"])


def by_step(probed: Probed) -> pd.DataFrame:
    """Statistics of the followed layers at every step; `value` names a layer."""
    return _with_shift(followed(probed.table))


def steps_by_band(probed: Probed) -> pd.DataFrame:
    """Distributions of the followed layers, by step and band; `value` names a layer."""
    return _by_band(probed, followed(probed.table))


@register_figure(page="model", title="Depth profile", data=by_layer, needs=[SOME])
def depth_profile(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Every value of the forward pass in the order of execution: its standard deviation, how far
    its mean is from zero in units of that, the share of units that are constant and, where
    gradients were measured, their standard deviation. Blue dots, joined by a line, are the outputs
    of operations with weights; the others are turquoise. A value that is exactly constant lies on
    the lower edge, one with entries that are not finite is a red line.
    """
    rows, gradients = (frame[frame["direction"] == way] for way in ("forward", "backward"))
    figure, axes = _stack(len(SHOWN) + bool(len(gradients)), width)
    for panel, (column, label) in zip(axes, SHOWN.items(), strict=False):
        _dots(panel, rows, column, label)
    if len(gradients):
        _dots(axes[-1], gradients, "std", "gradient's std")
    for panel in axes:
        _broken(panel, rows, "layer")
    axes[-1].set_xlabel("layer, in the order of execution")
    return figure


@register_figure(
    page="model", title="Distributions by depth", data=layers_by_band, needs=[SOME, HISTOGRAMS]
)
def distribution_profile(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """The distribution of every value of the forward pass: layers from left to right, values
    upwards on an axis that is logarithmic to both sides of zero. The stronger the colour, the more
    entries; exact zeros are red on the middle line, a red column holds entries that are not finite.
    """
    layers = frame[KEYS].drop_duplicates()["layer"].to_numpy()
    figure = StyledFigure((width, 2.6))
    axes = figure.subplots()
    extent = (0.0, float(len(layers)), 0.0, 1.0)
    axes.imshow(picture(counts_of(frame, KEYS)), aspect="auto", interpolation="none", extent=extent)
    axes.set_yticks(list(TICKS), TICKS.values())
    most = min(len(layers), 1 + int(width))
    marks = np.unique(np.linspace(0, len(layers) - 1, most).astype(int))
    axes.set_xticks(marks + 0.5, [str(layers[mark]) for mark in marks])
    axes.set_xlabel("layer, in the order of execution")
    return figure


@register_figure(page="model", title="Through training", data=by_step, needs=[SOME, TRAINING])
def training_lines(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Standard deviation of some layers with weights over the steps of a training, how far the
    mean is from zero in units of that, and the share of units that are constant: the fainter the
    line, the nearer to the input. The activation behind a layer is shown where there is one. A red
    line is a step at which some of them hold entries that are not finite.
    """
    layers = list(frame.groupby("layer", sort=False))
    colours = sequential(BELOW)(np.linspace(0.35, 1, len(layers)))
    figure, axes = _stack(len(SHOWN), width)
    for panel, (column, label) in zip(axes, SHOWN.items(), strict=True):
        low = _frame(panel, frame, column, label)
        for (_, rows), colour in zip(layers, colours, strict=True):
            panel.plot(rows["step"], _heights(rows, column, low), color=colour, lw=1.2)
        _broken(panel, frame, "step")
    axes[-1].set_xlabel("step")
    return figure


@register_figure(
    page="model",
    title="The colourful dimension",
    data=steps_by_band,
    needs=[SOME, TRAINING, HISTOGRAMS],
)
def training_distributions(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """The distributions of some layers at every measured step: steps from left to right, values
    upwards as in the distribution by depth. A layer that dies turns into a red line; one that
    saturates, into two bands.
    """
    layers = list(frame.groupby("layer", sort=False))
    titles = [str(rows["value"].iloc[0]) for _, rows in layers]
    figure, (grid,) = panels(titles, width, labels=("step", ""), most=3)
    for axes, (_, rows) in zip(grid, layers, strict=True):
        extent = (float(rows["step"].min()), float(rows["step"].max()) + 1, 0.0, 1.0)
        image = picture(counts_of(rows, KEYS))
        axes.imshow(image, aspect="auto", interpolation="none", extent=extent)
    grid[0].set_yticks(list(TICKS), TICKS.values())
    return figure


def followed(table: pd.DataFrame) -> pd.DataFrame:
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
    parts = []
    for index in picked:
        rows = forward[forward["layer"] == wanted[index]]
        first = rows.iloc[0]
        rows = rows[(rows["name"] == first["name"]) & (rows["op"] == first["op"])]
        name = f"{first['name']} ({first['op']})"
        parts.append(rows.sort_values("step", kind="stable").assign(value=name))
    every: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return every


def banded_counts(histograms: pd.DataFrame, rows: pd.DataFrame) -> NDArray[np.int64]:
    """The histograms of some rows of a table in bands, (rows, BANDS + 1)."""
    order = pd.Series(np.arange(len(rows)), index=pd.MultiIndex.from_frame(rows[KEYS].astype(str)))
    order = order[~order.index.duplicated()]
    entries = pd.MultiIndex.from_frame(histograms[KEYS].astype(str))
    row = order.reindex(entries).to_numpy()
    known = ~np.isnan(row)
    band = band_of(histograms["low"].tolist(), histograms["high"].tolist())
    counts = np.zeros((len(rows), BANDS + 1), np.int64)
    np.add.at(counts, (row[known].astype(int), band[known]), histograms["count"].to_numpy()[known])
    return counts


def _by_band(probed: Probed, rows: pd.DataFrame) -> pd.DataFrame:
    keys = [*KEYS, "value"] if "value" in rows else KEYS
    assert probed.histograms is not None
    return tidy(rows[keys], banded_counts(probed.histograms, rows))


def _last_step(table: pd.DataFrame) -> pd.DataFrame:
    """The values (not weights) of the last step in the order of execution, forward ones first."""
    rows = table[(table["tensor"] != "weight") & (table["step"] == table["step"].max())]
    ordered: pd.DataFrame = rows.sort_values(
        ["direction", "layer"], ascending=[False, True], kind="stable"
    )
    return ordered


def _with_shift(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of a profile; the mean is given in units of the standard deviation, too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = rows["mean"] / rows["std"]
    names = [name for name in (*KEYS, "value", "nonfinite", "mean", "std") if name in rows]
    shown: pd.DataFrame = rows[[*names, "dead_fraction"]].assign(mean_over_std=shift)
    return shown


def _stack(count: int, width: float) -> tuple[Figure, list[Axes]]:
    """Panels one below the other, over the same steps or layers."""
    figure = StyledFigure((width, 1.35 * count + 0.4))
    axes = list(figure.subplots(count, 1, sharex=True))
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels(axes)
    return figure, axes


def _dots(axes: Axes, rows: pd.DataFrame, column: str, label: str) -> None:
    heights = _heights(rows, column, _frame(axes, rows, column, label))
    weighted, here = rows["tensor"] == "preactivation", rows["layer"]
    axes.plot(here[~weighted], heights[~weighted], "o", ms=3, mew=0, color=fade(PALETTE[2], 0.8))
    axes.plot(here[weighted], heights[weighted], "o-", ms=3.5, mew=0, lw=0.8, color=BELOW)
    axes.axhline(0, color=fade(INK, 0.3), lw=0.5, zorder=0)


def _broken(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """A red line wherever an entry is not finite."""
    for place in rows.loc[rows["nonfinite"] > 0, x].unique():
        axes.axvline(place, color=fade(ABOVE, 0.6), lw=1)


def _frame(axes: Axes, rows: pd.DataFrame, column: str, label: str) -> float:
    """Label an axis and let it show a statistic; returns where what is exactly zero is drawn."""
    axes.set_ylabel(label)
    if column != "std":
        axes.set_ylim((-3.2, 3.2) if column == "mean_over_std" else (-0.04, 1.04))
        return 0.0
    known = _heights(rows, "std", np.nan)
    known = known[np.isfinite(known)]
    low, high = (np.floor(known.min()), np.ceil(known.max())) if len(known) else (-1.0, 1.0)
    low, high = float(min(low, -1)), float(max(high, 1))
    axes.set_ylim(low - 0.1, high + 0.1)
    step = max(1, round((high - low) / 5))
    ticks = range(int(low), int(high) + 1, step)
    axes.set_yticks(list(ticks), [power_of_ten(tick) for tick in ticks])
    return low


def _heights(rows: pd.DataFrame, column: str, low: float) -> Array:
    """Heights of a statistic: logarithms of standard deviations, others as far as is shown."""
    values = rows[column].to_numpy(dtype=float)
    if column != "std":
        return values.clip(-3, 3)
    with np.errstate(divide="ignore"):
        heights = np.log10(values)
    return np.where(heights == -np.inf, low, heights)
