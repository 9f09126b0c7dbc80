"""What is known of a run before its first cell: which cells there are, and under which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import tomli_w

LISTS = ("networks", "inits", "activations", "widths", "seeds")
"""The lists of a configuration whose product are the cells."""
PLACE = ("layer", "tensor", "direction")
"""The key columns that tell the rows of a cell apart."""


class Cell(NamedTuple):
    """The key of a cell: its numbers are a function of this and of the run's settings."""

    network: str
    init: str
    activation: str
    width: int
    seed: int


@dataclass(frozen=True)
class Run:
    """What the cells of a run have in common.

    Attributes:
        config: the content of `grid.toml`, all seeds listed; its lists are what may grow.
        settings: what an extension must agree with.
        engine: choices that the first driver made and every later one takes over.
        rows: (layer, tensor, direction) of a cell's rows, in their order.
        statistics: the columns of a row, and whether they are integers.
        bins: lower and upper edges of the histograms' bins.
    """

    config: dict[str, Any]
    settings: dict[str, Any]
    engine: dict[str, Any]
    rows: list[tuple[int, str, str]]
    statistics: dict[str, bool]
    bins: tuple[list[float], list[float]]

    @property
    def cells(self) -> list[Cell]:
        """Every cell of the run, computed or not, in the order of the table."""
        lists = (self.config[name] for name in LISTS)
        return [Cell(*key) for key in product(*lists)]

    def extended(self, asked: Run) -> Run:
        """This run with what the lists of another one add."""
        longer = {
            name: list(dict.fromkeys([*self.config.get(name, ()), *asked.config.get(name, ())]))
            for name in (*LISTS, "plugins")
        }
        return replace(self, config=self.config | longer)

    def differences(self, asked: Run) -> list[str]:
        """The settings in which another run differs, with both values."""
        ours, theirs = (
            run.settings
            | {"statistics": ", ".join(run.statistics)}
            | {"bins": len(run.bins[0]), "engine": ", ".join(run.engine)}
            for run in (self, asked)
        )
        return [
            f"{name}: {ours.get(name)} there, {theirs.get(name)} asked"
            for name in ours | theirs
            if ours.get(name) != theirs.get(name)
        ]


def to_toml(config: Mapping[str, Any]) -> str:
    """A configuration as TOML: what is None or empty left out, seeds 0 to n-1 written n.

    >>> print(to_toml({"inits": (), "depth": 20, "samples": None, "seeds": [0, 1]}), end="")
    depth = 20
    seeds = 2
    """
    given = {key: value for key, value in config.items() if value not in (None, [], ())}
    count = len(config["seeds"])
    if list(config["seeds"]) == list(range(count)):
        given["seeds"] = count
    return tomli_w.dumps(given)
