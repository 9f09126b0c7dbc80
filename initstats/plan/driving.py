"""The driver's own time: what it does with each cell that comes back from a worker."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from time import perf_counter as clock

from initstats.drafts import draft_folder
from initstats.store import Run, Store, load_table
from initstats.sweep.work import Outcome, Task

SECONDS, MOST_CELLS = 0.4, 2_000
"""The trial ends after so many seconds or cells."""


@dataclass(frozen=True)
class Driving:
    """What a cell costs the driver, which alone writes the store.

    Attributes:
        seconds: per cell: to read what a worker sent, to check it and to commit it. Cells of one
            task are committed together.
        reading: seconds per cell to read it again, into a table.
        bytes: per cell, in the store.
        empty: bytes of a store without cells.
    """

    seconds: float
    reading: float
    bytes: float
    empty: float

    def feeds(self, seconds: float) -> int:
        """How many workers it keeps at work whose cells take so many seconds."""
        return int(seconds / self.seconds)


def drive(run: Run, results: Sequence[tuple[Task, Outcome]]) -> Driving:
    """Commit results again and again, under other seeds, into a store that is gone at the end.

    Args:
        run: what the store is to know.
        results: tasks of one seed each and their outcomes, in turn.
    """
    run = replace(run, config=run.config | {"seeds": list(range(MOST_CELLS))})
    sent = [(task, pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)) for task, outcome in results]
    with draft_folder() as folder:
        Store.open(folder / "empty", run, {}).close()
        cells, spent = 0, 0.0
        with Store.open(folder / "filled", run, {}) as store:
            for seed, (task, outcome) in enumerate(cycle(sent)):
                began = clock()
                keys = task._replace(seeds=(seed,)).cells
                pairs = zip(keys, pickle.loads(outcome), strict=False)
                store.add_all([(key, *result) for key, result in pairs])
                spent += clock() - began
                cells += len(keys)
                if spent > SECONDS or cells > MOST_CELLS - len(keys):
                    break
        began = clock()
        load_table(folder / "filled")
        reading = clock() - began
        empty, filled = (
            (folder / name / "run.sqlite").stat().st_size for name in ("empty", "filled")
        )
    count = max(1, cells)
    return Driving(spent / count, reading / count, (filled - empty) / count, empty)
