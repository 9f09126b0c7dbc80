"""Paired differences: each variant of a training study against its baseline, seed by seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from initstats.plots.catalog import register_figure
from initstats.plots.curves import mark, note
from initstats.plots.grid import fitted, panels, rows_of
from initstats.plots.results import order
from initstats.plots.style import INK, PAGE, inches, wrapped
from initstats.plots.ticks import clear_ticks
from initstats.plots.trained import NET, VARIANT, Trained, styles_of, titles
from initstats.registry import Need

Array = NDArray[np.float64]

COMPARED = Need[Any](
    lambda trained: trained.comparisons is not None, "there is one variant, and none to compare"
)
ROW = 0.21
"""Height of a row, inches."""


def differences(trained: Trained) -> pd.DataFrame:
    """Validation accuracy minus the baseline's of the same seed, in points (percent).

    Returns:
        The columns of a variant, `panel` and `row` (what is compared, and its name), `seed`,
        `value`, `low`, `high`, `margin`, `failed`. Rows without a seed are what
        `summarize_training` says of all seeds. A difference is infinite where one of the two
        failed, and missing where both did; `failed` counts those.
    """
    few = trained.few
    kind, baseline = few.versus
    assert trained.comparisons is not None
    runs = few.last.assign(value=(100 * few.last["valid_accuracy"]).where(few.healthy, -np.inf))
    names = ["network", "init", "activation"]
    runs = runs[[*VARIANT, "seed", "value"]].astype(dict.fromkeys(names, str))
    shared = [name for name in VARIANT if name != kind]
    partners = runs[runs[kind] == baseline].drop(columns=kind)
    pairs = runs[runs[kind] != baseline].merge(partners, on=[*shared, "seed"], suffixes=("", "_2"))
    with np.errstate(invalid="ignore"):
        pairs["value"] -= pairs.pop("value_2")
    found = trained.comparisons.astype(dict.fromkeys(names, str))
    both = (found["failed"] == found["seeds"]) & (found["baseline_failed"] == found["seeds"])
    found.loc[both, "difference"] = np.nan
    found[["value", "low", "high"]] = 100 * found[["difference", "low", "high"]]
    found["margin"] *= 100
    found = found[[*VARIANT, "value", "low", "high", "margin"]].merge(
        pairs[VARIANT].drop_duplicates(), on=VARIANT
    )
    frame = pd.concat([pairs, found], ignore_index=True)
    other = few.panel_kind
    frame = trained.named(frame)
    return frame.assign(panel=frame[other], row=frame[kind], baseline=baseline)


@register_figure(
    page="training", title="Differences, seed by seed", data=differences, needs=[COMPARED]
)
def paired_differences(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Validation accuracy minus that of the baseline with the same seed, in points (percent): a
    faint dot for each seed, and above it the estimate with its 95% interval: the mean, or the
    Hodges-Lehmann estimate where runs failed. Right of the line is better; the grey band is the
    margin within which variants are called equal. ◂ counts seeds in which only this one failed, ▸
    those in which only the baseline did.
    """
    nets, names = titles(frame), order(frame["panel"])
    rows = order(frame["row"])
    labels = (f"points of validation accuracy over {frame['baseline'].iloc[0]}", "")
    label = max(inches(wrapped(name, 30), 7) for name in rows)
    columns = rows_of(len(names), width, 3, label + 1.6)[0]
    room = width / columns - label - 0.4
    deepest = int(frame.groupby([*NET, "panel"], observed=True)["row"].nunique().max())
    figure, grid = panels(
        [fitted(name, room) for name in names],
        width,
        blocks=list(nets.values()),
        labels=labels,
        most=3,
        least=label + 1.6,
        height=ROW * deepest + 0.12,
        share="x",
    )
    limits = _limits(frame)
    styles = styles_of(frame)
    for net, part in zip(nets, grid, strict=True):
        for name, axes in zip(names, part, strict=True):
            here = net.rows(frame)
            _panel(axes, here[here["panel"] == name], limits, styles)
    return figure


def _panel(axes: Axes, frame: pd.DataFrame, limits: tuple[float, float], styles: Any) -> None:
    """The rows of a panel, the largest difference on top."""
    means = frame[frame["seed"].isna()].sort_values("value", ascending=False, kind="stable")
    if len(means):
        margin = float(means["margin"].iloc[0])
        axes.axvspan(-margin, margin, color=to_rgba(INK, 0.07), lw=0, zorder=0)
    axes.axvline(0, color=to_rgba(INK, 0.5), lw=0.7, zorder=0)
    clear_ticks(axes.xaxis)
    axes.set(xlim=limits, ylim=(len(means) - 0.4, -0.6))
    for place, row in enumerate(means.to_dict("records")):
        color = styles[str(row["activation"])].color
        value, *ends = (float(row[name]) for name in ("value", "low", "high"))
        dots = frame[(frame["row"] == row["row"]) & frame["seed"].notna()]["value"].to_numpy()
        inside = dots[(dots >= limits[0]) & (dots <= limits[1])]
        height = np.full(len(inside), place + 0.14)
        axes.plot(inside, height, "o", ms=2.8, mew=0, color=to_rgba(color, 0.5))
        if np.isfinite(ends).any():
            axes.plot(np.clip(ends, *limits), [place - 0.14] * 2, color=color, lw=1.8)
        if limits[0] <= value <= limits[1]:
            axes.plot(value, place - 0.14, "D", ms=4.5, mew=0, color=color)
        if len(dots) and np.isnan(dots).all():
            note(axes, "both fail in every seed", (0, place), (4, 0), fontsize=7)
        _lost(axes, dots, limits, place + 0.14, color)
    axes.set_yticks(range(len(means)), [wrapped(str(name), 30) for name in means["row"]])
    axes.tick_params("y", length=0, labelsize=7)


def _lost(axes: Axes, dots: Array, limits: tuple[float, float], height: float, color: str) -> None:
    """How many seeds lie beyond either end of a panel."""
    for edge, count, side, marker, sign in (
        (limits[0], int((dots < limits[0]).sum()), "left", "<", 1),
        (limits[1], int((dots > limits[1]).sum()), "right", ">", -1),
    ):
        if count:
            at = edge + 0.012 * sign * (limits[1] - limits[0])
            mark(axes, at, height, marker, color)
            note(axes, str(count), (at, height), (4 * sign, 0), ha=side, fontsize=7)


def _limits(frame: pd.DataFrame) -> tuple[float, float]:
    """The range of all panels: estimates, dots, and intervals unless they dwarf these."""
    margin = float(frame["margin"].max())
    values = frame["value"].to_numpy(dtype=float)
    known = values[np.isfinite(values)]
    low, high = known.min(initial=-1.1 * margin), known.max(initial=1.1 * margin)
    ends = frame[["low", "high"]].to_numpy(dtype=float)
    ends = np.clip(ends[np.isfinite(ends)], 2 * low - high, 2 * high - low)
    low, high = ends.min(initial=low), ends.max(initial=high)
    room = 0.05 * (high - low)
    return float(low - room), float(high + room)
