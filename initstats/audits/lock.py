"""A lock file: what a model was initialized with, written down, to be compared with later."""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from initstats.audits.expected import ROUNDING, Expected
from initstats.audits.locked import Entry, worded
from initstats.audits.parameter import Drawn, role_of
from initstats.audits.scale import Formula
from initstats.audits.siblings import Siblings

NEAR = 4.5
"""Standard errors within which blocks have one std."""


def written(
    network: str,
    parameters: Sequence[Drawn],
    groups: Sequence[Siblings],
    formulas: Mapping[str, Formula],
) -> str:
    """The text of a lock file."""
    pooled = {name: entry for group in groups for name, entry in _group(group, formulas)}
    alike: dict[tuple[str, tuple[int, ...]], list[Drawn]] = defaultdict(list)
    for each in parameters:
        alike[each.role, each.shape].append(each)
    types = Counter(each.dtype for each in parameters)
    common = types.most_common(1)[0][0] if types else ""
    lines = [
        "# What the parameters of a model were drawn from, as initstats read it. To compare:",
        '# initstats.audit(model, expected="this file"); or write this file anew.',
        f"network = {json.dumps(network)}",
        f"dtype = {json.dumps(common)}",
    ]
    for (role, shape), members in alike.items():
        entries = [pooled[each.name] | _beside(each, common) for each in members]
        together = len(members) > 1 and all(entry == entries[0] for entry in entries)
        for each, entry in [*zip(members, entries, strict=True)][: 1 if together else None]:
            lines += ["", "[[parameters]]"]
            lines.append(f"name = {json.dumps(role if together else each.name)}")
            lines += [f"number = {len(members)}"] if together else []
            lines.append(f"shape = {list(shape)}")
            lines += [f"{key} = {_toml(value)}" for key, value in entry.items()]
    return "\n".join([*lines, ""])


def read(path: str | Path) -> list[Entry]:
    """What a lock file says.

    Raises:
        ValueError: no such file, or not one of these.
    """
    path = Path(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    rows = found.get("parameters")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} has no [[parameters]]: a lock file is what to_toml() writes")
    # older files say nothing of types and ties
    common = {"dtype": found["dtype"], "tied": []} if "dtype" in found else {"dtype": ""}
    return [_entry(common | row, path) for row in rows]


def _beside(each: Drawn, common: str) -> dict[str, Any]:
    """What is written of a parameter beside its law: another type than most, and what is tied."""
    tied = sorted({role_of(name) for name in each.also})
    found: dict[str, Any] = {"tied": tied} if tied else {}
    return found | ({"dtype": each.dtype} if each.dtype != common else {})


def _group(
    group: Siblings, formulas: Mapping[str, Formula]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is written of each member of a group."""
    regular = group.regular
    counts = [each.count for each in regular]
    square = sum(n * each.std**2 for n, each in zip(counts, regular, strict=True))
    std = math.sqrt(square / max(sum(counts), 1))
    far = (abs(math.log(each.std / std)) > NEAR * each.error + ROUNDING for each in regular)
    pool = len({each.law.name for each in regular}) == 1 and not any(far)
    mean = sum(n * each.mean for n, each in zip(counts, regular, strict=True)) / max(sum(counts), 1)
    pool &= all(abs(e.mean - mean) < NEAR * e.std / math.sqrt(e.count) for e in regular if e.centre)
    for each in group.members:
        formula, own = formulas.get(each.name), (each.std, each.error)
        if pool and each in regular:
            own = std, regular[0].error * math.sqrt(counts[0] / sum(counts))
        if each.count == 1 and each.law.name == "constant":  # maybe drawn: the next may be another
            size = abs(each.law.value)
            yield each.name, {"law": "undecided", "std": size, "std_error": size}
            continue
        entry: dict[str, Any] = {"law": each.law.name}
        if not math.isnan(each.law.value):
            entry["value"] = each.law.value
        if each.by_chance:
            # as measured: a formula may fit by chance, and then not fit the next model
            entry |= {"std": own[0], "std_error": own[0] * own[1]}
        if each.by_chance and each.centre and each.law.name != "orthogonal":
            entry["mean"] = mean if pool and each in regular else each.centre
        if each.by_chance and formula:
            entry["formula"] = formula.text
        if each.law.runs:
            entry["runs"] = each.law.runs
        if each.law.name == "truncated_normal":
            entry["cut"] = each.law.cut
        yield each.name, entry


def _toml(value: Any) -> str:
    if isinstance(value, str | list):
        return json.dumps(value)
    return f"{value:.6g}" if math.isfinite(value) else {True: "inf", False: "nan"}[value > 0]


def _entry(row: dict[str, Any], path: Path) -> Entry:
    name = row.get("name")
    shape = row.get("shape")
    if not isinstance(name, str) or not isinstance(shape, list) or "law" not in row:
        raise ValueError(f"{path}: an entry needs name, shape and law; this has {', '.join(row)}")
    keys = ("value", "mean", "std", "std_error", "cut", "number")
    numbers = {key: row[key] for key in keys if key in row}
    wrong = [key for key, value in numbers.items() if not isinstance(value, int | float)]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]} of {name} is a number, not {row[wrong[0]]!r}")
    std, law = float(numbers.get("std", 0.0)), str(row["law"])
    error = float(numbers.get("std_error", 0.0)) / std if std else 0.0
    value, cut = (float(numbers.get(key, math.nan)) for key in ("value", "cut"))
    mean, runs = float(numbers.get("mean", 0.0)), str(row.get("runs", ""))
    expected = Expected(law, value, std, cut, error, "", mean, runs)
    if expected.by_chance and not std > 0:
        raise ValueError(f"{path}: {name} is {law}, and needs a std above 0")
    text = worded(expected, std)
    formula, tied = str(row.get("formula", "")), row.get("tied")
    text += f" ({formula})" if formula else ""
    return Entry(
        name=name,
        shape=tuple(map(int, shape)),
        expected=replace(expected, text=text),
        formula=formula,
        number=int(row.get("number", "*" not in name)),
        dtype=str(row["dtype"]),
        tied=None if tied is None else frozenset(map(str, tied)),
    )
