"""Findings as annotations of GitHub's workflows, at the classes that they are about.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from initstats.diagnosis.rules.rule import shortened
from initstats.failure import is_users_file

if TYPE_CHECKING:
    from torch import nn

    from initstats.audits import Audit

LEVELS = {"error": "error", "warning": "warning", "note": "notice"}
"""What GitHub calls the severities that it shows."""
_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = _DATA | {":": "%3A", ",": "%2C"}


class Place(NamedTuple):
    """A line of a file, as the repository has it."""

    file: str
    line: int


def annotation(level: str, title: str, message: str, place: Place | None) -> str:
    r"""One annotation, escaped.

    >>> annotation("error", "a: b", "50%\nof it", Place("net.py", 3))
    '::error file=net.py,line=3,title=a%3A b::50%25%0Aof it'
    """
    where = {"file": place.file, "line": place.line} if place else {}
    given = {**where, "title": title}
    properties = ",".join(f"{name}={_escaped(value, _PROPERTY)}" for name, value in given.items())
    return f"::{level} {properties}::{_escaped(message, _DATA)}"


def annotated(found: Audit, model: nn.Module, made_by: Any) -> Iterator[str]:
    """The annotations of an audit's findings, the gravest first.

    Args:
        made_by: the factory or class of the model, or the model; its place is taken where a
            parameter's own is not known.
    """
    for row in found.findings.to_dict("records"):
        level = LEVELS.get(str(row["severity"]))
        if level:
            names = found.named(str(row["where"]))
            place = (place_of_parameter(model, names[0]) if names else None) or place_of(made_by)
            message = f"{shortened(str(row['where']))}: {row['evidence']}\nremedy: {row['remedy']}"
            yield annotation(level, f"initstats: {row['rule']}", message, place)


def place_of_parameter(model: nn.Module, name: str) -> Place | None:
    """Where the class of the innermost module that holds a parameter is defined, no library's."""
    path = name.split(".")[:-1]
    holders = [model.get_submodule(".".join(path[:end])) for end in range(len(path), -1, -1)]
    return next(filter(None, map(place_of, holders)), None)


def place_of(made_by: Any) -> Place | None:
    """Where a function or a class is defined, or that of an object; None in a library."""
    if isinstance(made_by, partial):
        made_by = made_by.func
    kind: Callable[..., Any] | None = made_by
    if not (inspect.isfunction(made_by) or inspect.isclass(made_by) or inspect.ismethod(made_by)):
        kind = type(made_by)
    try:
        source = inspect.unwrap(kind)  # type: ignore[arg-type]
        file = inspect.getsourcefile(source)
        line = inspect.getsourcelines(source)[1]
    except (OSError, TypeError, ValueError):  # made at run time, or from no file
        return None
    return Place(_in_repository(Path(file)), line) if file and is_users_file(file) else None


def _in_repository(file: Path) -> str:
    """The path of a file from the root of the workflow's checkout, or from here."""
    for root in (os.environ.get("GITHUB_WORKSPACE"), str(Path.cwd())):
        if root and file.resolve().is_relative_to(Path(root).resolve()):
            return file.resolve().relative_to(Path(root).resolve()).as_posix()
    return str(file)


def _escaped(text: object, letters: dict[str, str]) -> str:
    return "".join(letters.get(letter, letter) for letter in str(text))
