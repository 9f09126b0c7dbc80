"""How progress and tables look in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

import typer

from initstats.cli.output import output


class Bar:
    """A progress bar on stderr: done, rate and time left; silent when that is not a terminal."""

    def __init__(self, noun: str) -> None:
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True)
        self.first = self.done = self.total = 0
        self._began = time.perf_counter()
        self._progress = progress.Progress(
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn(noun),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(compact=True),
            console=console,
            disable=output.quiet or not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(noun, total=None, rate="")
        self.stop = self._progress.stop

    def show(self, done: int, total: int) -> None:
        """Show how many are done, and of how many."""
        if not self.total:
            self.first, self._began = done, time.perf_counter()
        self.done, self.total = done, total
        passed = time.perf_counter() - self._began
        rate = f"{(done - self.first) / passed:.0f}/s" if done > self.first else ""
        self._progress.update(self._task, completed=done, total=total, rate=rate)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def print_table(
    columns: Iterable[str],
    rows: Iterable[Iterable[Any]],
    *,
    digits: int = 4,
    title: str | None = None,
) -> None:
    """Print rows under the names of their columns: text, yes or no, and rounded numbers.

    Where that is no terminal, a row is a line, with tabs between its cells, and no title.
    """
    if not output.has_words:
        return
    if not sys.stdout.isatty():
        for row in ([*columns], *rows):
            typer.echo("\t".join(" ".join(_printed(value, digits).split()) for value in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    rows = [list(row) for row in rows]
    for name, *cells in zip(columns, *rows, strict=True):
        numbers = isinstance(cells[0], float)
        keep = numbers or not table.columns  # in one line
        table.add_column(
            Text(name), justify="right" if numbers else "left", no_wrap=keep, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_printed(value, digits)) for value in row))
    Console().print(table, "")


def _printed(value: Any, digits: int) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
