"""How findings name places, numbers and remedies."""

from __future__ import annotations

from typing import Any

import pandas as pd

SHOWN = 4
"""How many places a finding lists before it counts the rest."""


def line(weight: pd.Series[Any]) -> str:
    """The line that initializes a layer so that it keeps the signal."""
    layer = f"model.get_submodule({weight['module']!r})"
    std = f"{weight['gain']:.4f} / math.sqrt({weight['fan_in']:.0f})"
    return f"nn.init.normal_({layer}.weight, std={std})"


def modules(weights: pd.DataFrame) -> str:
    """The modules that some weights belong to."""
    return listed([str(name) for name in weights["module"]])


def places(rows: pd.DataFrame) -> str:
    """Where some values are."""
    return listed([str(place) for place in rows["place"]])


def listed(names: list[str]) -> str:
    """Names once each; of many the first and the last."""
    names = list(dict.fromkeys(names))
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{len(names)} places: {', '.join(names[: SHOWN - 1])}, ... {names[-1]}"


def number(value: float) -> str:
    """A number as findings print it."""
    return f"{value:.3g}"
