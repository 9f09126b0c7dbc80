"""An initialization, and the health of a model, as assertions of a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initstats.audits import LEVEL, audit
from initstats.diagnosis import diagnose
from initstats.diagnosis.findings import Findings
from initstats.diagnosis.rules.rule import listed
from initstats.plural import counted
from initstats.probe import measure
from initstats.schemes import Prescription
from initstats.schemes.anatomy import on_meta

FAILING = {"error": ["error"], "warning": ["error", "warning"]}
"""Severities that fail, by the least."""


def assert_initialized(
    model: nn.Module,
    expected: str | Path | Prescription | None = None,
    x: Any = None,
    *,
    level: float = LEVEL,
    fail_on: Literal["warning", "error"] = "warning",
) -> None:
    """Fail where a model is not initialized as it should be, or a parameter holds no numbers.

    Args:
        expected, x, level: as `audit`; without `expected` only what is wrong in any model fails.
        fail_on: the least severity that fails. What differs from `expected` is an error.

    Raises:
        AssertionError: with each parameter, what it is, what it should be, and how to mend it.
        ValueError: as `audit`.
    """
    __tracebackhide__ = True
    check_numbers(model, x)
    audited = audit(model, x, expected=expected, level=level)
    _fail(audited.findings, audited.network, "is not initialized as it should be", fail_on)


def check_numbers(model: nn.Module, x: Any = None) -> None:
    """Fail where a model has no parameters, or some without numbers.

    Args:
        x: an input, which makes the parameters of a lazy model.

    Raises:
        AssertionError: with the parameters, and what to do.
    """
    __tracebackhide__ = True
    if not isinstance(model, nn.Module):
        return  # which an audit refuses
    name, parameters = type(model).__name__, dict(model.named_parameters())
    if not parameters:
        raise AssertionError(f"{name} has no parameters: nothing of it is initialized")
    lazy = [each for each, p in parameters.items() if is_lazy(p)] if x is None else []
    for names, why in (
        (on_meta(model), "on the meta device: make the model on the CPU"),
        (lazy, "lazy: run the model once, or give an input x"),
    ):
        if names:
            holds = counted(len(names), "parameter holds", "parameters hold")
            raise AssertionError(f"{name}: {holds} no numbers, {why} ({listed(names)})")


def assert_healthy(
    model: nn.Module,
    x: Any,
    *,
    loss: Callable[[Any], Tensor] | None = None,
    backward: bool = True,
    fail_on: Literal["warning", "error"] = "warning",
) -> None:
    """Fail where `diagnose` finds something about a model on a batch.

    Args:
        x, loss, backward: as `measure`.
        fail_on: the least severity that fails.

    Raises:
        AssertionError: with the findings: place, statistic and remedy.
    """
    __tracebackhide__ = True
    found = diagnose(measure(model, x, backward=backward, loss=loss))
    _fail(found, type(model).__name__, "is not healthy", fail_on)


def _fail(found: Findings, network: str, what: str, fail_on: str) -> None:
    __tracebackhide__ = True
    if fail_on not in FAILING:
        raise ValueError(f"fail_on is 'warning' or 'error', not {fail_on!r}")
    faults = found[found["severity"].isin(FAILING[fail_on])]
    if len(faults):
        raise AssertionError(f"{network} {what}\n{Findings(faults)}")
