"""The verdict on each configuration of a study: does the signal survive, and if not, why?

The vocabulary is that of mean-field theory: the length q (second moment) of the pre-activations
and the correlation c of two samples, after Schoenholz et al. (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

CONFIGURATION = ["network", "init", "activation", "width"]
"""The columns that name a row of a summary; a cell is one configuration with one seed."""

_NUMBERS = [
    *("layer", "count", "nonfinite", "mean", "std", "second_moment"),
    *("dead_fraction", "sample_correlation"),
]
"""The columns of a table that its summary computes with."""

DECADE = 10.0
"""The factor by which an rms may differ from 1, that of normalized inputs."""
SAME = 0.99
"""The correlation at which the part that differs between inputs is a tenth of a unit's rms."""


@dataclass(frozen=True)
class Verdict:
    """A word for a cell: its name, its meaning, and its condition on the cells' measures."""

    name: str
    meaning: str
    holds: Callable[[pd.DataFrame], pd.Series[bool]]


VERDICTS = (
    Verdict(
        "overflows",
        "some layer holds infinite or NaN entries",
        lambda cell: cell["nonfinite"] > 0,
    ),
    Verdict(
        "collapses",
        "different inputs give nearly the same output: the correlation of the last layer's "
        "pre-activations is at least 0.99 (the ordered phase of Schoenholz et al. 2017)",
        lambda cell: cell["correlation"] >= SAME,
    ),
    Verdict(
        "explodes",
        "the last layer's pre-activations have more than 10 times the normalized input's rms "
        "(He et al. 2015: it should stay as it is)",
        lambda cell: cell["rms"] > DECADE,
    ),
    Verdict(
        "vanishes",
        "the last layer's pre-activations have less than a tenth of the normalized input's rms",
        lambda cell: cell["rms"] < 1 / DECADE,
    ),
    Verdict(
        "dead",
        "at least half of the last layer's units give the same value for every sample",
        lambda cell: cell["dead"] >= 0.5,
    ),
    Verdict(
        "gradient explodes",
        "from the last layer back to the first, the norm of the gradient grows more than 10 times",
        lambda cell: cell["gradient"] > DECADE,
    ),
    Verdict(
        "gradient vanishes",
        "from the last layer back to the first, the norm of the gradient falls below a tenth",
        lambda cell: cell["gradient"] < 1 / DECADE,
    ),
    Verdict(
        "shifted",
        "the last layer's activations lie to one side: their mean is larger than their std "
        "(LeCun et al. 1998: inputs of a layer should average near zero)",
        lambda cell: cell["mean"].abs() > cell["std"],
    ),
    Verdict("healthy", "none of the above", lambda cell: cell["depth"] > 0),
)
"""The verdicts, gravest first: a cell gets the first that holds."""


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Say how each configuration of a sweep's table keeps the signal, one row each.

    Levels are medians over seeds, so that they describe the typical draw. A tensor with infinite
    or NaN entries counts as infinitely large.

    Args:
        table: the rows of one sweep, from `run_sweep` or `load_table`.

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
        - `std`, `mean`, `dead`: statistics of the last layer's activations;
        - `correlation`: that of two samples' pre-activations in the last layer, 1 means that they
          are the same; `correlation`, `mean` and `dead` are NaN where the signal overflows;
        - `gradient_growth`: the same factor for the norm of the gradient, from the last layer
          towards the first; NaN where gradients were not measured;
        - `verdict`, `agreement`: the commonest verdict among the seeds (of two that are equally
          common the graver), and the share of seeds that have it.

    Raises:
        ValueError: not the table of one sweep.
    """
    require(table)
    table = in_order(table)
    cells = _judge(_measures(table))
    groups = cells.groupby(CONFIGURATION, observed=True, sort=True)
    summary = _parameters(table)
    summary["depth"] = groups["depth"].max()
    summary["seeds"] = groups.size()
    growth = np.exp(seed_interval(cells, "log_growth"))
    summary[["growth", "growth_low", "growth_high"]] = growth[["mean", "low", "high"]]
    levels = ["std", "mean", "dead", "correlation"]
    summary[levels] = groups[levels].median()
    summary["gradient_growth"] = np.exp(seed_interval(cells, "log_gradient_growth")["mean"])
    votes = pd.get_dummies(cells["verdict"]).groupby(CONFIGURATION, observed=True).mean()
    summary["verdict"] = pd.Categorical(votes.idxmax(axis=1), categories=list(votes))
    summary["agreement"] = votes.max(axis=1)
    summary.loc[summary["verdict"] == "overflows", ["mean", "dead", "correlation"]] = np.nan
    return summary.reset_index()


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


def _measures(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers that verdicts are about, one row for each cell (configuration and seed)."""
    keys = [*CONFIGURATION, "seed"]

    def rows(tensor: str, direction: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of the first and of the last layer."""
        here = table[(table["tensor"] == tensor) & (table["direction"] == direction)]
        cells = here.sort_values("layer").groupby(keys, observed=True)
        return cells.head(1).set_index(keys), cells.tail(1).set_index(keys)

    first, last = rows("preactivation", "forward")
    _, activation = rows("activation", "forward")
    forward = table[table["direction"] == "forward"].groupby(keys, observed=True)
    cells = pd.DataFrame({"depth": last["layer"], "nonfinite": forward["nonfinite"].sum()})
    layers = (last["layer"] - first["layer"]).replace(0, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_first, log_last = (np.log(_length(end)) / 2 for end in (first, last))
        cells["rms"] = np.exp(log_last)
        cells["log_growth"] = (log_last - log_first) / layers
        # what the finite remainder of an overflow does says nothing about the tensor
        finite = activation["nonfinite"] == 0
        cells["std"] = activation["std"].where(finite, np.inf)
        cells["mean"] = activation["mean"].where(finite)
        cells["dead"] = activation["dead_fraction"].where(finite)
        cells["correlation"] = last["sample_correlation"].where(last["nonfinite"] == 0)
        # sums of squares, not means: those are what chi_1 multiplies (Schoenholz et al. 2017)
        squares = [_length(end) * end["count"] for end in rows("preactivation", "backward")]
        log_gradient = np.log(squares[0] / squares[1]) / 2
        cells["gradient"] = np.exp(log_gradient)
        cells["log_gradient_growth"] = log_gradient / layers
    return cells


def _length(rows: pd.DataFrame) -> pd.Series[float]:
    """The second moment of a tensor, infinite where an entry is not finite."""
    return rows["second_moment"].where(rows["nonfinite"] == 0, np.inf)


def _judge(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with a column for their verdict."""
    words = [verdict.name for verdict in VERDICTS]
    word = np.select([verdict.holds(cells) for verdict in VERDICTS], words, default=words[-1])
    return cells.assign(verdict=pd.Categorical(word, categories=words))
