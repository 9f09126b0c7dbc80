"""Inputs whose products are known: rows, or tokens, each two of one correlation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from initstats.data import Dataset
from initstats.split import Split

Array = NDArray[np.float64]

SHAPE = (1, 28, 28)
"""Of a sample, which any network can read."""
SIDE = 7
"""Of a patch of it, a token: there are sixteen."""
CORRELATION = 0.3
"""Of each two rows, or tokens, unless another is named."""


def rows(number: int, square: float = 1.0, correlation: float = CORRELATION) -> Dataset:
    """Samples of one second moment, each two of which are as correlated, exactly."""
    values = _alike(number, math.prod(SHAPE), 0, correlation)
    return _dataset("rows", values * square**0.5, SHAPE)


def patches(sequences: int, square: float = 1.0) -> Dataset:
    """Images whose patches are such rows, image by image, correlated by `CORRELATION`."""
    side = SHAPE[-1] // SIDE
    images = [
        _alike(side * side, SIDE * SIDE, seed).reshape(side, side, SIDE, SIDE).swapaxes(1, 2)
        for seed in range(sequences)
    ]
    return _dataset("patches", np.stack(images) * square**0.5, SHAPE)


def tokens(sequences: int, units: int, correlation: float = CORRELATION) -> Dataset:
    """Sequences of sixteen tokens of so many units, which a network reads as they are."""
    found = [_alike(16, units, seed, correlation).T for seed in range(sequences)]
    return _dataset("tokens", np.stack(found), (units, 4, 4))


def _alike(number: int, units: int, seed: int, correlation: float = CORRELATION) -> Array:
    """Rows (number, units) of second moment 1, of mean 0 over units, each two as correlated."""
    normal = np.random.default_rng(seed).normal(size=(units, number))
    basis = np.linalg.qr(np.column_stack([np.ones(units), normal]))[0][:, 1:].T
    kernel = correlation + (1 - correlation) * np.eye(number)
    return np.asarray(math.sqrt(units) * np.linalg.cholesky(kernel) @ basis, dtype=np.float64)


def _dataset(name: str, values: Array, shape: tuple[int, ...]) -> Dataset:
    flat = np.ascontiguousarray(values.reshape(len(values), -1))
    split = Split(flat, np.zeros(len(flat), np.int64), shape, mean=0.0, std=1.0)
    return Dataset(name, split, split)
