"""Measured against predicted, in units of what seeds and a finite width leave open."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.prediction.predicting import EXTRA, KEYS
from initstats.prediction.rows import INFINITE

Array = NDArray[np.float64]

COMPARED = (
    "second_moment",
    "mean",
    "std",
    "abs_mean",
    "negative_fraction",
    "zero_fraction",
    "unit_mean_std",
    "sample_correlation",
)
"""The statistics that theory predicts."""

NEEDED = [name for name in EXTRA if name != "claim"]
_SCORED = ("second_moment", "mean", "abs_mean")  # those predicted to first order in 1 / width
_ROUNDING = 1e-5  # of float32 sums of products, relative


def compare_with_theory(table: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """How far a sweep is from theory.

    Args:
        table: of `run_sweep` or `load_table`.
        predicted: of `predict`.

    Returns:
        For every row of the table that was predicted, without its seed, and for each statistic of
        `COMPARED`: `measured`, the mean over `seeds` draws (of `std`, the root of the mean square:
        the mean of a root is biased), `predicted`, and where theory is about that mean
        `standard_error` and `z`, measured less predicted over the error. The error is that of the
        mean over seeds, the larger of what theory expects and what the seeds show, together with
        what the first order in 1 / width leaves out and the rounding of float32. `note` is that of
        `predict`: trust z where it is empty. Layers share their draws: their z are not independent.

    Raises:
        ValueError: a column is missing, or no row was predicted.
    """
    for name, frame, needed, source in (
        ("table", table, ["seed"], "run_sweep"),
        ("predicted", predicted, NEEDED, "predict"),
    ):
        if missing := [column for column in [*KEYS, *COMPARED, *needed] if column not in frame]:
            raise ValueError(f"{name} lacks {', '.join(missing)}: is it from {source}?")
    found = _over_seeds(table)
    plain = predicted.astype(dict.fromkeys(KEYS, object))
    joined = plain.merge(found, on=KEYS, suffixes=("", "_measured"))
    if joined.empty:
        raise ValueError("no row of the table was predicted: do the grids and the data agree?")
    scored = pd.concat([_scored(joined, name) for name in COMPARED], keys=range(len(COMPARED)))
    scored = scored.swaplevel().sort_index().reset_index(drop=True)
    return scored.astype({name: predicted[name].dtype for name in KEYS})


def _over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds."""
    values = table[[*KEYS, *COMPARED]].astype(dict.fromkeys(KEYS, object))
    values["std"] = values["std"] ** 2
    groups = values.groupby(KEYS, sort=False)[list(COMPARED)]
    means = groups.mean().assign(std=lambda frame: np.sqrt(frame["std"]))
    spreads = groups.std().add_suffix("_over_seeds")
    return means.join(spreads).assign(seeds=groups.size()).reset_index()


def _scored(joined: pd.DataFrame, name: str) -> pd.DataFrame:
    difference = (joined[f"{name}_measured"] - joined[name]).to_numpy()
    z = error = np.full(len(joined), np.nan)
    if name in _SCORED:
        error = _error(joined, name)
        exact = np.where(difference == 0, 0.0, np.nan)  # two zeros are equal
        z = np.divide(difference, error, out=exact, where=error > 0)
        if "claim" in joined:  # how far a finite width may be from an infinite one is not known
            z = np.where(joined["claim"] == INFINITE, np.nan, z)
    return joined[KEYS].assign(
        statistic=name,
        measured=joined[f"{name}_measured"],
        predicted=joined[name],
        standard_error=error,
        z=z,
        seeds=joined["seeds"],
        note=joined["note"],
    )


def _error(joined: pd.DataFrame, name: str) -> Array:
    """The standard error of the measured mean about the predicted one."""
    seeds, size = joined["seeds"].to_numpy(), joined["second_moment"].to_numpy()
    spread = joined[f"{name}_over_seeds"].to_numpy()
    left_out, rounding = np.zeros(len(joined)), _ROUNDING * np.sqrt(size)
    if name == "second_moment":
        spread = np.fmax(spread, joined["second_moment_spread"].to_numpy())
        left_out = joined["second_moment_error"].fillna(0.0).to_numpy()
        rounding = _ROUNDING * size
    elif name == "abs_mean":  # of images theory knows it at infinite width only
        spread = np.where(joined["second_moment_spread"].isna(), np.nan, spread)
    return np.asarray(np.sqrt(spread**2 / seeds + left_out**2 + rounding**2))
