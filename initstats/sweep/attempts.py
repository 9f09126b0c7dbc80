"""The attempts at tasks: a failure is a result, but not before it is known to be one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Protocol, Self, TypeVar

import pandas as pd

from initstats.failure import Failure
from initstats.plural import counted
from initstats.workers import Engine, Outcome, Workers

TRIES = 4
"""A cell whose worker dies is sent again three times."""
_NAMED = 3
"""Of many errors, and of many cells that failed with the same one, so many are named."""


class FailedCellsError(RuntimeError):
    """Some cells of a sweep could not be measured; all others are.

    Attributes:
        failures: one row each, as `load_failures` gives them.
        table: the table of the cells that were measured.
    """

    def __init__(self, message: str, failures: pd.DataFrame, table: pd.DataFrame) -> None:
        super().__init__(message, failures, table)
        self.failures, self.table = failures, table

    def __str__(self) -> str:
        return str(self.args[0])


class Divisible(Protocol):
    """A task that may be about several things."""

    def parts(self) -> Sequence[Self]:
        """A task for each of them."""
        ...


Task = TypeVar("Task", bound=Divisible)


def attempted(
    workers: Workers, engine: Engine[Task, Outcome], work: Sequence[Task]
) -> Generator[tuple[Task, Outcome | Failure]]:
    """Each task with its outcome; one that fails is tried again part by part, to find which it is.

    A part whose worker is lost is sent again, for that may have been an accident.
    """
    for attempt in range(TRIES):
        if not work:
            return
        again: list[Task] = []
        with closing(workers.map(engine, work, alone=attempt > 0)) as results:
            for task, outcome in results:
                if not isinstance(outcome, Failure):
                    yield task, outcome
                elif len(parts := task.parts()) > 1:
                    again += parts
                elif outcome.lost and attempt < TRIES - 1:
                    again.append(task)
                else:
                    yield task, outcome
        work = again


def failed(failures: pd.DataFrame, table: pd.DataFrame, asked: int) -> FailedCellsError:
    """The error that names the cells that failed, of so many that were asked for."""
    kinds = [
        f"{error} ({_listed([' '.join(map(str, cell)) for cell in cells])})"
        for error, cells in _by_error(failures).items()
    ]
    others = "The others are measured; the" if len(failures) < asked else "The"
    return FailedCellsError(
        f"{len(failures):,} of {counted(asked, 'cell')} failed: {_listed(kinds, '; ')}. {others} "
        "same again tries those that failed",
        failures,
        table,
    )


def _by_error(failures: pd.DataFrame) -> dict[str, list[tuple[object, ...]]]:
    """The keys of the cells that failed in the same way."""
    found: dict[str, list[tuple[object, ...]]] = {}
    for *key, error, _ in failures.itertuples(index=False, name=None):
        found.setdefault(error, []).append(tuple(key))
    return found


def _listed(items: Sequence[str], separator: str = ", ") -> str:
    """The first of them, and how many more there are."""
    more = [f"{len(items) - _NAMED:,} more"] if len(items) > _NAMED else []
    return separator.join([*items[:_NAMED], *more])
