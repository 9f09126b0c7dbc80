"""From the folder of a training study to its tables.

All raise `StoreError` as `load_table` does, and where the folder holds another kind of run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from initstats.moments.table import STATISTICS
from initstats.outcome.columns import CURVE, EPOCH, KEYS, TUNING_KEYS, WORDS
from initstats.store import StoreError, load_run, load_table

TUNING = "tuning"
"""The folder of the tuning runs, in that of the study."""
_LAST = ("test_loss", "test_accuracy", "steps_to_target")


def is_training(folder: str | Path) -> bool:
    """Whether a run's folder is that of a training study."""
    return tuple(load_run(folder).keys) == KEYS


def load_training(folder: str | Path) -> pd.DataFrame:
    """The outcome of a training study, finished or not: one row for each run and epoch.

    Returns:
        Key columns `dataset network init activation width depth seed epoch`; `step`, the updates
        made; `lr`, the run's largest learning rate; `train_loss` and `train_accuracy`, means over
        the epoch; `valid_loss` and `valid_accuracy`; of the last epoch, `test_loss`,
        `test_accuracy` and `steps_to_target`, the first update at which the accuracy on the
        training batches since the point of the curve before reached the target (NaN if never);
        `outcome`: `trained`, `diverged` (the loss no longer finite) or `chance` (the validation
        accuracy not above the share of the largest class by three standard errors). Accuracies are
        shares. After a divergence, losses and accuracies are NaN.
    """
    return _outcomes(folder, _rows(folder, KEYS))


def load_training_curves(folder: str | Path) -> pd.DataFrame:
    """The learning curves of a training study: one row for each run and point.

    Returns:
        The key columns without the epoch; `step`; `train_loss` and `train_accuracy`, means over the
        updates since the point before. A run that diverged has no more points.
    """
    return _curves(_rows(folder, KEYS))


def load_training_statistics(folder: str | Path) -> pd.DataFrame:
    """The activation statistics of a training study: one row for each run, step and tensor.

    Returns:
        The key columns without the epoch, `step` (0 is before training), `layer`, `tensor`,
        `direction`, and the statistics of a sweep's table.
    """
    return _statistics(_rows(folder, KEYS))


def load_study(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables of `load_training`, `load_training_curves` and `load_training_statistics`; the
    folder is read once.
    """
    rows = _rows(folder, KEYS)
    return _outcomes(folder, rows), _curves(rows), _statistics(rows)


def _outcomes(folder: str | Path, rows: pd.DataFrame) -> pd.DataFrame:
    return outcomes(rows, load_run(folder).settings["target"])


def _curves(rows: pd.DataFrame) -> pd.DataFrame:
    points = rows[rows["tensor"] == CURVE]
    return _columns(points, [*_keys(KEYS), "step", "train_loss", "train_accuracy"])


def _statistics(rows: pd.DataFrame) -> pd.DataFrame:
    tensors = rows[~rows["tensor"].isin([EPOCH, CURVE])]
    places = ["step", "layer", "tensor", "direction"]
    found = _columns(tensors, [*_keys(KEYS), *places, *STATISTICS])
    for name in ("tensor", "direction"):
        found[name] = found[name].cat.remove_unused_categories()
    whole = [name for name, entry in STATISTICS.items() if entry.integer]
    return found.astype(dict.fromkeys(whole, "int64"))


def load_tuning(folder: str | Path) -> pd.DataFrame | None:
    """The tuning runs of a training study: one row for each variant, learning rate and seed.

    Returns:
        `dataset network init activation width depth lr seed`, the `tuning_loss` on images that
        these runs were not trained on, and the `outcome`; None where the rate was given.
    """
    if not is_training(folder):
        raise StoreError(f"{folder} holds another kind of run, and no training study")
    if not (Path(folder) / TUNING).is_dir():
        return None
    return tuning_outcomes(_rows(Path(folder) / TUNING, TUNING_KEYS))


def outcomes(rows: pd.DataFrame, target: float) -> pd.DataFrame:
    """The table of `load_training`, from the rows of a store."""
    keys = _keys(KEYS)
    epochs = rows[rows["tensor"] == EPOCH].copy()
    points = rows[(rows["tensor"] == CURVE) & (rows["train_accuracy"] >= target)]
    first = points.groupby(keys, observed=True)["step"].min().rename("steps_to_target")
    epochs = epochs.merge(first.reset_index(), how="left", on=keys)
    ended = epochs.groupby(keys, observed=True)["failed"].transform("max").astype(int)
    epochs["outcome"] = pd.Categorical(np.array(WORDS)[ended], WORDS)
    is_last = epochs["failed"].notna()
    for name in _LAST:
        epochs[name] = epochs[name].where(is_last)
    measured = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", *_LAST)
    found = _columns(epochs, [*keys, "epoch", "step", "lr", *measured, "outcome"])
    return found.astype({"epoch": "int64"})


def tuning_outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """The table of `load_tuning`, from the rows of a store."""
    last = rows[rows["failed"].notna()].copy()
    last["outcome"] = pd.Categorical(np.array(WORDS)[last["failed"].astype(int)], WORDS)
    found = last.rename(columns={"valid_loss": "tuning_loss"})
    keys = _keys(TUNING_KEYS)
    return _columns(found, [*keys, "tuning_loss", "outcome"]).sort_values(keys, ignore_index=True)


def _rows(folder: str | Path, keys: tuple[str, ...]) -> pd.DataFrame:
    run = load_run(folder)
    if tuple(run.keys) != keys:
        raise StoreError(f"{folder} holds another kind of run, and no training study")
    return load_table(folder)


def _keys(keys: tuple[str, ...]) -> list[str]:
    return ["dataset", *keys]


def _columns(rows: pd.DataFrame, names: list[Any]) -> pd.DataFrame:
    return rows[names].reset_index(drop=True)
