"""The samples of a dataset in batches, as batch norm reads them: the products of each two.

A unit's values over a batch are Gaussian, with the products of its samples as covariances. What the
norm makes of samples that differ has no closed form, and is averaged over draws of units.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.networks.normalization import EPS
from initstats.prediction.groups import Groups
from initstats.theory import State
from initstats.theory.state import Cotangent

Array = NDArray[np.float64]

_GROUPS = 6  # most pairs of batches
_UNITS = 512  # that are drawn


@dataclass(frozen=True)
class Normed(State):
    """What batch norm gives.

    Attributes:
        units: draws of it, (groups, units, rows).
    """

    units: Array = field(kw_only=True)


class Batches(Groups):
    """Some batches of a dataset, two to a group.

    Args:
        split: the samples of the dataset, whose batches follow each other.
        batch: number of samples of one.

    Raises:
        ValueError: the dataset has no two whole batches.
    """

    def __init__(self, split: Split, batch: int) -> None:
        whole = len(split) // batch
        if whole < 2:
            raise ValueError(f"theory of batch norm needs two whole batches of {batch} samples")
        some = np.linspace(0, whole - 1, min(whole // 2, _GROUPS) * 2).astype(np.int64)
        starts = np.random.default_rng(0).permutation(some) * batch
        chosen = (starts[:, None] + np.arange(batch)).ravel()
        x = split.columns(chosen).double().T.numpy()
        rows = x.reshape(len(starts) // 2, 2 * batch, -1)
        kernel = rows @ rows.swapaxes(1, 2) / rows.shape[-1]
        mean = float(split.x.square().mean(dtype=torch.float64))
        super().__init__(kernel * (mean / float(self._diagonal(kernel).mean())), len(split))
        self.same = self.own  # a row is a sample

    def batch_normed(self, state: State, batch: int) -> Normed:
        """The mean products over draws of units."""
        units, _ = self._drawn(state)
        k = units.swapaxes(1, 2) @ units / units.shape[1]
        square = self._diagonal(k)
        return Normed(
            square,
            np.zeros_like(square),
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
        return self._diagonal(k), k

    def unbatch_normed(self, cotangent: Cotangent, state: State, batch: int) -> Cotangent:
        """The gradient less its mean and what is along a unit, over its size; over draws."""
        activation, behind = cotangent.behind or (None, cotangent)
        assert behind.product is not None
        units, sizes = self._drawn(state)
        centre = np.eye(2 * batch) - self.together / batch
        product = np.zeros_like(self.kernel)
        for group, (own, size, gamma) in enumerate(zip(units, sizes, behind.product, strict=True)):
            slope = np.ones_like(own)
            if activation is not None:
                slope = activation.derivative(torch.from_numpy(own)).numpy()
            along = own[:, :, None] * own[:, None, :] * self.together / batch
            back = (centre - along) * (slope[:, None, :] / size[:, :, None])
            product[group] = (back @ gamma @ back.swapaxes(1, 2)).mean(0)
        return Cotangent(self._diagonal(product), given=False, product=product, pairs=self)

    def _drawn(self, state: State) -> tuple[Array, Array]:
        """Units of pre-activations that are normalized, and what each row was divided by."""
        count, number = len(state.k), state.k.shape[1]
        seed = zlib.crc32(state.k.tobytes())  # errors of two layers are not alike
        normal = np.random.default_rng(seed).standard_normal((count, _UNITS, number))
        noise = np.linalg.qr(normal)[0] * _UNITS**0.5  # the mean products of noise are exact
        values, vectors = np.linalg.eigh((state.k + state.k.swapaxes(1, 2)) / 2)
        root = vectors * np.sqrt(np.maximum(values, 0))[:, None] @ vectors.swapaxes(1, 2)
        units = (noise @ root).reshape(count, _UNITS, 2, -1)
        units -= units.mean(-1, keepdims=True)
        size = np.sqrt((units**2).mean(-1, keepdims=True) + EPS)
        whole = count, _UNITS, number
        return (units / size).reshape(whole), np.broadcast_to(size, units.shape).reshape(whole)
