"""Known architectures in pictures: what survives which depth, and what a norm makes irrelevant."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from initstats.diagnosis import VERDICTS
from initstats.plots.catalog import register_figure
from initstats.plots.curves import (
    CORRELATION,
    DOTTED,
    NUMBER,
    PART,
    SHARE,
    THEORY,
    Scale,
    decorate,
    layer_ticks,
)
from initstats.plots.grid import NARROW, add_key, panels
from initstats.plots.maps import COLOURS
from initstats.plots.results import order
from initstats.plots.style import INK, PAGE, StyledFigure, diverging, inches, strokes
from initstats.registry import Need

if TYPE_CHECKING:
    from initstats.survey import Evidence

ATTENTION = Need[Any](
    lambda evidence: (evidence.profiles["statistic"] == "attention_entropy").any(),
    "no transformer was measured",
)
WORDS = [verdict.name for verdict in VERDICTS]
_CELL, _ROW = 0.54, 0.88
"""Heights of a cell, and of the frame of a row, below whose cells stands what was measured; of the
distance of two rows."""
DECADES = 2
"""Powers of ten at which the colours of a gradient's growth are full."""
_WIDE = Scale(True, (-1, 1), (-3, 9), 1, band=(-1, 1))
_PANELS = {
    "rms": ("rms of what goes through", _WIDE),
    "gradient": ("rms of the gradient", _WIDE),
    "branch share": ("share that a branch adds", PART),
    "similarity": ("correlation of two inputs", CORRELATION),
    "attention_entropy": ("entropy of attention", SHARE),
    "participation_ratio": ("directions that tokens take", NUMBER),
}


def by_recipe(evidence: Evidence) -> pd.DataFrame:
    """Verdicts by recipe (`label`) and depth, of `source` "theory" or "measured"; and `largest`."""
    columns = ["label", "depth", "verdict", "largest"]
    told = evidence.survival[columns].assign(source="theory")
    seen = evidence.measured.reindex(columns=columns).assign(source="measured")
    return pd.concat([told, seen], ignore_index=True)


@register_figure(page="architectures", title="What survives which depth", data=by_recipe)
def survival_map(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """What theory says of each recipe at each depth, in the colours of verdicts; a dash, where it
    says nothing. Below, in the same frame, dots are what small sweeps of width 64 measured of the
    recipe, placed at the depth of the sweep. On the right, the greatest depth at which the gradient
    stays within a factor of ten and inputs stay distinct.
    """
    labels, told = order(frame["label"]), frame[frame["source"] == "theory"]
    depths, size = sorted(told["depth"].unique()), 8 if width > NARROW else 6.5
    left = 0.15 + max(inches(label, size) for label in labels)
    figure = StyledFigure((width, 0.3 * len(labels) + 0.75))
    axes = figure.subplots()
    cell = (width - left - 0.8) / len(depths)
    small = cell < inches("gradient explodes", 5.5) + 0.04
    write = partial(axes.text, ha="center", va="center", size=5.5)
    for label, depth, verdict in told[["label", "depth", "verdict"]].itertuples(index=False):
        row, column = labels.index(str(label)), depths.index(depth)
        colour = COLOURS.get(str(verdict), to_rgba(INK, 0))
        edge: Any = {"ec": to_rgba(INK, 0.12), "lw": 0.5}
        axes.add_patch(Rectangle((column, row), 1, _CELL, fc=colour, **edge))
        white = "white" if verdict == "healthy" else INK
        write(column + 0.5, row + _CELL / 2, _word(str(verdict), small), color=white)
    for row in range(len(labels)):  # the recipe's own, theory above and measured below
        frame_of = Rectangle((0, row), len(depths), _ROW, fc="none", ec=to_rgba(INK, 0.4), lw=0.7)
        axes.add_patch(frame_of)
    seen = frame[frame["source"] == "measured"]
    at = np.interp(np.log(seen["depth"]), np.log(depths), np.arange(len(depths)) + 0.5)
    for x, label, verdict in zip(at, seen["label"], seen["verdict"], strict=True):
        text = f"• {_word(str(verdict), small)}"
        write(x, labels.index(str(label)) + (_ROW + _CELL) / 2, text, color=INK)
    beside = partial(axes.text, va="center", size=size - 0.5)
    for row, label in enumerate(labels):
        largest = told.loc[told["label"] == label, "largest"].iloc[0]
        beside(len(depths) + 0.15, row + _CELL / 2, _depth(largest, depths[-1]))
    beside(len(depths) + 0.15, -0.45, "up to")
    axes.set(xlim=(0, len(depths) + 0.9), ylim=(len(labels), 0))
    axes.set_xticks(np.arange(len(depths)) + 0.5, [str(depth) for depth in depths])
    axes.set_yticks(np.arange(len(labels)) + _CELL / 2, labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=size, pad=3)
    axes.spines[:].set_visible(False)
    _key(figure, {*frame["verdict"]}, initials=small)
    return figure


def by_layer_of(evidence: Evidence, statistics: tuple[str, ...]) -> pd.DataFrame:
    """The profiles of some statistics: `label layer statistic source value low high`."""
    rows = evidence.profiles
    rows = rows[rows["statistic"].isin(statistics)]
    if "rms" in statistics:
        drawn = rows.loc[rows["label"].isin(PROFILED)]
    else:
        having = rows.loc[rows["statistic"] == "attention_entropy", "label"]
        drawn = rows[rows["label"].isin(having)]
    return drawn.reset_index(drop=True)


PROFILED = (
    *("plain", "layer norm after the activation", "skip, 1/√L", "skip, 1/L", "pre-norm"),
    *("post-norm", "pre-norm transformer", "post-norm transformer"),
)
"""The recipes whose layers are drawn one by one."""


@register_figure(
    page="architectures",
    title="Layer by layer",
    data=partial(by_layer_of, statistics=("rms", "gradient", "branch share", "similarity")),
)
def depth_profiles(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Some recipes of 31 layers, measured: what goes through all layers, and its gradient, which is
    read from right to left; what each branch has of the square of the sum that it is part of; and
    the correlation of two inputs, or of two tokens. Bands hold all seeds. Theory is dotted in
    the colour of its recipe, where it follows.
    """
    return _profiles(frame, width)


@register_figure(
    page="architectures",
    title="Attention, layer by layer",
    data=partial(by_layer_of, statistics=("attention_entropy", "participation_ratio")),
    needs=[ATTENTION],
)
def attention_profiles(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Transformers of 31 layers, measured: the entropy of a token's attention over the largest that
    it can have (1 attends to all tokens alike), and the number of directions that the 16 tokens of
    an image take (1: all are alike). Bands hold all seeds.
    """
    return _profiles(frame, width)


def _profiles(frame: pd.DataFrame, width: float) -> Figure:
    """A panel for each statistic, a line for each recipe."""
    names = [name for name in _PANELS if (frame["statistic"] == name).any()]
    styles = strokes(order(frame["label"]))
    told = (frame["source"] == "theory").any()
    key = styles | {THEORY: DOTTED} if told else styles
    figure, (axes,) = panels(
        [_PANELS[name][0] for name in names],
        width,
        labels=("layer", ""),
        key=key,
        most=2,
        least=2.2,
        height=1.75,
        share="x",
    )
    depth = int(frame["layer"].max())
    for part, name in zip(axes, names, strict=True):
        scale = _PANELS[name][1]
        rows = frame[frame["statistic"] == name]
        heights = scale.height(rows[["value", "low", "high"]])
        limits = scale.limits(heights[:, 0])
        decorate([part], scale, limits)
        part.set(xlim=(0.5, depth + 0.5), xticks=layer_ticks(depth))
        for (label, source), group in rows.groupby(["label", "source"], sort=False):
            line = group.sort_values("layer")
            value, low, high = scale.height(line[["value", "low", "high"]]).T
            stroke = styles[str(label)]
            if source == "theory":
                dotted = DOTTED._asdict() | {"color": stroke.color}
                part.plot(line["layer"], value, **dotted, zorder=4)
                continue
            part.plot(line["layer"], value, **(stroke._asdict() | {"lw": 1.2}))
            part.fill_between(line["layer"], low, high, color=to_rgba(stroke.color, 0.15), lw=0)
    return figure


def by_scale(evidence: Evidence) -> pd.DataFrame:
    """Growth of the gradient and verdict by the variance of logits and the scale of branches."""
    return evidence.phases[["label", "depth", "logits", "branch", "gradient", "verdict"]]


@register_figure(page="architectures", title="Warm logits, strong branches", data=by_scale)
def logit_phases(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Transformers of 21 layers, theory: the power of ten by which the gradient's norm grows from
    the last layer to the first, by the scale of every branch and by the variance that logits have
    at inputs of second moment 1 (the init's scale). Beyond 10² the colour is full; = marks where
    inputs collapse, ∞ where theory leaves the range of float32.
    """
    labels = order(frame["label"])
    figure, (axes,) = panels(
        labels,
        width,
        labels=("variance of the first logits", "scale of branches"),
        most=2,
        least=2.2,
        height=2.4,
    )
    for part, label in zip(axes, labels, strict=True):
        rows = frame[frame["label"] == label]
        wide = rows.pivot(index="branch", columns="logits", values="gradient")
        words = rows.pivot(index="branch", columns="logits", values="verdict").to_numpy()
        values = np.log10(wide.to_numpy(float))
        colours = diverging()((np.clip(values, -DECADES, DECADES) / DECADES + 1) / 2)
        colours[np.isnan(values)] = to_rgba(INK, 0.1)
        part.imshow(colours, origin="lower", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            mark = "=" if words[row, column] == "collapses" else ""
            text = "∞" if math.isnan(value) else f"{value:.1f}".replace("-", "−") + mark
            dark = abs(value) > 0.75 * DECADES
            part.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                size=5.5,
                color="white" if dark else INK,
            )
        for ticks, values_of in ((part.set_xticks, wide.columns), (part.set_yticks, wide.index)):
            ticks(range(len(values_of)), [f"{float(each):.2g}" for each in values_of])
        part.tick_params(length=0, labelsize=6.5)
        part.spines[:].set_visible(False)
    return figure


def by_norm(evidence: Evidence) -> pd.DataFrame:
    """Verdicts by norm (`label`), init and activation."""
    return evidence.norms[["label", "depth", "init", "activation", "verdict"]]


@register_figure(page="architectures", title="What a norm makes irrelevant", data=by_norm)
def norm_maps(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Networks of 50 layers, theory: the verdict on each init with each activation, a map for each
    norm, in the letters and colours of the key. In a column of one colour the init does not matter;
    in a row of one colour, the activation does not.
    """
    labels = order(frame["label"])
    inits, names = list(map(str, frame["init"].unique())), list(frame["activation"].unique())
    figure, (axes,) = panels(labels, width, most=3, least=1.9, height=0.24 * len(inits), share="xy")
    for part, label in zip(axes, labels, strict=True):
        rows = frame[frame["label"] == label]
        for init, activation, verdict in rows[["init", "activation", "verdict"]].itertuples(
            index=False
        ):
            x, y = names.index(activation), inits.index(str(init))
            colour = COLOURS.get(str(verdict), to_rgba(INK, 0))
            edge: Any = {"ec": to_rgba(INK, 0.12), "lw": 0.5}
            part.add_patch(Rectangle((x, y), 1, 1, fc=colour, **edge))
            white = "white" if verdict == "healthy" else INK
            centre: Any = {"ha": "center", "va": "center"}
            part.text(x + 0.5, y + 0.5, _initials(str(verdict)), size=6.5, color=white, **centre)
        part.set(xlim=(0, len(names)), ylim=(len(inits), 0))
        part.set_xticks(np.arange(len(names)) + 0.5, names)
        part.set_yticks(np.arange(len(inits)) + 0.5, inits)
        part.tick_params(length=0, labelsize=6.5)
        part.spines[:].set_visible(False)
    _key(figure, {*frame["verdict"]}, initials=True)
    return figure


def _key(figure: Figure, met: set[object], *, initials: bool) -> None:
    """What the colours mean, below."""
    edge: Any = {"ec": to_rgba(INK, 0.25), "lw": 0.5}
    words = [word for word in WORDS if word in {str(each) for each in met}]
    handles: dict[str, Any] = {
        f"{_initials(word)}  {word}" if initials else word: Patch(fc=COLOURS[word], **edge)
        for word in words
    }
    add_key(figure, handles, "lower")


def _word(word: str, small: bool) -> str:
    return _initials(word) if small else word.replace("unknown", "—")


def _initials(word: str) -> str:
    return "".join(part[0] for part in word.replace("-", " ").split()) if word != "unknown" else "—"


def _depth(largest: float, deepest: int) -> str:
    if math.isnan(largest):
        return "—"
    return f"≥ {largest:.0f}" if largest >= deepest else f"{largest:.0f}"
