"""The columns that hold the parameters of entries: a leak, a gain, a mode.

A table has one for every parameter that differs between its entries of one family, named by the
key column and the parameter, as in `activation_leak`. Defaults are values as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from initstats.registry import Entry, Members, Value, spelled, varied

Entries = Mapping[str, Members]
"""The parameters of entries by key column, family and name."""


def parameters_of(entries: Iterable[Entry]) -> Entries:
    """All parameters of some entries; what a catalogue calls an entry is the key column."""
    names: dict[str, list[str]] = {}
    catalogs = {}
    for entry in entries:
        names.setdefault(entry.catalog.noun, []).append(entry.name)
        catalogs[entry.catalog.noun] = entry.catalog
    return {noun: catalogs[noun].members(names[noun]) for noun in names}


def parameter_names(entries: Entries) -> set[str]:
    """The columns of all parameters, whether they vary or not."""
    return {
        f"{noun}_{parameter}"
        for noun, members in entries.items()
        for family in members.values()
        for parameters in family.values()
        for parameter in parameters
    }


def with_parameters(keys: pd.DataFrame, entries: Entries) -> pd.DataFrame:
    """The key columns of a table, and after them its parameter columns.

    Args:
        keys: one row for each of the table's.
        entries: those that the table is of.

    Returns:
        A column is float64 where all its values are numbers, else categories of text in the order
        of the entries; where an entry has no such parameter, it is NaN.
    """
    return keys.assign(
        **{
            f"{noun}_{parameter}": _column(keys[noun], values)
            for noun, members in entries.items()
            for parameter, values in varied(members).items()
        }
    )


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
