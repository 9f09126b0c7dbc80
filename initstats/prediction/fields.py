"""A kernel between the positions of images, as draws of a unit whose mean products it is.

A kernel of all positions of a batch has more entries than memory; a few hundred units that are
drawn with it stand for it. Sums and multiples of independent kernels are those of their draws.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.theory.state import Unpredicted

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Slopes:
    """What gradients of units are multiplied with, (samples, units, height, width)."""

    values: Tensor


@dataclass(frozen=True, eq=False)
class Fields:
    """A kernel, that is calculated with as with a number.

    Attributes:
        values: draws of a unit, (samples, units, height, width).
    """

    values: Tensor
    __array_ufunc__ = None  # numpy's numbers leave products to this class

    @property
    def square(self) -> Array:
        """Second moments, (samples, height, width)."""
        return np.asarray(self.values.double().square().mean(1).numpy(), dtype=np.float64)

    def __mul__(self, factor: object) -> Fields:
        """The kernel times a number, or that of units times slopes."""
        if isinstance(factor, Slopes):
            return Fields(self.values * factor.values)
        return Fields(self.values * float(factor) ** 0.5)  # type: ignore[arg-type]

    __rmul__ = __mul__

    def __add__(self, other: object) -> Fields:
        """The sum with an independent kernel, or with a number, the variance of biases."""
        if isinstance(other, Fields):
            return Fields(self.values + other.values)
        size = float(other) ** 0.5  # type: ignore[arg-type]
        if size == 0:
            return self
        units = self.values.shape[1]
        biases = torch.randn(1, units, 1, 1, generator=seeded(self.square))
        return Fields(self.values + size * biases)

    def __sub__(self, other: object) -> Fields:
        """Not known: weights without a mean see more than products."""
        raise Unpredicted(
            "theory of batch norm over the positions of images knows no standardized weights"
        )

    def of_size(self, square: Array) -> Fields:
        """The same draws with second moments (samples, height, width) that are known better."""
        drawn = self.square
        factor = np.sqrt(square / np.where(drawn > 0, drawn, np.inf))
        return Fields(self.values * torch.from_numpy(factor).to(self.values.dtype)[:, None])


class Unfollowed:
    """A factor of a kernel that draws of units do not tell: 0 of it is 0, all else is unknown."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __rmul__(self, share: float) -> float:
        if share:
            raise Unpredicted(
                f"theory of batch norm over the positions of images knows no {self.what}"
            )
        return 0.0


def seeded(square: Array, salt: int = 0) -> torch.Generator:
    """A generator that is another one for other second moments: errors of two layers differ."""
    number: Any = zlib.crc32(square.tobytes()) + 2**32 * salt
    return torch.Generator().manual_seed(number)
