"""What is known of a value beside its entries: of the tokens in it, and of the sum that it is."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from initstats.probe.slots import Address

Number = Tensor | float
Key = tuple[str, str, int | None]
"""Direction, column, and the leading dimension that tokens were taken to be along, if any was."""
CONFLICT = -1
EVENNESS = ("attention_entropy", "concentration")


class Order:
    """Which of two leading dimensions counts tokens; the other counts samples.

    It is one for all tensors that share the dimensions, and may be told after they were measured.
    """

    def __init__(self) -> None:
        self._tokens: int | None = None
        self._joined: Order | None = None

    @property
    def tokens(self) -> int | None:
        """0 or 1; None until it is told, `CONFLICT` where tokens of both attend to each other."""
        return self._root._tokens

    @property
    def _root(self) -> Order:
        root, passed = self, list[Order]()
        while root._joined is not None:
            passed.append(root)
            root = root._joined
        for order in passed:  # a long training joins one at every pass
            order._joined = root
        return root

    def tell(self, tokens: int) -> None:
        """Say that a dimension counts tokens."""
        root = self._root
        root._tokens = tokens if root._tokens in (None, tokens) else CONFLICT

    def join(self, other: Order) -> None:
        """Take the dimensions of the other as the same as these."""
        own, theirs = self._root, other._root
        if own is not theirs:
            theirs._joined = own
            if theirs._tokens is not None:
                own.tell(theirs._tokens)


@dataclass(eq=False)
class Noted:
    """The numbers about a value that its entries alone do not tell, at one step.

    Attributes:
        order: which dimension counts its tokens.
        attends: whether its shares of 1 weigh the values that a product sums.
        branch: of a residual sum, the value that is the branch, and its factor.
    """

    order: Order | None = None
    attends: bool = False
    branch: tuple[Address, float] | None = None
    _ratios: dict[Key, tuple[Number, Number]] = field(default_factory=dict)

    def add(self, direction: str, ratios: dict[str, Any], along: int | None = None) -> None:
        """Add numerators and denominators.

        Args:
            along: the leading dimension that was taken to count tokens.
        """
        for name, (above, below) in ratios.items():
            key = direction, name, along
            before = self._ratios.get(key, (0.0, 0.0))
            self._ratios[key] = before[0] + above, before[1] + below

    def number(self, direction: str, name: str) -> float:
        """The ratio of the sums in a column; NaN where there is none."""
        if name in EVENNESS and not self.attends:
            return math.nan
        for along in (None, self._along):
            if (direction, name, along) in self._ratios:
                above, below = map(float, self._ratios[direction, name, along])
                return above / below if below > 0 else math.nan
        return math.nan

    def settle(self) -> None:
        """Keep plain numbers: tensors take more memory."""
        pairs = self._ratios.items()
        self._ratios = {key: (float(above), float(below)) for key, (above, below) in pairs}

    @property
    def _along(self) -> int | None:
        """The leading dimension that counts tokens: the second one unless something tells."""
        told = None if self.order is None else self.order.tokens
        return 1 if told is None else told

    def portable(self) -> Noted:
        """The same for another process."""
        kept: dict[Key, tuple[Number, Number]] = {
            (direction, name, None): (float(above), float(below))
            for (direction, name, along), (above, below) in self._ratios.items()
            if along in (None, self._along)
        }
        return dataclasses.replace(self, order=None, _ratios=kept)

    def merge(self, other: Noted) -> None:
        """Add what another process has seen."""
        self.attends |= other.attends
        for (direction, name, along), ratio in other._ratios.items():
            self.add(direction, {name: ratio}, along)
