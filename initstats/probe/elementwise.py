"""The elementwise function phi that made a value: what it computes, its gain and its bounds.

A value is phi(z) of the last value z before it that no elementwise operation made: the output of a
linear map or of a normalization, the input, a sum of two branches. With z ~ N(0, 1) the gain
1 / sqrt(E phi(z)^2) keeps the second moment of a signal (He et al. 2015, arXiv:1502.01852). Where
phi is steep because it multiplies z by a constant first, as sin(30 z) does, it is the product that
is taken as N(0, 1) (Sitzmann et al. 2020, arXiv:2006.09661). During the forward pass only the
composition is noted down; integrals wait until somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from initstats import gaussian

_DEEPEST = 50  # operations in one composition: more are a solver's steps, not an activation
_KEPT = 4096  # functions whose integrals are kept
_CROWD = 0.2  # share of N(0, 1) at a bound from which on it is a rectifier's floor
_NEAR = 0.01  # distance from a bound that counts as at it, relative to its distance from phi(0)
_FAR = 1e8  # z at which a bounded function is at its bound
_OFFSET = 2.0  # beyond it N(0, 1) seldom reaches the middle of a function
_STEEPER = 1.01  # factor by which it must tell inputs apart more, so that its own factor counts


class Hole(NamedTuple):
    """A place in the arguments of an operation where a tensor was."""

    number: int


class Bounds(NamedTuple):
    """The values that a function tends to where its slope vanishes; NaN where there is none.

    An entry up to `at_low`, or from `at_high` on, is as good as at the bound.
    """

    low: float
    high: float
    at_low: float
    at_high: float

    @property
    def exist(self) -> bool:
        """Whether there is one at all."""
        return not (math.isnan(self.low) and math.isnan(self.high))


@dataclass(frozen=True, eq=False)
class Phi:
    """An elementwise function: one operation on other such functions and on constants.

    Attributes:
        function: the operation; None for z itself, and for a function that cannot be known.
        args, kwargs: its arguments, with holes for the parts.
        parts: functions of z, and constant tensors of one entry or of one for every channel.
        known: whether it is known what it computes.
        depth: how many operations follow on each other.
        channels: number of functions side by side; 0 where no tensor is among the parts, or among
            theirs.
        factors: functions of independent values, whose product is z.
        beside: functions of other values, and how many entries each makes, that z is joined of.
    """

    function: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    parts: tuple[Phi | Tensor, ...] = ()
    known: bool = True
    depth: int = 0
    channels: int = 0
    factors: tuple[Phi, ...] = ()
    beside: tuple[tuple[Phi, int], ...] = ()

    def __call__(self, z: Tensor) -> Tensor:
        """phi(z), of shape (points,) or (points, channels) as z is."""
        done: dict[Phi, Tensor] = {}

        def value(part: Phi | Tensor) -> Tensor:
            if isinstance(part, Tensor):
                return part
            if part.function is None:
                return z
            if part not in done:
                parts = [value(inner).clone() for inner in part.parts]
                named = dict(filled(part.kwargs, parts))
                done[part] = part.function(*filled(part.args, parts), **named)
            return done[part]

        with torch.no_grad():
            return value(self)

    @cached_property
    def gain(self) -> float:
        """1 / sqrt(E phi(z)^2), the mean also over channels; NaN where it cannot be known.

        It is taken over factor * z ~ N(0, 1). Of a product of independent values it is the product
        of their gains, and of values put side by side it is that of all their entries.
        """
        if not self.known:
            return math.nan
        if self.beside:
            squares = (n / phi.gain**2 if phi.gain else math.inf for phi, n in self.beside)
            mean = sum(squares) / sum(n for _, n in self.beside)
            return 1 / math.sqrt(mean) if mean else math.inf
        if self.function is None:
            return math.prod(factor.gain for factor in self.factors)
        square = math.nan
        # an operation may raise at values that it was not made for
        with suppress(Exception), torch._C.DisableTorchFunction():
            square = self._mean_square()
        return 1 / math.sqrt(square) if square > 0 else math.inf if square == 0 else math.nan

    @cached_property
    def factor(self) -> float:
        """The constant that z is multiplied by before it comes to a steep function; else 1.

        It is 30 for sin(30 z), and 1 for tanh(z / 30), softplus(30 z) / 30 and relu(30 z), which
        are not steep for z ~ N(0, 1), or not less for a smaller z.
        """
        if not 1 < self.slope < math.inf:
            return 1.0
        there, here = math.nan, math.nan
        with suppress(Exception), torch._C.DisableTorchFunction():
            there, here = self._steepness(1.0), self._steepness(1 / self.slope)
        return self.slope if there > _STEEPER * max(1.0, here) else 1.0

    @cached_property
    def slope(self) -> float:
        """The least |a| of the parts a z + b, with |b| up to 2, that phi is made of; NaN for none.

        It is that of the whole where phi itself is such, and the rms of those of channels.
        """
        found = math.nan
        with suppress(Exception), torch._C.DisableTorchFunction():
            parts = [*self._affine()] if self.known else []
            small = all(offset <= _OFFSET for _, offset in parts)
            found = min((slope for slope, _ in parts), default=math.nan) if small else math.nan
        return found

    @cached_property
    def periodic(self) -> bool:
        """Whether it goes up and down far out as it does near zero, within bounds."""
        if not 0 < self.slope < math.inf:
            return False
        found = False
        with suppress(Exception), torch._C.DisableTorchFunction():
            values = [self._by_channel(part / self.slope) for part in _STRETCHES]
            whole, *ranges = [float(y.amax() - y.amin()) for y in (torch.cat(values), *values)]
            found = min(ranges) > 0.9 * whole > 0  # never so for NaN
        return found

    def _affine(self) -> Iterator[tuple[float, float]]:
        """The slopes and offsets, in size, of the largest parts that are affine in z."""
        y, z = self._by_channel(_SPREAD), _SPREAD[:, None]
        steps = y.diff(dim=0) / z.diff(dim=0)
        if torch.allclose(steps, steps[:1].expand_as(steps), 1e-6, 1e-12):
            slope, offset = steps[0], y[0] - steps[0] * z[0]
            if slope.any():
                yield float(slope.square().mean().sqrt()), float(offset.abs().mean())
            return
        for part in self.parts:
            if isinstance(part, Phi):
                yield from part._affine()

    def _steepness(self, scale: float) -> float:
        """How phi tells inputs apart: chi_1 with weights that keep z ~ N(0, scale^2)."""
        points, weights = _MESH_FINE
        z, step = scale * points, 1e-5 * scale
        rise = (self._by_channel(z + step) - self._by_channel(z - step)) / (2 * step)
        square = weights @ self._by_channel(z).square().mean(1)
        return float(scale**2 * (weights @ rise.square().mean(1)) / square)

    @cached_property
    def bounds(self) -> Bounds:
        """The bounds that count: fewer than a fifth of z ~ N(0, 1) are at them."""
        none = Bounds(math.nan, math.nan, -math.inf, math.inf)
        if not self.known or self.function is None:
            return none
        values = None
        with suppress(Exception), torch._C.DisableTorchFunction():
            values = self._by_channel(_PLACES)
        if values is None:
            return none
        far, zero, usual = values[:4], values[4].mean(), values[5:]
        if not zero.isfinite() or torch.isin(usual, far).all():
            return none  # a step has no slope anywhere
        found = [bound for side in (far[:2], far[2:]) for bound in _flat(side, zero, usual)]
        low = min((b for b in found if b < zero), default=math.nan)
        high = max((b for b in found if b > zero), default=math.nan)
        if far.min() < -math.sqrt(_FAR):  # the other way it has no end: here it comes to rest
            high = math.nan
        reach = [_NEAR * abs(b - float(zero)) for b in (low, high)]
        at_low = -math.inf if math.isnan(low) else low + reach[0]
        return Bounds(low, high, at_low, math.inf if math.isnan(high) else high - reach[1])

    @cached_property
    def affine(self) -> bool:
        """Whether it is known to multiply by a factor and to add a constant, and no more."""
        if not self.known or self.function is None:
            return self.known
        values = None
        with suppress(Exception), torch._C.DisableTorchFunction():
            values = self._by_channel(torch.tensor([-64.0, -1, 0, 1, 64], dtype=torch.float64))
        if values is None or not values.isfinite().all():
            return False
        low, below, zero, above, high = values
        line = torch.stack([low - zero, high - zero, below - zero]) + torch.stack(
            [64 * (above - zero), -64 * (above - zero), above - zero]
        )
        return bool((line.abs() <= 1e-6 * (values - zero).abs().amax(0)).all())

    def _mean_square(self) -> float:
        scale = 1 / self.factor
        if not self.channels:
            return gaussian.expect(lambda z: self(scale * z).double().square())
        points, weights = _MESH
        return float((weights @ self._by_channel(scale * points).square()).mean())

    def _by_channel(self, z: Tensor) -> Tensor:
        """phi(z), (points, channels)."""
        return self(z[:, None].expand(-1, max(self.channels, 1))).double()


IDENTITY = Phi()
UNKNOWN = Phi(known=False)
_KNOWN: dict[Any, Phi] = {}  # functions without tensors of their own, by their structure
_TRIED: dict[Any, Literal["elementwise", "random", ""]] = {}
_MESH = gaussian.mesh(torch.arange(-10, 10.25, 0.25, dtype=torch.float64))
_EDGES = [0.0, *(10.0 ** (n / 5) for n in range(-40, -4)), *(n / 8 for n in range(2, 65))]
_MESH_FINE = gaussian.mesh(torch.tensor([*_EDGES, *(-edge for edge in _EDGES[1:])]).double())
"""Panels that are narrower near zero, where a steep function changes."""
_PLACES = torch.cat(
    [
        torch.tensor([-_FAR, -_FAR / 1e3, _FAR, _FAR / 1e3, 0.0], dtype=torch.float64),
        torch.special.ndtri(torch.arange(0.5, 200, dtype=torch.float64) / 200),
    ]
)
"""Points at which bounds are looked for: far out on either side, zero, and N(0, 1) itself."""
_SPREAD = torch.tensor([-1.3e4, -3.1, -0.97, 0.53, 1.11, 3.7, 1.1e4], dtype=torch.float64)
_STRETCHES = [torch.linspace(start, start + 50, 5000).double() for start in (-1050, -25, 1000)]
"""Points at which a function is affine or not, and stretches in which a periodic one is alike."""


def _flat(far: Tensor, zero: Tensor, usual: Tensor) -> list[float]:
    """The bound on one side, if there is one that counts; far: (2, channels)."""
    bound = far[0].mean()
    size = far.abs().max().clamp(min=float(zero.abs()))
    if not far.isfinite().all() or ((far - bound).abs() > 1e-4 * size).any() or not size > 0:
        return []
    reach = (bound - zero).abs()
    crowd = ((usual - bound).abs() <= _NEAR * reach).double().mean()
    return [float(bound)] if reach > 1e-9 * size and crowd < _CROWD else []


def filled(value: Any, parts: list[Tensor]) -> Any:
    """Arguments with the parts in their holes."""
    if isinstance(value, Hole):
        return parts[value.number]
    return tuple(filled(item, parts) for item in value) if isinstance(value, tuple) else value


def holed(value: Any, parts: list[Tensor]) -> Any:
    """Arguments that can be hashed, with holes for tensors, which are added to the parts."""
    if isinstance(value, Tensor):
        for number, part in enumerate(parts):
            if part is value:
                return Hole(number)
        parts.append(value)
        return Hole(len(parts) - 1)
    if isinstance(value, torch.Generator):
        raise TypeError("what is drawn from a generator is no function")
    if isinstance(value, tuple | list):
        return tuple(holed(item, parts) for item in value)
    hash(value)  # raises where it cannot be a key
    return value


def phi_of(
    function: Callable[..., Any], args: Any, kwargs: Any, parts: tuple[Phi | Tensor, ...]
) -> Phi | None:
    """The function of these parts: one object for one structure, so that integrals are kept.

    None where parts have different numbers of channels.
    """
    inner = [part for part in parts if isinstance(part, Phi)]
    depth = 1 + max(part.depth for part in inner)
    if depth > _DEEPEST or not all(part.known for part in inner):
        return UNKNOWN
    sizes = {part.channels if isinstance(part, Phi) else part.numel() for part in parts}
    if len(sizes - {0, 1}) > 1:
        return None
    made = Phi(function, args, kwargs, parts, depth=depth, channels=max(sizes))
    if made.channels:
        return made
    if len(_KNOWN) > _KEPT:
        _KNOWN.clear()
    # 1, 1.0 and True are one key, but not always one argument
    key = (function, repr(args), repr(kwargs), tuple(map(id, parts)))
    return _KNOWN.setdefault(key, made)


def what_is(
    function: Callable[..., Any],
    args: Any,
    kwargs: Any,
    kinds: tuple[str, ...],
    ndim: int,
    parts: tuple[Phi | Tensor, ...],
) -> Literal["elementwise", "random", ""]:
    """What an operation on tensors of some dimensions is; what was tried once is known.

    Args:
        args, kwargs: with holes for the parts.
        kinds: of each part, `value`, `mask` (of booleans) or `constant`.
    """
    constants = tuple(part for part in parts if isinstance(part, Tensor))
    key = (function, args, kwargs, kinds, ndim, tuple(part.shape for part in constants))
    if key not in _TRIED:
        if len(_TRIED) > _KEPT:
            _TRIED.clear()
        _TRIED[key] = _tried(function, args, kwargs, kinds, ndim, constants)
    return _TRIED[key]


def _tried(
    function: Callable[..., Any],
    args: Any,
    kwargs: Any,
    kinds: tuple[str, ...],
    ndim: int,
    constants: tuple[Tensor, ...],
) -> Literal["elementwise", "random", ""]:
    """Whether an operation does to every entry the same, whatever and wherever the others are."""
    shape = [2 + dim for dim in range(ndim)] if ndim < 6 else [2] * ndim
    count = math.prod(shape)
    start = torch.linspace(-2, 2, count, dtype=torch.float64)
    order = (torch.arange(count) * 7919 + 1).remainder(count).argsort(stable=True)

    def result(change: Callable[[Tensor], Tensor]) -> Any:
        rest = iter(constants)
        parts = []
        for number, kind in enumerate(kinds):
            x = change(start.roll(number * 5)[order.roll(number)].reshape(shape))
            parts.append(
                next(rest).clone() if kind == "constant" else x > 0.1 if kind == "mask" else x
            )
        return function(*filled(args, parts), **dict(filled(kwargs, parts)))

    def same(a: Any, b: Any) -> bool:
        return isinstance(a, Tensor) and a.shape == b.shape and a.allclose(b, 1e-9, 1e-12, True)

    corner = (slice(1, None),) * ndim
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        made: list[Any] = []
        with suppress(Exception):
            made.append(result(torch.clone))
            made.append(result(lambda x: x.flatten().flip(0).reshape(shape).clone()))
            made.append(result(lambda x: x[corner].clone()))
            made.append(result(torch.clone))
        values = [t.double() for t in made if isinstance(t, Tensor)]
        if len(values) < 4 or any([*t.shape] != shape for t in (values[0], values[1])):
            return ""
        y, turned, part, again = values
        if not same(y, again):
            return "random"
        turned = turned.flatten().flip(0).reshape(shape)
        return "elementwise" if same(turned, y) and same(part, y[corner]) else ""
