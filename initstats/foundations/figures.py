"""The lesson's figures: for each, what it shows as a table, and its drawing. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from initstats.foundations.published import PUBLISHED
from initstats.plots import register_figure
from initstats.plots.curves import draw_seeds, note
from initstats.plots.grid import NARROW, panels
from initstats.plots.story import draw_story
from initstats.plots.style import ABOVE, BELOW, FIT, INK, PAGE, decimal, inches, sequential

if TYPE_CHECKING:
    from initstats.foundations.evidence import Evidence

DRAWN = ("simplified kaiming", "relu", "kaiming", "relu - 0.5")
QUANTITIES = {"mean": "mean", "std": "standard deviation"}
PRINTED = pd.DataFrame(PUBLISHED).assign(value=[row.value for row in PUBLISHED])
LEAST = 2.5
"""Least width of a panel with words beside its lines, inches."""


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
            parts.append(bins.assign(step=step, quantity=quantity, kind="draws"))
    columns = ["step", "quantity", "low", "high"]
    middles = evidence.lesson.drop_duplicates(["step", "quantity"])[columns].assign(kind="middle")
    of_torch = PRINTED["step"] == "torch's kaiming"  # shown beside kaiming
    marks = PRINTED.assign(
        step=PRINTED["step"].mask(of_torch, "kaiming"),
        source=PRINTED["source"].mask(of_torch, PRINTED["source"] + " (torch)"),
        kind="published",
    )
    parts += [rows[rows["step"].isin(DRAWN)] for rows in (middles, marks)]
    return pd.concat(parts, ignore_index=True)


@register_figure(page="lesson", title="Where the published draws lie", data=draws_in_bins)
def published_draws(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Mean and standard deviation of the first layer's output over all our draws, in the four
    steps of the lesson; shaded, the middle 99.9% of them. Marked are the published draws: (a) of
    the notes, (b) of the notebook, and torch for the notebook's draw by torch's own function. The
    same draws serve every step: from relu on, the histograms of a column differ by a factor or a
    shift only.
    """
    places = [(step, quantity) for step in DRAWN for quantity in QUANTITIES]
    words = QUANTITIES if width > NARROW else {quantity: quantity for quantity in QUANTITIES}
    titles = [f"{_minus(step)}: {words[quantity]}" for step, quantity in places]
    figure, (grid,) = panels(titles, width, most=2, height=0.9, share="")
    for axes, (step, quantity) in zip(grid, places, strict=True):
        here = frame[(frame["step"] == step) & (frame["quantity"] == quantity)]
        kinds = dict(list(here.groupby("kind")))
        bins, middle = kinds["draws"], kinds["middle"].iloc[0]
        edges = [*bins["low"], bins["high"].iloc[-1]]
        axes.stairs(bins["count"], edges, fill=True, color=to_rgba(BELOW, 0.45), lw=0)
        axes.axvspan(middle["low"], middle["high"], color=to_rgba(FIT, 0.08), lw=0)
        axes.set(ylim=(0, 1.35 * bins["count"].max()), yticks=[])
        axes.spines["left"].set_visible(False)
        if "published" in kinds:
            _mark(axes, kinds["published"], 0.45 * width)
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
    means, stds = (
        PRINTED[PRINTED["quantity"] == quantity].reset_index(drop=True) for quantity in QUANTITIES
    )
    last = means.drop_duplicates("step", keep="last").set_index("step")["value"]
    before, after = last["simplified kaiming"], last["relu"]
    one = {"panel": "relu", "step": "relu", "source": "b", "x": before, "y": after}
    x = means["value"] + means["step"].map(SHIFT)  # NaN for steps before kaiming
    pairs = means.assign(panel="kaiming", x=x, y=stds["value"]).dropna(subset="x")
    every = pd.concat([*parts, pd.DataFrame([one]), pairs], ignore_index=True)
    return every[["panel", "seed", "x", "y", "step", "source"]]


SHIFT = {"kaiming": 0.0, "torch's kaiming": 0.0, "relu - 0.5": 0.5}
"""What is added to a published mean to compare it with that of kaiming's draws."""
_POINT: dict[str, Any] = {
    "marker": "o",
    "mfc": ABOVE,
    "ls": "",
    "ms": 4.5,
    "mec": ABOVE,
    "mew": 1.2,
}
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
    figure, (grid,) = panels(["", ""], width, least=LEAST, height=2.7, share="")
    for axes, (panel, (x, y)) in zip(grid, labels.items(), strict=True):
        here = frame[frame["panel"] == panel]
        cloud = here[here["seed"].notna()]
        shade = sequential(BELOW)
        axes.hexbin(cloud["x"], cloud["y"], gridsize=45, bins="log", mincnt=1, cmap=shade, lw=0)
        for step, points in here[here["seed"].isna()].groupby("step", sort=False):
            style = _POINT | _POINTS[str(step)]
            offset, label = style.pop("offset"), f"{style.pop('label')}, as published"
            axes.plot(points["x"], points["y"], label=label, **style)
            for source, *at in points[["source", "x", "y"]].itertuples(index=False):
                note(axes, source, tuple(at), offset)
        axes.set(xlabel=x, ylabel=y)
        axes.legend(loc="upper left", fontsize=7.5)
    return figure


def depth_by_seed(evidence: Evidence) -> pd.DataFrame:
    """Mean and std by activation and layer, of every seed; where `seed` is missing, over all."""
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
    frame = frame.assign(activation=frame["activation"].map(_minus))
    titles, labels = list(QUANTITIES.values()), ("layer", "")
    figure, (grid,) = panels(titles, width, labels=labels, least=LEAST, height=2.3, share="x")
    for axes, quantity in zip(grid, QUANTITIES, strict=True):
        draw_story(axes, frame[frame["quantity"] == quantity], quantity)
    return figure


def spread_by_leak(evidence: Evidence) -> pd.DataFrame:
    """Size of a kaiming layer ("std") and of the leaky relu behind it ("rms"), by slope.

    Returns:
        Columns `quantity`, `leak`; `mean` of the draws; `low` and `high`, the bounds of the middle
        95% of them; `formula`.
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
    figure, ((axes,),) = panels([""], width, height=2.6, labels=("slope a below zero", ""))
    formula = frame.drop_duplicates("leak").set_index("leak")["formula"]
    axes.plot(formula, color=INK, lw=0.8, zorder=1)
    labels = {"std": "the layer's output: std", "rms": "behind the leaky relu: rms"}
    for (quantity, label), color in zip(labels.items(), (ABOVE, FIT), strict=True):
        at, mean, low, high = (
            frame.loc[frame["quantity"] == quantity, ["leak", "mean", "low", "high"]].to_numpy().T
        )
        reach = [mean - low, high - mean]
        axes.errorbar(at, mean, reach, fmt="o", ms=3.5, lw=1, color=color, label=label)
    root = float(np.sqrt(5))
    axes.axvline(root, color=to_rgba(INK, 0.4), lw=0.6, ls=(0, (2, 2)))
    note(axes, f"a = √5: {decimal(formula[root], 2)}", (root, 1.5), (3, 0))
    axes.set_ylim(0, 1.6)
    axes.legend(loc="lower left")
    return figure


def size_by_seed(evidence: Evidence) -> pd.DataFrame:
    """Root mean squares by network, `passes`, init and layer.

    Returns:
        Rows of every `seed`, and rows of their geometric mean, where `seed` is missing.
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
    inits = {"kaiming_normal": ("kaiming", BELOW), "torch_default": ("torch's default", ABOVE)}
    modules = {"mlp": "nn.Linear", "cnn": "nn.Conv2d"}
    places = [(passes, name) for passes in ("activations", "gradients") for name in modules]
    titles = [f"{modules[name]}: {passes}" for passes, name in places]
    figure, (grid,) = panels(titles, width, labels=("layer", ""), most=2, least=LEAST, height=1.7)
    for axes, (passes, network) in zip(grid, places, strict=True):
        here = frame[(frame["network"] == network) & (frame["passes"] == passes)]
        for init, (label, color) in inits.items():
            mean = draw_seeds(axes, here[here["init"] == init], color)
            # a gradient ends in the first layer
            end, offset = (0, (-2, -10)) if passes == "gradients" else (-1, (5, 0))
            layer, value = mean[["layer", "value"]].to_numpy()[end]
            note(axes, f"{label}  {value:.2g}", (layer, value), offset, color=color)
        axes.set(yscale="log", ymargin=0.15, xticks=sorted(here["layer"].unique()))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


def _minus(step: object) -> str:
    return str(step).replace("-", "−")


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
