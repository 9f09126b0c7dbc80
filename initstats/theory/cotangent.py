"""What theory knows of a gradient on its way back through a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation

if TYPE_CHECKING:
    from initstats.theory.state import Activated, Pairs

Array = NDArray[np.float64]


class Unpredicted(Exception):
    """Theory ends here; the message says why."""


@dataclass(frozen=True)
class Cotangent:
    """What theory knows of a gradient.

    Attributes:
        square: mean over units of its square, an entry for each row (and position).
        given: whether it is the gradient that was put in at the end.
        product: mean over units of the product of both rows of each pair, (pairs,); None where it
            is not followed.
        pairs: those pairs.
        behind: where a batch was normalized before an activation, that activation and the gradient
            behind it: phi' and the norm depend on the same numbers.
        before: where a batch was normalized behind an activation, what the gradient becomes before
            that activation, for the same reason.
        note: why the square is not told; empty where it is.
    """

    square: Array
    given: bool = True
    product: Array | None = None
    pairs: Pairs | None = None
    behind: tuple[Activation, Cotangent] | None = None
    before: Cotangent | None = None
    note: str = ""

    def weighted(self, factor: float, keep: float = 1.0) -> Cotangent:
        """The gradient times a factor, and times 0 or 1 / keep for all units of a sample."""
        same = self.pairs.same if self.pairs else 0.0
        product = _scaled(self.product, factor**2 * (1 + (1 / keep - 1) * same))
        return replace(self, square=self.square * factor**2 / keep, product=product)

    def plus(self, added: Cotangent) -> Cotangent:
        """A sum of two that are not correlated."""
        if self.before or added.before:
            raise Unpredicted(
                "theory does not follow an activation that a batch norm reads, and a sum, too"
            )
        product = self.product
        if product is not None and added.product is not None:
            product = product + added.product
        return replace(self, square=self.square + added.square, given=False, product=product)

    def dropped(self, keep: float) -> Cotangent:
        """Entries that are 0, or divided by the probability to be kept."""
        own = self.pairs.own if self.pairs else 0.0
        product = _scaled(self.product, 1 + (1 / keep - 1) * own)
        return replace(self, square=self.square / keep, product=product)

    def unactivated(self, activation: Activation, behind: Activated) -> Cotangent:
        """The gradient before an activation: phi' times that behind it, which is independent."""
        if self.before is not None:
            return self.before
        if self.pairs and (found := self.pairs.unactivated(self, activation, behind)):
            return found
        product = self.product
        if product is not None and self.pairs is not None:
            product = product * self.pairs.slopes(activation, behind.before, behind.response)
        square = self.square * behind.response.slope_square
        kept = (activation, self) if behind.before.batch else None
        return replace(self, square=square, given=False, product=product, behind=kept)


def _scaled(product: Array | None, factor: Array | float) -> Array | None:
    return None if product is None else product * factor
