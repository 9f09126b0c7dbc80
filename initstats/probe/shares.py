"""Entries that are shares of 1, as a softmax makes them, and the products that sum over them.

An attention's scores become shares along one dimension, and a product with the values then sums
over one (Bahdanau et al. 2015; Vaswani et al. 2017): they are to be the same. Which one a product
sums over is read off its operands' labels, not off sizes that may agree by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from initstats.probe.kinds import ATTENTION, CASTS, DROPOUTS, words
from initstats.probe.linear import Labels, labels
from initstats.probe.operations import Operation
from initstats.probe.origins import Origin
from initstats.probe.readings import Mode
from initstats.probe.slots import Slot

_KEEPING = DROPOUTS | CASTS | words("clamp div masked_fill mul nan_to_num where")
"""Calls that may drop, mask or scale shares by what no input reaches."""
_MOST = 4  # operands of a product that is looked at


def shares_axis(operation: Operation, out: Tensor, *, normalized: bool) -> float:
    """The dimension along which a value's entries are shares of 1, or their logarithms; or NaN.

    A softmax that is written out divides by a sum over that dimension.
    """
    name, given = operation.name.rstrip("_"), operation.tensors
    if name in ("softmax", "log_softmax") and out.ndim:
        return float(operation.argument(1, "dim") % out.ndim)
    if not normalized or len(given) != 2 or out.shape not in (x.shape for x in given):
        return math.nan
    shapes = [(1,) * (out.ndim - x.ndim) + tuple(x.shape) for x in given]
    summed = [d for d in range(out.ndim) if shapes[0][d] != shapes[1][d]]
    if len(summed) != 1 or bool((out < 0).any()):
        return math.nan
    total = out.detach().double().sum(summed[0])
    return float(summed[0]) if bool(((total - 1).abs() < 1e-2).all()) else math.nan


def held(operation: Operation, origins: Sequence[Origin], out: Tensor) -> Origin | None:
    """The origin of the shares that an output holds at the same places; None where it holds none.

    They may have been dropped, masked or cast on the way, but not multiplied by another signal.
    """
    if operation.name.rstrip("_") not in _KEEPING:
        return None
    signals = [
        (x, origin)
        for x, origin in zip(operation.read, origins, strict=True)
        if origin.kind == "signal"
    ]
    if len(signals) != 1 or not _are_shares(signals[0][1]) or signals[0][0].shape != out.shape:
        return None
    return signals[0][1]


def record_products(
    operation: Operation, origins: Sequence[Origin], slot: Slot | None, mode: Mode
) -> None:
    """Record which dimension of some shares a product with another signal sums over.

    Of several products the one counts that sums over the dimension along which they are shares. A
    product of two tensors of shares holds shares itself, and weights may mix heads before.

    Args:
        slot: of the product, where it is recorded whether it pairs the rows of two signals.
    """
    known = {id(x): origin for x, origin in zip(operation.read, origins, strict=True)}
    if slot is not None:
        slot.facts[mode].paired_terms = paired_terms(operation, known)
    if any(origin.kind == "weight" or origin.made_of for origin in origins):
        return
    if len(known) > _MOST or (labelled := labels(operation)) is None:
        return
    operands, out = labelled
    if any(known[id(x)].kind != "signal" for x, _ in operands):
        return
    if slot is not None:
        slot.facts[mode].paired = float(pairs([own for _, own in operands], out))
    found = [(x, own) for x, own in operands if _are_shares(known[id(x)])]
    if len(found) != 1:
        return
    x, own = found[0]
    origin = known[id(x)]
    assert origin.slot is not None
    facts = origin.slot.facts[mode]
    dims = [origin.dimension(dim) for dim, label in enumerate(own) if label not in out]
    if facts.shares_axis in dims:
        facts.summed_axis = facts.shares_axis
    elif dims and None not in dims and math.isnan(facts.summed_axis):
        facts.summed_axis = float(dims[-1] or 0)


def paired_terms(operation: Operation, known: Mapping[int, Origin]) -> float:
    """How many terms an entry of a product of two signals sums; of attention, of its scores.

    Args:
        known: origins of what was read, by the ids of the tensors.
    """
    if operation.name in ATTENTION:
        return float(operation.argument(0, "query").shape[-1])
    labelled = labels(operation)
    if labelled is None or len(labelled[0]) != 2:
        return math.nan
    operands, out = labelled
    if any(id(x) not in known or known[id(x)].kind != "signal" for x, _ in operands):
        return math.nan
    sizes = {label: size for x, own in operands for label, size in zip(own, x.shape, strict=True)}
    return float(math.prod(size for label, size in sizes.items() if label not in out))


def weighted_values(
    operation: Operation, origins: Sequence[Origin], mode: Mode
) -> tuple[Tensor, int, Slot] | None:
    """The weights of attention that a product of matrices sums values with.

    Returns:
        The shares of 1, their dimension that is summed over, and where they were measured; None
        for another operation. Shares that only mix what is at their own place are no such weights.
    """
    if not any(_are_shares(origin) for origin in origins) or len(origins) > _MOST:
        return None
    labelled = labels(operation)
    if labelled is None or not pairs([own for _, own in labelled[0]], labelled[1]):
        return None
    operands, out = labelled
    known = {id(x): origin for x, origin in zip(operation.read, origins, strict=True)}
    for x, own in operands:
        slot = known[id(x)].slot
        if slot is None or not _are_shares(known[id(x)]):
            continue
        axis = slot.facts[mode].shares_axis
        for place, label in enumerate(own):
            if label not in out and known[id(x)].dimension(place) == axis:
                return x, place, slot
    return None


def pairs(operands: list[Labels], out: Labels) -> bool:
    """Whether each of two operands has a dimension in the output that the other has not."""
    if len(operands) != 2:
        return False
    first, second = ({label for label in own if label in out} for own in operands)
    return bool(first - second and second - first)


def _are_shares(origin: Origin) -> bool:
    return origin.kind == "signal" and origin.slot is not None and not origin.made_of
