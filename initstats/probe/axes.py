"""The dimension of a tensor that counts its units, followed through the operations of a model.

Where a dimension goes is found by trying: the operation is run on a tensor that differs along that
dimension alone. Views of such a tensor take no memory, and what was tried once is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from initstats.probe.kinds import CHANNELS_SECOND, MIXING, words
from initstats.probe.operations import Operation, unmeasurable

_SPATIAL = re.compile(r"(?:conv|pool|upsample|interpolate|fold|pad).*?([123])d")
_SHUFFLES = words("channel_shuffle pixel_shuffle pixel_unshuffle")
_LARGEST = 2**24  # most entries of a copy that is made to find a dimension


def axis_after(
    operation: Operation, out: Tensor, source: Tensor | None, axis: int | None
) -> int | None:
    """The dimension of the units in a call's output; None: the last.

    Units are the channels of convolutions, pooling and batch normalization. In calls that keep the
    shape they stay where they are in the `source`, the first argument that carries the signal:
    in its dimension `axis`.
    """
    name = operation.name
    if (spatial := _SPATIAL.search(name)) and out.ndim > int(spatial[1]):
        return out.ndim - int(spatial[1]) - 1
    if name in CHANNELS_SECOND:
        return 1
    if name in MIXING or source is None or axis is None:
        return None
    if out.ndim == source.ndim and not _is_view(out, source):
        return axis
    return moved_axis(operation, out, source, axis)


def moved_axis(operation: Operation, out: Tensor, source: Tensor, axis: int | None) -> int | None:
    """The dimension of `out`, a rearranged `source`, that was dimension `axis`; None: the last.

    Where the dimension was split, it is the part that tells most units apart.
    """
    shape = operation.before or tuple(source.shape)
    still = out is source and operation.before is None
    if axis is None or still or axis >= len(shape):
        return axis if out.ndim else None
    if operation.name in _SHUFFLES:
        return out.ndim - 3
    if unmeasurable(out) or unmeasurable(source) or not out.numel():
        return None
    args, kwargs = _marked(operation.args, source), _marked(dict(operation.kwargs), source)
    key = _key(args), _key(kwargs)
    if None in key:
        return axis if out.ndim == len(shape) else None
    found = _moved(_Trial(operation.function, args, kwargs, (*key, axis, shape)), shape, axis)
    if found is None and out.shape == shape:
        return axis
    return found


def parameter_axis(operation: Operation, operand: Tensor, out: Tensor, axis: int | None) -> int:
    """The dimension of a parameter's units, where it is no operand of a sum.

    Args:
        axis: that of the units in the output.
    """
    if operand.ndim < 2:
        return 0
    if operation.name in ("embedding", "embedding_bag"):
        return operand.ndim - 1
    dim = -1 if axis is None else axis - (out.ndim - operand.ndim)
    return dim if dim >= 0 and operand.shape[dim] == out.shape[axis or 0] else 0


class _Mark:
    """The place of the marked tensor in the arguments."""


_MARK = _Mark()


class _Trial:
    """An operation on a marked tensor; equal to another of the same arguments."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, key: Any) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self._key = (function, *key)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Trial) and self._key == other._key

    def __call__(self, marks: Tensor) -> Any:
        return self.function(*_filled(self.args, marks), **_filled(self.kwargs, marks))


@lru_cache(4096)
def _moved(trial: _Trial, shape: tuple[int, ...], axis: int) -> int | None:
    """Where the dimension `axis` of a tensor of this shape goes."""
    size = shape[axis]
    if size == 1:  # nothing differs along it: try one that is longer
        shape, size = (*shape[:axis], 2, *shape[axis + 1 :]), 2
    marks = torch.arange(size, dtype=torch.float32)
    marks = marks.view(*[-1 if dim == axis else 1 for dim in range(len(shape))]).expand(shape)
    for copy in (False, True):
        if copy and marks.numel() > _LARGEST:
            return None
        result = None
        # a view may need a copy, and sizes may not fit
        with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = trial(marks.contiguous() if copy else marks)
        result = result[0] if isinstance(result, tuple | list) else result
        if isinstance(result, Tensor):
            return _marked_dimension(result)
    return None


def _marked_dimension(marks: Tensor) -> int | None:
    """The dimension along which most different marks lie; None where they are all the same."""
    best, most = None, 1
    for dim in range(marks.ndim):
        line = marks[tuple(slice(None) if d == dim else 0 for d in range(marks.ndim))]
        different = len(set(line.tolist()))
        if different > 1 and different >= most:
            best, most = dim, different
    return best


def _is_view(out: Tensor, source: Tensor) -> bool:
    if unmeasurable(out) or unmeasurable(source) or out is source:
        return False
    return out.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


def _marked(value: Any, source: Tensor) -> Any:
    """Arguments with marks in place of tensors of the source's shape."""
    if isinstance(value, Tensor):
        return _MARK if value.shape == source.shape else value
    if isinstance(value, dict):
        return {key: _marked(item, source) for key, item in value.items()}
    return (
        type(value)([_marked(x, source) for x in value]) if type(value) in (tuple, list) else value
    )


def _filled(value: Any, marks: Tensor) -> Any:
    if value is _MARK:
        return marks
    if isinstance(value, dict):
        return {key: _filled(item, marks) for key, item in value.items()}
    return (
        type(value)([_filled(x, marks) for x in value]) if type(value) in (tuple, list) else value
    )


def _key(value: Any) -> Any:
    """Arguments as a key; None where they hold another tensor."""
    if isinstance(value, Tensor):
        return None
    if isinstance(value, dict):
        value = tuple(item for pair in value.items() for item in pair)
    if isinstance(value, tuple | list):
        keys = tuple(_key(item) for item in value)
        return None if None in keys else keys
    return "mark" if value is _MARK else repr(value)
