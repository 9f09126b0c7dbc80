"""Predictors of training: do a network's statistics at initialization tell how well it trains?

The common advice is that they should be near 1. Here the distance from 1 is set against the
outcome: by Spearman's rank correlation, and by the area under the ROC curve (Hanley & McNeil 1982)
for failing. Runs of one variant are alike, so that a bootstrap draws whole variants (Davison &
Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.outcome.runs import KEYS, NAMES, final_runs, measure_of, require

Array = NDArray[np.float64]

PREDICTORS = {
    "gradient_ratio": "std of the gradient at the first layer's pre-activations over the last's",
    "std": "std of the last hidden layer's activations",
    "sample_correlation": "correlation of two inputs' activations in the last hidden layer",
    "chi_1": "factor per layer of the gradient's squared norm, from theory: geometric mean",
}
"""What is measured at initialization, by name."""

WITHIN = {
    "depth": ["dataset", "network", "width", "depth"],
    "network": ["dataset", "network"],
    "all": [],
}
"""The columns that runs have in common which are ranked together."""

_RUN = [*KEYS, "seed"]


def initial_distances(
    statistics: pd.DataFrame,
    table: pd.DataFrame,
    theory: pd.DataFrame | None = None,
    *,
    measure: str = "valid_accuracy",
) -> pd.DataFrame:
    """How far each run's statistics were from 1 before its first step, and what became of it.

    Args:
        statistics: activation statistics of training runs, of which step 0 is taken.
        table: the training table.
        theory: `chi_1` by `init` and `activation`, and by any other of the keys that it has as
            columns. Several rows of a key are layers, whose geometric mean is taken.
        measure: the outcome, as for `summarize_training`.

    Returns:
        One row for each run that has both: `dataset network init activation width depth seed`;
        the distances `gradient_ratio`, `std` and `chi_1`: the absolute natural logarithm, 0 at 1,
        infinite where the statistic is 0 or overflows; `sample_correlation`: |1 - c|, 0 where all
        inputs look the same; NaN where a statistic is not known; `failed`; and `outcome`, the
        measure turned so that larger is better, with minus infinity for failed runs.

    Raises:
        ValueError: not such tables, or no run that both hold.
    """
    needed = [*_RUN, "step", "layer", "tensor", "direction", "nonfinite", "std"]
    require(statistics, [*needed, "sample_correlation"], "table of training's statistics")
    runs = _plain(final_runs(table, measure))
    start = _plain(statistics[statistics["step"] == 0])
    gradients = _rows(start, "preactivation", "backward")
    activations = _rows(start, "activation", "forward")
    last = activations.groupby(_RUN).tail(1).set_index(_RUN)
    found = pd.DataFrame(
        {
            "gradient_ratio": _gradient_ratio(gradients),
            "std": _from_one(_size(last)),
            "sample_correlation": _apart(last),
        }
    )
    known = runs.merge(found.reset_index(), on=_RUN)
    if known.empty:
        raise ValueError("no run of the table has statistics of step 0")
    known["chi_1"] = _chi_1(known, theory) if theory is not None else np.nan
    known["outcome"] = measure_of(measure).sign * known["ranked"]
    return known[[*_RUN, *PREDICTORS, "failed", "outcome"]]


def predictive_power(
    distances: pd.DataFrame, *, draws: int = 1000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Whether distances from 1 at initialization tell who trains better, and who fails.

    Args:
        distances: from `initial_distances`.
        draws: bootstrap samples of variants (activation, init), for the intervals.
        confidence: of the intervals, which are percentiles and each on its own. With fewer than
            some ten variants they are too narrow.
        seed: of the bootstrap's own random numbers.

    Returns:
        One row for each `predictor`, `among` ("all" runs; "trained": those that did not fail) and
        `within`: runs are ranked among those of the same data set, network, width and depth
        ("depth"), of the same data set and network ("network"), or among "all", and

        - `rho`, `rho_low`, `rho_high`: Spearman's correlation of distance and outcome, 0 for no
          relation. Below 0: runs that began farther from 1 train worse. (A small distance of
          `sample_correlation` is a collapse, so that there it is above 0.) Ranks within several
          groups are taken as shares of their group and pooled;
        - `auc`, `auc_low`, `auc_high`: the probability that a failed run began farther from 1 than
          one that trained, ties half; 0.5 for no relation;
        - `runs`, `failed`, `clusters`: how many runs, failed ones among them, and variants;
        - `note`: why a number is missing, or that few variants stand behind it.

    Raises:
        ValueError: no such frame, or numbers out of range.
    """
    require(distances, [*_RUN, *PREDICTORS, "failed", "outcome"], "frame of initial distances")
    if draws < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"draws must be at least 1 and confidence in (0, 1), got {draws} and {confidence}"
        )
    rows = []
    for among, runs in {"all": distances, "trained": distances[~distances["failed"]]}.items():
        known: dict[tuple[str, bytes], dict[str, Any]] = {}  # several ways may make the same groups
        for within, columns in WITHIN.items():
            for predictor in PREDICTORS:
                some = runs[runs[predictor].notna()]
                groups = _numbered(some, columns)
                power = known.get(key := (predictor, groups.tobytes()))
                if power is None:
                    power = known[key] = _power(some, predictor, groups, draws, confidence, seed)
                rows.append({"predictor": predictor, "among": among, "within": within} | power)
    return pd.DataFrame(rows)


def _power(
    runs: pd.DataFrame, predictor: str, groups: Array, draws: int, confidence: float, seed: int
) -> dict[str, Any]:
    """One row's numbers."""
    clusters = _numbered(runs, ["activation", "init"])
    count = len(np.unique(clusters))
    weights = cluster_weights(clusters, draws, seed)
    distance, outcome, failed = (
        runs[name].to_numpy(np.float64) for name in (predictor, "outcome", "failed")
    )
    ends = ("", "_low", "_high")
    values = {"rho": rank_correlation, "auc": separation}
    seconds = {"rho": outcome, "auc": failed}
    row: dict[str, Any] = {}
    for name, function in values.items():
        numbers = _interval(function, distance, seconds[name], groups, weights, confidence)
        row |= {f"{name}{end}": number for end, number in zip(ends, numbers, strict=True)}
    row |= {"runs": len(runs), "failed": int(failed.sum()), "clusters": count}
    return row | {"note": _note(distance, outcome, failed, count, row)}


def _numbered(runs: pd.DataFrame, columns: list[str]) -> Array:
    """The number of each run's group, (runs,); one group where there are no columns."""
    if not columns:
        return np.zeros(len(runs))
    return np.asarray(runs.groupby(columns, observed=True).ngroup(), np.float64)


def cluster_weights(clusters: Array, draws: int, seed: int) -> Array:
    """How often each run is in each bootstrap sample of whole clusters, (1 + draws, runs).

    The first row is the sample itself.

    Args:
        clusters: (runs,), the number of each run's cluster.
    """
    names, places = np.unique(clusters, return_inverse=True)
    count = max(len(names), 1)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return np.vstack([np.ones(len(places)), drawn[:, places]])


def rank_correlation(x: Array, y: Array, groups: Array, weights: Array) -> Array:
    """Spearman's correlation within groups, of each of several weighted samples, (samples,).

    It is that of ranks as shares of their group, less the group's mean: one group gives Spearman's
    own. NaN where one of the two is the same everywhere.

    Args:
        x, y, groups: (runs,).
        weights: (samples, runs), how often each run is in a sample.
    """
    cross, square_x, square_y = np.zeros((3, len(weights)))
    for group in np.unique(groups):
        here = groups == group
        w = weights[:, here]
        total = np.maximum(w.sum(axis=1, keepdims=True), 1.0)
        # the mean rank of a sample is half its size
        p, q = (midranks(values[here], w) / total - 0.5 for values in (x, y))
        cross += (w * p * q).sum(axis=1)
        square_x += (w * p * p).sum(axis=1)
        square_y += (w * q * q).sum(axis=1)
    size = np.sqrt(square_x * square_y)
    constant = size <= 1e-12 * weights.sum(axis=1)
    return np.where(constant, np.nan, cross / np.where(constant, 1.0, size))


def separation(x: Array, failed: Array, groups: Array, weights: Array) -> Array:
    """The probability that x is larger in a failed run than in another of its group, (samples,).

    Ties count half (Mann & Whitney 1947). NaN where nobody failed, or everybody.
    """
    larger, pairs = np.zeros((2, len(weights)))
    for group in np.unique(groups):
        here = groups == group
        lost = weights[:, here] * failed[here]
        kept = weights[:, here] - lost
        larger += (lost * midranks(x[here], kept)).sum(axis=1)
        pairs += lost.sum(axis=1) * kept.sum(axis=1)
    return np.where(pairs > 0, larger / np.maximum(pairs, 1.0), np.nan)


def midranks(values: Array, weights: Array) -> Array:
    """The weight below each value, and half of that at it, (samples, runs): its rank less a half.

    Args:
        values: (runs,), infinite ones too.
        weights: (samples, runs).
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    starts = np.cumsum(counts) - counts
    at = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks: Array = (np.cumsum(at, axis=1) - at / 2)[:, place]
    return ranks


def _interval(
    function: Callable[[Array, Array, Array, Array], Array],
    x: Array,
    y: Array,
    groups: Array,
    weights: Array,
    confidence: float,
) -> tuple[float, float, float]:
    """A number of the sample, and percentiles of its bootstrap samples in which it is defined."""
    if len(x) < 2:
        return np.nan, np.nan, np.nan
    estimate, *drawn = function(x, y, groups, weights)
    known = np.array(drawn)[~np.isnan(drawn)]
    # one variant drawn again and again is no bootstrap, nor are the few samples of a rare event
    if not (weights != weights[:, :1]).any() or len(known) < len(drawn) / 2 or np.isnan(estimate):
        return float(estimate), np.nan, np.nan
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(estimate), float(low), float(high)


def _note(
    distance: Array, outcome: Array, failed: Array, clusters: int, row: dict[str, Any]
) -> str:
    """Why a number is missing, or what it stands on."""
    if len(distance) < 2:
        return "not known for two runs or more"
    reasons = {
        "the distance is the same in all runs": np.unique(distance).size == 1,
        "the outcome is the same in all runs": np.unique(outcome).size == 1,
        "nobody failed": not failed.any(),
        "everybody failed": failed.all(),
        "one variant: no interval": clusters == 1,
        f"{clusters} variants: intervals are rough": 1 < clusters < 10,
        "failures of too few variants: no interval of auc": clusters > 1
        and not np.isnan(row["auc"])
        and np.isnan(row["auc_low"]),
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its names as text, since categories of two tables do not join."""
    return table.astype(dict.fromkeys(NAMES, str))


def _rows(statistics: pd.DataFrame, tensor: str, direction: str) -> pd.DataFrame:
    """The rows of one tensor, layer by layer."""
    is_here = (statistics["tensor"] == tensor) & (statistics["direction"] == direction)
    return statistics[is_here].sort_values("layer", kind="stable")


def _size(rows: pd.DataFrame) -> pd.Series[float]:
    """The std of a tensor, infinite where an entry is not finite."""
    return rows["std"].where(rows["nonfinite"] == 0, np.inf)


def _from_one(scale: pd.Series[float]) -> pd.Series[float]:
    """The distance of a positive scale from 1; NaN stays."""
    with np.errstate(divide="ignore"):
        return scale.map(np.log).abs()


def _gradient_ratio(gradients: pd.DataFrame) -> pd.Series[float]:
    """The distance from 1 of the first layer's gradient over the last's, by run."""
    by_run = gradients.groupby(_RUN)
    first, last = (_size(rows.set_index(_RUN)) for rows in (by_run.head(1), by_run.tail(1)))
    known = first.notna() & last.notna()
    with np.errstate(divide="ignore", invalid="ignore"):
        # no gradient at either end, or overflow at both, is as far as can be
        return _from_one((first / last).fillna(np.inf)).where(known)


def _apart(last: pd.DataFrame) -> pd.Series[float]:
    """|1 - c|, 0 too where every input gives zeros."""
    gone = (last["std"] == 0) & (last["nonfinite"] == 0)
    return (1 - last["sample_correlation"]).abs().mask(gone & last["sample_correlation"].isna(), 0)


def _chi_1(runs: pd.DataFrame, theory: pd.DataFrame) -> Array:
    """The distance of theory's chi_1 from 1, (runs,); NaN where it has none."""
    require(theory, ["init", "activation", "chi_1"], "frame of theory's chi_1")
    keys = [name for name in KEYS if name in theory.columns]
    plain = theory.astype({name: str for name in NAMES if name in keys})
    with np.errstate(divide="ignore"):
        logs = plain.assign(distance=np.log(plain["chi_1"]))
    # not skipping: a layer that theory does not know leaves the mean unknown
    means = logs.groupby(keys)["distance"].agg(lambda layers: layers.mean(skipna=False)).abs()
    return runs.merge(means.reset_index(), on=keys, how="left")["distance"].to_numpy(np.float64)
