"""Figures of a measured model: its values by depth, and through training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from initstats.plots.bands import BANDS, EDGES, band_of, counts_of, tidy
from initstats.plots.catalog import register_figure
from initstats.plots.curves import SHARE, Scale, decorate
from initstats.plots.distribution import MIDDLE, picture
from initstats.plots.grid import panels
from initstats.plots.results import Probed, evenly
from initstats.plots.style import ABOVE, BELOW, INK, PAGE, PALETTE, StyledFigure, sequential
from initstats.probe.kinds import LINEAR
from initstats.registry import Need

Array = NDArray[np.float64]

FOLLOWED = 12
"""Layers, evenly taken, that are followed through training."""
MANY = 500
"""Dots of a panel from which on they are pixels: a stroke for each makes a large file."""
NAMED, LETTERS = 0.9, 22
"""Inches for names of layers below a figure, and letters of each."""
KEYS = ["step", "mode", "layer", "name", "op", "call", "tensor", "direction"]
SHOWN = {
    "std": ("std", Scale(True, (-1, 1), (-np.inf, np.inf), 1)),
    "mean_over_std": ("mean / std", Scale(False, (-3, 3), (-3, 3), 1)),
    "dead_fraction": ("dead units", SHARE),
}
"""The statistics of a profile, their labels and their axes."""

SOME = Need[Any](lambda probed: len(probed.table) > 0, "nothing was measured")
TRAINING = Need[Any](
    lambda probed: probed.table["step"].nunique() > 1, "only one step was measured"
)
HISTOGRAMS = Need[Any](
    lambda probed: probed.histograms is not None, "it needs the probe's histograms, too"
)


def last_step(probed: Probed) -> pd.DataFrame:
    """The values (not weights) of the last step in the order of execution, forward ones first."""
    table = probed.table
    rows = table[(table["tensor"] != "weight") & (table["step"] == table["step"].max())]
    rows = _training(rows)
    ordered: pd.DataFrame = rows.sort_values(
        ["direction", "layer"], ascending=[False, True], kind="stable"
    )
    return ordered


def profile(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of a profile, and the mean in units of the standard deviation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = rows["mean"] / rows["std"]
    columns = [*KEYS, "value", "nonfinite", "mean", "std", "dead_fraction"]
    return rows[[name for name in columns if name in rows]].assign(mean_over_std=shift)


def by_band(probed: Probed, rows: pd.DataFrame) -> pd.DataFrame:
    """The distributions of the forward values among some rows of the table, by band."""
    rows = rows[rows["direction"] == "forward"]
    assert probed.histograms is not None
    keys = [name for name in (*KEYS, "value") if name in rows]
    return tidy(rows[keys], banded_counts(probed.histograms, rows))


@register_figure(
    page="model",
    title="Depth profile",
    data=lambda probed: profile(last_step(probed)),
    needs=[SOME],
)
def depth_profile(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Every value of the forward pass in the order of execution: its standard deviation, how far
    its mean is from zero in units of that, the share of units that are constant and, where
    gradients were measured, their standard deviation. Blue dots, joined by a line, are the outputs
    of operations with weights; the others are turquoise. A value that is exactly constant lies on
    the lower edge, one with entries that are not finite is a red line.
    """
    rows, gradients = (frame[frame["direction"] == way] for way in ("forward", "backward"))
    figure, axes = _stack(len(SHOWN) + bool(len(gradients)), width, NAMED)
    for panel, column in zip(axes, SHOWN, strict=False):
        _dots(panel, rows, column)
    if len(gradients):
        _dots(axes[-1], gradients, "std")
        axes[-1].set_ylabel("gradient's std")
    for panel in axes:
        _broken(panel, rows, "layer")
    layers = frame.drop_duplicates("layer").sort_values("layer")
    _named(axes[-1], layers, layers["layer"].to_numpy(float), width)
    return figure


@register_figure(
    page="model",
    title="Distributions by depth",
    data=lambda probed: by_band(probed, last_step(probed)),
    needs=[SOME, HISTOGRAMS],
)
def distribution_profile(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """The distribution of every value of the forward pass: layers from left to right, values
    upwards on an axis that is logarithmic to both sides of zero. The stronger the colour, the more
    entries; exact zeros are red on the middle line, a red column holds entries that are not finite.
    """
    layers = frame[KEYS].drop_duplicates()
    figure = StyledFigure((width, 2.6 + NAMED))
    axes = figure.subplots()
    extent = (0.0, float(len(layers)), 0.0, 1.0)
    axes.imshow(picture(counts_of(frame, KEYS)), aspect="auto", interpolation="none", extent=extent)
    _mark(axes)
    _named(axes, layers, np.arange(len(layers)) + np.float64(0.5), width)
    return figure


@register_figure(
    page="model",
    title="Through training",
    data=lambda probed: profile(followed(probed)),
    needs=[SOME, TRAINING],
)
def training_lines(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Standard deviation of some layers with weights over the steps of a training, how far the
    mean is from zero in units of that, and the share of units that are constant: the fainter the
    line, the nearer to the input. The activation behind a layer is shown where there is one. A red
    line is a step at which some of them hold entries that are not finite.
    """
    figure, axes = _stack(len(SHOWN), width)
    for panel, column in zip(axes, SHOWN, strict=True):
        layers = frame.assign(height=_heights(panel, frame, column)).groupby("layer", sort=False)
        colours = sequential(BELOW)(np.linspace(0.35, 1, layers.ngroups))
        for (_, rows), colour in zip(layers, colours, strict=True):
            panel.plot(rows["step"], rows["height"], color=colour, lw=1.2)
        _broken(panel, frame, "step")
    axes[-1].set_xlabel("step")
    return figure


@register_figure(
    page="model",
    title="The colourful dimension",
    data=lambda probed: by_band(probed, followed(probed)),
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
    gap = float(min(np.diff(np.unique(frame["step"])), default=1))  # of `every` steps
    for axes, (_, rows) in zip(grid, layers, strict=True):
        extent = (float(rows["step"].min()), float(rows["step"].max()) + gap, 0.0, 1.0)
        image = picture(counts_of(rows, KEYS))
        axes.imshow(image, aspect="auto", interpolation="none", extent=extent)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _mark(grid[0])
    return figure


def followed(probed: Probed) -> pd.DataFrame:
    """Some layers at all steps: activations that read a layer with weights, else that layer.

    The column `value` names each of them.
    """
    table = probed.table
    forward = _training(table[(table["tensor"] != "weight") & (table["direction"] == "forward")])
    first = forward.drop_duplicates("layer")
    weighted = first[first["op"].isin(LINEAR) & (first["tensor"] == "preactivation")]["layer"]
    readers = first[first["tensor"] == "activation"].drop_duplicates("inputs").set_index("inputs")
    shown = weighted.astype(str).map(readers["layer"]).fillna(weighted).astype(int)
    wanted = list(dict.fromkeys(shown)) or list(first["layer"])
    rows = forward[forward["layer"].isin(evenly(wanted, FOLLOWED))]
    # a step in which the layer was another operation is left out
    rows = rows.merge(first[["layer", "name", "op"]])
    rows["value"] = rows["name"].astype(str) + " (" + rows["op"].astype(str) + ")"
    return rows.sort_values(["layer", "step"], kind="stable", ignore_index=True)


def _training(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a model in training, where it was measured in both modes."""
    kept: pd.DataFrame = rows[rows["mode"] == rows["mode"].max()]
    return kept


def banded_counts(histograms: pd.DataFrame, rows: pd.DataFrame) -> NDArray[np.int64]:
    """The histograms of some rows of a table in bands, (rows, BANDS + 1)."""
    bins = histograms.merge(rows[KEYS].assign(row=np.arange(len(rows))), on=KEYS)
    counts = np.zeros((len(rows), BANDS + 1), np.int64)
    band = band_of(bins["low"].tolist(), bins["high"].tolist())
    np.add.at(counts, (bins["row"], band), bins["count"])
    return counts


def _named(axes: Axes, layers: pd.DataFrame, places: Array, width: float) -> None:
    """Names of layers below their places, with what they are, as many as there is room for."""
    some = evenly(range(len(layers)), 1 + int(4 * width))
    few = layers.iloc[some]
    names = [_cut(str(name)) for name in few["name"] + " " + few["op"].astype(str)]
    axes.set_xticks(places[some], names, rotation=90, fontsize="x-small")
    axes.set_xlabel("layer, in the order of execution")


def _cut(name: str) -> str:
    """The end of a name, which tells it from its neighbours."""
    return name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"


def _stack(count: int, width: float, more: float = 0) -> tuple[Figure, list[Axes]]:
    """Panels one below the other, over the same steps or layers; some inches `more` for names."""
    figure = StyledFigure((width, 1.35 * count + 0.4 + more))
    axes = list(figure.subplots(count, 1, sharex=True))
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels(axes)
    return figure, axes


def _mark(axes: Axes) -> None:
    """Ticks on the upright axis of pictures: at the lower edge of the bands of 1 and 100."""
    rows = BANDS + MIDDLE - 1
    heights = (np.searchsorted(EDGES[0, :BANDS], [1.0, 100.0]) + MIDDLE - 1) / rows
    below = 1 - heights[::-1]
    axes.set_yticks([*below, 0.5, *heights], ["−100", "−1", "0", "1", "100"])


def _dots(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """A dot for each value; those of operations with weights are joined."""
    heights = _heights(axes, rows, column)
    weighted, here = rows["tensor"] == "preactivation", rows["layer"]
    style: Any = {"mew": 0, "lw": 0.8, "clip_on": False, "rasterized": len(rows) > MANY}
    axes.plot(here[~weighted], heights[~weighted], "o", ms=3, color=PALETTE[2], alpha=0.8, **style)
    axes.plot(here[weighted], heights[weighted], "o-", ms=3.5, color=BELOW, **style)
    axes.axhline(0, color=to_rgba(INK, 0.3), lw=0.5, zorder=0)


def _broken(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """A red line wherever an entry is not finite."""
    for place in rows.loc[rows["nonfinite"] > 0, x].unique():
        axes.axvline(place, color=to_rgba(ABOVE, 0.6), lw=1)


def _heights(axes: Axes, rows: pd.DataFrame, column: str) -> Array:
    """Heights of a statistic on its axis, which shows them; what lies outside is on its edge."""
    label, scale = SHOWN[column]
    heights = scale.height(rows[column])
    limits = scale.limits(heights)
    decorate([axes], scale, limits)
    axes.set_ylabel(label)
    return heights.clip(*limits)
