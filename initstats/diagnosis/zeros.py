"""Zeros that are on purpose, and zeros that stay.

A branch that starts at zero (a norm's gain, a gate, the last layer of a block or of the network,
the second factor of a low-rank update) learns as soon as a gradient arrives at what is zero, and
then passes gradients on. Two zeros one behind the other never move: each waits for the other. The
sets here are the least ones that agree with that: what moves, what becomes nonzero, and where a
gradient arrives in the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from initstats.diagnosis.columns import Columns
from initstats.diagnosis.graph import SUMS, Graph


@dataclass(frozen=True, eq=False)
class Zeros:
    """The zeros of a network at one time, by the rows of its values, gradients and parameters."""

    graph: Graph
    rows: Columns
    gradient_rows: Columns
    parameters: Columns

    @cached_property
    def values(self) -> frozenset[int]:
        """The values that are zero in all entries."""
        rows = self.rows
        zero = (rows["second_moment"] == 0) & (rows["nonfinite"] == 0) & (rows["layer"] > 0)
        return frozenset(map(int, rows["layer"][zero]))

    @cached_property
    def gradients(self) -> frozenset[int]:
        """The values whose gradients are zero in all entries."""
        rows = self.gradient_rows
        return frozenset(map(int, rows["layer"][rows["second_moment"] == 0]))

    @cached_property
    def sources(self) -> frozenset[int]:
        """The values that weights of zero make zero, or one constant for each unit."""
        graph, parameters, rows = self.graph, self.parameters, self.rows
        nonzero = {int(layer) for layer in parameters["layer"][parameters["second_moment"] != 0]}
        partly = {int(layer) for layer in parameters["layer"][parameters["second_moment"] == 0]}
        zero = partly - nonzero
        constant = {int(layer) for layer in rows["layer"][rows["dead_fraction"] == 1]}
        found = {int(layer) for layer in rows["layer"][rows["sigma_w2"] == 0]} & graph.linear
        for layer in (graph.weighted - graph.linear) & (self.values | constant):
            inputs = graph.inputs[layer]
            # weights that another operation used first are not listed here
            fed = layer in self.values and not any(source in self.values for source in inputs)
            stopped = layer in partly and not any(source in constant for source in inputs)
            if fed or layer in zero or stopped:
                found.add(layer)
        return frozenset(found)

    @cached_property
    def moving(self) -> frozenset[int]:
        """The sources that a gradient reaches, now or once others have moved."""
        if not self.sources:
            return frozenset()
        moving: frozenset[int] = frozenset()
        while True:
            alive, reached = self._alive(moving), self._reached(moving)
            inputs = self.graph.inputs
            more = {
                source
                for source in self.sources
                if source in reached and all(read in alive for read in inputs[source])
            }
            if moving >= more:
                return moving
            moving |= more

    @cached_property
    def stuck(self) -> list[int]:
        """The sources that no gradient ever reaches, in order."""
        return sorted(self.sources - self.moving)

    def waits(self, source: int) -> bool:
        """Whether another source that is stuck reads the zeros of one that is."""
        waiting, seen = [source], {source}
        while waiting:
            for reader in self.graph.readers[waiting.pop()]:
                if reader in self.sources - self.moving:
                    return True
                if reader in self.values and reader not in seen:
                    seen.add(reader)
                    waiting.append(reader)
        return False

    def stops(self, source: int) -> list[int]:
        """The operations behind a source that is stuck which hand no gradient on at 0.

        Where a gradient arrives at what an operation made, and none at the zeros that it read, it
        has slope 0 there, and so have others of its kind.
        """
        arrived = {int(layer) for layer in self.gradient_rows["layer"]} - self.gradients
        behind, waiting = set[int](), [source]
        while waiting:
            for reader in self.graph.readers[waiting.pop()]:
                if reader in self.values - self.sources and reader not in behind:
                    behind.add(reader)
                    waiting.append(reader)
        others = sorted(behind - self.graph.weighted)
        ops = {
            self.graph.ops[layer]
            for layer in others
            if layer in arrived and all(i in self.gradients for i in self.graph.inputs[layer])
        }
        return [layer for layer in others if self.graph.ops[layer] in ops]

    @cached_property
    def alive(self) -> frozenset[int]:
        """The values that are not zero, or not for long."""
        return self._alive(self.moving) if self.values else frozenset(self.graph.ops)

    @cached_property
    def excused(self) -> frozenset[int]:
        """The values that zero weights, and no activation, keep from telling samples apart."""
        return frozenset(self.sources | (self.values & self.alive))

    @cached_property
    def reached(self) -> frozenset[int]:
        """The values at which a gradient arrives, or will."""
        quiet = not self.gradients and not self.values and not self.sources
        return frozenset(self.graph.ops) if quiet else self._reached(self.moving)

    def _alive(self, moving: frozenset[int]) -> frozenset[int]:
        graph, found = self.graph, set[int]()
        for layer, inputs in graph.inputs.items():
            if layer not in self.values:
                found.add(layer)
            elif layer in self.sources:
                found.update([layer] if layer in moving else [])
            elif any(source in self.values for source in inputs):
                need = any if graph.ops[layer] in SUMS else all
                found.update([layer] if need(source in found for source in inputs) else [])
        return frozenset(found)

    def _reached(self, moving: frozenset[int]) -> frozenset[int]:
        graph, alive, found = self.graph, self._alive(moving), set[int]()
        measured = {int(layer) for layer in self.gradient_rows["layer"]}
        for layer in reversed([*graph.ops]):
            readers = graph.readers[layer]
            arrives = layer in measured - self.gradients or not (readers or layer in measured)
            if arrives or any(
                self._opens(r, layer, moving, alive, found, measured) for r in readers
            ):
                found.add(layer)
        return frozenset(found)

    def _opens(
        self,
        reader: int,
        layer: int,
        moving: frozenset[int],
        alive: frozenset[int],
        reached: set[int],
        measured: set[int],
    ) -> bool:
        """Whether a reader hands its gradient on to a value that has none, in the end."""
        zeros = [i for i in self.graph.inputs[reader] if i in self.values]
        others = [i for i in zeros if i != layer]
        cut = reader in self.values and not zeros and reader not in self.sources
        if cut or reader not in reached or (reader in self.sources and reader not in moving):
            return False
        if any(i not in alive for i in others) and self.graph.ops[reader] not in SUMS:
            return False
        waits = reader in moving or bool(others)
        # where a gradient is now, and nothing is zero, the operation itself stops it
        return waits or reader not in measured or reader in self.gradients
