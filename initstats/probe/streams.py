"""Residual sums among the operations of a model: a stream, and a branch that was computed of it.

A value is the stream of a sum where the other operand was computed of it, or of something that it
is itself a sum of, and not the other way round (He et al. 2016, arXiv:1512.03385). A map comes
between: x + x^3 is a function, and a rotation of pairs adds what was only moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.kinds import CARRYING, MIXING, NORMALIZATIONS, words
from initstats.probe.operations import Operation

_SUMS = words("add radd sub")
_SCALING = words("div divide mul multiply rmul true_divide")
_WINDOW = 2048
"""Operations that lie between a stream and its sum at most: what is older is forgotten."""


class Descent(NamedTuple):
    """The values that one comes from, as bits.

    Attributes:
        of: all of them, and itself.
        mapped: those that a map lies between.
        sum: those that it is a sum of, scaled or rearranged, and itself.
    """

    of: int
    mapped: int
    sum: int


class Streams:
    """The descent of the tensors that carry a signal in a pass."""

    def __init__(self) -> None:
        self._descents: Any = WeakIdKeyDictionary()
        self._count = 0

    def begin(self) -> None:
        """Begin a pass: what it hands on to the next comes from outside."""
        self._descents.clear()
        self._count = 0

    def carry(self, x: Tensor, source: Tensor) -> None:
        """Take over the descent of a source whose entries were rearranged."""
        self._descents[x] = self._of(source)

    def follow(
        self,
        operation: Operation,
        signals: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        weighted: bool,
    ) -> tuple[Tensor, float] | None:
        """Note down what an operation makes of signals.

        Args:
            weighted: whether it is a linear map with weights.

        Returns:
            Of a residual sum the branch and its factor; None for others.
        """
        self._forget()
        descents = [self._of(x) for x in signals]
        name = operation.name.rstrip("_")
        maps = weighted or name in MIXING | NORMALIZATIONS
        keeps = name in _SUMS | CARRYING or (name in _SCALING and len(signals) == 1)
        found = None
        if name in _SUMS and len(signals) == 2:
            found = _branch(operation, signals, descents, outputs[0])
        of = mapped = sums = 0
        for descent in descents:
            of |= descent.of
            mapped |= descent.of if maps else descent.mapped
            sums |= descent.sum if keeps else 0
        for x in outputs:
            own = self._bit()
            self._descents[x] = Descent(of | own, mapped, sums | own)
        return found

    def _of(self, x: Tensor) -> Descent:
        descent: Descent | None = self._descents.get(x)
        if descent is None or not descent.of:
            own = self._bit()
            self._descents[x] = descent = Descent(own, 0, own)
        return descent

    def _bit(self) -> int:
        bit = 1 << self._count
        self._count += 1
        return bit

    def _forget(self) -> None:
        """Drop the older half of the bits, which a pass of many operations would fill memory with.

        Nothing that is computed of them may be at hand meanwhile.
        """
        if self._count >= 2 * _WINDOW:
            self._count -= _WINDOW
            for x, descent in [*self._descents.items()]:
                self._descents[x] = Descent(*(bits >> _WINDOW for bits in descent))


def _branch(
    operation: Operation, signals: Sequence[Tensor], descents: Sequence[Descent], out: Tensor
) -> tuple[Tensor, float] | None:
    """The operand that was computed of the other, and its factor; None where that is not told."""
    if any(x.shape != out.shape for x in signals):
        return None
    first, second = descents
    second_is, first_is = bool(first.sum & second.mapped), bool(second.sum & first.mapped)
    if second_is == first_is:
        return None
    alpha = operation.kwargs.get("alpha", 1)
    return (signals[1], float(alpha)) if second_is else (signals[0], 1.0)
