"""Names of places, numbers and remedies in findings."""

from __future__ import annotations

from typing import Any

import pandas as pd

SHOWN = 4
"""The largest number of places that a finding lists in full."""


def line(weight: pd.Series[Any]) -> str:
    """The line that initializes a layer so that it keeps the signal."""
    layer = f"model.get_submodule({weight['module']!r})"
    std = f"{weight['gain']:.4f} / math.sqrt({weight['fan_in']:.0f})"
    return f"nn.init.normal_({layer}.weight, std={std})"


def listed(column: pd.Series[Any]) -> str:
    """The names in a column, once each; of many the first three and the last."""
    names = [str(name) for name in column.unique()]
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{len(names)} places: {', '.join(names[: SHOWN - 1])}, ... {names[-1]}"


def number(value: float) -> str:
    """A number as findings print it."""
    return f"{value:.3g}"
