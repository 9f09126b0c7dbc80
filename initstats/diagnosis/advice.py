"""What to do about findings: those that share a place or a remedy are one matter."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

AS_FOR = "the same as for "
"""The beginning of a remedy that is told with another rule."""


class Remedy(NamedTuple):
    """What to do.

    Attributes:
        text: in lines; `code`, whether these run as they are written.
        rules: those that it is for; none where it is for all that it stands with.
    """

    text: str
    code: bool
    rules: Sequence[str]


class Advice(NamedTuple):
    """Findings that belong together, and what to do about them.

    Attributes:
        findings: rows of `diagnose`, each with its `number` among those that were given.
        remedies: each once.
    """

    findings: list[dict[str, Any]]
    remedies: list[Remedy]


def advise(faults: pd.DataFrame, layers: Sequence[Sequence[int]]) -> list[Advice]:
    """The findings in groups, in which a place stands once, and a remedy once.

    Args:
        faults: rows of `diagnose`, the gravest first.
        layers: the layers that each of them names.
    """
    records = enumerate(faults.to_dict("records"))
    rows = [{**{str(name): x for name, x in row.items()}, "number": at} for at, row in records]
    keys = [
        [
            ("at", tuple(marked) or row["where"]),
            ("does", _code(row["remedy"])),
            ("does", f"{AS_FOR}{row['rule']}"),
        ]
        for row, marked in zip(rows, layers, strict=True)
    ]
    elsewhere = {does for _, does, _ in keys}
    keys = [[at, does, told] if told in elsewhere else [at, does] for at, does, told in keys]
    return [_advice([rows[at] for at in group]) for group in sharing(keys)]


def told_once(remedies: Sequence[str], rules: Sequence[str]) -> list[str]:
    """The remedies; one that was told before is not told again.

    >>> told_once(["mend it", "leave it", "mend it"], ["first", "second", "third"])
    ['mend it', 'leave it', 'the same as for first']
    >>> told_once(["mend it", "mend it"], ["first", "first"])
    ['mend it', 'as above']
    """
    first, told = dict[str, str](), list[str]()
    for remedy, rule in zip(remedies, rules, strict=True):
        known = first.get(remedy)
        again = "as above" if known == rule else f"{AS_FOR}{known}"
        told.append(again if known else remedy)
        first.setdefault(remedy, rule if remedy else "")
    return told


def is_code(remedy: str) -> bool:
    """Whether a remedy runs as it is written."""
    try:
        return bool(ast.parse(remedy).body)
    except SyntaxError:
        return False


def sharing(keys: Iterable[Iterable[object]]) -> list[list[int]]:
    """Positions in groups: those that share a key, directly or by others, are together.

    >>> sharing([["a"], ["b"], ["b", "c"], ["d"], ["c"]])
    [[0], [1, 2, 4], [3]]
    """
    groups: list[tuple[set[object], list[int]]] = []
    for position, given in enumerate(keys):
        known, members = {*given}, [position]
        apart = []
        for others, positions in groups:
            if known.isdisjoint(others):
                apart.append((others, positions))
            else:
                known, members = known | others, positions + members
        groups = [*apart, (known, members)]
    return sorted(sorted(members) for _, members in groups)


def _advice(findings: list[dict[str, Any]]) -> Advice:
    rules = dict[str, list[str]]()
    texts = dict[str, str]()
    for finding in findings:
        remedy, rule = finding["remedy"], finding["rule"]
        if not remedy.startswith(AS_FOR):
            texts.setdefault(_code(remedy), remedy)
            rules.setdefault(_code(remedy), []).append(rule)
    several = len(texts) > 1
    return Advice(
        findings,
        [
            Remedy(text, is_code(text), [*dict.fromkeys(rules[code])] if several else [])
            for code, text in texts.items()
        ],
    )


def _code(remedy: str) -> str:
    """A remedy without the comments behind its lines."""
    return "\n".join(line.partition("  # ")[0] for line in remedy.splitlines())
