"""The map of a study: verdicts by init and activation, as they are written without any script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.diagnosis.verdicts import HEALTHY, WORDS


class Cell(NamedTuple):
    """The verdict on one configuration.

    Attributes:
        word: the commonest among its seeds, of several the gravest; empty where nothing was
            measured.
        note: where seeds disagree, how many have it, or that verdicts tie.
    """

    word: str
    note: str


class Row(NamedTuple):
    """The cells of one init, and how many of them are healthy; None where none was measured."""

    init: str
    cells: list[Cell]
    healthy: int | None


def rows_of(words: NDArray[np.int8], inits: Sequence[str]) -> list[Row]:
    """The map of whole stacks.

    Args:
        words: the verdicts (configurations, layers, seeds) as positions in `WORDS`, -1 for none;
            configurations are ordered by init, then activation.
    """
    cells = [cell_of(last_of(each)) for each in words]
    across = len(cells) // len(inits)
    rows = [cells[i * across : (i + 1) * across] for i in range(len(inits))]
    return [Row(init, row, _healthy(row)) for init, row in zip(inits, rows, strict=True)]


def _healthy(row: Sequence[Cell]) -> int | None:
    words = [cell.word for cell in row if cell.word]
    return words.count(HEALTHY) if words else None


def last_of(words: NDArray[np.int8]) -> NDArray[np.int8]:
    """The verdicts (seeds,) of the deepest layer that was measured, from those of all layers."""
    deep = np.flatnonzero((words >= 0).any(axis=1))
    last: NDArray[np.int8] = words[deep[-1] if len(deep) else 0]
    return last


def cell_of(words: NDArray[np.int8]) -> Cell:
    """The vote of seeds."""
    seeds = words[words >= 0]
    if not len(seeds):
        return Cell("", "")
    votes = np.bincount(seeds, minlength=len(WORDS))
    most = int(votes.argmax())
    if (votes == votes[most]).sum() > 1:
        return Cell(WORDS[most], "tie")
    note = f"{votes[most]} of {len(seeds)}" if votes[most] < len(seeds) else ""
    return Cell(WORDS[most], note)
