"""The summary of a study: what each configuration makes of the signal, and the verdict on it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from initstats.diagnosis.verdicts import (
    ASPECTS,
    CELL,
    CONFIGURATION,
    HEALTHY,
    Limits,
    judged,
    stacks_of,
)

_NUMBERS = [
    *("layer", "count", "nonfinite", "mean", "std", "second_moment"),
    *("dead_fraction", "sample_correlation"),
]
"""The columns of a table that its summary computes with."""


class Summary(pd.DataFrame):
    """A DataFrame whose verdicts a notebook shows first, until its columns are others."""

    @property
    def _constructor(self) -> type[Summary]:
        return Summary

    def _repr_html_(self) -> str:
        if not {*CONFIGURATION, *_SHOWN} <= {*self.columns}:
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        # a name that is everywhere the same tells nothing
        names = [name for name in CONFIGURATION if self[name].nunique() > 1] or CONFIGURATION
        tokens = [
            name for name in ("pair_correlation",) if name in self and self[name].notna().any()
        ]
        shown = pd.DataFrame(self)[[*names, *_SHOWN, *tokens]].astype(
            dict.fromkeys([*names, "verdict"], str)
        )
        as_text: dict[Any, Any] = dict.fromkeys(names, escape)
        html = shown.to_html(
            index=False,
            border=0,
            escape=False,
            float_format="{:.3g}".format,
            formatters=as_text | {"verdict": _bold, "agreement": "{:.0%}".format},
            max_rows=pd.get_option("display.max_rows"),
        )
        return str(html)


_SHOWN = ["verdict", "agreement", "growth", "std", "mean", "dead", "correlation", "gradient_growth"]


def _bold(word: str) -> str:
    """A verdict in HTML: the healthy ones stand out."""
    return f"<b>{word}</b>" if word == HEALTHY else word


def summarize(
    table: pd.DataFrame,
    theory: pd.DataFrame | None = None,
    *,
    factor: float = 10,
    correlation: float = 0.99,
    gradient_factor: float = 10,
) -> Summary:
    """Say how each configuration of a sweep's table keeps the signal, one row each.

    Levels are medians over seeds, so that they describe the typical draw. A tensor with infinite
    or NaN entries counts as infinitely large.

    Args:
        table: the rows of one sweep, from `run_sweep` or `load_table`.
        theory: its predicted rows, from `predict` or `load_predictions`: where gradients were not
            measured, theory's are judged.
        factor, correlation, gradient_factor: see `Limits`.

    Returns:
        The columns of `CONFIGURATION`, in the grid's order (that of the first rows if the table
        was read from a file that keeps no order), those of parameters, as `init_sigma_w`, and

        - `depth`, `seeds`: layers, and how many seeds were measured;
        - `growth`, `growth_low`, `growth_high`: the factor by which each layer multiplies the rms
          of the pre-activations, sqrt(q), on average from the first layer to the last: geometric
          mean over seeds and its 95% Student-t interval. 1 keeps the signal, 0 means that some
          seed lost it entirely; NaN at depth 1. It is taken from the two ends, since log q walks
          randomly with depth (Hanin & Nica 2018), and the ends hold all that a walk tells about
          its drift;
        - `std`, `mean`: statistics of the last layer's activations;
        - `dead`: the share of the last layer's units that never fire or are saturated, whose
          activation is constant though their pre-activation is not; `constant`: of those whose
          pre-activation is constant, too;
        - `correlation`: that of two samples' pre-activations (or stream) in the last layer, or of
          two tokens of a sequence where that is larger, 1 means that they are the same;
          `correlation`, `mean`, `dead` and `constant` are NaN where the signal overflows;
        - `pair_correlation`: that of two tokens of a sequence alone, where the table has a network
          of tokens; NaN for the other networks;
        - `gradient_growth`: the same factor for the norm of the gradient, from the last layer
          towards the first; NaN where nothing tells; `gradient_by`: `measured`, `theory` or
          `nothing`;
        - `signal`, `gradient`, `distinctness`: the verdict on each (`unknown` where nothing tells);
          `verdict`: the gravest of them, in a word of `VERDICTS`. Each is the commonest among the
          seeds, of several that are equally common the gravest;
        - `agreement`: the share of seeds that have the verdict; `tied`: the other verdicts that as
          many seeds have, empty if there is none.

    Raises:
        ValueError: not the table of one sweep; a limit that cannot be.
    """
    limits = Limits(factor, correlation, gradient_factor)
    require(table)
    table = in_order(table)
    return summary_of(table, stacks_of(table, theory), limits)


def summary_of(table: pd.DataFrame, stacks: pd.DataFrame, limits: Limits) -> Summary:
    """As `summarize`, of a table in order and its stacks, as `stacks_of` gives them."""
    cells = judged(deepest(stacks), limits)
    summary = _levels(table, cells).join(_votes(cells))
    lost = ["mean", "dead", "constant", "correlation"]
    lost += ["pair_correlation"] if "pair_correlation" in summary else []
    summary.loc[summary["verdict"] == "overflows", lost] = np.nan
    return Summary(summary.reset_index())


def _votes(cells: pd.DataFrame) -> pd.DataFrame:
    """The verdicts of each configuration, by the votes of its seeds."""
    shares = _shares(cells, "verdict")
    words = {aspect: _voted(_shares(cells, f"{aspect}_verdict")) for aspect in ASPECTS}
    votes = pd.DataFrame(words | {"verdict": _voted(shares), "agreement": shares.max(axis=1)})
    tied = shares.eq(votes["agreement"], axis=0)
    votes["tied"] = [
        ", ".join(shares.columns[row & (shares.columns != word)])
        for row, word in zip(tied.to_numpy(), votes["verdict"], strict=True)
    ]
    return votes


def _levels(table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The numbers of each configuration, over its seeds."""
    groups = cells.groupby(CONFIGURATION, observed=True, sort=True)
    summary = _parameters(table)
    summary["depth"] = groups["layer"].max()
    summary["seeds"] = groups.size()
    growth = np.exp(seed_interval(cells, "growth"))
    summary[["growth", "growth_low", "growth_high"]] = growth[["mean", "low", "high"]]
    levels = ["std", "mean", "dead", "constant", "correlation"]
    levels += ["pair_correlation"] if "pair_correlation" in cells else []
    summary[levels] = groups[levels].median()
    summary["gradient_growth"] = np.exp(seed_interval(cells, "gradient_growth")["mean"])
    summary["gradient_by"] = groups["gradient_by"].first()
    return summary


def deepest(stacks: pd.DataFrame) -> pd.DataFrame:
    """The rows of whole stacks, with `layer`, their depth, as a column."""
    return stacks.reset_index("layer").groupby(CELL, observed=True, sort=False).tail(1)


def count_healthy(cells: pd.DataFrame, limits: Limits) -> int:
    """How many configurations are healthy by these limits, of stacks as `deepest` gives them."""
    return int((_voted(_shares(judged(cells, limits), "verdict")) == HEALTHY).sum())


def _shares(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """The share of a configuration's seeds that have each word of a column, in the words' order."""
    words = cells[column].cat.categories
    counts = pd.get_dummies(cells[column]).groupby(CONFIGURATION, observed=True).mean()
    return counts.set_axis(words, axis=1)


def _voted(shares: pd.DataFrame) -> pd.Series:
    """The word that most seeds have, of several the first."""
    return shares.idxmax(axis=1).astype(pd.CategoricalDtype(shares.columns))


def seed_interval(
    cells: pd.DataFrame, column: str, by: Sequence[str] = tuple(CONFIGURATION)
) -> pd.DataFrame:
    """Mean over seeds with its 95% Student-t interval, for each group of `by`.

    Returns:
        `mean`, `low`, `high` by group. The interval is NaN for a single seed; an infinite value
        makes the mean infinite and a NaN, or infinities of both signs, make it NaN: nothing is
        left out.
    """
    groups = cells.groupby(list(by), observed=True)[column]
    count = groups.count()
    with np.errstate(invalid="ignore"):
        mean = groups.sum(min_count=1) / count
        mean = mean.where(count == groups.size())
        half = stdtrit(np.maximum(count - 1, 1), 0.975) * groups.std() / np.sqrt(count)
    half = half.where(np.isfinite(mean))
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its names as categories; those of plain text are ordered by appearance.

    Sorting by them then keeps the grid's order, also in a table that was read from a CSV file.
    """
    plain = [name for name in CONFIGURATION if pd.api.types.is_string_dtype(table[name].dtype)]
    order = {name: pd.CategoricalDtype([*table[name].unique()]) for name in plain}
    return table.astype(order)


def require(table: pd.DataFrame) -> None:
    """Check that a table is one sweep's.

    Raises:
        ValueError: it has no rows, lacks columns or their numbers, or holds several data sets.
    """
    needed = [*CONFIGURATION, "seed", "tensor", "direction", *_NUMBERS]
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise ValueError(
            f"this is not a sweep's table: it lacks the columns {', '.join(missing)} "
            "(the table of a probed model names operations, not inits and activations)"
        )
    words = [name for name in _NUMBERS if not pd.api.types.is_numeric_dtype(table[name].dtype)]
    if words:
        raise ValueError(f"this is not a sweep's table: {', '.join(words)} are no numbers")
    if table.empty:
        raise ValueError("the table has no rows: no cell of the sweep is finished yet")
    if "dataset" in table.columns and table["dataset"].nunique() > 1:
        names = ", ".join(map(str, table["dataset"].unique()))
        raise ValueError(f"the table mixes the data sets {names}: take one of them at a time")


def _parameters(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of parameters, as `init_sigma_w`, which are constant within a configuration."""
    kinds = tuple(f"{name}_" for name in CONFIGURATION)
    names = [name for name in table.columns if str(name).startswith(kinds)]
    return table.groupby(CONFIGURATION, observed=True, sort=True)[names].first()
