"""A statistic at chosen layers against a parameter that was swept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from initstats.plots.catalog import FIGURES, register_figure
from initstats.plots.curves import draw_points, over_seeds, panels_of_lines, statistic_of
from initstats.plots.results import MAIN, MANY, Results, Sweep, evenly, order
from initstats.registry import Need, unknown

SWEPT = Need[Any](
    lambda results: any(len(sweep.entries) > 2 for sweep in results.sweeps),
    "no parameter takes three values or more; a range does: inits=['normal(std=0.01:1:7log)']",
)
LABELS = {"std": "standard deviation"}


def by_parameter(
    results: Results,
    statistic: str = "std",
    layers: Sequence[int] = (),
    direction: str = "forward",
    parameter: str = "",
) -> pd.DataFrame:
    """A statistic of the entries of one family, at some layers; arguments as of `against`.

    Returns:
        The columns of `over_seeds`, and one for each parameter of the family that was swept, the
        chosen one first. Sample correlations are those of pre-activations (of the stream where a
        network has one), all other statistics those of activations.

    Raises:
        ValueError: no such statistic, layer or parameter, or none was swept.
    """
    if statistic not in results.table:
        raise unknown("statistic", statistic, list(results.table.columns))
    sweep, depth = _sweep(results, parameter), results.depth
    wanted = list(layers) or sorted({1, (1 + depth) // 2, depth})
    if absent := sorted(set(wanted) - set(range(1, depth + 1))):
        raise ValueError(f"there is no layer {absent[0]}: give layers from 1 to {depth}")
    tensor = MAIN if statistic == "sample_correlation" else "activation"
    kind, family, column, entries = sweep
    other = "activation" if kind == "init" else "init"
    part = results.only(kind, entries).only(other, order(results.few.summary[other]))
    part = part.within(results.few.blocks) if len(part.blocks) > MANY else part
    frame = over_seeds(part, statistic, tensor, direction)
    others = [s.column for s in results.sweeps if (s.kind, s.family) == (kind, family)]
    columns = list(dict.fromkeys([kind, column, *others]))
    values = part.summary[columns].drop_duplicates().astype({kind: str})
    return frame[frame["layer"].isin(wanted)].astype({kind: str}).merge(values, on=kind)


def _sweep(results: Results, parameter: str) -> Sweep:
    """The parameter asked for, or the one with most values."""
    if not results.sweeps:
        raise ValueError(
            "no parameter differs between the entries of a family: sweep one, as in "
            "inits=['normal(std=0.01:1:7log)']"
        )
    if not parameter:
        return max(results.sweeps, key=lambda sweep: results.summary[sweep.column].nunique())
    named = {sweep.column: sweep for sweep in reversed(results.sweeps)}
    if parameter not in named:
        raise unknown("swept parameter", parameter, list(named))
    return named[parameter]


@register_figure(title="Spread against a parameter", data=by_parameter, needs=[SWEPT])
def statistic_against_parameter(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Standard deviation of the activations at some layers against the parameter that was swept:
    geometric mean over seeds with its 95% Student-t interval. The band is a factor of ten around 1:
    a value of the parameter suits a depth where its point lies within. ▾ marks a point below the
    panel (or a spread of exactly zero), ▴ one above it (or an overflow).
    """
    columns = [str(name) for name in frame]
    x, *others = columns[columns.index("verdict") + 1 :]
    kind, _, parameter = x.partition("_")
    family = str(frame[kind].iloc[0]).partition("(")[0]
    hue = "activation" if kind == "init" else "init"
    rest = frame[kind].map(lambda name: without(str(name), parameter))
    several = rest.nunique() > 1  # entries that differ in more than what is on the axis
    line = frame[hue].astype(str) + (", " + rest if several else "")
    frame = frame.assign(line=line, panel="layer " + frame["layer"].astype(str), rest=rest)
    frame = frame.sort_values(["layer", hue, *others, "rest", x], kind="stable")
    values = np.unique(frame[x])
    if logarithmic := _log_spaced(values):
        frame[x], values = np.log10(frame[x]), np.log10(values)
    statistic = statistic_of(frame)
    labels = f"{parameter} of {family}", LABELS.get(statistic, statistic.replace("_", " "))
    names = {"x": x, "panel": "panel", "line": "line"}
    ticks, margin = evenly(values.tolist(), 5), 0.04 * np.ptp(values)
    span = values[0] - margin, values[-1] + margin
    figure, first = panels_of_lines(
        frame, width, **names, span=span, labels=labels, draw=draw_points
    )
    for axes in first:
        axes.set_xticks(ticks, [f"{10**tick if logarithmic else tick:.3g}" for tick in ticks])
    return figure


def against(
    results: Results | pd.DataFrame | str | Path,
    statistic: str = "std",
    *,
    layers: Sequence[int] = (),
    direction: str = "forward",
    parameter: str = "",
    width: float | None = None,
) -> Figure:
    """A figure of any statistic at chosen layers against a parameter that was swept.

    Args:
        results: of a sweep, its table or the folder of its run.
        statistic: a column of the table.
        layers: by default the first, the middle and the last.
        direction: "forward" or "backward".
        parameter: a column of the table, `init_sigma_w`; by default the one with most values.
        width: of the figure, inches.

    Raises:
        ValueError: no such statistic, layer or parameter, or none was swept.
    """
    frame = by_parameter(Results.of(results), statistic, layers, direction, parameter)
    return FIGURES["statistic_against_parameter"].draw_frame(frame, width)


def without(spelling: str, parameter: str) -> str:
    """The spelling of an entry without one of its parameters.

    >>> without("general_relu(leak=0.2,sub=0.3)", "leak"), without("ramp(size=2)", "size")
    ('general_relu(sub=0.3)', 'ramp')
    """
    name, _, inside = spelling.removesuffix(")").partition("(")
    kept = [part for part in inside.split(",") if part.partition("=")[0] != parameter]
    return f"{name}({','.join(kept)})" if any(kept) else name


def _log_spaced(values: np.ndarray) -> bool:
    """Whether sorted values differ by equal factors rather than by equal steps."""
    if len(values) < 3 or values[0] <= 0:
        return False
    steps, factors = np.diff(values), np.diff(np.log(values))
    return bool(np.std(factors) / np.mean(factors) < np.std(steps) / np.mean(steps))
