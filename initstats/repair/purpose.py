"""Weights that are what they are on purpose: zeros that start a branch or an output, frequencies.

A branch that begins at zero leaves its block the identity, and an output that begins at zero says
nothing yet; both learn, as the gradient arrives at what is zero (Zhang et al. 2019,
arXiv:1901.09321). Zeros that every way of the signal leads through are a mistake. The weights in
front of a periodic function that nothing comes before are the frequencies at which a model sees
(Sitzmann et al. 2020, arXiv:2006.09661).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from initstats.probe.kinds import RECURRENT, numbers
from initstats.repair import reasons
from initstats.repair.reading import Reading

_TURN = math.pi / 2
"""The std of a phase from which on a periodic function tells inputs apart by more than a slope."""


class Ways:
    """The ways of the signal through the values of a model.

    Args:
        rows: of values, by their layers.
    """

    def __init__(self, rows: dict[int, dict[str, Any]]) -> None:
        self._rows = {layer: row for layer, row in rows.items() if row["tensor"] != "weight"}
        self._inputs = {
            layer: [n for n in numbers(row["inputs"]) if n in self._rows]
            for layer, row in self._rows.items()
        }

    @cached_property
    def weighted(self) -> frozenset[int]:
        """The values that sum their inputs with weights."""
        return frozenset(
            layer
            for layer, row in self._rows.items()
            if row["tensor"] == "preactivation"
            and (row["fan_in"] > 0 or row["op"].partition("[")[0] in RECURRENT)
        )

    def after(self, layers: Iterable[int]) -> set[int]:
        """The values that are made of some."""
        found, first = set(layers), set(layers)
        for layer, inputs in self._inputs.items():
            if any(read in found for read in inputs):
                found.add(layer)
        return found - first

    def before(self, layers: Iterable[int]) -> set[int]:
        """The values that some are made of."""
        found, last = set(layers), set(layers)
        for layer in reversed([*self._inputs]):
            if layer in found:
                found.update(self._inputs[layer])
        return found - last

    def passing(self, closed: set[int], opened: set[int]) -> set[int]:
        """The values that the signal reaches when it cannot pass some that are zero.

        Args:
            closed: they are and stay zero.
            opened: they are zero now, and will not be.
        """
        found, soon = set[int](), set(opened)
        for layer, inputs in self._inputs.items():
            zero = self._rows[layer]["second_moment"] == 0
            if zero and any(read in soon for read in inputs):
                soon.add(layer)
            if layer in closed or (zero and layer not in soon):
                continue
            if not inputs or any(read in found for read in inputs):
                found.add(layer)
        return found

    def shut(self, layers: set[int]) -> set[int]:
        """The first values of zero that are made of some that are not, as of a part of them."""
        zero = {n for n in self.after(layers) if self._rows[n]["second_moment"] == 0}
        return {n for n in zero if any(read not in zero for read in self._inputs[n])}

    def why_zero(self, layers: set[int], others: set[int], left: set[int]) -> str:
        """Why weights of zero look deliberate; empty where they do not.

        Args:
            layers: what they make.
            others: what other weights of zero make.
            left: those of the others that stay zero.
        """
        fed = {read for layer in layers for read in self._inputs.get(layer, [])}
        if not layers or not fed & self.passing(left, others - left):
            return ""  # it waits for other zeros, and they for it
        after = self.after(layers)
        if not (later := after & self.weighted):
            return reasons.ZERO_OUTPUT
        ends = (later | self.after(later)) - {n for read in self._inputs.values() for n in read}
        return reasons.ZERO_BRANCH if ends <= self.passing(layers, others) else ""


def why_frequencies(reading: Reading, ways: Ways, name: str) -> str:
    """Why a parameter's scale is that of a model's frequencies; empty where it is not."""
    phi = reading.follows(name)
    made = reading.made(name)
    if not phi.periodic or ways.before(made) & ways.weighted:
        return ""
    return reasons.frequencies(phi.slope) if reading.output(name)[1] * phi.slope > _TURN else ""
