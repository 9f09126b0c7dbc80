"""Zeros that are on purpose, and zeros that stay.

A branch that starts at zero (a norm's gain, a gate, the last layer of a block or of the network,
the second factor of a low-rank update) learns as soon as a gradient arrives at what is zero, and
then passes gradients on. Two zeros one behind the other never move: each waits for the other. The
sets here are the least ones that agree with that: what moves, what becomes nonzero, and where a
gradient arrives in the end. Where a map's output is cut into parts, as shifts, scales and gates
are, each part has rows of the weights for itself, and moves, or does not, by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from initstats.diagnosis.columns import Columns
from initstats.diagnosis.graph import SUMS, Graph
from initstats.probe.kinds import CHOOSING


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
        graph, parameters, rows, constant = self.graph, self.parameters, self.rows, self._constant
        nonzero = {int(layer) for layer in parameters["layer"][parameters["second_moment"] != 0]}
        partly = {int(layer) for layer in parameters["layer"][parameters["second_moment"] == 0]}
        zero = partly - nonzero
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
    def _constant(self) -> frozenset[int]:
        """The values that are one number for each unit, whatever the sample."""
        return frozenset(map(int, self.rows["layer"][self.rows["dead_fraction"] == 1]))

    @cached_property
    def parts(self) -> dict[int, int]:
        """The zeros that are some units of a map's output, and the map."""
        graph, found = self.graph, dict[int, int]()
        units = dict(zip(map(int, self.rows["layer"]), self.rows["units"], strict=True))
        for layer in self.values - self.sources:
            if graph.ops[layer].partition("[")[0] not in CHOOSING or len(graph.inputs[layer]) != 1:
                continue
            origin = graph.inputs[layer][0]
            while origin not in graph.weighted and len(graph.inputs[origin]) == 1:
                origin = graph.inputs[origin][0]
            if origin in graph.linear and units[layer] < units[origin]:
                found[layer] = origin
        return found

    @cached_property
    def moving(self) -> frozenset[int]:
        """The sources that a gradient reaches, now or once others have moved."""
        return self._movers & self.sources

    @cached_property
    def _movers(self) -> frozenset[int]:
        """The sources and the parts that a gradient reaches, now or once others have moved."""
        if not (self.sources or self.parts):
            return frozenset()
        movers: frozenset[int] = frozenset()
        while True:
            alive, reached = self._alive(movers), self._reached(movers)
            varied, inputs = self._varied(movers), self.graph.inputs
            more = set[int]()
            for layer in (self.sources | {*self.parts}) & reached:
                # a normalization over samples makes 0 of what is the same for all
                apart = self.graph.ops[layer] in ("batch_norm", "instance_norm")
                need = varied if apart else alive
                if need.issuperset(inputs[self.parts.get(layer, layer)]):
                    more.add(layer)
            if movers >= more:
                return movers
            movers |= more

    @cached_property
    def joint(self) -> dict[int, int]:
        """The parts that never move, for what they are multiplied by is zero and never moves.

        With the map of each, of which other rows move.
        """
        stuck, left = {*self.stuck}, sorted({*self.parts} - self._movers)
        left = [part for part in left if self.parts[part] not in stuck]
        return {part: self.parts[part] for part in left if self._multiplied(part)}

    def _multiplied(self, part: int) -> bool:
        """Whether a part meets, at once or behind functions of it alone, zeros that stay."""
        waiting, graph = [part], self.graph
        for here in waiting:
            for reader in graph.readers[here]:
                if reader not in self.reached or graph.ops[reader] in SUMS:
                    continue
                others = [i for i in graph.inputs[reader] if i != here]
                if any(i in self.values and i not in self.alive for i in others):
                    return True
                if not others and reader in self.values - self.sources:
                    waiting.append(reader)
        return False

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
            if layer in arrived
            and all(i in self.gradients for i in self.graph.inputs[layer])
            # of a product of zeros, each has slope 0 for the sake of the others
            and sum(i in self.values for i in self.graph.inputs[layer]) < 2
        }
        return [layer for layer in others if self.graph.ops[layer] in ops]

    @cached_property
    def alive(self) -> frozenset[int]:
        """The values that are not zero, or not for long."""
        return self._alive(self._movers) if self.values else frozenset(self.graph.ops)

    @cached_property
    def excused(self) -> frozenset[int]:
        """The values that zero weights, and no activation, keep from telling samples apart."""
        return frozenset(self.sources | (self.values & self.alive))

    @cached_property
    def reached(self) -> frozenset[int]:
        """The values at which a gradient arrives, or will."""
        quiet = not self.gradients and not self.values and not self.sources
        return frozenset(self.graph.ops) if quiet else self._reached(self._movers)

    def _alive(self, moving: frozenset[int]) -> frozenset[int]:
        graph, found = self.graph, set[int]()
        for layer, inputs in graph.inputs.items():
            if layer not in self.values:
                found.add(layer)
            elif layer in self.sources or layer in self.parts:
                found.update([layer] if layer in moving else [])
            elif any(source in self.values for source in inputs):
                need = any if graph.ops[layer] in SUMS else all
                found.update([layer] if need(source in found for source in inputs) else [])
        return frozenset(found)

    def _varied(self, moving: frozenset[int]) -> frozenset[int]:
        """The values that differ between samples, now or once zeros have moved."""
        found = set[int]()
        for layer, inputs in self.graph.inputs.items():
            apart = layer not in self._constant or layer in moving or not inputs
            if apart or (layer not in self.sources and any(i in found for i in inputs)):
                found.add(layer)
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
        made = reader in self.sources or reader in self.parts
        cut = reader in self.values and not zeros and not made
        if cut or reader not in reached or (reader in self.sources and reader not in moving):
            return False
        if any(i not in alive for i in others) and self.graph.ops[reader] not in SUMS:
            return False
        waits = reader in moving or bool(others)
        # where a gradient is now, and nothing is zero, the operation itself stops it
        return waits or reader not in measured or reader in self.gradients
