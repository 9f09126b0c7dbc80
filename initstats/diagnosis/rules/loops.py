"""Lines of code for many names: names that differ in numbers become a loop over the numbers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

_SHOWN = 2
"""Names are written one a line up to this many, in a loop beyond."""
_COUNTERS = "ijkmn"
Heads = tuple[str, ...]


def over(names: Sequence[str], line: str) -> str:
    """A line of code for each of some names, which stand where it has braces."""
    names = list(dict.fromkeys(names))
    loops: dict[Heads, list[str]] = {}
    for heads, name in _folded(names) if len(names) > _SHOWN else [((), repr(n)) for n in names]:
        loops.setdefault(heads, []).append(name)
    return "\n".join(_lines(heads, found, line) for heads, found in loops.items())


def _lines(heads: Heads, found: list[str], line: str) -> str:
    """A line for each expression, or one line with all loops: a page would lose indentation."""
    if not heads and len(found) <= _SHOWN:
        return "\n".join(line.format(name) for name in found)
    if len(heads) == 1 and len(found) == 1:
        return f"{heads[0]}: {line.format(found[0])}"
    every = ", ".join(found)
    if heads:
        each = every if len(found) == 1 else "name"
        rest = "" if len(found) == 1 else f" for name in ({every})"
        every = f"{each} {' '.join(heads)}{rest}"
    return f"for name in [{every}]: {line.format('name')}"


def _folded(names: Sequence[str]) -> list[tuple[Heads, str]]:
    """The names as expressions, each with the loops that its counters come from."""
    groups: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for name in names:
        parts = re.split(r"(\d+)", name)
        plain = "'" in name or "{" in name or "\\" in name
        if plain or any(str(int(number)) != number for number in parts[1::2]):
            groups[name,] = [()]
        else:
            groups.setdefault(tuple(parts[::2]), []).append(tuple(map(int, parts[1::2])))
    return [_loop(texts, numbers) for texts, numbers in groups.items()]


def _loop(texts: tuple[str, ...], numbers: list[tuple[int, ...]]) -> tuple[Heads, str]:
    """Names of the same texts between numbers, as loops and an f-string."""
    columns = list(zip(*numbers, strict=True))
    varying = [n for n, column in enumerate(columns) if len({*column}) > 1]
    shown = [str(column[0]) for column in columns]
    if not varying:
        return (), repr(_joined(texts, shown))
    distinct = [sorted({*columns[n]}) for n in varying]
    first = columns[varying[0]]
    offsets = [{b - a for a, b in zip(first, columns[n], strict=True)} for n in varying]
    if all(len(offset) == 1 for offset in offsets):  # all count together
        heads: Heads = (f"for i in {_range(list(first))}",)
        counters = [f"i + {offset.pop()}".removesuffix(" + 0") for offset in offsets]
    elif len(varying) <= len(_COUNTERS) and set(itertools.product(*distinct)) == {
        tuple(row[n] for n in varying) for row in numbers
    }:
        counters = [*_COUNTERS[: len(varying)]]
        pairs = zip(counters, distinct, strict=True)
        heads = tuple(f"for {counter} in {_range(values)}" for counter, values in pairs)
    else:
        counters = [f"{_COUNTERS[0]}{n}" for n in range(len(varying))]
        rows = [tuple(row[n] for n in varying) for row in numbers]
        heads = (f"for {', '.join(counters)} in {rows}",)
    for n, counter in zip(varying, counters, strict=True):
        shown[n] = f"{{{counter}}}"
    return heads, f"f'{_joined(texts, shown)}'"


def _joined(texts: Sequence[str], between: Sequence[str]) -> str:
    pairs = itertools.zip_longest(texts, between, fillvalue="")
    return "".join(part for pair in pairs for part in pair)


def _range(numbers: list[int]) -> str:
    """Numbers as a range where they count evenly."""
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    step = min(steps)
    if len(steps) > 1 or step < 1:
        return repr(tuple(numbers))
    start = f"{numbers[0]}, " if numbers[0] or step > 1 else ""
    return f"range({start}{numbers[-1] + 1}{f', {step}' if step > 1 else ''})"
