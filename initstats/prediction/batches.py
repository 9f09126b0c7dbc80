"""The samples of a dataset in batches, as batch norm reads them: the products of each two.

A unit's values over a batch are Gaussian, with the products of its samples as covariances. What the
norm makes of samples that differ has no closed form, and is averaged over draws of units.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.prediction.behind import through
from initstats.prediction.groups import Groups
from initstats.theory import State
from initstats.theory.batch_after import CARRIED, normalized
from initstats.theory.matrices import symmetric
from initstats.theory.state import Activated, Cotangent, Unpredicted, activated_by

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_GROUPS = 6  # most pairs of batches
_LARGEST = 256  # samples of a batch
_SAMPLES = 384  # most on one side of all pairs
_CARRIED = 1 / 3  # of all units, that the mean inverse square of their sizes rests on at least
_FEW = (
    "few units, whose batch has nearly no spread, carry the mean of gradients: most networks lie "
    "below it"
)
_ROWS = 512  # of a batch, where a sample has several
_UNITS = 512  # that are drawn, or up to twice as many, or as many as there are rows


@dataclass(frozen=True)
class Normed(State):
    """What batch norm gives.

    Attributes:
        units: draws of it, (groups, units, rows).
    """

    units: Array = field(kw_only=True)


def batches_of(split: Split, batch: int, rows: int) -> tuple[Indices, int]:
    """The samples of some whole batches, and the number of groups of two that these make.

    Args:
        split: the samples of the dataset, whose batches follow each other.
        batch: number of samples of one.
        rows: number of rows of one, samples or tokens.

    Raises:
        ValueError: the dataset has no two whole batches; a batch of so many rows that theory would
            take minutes.
    """
    if batch > _LARGEST or rows > _ROWS:
        most, of = (_LARGEST, "samples") if rows == batch else (_ROWS, "tokens")
        raise ValueError(f"theory of batch norm: at most {most} {of} a batch, not {rows}")
    whole = len(split) // batch
    if whole < 2:
        raise ValueError(f"theory of batch norm needs two whole batches of {batch} samples")
    pairs = max(1, min(whole // 2, _GROUPS, _SAMPLES // rows))
    some = np.linspace(0, whole - 1, 2 * pairs).astype(np.int64)
    starts = np.random.default_rng(0).permutation(some) * batch
    return (starts[:, None] + np.arange(batch)).ravel(), pairs


class Batches(Groups):
    """Some batches of a dataset, two to a group.

    Args:
        split: the samples of the dataset, whose batches follow each other.
        batch: number of samples of one.

    Raises:
        ValueError: as `batches_of`.
    """

    def __init__(self, split: Split, batch: int) -> None:
        chosen, groups = batches_of(split, batch, batch)
        x = split.columns(chosen).double().T.numpy()
        rows = x.reshape(groups, 2 * batch, -1)
        kernel = rows @ rows.swapaxes(1, 2) / rows.shape[-1]
        mean = float(split.x.square().mean(dtype=torch.float64))
        size = float(np.trace(kernel, axis1=1, axis2=2).mean()) / kernel.shape[1]
        super().__init__(kernel * (mean / size), len(split))
        self.same = self.own  # a row is a sample

    def batch_normed(self, state: State, batch: int) -> Normed:
        """The mean products over draws of units."""
        units, _ = self._drawn(state)
        k = units.swapaxes(1, 2) @ units / units.shape[1]
        square = self.diagonal(k)
        mean = np.zeros_like(square) if state.gaussian else units.mean(1).ravel()
        return Normed(
            square,
            mean,
            k=k,
            pairs=self,
            width=state.width,
            gaussian=state.gaussian,
            exact=False,
            batch=batch,
            units=units,
        )

    def batch_activated(self, activation: Activation, state: State) -> tuple[Array, Array]:
        """Mean squares and products over those draws."""
        assert isinstance(state, Normed)
        y = activation(torch.from_numpy(state.units)).numpy()
        k = y.swapaxes(1, 2) @ y / y.shape[1]
        return self.diagonal(k), k

    def unbatch_normed(self, cotangent: Cotangent, state: State, batch: int) -> Cotangent:
        """The gradient less its mean and what is along a unit, over its size; over draws."""
        if isinstance(state, Activated):
            return self._through(cotangent, state)
        activation, behind = cotangent.behind or (None, cotangent)
        assert behind.product is not None
        units, sizes = self._drawn(state)
        slopes = np.ones_like(units)
        if activation is not None:
            slopes = activation.derivative(torch.from_numpy(units)).numpy()
        groups = zip(units, slopes / sizes, behind.product, strict=True)
        product = np.stack([self._pulled(*group) for group in groups])
        return Cotangent(self.diagonal(product), given=False, product=product, pairs=self)

    def _through(self, cotangent: Cotangent, state: Activated) -> Cotangent:
        """That behind an activation, and what it becomes before it."""
        assert cotangent.product is not None
        units = self._number(state.k.shape[1])
        found = through(state.activation, state.before, cotangent.product, self.block, units)
        if not found.told:
            raise Unpredicted(CARRIED)
        behind, before = (
            Cotangent(self.diagonal(product), given=False, product=product, pairs=self)
            for product in (found.plain, found.before)
        )
        note = _FEW if found.few else cotangent.note
        before = replace(before, note=note)
        if found.plain_told:
            return replace(behind, before=before, note=note)
        return replace(behind, square=behind.square * np.nan, before=before, note=CARRIED)

    def _pulled(self, z: Array, slope: Array, gamma: Array) -> Array:
        """The mean over units of P (gamma * slope slope') P with P = centre - along, of one group.

        `along` is z z' / batch within a batch; products with it are taken for all units at once.

        Args:
            z: units, (units, rows).
            slope: of phi, over the size that a row was divided by, (units, rows).
            gamma: products of the gradient, (rows, rows).
        """
        batch, rows = self.block, z.shape[1]
        centre = self.own - self.together / batch
        halves = z * self.together[::batch, None]  # (batches, units, rows), 0 outside of a batch
        inner = slope * ((halves * slope) @ gamma)
        outer = halves.reshape(-1, rows).T / batch
        along = outer @ inner.reshape(-1, rows)
        both = (inner * z).reshape(2, len(z), 2, batch).mean(-1, keepdims=True)
        twice = outer @ (both * z.reshape(len(z), 2, batch)).reshape(-1, rows)
        plain = centre @ (gamma * (slope.T @ slope)) @ centre
        once = along @ centre
        return np.asarray(plain - once - once.T + twice) / len(z)

    def _number(self, rows: int) -> int:
        """Of units that are drawn at once."""
        return max(_UNITS, min(2 * rows, 2 * _UNITS), rows)

    def _drawn(self, state: State) -> tuple[Array, Array]:
        """Units that are normalized, and what each row was divided by."""
        behind = activated_by(state)
        state = behind.before if behind else state
        count, number = len(state.k), state.k.shape[1]
        seed = zlib.crc32(state.k.tobytes())  # errors of two layers are not alike
        drawn, bias = self._number(number), state.law.uniform_bias if behind else 0.0
        normal = np.random.default_rng(seed).standard_normal((count, drawn, number))
        noise = np.linalg.qr(normal)[0] * drawn**0.5  # the mean products of noise are exact
        values, vectors = np.linalg.eigh(symmetric(state.k - bias))
        root = vectors * np.sqrt(np.maximum(values, 0))[:, None] @ vectors.swapaxes(1, 2)
        units = noise @ root
        if behind:
            shared = np.random.default_rng(seed + 1).uniform(-1, 1, (count, drawn, 1))
            h = torch.from_numpy(units + math.sqrt(3 * bias) * shared)
            units = behind.activation(h).double().numpy()
        units, size = normalized(units.reshape(count, drawn, 2, -1))
        whole = count, drawn, number
        return units.reshape(whole), np.broadcast_to(size, units.shape).reshape(whole)


def check_spread(sizes: Array) -> None:
    """Refuse a mean of gradients that a few units carry, whose batch is nearly one number.

    Args:
        sizes: what units are divided by, (batches, units).

    Raises:
        Unpredicted: inverse squares count as those of less than a third of the units.
    """
    weights = sizes**-2
    counted = weights.sum(1) ** 2 / (weights**2).sum(1)
    if (counted < _CARRIED * sizes.shape[1]).any():
        raise Unpredicted(CARRIED)
