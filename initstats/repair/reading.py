"""What a probe says about the parameters of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import nn

from initstats import activations
from initstats.activations import Activation
from initstats.probe import Probe
from initstats.probe.elementwise import IDENTITY, Phi
from initstats.probe.kinds import PASSING, numbers
from initstats.probe.measuring import functions_of, products_of
from initstats.probe.passes import bare


class Reading:
    """What a probe saw in one pass, asked by the names of parameters.

    Args:
        model: any module.
        inputs: the batch; as `measure` takes it.

    Attributes:
        values: the rows of all values, and of what is computed of weights, by their layers.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        probe = Probe(model).run(inputs)
        table, self._functions = probe.table(), functions_of(probe)
        self._products = products_of(probe)
        names = {bare(name) for name, _ in model.named_parameters()}
        rows = table[table["direction"] == "forward"]
        own = (rows["tensor"] == "weight") & rows["name"].isin(names)
        self._parameters = _by(rows[own], "name")
        self.values: dict[int, dict[str, Any]] = _by(rows[~own], "layer")
        self._readers: dict[int, list[int]] = {}
        for layer, row in self.values.items():
            for number in numbers(row["inputs"]):
                self._readers.setdefault(number, []).append(layer)

    def keys(self, name: str) -> dict[str, Any]:
        """The layer, operation and call that use a parameter; -1 and 0 where none does."""
        row = self._use(name) or {"layer": -1, "op": "", "call": 0}
        return {key: row[key] for key in ("layer", "op", "call")}

    def output(self, name: str) -> tuple[float, float]:
        """The mean and std of what is made with a parameter; NaN where nothing is."""
        row = self._use(name) or {}
        return row.get("mean", math.nan), row.get("std", math.nan)

    def std(self, name: str) -> float:
        """The std of a parameter; NaN where it was not measured."""
        return float(self._parameters.get(name, {}).get("std", math.nan))

    def activation(self, name: str, modules: Mapping[str, nn.Module]) -> Activation:
        """The elementwise function that made what a layer reads; the identity where none did.

        For a function that cannot be had, of which the gain is known, a multiple of the identity
        that has the same gain stands in.
        """
        row = self._read(name)
        if row is None or not abs(row["gain"] - 1) > 1e-12:
            return activations.get("identity")
        gain = row["gain"]
        while carried := self._carried(row, gain):
            row = carried
        module = modules.get(row["name"])
        leaf = module is not None and row["name"] and not any(True for _ in module.children())
        op = row["op"].rstrip("_")
        name = type(module).__name__ if leaf else op
        for known in (module, op) if leaf else (op,):
            with suppress(Exception):  # a module that computes no elementwise function
                found = activations.get(known)  # type: ignore[arg-type]
                if math.isclose(found.gain.forward, gain, rel_tol=1e-6):
                    return replace(found, name=name)
        return replace(activations.get(lambda z: z / gain), name=name)

    def made(self, name: str) -> set[int]:
        """The layers of the values that calls of one module make with a parameter."""
        use = self._use(name)
        if use is None:
            return set()
        same = ("name", "op", "sigma_w2", "fan_in")
        rows = [row for row in self.values.values() if all(row[key] == use[key] for key in same)]
        return {use["layer"], *(row["layer"] for row in rows if row["call"] != use["call"])}

    def follows(self, name: str) -> Phi:
        """The elementwise function of what is made with a parameter, the steepest of several."""
        use = self._use(name)
        waiting, found = [use["layer"]] if use else [], [IDENTITY]
        for layer in waiting:
            for reader in self._readers.get(layer, []):
                row, phi = self.values[reader], self._functions.get(reader, IDENTITY)
                composed = phi.function is not None and phi.known
                if composed and not self._continues(reader, phi):
                    found.append(phi)
                passes = composed or row["op"].rstrip("_") in PASSING or _adds_bias(row)
                if passes and reader not in waiting:
                    waiting.append(reader)
        return max(found, key=lambda phi: (phi.factor, phi.periodic))

    def _continues(self, layer: int, phi: Phi) -> bool:
        """Whether a function of a value is only a part of others."""
        readers = [self._functions.get(r, IDENTITY) for r in self._readers.get(layer, [])]
        return bool(readers) and all(phi is other or phi in other.parts for other in readers)

    def _use(self, name: str) -> dict[str, Any] | None:
        """The row of the value that a parameter, or what is computed of it, first makes.

        A product counts before a look-up, as of a tied embedding.
        """
        row = self._parameters.get(name)
        row = row and self.values.get(self._products.get(name, row["layer"]))
        while row and row["tensor"] == "weight":
            row = self.values.get(self._readers.get(row["layer"], [-1])[0])
        return row

    def _read(self, name: str) -> dict[str, Any] | None:
        """The row of the value that is read by the operation which uses a parameter."""
        use = self._use(name) or {"inputs": ""}
        return next((row for row in self._inputs(use) if row["tensor"] != "weight"), None)

    def _carried(self, row: dict[str, Any], gain: float) -> dict[str, Any] | None:
        """The row that an operation such as pooling was given, whose gain it only carries on."""
        return next((source for source in self._inputs(row) if source["gain"] == gain), None)

    def _inputs(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        rows = (self.values.get(number) for number in numbers(row["inputs"]))
        return [row for row in rows if row]


def _adds_bias(row: dict[str, Any]) -> bool:
    alone = len(numbers(row["inputs"])) == 1
    return alone and row["op"].rstrip("_") == "add" and row["tensor"] == "preactivation"


def _by(rows: pd.DataFrame, key: str) -> dict[Any, dict[str, Any]]:
    """The first row for each entry of a column."""
    records = rows.drop_duplicates(key).to_dict("records")
    return {record[key]: {str(k): x for k, x in record.items()} for record in records}
