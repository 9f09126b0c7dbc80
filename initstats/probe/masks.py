"""Which scores of attention are hidden by masks, followed from their product to the softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.kinds import CARRYING, CASTS
from initstats.probe.operations import Operation
from initstats.probe.origins import Origin

LOW = -1e4
"""A score that a mask fills in, or adds, is this or lower: its exponential is 0."""
_SUMS = ("add", "sub", "radd", "baddbmm")


class Unfollowed(Exception):
    """A mask whose entries could not be followed through an operation."""


class Masks:
    """The scores of attention, and where each may be attended to: a boolean, None, or unknown."""

    def __init__(self) -> None:
        self._allowed: Any = WeakIdKeyDictionary()

    def __contains__(self, x: Tensor) -> bool:
        return x in self._allowed

    def of(self, x: Tensor) -> Tensor | None:
        """Booleans that fit the scores when they are broadcast; None where no mask was seen.

        Raises:
            Unfollowed: a mask was seen, and then something that moved it.
        """
        allowed: Tensor | Unfollowed | None = self._allowed.get(x)
        if isinstance(allowed, Unfollowed):
            raise allowed
        return allowed

    def begin(self, operation: Operation, origins: Mapping[int, Origin], scores: Tensor) -> None:
        """Take a product of queries and keys, to which it may have added a mask, as scores."""
        self._allowed[scores] = _masked(operation, origins, None)

    def follow(
        self, operation: Operation, origins: Mapping[int, Origin], outputs: list[Tensor]
    ) -> None:
        """Follow the scores among an operation's arguments, and the mask that it puts on them.

        Args:
            origins: of the tensors that it reads, by their ids.
        """
        scores = [x for x in operation.read if x in self._allowed]
        filled = operation.name.rstrip("_") in ("masked_fill", "where")
        if not scores and not filled:
            return
        for out in outputs:
            alike = [x for x in scores if x.shape == out.shape]
            if scores and not alike:
                self._carry(operation, out, scores[0])
            elif alike or filled:
                allowed = _masked(operation, origins, alike[0] if alike else None)
                if alike or allowed is not None:
                    self._allowed[out] = _both(allowed, [self._allowed[x] for x in alike])

    def carry(self, operation: Operation, x: Tensor, source: Tensor) -> None:
        """Take over the mask of scores whose entries an operation rearranged."""
        if source in self._allowed and x is not source:
            self._carry(operation, x, source)

    def _carry(self, operation: Operation, x: Tensor, source: Tensor) -> None:
        """Do to the mask what was done to the scores."""
        allowed = self._allowed[source]
        if operation.name.rstrip("_") not in CARRYING:
            if operation.name in ("cat", "concat"):
                self._allowed[x] = Unfollowed() if allowed is not None else None
            return
        if isinstance(allowed, Tensor) and operation.name not in CASTS:
            moved = Unfollowed()
            with suppress(Exception):  # whatever does not fit booleans
                wide = allowed.expand(source.shape).contiguous()
                moved = operation.function(wide, *operation.args[1:], **operation.kwargs)
            whole = isinstance(moved, Tensor) and moved.shape == x.shape
            allowed = moved if whole else Unfollowed()
        self._allowed[x] = allowed


def _both(new: Any, before: list[Any]) -> Tensor | Unfollowed | None:
    found = [allowed for allowed in (new, *before) if allowed is not None]
    unknown = [allowed for allowed in found if isinstance(allowed, Unfollowed)]
    if unknown or not found:
        return unknown[0] if unknown else None
    allowed: Tensor = found[0]
    for other in found[1:]:
        allowed = allowed & other
    return allowed


def _masked(
    operation: Operation, origins: Mapping[int, Origin], scores: Tensor | None
) -> Tensor | Unfollowed | None:
    """Where an operation lets scores be what they are; None where it hides none of them."""
    name = operation.name.rstrip("_")
    if name == "masked_fill":
        hidden: Tensor = operation.argument(1, "mask")
        return ~hidden if _low(operation.argument(2, "value")) else None
    if name == "where":
        return _chosen(operation, scores)
    if name == "setitem":
        x, index, value = operation.args
        if not _low(value):
            return None
        shown = torch.ones_like(x, dtype=torch.bool)
        shown[index] = False
        return shown
    if name in _SUMS:
        sign = -1 if name == "sub" else 1
        others = [x for x in operation.read if x is not scores]
        if name == "baddbmm":
            others = others[:1]
        return _both(None, [_added(x, origins.get(id(x)), sign) for x in others])
    return None


def _chosen(operation: Operation, scores: Tensor | None) -> Tensor | None:
    """The booleans of a choice between scores and something low."""
    first = operation.argument(0, "condition")
    method = isinstance(first, Tensor) and first.dtype != torch.bool
    condition, other = operation.argument(1, "condition"), operation.argument(2, "other")
    yes, no = (first, other) if method else (operation.argument(1, "input"), other)
    condition = condition if method else first
    if not isinstance(condition, Tensor):
        return None
    if yes is not scores and _low(yes):
        return ~condition
    return condition if no is not scores and _low(no) else None


def _added(x: Tensor, origin: Origin | None, sign: int) -> Tensor | None:
    """Where what is added to scores leaves them as they are.

    What comes from a signal is a mask only where it is nothing but zeros and low numbers.
    """
    if not x.is_floating_point():
        return None
    low = sign * x.detach() <= LOW
    signal = origin is not None and origin.kind == "signal"
    if not bool(low.any()) or bool(low.all()):
        return None
    if signal and not bool((low | (x == 0)).all()):
        return None
    return ~low


def _low(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dtype != torch.bool and bool((value <= LOW).all())
    return isinstance(value, int | float) and not math.isnan(value) and value <= LOW
