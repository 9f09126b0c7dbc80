"""How the entries of parameters are distributed: as measured, or as an init declares."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from initstats import activations
from initstats.inits import Init, fans
from initstats.prediction.model.signals import Weight, distinct
from initstats.prediction.model.tables import Table, Unpredicted

_SOME = 4096  # entries of weights that are looked at one by one
_SHARE = 0.02  # of the second moment of weights that the square of their mean may be


@dataclass(frozen=True)
class Law:
    """How the entries of a parameter are distributed: mean of squares, and mean."""

    square: float
    mean: float = 0.0


@dataclass(eq=False)
class Laws:
    """The laws of a model's parameters, each of which may be used once.

    Attributes:
        init: declares them for products; None: they are measured.
    """

    init: Init | None = None
    _used: list[tuple[int, int]] = field(default_factory=list)
    _seen: list[Weight] = field(default_factory=list)

    def of_product(
        self, weight: Weight, bias: Weight | None, read: Table | None
    ) -> tuple[Law, Law | None]:
        """The laws of weights that are summed with, and of their bias.

        Args:
            read: what they are multiplied by; None: data.

        Raises:
            Unpredicted: they were used before, have a mean, are no draw of their own, or the init
                declares no law.
        """
        self._use(weight)
        if self.init is None:
            self._check_drawn(weight)
            found = measured(weight)
            if found.mean**2 > _SHARE * found.square:
                raise Unpredicted(f"{weight.name} has a mean other than 0")
            return Law(found.square), None if bias is None else measured(bias)
        shape = tuple(weight.shape)
        function = read.function if read is not None else None
        try:
            activation = activations.get(function or "identity")
            square = self.init.sigma_w2(shape, activation) / fans(shape)[0]
            added = self.init.sigma_b2(shape, activation)
        except ValueError as error:
            raise Unpredicted(str(error)) from None
        if not math.isfinite(square):
            raise Unpredicted(f"{self.init.name} declares no variance")
        return Law(square), None if bias is None else Law(added)

    def of_entries(self, weight: Weight) -> Law:
        """The measured law of a parameter that is no matrix of a product.

        Raises:
            Unpredicted: it was used before.
        """
        self._use(weight)
        return measured(weight)

    def _use(self, weight: Weight) -> None:
        first, last = _memory(weight.values)
        if any(start <= last and first <= end for start, end in self._used):
            raise Unpredicted(f"{weight.name} is used more than once")
        self._used.append((first, last))

    def _check_drawn(self, weight: Weight) -> None:
        x = weight.values.detach()
        for other in self._seen:
            y = other.values.detach()
            if x.shape == y.shape and x.any() and torch.equal(x, y):
                raise Unpredicted(
                    f"{weight.name} is a copy of {other.name}, and no draw of its own: draw it "
                    "anew, or name an init"
                )
        self._seen.append(weight)
        some = x.flatten()[:_SOME]
        if len(some) > 4 and len(distinct(some)[0]) == 2:
            raise Unpredicted(f"{weight.name} holds two values, and is no draw")


def measured(weight: Weight) -> Law:
    """The measured law of a parameter; a mean that its scatter explains counts as 0.

    Raises:
        Unpredicted: it is not finite.
    """
    values = weight.values.detach().double().cpu()
    square, mean = float(values.square().mean()), float(values.mean())
    if not math.isfinite(square):
        raise Unpredicted(f"{weight.name} holds values that are not finite")
    scatter = math.sqrt(max(square - mean**2, 0.0) / max(values.numel(), 1))
    return Law(square, 0.0 if abs(mean) <= 5 * scatter else mean)


def _memory(x: Tensor) -> tuple[int, int]:
    """The first and the last place in memory of a tensor's entries."""
    span = sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + span * x.element_size()
