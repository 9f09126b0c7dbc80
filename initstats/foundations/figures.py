"""The lesson's figures, each from the tables of `Evidence`; nothing is computed here, nor torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from initstats.foundations.published import PUBLISHED
from initstats.plots.catalog import register_figure
from initstats.plots.style import ABOVE, BELOW, FIT, INK, PAGE, decimal, fade, sequential

if TYPE_CHECKING:
    from initstats.foundations.evidence import Evidence

DRAWN = ("simplified kaiming", "relu", "kaiming", "relu - 0.5")
NEAR = 0.06
"""Marks closer than this share of an axis are written above each other."""


@register_figure(page="lesson", title="Where the published draws lie", data=lambda given: given)
def published_draws(evidence: Evidence) -> Figure:
    """Mean and standard deviation of the first layer's output over all our draws, in the four
    steps of the lesson; shaded, the middle 99.9% of them. Marked are the published draws: (a) of
    the notes, (b) of the notebook, and torch for the notebook's draw by torch's own function. The
    same draws serve every step: from relu on, the histograms of a column differ by a factor or a
    shift only.
    """
    figure = Figure(figsize=(PAGE, 6.0), layout="constrained")
    lesson = evidence.lesson
    for row, axes in zip(DRAWN, figure.subplots(len(DRAWN), 2), strict=True):
        for ax, quantity in zip(axes, ("mean", "std"), strict=True):
            _histogram(ax, evidence.draws[row, quantity])
            interval = lesson[(lesson["step"] == row) & (lesson["quantity"] == quantity)].iloc[0]
            ax.axvspan(interval["low"], interval["high"], color=fade(FIT, 0.08), lw=0)
            ax.set_title(f"{_minus(row)}: {_word(quantity)}")
            _mark(ax, _marks(row, quantity))
    return figure


@register_figure(
    page="lesson", title="The printed numbers, in pairs", data=lambda given: given.draws
)
def published_pairs(draws: pd.DataFrame) -> Figure:
    """The same draws, two numbers at a time. Left, the mean before and after relu: the notebook
    printed both for one draw, which went far to the right in both. Right, mean and standard
    deviation after kaiming and relu, which go up and down together; of relu - 0.5, the mean
    without the shift. Printed pairs that no single draw could give would lie outside the cloud.
    """
    figure = Figure(figsize=(PAGE, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _cloud(left, draws["simplified kaiming", "mean"], draws["relu", "mean"])
    left.set(xlabel="mean before relu", ylabel="mean after relu")
    before, after = (_published_pairs(step)[-1] for step in ("simplified kaiming", "relu"))
    _points(left, "relu", [("b", before[1], after[1])])
    _cloud(right, draws["kaiming", "mean"], draws["kaiming", "std"])
    right.set(xlabel="mean after relu", ylabel="standard deviation after relu")
    # three lie close together: each series has its labels on a side of its own
    _points(right, "kaiming", _published_pairs("kaiming"), at=(5, 6))
    _points(right, "torch's kaiming", _published_pairs("torch's kaiming"), "s", at=(5, -7))
    shifted = _published_pairs("relu - 0.5", 0.5)
    _points(right, "relu − 0.5, plus 0.5", shifted, face="none", at=(-9, 6))
    for ax in (left, right):
        ax.legend(loc="upper left", fontsize=7.5)
    return figure


@register_figure(
    page="lesson",
    title="relu and relu - 0.5, twenty layers deep",
    data=lambda given: given.deep_means,
)
def relu_and_shifted(deep_means: pd.DataFrame) -> Figure:
    """Means and standard deviations of the activations, layer by layer, in twenty layers of 50
    units under kaiming: every seed (thin) and their mean. Subtracting a half centres the first
    layer only. Further down the mean settles below zero, near half the shift, and the standard
    deviation falls, to the numbers beside the lines: what is subtracted is lost to the next layer's
    pre-activations.
    """
    figure = Figure(figsize=(PAGE, 3.0), layout="constrained")
    for ax, quantity in zip(figure.subplots(1, 2), ("mean", "std"), strict=True):
        for (name, rows), color in zip(
            deep_means.groupby("activation", sort=False), (BELOW, ABOVE), strict=True
        ):
            wide = rows.pivot(index="layer", columns="seed", values=quantity)
            ax.plot(wide.index, wide, color=fade(color, 0.15), lw=0.6)
            middle = wide.mean(axis=1)
            ax.plot(middle, color=color, lw=1.8)
            _label(ax, middle, -1, f"{_minus(name)}  {decimal(middle.iloc[-1], 2)}", color)
        ax.set(xlabel="layer", title=_word(quantity), xlim=(1, wide.index.max()))
        ax.set_xticks([1, 5, 10, 15, 20])
    figure.axes[0].axhline(0, color=fade(INK, 0.5), lw=0.6)
    return figure


@register_figure(
    page="lesson", title="A kaiming layer against its leak", data=lambda given: given.leaks
)
def leak(leaks: pd.DataFrame) -> Figure:
    """The standard deviation of a layer drawn for a leaky relu of slope a: the line is the
    formula, √(2 / (1 + a²)) times the size of the input, the bars are the middle 95% of our
    draws. Behind the leaky relu the root mean square stays near that of the input for every a:
    this is what the formula is for. At a = √5, which torch's layers use without a leaky relu
    to go with it, what is left is written beside the line.
    """
    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    ax = figure.subplots()
    by_leak = leaks.groupby("leak")
    ax.plot(by_leak["formula"].first(), color=INK, lw=0.8, zorder=1)
    for column, color, label in (
        ("std", ABOVE, "the layer's output: std"),
        ("activation", FIT, "behind the leaky relu: rms"),
    ):
        middle, (low, high) = (
            by_leak[column].mean(),
            (by_leak[column].quantile(p) for p in (0.025, 0.975)),
        )
        reach = np.vstack([middle - low, high - middle])
        ax.errorbar(middle.index, middle, reach, fmt="o", ms=3.5, lw=1, color=color, label=label)
    root = float(np.sqrt(5))
    ax.axvline(root, color=fade(INK, 0.4), lw=0.6, ls=(0, (2, 2)))
    left = f"a = √5: {decimal(by_leak['formula'].first()[root], 2)}"
    ax.annotate(left, (root, 1.45), (3, 0), textcoords="offset points", fontsize=7.5)
    ax.set(xlabel="slope a below zero", ylim=(0, 1.6))
    ax.legend(loc="lower left")
    return figure


@register_figure(page="lesson", title="What a = √5 does", data=lambda given: given.defaults)
def sqrt_five(defaults: pd.DataFrame) -> Figure:
    """Four layers as torch makes them, kaiming_uniform with a = √5, and the same layers under
    kaiming: root mean square of the activations, and of the gradients with respect to the
    pre-activations, every seed and the geometric mean. nn.Linear: 784 inputs, then 50 units in
    each layer; nn.Conv2d: the lesson's small net, 8, 16, 32 and 32 channels. Under the default a
    layer multiplies the signal by about 0.4, and the gradient by 0.4 times what kaiming makes of
    it. (A stride hands a gradient on to more positions, so that it shrinks in the small net under
    either.)
    """
    figure = Figure(figsize=(PAGE, 4.6), layout="constrained")
    titles = {"mlp": "nn.Linear", "cnn": "nn.Conv2d"}
    passes = {("activation", "forward"): "activations", ("preactivation", "backward"): "gradients"}
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for axes, ((tensor, direction), what) in zip(grid, passes.items(), strict=True):
        shown = defaults[(defaults["tensor"] == tensor) & (defaults["direction"] == direction)]
        for ax, (network, title) in zip(axes, titles.items(), strict=True):
            rows = shown[shown["network"] == network]
            for init, color, label in (
                ("kaiming_normal", BELOW, "kaiming"),
                ("torch_default", ABOVE, "torch's default"),
            ):
                wide = rows[rows["init"] == init].pivot(
                    index="layer", columns="seed", values="size"
                )
                middle = np.exp(np.log(wide).mean(axis=1))
                ax.plot(wide.index, wide, color=fade(color, 0.15), lw=0.6)
                ax.plot(middle, color=color, lw=1.8)
                at = 0 if direction == "backward" else -1
                _label(ax, middle, at, f"{label}  {middle.iloc[at]:.2g}", color)
            ax.set(title=f"{title}: {what}", yscale="log", ymargin=0.15)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.set_xticks(list(wide.index))
    for ax in grid[1]:
        ax.set_xlabel("layer")
    return figure


def _minus(step: object) -> str:
    return str(step).replace("-", "−")


def _word(quantity: str) -> str:
    return {"mean": "mean", "std": "standard deviation"}[quantity]


def _histogram(ax: Axes, values: pd.Series) -> None:
    counts, edges = np.histogram(values, bins=60)
    ax.stairs(counts, edges, fill=True, color=fade(BELOW, 0.45), lw=0)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_ylim(0, 1.35 * counts.max())


def _marks(step: str, quantity: str) -> list[tuple[str, float]]:
    """What was published for a step; torch's kaiming beside kaiming."""
    names = {step: "", "torch's kaiming": " (torch)"} if step == "kaiming" else {step: ""}
    return [
        (published.source + names[published.step], published.value)
        for published in PUBLISHED
        if published.step in names and published.quantity == quantity
    ]


def _mark(ax: Axes, marks: list[tuple[str, float]]) -> None:
    """A line for each, its label at the top; the labels of near ones above each other."""
    low, high = ax.get_xlim()
    top, level, last = ax.get_ylim()[1], 0, -np.inf
    for label, value in sorted(marks, key=lambda mark: mark[1]):
        level = level + 1 if value - last < NEAR * (high - low) else 0
        last = value
        at = top * (0.94 - 0.13 * level)
        ax.plot([value, value], [0, at], color=ABOVE, lw=1)
        ax.annotate(
            label,
            (value, at),
            (2.5, 0),
            textcoords="offset points",
            color=ABOVE,
            fontsize=7.5,
            va="top",
        )


def _cloud(ax: Axes, x: pd.Series, y: pd.Series) -> None:
    ax.hexbin(x, y, gridsize=45, bins="log", mincnt=1, cmap=sequential(BELOW), lw=0)


def _points(
    ax: Axes,
    step: str,
    points: list[tuple[str, float, float]],
    marker: str = "o",
    face: str = ABOVE,
    at: tuple[float, float] = (6, -4),
) -> None:
    x, y = zip(*((x, y) for _, x, y in points), strict=True)
    label = f"{step}, as published"
    ax.plot(x, y, marker, ls="", ms=4.5, mfc=face, mec=ABOVE, mew=1.2, label=label)
    for source, mean, other in points:
        ax.annotate(
            source,
            (mean, other),
            at,
            textcoords="offset points",
            color=INK,
            fontsize=7.5,
            va="center",
        )


def _published_pairs(step: str, shift: float = 0.0) -> list[tuple[str, float, float]]:
    """The printed (mean, std) of a step, with what was subtracted from the mean put back."""
    rows = [published for published in PUBLISHED if published.step == step]
    return [
        (mean.source, mean.value + shift, std.value)
        for mean, std in zip(rows[::2], rows[1::2], strict=True)
    ]


def _label(ax: Axes, curve: pd.Series, at: int, text: str, color: str) -> None:
    """A curve's name beside one of its points."""
    ax.annotate(
        text,
        (curve.index[at], curve.iloc[at]),
        (5, 0) if at else (-2, -10),
        textcoords="offset points",
        color=color,
        fontsize=7.5,
        va="center",
        annotation_clip=False,
    )
