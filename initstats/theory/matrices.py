"""Rows in groups, of which theory follows the product of each two: one matrix a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.theory.pairs import correlations, slope_products
from initstats.theory.response import Response
from initstats.theory.state import Joint, Pairs, State

Array = NDArray[np.float64]

LEAST = 1e-300
"""Stands for a length of 0 where a correlation is asked for."""


class Matrices(Pairs):
    """Rows of some groups, as many in each.

    Arrays over rows are (groups x rows,), those over pairs (groups, rows, rows).

    Args:
        groups: number of groups.
        rows: number of rows of a group.
    """

    own: Array

    def __init__(self, groups: int, rows: int) -> None:
        self.shape = groups, rows
        self.own = np.eye(rows, dtype=np.float64)
        self._upper = upper = np.triu_indices(rows)
        starts = np.arange(groups)[:, None] * rows
        self._pairs = np.stack([(starts + side).ravel() for side in upper])

    def products(self, values: Array) -> Array:
        """Products of each two rows of a group."""
        by_group = values.reshape(self.shape)
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

    def diagonal(self, k: Array) -> Array:
        """The entries of rows with themselves, (groups x rows,)."""
        diagonal: Array = np.diagonal(k, axis1=1, axis2=2).ravel()
        return diagonal

    def _seen(self, state: State) -> tuple[Array, Array]:
        """Lengths of the rows, and correlations of the pairs of which each is there once."""
        lengths = np.maximum(state.square, LEAST)
        c = state.k / self.products(np.sqrt(lengths))
        return lengths, c[:, *self._upper].ravel().clip(-1, 1)

    def _squared(self, halves: Array) -> Array:
        """Symmetric matrices of their upper halves."""
        groups, rows = self.shape
        found = np.empty((groups, rows, rows))
        found[:, *self._upper] = halves.reshape(groups, -1)
        found[:, *self._upper[::-1]] = halves.reshape(groups, -1)
        return found

    def _with(self, k: Array, diagonal: Array) -> Array:
        """The matrices with another diagonal."""
        return np.asarray(k * (1 - self.own) + diagonal.reshape(len(k), 1, -1) * self.own)


def symmetric(k: Array) -> Array:
    """The matrices, whose rounding must not leave them unsymmetric."""
    return np.asarray((k + k.swapaxes(-1, -2)) / 2)
