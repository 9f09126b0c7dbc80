"""What a command puts out: words for people, one JSON object for programs, or nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer


class Output:
    """The standard output of a command.

    Attributes:
        quiet: whether only the paths of results are printed.
        json: whether only one JSON object is printed.
    """

    def __init__(self) -> None:
        self.quiet = self.json = False

    @property
    def has_words(self) -> bool:
        """Whether people read it."""
        return not (self.quiet or self.json)

    @contextmanager
    def as_asked(self, *, quiet: bool, json: bool) -> Iterator[None]:
        """How it is in a command."""
        self.quiet, self.json = quiet, json
        try:
            yield
        finally:
            self.quiet = self.json = False

    def tell(self, words: object) -> None:
        """Print words, for people."""
        if self.has_words:
            typer.echo(words)

    def page(self, path: Path, noun: str = "page") -> None:
        """Print where a page is; beside JSON, on stderr."""
        if self.quiet:
            typer.echo(path, err=self.json)
        else:
            typer.echo(f"{noun}: {path}", err=self.json)

    def result(self, **fields: Any) -> None:
        """Print what came of the command, for programs."""
        if self.json:
            typer.echo(as_json(fields))


output = Output()
"""The one of this process."""


def as_json(value: Any) -> str:
    """A value as JSON: a table is a list of its rows, what is no finite number is null."""
    return json.dumps(plain(value), indent=1, allow_nan=False)


def plain(value: Any) -> Any:
    """A value of what JSON has.

    >>> plain({"a": float("nan"), "b": (1, Path("c"))})
    {'a': None, 'b': [1, 'c']}
    """
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):  # numpy's and torch's numbers
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
