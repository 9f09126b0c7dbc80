"""The work of a study: its tasks, the engine that measures one, and how long that takes."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.inits import Init
from initstats.moments import STATISTICS
from initstats.networks import Network
from initstats.registry import import_module
from initstats.stack import Settings, run_stack
from initstats.store import Key, pack
from initstats.sweep.cell import Cell
from initstats.sweep.grid import Grid

Outcome = list[tuple[Sequence[Key], NDArray[np.float64], bytes]]
"""The places of the rows, their statistics and packed histograms, for each cell of a task."""
SECONDS_EACH = 10
"""The seconds of work that make another process worth its start, which takes three or four."""


class Task(NamedTuple):
    """Cells that are measured together: those of the activations share their draws of weights."""

    network: Network
    init: Init
    activations: tuple[Activation, ...]
    width: int
    seeds: tuple[int, ...]

    @property
    def cells(self) -> list[Cell]:
        """Their keys: all activations of a seed, then the next seed."""
        return [
            Cell(self.network.name, self.init.name, activation.name, self.width, seed)
            for seed, activation in product(self.seeds, self.activations)
        ]

    def parts(self) -> list[Task]:
        """A task for each of its cells."""
        return [
            self._replace(activations=(activation,), seeds=(seed,))
            for seed, activation in product(self.seeds, self.activations)
        ]


def _defining() -> tuple[str, ...]:
    return tuple(dict.fromkeys(STATISTICS.family(name).module for name in STATISTICS))


@dataclass(frozen=True)
class Engine:
    """What all tasks of a run have in common; it goes to a worker once.

    Args:
        split: the samples to measure.
        fit: the samples that a data-dependent init is fitted on.
        modules: define the statistics; a worker imports them.
    """

    split: Split
    fit: Split
    settings: Settings
    modules: tuple[str, ...] = field(default_factory=_defining)

    def __call__(self, task: Task) -> Outcome:
        """Measure the cells of a task, in their order."""
        network = task.network.on(self.split.shape, task.width, self.settings.depth)
        places = network.places(backward=self.settings.backward)
        results = run_stack(
            network, task.init, task.activations, task.seeds, self.split, self.fit, self.settings
        )
        return [(places, result.statistics, pack(result.histograms)) for result in results]

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for module in self.modules:
            import_module(module)


def suited_workers(work: Iterable[Task], engine: Engine) -> int:
    """How many processes the work is worth: one here, or more that pay for their start."""
    if engine.settings.device != "cpu":
        return 1
    return max(1, min(int(estimated_seconds(work, engine) / SECONDS_EACH), os.cpu_count() or 1))


def estimated_seconds(work: Iterable[Task], engine: Engine) -> float:
    """A rough estimate of what tasks take on one core, by their statistics and products."""
    settings, nanoseconds = engine.settings, 0.0
    cells = Counter[tuple[Network, int]]()
    for task in work:
        cells[task.network, task.width] += len(task.activations) * len(task.seeds)
    directions, passes = (2, 3) if settings.backward else (1, 1)
    for (entry, width), count in cells.items():
        network = entry.on(engine.split.shape, width, settings.depth)
        measured = directions * sum(leaf.outputs.size for leaf in network.leaves())
        products = sum(math.prod(x.weight) * x.outputs.positions for x in network.layers)
        nanoseconds += count * settings.samples * (2.5 * measured + 0.05 * passes * products)
    return 1e-9 * nanoseconds


def tasks(grid: Grid, missing: Collection[Cell], batch: int) -> list[Task]:
    """The missing cells by draws of weights, seeds of one batch together where they lack the same.

    All cells of some seeds come before those of the next ones, so that the table of an interrupted
    run is one of fewer seeds.
    """
    found: dict[tuple[object, ...], Task] = {}
    for seed, network, width, init in product(grid.seeds, grid.networks, grid.widths, grid.inits):
        task = Task(network, init, grid.activations, width, (seed,))
        cells = zip(grid.activations, task.cells, strict=True)
        if lacks := tuple(activation for activation, cell in cells if cell in missing):
            names = (activation.name for activation in lacks)
            key = (seed // batch, network.name, init.name, width, *names)
            before = found[key].seeds if key in found else ()
            found[key] = task._replace(activations=lacks, seeds=(*before, seed))
    return list(found.values())
