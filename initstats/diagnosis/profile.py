"""A network at one time, as the rules read it: its values in the order of execution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.diagnosis.summary import CONFIGURATION, in_order
from initstats.probe.kinds import LINEAR, NORMALIZATIONS, numbers, source

GAINS = {
    "relu": 1.414213562,
    "leaky_relu": 1.414142857,
    "elu": 1.245198301,
    "celu": 1.245198301,
    "selu": 1.0,
    "gelu": 1.533530441,
    "silu": 1.67653247,
    "mish": 1.486847581,
    "softplus": 1.041866836,
    "hardswish": 1.736657213,
    "hardtanh": 1.39203614,
    "tanh": 1.59253742,
    "sigmoid": 1.846228545,
    "softsign": 2.337533363,
}
"""1 / sqrt(E phi(z)^2), z ~ N(0, 1), by the operation's name: `initstats.gain` without torch."""
_CARRYING = {"add", "add_", "dropout", "mean", "pow", "square"}


@dataclass(frozen=True)
class Profile:
    """The rows of a table that belong to one network at one time.

    Attributes:
        subject: the model's class, or the configuration of a study.
        rows: of a probe's table; for a study medians over its seeds, with `name`, `op` and
            `inputs` filled in and each value at a layer of its own.
        step: updates of the weights before it; 0 for a study.
        probed: whether operations were seen one by one.
    """

    subject: str
    rows: pd.DataFrame
    step: int
    probed: bool

    @cached_property
    def signal(self) -> pd.DataFrame:
        """The values of the forward pass, in order.

        `place` names each in words; `entries` is the number of entries of a unit: samples times
        positions.
        """
        return self._in_direction("forward")

    @cached_property
    def gradients(self) -> pd.DataFrame:
        """The gradients of those values, from the input to the output."""
        return self._in_direction("backward")

    @cached_property
    def linear(self) -> pd.DataFrame:
        """The outputs of linear maps with weights: the pre-activations of mean-field theory."""
        return self._linear(self.signal)

    @cached_property
    def linear_gradients(self) -> pd.DataFrame:
        """The gradients of these outputs, from the input to the output."""
        return self._linear(self.gradients)

    @cached_property
    def weights(self) -> pd.DataFrame:
        """The weights of linear maps, with `fan_in`, `fan_out` and their `module`.

        `sigma_w2` is fan_in times the weights' second moment, by which a layer multiplies the
        second moment of its input; `gain` is that of the `activation` that the layer reads, which
        is empty for the model's input; `normalized` says whether a normalization reads the layer.
        """
        rows = self.rows[(self.rows["tensor"] == "weight") & (self.rows["direction"] == "forward")]
        rows = rows[rows["op"].isin(LINEAR) & rows["shape"].str.contains("x")].copy()
        units = _units(rows)
        rows["fan_in"] = rows["count"] / units
        # as many positions of the output read an entry as the kernel has positions
        rows["fan_out"] = units * [math.prod(_sizes(shape)[2:]) for shape in rows["shape"]]
        rows["sigma_w2"] = rows["fan_in"] * rows["second_moment"]
        rows["module"] = [name.rpartition(".")[0] for name in rows["name"]]
        read = [source(layer, self._by_layer) for layer in rows["layer"]]
        rows["activation"] = ["" if row is None else row["op"].rstrip("_") for row in read]
        rows["gain"] = rows["activation"].map(GAINS).fillna(1.0)
        rows["normalized"] = rows["layer"].isin(self._normalized)
        return rows.sort_values("layer")

    def readers(self, layer: int) -> list[pd.Series[Any]]:
        """The values that are made of the one at a layer."""
        return self._readers.get(layer, [])

    def inputs(self, layer: int) -> list[int]:
        """The layers that the operation at a layer reads."""
        return numbers(self._by_layer[layer]["inputs"]) if layer in self._by_layer else []

    @cached_property
    def _by_layer(self) -> dict[int, pd.Series[Any]]:
        return {int(row["layer"]): row for _, row in self.signal.iterrows() if row["layer"] > 0}

    @cached_property
    def _readers(self) -> dict[int, list[pd.Series[Any]]]:
        readers: dict[int, list[pd.Series[Any]]] = {}
        for row in self._by_layer.values():
            for read in numbers(row["inputs"]):
                readers.setdefault(read, []).append(row)
        return readers

    @cached_property
    def _normalized(self) -> set[int]:
        """The layers that a normalization reads, directly or through a residual sum."""
        found: set[int] = set()
        for layer, row in reversed(self._by_layer.items()):  # readers before what they read
            if row["op"] in NORMALIZATIONS or (row["op"] in _CARRYING and layer in found):
                found.update(numbers(row["inputs"]))
        return found

    def _in_direction(self, direction: str) -> pd.DataFrame:
        chosen = (self.rows["tensor"] != "weight") & (self.rows["direction"] == direction)
        rows = self.rows[chosen].sort_values("layer", kind="stable")
        if not self.probed:
            return rows.assign(place=rows["name"], entries=np.inf)  # of thousands of samples
        call = np.where(rows["call"].gt(1), ", call " + rows["call"].astype(str), "")
        place = rows["name"] + " (" + rows["op"] + call + ")"
        return rows.assign(place=place, entries=rows["count"] / np.maximum(_units(rows), 1))

    def _linear(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[(rows["tensor"] == "preactivation") & rows["op"].isin(LINEAR)]


def profiles(table: pd.DataFrame) -> list[Profile]:
    """The networks in a table, in its order: the steps of a probe, the configurations of a study.

    Raises:
        ValueError: neither the table of a study nor that of a probe.
    """
    if {"name", "op", "inputs"} <= set(table.columns):
        steps = [rows.astype({"tensor": str}) for _, rows in table.groupby("step")]
        return [
            Profile(str(rows["network"].iloc[0]), rows, int(rows["step"].iloc[0]), True)
            for rows in steps
        ]
    if not {*CONFIGURATION, "layer", "tensor", "direction"} <= set(table.columns):
        raise ValueError(
            "this is neither a study's table (of run_sweep) nor a probed model's (of measure): "
            f"it has the columns {', '.join(map(str, table.columns))}"
        )
    groups = in_order(table).groupby(CONFIGURATION, observed=True, sort=True)
    return [
        Profile(f"{network} of width {width}, {init}, {activation}", _medians(rows), 0, False)
        for (network, init, activation, width), rows in groups
    ]


def _medians(rows: pd.DataFrame) -> pd.DataFrame:
    """The typical seed's rows of a configuration, with the names that a probe would give."""
    grouped = rows.groupby(["layer", "tensor", "direction"], observed=True)
    typical = grouped.median(numeric_only=True)
    typical["nonfinite"] = grouped["nonfinite"].sum()
    typical = typical.reset_index()
    second = typical["tensor"] == "activation"
    activation = str(rows["activation"].iloc[0]).partition("(")[0]
    place = 2 * typical["layer"] - 1 + second
    return typical.assign(
        name="layer " + typical["layer"].astype(str),
        op=np.where(second, activation, "linear"),
        layer=place,
        inputs=(place - 1).astype(str),
        tensor=typical["tensor"].astype(str),
    )


def _sizes(shape: str) -> list[int]:
    """The sizes in an entry of the column `shape`, as in "8x3x5"."""
    return [int(size) for size in shape.split("x")] if shape else []


def _units(rows: pd.DataFrame) -> NDArray[np.int64]:
    """How many units each row's tensor has; 1 for a tensor of no dimension."""
    shapes = zip(rows["shape"], rows["unit_axis"], strict=True)
    return np.array([_sizes(shape)[axis] if shape else 1 for shape, axis in shapes], np.int64)
