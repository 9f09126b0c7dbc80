"""Residual branches: where a model adds what products make of a stream to that stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from initstats.diagnosis.graph import SUMS, Graph


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
    """The residual branches of a graph."""

    graph: Graph

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
                between = self.behind(branch) - self.behind(stream)
                if stream in self.behind(branch) and between & self.graph.linear:
                    found[layer] = Sum(layer, stream, branch)
        return dict(sorted(found.items()))

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
                    waiting += self.graph.inputs[here]
        return found

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
        return self._walked(branch, self.behind(stream))

    def _walked(self, start: int, stop: frozenset[int]) -> set[int]:
        waiting, seen = [start], set[int]()
        while waiting:
            here = waiting.pop()
            if here not in seen and here not in stop and here not in self.sums:
                seen.add(here)
                waiting += self.graph.inputs[here]
        return seen

    def _first(self, layer: int) -> int:
        """The first sum of the stream that one belongs to."""
        while True:
            stream = self.sums[layer].stream
            seen = self._walked(stream, frozenset())
            read = {stream, *(each for one in seen for each in self.graph.inputs[one])}
            before = [each for each in read if each in self.sums]
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
