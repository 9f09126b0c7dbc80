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
        rms, entries: of the first pass, by layer.
        scalings: layers that are a constant times the one that they read.
        uses, pairings: see these.
    """

    inputs: dict[int, tuple[int, ...]] = field(default_factory=dict)
    places: dict[int, tuple[str, str]] = field(default_factory=dict)
    rms: dict[int, float] = field(default_factory=dict)
    entries: dict[int, int] = field(default_factory=dict)
    scalings: set[int] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    pairings: list[Pairing] = field(default_factory=list)

    def multiplier(self, use: Use) -> float:
        """What a parameter is multiplied by, before, in and after its operation.

        Scalings between a query or a key and their product belong to the scores.
        """
        return use.factor * self._before(use) * self.after(use.layer)

    def after(self, layer: int) -> float:
        """What a value is multiplied by until something else is done with it."""
        factor, layer = self._to_end(layer)
        paired = {each.layer for each in self.pairings}
        return 1.0 if paired & {*self.readers[layer]} else factor

    def score_scale(self, pairing: Pairing) -> float:
        """What a product of two signals is multiplied by, before and after it."""
        factor = pairing.scale * self._to_end(pairing.layer)[0]
        for layer in self.inputs[pairing.layer]:
            factor *= self._from_source(layer)
        return factor

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

    def _before(self, use: Use) -> float:
        if math.isnan(use.fan_in):
            return 1.0
        return math.prod(self._from_source(layer) for layer in self.inputs[use.layer])

    def _from_source(self, layer: int) -> float:
        """What a value is a multiple of, by how much."""
        factor = 1.0
        while layer in self.scalings:
            factor *= self._ratio(layer)
            layer = self.inputs[layer][0]
        return factor

    def _to_end(self, layer: int) -> tuple[float, int]:
        """What a value is multiplied by, and its last multiple."""
        factor = 1.0
        biased = {use.layer for use in self.uses if use.op in SUMS}
        while len(readers := self.readers[layer]) == 1:
            (reader,) = readers
            if reader in self.scalings:
                factor *= self._ratio(reader)
            elif not (reader in biased and len(self.inputs[reader]) == 1):
                break
            layer = reader
        return factor, layer

    def _ratio(self, layer: int) -> float:
        before = self.rms.get(self.inputs[layer][0], math.nan)
        return self.rms[layer] / before if before else math.nan
