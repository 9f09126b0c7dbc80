"""The plan of a study, as numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from initstats.plural import counted


@dataclass(frozen=True)
class Plan:
    """What a sweep will take; made by `plan_sweep`.

    Times and sizes are estimates from a trial of some cells on this machine, as busy as it was.

    Attributes:
        cells, done: how many the grid has, and how many of them its folder holds already.
        operations: multiply-adds of the passes through what is left.
        workers: how many processes would share the work.
        seconds: until all is measured, by the number of workers. More workers than this machine has
            cores are taken to have a core each, elsewhere.
        cell_seconds: of a core, per cell.
        driver_seconds: of the driver, per cell: it bounds the workers that it can keep at work.
        theory_seconds: to predict the rows; 0 where that was not asked for.
        store_bytes, table_bytes: the size of the store in the end, and of the table that is loaded.
        driver_bytes, worker_bytes: the memory of the driver, with the table, and of one worker; a
            single worker is the driver itself.
    """

    cells: int
    done: int
    operations: int
    workers: int
    seconds: Mapping[int, float]
    cell_seconds: float
    driver_seconds: float
    theory_seconds: float
    store_bytes: float
    table_bytes: float
    driver_bytes: float
    worker_bytes: float

    @property
    def left(self) -> int:
        """The cells that are not measured yet."""
        return self.cells - self.done

    def __str__(self) -> str:
        return "\n".join(f"{name:<12}{fact}" for name, fact in self.facts().items())

    def facts(self) -> dict[str, str]:
        """The plan in words, by what each line is about."""
        facts = {
            "cells": f"{self.left:,} to measure, {self.done:,} of {self.cells:,} done",
            "operations": f"{self.operations:.2e} multiply-adds",
        }
        if self.left:
            facts |= {
                "time": "; ".join(
                    f"{_duration(seconds)} on {counted(count, 'worker')}"
                    for count, seconds in self.seconds.items()
                ),
                "per cell": f"{_duration(self.cell_seconds)} of a worker, "
                f"{_duration(self.driver_seconds)} of the driver, which can keep "
                f"{counted(max(1, self.cell_seconds // self.driver_seconds), 'worker')} busy",
            }
        if self.theory_seconds:
            facts["theory"] = f"{_duration(self.theory_seconds)} more"
        driver = f"{_size(self.driver_bytes)} for the driver"
        if self.workers > 1:
            driver += f", {_size(self.worker_bytes)} for each worker"
        facts["store"] = f"{_size(self.store_bytes)} on the disk"
        facts["memory"] = f"{driver}; {_size(self.table_bytes)} of it is the table"
        return facts

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><th style='text-align: left'>{name}</th>"
            f"<td style='text-align: left'>{fact}</td></tr>"
            for name, fact in self.facts().items()
        )
        return f"<table>{''.join(rows)}</table>"


def _duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> [_duration(x) for x in (0.00031, 0.024, 3.2, 61, 5400, 200_000)]
    ['0.31 ms', '24 ms', '3.2 s', '61 s', '90 min', '56 h']
    """
    for unit, size, most in (("ms", 1e-3, 1), ("s", 1, 120), ("min", 60, 7200), ("h", 3600, 3e5)):
        if seconds < most:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 9.5 else f"{value:.2g} {unit}"
    return f"{seconds / 86400:,.0f} days"


def _size(count: float) -> str:
    """Bytes in the unit that suits them.

    >>> _size(81_000), _size(31_400_000), _size(4.2e9)
    ('81 kB', '31 MB', '4.2 GB')
    """
    if count < 1e6:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e6:,.0f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"
