"""The anatomy of a model: which operation uses which parameter, how, and what is only scaled.

Scale may move from a weight into a number that its output is multiplied by, and back, without any
effect but on the learning rate (Yang and Hu 2021, arXiv:2011.14522, abc-symmetry). So a parameter
is judged together with the constants that its input, itself and its output are multiplied by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from initstats.probe.kinds import words

SCALINGS = words("mul multiply rmul div divide true_divide truediv neg mul_ div_")
"""Operations that, with one signal and constants, scale it."""
SUMS = words("add radd sub add_ sub_")


@dataclass(frozen=True)
class Use:
    """A parameter in an operation.

    Attributes:
        parameter: its name.
        layer: the number of what the operation made.
        op: the operation.
        fan_in: the terms that an entry of the output sums; NaN where nothing is summed with it.
        fan_out: the units that it makes; NaN likewise.
        factor: rms of the weights as they were used over that of the parameter; NaN where they are
            another function of it than a multiple.
    """

    parameter: str
    layer: int
    op: str
    fan_in: float = math.nan
    fan_out: float = math.nan
    factor: float = 1.0

    @property
    def sums(self) -> bool:
        """Whether the operation sums with it."""
        return not math.isnan(self.fan_in)


@dataclass(frozen=True)
class Pairing:
    """A product of two signals, as the scores of attention are.

    Attributes:
        layer: the number of what the product made.
        size: how many terms an entry sums.
        scale: what the operation itself multiplies it by.
    """

    layer: int
    size: int
    scale: float = 1.0


@dataclass
class Anatomy:
    """The graph of one model, by the layers of a probe.

    Attributes:
        inputs: the layers that each layer read.
        places: name and operation of each layer.
        rms, gradients, entries: rms of values and of their gradients, and how many there are, of
            the first pass, by layer.
        scalings: layers that are a constant times the one that they read.
        uses, pairings: see these.
    """

    inputs: dict[int, tuple[int, ...]] = field(default_factory=dict)
    places: dict[int, tuple[str, str]] = field(default_factory=dict)
    rms: dict[int, float] = field(default_factory=dict)
    gradients: dict[int, float] = field(default_factory=dict)
    entries: dict[int, int] = field(default_factory=dict)
    scalings: set[int] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    pairings: list[Pairing] = field(default_factory=list)

    def multiplier(self, use: Use) -> float:
        """What a parameter is multiplied by, before, in and after its operation.

        Scalings between a query or a key and their product belong to the scores. Those between two
        linear maps belong to the one whose module runs them, else to the second.
        """
        before = self.inputs[use.layer] if use.sums else ()
        factor = use.factor * math.prod(self.from_source(layer, use.layer) for layer in before)
        steps, end = self._to_end(use.layer)
        readers = {*self.readers[end]}
        if readers & {each.layer for each in self.pairings}:
            return factor
        if readers & self._maps:
            own = self.places[use.layer][0]
            steps = [each for each in steps if use.sums and self.places[each][0] == own]
        return factor * math.prod(map(self._ratio, steps))

    def score_scale(self, pairing: Pairing) -> float:
        """What a product of two signals is multiplied by, before and after it."""
        after = map(self._ratio, self._to_end(pairing.layer)[0])
        before = (self.from_source(layer) for layer in self.inputs[pairing.layer])
        return pairing.scale * math.prod(after) * math.prod(before)

    def branch(self, layer: int) -> float:
        """What a value is multiplied by until it is added to another one."""
        factor = 1.0
        while readers := self.readers[layer]:
            reader = readers[0]
            if reader in self.scalings:
                factor *= self._ratio(reader)
            elif self.is_sum(reader):
                return factor
            layer = reader
        return 1.0

    def between(self) -> set[int]:
        """The layers whose scale is that of no value, as a multiplier goes with them.

        A multiplier before a linear map, or before a product of two signals, is a part of that;
        any other is a part of what is before it.
        """
        taking = self._maps | {each.layer for each in self.pairings}
        found = set[int]()
        for layer in self.inputs.keys() - self.scalings:
            steps, end = self._to_end(layer)
            scaled = [each for each in steps if each in self.scalings]
            if scaled:
                found.update(scaled if taking & {*self.readers[end]} else [layer, *scaled[:-1]])
        return found

    def is_sum(self, layer: int) -> bool:
        """Whether a layer is the sum of two signals."""
        return self.places[layer][1] in SUMS and len(self.inputs[layer]) > 1

    @property
    def readers(self) -> Mapping[int, list[int]]:
        """The layers that read each layer."""
        if not hasattr(self, "_readers"):
            self._readers: dict[int, list[int]] = {layer: [] for layer in self.inputs}
            for layer, read in self.inputs.items():
                for each in read:
                    self._readers.setdefault(each, []).append(layer)
        return self._readers

    def behind(self, layer: int) -> Iterator[int]:
        """The layers that a layer is made of, itself among them."""
        waiting, seen = [layer], set[int]()
        while waiting:
            here = waiting.pop()
            if here not in seen:
                seen.add(here)
                yield here
                waiting += self.inputs.get(here, ())

    @property
    def _maps(self) -> set[int]:
        """The layers that sum with weights."""
        return {use.layer for use in self.uses if use.sums}

    def from_source(self, layer: int, map_: int | None = None) -> float:
        """What a value is a multiple of, by how much.

        Args:
            map_: the linear map that reads it; what an earlier one multiplies itself is left out.
        """
        steps = []
        while layer in self.scalings:
            steps.append(layer)
            layer = self.inputs[layer][0]
        if map_ is not None and layer in self._maps:
            of = self.places[layer][0], self.places[map_][0]
            steps = [each for each in steps if self.places[each][0] != of[0] or of[0] == of[1]]
        return math.prod(map(self._ratio, steps))

    def _to_end(self, layer: int) -> tuple[list[int], int]:
        """The layers that multiply a value, one after the other, and its last multiple."""
        steps = []
        biased = {use.layer for use in self.uses if use.op in SUMS}
        while len(readers := self.readers[layer]) == 1:
            (reader,) = readers
            if reader in self.scalings:
                steps.append(reader)
            elif not (reader in biased and len(self.inputs[reader]) == 1):
                break
            layer = reader
        return steps, layer

    def _ratio(self, layer: int) -> float:
        before = self.rms.get(self.inputs[layer][0], math.nan)
        return self.rms[layer] / before if before else math.nan
