"""What of a network can be judged: not what is NaN or infinite, and not what is cut off from x.

Statistics are of the finite entries, and those of values that are the same for every sample tell
what a bias is, not what becomes of the signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from initstats.diagnosis.columns import Columns
from initstats.diagnosis.graph import SCALING, SUMS, Graph
from initstats.diagnosis.zeros import Zeros
from initstats.probe.kinds import words

Judged = Literal["values", "finite", "gradients", "weights"]
"""What a rule judges: values that carry the signal, values whatever they are, and so on."""
ENOUGH = 16
"""The fewest entries (samples times positions) that can show that a unit is constant.

A live rectifier is at zero for all of 16 entries once in 2**16.
"""
WHOLE = 0.999
"""The share of dead units from which on nothing passes a layer."""

_FED = SCALING | SUMS | words("alpha_dropout dropout feature_alpha_dropout feature_dropout")
"""Operations that may read more than values: a mask, or noise."""


class Blind(NamedTuple):
    """From where on a network could not be judged, and why."""

    where: str
    reason: str


@dataclass(frozen=True, eq=False)
class Sight:
    """The values and gradients of a network at one time that tell nothing about the signal."""

    graph: Graph
    rows: Columns
    gradients: Columns
    parameters: Columns
    zeros: Zeros
    probed: bool

    @cached_property
    def contained(self) -> dict[int, bool]:
        """The values with NaN or infinite entries: whether all that read them have none.

        So it is with the values of a mask. Later layers come first.
        """
        bad = self.rows["layer"][self.rows["nonfinite"] > 0]
        found: dict[int, bool] = {}
        for layer in reversed([int(layer) for layer in bad]):
            readers = self.graph.readers[layer]
            found[layer] = bool(readers) and all(found.get(reader, True) for reader in readers)
        return found

    @cached_property
    def spread(self) -> list[int]:
        """The values with NaN or infinite entries that are no mask, in order."""
        return sorted(layer for layer, held in self.contained.items() if not held)

    @cached_property
    def dead(self) -> dict[int, float]:
        """The share of dead units where units die: in what is made of values that are less dead.

        What zero weights make is left out, and what zeros from outside do, as a first state's. An
        input that is the same for every sample counts.
        """
        found = {0: 1.0} if self._given and self.shuts(0) else {}
        for layer, share in self._dying.items():
            read, op = self.graph.inputs[layer], self.graph.ops[layer]
            outside = layer in self.zeros.values and len(read) == 1 and op in SCALING
            if layer in self.constant - self.begins:
                continue
            if layer not in self.zeros.excused and not (outside and not self.shuts(layer)):
                found[layer] = share
        return found

    @cached_property
    def _dying(self) -> dict[int, float]:
        """The share of dead units where there are some, and fewer in all that was read.

        Of a mask, a lookup or a score there are no units. A sum with a small number comes to a
        constant by rounding alone. What random draws set to zero is not dead.
        """
        rows, graph, left = self.rows, self.graph, self._left
        share = dict(zip(map(int, rows["layer"]), rows["dead_fraction"], strict=True))
        dead = (rows["dead_fraction"] > 0) & (rows["entries"] >= ENOUGH)
        return {
            layer: float(share[layer])
            for layer in map(int, rows["layer"][dead])
            if (layer in graph.computed or not self.probed)
            and graph.ops[layer] not in SUMS
            and left.get(layer, ENOUGH) >= ENOUGH
            and all(share[source] < share[layer] for source in graph.inputs[layer])
        }

    @cached_property
    def _left(self) -> dict[int, float]:
        """How many entries of a unit random draws leave, where there are draws and then no weights.

        It is 0 of what the draws themselves made: to see there how many units are constant tells
        of the draws.
        """
        rows, found = self.rows, dict[int, float]()
        if not (rows["draws"] > 0).any():
            return {}
        kept, numbers = 1 - rows["zero_fraction"], list(map(int, rows["layer"]))
        at = {layer: number for number, layer in enumerate(numbers)}
        left: dict[int, float] = {}
        for layer, number in at.items():
            inputs = self.graph.inputs[layer]
            before = [left[i] for i in inputs if i in left and layer not in self.graph.weighted]
            if rows["draws"][number] > 0:
                read = max((kept[at[i]] for i in inputs), default=1.0)
                drawn = max(rows["draws"][number] / rows["units"][number], 1.0)
                before.append(float(drawn * kept[number] / read) if read > 0 else 0.0)
                found[layer] = 0.0
            if before:
                left[layer] = min(before)
        return left | found

    @cached_property
    def _given(self) -> bool:
        """Whether all inputs are the same for every sample."""
        outside = self.rows.where(self.rows["layer"] == 0)
        same = (outside["dead_fraction"] == 1) & (outside["entries"] >= ENOUGH)
        return len(outside) > 0 and bool(same.all())

    @cached_property
    def _seeds(self) -> frozenset[int]:
        """The values that are zero, or that no sample changes though it could."""
        shut = {layer for layer, dead in self._dying.items() if dead >= WHOLE}
        given = {0} if self._given else set[int]()
        return frozenset(self.zeros.sources | self.zeros.values | shut | given)

    @cached_property
    def constant(self) -> frozenset[int]:
        """The values that are the same for every sample from some start on."""
        rows, zero, found = self.rows, self.zeros.values, set[int]()
        if not self._seeds:
            return frozenset()
        # at the border of an image a constant may be another than within
        alike = {int(layer) for layer in rows["layer"][rows["dead_fraction"] == 1]} | zero
        alike |= {layer for layer, op in self.graph.ops.items() if op not in _FED}
        for layer, inputs in self.graph.inputs.items():
            read = [source in found for source in inputs]
            fed = layer in alike and bool(read) and all(read)
            if layer in self._seeds or fed:
                found.add(layer)
        return frozenset(found)

    @cached_property
    def begins(self) -> frozenset[int]:
        """Those of them that read none."""
        inputs = self.graph.inputs
        return frozenset(
            layer for layer in self.constant if not any(i in self.constant for i in inputs[layer])
        )

    @cached_property
    def cut(self) -> list[int]:
        """The linear maps that read nothing but constants, and so cannot be judged; in order."""
        graph = self.graph
        return sorted(
            layer
            for layer in self.constant & graph.linear
            if graph.inputs[layer] and all(i in self.constant for i in graph.inputs[layer])
        )

    def shuts(self, layer: int) -> bool:
        """Whether a value is constant, and so is an output of the network because of it."""
        waiting, seen = [layer] if layer in self.constant else [], {layer}
        while waiting:
            for reader in self.graph.readers[waiting.pop()]:
                if reader in self.constant and reader not in seen:
                    seen.add(reader)
                    waiting.append(reader)
        ends = any(not self.graph.readers[reader] for reader in seen)
        return ends and not seen.isdisjoint(self.cut)

    @cached_property
    def unseen(self) -> frozenset[int]:
        """The values that cannot be judged."""
        behind = self.constant - self.begins if self.cut else frozenset[int]()
        return frozenset(self.spread) | behind

    def seen(self, rows: Columns) -> Columns:
        """Those of some rows of values that can be judged."""
        return rows.where(~np.isin(rows["layer"], [*self.unseen])) if self.unseen else rows

    def blind(self, judged: Iterable[Judged]) -> Blind | None:
        """The first reason why a rule that judges these things cannot judge all of them."""
        found = {
            "weights": self._weights,
            "finite": self._finite,
            "values": self._values,
            "gradients": self._gradients,
        }
        return next((reason for what in judged if (reason := found[what])), None)

    @cached_property
    def _weights(self) -> Blind | None:
        bad = self.parameters["name"][self.parameters["nonfinite"] > 0]
        if not len(bad):
            return None
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        verb = "hold" if others else "holds"
        return Blind(str(bad[0]), f"{bad[0]}{others} {verb} NaN or infinite weights")

    @cached_property
    def _finite(self) -> Blind | None:
        if not self.spread:
            return None
        place = self._place(self.spread[0])
        return Blind(place, f"values are NaN or infinite from {place} on")

    @cached_property
    def _values(self) -> Blind | None:
        if self._finite or not self.cut:
            return self._finite
        begins = self._origin(self.cut[0])
        place, last = self._place(begins), self._place(max(self.cut))
        what = "exactly 0" if begins in self.zeros.values else "the same for every sample"
        return Blind(place, f"the signal is {what} from {place} to {last}")

    @cached_property
    def _gradients(self) -> Blind | None:
        if self._finite:
            return self._finite
        rows = self.gradients
        moments = dict(zip(map(int, rows["layer"]), rows["second_moment"], strict=True))
        bad = {int(layer) for layer in rows["layer"][rows["nonfinite"] > 0]}
        for layer in reversed(self.graph.path):  # as the gradient goes
            place = self._place(layer)
            if layer not in moments:
                return Blind(place, f"no gradient arrived at {place}")
            if layer in bad:
                return Blind(place, f"the gradient is NaN or infinite at {place}")
            if moments[layer] == 0:
                return Blind(place, f"the gradient is exactly 0 at {place}")
        return None

    def _origin(self, layer: int) -> int:
        """The first value from which on a constant is one."""
        while layer not in self.begins:
            layer = next(i for i in self.graph.inputs[layer] if i in self.constant)
        return layer

    def _place(self, layer: int) -> str:
        return self.rows.where(self.rows["layer"] == layer).places[0]
