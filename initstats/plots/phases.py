"""Theory in pictures: the phase diagram of an activation, and the maps of a layer."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from initstats.plots.catalog import register_figure
from initstats.plots.grid import panels
from initstats.plots.style import (
    ABOVE,
    BELOW,
    INK,
    PAGE,
    StyledFigure,
    inches,
    power_of_ten,
    strokes,
)

if TYPE_CHECKING:
    from initstats.theory.diagram import Diagram

Array = NDArray[np.float64]

FARTHEST = 100.0
"""Depth scale from which on colours are full, layers."""
BESIDE = 7.0
"""Width of a diagram from which on the inits are listed beside it, inches."""
SHOWN = (1e-3, 1e3)
"""Range of second moments in the maps."""


def by_place(diagram: Diagram) -> pd.DataFrame:
    """The phase diagram as a table.

    Returns:
        Rows whose `kind` is "cell" (of the diagram: `sigma_w sigma_b q_star chi_1 xi_c`), "edge"
        (a point of the edge of chaos: `sigma_w sigma_b q_star chi_q`) or "init" (`init sigma_w
        sigma_b`, and `note`, which says why an init has no place).
    """
    w, b = np.meshgrid(diagram.sigma_w, diagram.sigma_b)
    cells = {"sigma_w": w, "sigma_b": b, "q_star": diagram.q_star, "chi_1": diagram.chi_1}
    cells["xi_c"] = diagram.xi_c
    placed = diagram.inits[["init", "note"]].assign(
        sigma_w=diagram.inits["sigma_w2"] ** 0.5, sigma_b=diagram.inits["sigma_b2"] ** 0.5
    )
    parts = {
        "cell": pd.DataFrame({name: values.ravel() for name, values in cells.items()}),
        "edge": diagram.edge,
        "init": placed,
    }
    tables = [part.assign(kind=kind) for kind, part in parts.items() if len(part)]
    columns = ["kind", *cells, "chi_q", "init", "note"]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns)


@register_figure(page="theory", title="Order, chaos, and the edge", data=by_place)
def phases(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Weights' and biases' standard deviations, and how many layers deep two inputs can be told
    apart: the stronger the colour, the more. Blue is order: inputs become the same, and gradients
    vanish. Red is chaos: near inputs part, and gradients explode. The line between them is the edge
    of chaos (dashed where q leaves it at the slightest error; a diamond where it is one point,
    without biases); hatched, signals grow without bound. Points are the inits that declare a scale,
    for layers of 50 inputs and 50 units; inits with equal scale share a number.
    """
    height = 3.9 if width >= BESIDE else 0.75 * width
    figure = StyledFigure((width, height + 1))
    axes, key = figure.subplots(2, 1, height_ratios=[height, 0.25])
    cells = frame[frame["kind"] == "cell"]
    shape = cells["sigma_b"].nunique(), cells["sigma_w"].nunique()
    w, b, q_star, chi_1, xi_c = (
        cells[name].to_numpy().reshape(shape)
        for name in ("sigma_w", "sigma_b", "q_star", "chi_1", "xi_c")
    )
    extent = (0.0, w[0, -1] + w[0, 0], 0.0, b[-1, 0] + b[0, 0])
    axes.imshow(_colours(chi_1, xi_c), extent=extent, origin="lower", aspect="auto")
    gone = np.isinf(q_star)
    if gone.any():
        axes.contourf(w, b, gone, levels=[0.5, 1.5], colors="none", hatches=["////"])
        for hatched in axes.collections:
            hatched.set(edgecolor=to_rgba(INK, 0.3), linewidth=0)
    _edge(axes, frame[frame["kind"] == "edge"])
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set(xlabel="σ of the weights · √fan-in", ylabel="σ of the biases")
    _inits(figure, axes, frame[frame["kind"] == "init"])
    _key(key)
    return figure


def by_step(diagram: Diagram) -> pd.DataFrame:
    """A layer's maps as a table.

    Returns:
        Rows with `weights` (what the scale of the weights is called), `sigma_w2`, `sigma_b2`,
        `quantity` ("q" or "c"), `before` and `after` a layer; where `fixed`, both are the point
        at which a signal stays.
    """
    parts = []
    for quantity, table, star in (
        ("q", diagram.lengths, "q_star"),
        ("c", diagram.correlations, "c_star"),
    ):
        names = list(map(str, diagram.fixed.index))
        maps_ = table.rename(columns={table.columns[0]: "before"})
        maps_ = maps_.melt("before", names, var_name="weights", value_name="after")
        stays = diagram.fixed[star].to_numpy()
        points = pd.DataFrame({"weights": names, "before": stays, "after": stays})
        rows = pd.concat([maps_.assign(fixed=False), points.assign(fixed=True)])
        parts.append(rows.assign(quantity=quantity))
    frame = pd.concat(parts, ignore_index=True)
    scale = dict(zip(map(str, diagram.fixed.index), diagram.fixed["sigma_w2"], strict=True))
    return frame.assign(sigma_w2=frame["weights"].map(scale), sigma_b2=diagram.sigma_b2)


@register_figure(page="theory", title="A layer's maps", data=by_step)
def maps(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """The second moment q of a layer and of the next (first), and the correlation c of two inputs,
    likewise (second), for some scales of the weights. A signal goes up to its curve, over to the
    diagonal, and up or down again: where a curve crosses the diagonal from above it stays, and the
    point is marked. A curve that runs along the diagonal keeps what it gets; a correlation whose
    curve arrives steeper than the diagonal tells near inputs apart.
    """
    scales = frame.drop_duplicates("weights").set_index("weights")["sigma_w2"]
    styles = strokes(list(scales.index))
    titles = [f"length, σ² of biases {frame['sigma_b2'].iloc[0]:g}", "correlation at q*"]
    key = {f"{name}: fan-in · σ² = {w2:.4g}": styles[str(name)] for name, w2 in scales.items()}
    figure, (grid,) = panels(titles, width, key=key, least=2.6, height=2.6, share="")
    for axes, quantity in zip(grid, "qc", strict=True):
        axes.set(xlabel=f"{quantity} of a layer", ylabel=f"{quantity} of the next")
        here = frame[frame["quantity"] == quantity]
        ends = here.loc[~here["fixed"], "before"].agg(["min", "max"])
        axes.plot(ends, ends, color=to_rgba(INK, 0.4), lw=0.7)
        limits = SHOWN if quantity == "q" else (0, 1.005)
        for name, rows in here.groupby("weights", sort=False):
            color, curve = styles[str(name)].color, rows[~rows["fixed"]]
            axes.plot(curve["before"], curve["after"], color=color, lw=1.4)
            point = float(rows.loc[rows["fixed"], "before"].iloc[0])
            if limits[0] <= point <= limits[1]:
                axes.plot(point, point, "o", color=color, ms=5, mew=0, clip_on=False)
    grid[0].set(xscale="log", yscale="log", xlim=SHOWN, ylim=SHOWN)
    for axis in (grid[0].xaxis, grid[0].yaxis):
        axis.set_ticks([10.0**n for n in range(-3, 4)], [power_of_ten(n) for n in range(-3, 4)])
        axis.set_ticks([], minor=True)
    grid[1].set(xlim=(0, 1), ylim=(0, 1.005))
    return figure


def _colours(chi_1: Array, xi_c: Array) -> Array:
    """The phase's colour, pale to strong as the depth scale grows to `FARTHEST`, (..., 4)."""
    with np.errstate(divide="ignore"):
        strength = np.interp(np.log10(xi_c), np.log10([0.3, FARTHEST]), (0.03, 0.75))
    colours = np.empty((*xi_c.shape, 4))
    colours[..., :3] = np.where(chi_1[..., None] > 1, to_rgb(ABOVE), to_rgb(BELOW))
    colours[..., 3] = np.where(np.isnan(xi_c), 0.0, strength)
    return colours


def _edge(axes: Axes, edge: pd.DataFrame) -> None:
    """The edge of chaos, dashed where q does not stay on it."""
    stays = edge["chi_q"].to_numpy() <= 1 + 1e-6
    height = edge["sigma_b"].to_numpy()
    if len(edge) and height.max() < 1e-3:  # rectifiers: a point
        axes.plot(edge["sigma_w"].iloc[0], 0, "D", color=INK, ms=6, clip_on=False, zorder=4)
        return
    for part, dashes in ((stays, ()), (~stays, (3, 2))):
        line = np.where(part, height, np.nan)
        axes.plot(edge["sigma_w"], line, color=INK, lw=1.6, linestyle=(0, dashes), zorder=3)


def _inits(figure: Figure, axes: Axes, inits: pd.DataFrame) -> None:
    """Points with numbers, and the inits that they stand for beside or below the diagram."""
    known = inits[inits["note"] == ""]
    places = known.groupby([known["sigma_w"].round(9), known["sigma_b"].round(9)], sort=True)
    level, last = 0, -np.inf
    beside = figure.get_figwidth() >= BESIDE
    room = 2.9 if beside else figure.get_figwidth() - 0.3
    letters = int(room / inches("n", 8))

    def listed(head: str, names: pd.Series[str]) -> str:
        return fill(
            ", ".join(names),
            letters,
            initial_indent=head,
            subsequent_indent="    ",
            break_on_hyphens=False,
        )

    lines = []
    for number, (_, here) in enumerate(places, start=1):
        at = (here["sigma_w"].iloc[0], here["sigma_b"].iloc[0])
        axes.plot(*at, "o", ms=4, color=INK, clip_on=False, zorder=5)
        near = at[0] - last < 0.16 / figure.get_figwidth() * axes.get_xlim()[1]
        level, last = (level + 1 if near else 0), at[0]  # one above the other
        axes.annotate(str(number), at, (2, 5 + 9 * level), textcoords="offset points", fontsize=8)
        lines.append(listed(f"{number}  ", here["init"]))
    absent = inits.loc[inits["note"] != "", "init"]
    if len(absent):
        lines.append(listed("not here: ", absent))
    if not beside:
        height = sum(line.count("\n") + 1.1 for line in lines)
        figure.set_figheight(figure.get_figheight() + 0.15 * height + 0.3)
    figure.legend(
        [Line2D([], [], lw=0) for _ in lines],
        lines,
        loc="outside right upper" if beside else "outside lower left",
        handlelength=0,
        handletextpad=0,
        title="inits of 50 inputs, 50 units",
        title_fontproperties={"weight": "bold", "size": 8.5},
        alignment="left",
    )


def _key(axes: Axes) -> None:
    """The depth scale in layers, as colour."""
    reaches = np.array([1.0, 3.0, 10.0, 30.0, FARTHEST])
    colours = _colours(np.array([[0.0], [2.0]]), np.tile(reaches, (2, 1)))
    axes.imshow(colours, aspect="auto", interpolation="none")
    axes.set_yticks([0, 1], ["order", "chaos"])
    labels = [f"{reach:g}" for reach in reaches[:-1]] + [f"≥ {FARTHEST:g}"]
    axes.set_xticks(np.arange(len(reaches)), labels)
    axes.set_xlabel("depth scale ξ of a difference, layers")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
