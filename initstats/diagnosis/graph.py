"""The graph of a network's values: who reads whom, the longest path, and the residual stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from initstats.probe.kinds import MIXING, PASSING, words

SUMS = words("add add_ sub sub_")
SCALING = words("div mul mul_ div_ multiply divide true_divide")
RECTIFIERS = words("relu leaky_relu prelu rrelu")
"""Functions that give twice as much for twice their input, as a pool does."""
_CARRYING = SUMS | PASSING | RECTIFIERS
_LOOKUPS = words("embedding embedding_bag")
_NORMALIZED = 10**6
"""What a normalization on the way counts: more than all linear maps together."""


class Block(NamedTuple):
    """A residual sum: a stream, and a branch with more linear maps in it.

    Attributes:
        layer: of the sum.
        stream, branch: the layers that it adds.
        before: the sum that the stream comes from; None where this is the first of its stream.
        normalized: whether the branch goes through a normalization.
    """

    layer: int
    stream: int
    branch: int
    before: int | None
    normalized: bool


@dataclass(frozen=True, eq=False)
class Graph:
    """Values by their layers, in the order of execution.

    Attributes:
        ops: the operation that made each value; `input` for what comes from outside.
        inputs: the values that it read; what is computed of weights alone is none.
        linear: the values that linear maps with weights made.
        weighted: the values that an operation with weights made.
        normalizations: the values that a normalization made, also one that is written out.
    """

    ops: Mapping[int, str]
    inputs: Mapping[int, tuple[int, ...]]
    linear: frozenset[int]
    weighted: frozenset[int]
    normalizations: frozenset[int]

    @cached_property
    def readers(self) -> dict[int, list[int]]:
        """The values that are made of each."""
        found: dict[int, list[int]] = {layer: [] for layer in self.ops}
        for layer, inputs in self.inputs.items():
            for source in inputs:
                found[source].append(layer)
        return found

    @cached_property
    def path(self) -> list[int]:
        """The linear maps on the longest way from the input to the output.

        Maps beside each other, as those of queries, keys and values, are not one behind another.
        """
        length: dict[int, int] = {}
        before: dict[int, int | None] = {}
        for layer, inputs in self.inputs.items():
            before[layer] = max(inputs, key=length.__getitem__, default=None)
            length[layer] = (layer in self.linear) + max((length[i] for i in inputs), default=0)
        here = max(reversed([*length]), key=length.__getitem__, default=None)
        found = []
        while here is not None:
            if here in self.linear:
                found.append(here)
            here = before[here]
        return found[::-1]

    @cached_property
    def normalized(self) -> frozenset[int]:
        """The values that a normalization reads, at once or behind sums, pools and rectifiers."""
        found: set[int] = set()
        for layer in reversed([*self.ops]):  # readers before what they read
            carries = self.ops[layer].rstrip("_") in _CARRYING and layer in found
            if carries or layer in self.normalizations:
                found.update(self.inputs[layer])
        return frozenset(found)

    @cached_property
    def computed(self) -> frozenset[int]:
        """The values whose units are computed: by a layer with weights, of what comes before.

        An embedding is looked up, a mask is given, and the positions that scores are about (the
        product of two values) are no units.
        """
        found: set[int] = set()
        for layer, inputs in self.inputs.items():
            if not inputs or self.ops[layer] in _LOOKUPS:
                continue
            product = layer not in self.weighted and self.ops[layer] in MIXING
            if layer in self.weighted or (not product and any(i in found for i in inputs)):
                found.add(layer)
        return frozenset(found)

    @cached_property
    def downstream(self) -> frozenset[int]:
        """The values that some layer with weights comes before, or makes."""
        found: set[int] = set()
        for layer, inputs in self.inputs.items():
            if layer in self.weighted or any(source in found for source in inputs):
                found.add(layer)
        return frozenset(found)

    @cached_property
    def heads(self) -> frozenset[int]:
        """The values that nothing mixes further: what is made of each unit of them is an output."""
        found: set[int] = set()
        for layer in reversed([*self.ops]):  # readers before what they read
            readers = self.readers[layer]
            mixed = any(r in self.linear or _mixes(self.ops[r]) for r in readers)
            if not mixed and found.issuperset(readers):
                found.add(layer)
        return frozenset(found)

    @cached_property
    def summands(self) -> frozenset[int]:
        """The values that only sums read: others beside them may be larger."""
        pairs = self.readers.items()
        return frozenset(
            layer for layer, all_ in pairs if all_ and all(self.ops[r] in SUMS for r in all_)
        )

    @cached_property
    def blocks(self) -> list[Block]:
        """The residual sums: of two values from one origin, one of them by more linear maps."""
        found: dict[int, Block] = {}
        state: dict[int, tuple[int, int]] = {}  # linear maps since the origin, and the origin
        for layer, inputs in self.inputs.items():
            states = [state[source] for source in inputs]
            cost, origin = min(states, key=lambda s: (s[0], -s[1]), default=(0, layer))
            if len(inputs) > 1 and self.ops[layer] in SUMS:
                order = sorted(range(len(inputs)), key=lambda number: states[number][0])
                stream, branch = inputs[order[0]], inputs[order[-1]]
                together = len({start for _, start in states}) == 1
                if together and state[stream][0] < state[branch][0]:
                    before = origin if origin in found and cost < _NORMALIZED else None
                    normalized = state[branch][0] >= _NORMALIZED
                    found[layer] = Block(layer, stream, branch, before, normalized)
                if not together or layer in found:
                    cost, origin = 0, layer
            cost += (layer in self.linear) + _NORMALIZED * (layer in self.normalizations)
            state[layer] = (cost, origin)
        return [*found.values()]

    @cached_property
    def streams(self) -> list[list[Block]]:
        """The residual streams: sums, each adding to the one before; the longest first."""
        chains: dict[int, list[Block]] = {}
        for block in self.blocks:
            chain = chains.pop(block.before, []) if block.before is not None else []
            chains[block.layer] = [*chain, block]
        return sorted(chains.values(), key=len, reverse=True)

    def maps_before(self, layer: int) -> list[int]:
        """The nearest linear maps that a value comes from."""
        found: dict[int, None] = {}
        waiting, seen = [layer], {layer}
        while waiting:
            here = waiting.pop()
            if here in self.linear:
                found[here] = None
                continue
            for source in self.inputs[here]:
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return sorted(found)

    def source(self, layer: int) -> int | None:
        """The value that a linear map reads; None where none was measured."""
        return next(iter(self.inputs[layer]), None)


def rms_ratio(out: float, read: float) -> float:
    """How much larger an rms is, from second moments; NaN where one of them is 0."""
    return math.sqrt(out / read) if read > 0 and out > 0 else math.nan


def _mixes(op: str) -> bool:
    """Whether an operation makes new units; of several outputs, each has a number behind it."""
    return op.partition("[")[0].rstrip("_") in MIXING
