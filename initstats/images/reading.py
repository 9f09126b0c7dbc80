"""Reading an image folder: decoded in this process or in others, or taken from a cache."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.files import shown, some
from initstats.images.cache import Kept, find, keep
from initstats.images.decoding import Fault, Square, decode_all
from initstats.images.layout import Part, parts_of
from initstats.plural import counted
from initstats.processes import LostError, Processes, check_guard

Progress = Callable[[int, int], object]
"""Called with the images done and all that are to be decoded, at the start and after some."""
SIZES = range(1, 4097)
"""Sides that images are cut to."""
BATCH = 32
"""Images that a process decodes at a time."""
_AHEAD = 4
"""Batches for each process that are begun and not taken yet."""
_WORTH = 500
"""So many images are worth a process, which takes some tenths of a second to start."""


class Skipped(NamedTuple):
    """A file that is left out, as it cannot be read."""

    file: str
    reason: str


@dataclass(frozen=True)
class Images:
    """The images of a split.

    Attributes:
        folder: of the split.
        pixels: (samples, 3, size, size).
        labels: the class of each, (samples,).
        skipped: what is left out.
    """

    folder: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    skipped: tuple[Skipped, ...]


def read_images(
    folder: Path,
    size: int,
    counts: dict[str, int | None],
    *,
    cache: Path | None,
    workers: int | None,
    progress: Progress | None,
) -> tuple[tuple[str, ...], dict[str, Images]]:
    """The classes of an image folder, and the images of each split.

    Args:
        size: to cut images to.
        counts: how many of the first images of a split to read, by its name.
        cache, workers, progress: as for `load_data`.

    Raises:
        ValueError: as `load_data`.
        ChildProcessError: no process can start.
        OSError: a folder cannot be read.
    """
    _check(size, cache, workers)
    classes, whole = parts_of(folder)
    parts = {split: part.first(counts.get(split)) for split, part in whole.items()}
    stems = {
        split: f"{shown(folder.resolve().name)}-{split}{counts.get(split) or ''}-{size}px"
        for split in parts
    }
    found = {split: find(cache, stems[split], part, size) for split, part in parts.items()}
    missing = {split: part for split, part in parts.items() if found[split] is None}
    total = sum(len(part.files) for part in missing.values())
    count = workers or max(1, min(os.cpu_count() or 1, total // _WORTH))
    notify = _counter(progress, total)
    with Processes(count, _prepare) if count > 1 and total else nullcontext() as executor:
        for split, part in missing.items():
            with closing(_decoded(part, size, executor, count)) as decoded:
                found[split] = keep(
                    cache, stems[split], part, size, _checked(part, decoded, notify)
                )
    return classes, {
        split: _images(part, kept, classes)
        for split, part in parts.items()
        if (kept := found[split])
    }


def _check(size: int, cache: Path | None, workers: int | None) -> None:
    if isinstance(size, bool) or size not in SIZES:
        raise ValueError(f"size: expected {SIZES[0]} to {SIZES[-1]} pixels, found {size!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: at least one is needed, not {workers}")
    if workers != 1:
        check_guard()
    if cache and cache.exists() and not cache.is_dir():
        raise ValueError(f"cache: expected a folder, found the file {cache}")


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """What is told of further images, and tells how many there are."""
    done = 0

    def notify(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, total)

    if total:
        notify(0)
    return notify


def _images(part: Part, kept: Kept, classes: Sequence[str]) -> Images:
    """The images with their labels; a ValueError where a class has lost all of its."""
    rows = [index for index in range(len(part.files)) if index not in kept.faults]
    labels = np.array([part.files[index].label for index in rows], np.int64)
    skipped = tuple(
        Skipped(shown(part.path(part.files[index])), reason)
        for index, reason in sorted(kept.faults.items())
    )
    held = {file.label for file in part.files}
    if lost := sorted(held - {*labels.tolist()}):
        raise ValueError(
            f"{shown(part.folder)}: expected images of every class that can be read, found none "
            f"of {some([classes[label] for label in lost])}: {_told(part, skipped)}"
        )
    return Images(shown(part.folder), kept.pixels, labels, skipped)


def _checked(
    part: Part, decoded: Iterator[Square | Fault], notify: Callable[[int], None]
) -> Iterator[Square | Fault]:
    """What is decoded; a ValueError as soon as too much of it has faults."""
    allowed, faults = most_skipped(len(part.files)), []
    for index, each in enumerate(decoded, 1):
        if isinstance(each, Fault):
            faults.append(Skipped(shown(part.path(part.files[index - 1])), each.reason))
            if len(faults) > allowed:
                raise ValueError(
                    f"{shown(part.folder)}: expected at most {allowed:,} of its "
                    f"{counted(len(part.files), 'image')} to be unreadable, found {len(faults):,} "
                    f"among the first {index:,}: {_told(part, faults)}"
                )
        if index % BATCH == 0 or index == len(part.files):
            notify((index - 1) % BATCH + 1)
        yield each


def most_skipped(images: int) -> int:
    """How many images of a split may be left out: 1%, or 10 where that is more, but never half."""
    return min(max(10, images // 100), (images - 1) // 2)


def _told(part: Part, skipped: Sequence[Skipped]) -> str:
    """The first files that are left out, and why."""
    start = len(shown(part.folder)) + 1
    return some([f"{file[start:]} ({reason})" for file, reason in skipped])


# decoding here, or in processes


def _decoded(
    part: Part, size: int, executor: Executor | None, workers: int
) -> Generator[Square | Fault, None, None]:
    """The square or the fault of each file, in order."""
    sound = [part.path(file) for file in part.files if not file.fault]
    batches = (sound[start : start + BATCH] for start in range(0, len(sound), BATCH))
    here = (decode_all(batch, size) for batch in batches)
    there = _in_processes(batches, size, executor, workers) if executor else here
    with closing(there):
        squares = chain.from_iterable(there)
        for file in part.files:
            yield Fault(file.fault) if file.fault else next(squares)


def _in_processes(
    batches: Iterator[list[str]], size: int, executor: Executor, workers: int
) -> Generator[list[Square | Fault], None, None]:
    """What processes decode; only some batches are under way, so that none piles up."""
    under_way: deque[tuple[list[str], Future[list[Square | Fault]]]] = deque()
    for batch in batches:
        under_way.append((batch, executor.submit(decode_all, batch, size)))
        if len(under_way) == _AHEAD * workers:
            yield _result(*under_way.popleft(), size, executor)
    while under_way:
        yield _result(*under_way.popleft(), size, executor)


def _result(
    batch: list[str], future: Future[list[Square | Fault]], size: int, executor: Executor
) -> list[Square | Fault]:
    """What became of a batch; where it ended its process, of each of its files alone."""
    try:
        return future.result()
    except LostError as error:
        if len(batch) == 1:
            return [Fault(str(error), lasting=False)]
        alone = [([path], executor.submit(decode_all, [path], size)) for path in batch]
        return [_result(*each, size, executor)[0] for each in alone]


def _prepare() -> None:
    """Prepare a process: what it needs came with this module."""
