"""What is known of a run before its first cell: which cells there are, and under which settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, Literal

import numpy as np
import tomli_w

from initstats.store.parameters import Entries

Kind = Literal["text", "integer", "real"]
"""What is in a key column."""
Key = tuple[str | int | float, ...]
"""The values of a cell's key columns, or of a row's place columns."""

Definitions = Mapping[str, Mapping[str, list[float]]]
"""Numbers that every entry and statistic gave, by noun and name; see `Run.redefined`."""


@dataclass(frozen=True)
class Run:
    """What the cells of a run have in common.

    A cell is named by its key, a row of a cell by its place. The values of a key column, as `seed`,
    are a list of the configuration, `seeds`: the cells are the product of these lists, which may
    grow. A cell brings its places along.

    Attributes:
        config: the content of `grid.toml`.
        settings: what an extension must agree with; `dataset` is a column of the table.
        engine: choices that the first driver made and every later one takes over.
        keys, places: the key columns and the place columns, and what is in each.
        statistics: the columns of a row, and whether they are integers.
        bins: lower and upper edges of the histograms' bins.
        parameters: of the entries that key columns name.
        notes: those statistics that only some networks have.
        parts: the kinds of the layers of each network, such as `attention`, where the table tells.
        extended_networks: of each network, whether its first n layers are the network of n layers;
            a folder of an older version does not say.
        definitions: what entries and statistics make of fixed inputs.
        paired: the init of each network that is measured with this one alone, a recipe's. They are
            in no list of the configuration but in `recipes`.

    Raises:
        ValueError: a statistic has the name of a key.
    """

    config: dict[str, Any]
    settings: dict[str, Any]
    engine: dict[str, Any]
    keys: dict[str, Kind]
    places: dict[str, Kind]
    statistics: dict[str, bool]
    bins: tuple[list[float], list[float]]
    parameters: Entries = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parts: dict[str, list[str]] = field(default_factory=dict)
    extended_networks: dict[str, bool] = field(default_factory=dict)
    definitions: Definitions = field(default_factory=dict)
    paired: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = {"dataset", "cell", "position", "place", *self.keys, *self.places}
        if names := sorted(taken & set(self.statistics)):
            raise ValueError(
                f"a statistic cannot be called {names[0]!r}, which the table calls a key: rename it"
            )

    @property
    def lists(self) -> dict[str, list[Any]]:
        """The values of each key column."""
        lists = {name: list(self.config[f"{name}s"]) for name in self.keys}
        for name, own in (("network", self.paired), ("init", self.paired.values())):
            if own:
                lists[name] = list(dict.fromkeys([*lists[name], *own]))
        return lists

    @property
    def cells(self) -> list[Key]:
        """The key of every cell, computed or not, in the order of the table."""
        return [key for key in product(*self.lists.values()) if self.pairs(key)]

    @property
    def count(self) -> int:
        """How many cells there are, computed or not."""
        given = {name: len(self.config[f"{name}s"]) for name in self.keys}
        pairs = given.pop("network", 1) * given.pop("init", 1) + len(self.paired)
        return pairs * prod(given.values())

    def pairs(self, key: Sequence[Any]) -> bool:
        """Whether the network of a key is measured with its init: all are, but those of recipes."""
        if not self.paired:
            return True
        named = dict(zip(self.keys, key, strict=True))
        own = self.paired.get(named["network"])
        return named["init"] in self._inits if own is None else named["init"] == own

    @cached_property
    def _inits(self) -> frozenset[str]:
        return frozenset(self.config["inits"])

    def part(self, lists: Mapping[str, list[Any]]) -> Run:
        """Those cells of this run whose key columns have some values."""
        kept = {f"{name}s": values for name, values in (self.lists | dict(lists)).items()}
        return replace(self, config=self.config | kept, paired={})

    @property
    def entries(self) -> Entries:
        """The parameters of those entries alone that the lists name."""
        return {
            noun: {name: members[name] for name in self.lists[noun] if name in members}
            for noun, members in self.parameters.items()
        }

    def extended(self, asked: Run) -> Run:
        """This run with what another one adds to its lists, its statistics and its entries."""
        recipes = ["recipes"] if self.paired or asked.paired else []
        longer = {
            name: list(dict.fromkeys([*self.config.get(name, ()), *asked.config.get(name, ())]))
            for name in (*(f"{name}s" for name in self.keys), "plugins", *recipes)
        }
        return replace(
            self,
            config=self.config | longer,
            statistics={**asked.statistics, **self.statistics},
            parameters={
                noun: {**asked.parameters.get(noun, {}), **self.parameters.get(noun, {})}
                for noun in {**self.parameters, **asked.parameters}
            },
            notes=list(dict.fromkeys([*asked.notes, *self.notes])),
            parts={**self.parts, **asked.parts},
            extended_networks={**self.extended_networks, **asked.extended_networks},
            definitions={
                # those that measured something agree; the others may have been mended since
                noun: {**self.definitions.get(noun, {}), **asked.definitions.get(noun, {})}
                for noun in {**self.definitions, **asked.definitions}
            },
            paired={**asked.paired, **self.paired},
        )

    def redefined(self, definitions: Definitions, cells: Collection[Key]) -> list[str]:
        """What is defined otherwise than when some cells of this run were measured.

        Processors differ in the last digits, and so may the numbers.
        """
        used = {noun: {cell[place] for cell in cells} for place, noun in enumerate(self.keys)}
        used["statistic"] = set(self.statistics) if cells else set()
        return [
            f"{noun} {name!r}"
            for noun, members in self.definitions.items()
            for name, numbers in members.items()
            if name in used[noun] and not _alike(numbers, definitions.get(noun, {}).get(name))
        ]

    def differences(self, asked: Run) -> list[str]:
        """The settings in which another run differs, with both values."""
        ours, theirs = ({"keys": ", ".join([*run.keys, *run.places])} for run in (self, asked))
        if ours == theirs:  # a run of another kind has all other settings, too
            ours, theirs = (
                run.settings | {"bins": len(run.bins[0]), "engine": ", ".join(run.engine)}
                for run in (self, asked)
            )
        return [
            f"{name}: {ours.get(name)} there, {theirs.get(name)} asked"
            for name in ours | theirs
            if ours.get(name) != theirs.get(name)
        ]


def _alike(numbers: list[float], others: list[float] | None) -> bool:
    """Whether numbers are equal but for rounding; true where there are no others."""
    if others is None:
        return True
    return len(numbers) == len(others) and np.allclose(
        numbers, others, rtol=1e-5, atol=1e-9, equal_nan=True
    )


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
