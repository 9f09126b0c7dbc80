"""Spectra, measured on request: how many directions a layer's values fill, and a weight acts in.

The participation ratio is that of Gao et al. 2017 (bioRxiv 214262), the stable rank that of
Rudelson & Vershynin 2007 (J. ACM 54). Both count directions without a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.moments import Moments

SPECTRA = ("participation_ratio", "stable_rank")
"""The columns, in their order."""
LARGEST = 1024
"""The most units whose covariance is kept, and the largest short side of a weight."""


Spectrum = tuple["Covariance | None", float]
"""The covariance of values, where it is kept, and the stable rank of a weight."""


class SpectralMoments(Moments):
    """The moments of one tensor, and its spectrum beside them.

    Args:
        units: rows of the tensor.
        kind: `values`, whose covariance is gathered; `weight`, whose stable rank is that of the
            last tile; `none`, which has no spectrum, such as a gradient.
        options: those of `Moments`.
    """

    def __init__(self, units: int, kind: str, **options: Any) -> None:
        super().__init__(1, units, **options)
        self.kind = kind
        few = kind == "values" and units <= LARGEST
        self.covariance = Covariance(units, self.units.device) if few else None
        self.rank = np.nan

    def add(self, slot: int | slice, x: Tensor) -> None:
        """Add a tile, (units, entries), as `Moments.add`."""
        super().add(slot, x)
        if self.covariance is not None:
            self.covariance.add(x)
        elif self.kind == "weight":
            self.rank = stable_rank(x)

    def merge(self, other: Moments) -> None:
        """Add everything that another accumulator has seen; the rank stays that of the own tile."""
        super().merge(other)
        theirs = other.covariance if isinstance(other, SpectralMoments) else None
        if self.covariance is not None and theirs is not None:
            self.covariance.merge(theirs)

    def spectrum(self) -> Spectrum:
        """What is kept beside the moments, in a form that can be sent."""
        return self.covariance and self.covariance.to("cpu"), self.rank

    def statistics(self) -> NDArray[np.float64]:
        """(1, statistics), the columns of `SPECTRA` last."""
        ratio = np.nan if self.covariance is None else self.covariance.participation_ratio()
        return np.column_stack([super().statistics(), [[ratio, self.rank]]])


class Covariance:
    """The covariance between units over all entries seen, in float64.

    An entry of one unit belongs to the entries at the same place of all others, as those of one
    sample do; where one of them is NaN or infinite, none of them counts.
    """

    def __init__(self, units: int, device: torch.device | str = "cpu") -> None:
        zeros = torch.zeros(units + 1, units, dtype=torch.float64, device=device)
        self.products, self.total = zeros[:units], zeros[units]
        self.shift: Tensor | None = None
        self.count = 0

    def add(self, x: Tensor) -> None:
        """Add a tile, (units, entries)."""
        x = x.detach().double()
        x = x[:, x.isfinite().all(0)]
        if not x.numel():
            return
        if self.shift is None:  # near the mean, so that little cancels
            self.shift = x.mean(1)
        x = x - self.shift[:, None]
        self.products += x @ x.T
        self.total += x.sum(1)
        self.count += x.shape[1]

    def merge(self, other: Covariance) -> None:
        """Add everything that another covariance of as many units has seen."""
        if self.shift is None or other.shift is None:
            if other.shift is not None:
                self.shift, self.count = other.shift.to(self.total), other.count
                self.products.copy_(other.products)
                self.total.copy_(other.total)
            return
        n, total = other.count, other.total.to(self.total)
        moved = other.shift.to(self.total) - self.shift
        across = torch.outer(total, moved)
        self.products += other.products.to(self.total) + across + across.T
        self.products += n * torch.outer(moved, moved)
        self.total += total + n * moved
        self.count += n

    def to(self, device: torch.device | str) -> Covariance:
        """The same on another device."""
        moved = Covariance(len(self.total), device)
        moved.merge(self)
        return moved

    def participation_ratio(self) -> float:
        """(sum of eigenvalues)^2 / (sum of their squares): 1 for one direction, units for all.

        n entries fill n - 1 directions at most. It is NaN where nothing varies.
        """
        if self.count < 2:
            return np.nan
        covariance = self.products - torch.outer(self.total, self.total) / self.count
        trace = covariance.trace()
        return float(trace > 0) * float(1 / (covariance / trace).square().sum()) or np.nan


def stable_rank(weight: Tensor) -> float:
    """||W||_F^2 / ||W||_2^2, between 1 and the rank, of a matrix (units, inputs).

    It is NaN for zeros, vectors (one input), entries that are not finite, and matrices that are
    empty or whose shorter side exceeds `LARGEST`.
    """
    if not 0 < min(weight.shape) <= LARGEST or weight.shape[1] < 2:
        return np.nan
    matrix = weight.detach().double()
    size = matrix.abs().max()
    if not 0 < size < torch.inf:
        return np.nan
    matrix = matrix / size
    products = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return float(products.trace() / torch.linalg.eigvalsh(products)[-1])


def why_none(shape: Sequence[int], axis: int, *, weight: bool) -> str:
    """Why a value or a weight of this shape has no spectrum; empty where it has."""
    units = shape[axis] if shape else 1
    size = min(units, prod(shape) // max(units, 1)) if weight else units
    if size <= LARGEST:
        return ""
    return f"its spectrum is not measured: {size} units, more than {LARGEST}"
