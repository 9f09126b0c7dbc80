"""How the values of a model scale with the value that they were made of.

A function f is homogeneous of degree k where f(c x) = c^k f(x): a norm has degree 1, a variance 2,
a root of it 1 again. A value of degree 0 is the same however large the value behind it is: it was
normalized, whoever wrote that out (Ioffe & Szegedy 2015, section 3.3). Degrees are found by trying
an operation on small tensors; what was tried once is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.elementwise import filled, holed
from initstats.probe.kinds import CARRYING, NORMALIZATIONS
from initstats.probe.operations import Operation, may_be_tried, tensors

_FACTOR = 1024.0
_NEAR = 0.005  # an eps inside of a norm moves the degree that is found by less
_MOST = 8  # tensors in one operation
Degrees = tuple[tuple[float | None, bool], ...]
_NONE = (None, False)


class Scale(NamedTuple):
    """A value of some degree in another, its base; of one sign or of both."""

    base: object
    degree: float = 1.0
    positive: bool = False


class Scales:
    """The scales of the tensors that carry a signal."""

    def __init__(self) -> None:
        self._scales: Any = WeakIdKeyDictionary()

    def begin(self, x: Tensor) -> None:
        """Take a tensor as a base of its own."""
        self._scales[x] = Scale(object())

    def carry(self, x: Tensor, source: Tensor) -> None:
        """Take over the scale of a source whose entries an operation rearranged or chose."""
        if source in self._scales:
            self._scales[x] = self._scales[source]

    def follow(self, operation: Operation, outputs: list[Tensor], *, weighted: bool) -> bool:
        """Note down the scales of an operation's outputs; say whether it normalized them.

        Args:
            weighted: whether the operation is a linear map with weights, which has a scale itself.
        """
        name = operation.name.rstrip("_")
        given = operation.tensors
        if name in CARRYING and given[0] in self._scales:
            for x in outputs:
                self.carry(x, given[0])
            return False
        known = name in NORMALIZATIONS
        scales = [self._scales.get(x) for x in given]
        found = [scale for scale in scales if scale is not None]
        degrees: Degrees = ()
        if (
            not (known or weighted)
            and may_be_tried(operation)
            and len(given) <= _MOST
            and len({id(s.base) for s in found}) == 1
        ):
            with suppress(Exception):  # of arguments that nobody thought of nothing is known
                degrees = _degrees_of(operation, scales)
        for x, (degree, positive) in zip(outputs, degrees or [_NONE] * len(outputs), strict=False):
            kept = Scale(found[0].base, degree, positive) if degree else Scale(object())
            self._scales[x] = kept
        flat = len(degrees) == 1 and degrees[0][0] == 0
        return known or (flat and any(scale.degree for scale in found))


def _degrees_of(operation: Operation, scales: list[Scale | None]) -> Degrees:
    """The degree of each of an operation's outputs in the base, and whether it is positive."""
    parts: list[Tensor] = []
    kwargs = {key: value for key, value in operation.kwargs.items() if key != "out"}
    args = holed(operation.args, parts)
    named = tuple(zip(kwargs, holed(tuple(kwargs.values()), parts), strict=True))
    known = dict(zip(map(id, operation.tensors), scales, strict=True))
    pieces: list[Any] = []
    sizes = sorted({size for part in parts for size in part.shape} - {1})
    small = {size: number + 2 for number, size in enumerate(sizes)} | {1: 1}
    for part in parts:
        scale = known.get(id(part))
        if scale is None and part.numel() == 1:
            pieces.append((part.item(), tuple(part.shape)))
        else:
            kind = str(part.dtype) if not part.is_floating_point() else ""
            how = None if scale is None else (scale.degree, scale.positive)
            pieces.append((kind, how, tuple(small[size] for size in part.shape)))
    return _tried(operation.function, args, named, tuple(pieces))


@lru_cache(4096)
def _tried(
    function: Callable[..., Any], args: Any, kwargs: Any, pieces: tuple[Any, ...]
) -> Degrees:
    """What an operation shows on small tensors; no degree where it is not homogeneous."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        results = []
        for factor in (1.0, _FACTOR):
            generator = torch.Generator().manual_seed(0)
            parts = [_sample(piece, factor, generator) for piece in pieces]
            made = function(*filled(args, parts), **dict(filled(kwargs, parts)))
            results.append([x.real.double() for x in tensors(made)])
    return tuple(_degree(*pair) for pair in zip(*results, strict=True))


def _degree(before: Tensor, after: Tensor) -> tuple[float | None, bool]:
    """The degree at which all entries grew, and whether they are positive."""
    kept = before.isfinite() & ((before != 0) | (after != 0))
    if not kept.any() or ((before * after)[kept] <= 0).any():
        return _NONE
    degrees = (after[kept] / before[kept]).log() / math.log(_FACTOR)
    degree = round(4 * float(degrees.nanmean())) / 4
    near = bool(((degrees - degree).abs() < _NEAR).all())
    return (degree if near else None), bool((before >= 0).all())


def _sample(piece: Any, factor: float, generator: torch.Generator) -> Tensor:
    """A tensor in place of an argument, with all that stems from the base multiplied."""
    if len(piece) == 2:
        value, shape = piece
        return torch.full(shape, value, dtype=torch.float64 if isinstance(value, float) else None)
    kind, scale, shape = piece
    count = math.prod(shape)
    # small and large entries, so that one that comes to a bound is among them
    size: Tensor = torch.logspace(-1, 1, count, dtype=torch.float64)
    size = size[torch.randperm(count, generator=generator)].reshape(shape)
    if kind:
        return (size > 1).to(getattr(torch, kind.removeprefix("torch.")))
    if scale is None:
        return size
    degree, positive = scale
    if not positive:
        size = torch.where(torch.rand(shape, generator=generator) < 0.5, -size, size)
    scaled: Tensor = size * factor**degree
    return scaled
