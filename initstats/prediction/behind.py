"""The gradient through batch norm behind an activation, for samples that differ.

phi', the normalized values and the size that they are divided by belong to one unit, so that the
products of gradients are means over units that are drawn. Units without spread are rare and weigh
much: what most samples share is drawn wider than it is, and units are weighted for it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.theory.batch_after import normalized, shared_part
from initstats.theory.matrices import symmetric
from initstats.theory.state import State

Array = NDArray[np.float64]

_ENOUGH = 0.03, 0.01  # relative standard errors, behind and before, that stop the draws
_MOST = 0.1  # and the largest that is told
_CARRIED = 1 / 3  # of all units, that a mean square rests on at least
_TINY = 1e-300
_ROUNDS = 32  # of draws, at most


class Behind(NamedTuple):
    """Products of gradients behind an activation and before it, (groups, rows, rows).

    Attributes:
        plain: behind it, with respect to y = phi(h).
        before: with respect to h.
        plain_told, told: whether so many units were drawn that their mean squares are known.
        few: whether few units carry the gradient before the activation: a third of all, or less.
    """

    plain: Array
    before: Array
    plain_told: bool
    told: bool
    few: bool


def through(activation: Activation, state: State, gamma: Array, batch: int, units: int) -> Behind:
    """The gradient behind an activation and before it, given that of its normalized batches.

    Args:
        activation: phi.
        state: of the pre-activations h, with their products (groups, rows, rows).
        gamma: products of the gradient of the norm, likewise.
        batch: rows that are normalized together, a divisor of the rows.
        units: that are drawn at once, for each group.
    """
    sums = np.zeros((2, *gamma.shape))
    parts: list[Array] = []
    for h, weights in _drawn(activation, state, batch, units):
        found = _summed(activation, h, np.sqrt(weights), gamma, batch)
        sums += found[0]
        # of each unit, times its weight; and squares of it, times the weight once
        parts.append(np.stack([*found[1], found[1][1] ** 2 / np.maximum(weights.ravel(), _TINY)]))
        seen = np.concatenate(parts, axis=1)
        *means, square = seen.mean(1)
        errors = seen[:2].std(1) / math.sqrt(seen.shape[1]) / np.maximum(means, _TINY)
        if (errors < _ENOUGH).all():
            break
    plain, before = sums / (units * len(parts))
    plain_told, told = (bool(error < _MOST) for error in errors)
    return Behind(plain, before, plain_told, told, means[1] ** 2 < _CARRIED * square)


def _drawn(
    activation: Activation, state: State, batch: int, units: int
) -> Iterator[tuple[Array, Array]]:
    """Pre-activations (groups, units, rows) and weights (groups, units), round by round."""
    bias = state.law.uniform_bias
    values, vectors = np.linalg.eigh(symmetric(state.k - bias))
    root = (vectors * np.sqrt(np.maximum(values, 0))[:, None]).swapaxes(1, 2)
    groups, rows = root.shape[:2]
    noise = np.random.default_rng(zlib.crc32(state.k.tobytes()) + 1)
    for _ in range(_ROUNDS):
        h, weights = np.empty((groups, units, rows)), np.empty((groups, units))
        for group, (*apart, most) in enumerate(root):  # the last direction has the largest share
            h[group] = noise.standard_normal((units, rows - 1)) @ np.stack(apart)
            if bias:
                h[group] += math.sqrt(3 * bias) * (2 * noise.random((units, 1)) - 1)
            scale = most * math.copysign(1.0, most.sum())
            shared, weights[group] = shared_part(noise, h[group], scale, activation.kinks, batch)
            h[group] += shared[:, None] * scale
        yield h, weights


def _summed(
    activation: Activation, h: Array, factor: Array, gamma: Array, batch: int
) -> tuple[Array, Array]:
    """Sums over units of both products, (2, groups, rows, rows), and mean squares of each unit.

    Args:
        factor: of a unit's gradients, (groups, units).
    """
    slopes = activation.derivative(torch.from_numpy(h)).double().numpy()
    y = activation(torch.from_numpy(h)).double().numpy()
    blocks = y.reshape(*y.shape[:2], -1, batch)
    z, sizes = (
        np.broadcast_to(values, blocks.shape).reshape(y.shape) for values in normalized(blocks)
    )
    plain = factor[..., None] / sizes
    found = [_pushed(*group, batch) for group in zip(z, plain, plain * slopes, gamma, strict=True)]
    products, squares = zip(*found, strict=True)
    return np.stack(products, axis=1), np.concatenate(squares, axis=1)


def _pushed(z: Array, plain: Array, sloped: Array, gamma: Array, batch: int) -> tuple[Array, Array]:
    """Sums over units of f f' * (P gamma P), P = centre - z z' / batch, for two factors f.

    z z' is taken within batches, and its products for all units at once.

    Args:
        z: units, (units, rows).
        plain, sloped: the factors f of their rows, likewise.
        gamma: products of the gradient, (rows, rows).

    Returns:
        The sums, (2, rows, rows), and the mean over rows of a unit's diagonal, (2, units).
    """
    units, rows = z.shape
    blocks = rows // batch
    here = np.kron(np.eye(blocks), np.ones((1, batch)))  # (blocks, rows)
    centre = np.eye(rows) - here.T @ here / batch
    gamma = centre @ gamma @ centre
    halves = z * here[:, None]  # (blocks, units, rows), 0 outside of a batch
    inner = halves @ gamma
    both = (inner * z).reshape(blocks, units, blocks, batch).mean(-1, keepdims=True)
    own = (inner * here[:, None]).sum(0)
    within = np.repeat(np.einsum("bubx->ub", both), batch, axis=1)
    diagonal = np.diagonal(gamma) - (2 * z * own - z**2 * within) / batch
    sums, squares = [], []
    for f in (plain, sloped):
        outer = (halves * f).reshape(-1, rows).T / batch
        once = outer @ (inner * f).reshape(-1, rows)
        twice = outer @ (both * (z * f).reshape(units, blocks, batch)).reshape(-1, rows)
        sums.append(gamma * (f.T @ f) - once - once.T + twice)
        squares.append((f**2 * diagonal).mean(1))
    return np.stack(sums), np.stack(squares)
