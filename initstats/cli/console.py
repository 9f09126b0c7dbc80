"""How progress and tables look in a terminal."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Literal


class Bar:
    """A progress bar on stderr: done, rate and time left; silent when that is not a terminal."""

    def __init__(self, noun: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self.first = self.done = self.total = 0
        self._began = time.perf_counter()
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(noun),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(noun, total=None, rate="")
        self.stop = self._progress.stop

    def show(self, done: int, total: int) -> None:
        """Move to so many done of all."""
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
    rows: Iterable[Iterable[str]],
    *,
    numbers: Collection[str] = (),
    title: str | None = None,
) -> None:
    """Rows of text under the names of their columns; those of numbers stand on the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        justify: Literal["left", "right"] = "right" if name in numbers else "left"
        table.add_column(name, justify=justify, no_wrap=not table.columns)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table, "")
