"""Workers in front of one driver: how long they take, and how long results wait.

Tasks go to whichever worker is free; the driver takes the results one by one, as they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heapreplace
from typing import NamedTuple


class Queue(NamedTuple):
    """What comes of it.

    Attributes:
        seconds: until the driver has the last result.
        driving: the share of that time in which the driver is at work.
        waiting: the most results that wait for the driver at once.
    """

    seconds: float
    driving: float
    waiting: int


def queue(tasks: Iterable[tuple[float, float]], workers: int) -> Queue:
    """Follow tasks through workers and a driver.

    Args:
        tasks: the seconds of each in a worker, and then in the driver.
        workers: how many there are, each with a core of its own.

    >>> queue([(1.0, 0.25)] * 4, workers=2)
    Queue(seconds=2.5, driving=0.4, waiting=1)
    """
    tasks = list(tasks)
    if not tasks:
        return Queue(0.0, 0.0, 0)
    free = [0.0] * min(workers, len(tasks))
    heapify(free)
    arrivals = []
    for working, driving in tasks:
        done = free[0] + working
        heapreplace(free, done)
        arrivals.append((done, driving))
    arrivals.sort()
    clock, busy, ends = 0.0, 0.0, list[float]()
    most = begun = 0
    for position, (arrived, driving) in enumerate(arrivals):
        while begun < len(ends) and ends[begun] <= arrived:
            begun += 1
        most = max(most, position - begun)
        clock = max(clock, arrived) + driving
        busy += driving
        ends.append(clock)
    return Queue(clock, busy / clock if clock else 0.0, most)
