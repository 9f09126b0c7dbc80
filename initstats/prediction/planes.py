"""The images of a dataset in batches, as batch norm over samples and positions reads them.

A unit's values over a batch are Gaussian. They are correlated so much that what they are divided by
differs from unit to unit, and all that depends on it is averaged over units that are drawn. Weights
on the way back are drawn anew: gradients count as independent of what went forward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input

from initstats.activations import Activation
from initstats.data import Split
from initstats.networks.normalization import EPS
from initstats.prediction.batches import check_spread
from initstats.prediction.fields import Fields, Slopes, Unfollowed, seeded
from initstats.theory import Response
from initstats.theory.state import Activated, Cotangent, Joint, Pairs, State, Taps

Array = NDArray[np.float64]

_UNITS = 768  # that are drawn
_ENTRIES = 2**24  # most entries of all of them behind the first layer
_UNKNOWN: Any = np.float64(np.nan)


class Planes(Pairs):
    """Some batches of images.

    Args:
        split: the samples of the dataset, whose batches follow each other.
        batch: number of samples of one.
        positions: of a unit of the first layer.

    Attributes:
        state: the data, from which theory starts.
    """

    own: Any = Unfollowed("dropout")
    same: Any = Unfollowed("stochastic depth")

    def __init__(self, split: Split, batch: int, positions: int) -> None:
        self.batch = batch
        whole, most = len(split) // batch, _ENTRIES // (_UNITS * positions * batch)
        images = split.images
        if most <= whole:
            some = np.linspace(0, whole - 1, max(most, 1)).astype(np.int64)
            images = images[(some[:, None] * batch + np.arange(batch)).ravel()]
        mean = split.x.square().mean(dtype=torch.float64) / images.double().square().mean()
        pixels = images.double() * mean.sqrt()
        fields = Fields(pixels.float())
        square = pixels.square().mean(1).numpy()
        self.state = State(
            square, np.zeros_like(square), k=_kernel(fields), pairs=self, settled=True
        )

    def products(self, values: Array) -> Array:
        """Not followed."""
        return _UNKNOWN  # type: ignore[no-any-return]

    def behind(self, activation: Activation, state: State, r: Response) -> Joint:
        """phi of the units that were drawn."""
        fields = Fields(activation(_values(state.k)))
        fields = fields if state.batch else fields.of_size(r.square)
        return Joint(_kernel(fields), _UNKNOWN, _UNKNOWN)

    def batch_activated(self, activation: Activation, state: State) -> tuple[Array, Array]:
        """Mean squares over those units."""
        fields = Fields(activation(_values(state.k)))
        return fields.square, _kernel(fields)

    def slopes(self, activation: Activation, state: State, r: Response) -> Array:
        """phi' of those units."""
        return cast(Array, Slopes(activation.derivative(_values(state.k))))

    def unactivated(
        self, cotangent: Cotangent, activation: Activation, behind: Activated
    ) -> Cotangent:
        """phi' times the gradient, unit by unit: it may depend on the same numbers."""
        fields = Fields(_values(cotangent.product)) * self.slopes(
            activation, behind.before, behind.response
        )
        return replace(cotangent, square=fields.square, given=False, product=_kernel(fields))

    def end(self, state: State) -> Cotangent:
        """A unit-normal gradient."""
        shape = len(state.square), _UNITS, *state.square.shape[1:]
        drawn = torch.randn(shape, generator=seeded(state.square, 1))
        fields = Fields(drawn).of_size(np.ones_like(state.square))
        return Cotangent(np.ones_like(state.square), product=_kernel(fields), pairs=self)

    def patched(self, state: State, read: State, taps: Taps) -> State:
        """Units of random weights on the patches of those that were drawn."""
        x = _values(state.k)
        size = _UNITS, x.shape[1], taps.kernel, taps.kernel
        weight = torch.randn(size, generator=seeded(state.square, 2))
        h = Fields(conv2d(x, weight, None, taps.stride, taps.padding))
        return replace(read, k=_kernel(h.of_size(read.square)), pairs=self)

    def unpatched(self, cotangent: Cotangent, square: Array, taps: Taps) -> Cotangent:
        """The gradient of patches by random weights, summed where they overlap."""
        g = _values(cotangent.product)
        size = g.shape[1], _UNITS, taps.kernel, taps.kernel
        weight = torch.randn(size, generator=seeded(cotangent.square, 3))
        before = (len(g), _UNITS, *taps.sides)
        heard = Fields(conv2d_input(before, weight, g, taps.stride, taps.padding))  # type: ignore[no-untyped-call]
        return replace(cotangent, square=square, product=_kernel(heard.of_size(square)))

    def batch_normed(self, state: State, batch: int) -> State:
        """Each unit less its mean over a batch and its positions, over its deviation."""
        fields = Fields(self._normed(_values(state.k))[0])
        return State(
            fields.square,
            np.zeros_like(state.square),
            k=_kernel(fields),
            pairs=self,
            width=state.width,
            gaussian=state.gaussian,
            exact=False,
            batch=batch,
        )

    def unbatch_normed(self, cotangent: Cotangent, state: State, batch: int) -> Cotangent:
        """The gradient less its mean and what is along a unit, over its deviation."""
        z, size = self._normed(_values(state.k))
        check_spread(size[:: self.batch, :, 0, 0].double().numpy())
        pulled = []
        parts = (torch.split(x, self.batch) for x in (_values(cotangent.product), z, size))
        for gradient, unit, deviation in zip(*parts, strict=True):
            along = unit * _mean(gradient * unit)
            pulled.append((gradient - _mean(gradient) - along) / deviation)
        fields = Fields(torch.cat(pulled))
        return Cotangent(fields.square, given=False, product=_kernel(fields), pairs=self)

    def _normed(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized units, and what each was divided by, (samples, units, 1, 1)."""
        units, sizes = [], []
        for rows in torch.split(h, self.batch):
            centred = rows - _mean(rows)
            size = (_mean(centred.square()) + EPS).sqrt()
            units.append(centred / size)
            sizes.append(size.expand(len(rows), -1, -1, -1))
        return torch.cat(units), torch.cat(sizes)


def _mean(x: Tensor) -> Tensor:
    """Over samples and positions, (1, units, 1, 1)."""
    return x.mean((0, 2, 3), keepdim=True)


def _kernel(fields: Fields) -> Array:
    """What stands where other theories have products."""
    return cast(Array, fields)


def _values(kernel: object) -> Tensor:
    assert isinstance(kernel, Fields)
    return kernel.values
