"""The work of a study: its tasks, the engine that measures one, and how long that takes."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.inits import Init
from initstats.moments import STATISTICS
from initstats.networks import Network, Serial
from initstats.registry import import_module
from initstats.stack import Result, Settings, run_stack
from initstats.store import Key, pack
from initstats.sweep.attempts import Divisible
from initstats.sweep.cell import Cell
from initstats.sweep.grid import MOST_TOGETHER, Grid

Outcome = list[tuple[Sequence[Key], NDArray[np.float64], bytes]]
"""The places of the rows, their statistics and packed histograms, for each cell of a task."""
SECONDS_EACH = 10
"""The seconds of work that make another process worth its start, which takes three or four."""


class SomeCells(Divisible, Protocol):
    """A task whose outcome is that of some cells."""

    @property
    def cells(self) -> Sequence[Key]:
        """Their keys, in the order of the outcome."""
        ...

    @property
    def total(self) -> int:
        """How many there are."""
        ...


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

    @property
    def total(self) -> int:
        """How many cells it has."""
        return len(self.seeds) * len(self.activations)

    def parts(self) -> list[Task]:
        """A task for each of its cells."""
        return [
            self._replace(activations=(activation,), seeds=(seed,))
            for seed, activation in product(self.seeds, self.activations)
        ]


def defining_modules() -> tuple[str, ...]:
    """The modules that define the statistics."""
    return tuple(dict.fromkeys(STATISTICS.family(name).module for name in STATISTICS))


@dataclass(frozen=True)
class Engine:
    """What all tasks of a run have in common; it goes to a worker once.

    Args:
        split: the samples to measure.
        fit: the samples that a data-dependent init is fitted on.
        notes: columns of what the blocks of the networks note, behind the statistics.
        modules: define the statistics; a worker imports them.
    """

    split: Split
    fit: Split
    settings: Settings
    notes: tuple[str, ...] = ()
    modules: tuple[str, ...] = field(default_factory=defining_modules)

    def __call__(self, task: Task) -> Outcome:
        """Measure the cells of a task, in their order."""
        network = task.network.on(self.split.shape, task.width, self.settings.depth)
        places = network.places(backward=self.settings.backward)
        results = run_stack(
            network, task.init, task.activations, task.seeds, self.split, self.fit, self.settings
        )
        return [(places, self._row(network, result), pack(result.histograms)) for result in results]

    def _row(self, network: Serial, result: Result) -> NDArray[np.float64]:
        """The statistics of a cell's rows, and behind them the notes, NaN where there are none."""
        noted = np.full((len(result.statistics), len(self.notes)), np.nan)
        noted[:, [self.notes.index(name) for name in network.numbers]] = result.numbers
        return np.hstack([result.statistics, noted])

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
        cells[task.network, task.width] += task.total
    directions, passes = (2, 3) if settings.backward else (1, 1)
    for (entry, width), count in cells.items():
        network = entry.on(engine.split.shape, width, settings.depth)
        measured = directions * sum(leaf.outputs.size for leaf in network.leaves())
        products = sum(math.prod(x.weight) * x.outputs.positions for x in network.layers)
        nanoseconds += count * settings.samples * (2.5 * measured + 0.05 * passes * products)
    return 1e-9 * nanoseconds


def multiply_adds(task: Task, engine: Engine) -> int:
    """The multiply-adds of a task's passes; drawing, fitting and statistics are not counted.

    What comes before the first activation runs once for all of them, and the gradient of the
    samples is not computed.
    """
    network = task.network.on(engine.split.shape, task.width, engine.settings.depth)
    costs = [math.prod(layer.weight) * layer.outputs.positions for layer in network.layers]
    head = sum(costs[: len(network.split()[0].layers)])
    each = sum(costs) - head
    if engine.settings.backward:
        first = [
            cost
            for layer, cost in zip(network.layers, costs, strict=True)
            if layer.inputs is network.inputs
        ]
        each += sum(costs) - sum(first)
    samples = engine.settings.samples * len(task.seeds)
    return samples * (head + len(task.activations) * each)


def tasks(grid: Grid, done: Collection[Key], batch: int) -> list[Task]:
    """The cells that are not done by draws of weights, seeds of one batch together where they lack
    the same.

    All cells of some seeds come before those of the next ones, so that the table of an interrupted
    run is one of fewer seeds.
    """
    found: dict[tuple[object, ...], Task] = {}
    starts = range(0, len(grid.activations), MOST_TOGETHER)
    parts = [grid.activations[start : start + MOST_TOGETHER] for start in starts]
    of_seed = [
        (network, width, init, those)
        for network, width in product(grid.every_network, grid.widths)
        for init, those in product(grid.inits_of(network), parts)
    ]
    for seed, (network, width, init, those) in product(grid.seeds, of_seed):
        task = Task(network, init, those, width, (seed,))
        if done:
            cells = zip(those, task.cells, strict=True)
            lacks = tuple(activation for activation, cell in cells if cell not in done)
            task = task._replace(activations=lacks)
        if task.activations:
            names = (activation.name for activation in task.activations)
            key = (seed // batch, network.name, init.name, width, *names)
            before = found[key].seeds if key in found else ()
            found[key] = task._replace(seeds=(*before, seed))
    return list(found.values())
