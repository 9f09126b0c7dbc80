"""A training study of known effects, as its readers would find it: no network is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

ACTIVATIONS = ("relu", "shifted_relu", "leaky_relu(negative_slope=0.1)", "general_relu")
INITS = ("kaiming_normal", "torch_default")
RATES = (0.03, 0.06, 0.12, 0.24, 0.48)
EFFECTS = {"shifted_relu": 0.0016, "leaky_relu(negative_slope=0.1)": 0.0, "general_relu": 0.0003}
VARIANT = ["network", "init", "activation", "width", "depth"]
KEYS = ["dataset", *VARIANT]
STATISTICS = ("mean", "std", "second_moment", "dead_fraction", "zero_fraction")

Run = tuple[str, str, int]
"""The init, the activation and the seed of a run."""


def study(
    activations: Sequence[str] = ACTIVATIONS,
    inits: Sequence[str] = INITS,
    *,
    networks: Sequence[str] = ("cnn",),
    depths: Sequence[int] = (4,),
    seeds: int = 20,
    epochs: int = 3,
    effects: Mapping[str, float] = EFFECTS,
    diverged: Sequence[Run] = (("torch_default", "general_relu", 3),),
    tuned: bool = True,
    statistics: bool = True,
) -> dict[str, Any]:
    """The tables of a study: `table`, `curves`, `tuning` and `statistics`.

    Args:
        effects: what an activation adds to the accuracy, whose spread over seeds is 0.0015 and
            that of differences 0.0008.
        diverged: runs that fail, in all networks.
        tuned, statistics: whether these tables are there.
    """
    random = np.random.default_rng(0)
    runs = pd.DataFrame(
        product(["mnist"], networks, inits, activations, [8], depths, range(seeds)),
        columns=[*KEYS, "seed"],
    )
    of_seed, own = random.normal(0, 0.0014, seeds), random.normal(0, 0.00057, len(runs))
    gains = runs["activation"].map(dict(effects)).fillna(0.0)
    names = ["init", "activation", "seed"]
    fails = [run in diverged for run in runs[names].itertuples(index=False, name=None)]
    runs = runs.assign(
        accuracy=0.975 + gains + of_seed[runs["seed"]] + own,
        lr=np.where(runs["init"] == "torch_default", 0.24, 0.12) if tuned else 0.1,
        outcome=np.where(fails, "diverged", "trained"),
    )
    found = {"table": _epochs(runs, epochs), "curves": _points(runs, epochs)}
    if tuned:
        found["tuning"] = _tuning(runs[KEYS].drop_duplicates(), random)
    if statistics:
        found["statistics"] = _statistics(runs, epochs, random)
    return found


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its names as categories, in the order of their appearance."""
    names = ["dataset", "network", "init", "activation"]
    kinds: dict[str, Any] = {name: pd.CategoricalDtype([*frame[name].unique()]) for name in names}
    if "outcome" in frame:
        kinds["outcome"] = pd.CategoricalDtype(["trained", "diverged", "chance"])
    return frame.astype(kinds)


def _epochs(runs: pd.DataFrame, epochs: int) -> pd.DataFrame:
    table = runs.loc[runs.index.repeat(epochs)].reset_index(drop=True)
    table["epoch"] = np.tile(np.arange(1, epochs + 1), len(runs))
    table["step"] = 782 * table["epoch"]
    behind, last = epochs - table["epoch"], table["epoch"] == epochs
    lost = table["outcome"] != "trained"
    table["train_loss"] = (0.06 + 0.09 * behind + 2 * (0.975 - table["accuracy"])).mask(lost)
    table["valid_accuracy"] = (table["accuracy"] - 0.008 * behind).mask(lost)
    table["valid_loss"] = (3.3 * (1 - table["valid_accuracy"])).mask(lost)
    table["test_loss"] = (3.2 * (1 - table["valid_accuracy"])).where(last).mask(lost)
    table["test_accuracy"] = (table["valid_accuracy"] + 0.001).where(last)
    table["steps_to_target"] = (640.0 - 1e4 * (table["accuracy"] - 0.975)).where(last).mask(lost)
    outcome = table.pop("outcome")
    return _named(table.drop(columns="accuracy").assign(outcome=outcome))


def _points(runs: pd.DataFrame, epochs: int) -> pd.DataFrame:
    steps = np.linspace(0, 782 * epochs, 51)[1:].round().astype(np.int64)
    curves = runs.loc[runs.index.repeat(len(steps))].reset_index(drop=True)
    curves["step"] = np.tile(steps, len(runs))
    lost = (curves["outcome"] != "trained") & (curves["step"] > 100)
    loss = 0.05 + 2.2 / (1 + curves["step"] / 40) + 2 * (0.975 - curves["accuracy"])
    curves["train_loss"], curves["train_accuracy"] = loss, 1 - loss / 3
    curves = curves[~lost]  # a run that diverged has no more points
    return _named(curves.drop(columns=["accuracy", "outcome", "lr"]))


def _tuning(variants: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    tuning = variants.merge(pd.DataFrame({"lr": RATES}), "cross")
    tuning = tuning.merge(pd.DataFrame({"seed": [1000, 1001]}), "cross")
    best = np.where(tuning["init"] == "torch_default", 0.26, 0.13)
    of_name = {
        name: 0.9 + 0.15 * (place % 4) for place, name in enumerate(tuning["activation"].unique())
    }
    away = np.log2(tuning["lr"] / best / tuning["activation"].map(of_name))
    tuning["tuning_loss"] = 0.13 + 0.012 * away**2 + random.normal(0, 0.0005, len(tuning))
    lost = (tuning["activation"] == "general_relu") & (tuning["lr"] == RATES[-1])
    tuning.loc[lost, "tuning_loss"] = np.nan
    tuning["outcome"] = np.where(lost, "diverged", "trained")
    return _named(tuning)


def _statistics(runs: pd.DataFrame, epochs: int, random: np.random.Generator) -> pd.DataFrame:
    """At the first step and the last one, of each layer's activations and pre-activations."""
    parts = []
    for depth in runs["depth"].unique():
        some = runs[runs["depth"] == depth]
        ways = [("preactivation", "forward"), ("activation", "forward")]
        ways += [("preactivation", "backward")]
        places = pd.DataFrame(
            [
                (step, layer, *way)
                for step, layer, way in product([0, 782 * epochs], range(1, int(depth) + 1), ways)
            ],
            columns=["step", "layer", "tensor", "direction"],
        )
        parts.append(some[[*KEYS, "seed"]].merge(places, "cross"))
    rows = pd.concat(parts, ignore_index=True)
    small = rows["init"].map({"torch_default": 0.55}).fillna(0.95).astype(float)
    size: Any = small ** rows["layer"] * np.where(rows["step"] > 0, 1.6, 1.0)
    size *= np.where(rows["direction"] == "backward", 0.01, 1.0)
    rows["count"], rows["nonfinite"], rows["infinite"] = 50_000, 0, 0
    rows["std"] = size * np.exp(random.normal(0, 0.05, len(rows)))
    rows["mean"] = 0.3 * rows["std"]
    rows["second_moment"] = rows["std"] ** 2 + rows["mean"] ** 2
    rows["dead_fraction"] = 0.02 * rows["layer"]
    rows["zero_fraction"] = 0.5
    rows["sample_correlation"] = 1 - 0.6 ** rows["layer"]
    return _named(rows)
