"""An initialization, and the health of a model, as assertions of a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from initstats.audits import LEVEL, audit
from initstats.diagnosis import diagnose
from initstats.diagnosis.findings import Findings
from initstats.probe import measure
from initstats.schemes import Prescription

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
    """Fail where a model is not initialized as it should be.

    Args:
        expected, x, level: as `audit`; without `expected` only what is wrong in any model fails.
        fail_on: the least severity that fails. What differs from `expected` is an error.

    Raises:
        AssertionError: with each parameter, what it is, what it should be, and how to mend it.
        ValueError: as `audit`.
    """
    __tracebackhide__ = True
    audited = audit(model, x, expected=expected, level=level)
    _fail(audited.findings, audited.network, "is not initialized as it should be", fail_on)


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
