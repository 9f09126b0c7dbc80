"""Figures of a training study: what its runs came to, and how they got there."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from initstats.diagnosis import seed_interval
from initstats.plots.catalog import register_figure
from initstats.plots.curves import mark
from initstats.plots.grid import panels
from initstats.plots.results import order
from initstats.plots.ticks import clear_ticks, plain_ticks, ticks_at
from initstats.plots.trained import NET, VARIANT, Trained, styles_of, titles
from initstats.registry import Need

FAILED = 6
"""Greatest number of failed runs that a panel of curves shows one by one, for an activation."""

TUNED = Need[Any](
    lambda trained: trained.tuning is not None and len(trained.tuning) > 0,
    "all variants trained at the learning rate that was given",
)
SOME = Need[Any](lambda trained: len(trained.table) > 0, "no run is finished yet")


def over_runs(trained: Trained, quantity: str) -> pd.DataFrame:
    """A quantity along the training: its mean over the runs that trained, and the runs that failed.

    Args:
        quantity: `train_loss`, whose mean is geometric, or `valid_accuracy`, in percent.

    Returns:
        The columns of a variant, `quantity`, `step`, `seed`, `value`, `low`, `high`. Means have no
        seed; `low` and `high` are their 95% Student-t interval.
    """
    few, loss = trained.lines, quantity == "train_loss"
    rows = few.table
    if loss and few.curves is not None and len(few.curves):  # all runs may diverge before a point
        rows = few.curves
    outcome = few.last.set_index([*VARIANT, "seed"])["outcome"].astype(str)
    rows = rows.astype({"init": str, "activation": str, "network": str})
    runs = pd.MultiIndex.from_frame(rows[[*VARIANT, "seed"]])
    healthy = (outcome.reindex(runs) == "trained").to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        height = np.log(rows[quantity]) if loss else 100 * rows[quantity]
    rows = rows[[*VARIANT, "seed", "step"]].assign(value=height)
    means = seed_interval(rows[healthy], "value", [*VARIANT, "step"])
    means = means.rename(columns={"mean": "value"}).reset_index()
    lost = rows[~healthy]
    rank = lost.groupby(VARIANT)["seed"].rank("dense")
    frame = pd.concat([means, lost[rank <= FAILED]], ignore_index=True)
    if loss:
        frame[["value", "low", "high"]] = np.exp(frame[["value", "low", "high"]])
    return trained.named(frame.assign(quantity=quantity))


@register_figure(
    page="training",
    title="Training loss",
    data=partial(over_runs, quantity="train_loss"),
    needs=[SOME],
)
def training_loss(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Loss on the training images against the updates done, a panel for each init: geometric mean
    over the runs that trained, with its 95% Student-t interval over seeds. A thin line is a run
    that failed; it ends in × where its loss was no longer finite. Variants are paired by seed, so
    that a difference is surer than two overlapping bands suggest.
    """
    figure, grid = _curves(frame, width, "training loss")
    known = _finite(frame["value"])
    for axes in grid.values():
        axes.set_yscale("log")
        axes.set_ylim(known.min(initial=1) / 1.15, known.max(initial=1) * 1.15)
        plain_ticks(axes.yaxis)
    return figure


@register_figure(
    page="training",
    title="Validation accuracy",
    data=partial(over_runs, quantity="valid_accuracy"),
    needs=[SOME],
)
def validation_accuracy(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Accuracy on the validation images after each epoch, in percent: mean over the runs that
    trained, with its 95% Student-t interval over seeds. A thin line is a run that failed, ▾ one
    that is below the panel.
    """
    figure, grid = _curves(frame, width, "validation accuracy, %")
    means = frame[frame["seed"].isna()]
    low, high = _range(means if len(means) else frame)
    styles = styles_of(frame)
    below = frame[frame["seed"].notna() & (frame["value"] < low)]
    for axes in grid.values():
        axes.set_ylim(low, high)
    for (*panel, name), rows in below.groupby([*NET, "init", "activation"], observed=True):
        mark(grid[tuple(panel)], rows["step"].max(), low, "v", styles[str(name)].color)
    return figure


def _range(rows: pd.DataFrame) -> tuple[float, float]:
    """The limits of a panel of percentages: values, and intervals unless they dwarf these."""
    known = _finite(rows["value"])
    low, high = known.min(initial=100), known.max(initial=0)
    if not len(known):
        return 0, 100
    room = max(0.06 * (high - low), 0.1)
    ends = _finite(pd.concat([rows["low"], rows["high"]])).clip(low - 8 * room, high + 8 * room)
    return ends.min(initial=low) - room, ends.max(initial=high) + room


def _finite(values: pd.Series[Any]) -> NDArray[np.float64]:
    known: NDArray[np.float64] = values.to_numpy(dtype=float)
    return known[np.isfinite(known)]


def _curves(
    frame: pd.DataFrame, width: float | None, label: str
) -> tuple[Figure, dict[tuple[Any, ...], Axes]]:
    """A panel for each network and init, in which activations have lines.

    Returns:
        The figure, and the panels by the network's columns and the init.
    """
    styles = styles_of(frame)
    figure, grid = by_init(frame, width, labels=("updates", label), key=styles)
    end = int(frame["step"].max())
    for axes in grid.values():
        clear_ticks(axes.xaxis)
    for (*panel, name), rows in frame.groupby([*NET, "init", "activation"], observed=True):
        axes, style = grid[tuple(panel)], styles[str(name)]
        means = rows[rows["seed"].isna()]
        dots = "" if len(means) > 12 else "."
        at, value, low, high = means[["step", "value", "low", "high"]].to_numpy(dtype=float).T
        axes.plot(at, value, marker=dots, **style._asdict())
        axes.fill_between(at, low, high, color=to_rgba(style.color, 0.18), lw=0, zorder=1)
        for _, run in rows[rows["seed"].notna()].groupby("seed"):
            at, value = run[["step", "value"]].to_numpy(dtype=float).T
            known = np.isfinite(value)
            at, value = at[known], value[known]
            axes.plot(at, value, color=to_rgba(style.color, 0.6), lw=0.7)
            if len(at) and at[-1] < end:
                mark(axes, at[-1], value[-1], "x", style.color)
    return figure, grid


def by_init(
    frame: pd.DataFrame, width: float | None, **layout: Any
) -> tuple[Figure, dict[tuple[Any, ...], Axes]]:
    """A figure with a panel for each network and init; `layout` as of `panels`."""
    nets, inits = titles(frame), order(frame["init"])
    figure, grid = panels(inits, width, blocks=list(nets.values()), most=3, **layout)
    return figure, {
        (*net, init): axes
        for net, part in zip(nets, grid, strict=True)
        for init, axes in zip(inits, part, strict=True)
    }


def learning(trained: Trained) -> pd.DataFrame:
    """The tuning loss by variant and rate.

    Returns:
        The columns of a variant, `lr`, `tuning_loss` (mean over the seeds of a rate at which all
        of them trained, else NaN), `failed` (how many did not), `chosen`.
    """
    few = trained.lines
    assert few.tuning is not None
    tuning = few.tuning.assign(failed=few.tuning["outcome"].astype(str) != "trained")
    groups = tuning.groupby([*VARIANT, "lr"], observed=True, sort=True)
    frame = groups.agg(tuning_loss=("tuning_loss", "mean"), failed=("failed", "sum")).reset_index()
    frame["tuning_loss"] = frame["tuning_loss"].where(frame["failed"] == 0)
    taken = few.table.groupby(VARIANT, observed=True)["lr"].first().rename("taken")
    frame = frame.merge(taken.reset_index(), "left", on=VARIANT)
    return trained.named(frame.assign(chosen=np.isclose(frame["lr"], frame.pop("taken"))))


@register_figure(page="training", title="Learning rates", data=learning, needs=[SOME, TUNED])
def learning_rates(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Loss after the tuning runs against their learning rate, a panel for each init: mean over the
    tuning seeds. The ring is the rate that was chosen: the smallest whose loss is within 2% of the
    best. × is a rate at which a run failed, which rules it out. The tuning has training images and
    seeds of its own.
    """
    styles = styles_of(frame)
    labels = ("learning rate", "tuning loss")
    figure, grid = by_init(frame, width, labels=labels, key=styles)
    known, rates = _finite(frame["tuning_loss"]), np.unique(frame["lr"])
    top = known.max(initial=known.min(initial=1)) * 1.15
    apart = (1.44 * rates[-1] / rates[0]) ** 0.012
    for axes in grid.values():
        axes.set(xscale="log", yscale="log", xlim=(rates.min() / 1.2, rates.max() * 1.2))
        axes.set_ylim(known.min(initial=top) / 1.08, top)
        plain_ticks(axes.yaxis)
        ticks_at(axes.xaxis, rates.tolist())
    for (*panel, name), rows in frame.groupby([*NET, "init", "activation"], observed=True):
        axes, style = grid[tuple(panel)], styles[str(name)]
        at, loss = rows[["lr", "tuning_loss"]].to_numpy(dtype=float).T
        axes.plot(at, loss, marker="o", ms=2.8, **style._asdict())
        # rings around each other and crosses side by side, where several are at one place
        place = list(styles).index(str(name))
        ring: Any = {"mfc": "none", "ms": 6.5 + 2.4 * (place % 4), "mew": 1, "ls": "none"}
        chosen = rows["chosen"].to_numpy(dtype=bool)
        axes.plot(at[chosen], loss[chosen], marker="o", mec=style.color, **ring)
        aside = apart ** (place - (len(styles) - 1) / 2)
        for rate in rows.loc[rows["failed"] > 0, "lr"]:
            mark(axes, rate * aside, top, "x", style.color)
    return figure
