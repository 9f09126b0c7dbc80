"""Some rows of a table, as an array for each column: a rule reads a few numbers of many rows.

For tables as small as those of one step, pandas takes a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]


class Columns:
    """The columns of some rows.

    Args:
        arrays: every column of a table, by name.
        index: positions of the rows in the table; all rows by default.
    """

    def __init__(self, arrays: Mapping[str, Array], index: Array | None = None) -> None:
        self._arrays = arrays
        self.index = np.arange(len(arrays["layer"])) if index is None else index
        self._taken: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._taken:
            self._taken[name] = self._arrays[name][self.index]
        return self._taken[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __len__(self) -> int:
        return len(self.index)

    def where(self, chosen: Array) -> Columns:
        """The rows at which a boolean array is true, or at some positions, in that order."""
        return Columns(self._arrays, self.index[chosen])

    @property
    def places(self) -> list[str]:
        """What names each row in words: the module, the operation, and which call of it."""
        if "call" not in self._arrays:  # a study's
            return [str(name) for name in self["name"]]
        calls = [f", call {call}" if call > 1 else "" for call in self["call"]]
        triples = zip(self["name"], self["op"], calls, strict=True)
        return [f"{name} ({op}{call})" for name, op, call in triples]

    def frame(self) -> pd.DataFrame:
        """The rows as a DataFrame, with the `place` of each."""
        columns = {name: self[name] for name in self._arrays}
        return pd.DataFrame(columns, index=self.index).assign(place=self.places)


def columns_of(table: pd.DataFrame) -> Columns:
    """All rows of a table; names as text."""
    arrays: dict[str, Array] = {}
    for name, column in table.items():
        numeric = pd.api.types.is_numeric_dtype(column.dtype)
        arrays[str(name)] = column.to_numpy() if numeric else column.astype(object).to_numpy()
    return Columns(arrays)
