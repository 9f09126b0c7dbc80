"""Scalars of one step of a training, by tag, and the loggers that take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pandas as pd

Write = Callable[[dict[str, float], int], object]


class Logger(Protocol):
    """Takes the scalars of a step, as a run of W&B or trackio does, or these modules themselves.

    In its place may stand what has `add_scalar(tag, value, step)`, as TensorBoard's `SummaryWriter`
    has, or `log_metrics(scalars, step)`, as Lightning's loggers have.
    """

    def log(self, scalars: dict[str, Any], /, *, step: int) -> object:
        """Take the scalars of a step, by tag."""


def writer(logger: Any) -> Write:
    """The function of scalars and a step that writes to a logger.

    Raises:
        ValueError: it has none of the methods that a `Logger` may have.
    """
    if hasattr(logger, "add_scalar"):

        def add(scalars: Mapping[str, float], step: int) -> None:
            for tag, value in scalars.items():
                logger.add_scalar(tag, value, step)

        return add
    for name in ("log_metrics", "log"):
        if hasattr(logger, name):
            method = getattr(logger, name)
            return lambda scalars, step: method(scalars, step=step)
    raise ValueError(
        f"{type(logger).__name__} is no logger: it has none of add_scalar(tag, value, step) (a "
        "SummaryWriter), log_metrics(scalars, step) (a logger of Lightning), log(scalars, step) "
        "(a run of W&B or trackio)"
    )


def scalars_of(table: pd.DataFrame) -> dict[str, float]:
    """The scalars of the rows of one step, by tag; those of training, where there is some.

    Tags are `std/`, `gradient_std/`, `dead_fraction/` or `update_ratio/`, then the layer's number,
    its name and its operation: the values that operations with weights give, how many units of the
    others are constant, and the updates of the weights. `nonfinite` counts the entries that are NaN
    or infinite in all values. A statistic that has no value is left out.
    """
    if (trained := table["mode"] == "train").any():
        table = table[trained]
    values = table[table["tensor"] != "weight"]
    forward = values["direction"] == "forward"
    made = values["tensor"] == "preactivation"
    groups = {
        "std": (values[made & forward], "std"),
        "gradient_std": (values[made & ~forward], "std"),
        "dead_fraction": (values[forward & ~made & (values["layer"] > 0)], "dead_fraction"),
        "update_ratio": (table[table["tensor"] == "weight"], "update_ratio"),
    }
    scalars = {
        f"{statistic}/{row['layer']:03d}_{row['name']}_{row['op']}": float(row[column])
        for statistic, (rows, column) in groups.items()
        if column in rows
        for row in rows.to_dict("records")
    }
    found = {tag: value for tag, value in scalars.items() if not math.isnan(value)}
    return found | {"nonfinite": float(values["nonfinite"].sum())}
