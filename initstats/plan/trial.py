"""Trials: some cells of a grid, measured to tell how long all of them take.

A task costs a part that its activations share, as the draw of weights, and a part for each of them.
A trial measures both at one network, width and init, under some activations and, where cells are
large, on some of the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import cycle, islice
from time import perf_counter as clock

import numpy as np

from initstats.moments import warm_up
from initstats.sweep.work import Engine, Outcome, Task, estimated_seconds

SECONDS = 2.0
"""Trials end after so many seconds, once every size was tried."""
SIZES, POINTS, TOGETHER = 8, 12, 4
"""The most networks and widths that are tried, the trials that should fit into the time, and the
activations of each."""
FEW, LEAST_SAMPLES = 16, (1000, 256)
"""The samples of a trial of all that does not grow with them, and the least of the others: fewer
cost more each, and are taken where cells are very large."""

Costs = Mapping[tuple[float, str], float]
"""Seconds by the estimate of a cell, which tells its size, and by init."""


@dataclass(frozen=True)
class Trial:
    """What a task cost.

    Attributes:
        task: what was measured, under some activations.
        outcome: its results, maybe of a part of the samples.
        size: the estimated seconds of one cell.
        shared, each: seconds for all samples: of all activations together, and of each.
    """

    task: Task
    outcome: Outcome
    size: float
    shared: float
    each: float


def try_out(work: Sequence[Task], engine: Engine) -> list[Trial]:
    """Measure some of the work: every size, or some between the smallest and the largest, and as
    many inits and activations as the time allows.
    """
    kinds = {(_size(task, engine), task.init.name): task for task in reversed(work)}
    sizes = sorted({size for size, _ in kinds})
    sizes = [sizes[place] for place in evenly(len(sizes), SIZES)]
    by_size = {size: [kinds[key] for key in kinds if key[0] == size][::-1] for size in sizes}
    trials, failed = list[Trial](), Exception()
    began = clock()
    for turn in range(max(map(len, by_size.values()))):
        for place, (size, tasks) in enumerate(by_size.items()):
            if turn < len(tasks) and (turn == 0 or clock() - began < SECONDS):
                task = tasks[(turn + place) % len(tasks)]
                try:
                    trials.append(_trial(_under(task, len(trials)), engine, size))
                except Exception as error:  # noqa: BLE001 (a sweep keeps it, and goes on)
                    failed = error
    if not trials:
        raise failed
    return trials


def warm_up_for(work: Sequence[Task], engine: Engine) -> None:
    """Do what only the first task of a process takes time for."""
    warm_up(engine.settings.place["dtype"])
    with suppress(Exception):
        _part(engine, FEW)(_under(work[0], 0))


class Rates:
    """The costs of tasks, from trials of some: estimates, with a factor for each size and init."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        shared, each = (
            {(trial.size, trial.task.init.name): getattr(trial, part) for trial in trials}
            for part in ("shared", "each")
        )
        self._shared, self._each = _fitted(shared), _fitted(each)

    def seconds(self, task: Task, size: float) -> float:
        """The seconds of a task whose cells have a size, on one core."""
        init = task.init.name
        return self._shared(size, init) + len(task.activations) * self._each(size, init)


def sizes_of(work: Sequence[Task], engine: Engine) -> list[float]:
    """The estimated seconds of a cell of each task."""
    known: dict[tuple[str, int], float] = {}
    for task in work:
        key = task.network.name, task.width
        if key not in known:
            known[key] = _size(task, engine)
    return [known[task.network.name, task.width] for task in work]


def _size(task: Task, engine: Engine) -> float:
    return estimated_seconds([_under(task, 0, 1)._replace(seeds=task.seeds[:1])], engine)


def _under(task: Task, place: int, most: int = TOGETHER) -> Task:
    """A task under some of its activations; the place says where they begin."""
    those = task.activations
    start, count = place * most % len(those), min(most, len(those))
    return task._replace(activations=tuple(islice(cycle(those), start, start + count)))


def _trial(task: Task, engine: Engine, size: float) -> Trial:
    """Measure a task; of large cells, a part of the samples."""
    samples, calls = engine.settings.samples, 1 + len(task.activations)
    least = LEAST_SAMPLES[size * calls * LEAST_SAMPLES[0] / samples > SECONDS]
    some = min(samples, max(least, int(samples * SECONDS / POINTS / (size * calls))))
    one = task._replace(activations=task.activations[:1])
    outcomes: list[Outcome] = []

    def costs(count: int) -> tuple[float, float]:
        part = _part(engine, count)
        return _split(one, task, lambda each: outcomes.append(part(each)))

    shared, each = costs(some)
    outcome = outcomes[-1]
    if some < samples:
        # draws, and what is done once a layer, cost the same for any number of samples
        grown = (samples - FEW) / (some - FEW)
        shared, each = (
            low + max(0.0, high - low) * grown
            for low, high in zip(costs(FEW), (shared, each), strict=True)
        )
    return Trial(task, outcome, size, shared, each)


def _split(one: Task, several: Task, call: Callable[[Task], object]) -> tuple[float, float]:
    """The seconds of a call that are common to activations, and those of each."""
    first, more = _timed(call, one), len(several.activations) - 1
    if not more:
        return 0.0, first
    each = max(0.0, (_timed(call, several) - first) / more)
    return max(0.0, first - each), each


def _timed(call: Callable[[Task], object], task: Task) -> float:
    began = clock()
    call(task)
    return clock() - began


def _part(engine: Engine, samples: int) -> Engine:
    """The engine for the first samples alone."""
    samples = min(samples, len(engine.split))
    settings = replace(engine.settings, samples=samples)
    return replace(engine, split=engine.split.first(samples), settings=settings)


def _fitted(costs: Costs) -> Callable[[float, str], float]:
    """The cost as a product of the size, a factor of the size, and one of the init.

    Factors of sizes between those that were tried lie between theirs; an init that was not tried
    costs as much as those that were, on average.
    """
    ratios = {key: cost / key[0] for key, cost in costs.items()}
    of_size = {size: 1.0 for size, _ in costs}
    of_init = {init: 1.0 for _, init in costs}
    for _ in range(20):
        for size in of_size:
            there = [(ratio, of_init[init]) for (s, init), ratio in ratios.items() if s == size]
            of_size[size] = _quotient(there)
        for init in of_init:
            there = [(ratio, of_size[size]) for (size, i), ratio in ratios.items() if i == init]
            of_init[init] = _quotient(there)
    middle = sum(of_init.values()) / len(of_init)
    known = sorted(of_size)
    factors = [of_size[size] for size in known]

    def cost(size: float, init: str) -> float:
        factor = float(np.interp(np.log(size), np.log(known), factors))
        return size * factor * of_init.get(init, middle)

    return cost


def _quotient(pairs: Sequence[tuple[float, float]]) -> float:
    """The sum of what was found, over that of what was expected; 0 where nothing was."""
    found, expected = (sum(each) for each in zip(*pairs, strict=True))
    return found / expected if expected else 0.0


def evenly(count: int, most: int) -> list[int]:
    """All places, or so many at equal distances, with both ends."""
    return [*map(int, np.linspace(0, count - 1, min(most, count)).round())]
