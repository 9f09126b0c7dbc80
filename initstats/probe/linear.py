"""How the units that an operation makes sum their inputs, read off the operation itself.

Matrix products of all spellings are sums over labelled dimensions, as in `einsum`: a label that the
output lacks is summed over. Fan-in is the number of terms of such a sum, so that white inputs and
weights of second moment s give an output of second moment fan_in * s (LeCun et al. 1998).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from initstats.probe.kinds import RECURRENT, words
from initstats.probe.operations import Operation

Labels = Sequence[Hashable]
_PRODUCTS = words("bmm linalg_matmul matmul mm mv")
_CHAINS = words("chain_matmul linalg_multi_dot")
_PLUS_PRODUCTS = words("addbmm addmm addmv baddbmm")


class Sum(NamedTuple):
    """A sum of products, with one of the operands taken as the weight.

    Attributes:
        weight: the operand.
        fan_in: how many terms an entry of the output sums, on average where that differs.
        fan_out: how many units the operand makes, times the positions of a kernel.
        axis: dimension of the operand that counts the units it makes.
        made: dimension of the output that counts them; None where the operation's kind says it.
        summed: dimension of the operand that is summed over; None where there is none.
        inner: whether the sum is inside of the operation and is not its output, as in a gate.
    """

    weight: Tensor
    fan_in: float
    fan_out: float
    axis: int
    made: int | None
    summed: int | None
    inner: bool = False


def sums(operation: Operation) -> list[Sum]:
    """The sums that an operation makes, by operand; none where it is no linear map."""
    name = operation.name.rstrip("_")
    try:
        if name.startswith("conv"):
            return _convolution(name, operation)
        if name in RECURRENT:
            matrices = [x for x in operation.tensors if x.ndim == 2]
            return [Sum(x, x.shape[1], x.shape[0], 0, None, 1, inner=True) for x in matrices]
    except (IndexError, TypeError, ValueError):  # arguments of a kind that is not known here
        return []
    labelled = labels(operation)
    return _by_operand(*labelled) if labelled else []


def labels(operation: Operation) -> tuple[list[tuple[Tensor, Labels]], Labels] | None:
    """The operands of a product with a label for every dimension, and those of its output.

    Returns:
        None for what is no product, and for convolutions and recurrent layers.
    """
    try:
        return _labelled(operation.name.rstrip("_"), operation)
    except (IndexError, TypeError, ValueError):  # arguments of a kind that is not known here
        return None


def sum_of_product(operation: Operation, weight: Tensor, shape: tuple[int, ...]) -> Sum | None:
    """The sum over a product that was made entry by entry, as in (x * w).sum(-1).

    Args:
        weight: one of the factors.
        shape: that of the other factor.

    Returns:
        None for another operation, and where the weight is the same in all that is summed.
    """
    x, dims = operation.argument(0, "input"), operation.argument(1, "dim")
    if operation.name != "sum" or dims is None:
        return None
    summed = {dim % x.ndim for dim in ([dims] if isinstance(dims, int) else dims)}
    kept = operation.argument(2, "keepdim", False)
    out = [("gone", d) if d in summed else d for d in range(x.ndim) if kept or d not in summed]
    signal = torch.empty(shape, device="meta")
    operands = [(a, _places(a.shape, x.ndim)) for a in (weight, signal)]
    return _by_operand(operands, out)[0] if summed & {*operands[0][1]} else None


def _places(shape: Sequence[int], ndim: int) -> list[Hashable]:
    """The dimensions of a broadcast operand, by their places in the result."""
    places = range(ndim - len(shape), ndim)
    return [d if size > 1 else ("one", d) for d, size in zip(places, shape, strict=True)]


def _by_operand(operands: Sequence[tuple[Tensor, Labels]], out: Labels) -> list[Sum]:
    sizes: dict[Hashable, int] = {}
    for x, labels in operands:
        for label, size in zip(labels, x.shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    fan_in = math.prod(size for label, size in sizes.items() if label not in out)
    found = []
    for x, labels in operands:
        others = {label for y, given in operands if y is not x for label in given}
        made = [label for label in labels if label in out]
        own = [label for label in made if label not in others] or made
        unit = max(reversed(own), key=sizes.__getitem__, default=None)
        gone = [label for label in labels if label not in out]
        summed = max(reversed(gone), key=sizes.__getitem__, default=None)
        found.append(
            Sum(
                x,
                fan_in,
                math.prod(sizes[label] for label in own),
                0 if unit is None else list(labels).index(unit),
                None if unit is None else list(out).index(unit),
                None if summed is None else list(labels).index(summed),
            )
        )
    return found


def _labelled(name: str, operation: Operation) -> tuple[list[tuple[Tensor, Labels]], Labels] | None:
    """The operands and the output with their labels; None for what is no product."""
    if name == "linear":
        x, w = operation.argument(0, "input"), operation.argument(1, "weight")
        batch = _batch(x.ndim - 1)
        return [(x, [*batch, "k"]), (w, ["n", "k"][2 - w.ndim :])], [*batch, *["n"][2 - w.ndim :]]
    if name == "bilinear":
        x, y, w = (
            operation.argument(n, key) for n, key in enumerate(("input1", "input2", "weight"))
        )
        batch = _batch(x.ndim - 1)
        return [(x, [*batch, "i"]), (y, [*batch, "j"]), (w, ["n", "i", "j"])], [*batch, "n"]
    if name == "inner":
        x, y = operation.tensors
        ours, theirs = ([(side, dim) for dim in range(a.ndim - 1)] for side, a in enumerate((x, y)))
        return [(x, [*ours, "k"]), (y, [*theirs, "k"])], [*ours, *theirs]
    if name in _PRODUCTS:
        x, y = operation.tensors[:2]
        return _product(x, y)
    if name == "rmatmul":
        y, x = operation.tensors[:2]
        return _product(x, y)
    if name in _PLUS_PRODUCTS:
        x, y = operation.tensors[1:3]
        operands, out = _product(x, y)
        return operands, out[-2:] if name == "addbmm" else out
    if name in _CHAINS:
        return _chain(operation.tensors)
    if name == "tensordot":
        return _tensordot(operation)
    return _einsum(operation) if name == "einsum" else None


def _batch(count: int) -> list[Hashable]:
    return [("batch", dim - count) for dim in range(count)]


def _product(x: Tensor, y: Tensor) -> tuple[list[tuple[Tensor, Labels]], list[Hashable]]:
    ours, theirs = _batch(max(x.ndim - 2, 0)), _batch(max(y.ndim - 2, 0))
    left, right = ["m"] if x.ndim > 1 else [], ["n"] if y.ndim > 1 else []
    batch = max(ours, theirs, key=len)
    operands: list[tuple[Tensor, Labels]] = [
        (x, [*ours, *left, "k"]),
        (y, [*theirs, "k", *right]),
    ]
    return operands, [*batch, *left, *right]


def _chain(matrices: Sequence[Tensor]) -> tuple[list[tuple[Tensor, Labels]], Labels]:
    """A product of several matrices; the first and the last may be vectors."""
    first, last = 2 - matrices[0].ndim, len(matrices) + matrices[-1].ndim - 1
    operands: list[tuple[Tensor, Labels]] = [
        (x, [*range(max(n, first), min(n + 2, last))]) for n, x in enumerate(matrices)
    ]
    return operands, [*range(first, 1), *range(len(matrices), last)]


def _tensordot(operation: Operation) -> tuple[list[tuple[Tensor, Labels]], Labels]:
    x, y = operation.tensors[:2]
    ours, theirs = operation.args[2], operation.args[3]
    first: list[Hashable] = [("x", dim) for dim in range(x.ndim)]
    second: list[Hashable] = [("y", dim) for dim in range(y.ndim)]
    for a, b in zip(ours, theirs, strict=True):
        second[b] = first[a]
    out = [label for label in first if label not in second]
    return [(x, first), (y, second)], out + [label for label in second if label not in first]


def _einsum(operation: Operation) -> tuple[list[tuple[Tensor, Labels]], Labels]:
    """Labels as the equation has them; an ellipsis stands for dimensions counted from the last."""
    sides = str(operation.args[0]).replace(" ", "").split("->")
    operands = operation.tensors
    given = [_letters(term, x.ndim) for term, x in zip(sides[0].split(","), operands, strict=True)]
    if len(sides) > 1:
        count = max(len([label for label in g if isinstance(label, tuple)]) for g in given)
        return list(zip(operands, given, strict=True)), _letters(
            sides[1], len(sides[1].replace("...", "")) + count
        )
    every = [label for labels in given for label in labels]
    batch = sorted({label for label in every if isinstance(label, tuple)})
    once = sorted(label for label in every if isinstance(label, str) and every.count(label) == 1)
    return list(zip(operands, given, strict=True)), [*batch, *once]


def _letters(term: str, ndim: int) -> list[Hashable]:
    before, dots, after = term.partition("...")
    return [*before, *(_batch(ndim - len(before) - len(after)) if dots else []), *after]


def _convolution(name: str, operation: Operation) -> list[Sum]:
    x, w = operation.argument(0, "input"), operation.argument(1, "weight")
    channels = 1 - (w.ndim - x.ndim)
    if name == "conv_tbc":
        fans = math.prod(w.shape[:2]), w.shape[0] * w.shape[2]
        return [Sum(w, *fans, 2, None, 1), Sum(x, *fans, 2, None, 2)]
    kernel = math.prod(w.shape[2:])
    if name.startswith("conv_transpose"):
        stride = operation.argument(3, "stride", 1)
        strides = [stride] * (w.ndim - 2) if isinstance(stride, int) else [*stride]
        strides = strides * (w.ndim - 2) if len(strides) == 1 else strides
        groups = operation.argument(6, "groups", 1)
        # an entry of the output lies under as many positions of the kernel as fit in the stride
        fans = w.shape[0] // groups * kernel / math.prod(strides), w.shape[1] * kernel
        return [Sum(w, *fans, 1, None, 0), Sum(x, *fans, channels, None, channels)]
    fans = w.shape[1] * kernel, w.shape[0] * kernel
    return [Sum(w, *fans, 0, None, 1), Sum(x, *fans, channels, None, channels)]
