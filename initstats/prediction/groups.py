"""Rows of a dataset in groups, of which theory follows the products of each two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.theory import Response, State, correlations
from initstats.theory.pairs import slope_products
from initstats.theory.state import Cotangent, Joint, Pairs

Array = NDArray[np.float64]

LEAST = 1e-300
"""Stands for a length of 0 where a correlation is asked for."""


class Groups(Pairs):
    """Some rows of a dataset, which stand for all: two blocks of rows to a group.

    Arrays over rows are (groups x rows,), those over pairs (groups, rows, rows), a group's rows
    being those of its first block, then those of its second.

    Args:
        kernel: product moments of the data.
        total: number of the dataset's rows.

    Attributes:
        block: number of rows of a block.
        together: 1 for a pair of rows of one block, else 0, (rows, rows).
    """

    own: Array

    def __init__(self, kernel: Array, total: int) -> None:
        self.kernel, self.total = kernel, total
        number = kernel.shape[1]
        self.block = number // 2
        self.own = np.eye(number, dtype=np.float64)
        ones = np.ones((self.block, self.block))
        self.together: Array = np.kron(np.eye(2), ones).astype(np.float64)
        self._upper = upper = np.triu_indices(number)
        starts = np.arange(len(kernel))[:, None] * number
        self._pairs = np.stack([(starts + side).ravel() for side in upper])

    @property
    def state(self) -> State:
        """The data, from which theory starts."""
        return State.of_data(self._diagonal(self.kernel), self.kernel, self)

    @property
    def cotangent(self) -> Cotangent:
        """A unit-normal gradient, every row's own."""
        product = np.broadcast_to(self.own, self.kernel.shape).copy()
        return Cotangent(np.ones(self.kernel.shape[:2]).ravel(), product=product, pairs=self)

    def products(self, values: Array) -> Array:
        """Products of each two rows of a group."""
        by_group = values.reshape(self.kernel.shape[:2])
        return np.asarray(by_group[:, :, None] * by_group[:, None, :])

    def behind(self, activation: Activation, state: State, r: Response) -> Joint:
        """By Hermite series, to three digits."""
        lengths, c = self._seen(state)
        like = self._squared(correlations(activation, lengths, self._pairs, c).value)
        spread = self.products(np.sqrt(np.maximum(r.square - r.mean**2, 0)))
        covariance = like * spread
        k = self.products(r.mean) + covariance
        return Joint(self._with(k, r.square), covariance, np.full_like(k, np.nan))

    def slopes(self, activation: Activation, state: State, r: Response) -> Array:
        """By the slope of those series."""
        lengths, c = self._seen(state)
        found = slope_products(activation, lengths, self._pairs, c, r)
        return self._with(self._squared(found), r.slope_square)

    def mean(self, values: Array) -> float:
        """The mean over all rows."""
        return float(values.mean())

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

    def _seen(self, state: State) -> tuple[Array, Array]:
        """Lengths of the rows, and correlations of the pairs of which each is there once."""
        lengths = np.maximum(state.square, LEAST)
        c = state.k / self.products(np.sqrt(lengths))
        return lengths, c[:, *self._upper].ravel().clip(-1, 1)

    def _squared(self, halves: Array) -> Array:
        """Symmetric matrices of their upper halves."""
        found = np.empty_like(self.kernel)
        found[:, *self._upper] = halves.reshape(len(found), -1)
        found[:, *self._upper[::-1]] = halves.reshape(len(found), -1)
        return found

    def _with(self, k: Array, diagonal: Array) -> Array:
        """The matrices with another diagonal."""
        return np.asarray(k * (1 - self.own) + diagonal.reshape(len(k), 1, -1) * self.own)

    def _diagonal(self, k: Array) -> Array:
        diagonal: Array = np.diagonal(k, axis1=1, axis2=2).ravel()
        return diagonal
