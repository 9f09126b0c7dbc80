"""What is measured of the recipes: small sweeps, each in a folder that it goes on from."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from initstats.data import Dataset, load_data
from initstats.diagnosis import summarize
from initstats.diagnosis.streams import is_main
from initstats.prediction import predict
from initstats.survey.studied import Studied
from initstats.sweep import Grid, run_sweep

WIDTH, SAMPLES = 64, 64
PROFILE = 31
"""The depth whose layers are drawn one by one."""
COLUMNS = {"attention_entropy": "attention", "participation_ratio": "stream"}
"""What is told of attention, and of which tensor."""


@lru_cache(maxsize=1)
def _digits() -> Dataset:
    return load_data("mnist")


def measured(studied: Studied, depth: int, seeds: int, folder: Path) -> dict[str, pd.DataFrame]:
    """A recipe at one depth: its `summary`, and at depth `PROFILE` its `profile`.

    Args:
        folder: of all sweeps.

    Returns:
        `summary`, a row of `summarize` with `label`, and the `factor` of the gradient's norm from
        the last layer to the first; `profile`: `label layer statistic source value low high`, of
        the statistics `rms`, `branch share`, `gradient`, `similarity`, and those of `COLUMNS`; low
        and high are the ends of the seeds.
    """
    grid = Grid(
        networks=[studied.network],
        inits=[studied.init],
        activations=[studied.activation],
        widths=[WIDTH],
        depth=depth,
        seeds=seeds,
        samples=SAMPLES,
        backward=True,
    )
    name = re.sub(r"[^a-z0-9]+", "-", studied.label.lower().replace("√", "root ")).strip("-")
    table = run_sweep(grid, _digits(), out=folder / f"{name}-{depth}")
    summary = pd.DataFrame(summarize(table)).assign(label=studied.label)
    summary["factor"] = summary["gradient_growth"] ** (depth - 1)
    found = {"summary": summary.astype({"verdict": str})}
    if depth == PROFILE:
        rows = [_profile(table, "measured")]
        told = predict(grid, _digits())
        rows.append(_profile(told[told["note"] == ""], "theory"))
        found["profile"] = pd.concat(rows).assign(label=studied.label)
    return found


def _profile(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The statistics of what goes through all layers, by layer."""
    main = table[is_main(table)]
    forward = main[main["direction"] == "forward"]
    backward = main[main["direction"] == "backward"]
    alike = [name for name in ("sample_correlation", "pair_correlation") if name in table]
    parts = {
        "rms": (forward, np.sqrt(forward["second_moment"])),
        "gradient": (backward, np.sqrt(backward["second_moment"])),
        "similarity": (forward, forward[alike].max(axis=1)),
    }
    if "branch_share" in table:
        parts["branch share"] = (forward, forward["branch_share"])
    for name, tensor in COLUMNS.items():
        if name in table:
            of = table[(table["tensor"] == tensor) & (table["direction"] == "forward")]
            parts[name] = (of, of[name])
    frames = []
    for statistic, (rows, values) in parts.items():
        frame = pd.DataFrame({"layer": rows["layer"], "value": values}).dropna()
        logarithmic = statistic in ("rms", "gradient")
        with np.errstate(divide="ignore"):
            heights = np.log(frame["value"]) if logarithmic else frame["value"]
        seeds = frame[["layer"]].assign(height=heights).groupby("layer")["height"]
        ends = pd.DataFrame({"value": seeds.mean(), "low": seeds.min(), "high": seeds.max()})
        if logarithmic:
            ends = pd.DataFrame({name: np.exp(ends[name]) for name in ends})
        frames.append(ends.reset_index().assign(statistic=statistic, source=source))
    return pd.concat(frames, ignore_index=True)
