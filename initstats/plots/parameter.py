"""A statistic at chosen layers against a parameter that was swept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from initstats.plots.catalog import register_figure
from initstats.plots.curves import (
    DOTTED,
    THEORY,
    Curve,
    decorate,
    draw_points,
    draw_theory,
    over_seeds,
    scale_of,
)
from initstats.plots.grid import panels
from initstats.plots.results import Results, Sweep, headings, order
from initstats.plots.style import STYLE, strokes
from initstats.registry import Need, unknown

VALUES = 3
"""Values of a parameter from which on the page of a study shows the figure."""
SWEPT = Need[Any](
    lambda results: any(len(sweep.entries) >= VALUES for sweep in results.sweeps),
    "no parameter takes three values or more; a range does: inits=['normal(std=0.01:1:7log)']",
)
_ONE_OF_EACH = {"init": "activation", "activation": "init"}


def by_parameter(
    results: Results,
    statistic: str = "std",
    *,
    layers: Sequence[int] = (),
    tensor: str = "",
    direction: str = "forward",
    parameter: str = "",
) -> pd.DataFrame:
    """A statistic of the entries of one family, at some layers, as `over_seeds` gives it.

    Args:
        results: of a sweep.
        statistic: a column of the table.
        layers: by default the first, the middle and the last.
        tensor: by default the pre-activations for the sample correlation, else the activations.
        direction: "forward" or "backward".
        parameter: a column of the table, `init_sigma_w`; by default the one with most values.

    Returns:
        One more column for each swept parameter, the chosen one first.

    Raises:
        ValueError: no such statistic or parameter, or none was swept.
    """
    if statistic not in results.table:
        raise unknown("statistic", statistic, list(results.table.columns))
    sweep = _sweep(results, parameter)
    depth = results.depth
    wanted = list(layers) or sorted({1, (1 + depth) // 2, depth})
    if absent := sorted(set(wanted) - set(range(1, depth + 1))):
        raise ValueError(f"there is no layer {absent[0]}: give layers from 1 to {depth}")
    kind, entries = sweep.kind, list(sweep.entries)

    def chosen(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows[kind].isin(entries) & rows["layer"].isin(wanted)]

    part = replace(
        results,
        table=chosen(results.table),
        summary=results.summary[results.summary[kind].isin(entries)],
        predicted=None if results.predicted is None else chosen(results.predicted),
    )
    tensor = tensor or ("preactivation" if statistic == "sample_correlation" else "activation")
    frame = over_seeds(part, statistic, tensor, direction)
    others = [other.column for other in results.sweeps if _same_family(other, sweep)]
    columns = list(dict.fromkeys([sweep.column, *others]))
    values = part.table[[kind, *columns]].drop_duplicates().astype({kind: str})
    frame = frame.astype({kind: str}).merge(values, on=kind)
    return frame.astype({kind: pd.CategoricalDtype(entries)})


def _same_family(one: Sweep, other: Sweep) -> bool:
    return (one.kind, one.family) == (other.kind, other.family)


def _sweep(results: Results, parameter: str) -> Sweep:
    """The parameter asked for, or the one with most values."""
    if not results.sweeps:
        raise ValueError(
            "no parameter differs between the entries of a family: sweep one, as in "
            "inits=['normal(std=0.01:1:7log)']"
        )
    by_values = sorted(results.sweeps, key=lambda s: -results.table[s.column].nunique())
    named = {sweep.column: sweep for sweep in reversed(by_values)}
    if parameter and parameter not in named:
        raise unknown("swept parameter", parameter, list(named))
    return named[parameter] if parameter else by_values[0]


@register_figure(title="Spread against a parameter", data=by_parameter, needs=[SWEPT])
def statistic_against_parameter(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Standard deviation of the activations at some layers against the parameter that was swept:
    geometric mean over seeds with its 95% Student-t interval. The band is a factor of ten around 1:
    a value of the parameter suits a depth where its point lies within. ▾ marks a point below the
    panel (or a spread of exactly zero), ▴ one above it (or an overflow).
    """
    return _lines(frame, "std", width)


def against(
    results: Results | pd.DataFrame | str,
    statistic: str = "std",
    *,
    layers: Sequence[int] = (),
    tensor: str = "",
    direction: str = "forward",
    parameter: str = "",
    width: float | None = None,
) -> Figure:
    """A figure of any statistic at chosen layers against a parameter that was swept.

    Args:
        results: of a sweep, its table or the folder of its run.
        statistic, layers, tensor, direction, parameter: as `by_parameter` takes them.
        width: of the figure, inches.

    Raises:
        ValueError: no such statistic or parameter, or none was swept.
    """
    frame = by_parameter(
        Results.of(results),
        statistic,
        layers=layers,
        tensor=tensor,
        direction=direction,
        parameter=parameter,
    )
    with mpl.rc_context(STYLE):
        return _lines(frame, statistic, width)


def _lines(frame: pd.DataFrame, statistic: str, width: float | None) -> Figure:
    """A panel for each layer and block; a line for each activation, or init."""
    after = list(frame.columns)[list(frame.columns).index("verdict") + 1 :]
    x, others = after[0], after[1:]
    kind, _, parameter = x.partition("_")
    hue = _ONE_OF_EACH[kind]
    family = str(frame[kind].iloc[0]).partition("(")[0]
    frame = frame.sort_values(x).assign(line=frame[hue].astype(str))
    for other in others:
        name = other.removeprefix(f"{kind}_")
        frame["line"] += frame[other].map(f", {name}={{:g}}".format)
    logarithmic = _log_spaced(frame[x].unique())
    if logarithmic:
        frame[x] = np.log10(frame[x])
    scale = scale_of(statistic)
    measured = frame["source"] == "measured"
    limits = scale.limits([scale.height(frame.loc[measured, statistic].to_numpy())])
    names = [line for name in order(frame[hue]) for line in _of(frame, hue, name)]
    styles, expected = strokes(names), {} if measured.all() else {THEORY: DOTTED}
    layers, blocks = sorted(frame["layer"].unique()), headings(frame)
    figure, grid = panels(
        [f"layer {layer}" for layer in layers],
        width,
        blocks=list(blocks.values()),
        labels=(f"{parameter} of {family}", _LABELS.get(statistic, statistic.replace("_", " "))),
        key=styles | expected,
    )
    decorate([axes for part in grid for axes in part], scale, limits)
    values = np.sort(frame[x].unique())
    ticks = values[
        np.unique(np.linspace(0, len(values) - 1, min(5, len(values))).round().astype(int))
    ]
    margin = 0.04 * np.ptp(values)
    grid[0][0].set_xlim(values[0] - margin, values[-1] + margin)
    grid[0][0].set_xticks(ticks, [f"{10**tick if logarithmic else tick:.3g}" for tick in ticks])
    for block, part in zip(blocks, grid, strict=True):
        for layer, axes in zip(layers, part, strict=True):
            here = frame[
                (frame["network"] == block.network)
                & (frame["width"] == block.width)
                & (frame["layer"] == layer)
            ]
            drawn, theory = [], []
            for (name, source), rows in here.groupby(["line", "source"], sort=False):
                curve = Curve.of(rows, x, statistic, scale)
                if source == "theory":
                    theory.append(curve)
                else:
                    drawn.append((curve, styles[str(name)]))
            draw_points(axes, drawn, limits)
            draw_theory(axes, theory)
    return figure


_LABELS = {"std": "standard deviation"}


def _of(frame: pd.DataFrame, hue: str, name: str) -> list[str]:
    return list(frame.loc[frame[hue] == name, "line"].unique())


def _log_spaced(values: np.ndarray) -> bool:
    """Whether values differ by equal factors rather than by equal steps."""
    values = np.sort(values)
    if len(values) < 3 or values[0] <= 0:
        return False
    steps, factors = np.diff(values), np.diff(np.log(values))
    return bool(np.std(factors) / np.mean(factors) < np.std(steps) / np.mean(steps))
