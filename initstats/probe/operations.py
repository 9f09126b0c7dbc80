"""Facts about a call of torch: its name, its tensors, the dimension of its output's units.

Calls are seen through `TorchFunctionMode`, at the level at which people write them. Those that are
themselves written in Python (`F.multi_head_attention_forward`) are followed inside, so that what is
recorded is always one call of a compiled function.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from initstats.probe.kinds import CASTS, CHANNELS_SECOND, MADE_LAST, MAKERS, MIXING, REARRANGING

_SPATIAL = re.compile(r"(?:conv|pool|upsample|interpolate|fold|pad).*?([123])d")


def operation(function: Callable[..., Any]) -> str:
    """The name of a call: `__add__` and `Tensor.add` are both `add`."""
    name = str(getattr(function, "__name__", function))
    if not name.startswith("__"):
        return name
    name = name.strip("_")
    # x += y writes to x, as x.add_(y) does
    return f"{name[1:]}_" if name[0] == "i" and hasattr(Tensor, f"{name[1:]}_") else name


def is_maker(name: str) -> bool:
    """Whether the output's entries do not come from the arguments: `zeros_like`, `x.new_ones`."""
    return name.removeprefix("new_").removesuffix("_like") in MAKERS


def written(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the call writes to; None where it makes new tensors."""
    if kwargs.get("out") is not None:
        return kwargs["out"]
    writes = name == "setitem" or (name.endswith("_") and name.rstrip("_") not in REARRANGING)
    return args[0] if args and writes else None


def keeps_distribution(name: str, out: Tensor, source: Tensor) -> bool:
    """Whether `out`, which the call `name` made of `source`, holds the same entries."""
    if name in CASTS:
        return out.dtype == source.dtype or out.itemsize > source.itemsize
    if name.rstrip("_") in REARRANGING or out is source:
        return True
    if name in ("cat", "stack"):  # a cache that is still empty adds no entries
        return out.numel() == source.numel()
    if out.numel() != source.numel() or out.dtype != source.dtype:
        return False
    if not out.numel() or unmeasurable(out) or unmeasurable(source):
        return False
    return out.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


def moved_axis(axis: int | None, out: Tensor, source: Tensor) -> int | None:
    """The dimension of `out`, a rearranged `source`, that was dimension `axis`; None: the last.

    In a view it is the dimension of the same size that walks memory in the same steps.
    """
    if axis is None:
        return None
    size, step = source.shape[axis], source.stride(axis)
    for moved in range(out.ndim):
        if (out.shape[moved], out.stride(moved)) == (size, step) and size > 1:
            return moved
    return axis if out.shape == source.shape else None


def axis_after(name: str, out: Tensor, source: Tensor | None, axis: int | None) -> int | None:
    """The dimension of the units in a call's output; None: the last.

    Units are the channels of convolutions, pooling and batch normalization. In calls that keep the
    shape they stay where they are in the `source`, the first argument that carries the signal:
    in its dimension `axis`.
    """
    if spatial := _SPATIAL.search(name):
        return out.ndim - int(spatial[1]) - 1
    if name in CHANNELS_SECOND:
        return 1
    if name in MIXING or source is None or axis is None or out.ndim != source.ndim:
        return None
    return axis


def weight_axis(op: str, parameter: Tensor, operand: Tensor, axis: int | None) -> int:
    """The dimension of a parameter that counts the units it makes; the first in torch's layers.

    Args:
        op: the operation that uses the parameter.
        operand: the parameter as the operation got it, maybe transposed.
        axis: the dimension of the operand that is the parameter's first.
    """
    if parameter.ndim < 2 or op not in MADE_LAST:
        return 1 if op.startswith("conv_transpose") else 0
    return 0 if axis == operand.ndim - 1 else parameter.ndim - 1


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


def unmeasurable(x: Tensor) -> str:
    """Why the entries of a tensor cannot be read; empty where they can."""
    if x.is_complex():
        return "complex numbers have no order: measure their real and imaginary parts"
    if x.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "it holds no numbers of its own (a meta tensor, or inside a torch.func transform)"
    if x.is_nested or x.layout != torch.strided or x.is_quantized:
        return "its entries are not stored as plain numbers (nested, sparse or quantized)"
    return ""


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and dataclasses, in their order."""
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
