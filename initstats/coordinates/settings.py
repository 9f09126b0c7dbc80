"""The settings of a coordinate check, made sure of before any model is made."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from initstats.coordinates.factory import OPTIMIZERS, takes_depth
from initstats.coordinates.parametrization import PARAMETRIZATIONS
from initstats.coordinates.trial import Objective
from initstats.probe.objective import loss_of
from initstats.registry import unknown


def sizes_of(what: str, given: Any) -> list[int]:
    """Widths or depths, each once, ascending.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: they are fewer than two, or below 1.
    """
    found = sorted({*_numbers(what, given)})
    if len(found) < 2:
        raise ValueError(f"{what}: two or more are expected, not {found}")
    if found[0] < 1:
        raise ValueError(f"{what}: at least 1 is expected, not {found[0]}")
    return found


def draws_of(seeds: Any) -> list[int]:
    """The seeds of the draws, of how many or which, each once.

    Raises:
        TypeError: neither a whole number nor several.
        ValueError: there is none, or one below 0.
    """
    if not isinstance(seeds, Iterable):
        count = whole("seeds", seeds)
        if count < 1:
            raise ValueError(f"seeds={count} was given, 1 or more is expected")
        return [*range(count)]
    found = [*dict.fromkeys(_numbers("seeds", seeds))]
    if not found or min(found) < 0:
        raise ValueError(f"seeds: one or more, of at least 0, are expected, not {found}")
    return found


def whole(what: str, value: Any) -> int:
    """A whole number; a TypeError says what is none."""
    number: Any = None if isinstance(value, bool) else value
    try:
        return operator.index(number)
    except TypeError:
        raise TypeError(f"{what}: a whole number is expected, not {value!r}") from None


def check_settings(
    factory: Any, optimizer: Any, lr: Any, parametrization: Any, steps: Any, *, deep: bool
) -> None:
    """Make sure that a check can begin.

    Args:
        deep: whether models of several depths are to be made.

    Raises:
        TypeError, ValueError: what was given cannot be used; the message says why.
    """
    if not callable(factory) or isinstance(factory, nn.Module):
        raise TypeError("factory: a function of the width that makes a model is expected")
    if deep and not takes_depth(factory):
        raise TypeError("depths: the factory must take a width and a depth")
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise unknown("optimizer", optimizer, [*OPTIMIZERS])
    elif not callable(optimizer) or _is_kind(optimizer):
        raise TypeError(
            f"optimizer: {', '.join(OPTIMIZERS)} or a function of the model is expected, as in "
            "lambda model: torch.optim.AdamW(model.parameters())"
        )
    if not isinstance(parametrization, str) or parametrization not in PARAMETRIZATIONS:
        raise unknown("parametrization", str(parametrization), [*PARAMETRIZATIONS])
    if whole("steps", steps) < 1:
        raise ValueError(f"steps={steps} was given, 1 or more is expected")
    if lr is not None:
        _check_rate(lr)


def objective_of(target: Any, loss: Any) -> Objective:
    """The loss as a function of the model's output.

    Raises:
        TypeError: a loss that is no function, or a target that is no tensor of numbers.
    """
    if loss is not None:
        if not callable(loss):
            raise TypeError(f"loss: a function is expected, not {type(loss).__name__}")
        given = () if target is None else (target,)
        return lambda output: _scalar(loss(output, *given))
    if target is None:
        return lambda output: loss_of(output, None)
    if not isinstance(target, Tensor) or target.is_complex() or target.dtype == torch.bool:
        kind = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"target: a tensor of classes or of numbers is expected, not {kind}")
    return lambda output: _compared(output, target)


def _numbers(what: str, given: Any) -> list[int]:
    """Several whole numbers."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{what}: several whole numbers are expected, not {given!r}")
    return [whole(what, each) for each in given]


def _is_kind(optimizer: Any) -> bool:
    return isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)


def _check_rate(lr: Any) -> None:
    if isinstance(lr, bool) or not isinstance(lr, Real):
        raise TypeError(f"lr: a number is expected, not {lr!r}")
    if not math.isfinite(lr) or lr < 0:
        raise ValueError(f"lr={lr} was given, a number above 0 is expected")
    if lr == 0:
        raise ValueError("lr=0 was given, and nothing moves: a number above 0 is expected")


def _scalar(loss: Any) -> Tensor:
    """What a loss returned, if that is a number that depends on the model."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss: it returned {type(loss).__name__}, a tensor is expected")
    if loss.numel() != 1:
        raise ValueError(f"loss: it returned numbers of shape {tuple(loss.shape)}, one is expected")
    if not loss.requires_grad:
        raise ValueError("loss: it returned a number that depends on no parameter")
    return loss.reshape(())


def _compared(output: Any, target: Tensor) -> Tensor:
    """The loss of an output beside its target."""
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise TypeError(f"target: the model returns {kind}, no tensor: give a loss of it")
    shape, wanted = tuple(output.shape), tuple(target.shape)
    if target.is_floating_point():
        if shape != wanted:
            raise ValueError(f"target: it is of shape {wanted}, and the output of {shape}")
        return _scalar(nn.functional.mse_loss(output, target))
    if not shape or (shape[0], *shape[2:])[len(shape) == 1 :] != wanted:
        raise ValueError(
            f"target: classes of shape {wanted} do not belong to an output of {shape}: one is "
            "expected for each sample, and the output has a score for each class"
        )
    classes = output.shape[min(1, output.ndim - 1)]
    largest = int(target.max()) if target.numel() else 0
    if largest >= classes:
        raise ValueError(f"target: class {largest} was given, and the output has {classes} scores")
    return _scalar(nn.functional.cross_entropy(output, target.long()))
