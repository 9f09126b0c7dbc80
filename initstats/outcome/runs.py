"""Runs of a training study: each with the outcome that is compared, and whether it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from initstats.outcome.columns import KEYS as RUN
from initstats.plural import counted
from initstats.registry import unknown

KEYS = ["dataset", *RUN[:-1]]
"""The columns that name a variant and where it was trained; with `seed` they name a run."""

NAMES = ["dataset", "network", "init", "activation"]


@dataclass(frozen=True)
class Measure:
    """A number that says how well a run trained.

    Args:
        noun: how sentences call it.
        sign: 1 if larger is better, -1 if smaller is.
        share: whether it is a share, 0 to 1, which is written in percentage points.
        sometimes: whether a run that trained may lack it, which is worse than any number.
    """

    noun: str
    sign: int
    share: bool = False
    sometimes: bool = False

    @property
    def worst(self) -> float:
        """What a failed run counts as."""
        return -self.sign * np.inf


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "valid_accuracy": Measure("validation accuracy", 1, share=True),
        "test_accuracy": Measure("test accuracy", 1, share=True),
        "train_loss": Measure("training loss", -1),
        "valid_loss": Measure("validation loss", -1),
        "test_loss": Measure("test loss", -1),
        "steps_to_target": Measure("number of steps to the target accuracy", -1, sometimes=True),
    }
)


def measure_of(name: str) -> Measure:
    """The measure of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in MEASURES:
        raise unknown("measure", name, MEASURES)
    return MEASURES[name]


def final_runs(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The outcome of each run: its last epoch's rows of a training table.

    Returns:
        `KEYS` and `seed`, in the study's order; `failed`; `ranked`, the measure, or the worst there
        is (infinite) where the run failed or lacks it.

    Raises:
        ValueError: no training table, unfinished or repeated runs, or a measure that it lacks.
    """
    kind = measure_of(measure)
    require(table, [*KEYS, "seed", "epoch", "outcome", measure], "training table")
    table = in_order(table)
    last = table["epoch"].max()
    runs = table[table["epoch"] == last]
    everyone = len(table.drop_duplicates([*KEYS, "seed"]))
    if len(runs) != everyone or runs.duplicated([*KEYS, "seed"]).any():
        raise ValueError(
            f"of {counted(everyone, 'run')}, {counted(len(runs), 'row is', 'rows are')} of the "
            f"last epoch, {last}: every run must have it once (are these several studies?)"
        )
    failed = (runs["outcome"] != "trained").to_numpy()
    value = runs[measure].to_numpy(np.float64, na_value=np.nan)
    lost = ~np.isfinite(value) & ~failed
    if lost.any() and not kind.sometimes:
        why = "does the data have a test split?" if lost.all() else "was the table changed?"
        raise ValueError(
            f"{counted(lost.sum(), 'run')} that trained {'has' if lost.sum() == 1 else 'have'} "
            f"no {measure}: {why}"
        )
    ranked = np.where(failed | lost, kind.worst, value)
    found = pd.DataFrame(runs[[*KEYS, "seed"]]).assign(failed=failed, ranked=ranked)
    return found.sort_values([*KEYS, "seed"], ignore_index=True)


def require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Check that a table has its columns, and rows.

    Raises:
        ValueError: it has not.
    """
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"this is not a {what}: it lacks the columns {', '.join(missing)}")
    if table.empty:
        raise ValueError(f"the {what} has no rows: no run is finished yet")


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its names as categories that occur; plain text is ordered by appearance."""
    order = {}
    for name in NAMES:
        if name in table.columns:
            values = table[name]
            known = values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else None
            present = pd.unique(values) if known is None else known[known.isin(values)]
            order[name] = pd.CategoricalDtype([*present], ordered=False)
    return table.astype(order)
