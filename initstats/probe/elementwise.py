"""The elementwise function phi that made a value, followed through the operations of a model.

A value is phi(z) of the last value z before it that no elementwise operation made: the output of a
linear map or of a normalization, the input, a sum of two branches. With z ~ N(0, 1) the gain
1 / sqrt(E phi(z)^2) keeps the second moment of a signal (He et al. 2015, arXiv:1502.01852). During
the forward pass only the composition is noted down; integrals wait until somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from initstats import gaussian
from initstats.probe.kinds import CARRYING, CASTS, MIXING, NORMALIZATIONS, REARRANGING, words
from initstats.probe.operations import Operation, unmeasurable

_DEEPEST = 50  # operations in one composition: more are a solver's steps, not an activation
_KEPT = 4096  # functions whose integrals are kept
_CHANNELS = 2**14  # most entries of a parameter such as a slope for every channel
_CROWD = 0.2  # share of N(0, 1) at a bound from which on it is a rectifier's floor
_NEAR = 0.01  # distance from a bound that counts as at it, relative to its distance from phi(0)
_FAR = 1e8  # z at which a bounded function is at its bound
_CHANNELWISE = words("add div lerp maximum minimum mul pow prelu rsub sub where")
"""Operations that take a parameter with an entry for every channel."""


class _Hole(NamedTuple):
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
    """

    function: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    parts: tuple[Phi | Tensor, ...] = ()
    known: bool = True
    depth: int = 0
    channels: int = 0

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
                filled = _filled(part.args, parts)
                done[part] = part.function(*filled, **dict(_filled(part.kwargs, parts)))
            return done[part]

        with torch.no_grad():
            return value(self)

    @cached_property
    def gain(self) -> float:
        """1 / sqrt(E phi(z)^2), the mean also over channels; NaN where it cannot be known."""
        if not self.known:
            return math.nan
        if self.function is None:
            return 1.0
        square = math.nan
        # an operation may raise at values that it was not made for
        with suppress(Exception), torch._C.DisableTorchFunction():
            square = self._mean_square()
        return 1 / math.sqrt(square) if square > 0 else math.inf if square == 0 else math.nan

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
        if not zero.isfinite():
            return none
        found = [bound for side in (far[:2], far[2:]) for bound in _flat(side, zero, usual)]
        low = min((b for b in found if b < zero), default=math.nan)
        high = max((b for b in found if b > zero), default=math.nan)
        reach = [_NEAR * abs(b - float(zero)) for b in (low, high)]
        at_low = -math.inf if math.isnan(low) else low + reach[0]
        return Bounds(low, high, at_low, math.inf if math.isnan(high) else high - reach[1])

    def _mean_square(self) -> float:
        if not self.channels:
            return gaussian.expect(lambda z: self(z).double().square())
        points, weights = _MESH
        return float((weights @ self._by_channel(points).square()).mean())

    def _by_channel(self, z: Tensor) -> Tensor:
        """phi(z), (points, channels)."""
        return self(z[:, None].expand(-1, max(self.channels, 1))).double()


IDENTITY = Phi()
UNKNOWN = Phi(known=False)
_KNOWN: dict[Any, Phi] = {}  # functions without tensors of their own, by their structure


class Form(NamedTuple):
    """What a tensor holds: phi of a value.

    Attributes:
        place: equal for tensors whose entries stem, place by place, from the same entries of the
            same value.
        axis: dimension of phi's channels; None where it has none, or they were moved.
    """

    phi: Phi
    place: Any
    axis: int | None = None


class Forms:
    """The forms of the tensors that carry a signal."""

    def __init__(self) -> None:
        self._forms: Any = WeakIdKeyDictionary()

    def __contains__(self, x: Tensor) -> bool:
        return x in self._forms

    def of(self, x: Tensor) -> Phi:
        """The function that made a tensor, of the last value that no such function made."""
        form = self._forms.get(x)
        return IDENTITY if form is None else form.phi

    def begin(self, x: Tensor, phi: Phi = IDENTITY) -> None:
        """Take a tensor as a value of its own."""
        self._forms[x] = Form(phi, object())

    def carry(self, x: Tensor, source: Tensor, operation: Operation) -> None:
        """Take over the function of a source whose entries an operation rearranged or chose."""
        form = self._forms.get(source)
        name = operation.name.rstrip("_")
        if form is None:
            self.begin(x)
        elif x is source or name in _KEEPING:
            self._forms[x] = form
        else:
            # the same rearrangement twice puts the same entries at the same places
            repeats = name in REARRANGING and len(operation.tensors) == 1
            key = (name, repr(operation.args[1:]), repr(operation.kwargs)) if repeats else object()
            self._forms[x] = form._replace(place=(form.place, key), axis=None)

    def follow(self, operation: Operation, outputs: list[Tensor], source: Tensor) -> None:
        """Note down what an operation made of the signal in a source and of its other arguments."""
        name = operation.name.rstrip("_")
        if len(outputs) == 1 and (form := self.composed(operation, outputs[0])):
            self._forms[outputs[0]] = form
        elif name in CARRYING or self._joins(name, operation):
            for x in outputs:
                self.carry(x, source, operation)
        else:
            for x in outputs:
                self.begin(x)

    def note(self, operation: Operation, out: Tensor) -> None:
        """Note down what is no signal itself, but may take part in making one: a comparison."""
        forms = [self._forms[x] for x in operation.tensors if x in self._forms]
        if not forms:
            return
        if operation.name in CASTS:
            phi = _phi(Tensor.double, (_Hole(0),), (), (forms[0].phi,))
            self._forms[out] = forms[0]._replace(phi=phi)
        elif form := self.composed(operation, out):
            self._forms[out] = form

    def composed(self, operation: Operation, out: Tensor) -> Form | None:
        """The form of an operation's output; None where the operation is not elementwise."""
        name = operation.name.rstrip("_")
        if name in _NEVER or not out.ndim or not out.numel() or unmeasurable(out):
            return None
        form = None
        with suppress(Exception):  # of arguments that nobody thought of nothing is known
            form = self._composed(name, operation, out)
        return form

    def _composed(self, name: str, operation: Operation, out: Tensor) -> Form | None:
        parts: list[Tensor] = []
        kwargs = {key: value for key, value in operation.kwargs.items() if key != "out"}
        args = _plain(operation.args, parts)
        named = tuple(zip(kwargs, _plain(tuple(kwargs.values()), parts), strict=True))
        forms = [self._forms.get(part) for part in parts]
        signals = [form for form in forms if form is not None]
        aligned = all(
            part.shape == out.shape and form.place == signals[0].place
            for form, part in zip(forms, parts, strict=True)
            if form is not None
        )
        if not signals or not aligned:
            return None
        wide = [
            part for part, form in zip(parts, forms, strict=True) if not form and _is_wide(part)
        ]
        axes = {_channel_axis(name, part, out) for part in wide}
        axes |= {form.axis for form in signals if form.phi.channels > 1}
        if len(axes) > 1 or (wide and None in axes):
            return None
        if wide and name in ("add", "sub") and all(form.phi is IDENTITY for form in signals):
            return None  # the bias of a map that is written out
        pieces = tuple(
            form.phi if form else _snapshot(part) for part, form in zip(parts, forms, strict=True)
        )
        kinds = tuple(map(_kind, parts, forms))
        if not wide and not _elementwise(operation.function, args, named, kinds, out.ndim, pieces):
            return None
        phi = _phi(operation.function, args, named, pieces)
        return None if phi is None else Form(phi, signals[0].place, axes.pop() if axes else None)

    def _joins(self, name: str, operation: Operation) -> bool:
        """Whether values of one and the same function are put side by side."""
        if name not in ("cat", "stack", "concat", "concatenate"):
            return False
        forms = [self._forms.get(x) for x in operation.tensors]
        return None not in forms and len({form.phi for form in forms}) == 1


_KEEPING = CASTS | words("alias clone contiguous cpu cuda detach")
_NEVER = (MIXING | NORMALIZATIONS | CARRYING) - {"rsqrt"}
_MESH = gaussian.mesh(torch.arange(-10, 10.25, 0.25, dtype=torch.float64))
_PLACES = torch.cat(
    [
        torch.tensor([-_FAR, -_FAR / 1e3, _FAR, _FAR / 1e3, 0.0], dtype=torch.float64),
        torch.special.ndtri(torch.arange(0.5, 200, dtype=torch.float64) / 200),
    ]
)
"""Points at which bounds are looked for: far out on either side, zero, and N(0, 1) itself."""


def _flat(far: Tensor, zero: Tensor, usual: Tensor) -> list[float]:
    """The bound on one side, if there is one that counts; far: (2, channels)."""
    bound = far[0].mean()
    size = far.abs().max().clamp(min=float(zero.abs()))
    if not far.isfinite().all() or ((far - bound).abs() > 1e-4 * size).any() or not size > 0:
        return []
    reach = (bound - zero).abs()
    crowd = ((usual - bound).abs() <= _NEAR * reach).double().mean()
    return [float(bound)] if reach > 1e-9 * size and crowd < _CROWD else []


def _plain(value: Any, parts: list[Tensor]) -> Any:
    """Arguments that can be hashed, with holes for tensors, which are added to the parts."""
    if isinstance(value, Tensor):
        for number, part in enumerate(parts):
            if part is value:
                return _Hole(number)
        parts.append(value)
        return _Hole(len(parts) - 1)
    if isinstance(value, torch.Generator):
        raise TypeError("what is drawn from a generator is no function")
    if isinstance(value, tuple | list):
        return tuple(_plain(item, parts) for item in value)
    hash(value)  # raises where it cannot be a key
    return value


def _filled(value: Any, parts: list[Tensor]) -> Any:
    if isinstance(value, _Hole):
        return parts[value.number]
    return tuple(_filled(item, parts) for item in value) if isinstance(value, tuple) else value


def _phi(
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


def _channel_axis(name: str, constant: Tensor, out: Tensor) -> int | None:
    """The dimension of the output along which a constant has its entries."""
    if name not in _CHANNELWISE or constant.numel() > _CHANNELS or unmeasurable(constant):
        return None
    if name == "prelu":
        return 1
    wide = [dim for dim, size in enumerate(constant.shape) if size > 1]
    if len(wide) != 1 or constant.ndim > out.ndim:
        return None
    return out.ndim - constant.ndim + wide[0]


def _is_wide(constant: Tensor) -> bool:
    return constant.numel() > 1


def _snapshot(constant: Tensor) -> Tensor:
    """The entries of a constant as they are now."""
    flat = constant.detach().reshape(-1).to("cpu", copy=True)
    flat = flat.double() if flat.is_floating_point() else flat
    return flat if constant.ndim else flat[0]


def _kind(part: Tensor, form: Form | None) -> str:
    if form is None:
        return "constant"
    return "mask" if part.dtype == torch.bool else "value"


def _elementwise(
    function: Callable[..., Any],
    args: Any,
    kwargs: Any,
    kinds: tuple[str, ...],
    ndim: int,
    parts: tuple[Phi | Tensor, ...],
) -> bool:
    """Whether an operation is elementwise; what was tried once is known."""
    if constants := tuple(part for part in parts if isinstance(part, Tensor)):
        return _tried(function, args, kwargs, kinds, ndim, constants)
    return _known_elementwise(function, args, kwargs, kinds, ndim)


@lru_cache(_KEPT)
def _known_elementwise(
    function: Callable[..., Any], args: Any, kwargs: Any, kinds: tuple[str, ...], ndim: int
) -> bool:
    return _tried(function, args, kwargs, kinds, ndim, ())


def _tried(
    function: Callable[..., Any],
    args: Any,
    kwargs: Any,
    kinds: tuple[str, ...],
    ndim: int,
    constants: tuple[Tensor, ...],
) -> bool:
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
        return function(*_filled(args, parts), **dict(_filled(kwargs, parts)))

    def same(a: Any, b: Any) -> bool:
        return isinstance(a, Tensor) and a.shape == b.shape and a.allclose(b, 1e-9, 1e-12, True)

    corner = (slice(1, None),) * ndim
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        y = turned = part = None
        with suppress(Exception):
            y = result(torch.clone)
            turned = result(lambda x: x.flatten().flip(0).reshape(shape).clone())
            part = result(lambda x: x[corner].clone())
        made = [t for t in (y, turned, part) if isinstance(t, Tensor)]
        if len(made) < 3 or [*made[0].shape] != shape or made[0].shape != made[1].shape:
            return False
        y, turned, part = (t.double() for t in made)
        return same(turned.flatten().flip(0).reshape(shape), y) and same(part, y[corner])
