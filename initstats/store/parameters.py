"""The columns that hold the parameters of entries: a leak, a gain, a mode.

A table has one for every parameter that differs between its entries of one family, named by the
key column and the parameter, as in `activation_leak`. Defaults are values as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from initstats.registry import Entry, Value, spelled

Entries = Mapping[str, Mapping[str, Mapping[str, Value]]]
"""The parameters of entries, by key column and name."""


def parameters_of(entries: Iterable[Entry]) -> Entries:
    """The parameters of some entries; what a catalogue calls an entry is the key column."""
    found: dict[str, dict[str, Mapping[str, Value]]] = {}
    for entry in entries:
        found.setdefault(entry.catalog.noun, {})[entry.name] = entry.parameters
    return found


def with_parameters(keys: pd.DataFrame, entries: Entries) -> pd.DataFrame:
    """The key columns of a table, and after them its parameter columns.

    A column is float64 where all its values are numbers, else categories of text in the order of
    the entries; where an entry has no such parameter, it is NaN.
    """
    return keys.assign(
        **{
            f"{noun}_{parameter}": _column(keys[noun], values)
            for noun, members in entries.items()
            for parameter, values in varied(members).items()
        }
    )


def with_parts(keys: pd.DataFrame, parts: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The key columns with `part`, the kind of each layer, behind `layer`; as they are without any.

    Args:
        parts: the kinds of a network's layers, from the first, by its name.
    """
    if not parts:
        return keys
    kinds = list(dict.fromkeys(part for layers in parts.values() for part in layers))
    codes = np.full((len(parts), max(map(len, parts.values()))), -1)
    for row, layers in zip(codes, parts.values(), strict=True):
        row[: len(layers)] = [kinds.index(part) for part in layers]
    network = pd.Index(parts).get_indexer(pd.Index(keys["network"].astype(str)))
    of_row = codes[network, keys["layer"] - 1].tolist()
    found = pd.Categorical.from_codes(of_row, categories=pd.Index(kinds))
    return keys.assign(part=found)[_behind([*keys], "layer", "part")]


def _behind(names: list[str], one: str, other: str) -> list[str]:
    """The names with another one behind one of them."""
    place = names.index(one) + 1
    return [*names[:place], other, *names[place:]]


def varied(members: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[str, Value]]:
    """The parameters that differ between entries of one family, each with its value by entry.

    >>> varied({"ramp": {"low": 0.0}, "ramp(low=1)": {"low": 1.0}, "step": {"low": 2.0}})
    {'low': {'ramp': 0.0, 'ramp(low=1)': 1.0, 'step': 2.0}}
    """
    of_family: dict[tuple[str, str], set[Value]] = {}
    values: dict[str, dict[str, Value]] = {}
    for name, parameters in members.items():
        for key, value in parameters.items():
            of_family.setdefault((name.partition("(")[0], key), set()).add(value)
            values.setdefault(key, {})[name] = value
    differing = dict.fromkeys(key for (_, key), found in of_family.items() if len(found) > 1)
    return {key: values[key] for key in differing}


def _column(names: pd.Series, values: Mapping[str, Value]) -> Any:
    """The value of each row, by the name of its entry."""
    names = names.astype("category")
    if {type(value) for value in values.values()} <= {int, float}:
        numbers = np.array([values.get(name, np.nan) for name in names.cat.categories], np.float64)
        return numbers[names.cat.codes]
    texts = {name: spelled(value) for name, value in values.items()}
    return pd.Categorical(
        names.astype(object).map(texts), categories=list(dict.fromkeys(texts.values()))
    )
