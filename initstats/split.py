"""Some samples of a dataset: raw values, and the normalization that belongs to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.plural import counted

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Split:
    """Some samples of a dataset: raw values, and the normalization that belongs to them.

    Raw values stay as they were given (a byte a pixel for image files), so that a split is cheap to
    keep and to send to another process; normalized values are computed from them when asked for:
    (raw - mean) / std in float32, where a byte b counts as b / 256.

    Attributes:
        raw: values as given, (samples, features), contiguous.
        labels: class of each sample, (samples,), int64.
        shape: of one sample: (channels, height, width), or (features,).
        mean, std: of the training split; subtracted from every value, and divides it.
    """

    raw: Array = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    shape: tuple[int, ...]
    mean: float
    std: float

    def __len__(self) -> int:
        return len(self.raw)

    @cached_property
    def x(self) -> Tensor:
        """Normalized values, (samples, features), float32; kept once computed, but not pickled."""
        return self._normalized(torch.from_numpy(self.raw))

    @property
    def images(self) -> Tensor:
        """Normalized values as a conv net takes them, (samples, channels, height, width).

        Flat samples stay (samples, features). The memory is that of `x`.
        """
        return self.x.view(-1, *self.shape)

    @property
    def y(self) -> Tensor:
        """Class of each sample, (samples,), int64."""
        return torch.from_numpy(self.labels)

    def tile(self, start: int, stop: int) -> Tensor:
        """Normalized samples start..stop-1 as columns, (features, samples), float32, contiguous.

        The same bits as `x[start:stop].T`, without computing all of `x`.
        """
        return self._normalized(torch.from_numpy(self.raw[start:stop]).T)

    def columns(self, indices: NDArray[np.int64]) -> Tensor:
        """Chosen normalized samples as columns, (features, samples), float32, contiguous.

        The same bits as `x[indices].T`, without computing all of `x`.

        Args:
            indices: which samples, (samples,); negative ones count from the end.

        Raises:
            IndexError: they are no whole numbers, or there is no such sample.
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise IndexError(f"expected whole numbers, found {chosen.dtype} of {chosen.shape}")
        low, high = (int(chosen.min()), int(chosen.max())) if len(chosen) else (0, 0)
        if low < -len(self) or high >= len(self):
            raise IndexError(
                f"the split holds {counted(len(self), 'sample')}, found {low} to {high} asked for"
            )
        chosen = chosen.astype(np.int64, copy=False)
        rows = np.asarray(self.raw)
        if rows.dtype != np.uint8:
            return self._normalized(torch.from_numpy(rows[chosen]).T)
        from initstats.columns import byte_columns  # numba takes a while to load

        return torch.from_numpy(byte_columns(rows, chosen, self.mean * 256, self.std * 256))

    def first(self, samples: int) -> Split:
        """The first samples, 1 to all of them, in this split's memory; any other number raises."""
        if not 1 <= samples <= len(self):
            raise ValueError(
                f"cannot take {counted(samples, 'sample')}: the split holds 1 to {len(self)}"
            )
        return replace(self, raw=self.raw[:samples], labels=self.labels[:samples])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides `x`: raw values, their shape, mean and std."""
        what = f"{len(self)} {self.shape} {self.mean!r} {self.std!r}"
        digest = hashlib.sha256(what.encode())
        digest.update(self.raw.data)
        return digest.hexdigest()

    def _normalized(self, values: Tensor) -> Tensor:
        # floats may lie far from zero, where float32 would misplace the mean; a copy, since they
        # are the user's own
        unit, wide = (256.0, torch.float32) if values.dtype == torch.uint8 else (1.0, torch.float64)
        copy = values.contiguous().to(wide, copy=True)
        return copy.sub_(self.mean * unit).div_(self.std * unit).to(torch.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}
