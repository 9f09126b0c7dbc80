"""Residual branches: where a model adds what products make of a stream to that stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from initstats.diagnosis.graph import SCALING, SUMS, Graph
from initstats.probe.kinds import DROPOUTS


class Place(NamedTuple):
    """Where a layer of a branch is.

    Attributes:
        branches: how many the stream has.
        maps: products one behind another in its own.
        layers: of its own.
        stream: which of the model's streams, in the order in which they run.
    """

    branches: int
    maps: int
    layers: frozenset[int]
    stream: int


class Sum(NamedTuple):
    """A sum of a stream and a branch, by their layers."""

    layer: int
    stream: int
    branch: int


@dataclass(frozen=True, eq=False)
class Branches:
    """The residual branches of a graph.

    Attributes:
        graph: without what is added to scores.
        scores: of attention: what is added up of them is no stream of the model's units.
    """

    graph: Graph
    scores: frozenset[int] = frozenset()

    @cached_property
    def sums(self) -> dict[int, Sum]:
        """Sums by their layers, in the order of execution.

        A stream and its branch have one origin, as the graph finds them; or the stream itself is
        what the branch is made of, also where something else comes in, as distances in attention.
        """
        found = {
            each.layer: Sum(each.layer, each.stream, each.branch) for each in self.graph.blocks
        }
        for layer, read in self.graph.inputs.items():
            if layer in found or len(read) != 2 or self.graph.ops[layer] not in SUMS:
                continue
            for stream, branch in (read, read[::-1]):
                start = self._begun(stream, found, self.behind(branch))
                between = self.behind(branch) - self.behind(start)
                if start in self.behind(branch) and between & self.graph.linear:
                    found[layer] = Sum(layer, stream, branch)
        found = {layer: found[layer] for layer in sorted(found) if layer not in self.scores}
        return self._of_streams(found)

    def _begun(self, stream: int, sums: Mapping[int, Sum], among: frozenset[int]) -> int:
        """Where a stream was before branches, or factors, that others run beside; or itself."""
        start, passed = stream, False
        while start not in among:
            read = self.graph.inputs[start]
            if start in sums:
                start, passed = sums[start].stream, True
            elif len(read) == 1 and self.graph.ops[start] in SCALING | DROPOUTS:
                start = read[0]
            else:
                return stream
        return start if passed else stream

    def _of_streams(self, found: dict[int, Sum]) -> dict[int, Sum]:
        """Sums without those of maps side by side, as of a weight and its adapter.

        Maps of a stream make a stream where the sum of what they make goes on as one: a branch is
        added to it as it is, or it ends what such sums began.
        """
        mapped = {layer for layer in found if self._side(*found[layer][1:])}
        straight = {
            layer
            for layer, one, other in map(found.__getitem__, mapped)
            if self._straight(one, other) and self._straight(other, one)
        }
        before = {layer: self._before(found[layer], found) for layer in found}
        kept = found.keys() - mapped
        for layer in sorted(mapped - straight, reverse=True):
            if any(layer in before[each] for each in kept):
                kept.add(layer)
        for layer in sorted(mapped - straight - kept):
            if before[layer] & kept and not any(layer in self._within(found[t]) for t in kept):
                kept.add(layer)
        kept -= self._inner({layer: found[layer] for layer in kept}, before)
        return {layer: each for layer, each in found.items() if layer in kept}

    def _inner(self, sums: Mapping[int, Sum], before: Mapping[int, set[int]]) -> set[int]:
        """Single sums within a branch, as of a state and its skip: nothing goes on as a stream."""
        found, chained = set[int](), set[int]().union(*(before[layer] for layer in sums))
        for each in sums.values():
            own = self._within(each) & sums.keys()
            found |= {
                layer
                for layer in own - chained
                if each.stream in self.behind(layer) and not before[layer] & own
            }
        return found

    @cached_property
    def adapters(self) -> list[list[int]]:
        """The maps one behind another that run beside maps of the same value, but of no stream."""
        found = []
        for layer, read in self.graph.inputs.items():
            if len(read) != 2 or self.graph.ops[layer] not in SUMS:
                continue
            for base, low in (read, read[::-1]):
                beside, maps = self._side(base, low), self._side(low, base)
                if beside and len(maps) > 1 and layer not in self.sums:
                    found += [sorted(maps)] * self._straight(base, low)
        return found

    def _side(self, one: int, other: int) -> set[int]:
        """The maps in one of two summands, since both have gone apart."""
        return self._walked(one, self.behind(other), {}) & self.graph.linear

    def _straight(self, one: int, other: int) -> bool:
        """Whether only maps and scalings make one of two summands, since both have gone apart."""
        side, ops = self._walked(one, self.behind(other), {}), self.graph.ops
        return all(
            here in self.graph.linear
            or ops[here] in SUMS | DROPOUTS
            or (ops[here] in SCALING and len(side & {*self.graph.inputs[here]}) < 2)
            for here in side
        )

    def _within(self, each: Sum) -> set[int]:
        """All that is between a stream and the sum, smaller sums among it."""
        return self._walked(each.branch, self.behind(each.stream), {})

    def _before(self, each: Sum, sums: Mapping[int, Sum]) -> set[int]:
        """The sums that the stream of one comes from with none between."""
        seen = self._walked(each.stream, frozenset(), sums)
        read = {each.stream, *(source for one in seen for source in self.graph.inputs[one])}
        return read & sums.keys()

    @cached_property
    def places(self) -> dict[int, Place]:
        """Where each layer of a branch is."""
        first = {layer: self._first(layer) for layer in self.sums}
        number = Counter(first.values())
        streams = {layer: at for at, layer in enumerate(sorted(number))}
        found: dict[int, Place] = {}
        for layer in self.sums:
            region = self._region(layer)
            length = self._length(self.sums[layer].branch, region)
            own = first[layer]
            place = Place(number[own], length, frozenset(region), streams[own])
            found = dict.fromkeys(region, place) | found
        return found

    @cached_property
    def last(self) -> set[int]:
        """The last products of branches, and the norms behind them."""
        found = set[int]()
        for each in self.sums.values():
            waiting, seen = [each.branch], set[int]()
            while waiting:
                here = waiting.pop()
                if here in seen or here not in self.places:
                    continue
                seen.add(here)
                if here in self.graph.linear or here in self.graph.normalizations:
                    found.add(here)
                if here not in self.graph.linear:
                    waiting += self._carried(here)
        return found

    def _carried(self, layer: int) -> tuple[int, ...]:
        """What a layer carries on: of values that it multiplies the one of most maps, and no gate.

        One factor alone is to end a branch: where both are 0, neither ever changes.
        """
        read = self.graph.inputs[layer]
        if len(read) < 2 or self.graph.ops[layer] not in SCALING:
            return read
        region = set(self.places[layer].layers)
        lengths = [self._length(each, region) for each in read]
        return (read[lengths.index(max(lengths))],)

    def behind(self, layer: int) -> frozenset[int]:
        """The layers that one is made of, and itself."""
        return self._behind[layer]

    @cached_property
    def _behind(self) -> Mapping[int, frozenset[int]]:
        found: dict[int, frozenset[int]] = {}
        for layer, read in self.graph.inputs.items():
            found[layer] = frozenset({layer}).union(*(found[each] for each in read))
        return found

    def _region(self, layer: int) -> set[int]:
        """The layers of a branch: what it is made of, behind its stream and other sums."""
        _, stream, branch = self.sums[layer]
        return self._walked(branch, self.behind(stream), self.sums)

    def _walked(self, start: int, stop: frozenset[int], sums: Mapping[int, Sum]) -> set[int]:
        """What a value is made of, back to some layers and to sums, without these."""
        waiting, seen = [start], set[int]()
        while waiting:
            here = waiting.pop()
            if here not in seen and here not in stop and here not in sums:
                seen.add(here)
                waiting += self.graph.inputs[here]
        return seen

    def _first(self, layer: int) -> int:
        """The first sum of the stream that one belongs to."""
        while True:
            before = self._before(self.sums[layer], self.sums)
            if not before:
                return layer
            layer = max(before)

    def _length(self, end: int, region: set[int]) -> int:
        """Products one behind another in a branch, at most."""
        length: dict[int, int] = {}
        for layer in sorted(region):
            before = max((length.get(each, 0) for each in self.graph.inputs[layer]), default=0)
            length[layer] = before + (layer in self.graph.linear)
        return length.get(end, 0)
