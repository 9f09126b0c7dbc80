"""Losses that expect logits: numbers of both signs, which they squash themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from initstats.probe.kinds import words
from initstats.probe.operations import Operation

_LOSSES = words(
    "binary_cross_entropy_with_logits cross_entropy cross_entropy_loss multilabel_soft_margin_loss "
    "soft_margin_loss"
)


def is_loss(function: Callable[..., Any]) -> bool:
    """Whether a call of torch is such a loss."""
    return getattr(function, "__name__", "") in _LOSSES


def logits_of(operation: Operation) -> list[Tensor]:
    """What a loss takes for logits, itself or the tensor that it is a view of; else nothing."""
    x = operation.argument(0, "input") if operation.name in _LOSSES else None
    if not isinstance(x, Tensor):
        return []
    return [x] if x._base is None else [x, x._base]
