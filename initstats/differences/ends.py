"""What is told of two runs: some measures, at the end of each stack or at each place of a model."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from initstats.differences.pair import BOTH, Pair
from initstats.differences.side import MODEL

SAME = 1e-6
"""Differences up to this are rounding: of float32, over many layers."""


@dataclass(frozen=True)
class Measure:
    """A statistic of one tensor that a comparison tells about.

    Attributes:
        name: in words.
        tensor: of a study; of a model, all values count.
        first: whether it is told at the first layer, where a gradient ends, and not at the last.
    """

    name: str
    statistic: str
    tensor: str
    direction: str = "forward"
    first: bool = False


MEASURES = (
    Measure("standard deviation", "std", "activation"),
    Measure("mean", "mean", "activation"),
    Measure("correlation of inputs", "sample_correlation", "preactivation"),
    Measure("share of constant units", "dead_fraction", "activation"),
    Measure("share of entries that are not finite", "nonfinite", "preactivation"),
    Measure("gradient’s standard deviation", "std", "preactivation", "backward", first=True),
)


def shown_differences(pair: Pair) -> pd.DataFrame:
    """The differences of the statistics among `MEASURES` that one of the two has."""
    names = dict.fromkeys(measure.statistic for measure in MEASURES)
    known = {*pair.a.statistics, *pair.b.statistics}
    return pair.differences([name for name in names if name in known])


def ends(pair: Pair, differences: pd.DataFrame) -> pd.DataFrame:
    """The rows of `shown_differences` that words and tables are about, with their `measure`.

    Of a study those at the last layer of each configuration that both have (of gradients, at the
    first; none where the stacks have other depths, since gradients begin at the last layer). Of a
    model all values of the last step in both; weights are left out.
    """
    rows = differences[(differences["measured"] == BOTH) & (differences["tensor"] != "weight")]
    for key in ("step", "mode"):
        if key in rows and pair.kind is MODEL and len(rows):
            rows = rows[rows[key] == rows[key].astype(object).max()]
    parts = []
    for measure in MEASURES:
        here = rows[
            (rows["statistic"] == measure.statistic) & (rows["direction"] == measure.direction)
        ]
        if pair.kind is not MODEL:
            here = _end(pair, here[here["tensor"] == measure.tensor], measure)
        parts.append(here.assign(measure=measure.name))
    return pd.concat(parts, ignore_index=True)


def _end(pair: Pair, rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The rows at one end of the stacks."""
    if measure.first and pair.a.depth != pair.b.depth:
        return rows.iloc[:0]
    stacks = rows.groupby(pair.configuration, observed=True)["layer"]
    return rows[rows["layer"] == (stacks.transform("min" if measure.first else "max"))]


def size(differences: pd.Series[float]) -> pd.Series[float]:
    """The sizes by which differences are ranked; NaN, which cannot be told, comes last."""
    return differences.abs().fillna(-1.0)


def moved(rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether each difference is more than rounding; a NaN in one run alone is one, too."""
    undefined = rows["a"].isna() != rows["b"].isna()
    return (rows["difference"].abs() > SAME) | undefined


def sure(rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether the interval of each difference excludes 0, and it is more than rounding."""
    return ((rows["low"] > 0) | (rows["high"] < 0)) & (rows["difference"].abs() > SAME)


def ranked(pair: Pair, told: pd.DataFrame) -> pd.DataFrame:
    """The configurations that both have, the most changed first, with both verdicts.

    Those whose verdict changed come before others, and among each the largest factor of the
    standard deviation comes first.

    Args:
        told: of `ends`.
    """
    shared = pair.verdicts[pair.verdicts["measured"] == BOTH]
    spread = told[told["measure"] == MEASURES[0].name]
    columns = [*pair.configuration, "a", "b", "difference", "low", "high"]
    found = shared.merge(spread[columns], on=pair.configuration, how="left")
    found["changed"] = found["a_verdict"].astype(str) != found["b_verdict"].astype(str)
    found["size"] = size(found["difference"])
    return found.sort_values(
        ["changed", "size"], ascending=False, kind="stable", ignore_index=True
    ).drop(columns="size")
