"""How progress and tables look in a terminal."""

from __future__ import annotations

import time
from typing import Any


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


def print_meanings(title: str, meanings: dict[str, str]) -> None:
    """Names, and what each of them means."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, meaning in meanings.items():
        table.add_row(name, meaning)
    Console().print(table, "")


def print_gains(entries: list[Any]) -> None:
    """The gains of activations, a row each."""
    from rich.console import Console
    from rich.table import Table

    from initstats.activations import torch_gain

    columns = ("forward", "variance", "backward", "chi_1", "chi_q")
    table = Table("activation", *columns, "torch", "which is", box=None, pad_edge=False)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for entry in entries:
        torchs = torch_gain(entry)
        numbers = (f"{getattr(entry.gain, column):.5f}" for column in columns)
        compared = (f"{torchs.number:.5f}", torchs.verdict) if torchs else ("-", "")
        table.add_row(entry.name, *numbers, *compared)
    Console().print(table)


def print_lesson(lesson: Any) -> None:
    """The published numbers of the lesson beside ours."""
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "quantity", box=None, pad_edge=False)
    for column in ("published", "mean", "low", "high"):
        table.add_column(column, justify="right")
    table.add_column("inside")
    for row in lesson.itertuples():
        numbers = (row.published, row.mean, row.low, row.high)
        cells = ("" if x != x else f"{x:.4g}" for x in numbers)
        inside = {True: "yes", False: "no"}.get(row.inside, "")
        table.add_row(row.step, row.quantity, *cells, inside)
    Console().print(table)
