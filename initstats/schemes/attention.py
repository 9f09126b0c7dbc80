"""Attention, as a pass shows it: who makes queries, keys and values, and what biases scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from initstats.diagnosis.graph import SCALING, SUMS, Graph
from initstats.probe.kinds import ATTENTION, LOOKUPS, MIXING, RECURRENT, words
from initstats.schemes.part import Role

_PLUS = words("addbmm addmm addmv baddbmm")
"""Products whose first argument is added to what they make of the others."""


class Heads(NamedTuple):
    """What attention does with what products make, and units of a head, by their layers."""

    roles: dict[int, Role]
    sizes: dict[int, int]


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention in a graph.

    Attributes:
        graph: all of it.
        terms: how many terms an entry of a product of two values sums, by its layer.
        widths: the last size of each value.
    """

    graph: Graph
    terms: Mapping[int, int]
    widths: Mapping[int, int]

    @cached_property
    def products(self) -> list[int]:
        """The layers of products of two values."""
        graph = self.graph
        other = graph.linear | {each for each, op in graph.ops.items() if _base(op) in _NO_PRODUCTS}
        return [
            layer
            for layer, read in graph.inputs.items()
            if _base(graph.ops[layer]) in MIXING
            and layer not in other
            and (layer not in graph.weighted or _base(graph.ops[layer]) in _PLUS or len(read) > 2)
            and len(read) > 1
        ]

    @cached_property
    def heads(self) -> Heads:
        """Who makes queries, keys and values.

        The units of a head of queries and keys are those that their product sums over.
        """
        found = Heads({}, {})
        for layer in self.products:
            read = self._factors(layer)
            size = self.terms.get(layer, 0)
            if self.graph.ops[layer] in ATTENTION:
                self._pair(found, read[:3], ("query", "key", "value"), size)
            elif layer in self._weights:
                values = [each for each in read if each != self._weights[layer]]
                self._pair(found, values, ("value",), self.widths.get(layer, 0))
            elif not any(self._reached(each) & {*self.products} for each in read):
                self._pair(found, read[:2], ("query", "key"), size)
        return found

    @cached_property
    def scores(self) -> frozenset[int]:
        """The layers of scores: from a product to another one that weighs values with it."""
        products, found = {*self.products}, set[int]()
        for weights in self._weights.values():
            region = self._reached(weights)
            scores = region & products
            for layer in sorted(region - products):
                if scores & {*self.graph.inputs[layer]}:
                    scores.add(layer)
            found |= scores
        return frozenset(found)

    @cached_property
    def biases(self) -> dict[int, set[int]]:
        """What is added to scores and comes from no product, by the layer where it is added."""
        found: dict[int, set[int]] = {}
        for layer, read in self.graph.inputs.items():
            if self.graph.ops[layer] in ATTENTION:
                added = {*read[3:]}
            elif layer in self.scores and layer not in self.products:
                sums = self.graph.ops[layer] in SUMS
                added = {*read} - self.scores if sums else set()
            else:
                added = {*read} - {*self._factors(layer)} if layer in self.products else set()
            if added:
                found[layer] = added
        return found

    @cached_property
    def unbiased(self) -> Graph:
        """The graph without what is added to scores."""
        inputs = {
            layer: tuple(each for each in read if each not in self.biases.get(layer, ()))
            for layer, read in self.graph.inputs.items()
        }
        return replace(self.graph, inputs=inputs) if self.biases else self.graph

    @cached_property
    def biasing(self) -> frozenset[int]:
        """The layers of which nothing comes but what is added to scores."""
        leading = set[int]()
        for layer in reversed([*self.graph.ops]):  # readers before what they read
            if layer in leading or not self.graph.readers[layer]:
                leading |= {layer, *self.unbiased.inputs[layer]}
        return frozenset(self.graph.ops.keys() - leading)

    @cached_property
    def _weights(self) -> dict[int, int]:
        """Of products that weigh values, that of their factors that stems from scores."""
        products, found = {*self.products}, dict[int, int]()
        for layer in self.products:
            stems = [each for each in self._factors(layer) if self._reached(each) & products]
            if len(stems) == 1 and self.graph.ops[layer] not in ATTENTION:
                found[layer] = stems[0]
        return found

    def _factors(self, layer: int) -> tuple[int, ...]:
        """The values that a product multiplies."""
        read = self.graph.inputs[layer]
        return read[-2:] if _base(self.graph.ops[layer]) in _PLUS else read

    def _reached(self, layer: int) -> set[int]:
        """What a value is made of with no map between, back to products of two values."""
        graph, waiting, seen = self.graph, [layer], set[int]()
        while waiting:
            here = waiting.pop()
            made = here in graph.weighted and _base(graph.ops[here]) not in _BESIDE
            if here in seen or (made and here not in self.products):
                continue
            seen.add(here)
            if here not in self.products:
                waiting += graph.inputs[here]
        return seen

    def _pair(self, found: Heads, read: Iterable[int], roles: tuple[Role, ...], size: int) -> None:
        """Note the roles of what is paired or mixed."""
        makers = [self._maker(each) for each in read]
        for maker, role in zip(makers, roles, strict=False):
            if maker is None:
                continue
            known = found.roles.get(maker, role)
            found.roles[maker] = role if known == role else "packed"
            found.sizes.setdefault(maker, size)

    def _maker(self, layer: int) -> int | None:
        """The one product that a value comes from, if there is one."""
        makers = self.graph.maps_before(layer)
        return makers[0] if len(makers) == 1 else None


_NO_PRODUCTS = LOOKUPS | RECURRENT
_BESIDE = SUMS | SCALING | words("radd rmul")
"""What may do something with a parameter to scores that stay scores."""


def _base(op: str) -> str:
    return op.partition("[")[0].rstrip("_")
