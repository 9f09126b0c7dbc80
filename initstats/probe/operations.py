"""Facts about a call of torch: its name, its tensors, whether its output holds the same entries.

Calls are seen through `TorchFunctionMode`, at the level at which people write them. Those that are
themselves written in Python (`F.multi_head_attention_forward`) are followed inside, so that what is
recorded is always one call of a compiled function.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from types import FunctionType
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)

from initstats.probe.kinds import CASTS, DRAWS, DROPOUTS, MAKERS, OVERWRITING, REARRANGING, TOGETHER


@dataclass(frozen=True)
class Operation:
    """A call of torch.

    Attributes:
        name: see `name_of`.
        before: the shape that its first argument had, where it rearranges that in place.
    """

    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    before: tuple[int, ...] | None = None

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The tensors whose entries it reads, in the order of the arguments.

        Of what rearranges or casts that is the first alone: another, as in `expand_as`, gives a
        shape or a dtype.
        """
        given = list(tensors((self.args, self.kwargs)))
        return given[:1] if self.name.rstrip("_") in REARRANGING | CASTS else given

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, wherever it was given."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def written(self) -> Any:
        """What the call writes to; None where it makes new tensors."""
        if self.kwargs.get("out") is not None:
            return self.kwargs["out"]
        name = self.name
        writes = name == "setitem" or (name.endswith("_") and name.rstrip("_") not in REARRANGING)
        if writes:
            return self._given[0] if self._given else None
        return _declared(self.function, self.args, self.kwargs) or None

    @cached_property
    def read(self) -> list[Tensor]:
        """The tensors among the arguments that are not merely written to."""
        return list(tensors(self._given[self.name in OVERWRITING :]))

    @property
    def _given(self) -> list[Any]:
        """The arguments, in their order; without what an `out` names."""
        return [*self.args, *(given for name, given in self.kwargs.items() if name != "out")]


def may_be_tried(operation: Operation) -> bool:
    """Whether a call may be repeated on other numbers, to see what it does with them.

    Functions that torch keeps to itself do not check what they are given, and may end the process;
    operators of others, and functions that an operator is given, may have effects.
    """
    packet = getattr(operation.function, "overloadpacket", operation.function)
    if isinstance(packet, torch._ops.HigherOrderOperator):
        return False
    others = isinstance(packet, torch._ops.OpOverloadPacket) and not str(
        packet._qualified_op_name
    ).startswith("aten::")
    return not (others or operation.name.startswith("_"))


def called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Operation:
    """The operation of a call that is about to be made."""
    name = name_of(function)
    moved = args[:1] if name.endswith("_") and name.rstrip("_") in REARRANGING else ()
    before = tuple(moved[0].shape) if moved else None
    return Operation(function, name, args, kwargs, before)


def name_of(function: Callable[..., Any]) -> str:
    """The name of a call: `__add__` and `Tensor.add` are both `add`."""
    function = getattr(function, "overloadpacket", function)  # of a registered operator
    name = str(getattr(function, "__name__", function))
    if not name.startswith("__"):
        return name
    name = name.strip("_")
    # x += y writes to x, as x.add_(y) does
    return f"{name[1:]}_" if name[0] == "i" and hasattr(Tensor, f"{name[1:]}_") else name


def _declared(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that a registered operator declares to write to."""
    packet = getattr(function, "overloadpacket", function)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return []
    names: list[str] = packet.overloads()  # type: ignore[no-untyped-call]
    schemas = [getattr(packet, name)._schema for name in names]
    declared = [
        (place, argument.name)
        for schema in schemas
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    given = {name: args[place] for place, name in declared if place < len(args)}
    return [*given.values(), *(kwargs[name] for _, name in declared if name in kwargs)]


def is_maker(name: str) -> bool:
    """Whether the output's entries do not come from the arguments: `zeros_like`, `x.new_ones`."""
    return name.removeprefix("new_").removesuffix("_like") in MAKERS


def is_draw(name: str) -> bool:
    """Whether a call draws random numbers: `rand_like`, `x.bernoulli_`."""
    return name.removeprefix("new_").removesuffix("_like").rstrip("_") in DRAWS


def draws(operation: Operation) -> int:
    """How many random numbers a dropout multiplies its input by; 0 for other calls."""
    name, x = operation.name.rstrip("_"), operation.argument(0, "input")
    trains = operation.argument(2, "train", operation.kwargs.get("training", True))
    if name not in DROPOUTS or not trains:
        return 0
    return math.prod(x.shape[:2]) if name.startswith("feature") else int(x.numel())


def keeps_distribution(name: str, out: Tensor, source: Tensor) -> bool:
    """Whether `out`, which the call `name` made of `source`, holds the same entries."""
    if name in CASTS:
        return out.dtype == source.dtype or out.itemsize > source.itemsize
    if name.rstrip("_") in REARRANGING | TOGETHER or out is source:
        return True
    if name in ("cat", "stack"):  # a cache that is still empty adds no entries
        return out.numel() == source.numel()
    if out.numel() != source.numel() or out.dtype != source.dtype:
        return False
    if not out.numel() or unmeasurable(out) or unmeasurable(source):
        return False
    return out.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


def by_unit(x: Tensor, axis: int) -> Tensor:
    """The tensor as (units, entries)."""
    if x.ndim == 0 or not x.numel():
        return x.reshape(1, -1)
    return x.movedim(axis, 0).flatten(1) if x.ndim > 1 else x[:, None]


def spread(mask: Tensor, x: Tensor, axis: int) -> Tensor | None:
    """The mask of samples and positions that `by_unit(x, axis)` needs; None where it does not fit.

    It fits where the dimensions of `x` without the units' begin as its own do, or with as many
    entries as it has in all (samples and positions in one dimension).
    """
    shape = [size for dimension, size in enumerate(x.shape) if dimension != axis]
    if tuple(shape[: mask.ndim]) == mask.shape:
        within = shape[mask.ndim :]
    elif shape[:1] == [mask.numel()]:
        within = shape[1:]
    else:
        return None
    return mask.flatten().repeat_interleave(math.prod(within))


def carries(x: Tensor) -> bool:
    """Whether a tensor may hold a signal: numbers, or the integers that images and sounds have.

    Integers of other sizes are indices, and booleans are masks.
    """
    return x.is_floating_point() or x.is_complex() or x.dtype in (torch.uint8, torch.int16)


def unmeasurable(x: Tensor) -> str:
    """Why the entries of a tensor cannot be read; empty where they can."""
    if x.is_complex():
        return "complex numbers have no order: measure their real and imaginary parts"
    if is_empty(x):
        return "it holds no numbers of its own (a meta tensor, or inside a torch.func transform)"
    if x.is_nested or x.layout != torch.strided or x.is_quantized:
        return "its entries are not stored as plain numbers (nested, sparse or quantized)"
    return ""


def is_empty(x: Tensor) -> bool:
    """Whether a tensor has no memory with numbers: a meta or fake one, or one in a transform."""
    return x.is_meta or isinstance(x, FakeTensor) or functorch.is_functorch_wrapped_tensor(x)


@contextmanager
def aside() -> Iterator[None]:
    """Work on numbers that no mode, no autograd and no transform of torch.func takes part in."""
    with torch._C.DisableTorchFunction(), torch.no_grad():
        if functorch.peek_interpreter_stack() is None:
            yield
        else:
            with temporarily_clear_interpreter_stack():
                yield


@contextmanager
def only_mode(mode: TorchFunctionMode) -> Iterator[None]:
    """Let a mode see calls of torch, also in `aside`, and no mode that was there before."""
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    for _ in modes:
        _pop_mode()  # type: ignore[no-untyped-call]
    try:
        with torch._C._EnableTorchFunction(), mode:
            yield
    finally:
        for each in modes:
            _push_mode(each)  # type: ignore[no-untyped-call]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings, dataclasses and distributions, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors([*value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        yield from tensors([getattr(value, field.name, None) for field in fields])
    elif isinstance(value, torch.distributions.Distribution):
        yield from tensors(vars(value))


class Opening(TorchFunctionMode):
    """A mode that sees the calls inside torch's functions that are written in Python.

    It may end before modes that began later, as those of other tasks of an event loop do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._opened: list[FunctionType] = []

    def __exit__(self, *_: object) -> None:
        """Leave the stack of modes, and leave the others on it."""
        later = []
        modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        for mode in reversed(modes):
            _pop_mode()  # type: ignore[no-untyped-call]
            if mode is self:
                break
            later.append(mode)
        for mode in reversed(later):
            _push_mode(mode)  # type: ignore[no-untyped-call]

    def opens(self, function: Callable[..., Any]) -> TypeGuard[FunctionType]:
        """Whether a function can be seen inside, and is not seen inside now."""
        return isinstance(function, FunctionType) and function not in self._opened

    def inside(self, function: FunctionType, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Call a function, whose own calls come to this mode."""
        self._opened.append(function)
        try:
            with self:
                return body(function)(*args, **kwargs)
        finally:
            self._opened.pop()


@cache
def body(function: FunctionType) -> FunctionType:
    """A function of torch without the check that hands its calls to a mode.

    When it is called while a mode is on, the mode sees the calls in its body and not its own.
    """
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    inside = {**function.__globals__, **dict.fromkeys(checks, lambda *_: False)}
    copy = FunctionType(
        function.__code__, inside, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
