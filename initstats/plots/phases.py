"""Theory in pictures: the phase diagram of an activation, and the maps of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from initstats.plots.catalog import register_figure
from initstats.plots.style import ABOVE, BELOW, INK, PAGE, fade, power_of_ten, strokes

if TYPE_CHECKING:
    from initstats.theory.diagram import Diagram

Array = NDArray[np.float64]

FARTHEST = 100.0
"""Layers from which on a reach is drawn as the deepest."""


@register_figure(page="theory", title="Order, chaos, and the edge", data=lambda given: given)
def phases(diagram: Diagram) -> Figure:
    """Weights' and biases' standard deviations, and how many layers deep two inputs can be told
    apart: the stronger the colour, the more. Blue is order: inputs become the same, and gradients
    vanish. Red is chaos: near inputs part, and gradients explode. The line between them is the edge
    of chaos (dashed where q would leave it at the
    slightest error; a diamond where it is one point, without biases); hatched, signals grow without
    bound. Points are the inits that declare a scale, for layers of 50 inputs and 50 units; names
    that share one are on one line.
    """
    figure = Figure(figsize=(PAGE, 4.7))
    axes = figure.add_axes((0.065, 0.12, 0.555, 0.83))
    w, b = diagram.sigma_w, diagram.sigma_b
    extent = (0.0, w[-1] + w[0], 0.0, b[-1] + b[0])
    axes.imshow(_colours(diagram), extent=extent, origin="lower", aspect="auto")
    gone = np.isinf(diagram.q_star)
    if gone.any():
        axes.contourf(w, b, gone, levels=[0.5, 1.5], colors="none", hatches=["////"])
        for hatched in axes.collections:
            hatched.set(edgecolor=fade(INK, 0.3), linewidth=0)
    _edge(axes, diagram)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set(xlabel="σ of the weights · √fan_in", ylabel="σ of the biases")
    _inits(figure, axes, diagram)
    _key(figure)
    return figure


@register_figure(page="theory", title="A layer's maps", data=lambda given: given)
def maps(diagram: Diagram) -> Figure:
    """What a layer makes of a second moment q (left), and of the correlation c of two inputs
    (right), for some scales of the weights. A signal goes up to its curve, over to the diagonal,
    and up or down again: where a curve crosses the diagonal from above it stays, and the point is
    marked. A curve that runs along the diagonal keeps what it gets; on the right, one that arrives
    steeper than it tells near inputs apart.
    """
    figure = Figure(figsize=(PAGE, 3.9))
    left = figure.add_axes((0.075, 0.22, 0.38, 0.72))
    right = figure.add_axes((0.57, 0.22, 0.38, 0.72))
    shown = (1e-3, 1e3)
    left.set(
        xscale="log",
        yscale="log",
        xlim=shown,
        ylim=shown,
        title=f"length, σ² of biases {diagram.sigma_b2:g}",
    )
    left.set(xlabel="q of a layer", ylabel="q of the next")
    right.set(xlim=(0, 1), ylim=(0, 1.005), title="correlation at q*")
    right.set(xlabel="c in a layer", ylabel="c in the next")
    ticks = range(-3, 4)
    for axis in (left.xaxis, left.yaxis):
        axis.set_ticks([10.0**n for n in ticks], [power_of_ten(n) for n in ticks])
        axis.set_ticks([], minor=True)
    styles = strokes(list(map(str, diagram.fixed.index)))
    for axes, table, star in (
        (left, diagram.lengths, "q_star"),
        (right, diagram.correlations, "c_star"),
    ):
        start = table.columns[0]
        axes.plot(table[start], table[start], color=fade(INK, 0.4), lw=0.7)
        for name, style in styles.items():
            point, w2 = (float(diagram.fixed[column][name]) for column in (star, "sigma_w2"))
            label = f"{name}: σ² · fan_in = {w2:.4g}"
            axes.plot(table[start], table[name], label=label, color=style.color, lw=1.4)
            if axes is right or shown[0] <= point <= shown[1]:
                axes.plot(point, point, "o", color=style.color, ms=5, mew=0, clip_on=False)
    figure.legend(*left.get_legend_handles_labels(), loc="lower left", ncols=2, fontsize=8)
    return figure


def _strength(xi: Array) -> Array:
    """From pale to strong, 0 to 1, by the logarithm of a reach of 0.3 layers to `FARTHEST`."""
    with np.errstate(divide="ignore"):
        logarithm = np.log10(xi)
    return np.asarray(np.interp(logarithm, np.log10([0.3, FARTHEST]), (0.03, 0.75)))


def _colours(diagram: Diagram) -> Array:
    """(rows, columns, 4): the phase's colour, in the strength of the reach."""
    colours = np.empty((*diagram.xi_c.shape, 4))
    colours[..., :3] = np.where(diagram.chi_1[..., None] > 1, to_rgb(ABOVE), to_rgb(BELOW))
    colours[..., 3] = np.where(np.isnan(diagram.xi_c), 0.0, _strength(diagram.xi_c))
    return colours


def _edge(axes: Axes, diagram: Diagram) -> None:
    edge = diagram.edge
    stays = edge["chi_q"].to_numpy() <= 1 + 1e-6
    height = edge["sigma_b"].to_numpy()
    if len(edge) and height.max() < 1e-3:  # of rectifiers
        axes.plot(edge["sigma_w"].iloc[0], 0, "D", color=INK, ms=6, clip_on=False, zorder=4)
        return
    for part, dashes in ((stays, ()), (~stays, (3, 2))):
        line = np.where(part, height, np.nan)
        axes.plot(edge["sigma_w"], line, color=INK, lw=1.6, linestyle=(0, dashes), zorder=3)


def _inits(figure: Figure, axes: Axes, diagram: Diagram) -> None:
    """Points with numbers, and what the numbers mean beside the axes."""
    known = diagram.inits[diagram.inits["note"] == ""]
    places = known.groupby([known["sigma_w2"].round(9), known["sigma_b2"].round(9)], sort=True)
    top, level, last = 0.93, 0, -np.inf
    figure.text(0.655, top, "inits of 50 inputs, 50 units", fontweight="bold")
    for number, (_, here) in enumerate(places, start=1):
        at = (here["sigma_w2"].iloc[0] ** 0.5, here["sigma_b2"].iloc[0] ** 0.5)
        axes.plot(*at, "o", ms=4, color=INK, clip_on=False, zorder=5)
        near = at[0] - last < 0.018 * axes.get_xlim()[1]
        level, last = (level + 1 if near else 0), at[0]  # one above the other
        axes.annotate(str(number), at, (2, 5 + 9 * level), textcoords="offset points", fontsize=8)
        lines = _lines([str(name) for name in here["init"]])
        figure.text(0.67, top - 0.02, str(number), va="top", ha="right", linespacing=1.3)
        figure.text(0.68, top - 0.02, "\n".join(lines), va="top", linespacing=1.3)
        top -= 0.038 * len(lines) + 0.012
    absent = diagram.inits.loc[diagram.inits["note"] != "", "init"]
    if len(absent):
        text = "\n".join(_lines(["not here: " + str(absent.iloc[0]), *map(str, absent.iloc[1:])]))
        figure.text(0.655, top - 0.03, text, va="top", color=fade(INK, 0.75), linespacing=1.3)


def _lines(names: list[str], width: int = 42) -> list[str]:
    """Names set as a list, in as many lines as they need."""
    lines = [""]
    for number, name in enumerate(names):
        word = name + ("," if number < len(names) - 1 else "")
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines


def _key(figure: Figure) -> None:
    """The reach in layers, as colour."""
    axes = figure.add_axes((0.68, 0.12, 0.27, 0.05))
    reaches = np.array([1.0, 3.0, 10.0, 30.0, 100.0])
    for row, color in enumerate((BELOW, ABOVE)):
        for number, alpha in enumerate(_strength(reaches)):
            axes.add_patch(Rectangle((number, row), 1, 1, facecolor=fade(color, alpha), lw=0))
    axes.set(xlim=(0, len(reaches)), ylim=(0, 2), yticks=[0.5, 1.5])
    axes.set_yticklabels(["order", "chaos"])
    labels = [f"{reach:g}" for reach in reaches[:-1]] + [f"≥ {FARTHEST:g}"]
    axes.set_xticks(np.arange(len(reaches)) + 0.5, labels)
    axes.set_xlabel("reach of a difference, layers (ξ)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
