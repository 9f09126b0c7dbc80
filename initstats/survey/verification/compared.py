"""Sweeps beside what theory predicts of them, in units of what their seeds leave open."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from initstats.data import Dataset
from initstats.networks import Network
from initstats.prediction import predict
from initstats.sweep import Grid, run_sweep

CASE = ["network", "init", "activation"]
PLACE = ["layer", "tensor", "direction"]


class Sweep(NamedTuple):
    """Networks with an init each, in float64, with gradients.

    Attributes:
        cases: a network and an init each.
        activations: with which each case is measured.
        depth: layers.
        width: units.
        seeds: draws of weights.
        data: what the networks read.
    """

    cases: tuple[tuple[str | Network, str], ...]
    activations: tuple[str, ...]
    depth: int
    width: int
    seeds: int
    data: Dataset

    def grids(self) -> list[Grid]:
        """A grid for each case."""
        shared: dict[str, Any] = {
            "activations": [*self.activations],
            "widths": [self.width],
            "depth": self.depth,
            "seeds": self.seeds,
            "backward": True,
            "dtype": "float64",
        }
        return [Grid(networks=[network], inits=[init], **shared) for network, init in self.cases]


def compared(sweep: Sweep) -> pd.DataFrame:
    """Means over seeds of a sweep, and what theory says of these.

    Returns:
        A row for each network, init, activation, layer, tensor, direction and `statistic`:
        `measured`, the mean over seeds; `error`, its standard error; `told`, theory's. Statistics
        are those of a table of which theory says something, and `product`, the mean product of two
        samples, or of two tokens of a sequence.
    """
    parts = []
    for grid in sweep.grids():
        table, told = (
            frame.assign(product=_product(frame)).astype(dict.fromkeys(CASE, str))
            for frame in (run_sweep(grid, sweep.data), predict(grid, sweep.data))
        )
        names = [name for name in STATISTICS if name in table]
        by_place = table.groupby([*CASE, *PLACE], sort=False, observed=True)[names]
        columns = {
            "measured": by_place.mean(),
            "error": by_place.sem(),
            "told": told.set_index([*CASE, *PLACE])[names],
        }
        long = pd.concat({name: frame.stack() for name, frame in columns.items()}, axis=1)
        parts.append(long.rename_axis([*CASE, *PLACE, "statistic"]))
    whole: pd.DataFrame = pd.concat(parts).dropna().reset_index()
    return whole


STATISTICS = ("second_moment", "product", "participation_ratio", "concentration")


def _product(table: pd.DataFrame) -> pd.Series[float]:
    """The mean product of two samples or, where there are any, of two tokens of a sequence."""
    alike = "pair_correlation" if "pair_correlation" in table else "sample_correlation"
    return table[alike] * table["second_moment"]


class Deviation(NamedTuple):
    """How far measured means are from theory.

    Attributes:
        z: the largest deviation over layers and cases, in standard errors.
        low, high: least and largest relative deviation over cases, where a signal or a gradient
            has come furthest.
        error: the largest standard error of these.
        most: the largest relative deviation over layers and cases, in size.
    """

    z: float
    low: float
    high: float
    error: float
    most: float


def deviation(
    rows: pd.DataFrame,
    statistic: str = "second_moment",
    direction: str = "forward",
    tensor: str = "stream",
) -> Deviation:
    """How far one statistic of a tensor is from theory, in rows of `compared`."""
    chosen = _chosen(rows, statistic, direction, tensor)
    # what is the same for every draw has no error but that of rounding
    error = np.hypot(chosen["error"], 1e-6 * chosen["told"].abs())
    z: pd.Series[float] = (chosen["measured"] - chosen["told"]).abs() / error
    last = direction == "forward"
    far = chosen.groupby(CASE, sort=False)["layer"].transform("max" if last else "min")
    ends = chosen[chosen["layer"] == far]
    relative = ends["measured"] / ends["told"] - 1
    most = (chosen["measured"] / chosen["told"] - 1).abs().max()
    error = (ends["error"] / ends["told"]).max()
    return Deviation(*map(float, (z.max(), relative.min(), relative.max(), error, most)))


def gradient(
    rows: pd.DataFrame, first: int, last: int, tensor: str = "stream"
) -> tuple[float, float]:
    """Mean square of a tensor's gradient at a layer over that at a later one, and its error.

    Args:
        rows: of `compared`, of one case.
        first, last: the layers; the gradient at the last one is nearly what was put in.
    """
    slopes = _chosen(rows, "second_moment", "backward", tensor).set_index("layer")
    measured = slopes["measured"].loc[[first, last]].to_numpy()
    growth = float(measured[0] / measured[1])
    return growth, growth * float(slopes["error"].loc[first] / measured[0])


def _chosen(rows: pd.DataFrame, statistic: str, direction: str, tensor: str) -> pd.DataFrame:
    named = {"statistic": statistic, "direction": direction, "tensor": tensor}
    return _where(rows, named)


def at(table: pd.DataFrame, layer: int, tensor: str, direction: str = "forward") -> pd.DataFrame:
    """The rows of a sweep's table at one place, a row for each seed."""
    named = {"layer": layer, "tensor": tensor, "direction": direction}
    return _where(table, named).set_index("seed")


def over_seeds(values: pd.Series[float]) -> tuple[float, float]:
    """The mean over seeds, and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _where(rows: pd.DataFrame, named: dict[str, Any]) -> pd.DataFrame:
    for column, name in named.items():
        rows = rows[rows[column] == name]
    return rows
