"""A network at one time, as the rules read it: its values and weights, and who reads whom."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from initstats.diagnosis.columns import Columns, columns_of
from initstats.diagnosis.graph import Graph
from initstats.diagnosis.sight import Sight
from initstats.diagnosis.summary import in_order
from initstats.diagnosis.verdicts import CONFIGURATION, DECADE
from initstats.diagnosis.zeros import Zeros
from initstats.probe.kinds import NORMALIZATIONS, PASSING, RECURRENT, numbers

FACTS = (
    *("units", "entries", "requires_grad", "no_grad", "updated", "update_ratio"),
    *("gain", "factor", "low", "high", "saturated_fraction", "shut_fraction"),
    *("fan_in", "fan_out", "sigma_w2", "normalized", "shares_axis", "summed_axis"),
    *("paired", "paired_terms", "draws", "unregistered", "read_as_logits"),
)
"""Columns that a probe records; in a study's table, which lacks them, they are NaN."""


@dataclass(frozen=True, eq=False)
class Profile:
    """The rows of a table that belong to one network at one time.

    Attributes:
        subject: the model's class, or the configuration of a study.
        columns: of a probe's table; for a study medians over its seeds, with `name`, `op` and
            `inputs` filled in and each value at a layer of its own.
        step: updates of the weights before it; 0 for a study.
        probed: whether operations were seen one by one.
        graph: who reads whom.
        mode: that of the passes, `train` or `eval`.
        first: the network as it was when the watch began; None for that profile itself.
    """

    subject: str
    columns: Columns
    step: int
    probed: bool
    graph: Graph
    mode: str = "train"
    first: Profile | None = None

    @property
    def rows(self) -> pd.DataFrame:
        """All rows, in the table's order."""
        return self.columns.frame()

    @property
    def signal(self) -> pd.DataFrame:
        """The values of the forward pass, in order; `place` names each in words."""
        return self.values.frame()

    @property
    def gradients(self) -> pd.DataFrame:
        """The gradients of those values, from the input to the output."""
        return self.value_gradients.frame()

    @property
    def linear(self) -> pd.DataFrame:
        """The outputs of linear maps with weights: the pre-activations of mean-field theory."""
        return self.maps.frame()

    @property
    def linear_gradients(self) -> pd.DataFrame:
        """The gradients of these outputs, from the input to the output."""
        rows = self.value_gradients
        return rows.where(np.isin(rows["layer"], [*self.graph.linear])).frame()

    @property
    def weights(self) -> pd.DataFrame:
        """The parameters, in the order of their use."""
        return self.parameters.frame()

    @cached_property
    def values(self) -> Columns:
        """The rows of `signal`."""
        return self._values("forward")

    @cached_property
    def value_gradients(self) -> Columns:
        """The rows of `gradients`."""
        return self._values("backward")

    @cached_property
    def maps(self) -> Columns:
        """The rows of `linear`: each with its `fan_in` and `sigma_w2`."""
        layers = self.values["layer"]
        return self.values.where(np.isin(layers, [*self.graph.linear]))

    @cached_property
    def seen(self) -> Columns:
        """The values that can be judged."""
        return self.sight.seen(self.values)

    @cached_property
    def seen_maps(self) -> Columns:
        """The outputs of linear maps that can be judged."""
        return self.sight.seen(self.maps)

    @cached_property
    def parameters(self) -> Columns:
        """The rows of `weights`."""
        return self._weights("forward")

    @cached_property
    def parameter_gradients(self) -> Columns:
        """The gradients of the parameters."""
        return self._weights("backward")

    @cached_property
    def at(self) -> dict[int, int]:
        """The position of each layer's value in `values`."""
        return {int(layer): number for number, layer in enumerate(self.values["layer"])}

    @cached_property
    def zeros(self) -> Zeros:
        """Which values and gradients are zero, and which of them stay so."""
        return Zeros(self.graph, self.values, self.value_gradients, self.parameters)

    @cached_property
    def begun(self) -> frozenset[int]:
        """The values whose weights began at zero, or at a tenth of the usual size, and have moved.

        What they make, and the gradients that they pass on, are small until they have learned.
        """
        if self.first is None:
            return frozenset()
        maps, zero = self.first.maps, self.first.zeros.sources
        size = np.sqrt(maps["sigma_w2"])
        usual = float(np.median(size[size > 0])) if (size > 0).any() else 0.0
        before = dict(zip(maps.places, size, strict=True))
        small = {place for place, was in before.items() if was < usual / DECADE}
        small |= {self.first.place(layer) for layer in zero}
        rows = self.values
        return frozenset(
            int(layer)
            for layer, place, now in zip(
                rows["layer"], rows.places, np.sqrt(rows["sigma_w2"]), strict=True
            )
            if place in small and now != before.get(place)
        )

    @cached_property
    def sight(self) -> Sight:
        """Which values and gradients can be judged."""
        rows, gradients, parameters = self.values, self.value_gradients, self.parameters
        return Sight(self.graph, rows, gradients, parameters, self.zeros, self.probed)

    def along(self, layers: Sequence[int]) -> Columns:
        """The values at some layers, in that order."""
        return self.values.where(np.array([self.at[layer] for layer in layers], int))

    def gain(self, layer: int) -> float:
        """The gain that a linear map needs to keep the second moment of what it reads.

        Where what follows multiplies the map's output by a factor first, it is as much smaller.
        """
        source = self.graph.source(layer)
        gain = 1.0 if source is None else float(self.values["gain"][self.at[source]])
        return (gain if 0 < gain < math.inf else 1.0) / self.factor(layer)

    def factor(self, layer: int) -> float:
        """The largest constant by which a steep function of a linear map's output multiplies it."""
        rows, waiting, found = self.values, [layer], 1.0
        for here in waiting:
            for reader in self.graph.readers[here]:
                number = self.at[reader]
                factor, op = float(rows["factor"][number]), str(rows["op"][number]).rstrip("_")
                after = [rows["factor"][self.at[r]] for r in self.graph.readers[reader]]
                # of a function that is only a part of others, the whole tells
                if factor > found and (not after or np.isnan(after).any()):
                    found = factor
                biased = op == "add" and rows["tensor"][number] == "preactivation"
                passes = factor > 0 or op in PASSING
                passes |= biased and len(self.graph.inputs[reader]) == 1
                if passes and reader not in waiting:
                    waiting.append(reader)
        return found

    def sees(self, layer: int) -> bool:
        """Whether a linear map makes the frequencies by which a model tells its inputs apart.

        They are what a periodic function, which has no bounds, multiplies by a factor, and what no
        other map comes before.
        """
        before = (n for i in self.graph.inputs[layer] for n in self.graph.maps_before(i))
        if self.factor(layer) == 1 or next(before, None) is not None:
            return False
        steep = self.values.where(self.values["factor"] == self.factor(layer))
        steep = steep.where(
            np.array([layer in self.graph.maps_before(int(n)) for n in steep["layer"]], bool)
        )
        return bool(np.isnan(steep["high"]).all())

    def own(self, layer: int) -> Columns:
        """The parameters that the operation at a layer uses, where it is the first to use them."""
        return self.parameters.where(self.parameters["layer"] == layer)

    def made_of(self, layer: int) -> Columns:
        """The parameters that the weights of a linear map are computed of, as by weight norm."""
        waiting, found = [layer], set[int]()
        while waiting:
            for source in self._reads.get(waiting.pop(), ()):
                if source not in self.at and source not in found:
                    found.add(source)
                    waiting.append(source)
        return self.parameters.where(np.isin(self.parameters["layer"], [*found]))

    def place(self, layer: int) -> str:
        """A value in words."""
        return self.along([layer]).places[0]

    @cached_property
    def _reads(self) -> dict[int, list[int]]:
        """The layers that each operation read, weights that were computed among them."""
        forward = self.columns.where(self.columns["direction"] == "forward")
        found: dict[int, list[int]] = {}
        for layer, text in zip(forward["layer"], forward["inputs"], strict=True):
            found.setdefault(int(layer), []).extend(numbers(text))
        return found

    def _values(self, direction: str) -> Columns:
        rows = self.columns.where(
            (self.columns["tensor"] != "weight") & (self.columns["direction"] == direction)
        )
        return rows.where(np.argsort(rows["layer"], kind="stable"))

    def _weights(self, direction: str) -> Columns:
        """Parameters: what is computed of them alone comes first at a layer of its own."""
        rows = self.columns.where(
            (self.columns["tensor"] == "weight") & (self.columns["direction"] == direction)
        )
        names = zip(rows["layer"], rows["name"], strict=True)
        return rows.where(np.array([pair not in self._derived for pair in names], bool))

    @cached_property
    def _derived(self) -> set[tuple[int, str]]:
        """What is computed of parameters alone, by layer and name: no value is at its layer."""
        first: dict[int, str] = {}
        forward = self.columns.where(self.columns["direction"] == "forward")
        for layer, name in zip(forward["layer"], forward["name"], strict=True):
            first.setdefault(layer, name)
        return {(layer, name) for layer, name in first.items() if layer not in self.at}


def profiles(table: pd.DataFrame) -> list[Profile]:
    """The networks in a table, in its order: the steps of a probe, the configurations of a study.

    Raises:
        ValueError: neither the table of a study nor that of a probe.
    """
    if {"name", "op", "inputs"} <= set(table.columns):
        return [*_probed(table)]
    if not {*CONFIGURATION, "layer", "tensor", "direction"} <= set(table.columns):
        raise ValueError(
            "this is neither a study's table (of run_sweep) nor a probed model's (of measure): "
            f"it has the columns {', '.join(map(str, table.columns))}"
        )
    groups = in_order(table).groupby(CONFIGURATION, observed=True, sort=True)
    found = []
    for (network, init, activation, width), rows in groups:
        columns = columns_of(_medians(rows))
        subject = f"{network} of width {width}, {init}, {activation}"
        found.append(Profile(subject, columns, 0, False, _graph(columns, probed=False)))
    return found


def _probed(table: pd.DataFrame) -> Iterator[Profile]:
    """A profile for each step, and for each mode at a step; equal graphs are made once."""
    facts = {name: np.nan for name in FACTS if name not in table}
    columns = columns_of(table.assign(**facts))
    modes = columns["mode"] if "mode" in table else np.full(len(table), "train")
    known: dict[Hashable, Graph] = {}
    first: Profile | None = None
    pairs = pd.MultiIndex.from_arrays([columns["step"], modes])
    codes, times = pairs.factorize(sort=True)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], range(len(times)))
    for (step, mode), index in zip(times, np.split(order, starts)[1:], strict=True):
        rows = columns.where(index)
        key = tuple(tuple(rows[name]) for name in ("layer", "inputs", "op", "tensor", "direction"))
        key = (*key, tuple(np.isnan(rows["fan_in"])), tuple(rows["normalized"] == 1))
        if key not in known:
            known[key] = _graph(rows, probed=True)
        subject = str(rows["network"][0])
        profile = Profile(subject, rows, int(step), True, known[key], mode, first)
        first = first or profile
        yield profile


def _graph(rows: Columns, *, probed: bool) -> Graph:
    """The values of a network, and which of them linear maps and weights made."""
    chosen = (rows["tensor"] != "weight") & (rows["direction"] == "forward")
    values = rows.where(chosen)
    values = values.where(np.argsort(values["layer"], kind="stable"))
    layers = [int(layer) for layer in values["layer"]]
    ops = {layer: str(op) for layer, op in zip(layers, values["op"], strict=True)}
    inputs = {
        layer: tuple(number for number in numbers(text) if number in ops and number != layer)
        for layer, text in zip(layers, values["inputs"], strict=True)
    }
    weighted = values["tensor"] == "preactivation"
    linear = weighted & (~np.isnan(values["fan_in"]) | (not probed))
    linear &= ~np.array([str(op).partition("[")[0] in RECURRENT for op in values["op"]], bool)
    named = np.array([op in NORMALIZATIONS for op in values["op"]], bool)
    normalized = named | (values["normalized"] == 1)
    chosen_of = partial(_chosen, layers)
    return Graph(ops, inputs, chosen_of(linear), chosen_of(weighted), chosen_of(normalized))


def _chosen(layers: list[int], mask: Any) -> frozenset[int]:
    return frozenset(layer for layer, kept in zip(layers, mask, strict=True) if kept)


def _medians(rows: pd.DataFrame) -> pd.DataFrame:
    """The typical seed's rows of a configuration, with the names that a probe would give.

    The values of a configuration are one behind another, as in a network without shortcuts.
    """
    grouped = rows.groupby(["layer", "tensor", "direction"], observed=True)
    typical = grouped.median(numeric_only=True)
    typical["nonfinite"] = grouped["nonfinite"].sum()
    typical = typical.reset_index()
    activation = str(rows["activation"].iloc[0]).partition("(")[0]
    second = typical["tensor"] == "activation"
    values = pd.MultiIndex.from_arrays([typical["layer"], second])
    number, _ = values.factorize(sort=True)
    facts = {name: np.nan for name in FACTS if name not in typical}
    return typical.assign(
        name="layer " + typical["layer"].astype(str),
        op=np.where(second, activation, "linear"),
        inputs=["" if code == 0 else str(code) for code in number],
        layer=number + 1,
        tensor=typical["tensor"].astype(str),
        **(facts | {"entries": np.inf}),  # of thousands of samples
    )
