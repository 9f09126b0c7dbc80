"""The elementwise functions that made the values of a model, followed through its operations."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.elementwise import (
    IDENTITY,
    UNKNOWN,
    Hole,
    Phi,
    holed,
    phi_of,
    what_is,
)
from initstats.probe.kinds import (
    CARRYING,
    CASTS,
    CHOOSING,
    MIXING,
    NORMALIZATIONS,
    REARRANGING,
    words,
)
from initstats.probe.operations import Operation, may_be_tried, unmeasurable

_CHANNELS = 2**14  # most entries of a parameter such as a slope for every channel
_KEEPING = CASTS | words("alias clone contiguous cpu cuda detach")
_REDUCING = words("amax max mean")
"""Calls that pool, where the units stay what they are."""
_NEVER = MIXING | NORMALIZATIONS | CARRYING
_CHANNELWISE = words("add div lerp maximum minimum mul pow prelu rsub sub where")
"""Operations that take a parameter with an entry for every channel."""


class Form(NamedTuple):
    """What a tensor holds: phi of a value.

    Attributes:
        place: equal for tensors whose entries stem, place by place, from the same entries of the
            same value.
        axis: dimension of phi's channels; None where it has none, or they were moved.
        given: whether the value came from outside of the model.
    """

    phi: Phi
    place: Any
    axis: int | None = None
    given: bool = False


class Forms:
    """The forms of the tensors that carry a signal."""

    def __init__(self) -> None:
        self._forms: Any = WeakIdKeyDictionary()

    def __contains__(self, x: Tensor) -> bool:
        return x in self._forms

    def of(self, x: Tensor) -> Phi:
        """The function that made a tensor, of the last value that no such function made.

        What was only shifted and scaled of what came from outside is a value itself: data is
        N(0, 1) at best once that was done.
        """
        form = self._forms.get(x)
        if form is None or (form.given and form.phi.affine):
            return IDENTITY
        phi: Phi = form.phi
        return phi

    def begin(self, x: Tensor, phi: Phi = IDENTITY, *, given: bool = False) -> None:
        """Take a tensor as a value of its own."""
        self._forms[x] = Form(phi, object(), given=given)

    def carry(self, x: Tensor, source: Tensor, operation: Operation, output: int = 0) -> None:
        """Take over the function of a source whose entries an operation rearranged or chose."""
        form = self._forms.get(source)
        name = operation.name.rstrip("_")
        if form is None:
            self.begin(x)
        elif (x is source and operation.before is None) or name in _KEEPING:
            self._forms[x] = form
        else:
            # the same choice made twice puts the same entries at the same places
            repeats = name in REARRANGING | CHOOSING and len(operation.tensors) == 1
            how = (name, repr(operation.args[1:]), repr(operation.kwargs), output)
            place = form.place, how if repeats else object()
            self._forms[x] = form._replace(place=place, axis=None)

    def follow(
        self, operation: Operation, outputs: list[Tensor], source: Tensor, same_units: bool
    ) -> None:
        """Note down what an operation made of the signal in a source and of its other arguments.

        Args:
            same_units: whether the outputs have the units of the source.
        """
        name = operation.name.rstrip("_")
        if len(outputs) == 1 and (form := self.composed(operation, outputs[0])):
            self._forms[outputs[0]] = form
        elif factors := self._factors(name, operation):
            self.begin(outputs[0], Phi(factors=factors))
        elif joined := self._joined(name, operation):
            self.begin(outputs[0], Phi(beside=joined))
        elif name in CARRYING or (name in _REDUCING and same_units) or self._joins(name, operation):
            for output, x in enumerate(outputs):
                self.carry(x, source, operation, output)
        else:
            for x in outputs:
                self.begin(x, IDENTITY if may_be_tried(operation) else UNKNOWN)

    def note(self, operation: Operation, out: Tensor) -> None:
        """Note down what is no signal itself, but may take part in making one: a comparison."""
        known = [x for x in operation.tensors if x in self._forms]
        if not known:
            return
        if operation.name in CASTS and known[0].dtype == torch.bool:
            form = self._forms[known[0]]
            self._forms[out] = form._replace(phi=phi_of(Tensor.double, (Hole(0),), (), (form.phi,)))
        elif form := self.composed(operation, out):
            self._forms[out] = form

    def composed(self, operation: Operation, out: Tensor) -> Form | None:
        """The form of an operation's output; None where the operation is not elementwise."""
        name = operation.name.rstrip("_")
        if name in _NEVER or not out.ndim or not out.numel() or unmeasurable(out):
            return None
        if not may_be_tried(operation):
            return None
        form = None
        with suppress(Exception):  # of arguments that nobody thought of nothing is known
            form = self._composed(name, operation, out)
        return form

    def _composed(self, name: str, operation: Operation, out: Tensor) -> Form | None:
        parts: list[Tensor] = []
        kwargs = {key: value for key, value in operation.kwargs.items() if key != "out"}
        args = holed(operation.args, parts)
        named = tuple(zip(kwargs, holed(tuple(kwargs.values()), parts), strict=True))
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
        tried = "elementwise"
        if not wide:
            tried = what_is(operation.function, args, named, kinds, out.ndim, pieces)
        if tried == "random":
            return Form(UNKNOWN, signals[0].place, given=signals[0].given)
        if not tried:
            return None
        phi = phi_of(operation.function, args, named, pieces)
        axis = axes.pop() if axes else None
        form = signals[0]
        return None if phi is None else Form(phi, form.place, axis, form.given)

    def _factors(self, name: str, operation: Operation) -> tuple[Phi, ...]:
        """The functions of the values that a gate multiplies; none where it is no gate."""
        phis = [self._forms[x].phi for x in operation.tensors if x in self._forms]
        if name == "glu":
            phis.append(phi_of(torch.sigmoid, (Hole(0),), (), (phis[0],)))
        if name not in ("glu", "mul") or len(phis) != 2 or not all(phi.known for phi in phis):
            return ()
        return tuple(phis)

    def _joins(self, name: str, operation: Operation) -> bool:
        """Whether values of one and the same function are put side by side."""
        phis = [phi for phi, _ in self._side_by_side(name, operation)]
        return len(set(phis)) == 1

    def _joined(self, name: str, operation: Operation) -> tuple[tuple[Phi, int], ...]:
        """The functions of different values that are put side by side; none of one function."""
        pairs = self._side_by_side(name, operation)
        return tuple(pairs) if len({phi for phi, _ in pairs}) > 1 else ()

    def _side_by_side(self, name: str, operation: Operation) -> list[tuple[Phi, int]]:
        """The functions of values that are joined, and their entries; none of what is unknown."""
        if name not in ("cat", "stack", "concat", "concatenate"):
            return []
        parts = [x for x in operation.tensors if x.numel()]
        if not all(x in self._forms and self.of(x).known for x in parts):
            return []
        return [(self.of(x), x.numel()) for x in parts]


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
