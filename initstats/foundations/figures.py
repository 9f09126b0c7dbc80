"""The lesson's figures: for each, what it shows as a table, and its drawing. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from initstats.foundations.published import PUBLISHED
from initstats.plots import register_figure
from initstats.plots.curves import draw_seeds, note
from initstats.plots.style import (
    ABOVE,
    BELOW,
    FIT,
    INK,
    PAGE,
    StyledFigure,
    decimal,
    fade,
    inches,
    sequential,
)

if TYPE_CHECKING:
    from initstats.foundations.evidence import Evidence

DRAWN = ("simplified kaiming", "relu", "kaiming", "relu - 0.5")
QUANTITIES = {"mean": "mean", "std": "standard deviation"}
WIDE = 6.0
"""Width of a figure from which on two panels with words beside their lines fit side by side."""


def draws_in_bins(evidence: Evidence) -> pd.DataFrame:
    """The draws of each step and quantity as a histogram, and what was published.

    Returns:
        Rows whose `kind` is "draws" (`count` between `low` and `high`), "middle" (99.9% of the
        draws lie between `low` and `high`) or "published" (a `source` and its `value`).
    """
    parts = []
    for step in DRAWN:
        for quantity in QUANTITIES:
            counts, edges = np.histogram(evidence.draws[step, quantity], bins=60)
            bins = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": counts})
            row = (evidence.lesson["step"] == step) & (evidence.lesson["quantity"] == quantity)
            middle = evidence.lesson.loc[row, ["low", "high"]].head(1)
            marks = pd.DataFrame(_marks(step, quantity), columns=["source", "value"])
            kinds = {"draws": bins, "middle": middle, "published": marks}
            parts += [
                part.assign(step=step, quantity=quantity, kind=kind) for kind, part in kinds.items()
            ]
    return pd.concat(parts, ignore_index=True)


@register_figure(page="lesson", title="Where the published draws lie", data=draws_in_bins)
def published_draws(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Mean and standard deviation of the first layer's output over all our draws, in the four
    steps of the lesson; shaded, the middle 99.9% of them. Marked are the published draws: (a) of
    the notes, (b) of the notebook, and torch for the notebook's draw by torch's own function. The
    same draws serve every step: from relu on, the histograms of a column differ by a factor or a
    shift only.
    """
    figure = StyledFigure((width, 6.0))
    for row, step in zip(figure.subplots(len(DRAWN), 2), DRAWN, strict=True):
        for ax, (quantity, word) in zip(row, QUANTITIES.items(), strict=True):
            here = frame[(frame["step"] == step) & (frame["quantity"] == quantity)]
            kinds = dict(list(here.groupby("kind")))
            bins, middle = kinds["draws"], kinds["middle"].iloc[0]
            edges = [*bins["low"], bins["high"].iloc[-1]]
            ax.stairs(bins["count"], edges, fill=True, color=fade(BELOW, 0.45), lw=0)
            ax.axvspan(middle["low"], middle["high"], color=fade(FIT, 0.08), lw=0)
            ax.set(ylim=(0, 1.35 * bins["count"].max()), yticks=[])
            ax.spines["left"].set_visible(False)
            wide = width >= WIDE
            title = f"{_minus(step)}: {word if wide else quantity}"
            ax.set_title(title, fontsize=None if wide else 6.5)
            if "published" in kinds:
                _mark(ax, kinds["published"], 0.45 * width)
    return figure


def draws_in_pairs(evidence: Evidence) -> pd.DataFrame:
    """Two numbers of each draw, `x` and `y`, and of what was published.

    Returns:
        By `panel` ("relu": the mean before and after relu; "kaiming": mean and standard deviation
        after kaiming and relu), rows with the number of a draw as `seed`, or a `step` and `source`.
    """
    draws = evidence.draws
    axes = {
        "relu": (("simplified kaiming", "mean"), ("relu", "mean")),
        "kaiming": (("kaiming", "mean"), ("kaiming", "std")),
    }
    parts = [
        pd.DataFrame({"panel": panel, "seed": draws.index, "x": draws[x], "y": draws[y]})
        for panel, (x, y) in axes.items()
    ]
    before, after = (_pairs(step)[-1] for step in ("simplified kaiming", "relu"))
    points = [("relu", "relu", "b", before[1], after[1])]
    points += [("kaiming", step, *pair) for step in SHIFT for pair in _pairs(step, SHIFT[step])]
    parts.append(pd.DataFrame(points, columns=["panel", "step", "source", "x", "y"]))
    return pd.concat(parts, ignore_index=True)


SHIFT = {"kaiming": 0.0, "torch's kaiming": 0.0, "relu - 0.5": 0.5}
"""What is added to a published mean to compare it with that of kaiming's draws."""
_POINTS: dict[str, dict[str, Any]] = {  # near ones have their labels on different sides
    "relu": {"label": "relu", "offset": (6, -4)},
    "kaiming": {"label": "kaiming", "offset": (5, 6)},
    "torch's kaiming": {"label": "torch's kaiming", "marker": "s", "offset": (5, -7)},
    "relu - 0.5": {"label": "relu − 0.5, plus 0.5", "mfc": "none", "offset": (-9, 6)},
}


@register_figure(page="lesson", title="The printed numbers, in pairs", data=draws_in_pairs)
def published_pairs(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """The same draws, two numbers at a time. First, the mean before and after relu: the notebook
    printed both for one draw, which went far to the right in both. Second, mean and standard
    deviation after kaiming and relu, which go up and down together; of relu - 0.5, the mean
    without the shift. Printed pairs that no single draw could give would lie outside the cloud.
    """
    labels = {
        "relu": ("mean before relu", "mean after relu"),
        "kaiming": ("mean after relu", "standard deviation after relu"),
    }
    figure, axes = _side_by_side(width, 3.4)
    for ax, (panel, (x, y)) in zip(axes, labels.items(), strict=True):
        here = frame[frame["panel"] == panel]
        cloud = here[here["seed"].notna()]
        shade = sequential(BELOW)
        ax.hexbin(cloud["x"], cloud["y"], gridsize=45, bins="log", mincnt=1, cmap=shade, lw=0)
        for step, points in here[here["seed"].isna()].groupby("step", sort=False):
            style = {"marker": "o", "mfc": ABOVE} | _POINTS[str(step)]
            offset, label = style.pop("offset"), f"{style.pop('label')}, as published"
            ax.plot(
                points["x"], points["y"], ls="", ms=4.5, mec=ABOVE, mew=1.2, label=label, **style
            )
            for source, *at in points[["source", "x", "y"]].itertuples(index=False):
                note(ax, source, tuple(at), offset)
        ax.set(xlabel=x, ylabel=y)
        ax.legend(loc="upper left", fontsize=7.5)
    return figure


def depth_by_seed(evidence: Evidence) -> pd.DataFrame:
    """Mean and std by activation and layer, of every `seed` and, where that is missing, of all."""
    rows = evidence.deep_means.melt(
        ["activation", "seed", "layer"], list(QUANTITIES), "quantity", "value"
    )
    by = ["activation", "quantity", "layer"]
    return pd.concat([rows, rows.groupby(by, sort=False)["value"].mean().reset_index()])


@register_figure(page="lesson", title="relu and relu − 0.5, twenty layers deep", data=depth_by_seed)
def relu_and_shifted(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Means and standard deviations of the activations, layer by layer, in twenty layers of 50
    units under kaiming: every seed (thin) and their mean. Subtracting a half centres the first
    layer only. Further down the mean settles below zero, near half the shift, and the standard
    deviation falls, to the numbers beside the lines: what is subtracted is lost to the next layer's
    pre-activations.
    """
    figure, axes = _side_by_side(width, 3.0)
    for ax, (quantity, word) in zip(axes, QUANTITIES.items(), strict=True):
        here = frame[frame["quantity"] == quantity]
        for (name, rows), color in zip(
            here.groupby("activation", sort=False), (BELOW, ABOVE), strict=True
        ):
            curve = _spaghetti(ax, rows, color)
            end = (curve["layer"].iloc[-1], curve["value"].iloc[-1])
            note(ax, f"{_minus(name)}  {decimal(end[1], 2)}", end, (5, 0), color=color)
        ax.set(xlabel="layer", title=word, xlim=(1, here["layer"].max()))
        ax.set_xticks([1, 5, 10, 15, 20])
    axes[0].axhline(0, color=fade(INK, 0.5), lw=0.6)
    return figure


def spread_by_leak(evidence: Evidence) -> pd.DataFrame:
    """By `leak` and `quantity` (std of a layer, rms behind the leaky relu) the `mean` of the draws,
    the middle 95% of them from `low` to `high`, and the `formula`.
    """
    rows = evidence.leaks.rename(columns={"activation": "rms"})
    rows = rows.melt(["leak", "seed", "formula"], ["std", "rms"], "quantity", "value")
    groups = rows.groupby(["quantity", "leak"], sort=False)
    ends = {name: groups["value"].quantile(p) for name, p in (("low", 0.025), ("high", 0.975))}
    frame = pd.DataFrame({"mean": groups["value"].mean(), **ends})
    return frame.assign(formula=groups["formula"].first()).reset_index()


@register_figure(page="lesson", title="A kaiming layer against its leak", data=spread_by_leak)
def leak(frame: pd.DataFrame, width: float = 5.0) -> Figure:
    """The standard deviation of a layer drawn for a leaky relu of slope a: the line is the
    formula, √(2 / (1 + a²)) times the size of the input, the bars are the middle 95% of our
    draws. Behind the leaky relu the root mean square stays near that of the input for every a:
    this is what the formula is for. At a = √5, which torch's layers use without a leaky relu
    to go with it, the value of the formula is written beside the line.
    """
    figure = StyledFigure((width, 3.2))
    ax = figure.subplots()
    formula = frame.drop_duplicates("leak").set_index("leak")["formula"]
    ax.plot(formula, color=INK, lw=0.8, zorder=1)
    for (_, rows), color, label in zip(
        frame.groupby("quantity", sort=False),
        (ABOVE, FIT),
        ("the layer's output: std", "behind the leaky relu: rms"),
        strict=True,
    ):
        reach = np.vstack([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])
        ax.errorbar(
            rows["leak"], rows["mean"], reach, fmt="o", ms=3.5, lw=1, color=color, label=label
        )
    root = float(np.sqrt(5))
    ax.axvline(root, color=fade(INK, 0.4), lw=0.6, ls=(0, (2, 2)))
    note(ax, f"a = √5: {decimal(formula[root], 2)}", (root, 1.5), (3, 0))
    ax.set(xlabel="slope a below zero", ylim=(0, 1.6))
    ax.legend(loc="lower left")
    return figure


def size_by_seed(evidence: Evidence) -> pd.DataFrame:
    """Root mean squares by network, `passes`, init and layer, of every `seed` and, where that is
    missing, their geometric mean.
    """
    table = evidence.defaults
    forward = (table["tensor"] == "activation") & (table["direction"] == "forward")
    backward = (table["tensor"] == "preactivation") & (table["direction"] == "backward")
    rows = table.assign(passes=np.where(forward, "activations", "gradients"), value=table["size"])
    by = ["network", "passes", "init", "layer"]
    rows = rows.loc[forward | backward, [*by, "seed", "value"]].astype(dict.fromkeys(by[:3], str))
    middle = np.exp(np.log(rows.set_index(by)["value"]).groupby(by, sort=False).mean())
    both: pd.DataFrame = pd.concat([rows, middle.reset_index()], ignore_index=True)
    return both


@register_figure(page="lesson", title="What a = √5 does", data=size_by_seed)
def sqrt_five(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Four layers as torch makes them, kaiming_uniform with a = √5, and the same layers under
    kaiming: root mean square of the activations, and of the gradients with respect to the
    pre-activations, every seed and the geometric mean. nn.Linear: 784 inputs, then 50 units in
    each layer; nn.Conv2d: the lesson's small net, 8, 16, 32 and 32 channels. Under the default a
    layer multiplies the signal by about 0.4, and the gradient by 0.4 times what kaiming makes of
    it. (A stride hands a gradient on to more positions, so that it shrinks in the small net under
    either.)
    """
    titles = {"mlp": "nn.Linear", "cnn": "nn.Conv2d"}
    inits = {"kaiming_normal": ("kaiming", BELOW), "torch_default": ("torch's default", ABOVE)}
    across = 2 if width >= WIDE else 1
    figure = StyledFigure((width, 4.6 if across == 2 else 7.5))
    grid = figure.subplots(4 // across, across, sharex=True, sharey="row" if across == 2 else False)
    grid = grid.reshape(2, 2)
    for axes, passes in zip(grid, ("activations", "gradients"), strict=True):
        for ax, (network, title) in zip(axes, titles.items(), strict=True):
            here = frame[(frame["network"] == network) & (frame["passes"] == passes)]
            for init, (label, color) in inits.items():
                curve = _spaghetti(ax, here[here["init"] == init], color)
                first = passes == "gradients"
                at = tuple(curve[["layer", "value"]].iloc[0 if first else -1])
                text = f"{label}  {at[1]:.2g}"
                note(ax, text, at, (-2, -10) if first else (5, 0), color=color)
            ax.set(title=f"{title}: {passes}", yscale="log", ymargin=0.15)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.set_xticks(sorted(here["layer"].unique()))
    for ax in grid.ravel()[-across:]:
        ax.set_xlabel("layer")
    return figure


def _side_by_side(width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Two panels, one below the other where they would be too narrow."""
    if width >= WIDE:
        figure = StyledFigure((width, height))
        return figure, figure.subplots(1, 2)
    figure = StyledFigure((width, 2 * height))
    return figure, figure.subplots(2, 1)


def _spaghetti(ax: Axes, rows: pd.DataFrame, color: str) -> pd.DataFrame:
    """A thin line for each seed, and a strong one for their mean, which is returned."""
    draw_seeds(ax, rows[rows["seed"].notna()], "value", color)
    mean = rows[rows["seed"].isna()]
    ax.plot(mean["layer"], mean["value"], color=color, lw=1.8)
    return mean


def _minus(step: object) -> str:
    return str(step).replace("-", "−")


def _marks(step: str, quantity: str) -> list[tuple[str, float]]:
    """What was published for a step; torch's kaiming beside kaiming."""
    names = {step: "", "torch's kaiming": " (torch)"} if step == "kaiming" else {step: ""}
    return [
        (published.source + names[published.step], published.value)
        for published in PUBLISHED
        if published.step in names and published.quantity == quantity
    ]


def _pairs(step: str, shift: float = 0.0) -> list[tuple[str, float, float]]:
    """The printed (mean, std) of a step, with what was subtracted from the mean put back."""
    rows = [published for published in PUBLISHED if published.step == step]
    return [
        (mean.source, mean.value + shift, std.value)
        for mean, std in zip(rows[::2], rows[1::2], strict=True)
    ]


def _mark(ax: Axes, marks: pd.DataFrame, width: float) -> None:
    """A line for each, its label at the top; labels that would overlap are above each other.

    The panel is `width` inches wide.
    """
    low, high = ax.get_xlim()
    inch = (high - low) / width
    top, level, free = ax.get_ylim()[1], 0, -np.inf
    for label, value in marks.sort_values("value")[["source", "value"]].itertuples(index=False):
        level = level + 1 if value < free else 0
        free = max(free, value + (inches(label, 7.5) + 0.08) * inch)
        at = top * (0.94 - 0.13 * level)
        ax.plot([value, value], [0, at], color=ABOVE, lw=1)
        note(ax, label, (value, at), (2.5, 0), color=ABOVE, va="top")
