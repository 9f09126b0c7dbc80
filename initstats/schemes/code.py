"""Names of parameters as they stand in lines of Python."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

NUMBER = re.compile(r"(?<=[._])\d+(?![^.])|^\d+(?![^.])")
"""The number of a block, or of a layer, in a name."""


def names_in_code(names: Sequence[str]) -> str:
    """An expression for names that differ by one number from 0, or a list of them.

    >>> print(names_in_code(["h.0.w", "h.1.w", "h.2.w"]))
    [f"h.{i}.w" for i in range(3)]
    >>> print(names_in_code(["h.1.w", "h.2.w"]))
    ["h.1.w", "h.2.w"]
    """
    for found in NUMBER.finditer(names[0]):
        front, back = names[0][: found.start()], names[0][found.end() :]
        if len(names) > 1 and [*names] == [f"{front}{at}{back}" for at in range(len(names))]:
            return f'[f"{front}{{i}}{back}" for i in range({len(names)})]'
    return json.dumps([*names])
