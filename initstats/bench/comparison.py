"""Ratios of timings, formed within each round, and the goals that they are held against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from initstats.bench.timing import WORKLOADS


@dataclass(frozen=True)
class Ratio:
    """Seconds of one variant over those of another.

    Attributes:
        above, below: the variants.
        meaning: the ratio in words.
        goals: the goal of each workload that has one.
        at_most: whether a goal is an upper bound; else it is a lower one.
    """

    above: str
    below: str
    meaning: str
    goals: Mapping[str, float] = field(default_factory=dict)
    at_most: bool = True

    @property
    def name(self) -> str:
        """The ratio as it is printed, such as ``engine / plain``."""
        return f"{self.above} / {self.below}"


def _by_size(*goals: float) -> dict[str, float]:
    return dict(zip(WORKLOADS, goals, strict=True))


RATIOS = (
    Ratio(
        "engine",
        "plain",
        "the engine over the plain forward pass, which records nothing",
        _by_size(0.45, 0.70, 0.50, 0.45, 0.35),
    ),
    Ratio("engine", "plain_batched", "the engine over the plain forward pass in cached batches"),
    Ratio(
        "engine",
        "engine_off",
        "the engine over itself without statistics",
        _by_size(1.4, 1.5, 1.2, 1.15, 1.4),
    ),
    Ratio(
        "course_hooks",
        "engine",
        "hooks with mean, std and histogram over the engine",
        at_most=False,
    ),
    Ratio(
        "whole_hooks",
        "engine",
        "hooks with the same statistics over the engine",
        _by_size(17, 18, 11, 10, 25),
        at_most=False,
    ),
    Ratio(
        "engine_backward", "engine", "a study with gradients over one without", _by_size(*5 * [2.1])
    ),
    Ratio("engine_torch", "engine", "kernels in pure torch over numba's", _by_size(*5 * [2.0])),
)
"""The ratios that are compared, in the order of the table."""


def ratios(timings: pd.DataFrame) -> pd.DataFrame:
    """The ratios of `RATIOS`, each formed within a round.

    Args:
        timings: as `run` returns.

    Returns:
        One row per workload and ratio whose variants were timed: `workload ratio`, over the rounds
        `median low high`, the `goal` (NaN where there is none) and whether it is `reached` by the
        median.
    """
    seconds = timings.pivot(index=["workload", "round"], columns="variant", values="seconds")
    rows = []
    for name, rounds in seconds.groupby(level="workload", observed=True):
        for ratio in RATIOS:
            if not {ratio.above, ratio.below} <= {*rounds.dropna(axis=1, how="all").columns}:
                continue
            paired = (rounds[ratio.above] / rounds[ratio.below]).dropna()
            median, goal = paired.median(), ratio.goals.get(str(name))
            reached = (
                None if goal is None else (median <= goal if ratio.at_most else median >= goal)
            )
            rows.append((name, ratio.name, median, paired.min(), paired.max(), goal, reached))
    columns = ["workload", "ratio", "median", "low", "high", "goal", "reached"]
    kinds = {"workload": timings["workload"].dtype, "goal": "float64", "reached": "boolean"}
    return pd.DataFrame(rows, columns=columns).astype(kinds)


def milliseconds(timings: pd.DataFrame) -> pd.DataFrame:
    """Median milliseconds over the rounds, a row a variant and a column a workload."""
    median = timings.groupby(["variant", "workload"], observed=True)["seconds"].median()
    return 1e3 * median.unstack("workload")


def table(timings: pd.DataFrame) -> pd.DataFrame:
    """The ratios as text: a row for each, a column for each workload, and a row for its goals.

    A ratio reads ``0.47 (0.45 to 0.52)``, its median and its range over the rounds; a goal that
    the median misses reads ``0.45, missed``.
    """
    compared = ratios(timings)
    compared["value"] = [
        "{:.3g} ({:.3g} to {:.3g})".format(*row)
        for row in compared[["median", "low", "high"]].itertuples(index=False)
    ]
    compared["held"] = [
        None if math.isnan(goal) else f"{goal:g}" if reached else f"{goal:g}, missed"
        for goal, reached in zip(compared["goal"], compared["reached"], strict=True)
    ]
    rows = []
    for ratio in RATIOS:
        found = compared[compared["ratio"] == ratio.name].set_index("workload")
        goal = f"goal, at {'most' if ratio.at_most else 'least'}"
        rows += [found["value"].rename(ratio.meaning), found["held"].rename(goal)]
    return pd.DataFrame(rows).dropna(how="all").fillna("").rename_axis(columns=None)
