"""Rows of a dataset in groups, of which theory follows the products of each two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from initstats.theory import State
from initstats.theory.matrices import Matrices
from initstats.theory.state import Cotangent

Array = NDArray[np.float64]


class Groups(Matrices):
    """Some rows of a dataset, which stand for all: two blocks of rows to a group.

    A group's rows are those of its first block, then those of its second.

    Args:
        kernel: product moments of the data.
        total: number of the dataset's rows.

    Attributes:
        block: number of rows of a block.
        together: 1 for a pair of rows of one block, else 0, (rows, rows).
    """

    def __init__(self, kernel: Array, total: int) -> None:
        super().__init__(*kernel.shape[:2])
        self.kernel, self.total = kernel, total
        self.block = kernel.shape[1] // 2
        ones = np.ones((self.block, self.block))
        self.together: Array = np.kron(np.eye(2), ones).astype(np.float64)

    @property
    def state(self) -> State:
        """The data, from which theory starts."""
        return State.of_data(self.diagonal(self.kernel), self.kernel, self)

    @property
    def cotangent(self) -> Cotangent:
        """A unit-normal gradient, every row's own."""
        product = np.broadcast_to(self.own, self.kernel.shape).copy()
        return Cotangent(np.ones(self.kernel.shape[:2]).ravel(), product=product, pairs=self)

    def pair_mean(self, values: Array) -> float:
        """The mean over all pairs of rows, most of which are of different blocks."""
        within, between = (
            float((values * mask).sum() / mask.sum() / len(values))
            for mask in (self.together, 1 - self.together)
        )
        share: float = self.block / self.total
        return within * share + between * (1 - share)

    def between(self, kernel: float, square: float) -> float:
        """Mean over pairs of different rows, given those over all pairs and over rows."""
        entries = self.total
        return (entries * kernel - square) / (entries - 1) if entries > 1 else float("nan")

    def closure(self, state: State) -> Array:
        """Not known."""
        return np.full_like(self.kernel, np.nan)
