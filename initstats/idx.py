"""IDX files: a header, then bytes; never more of a file is read than its header promises.

A set of four makes a dataset: images and labels, to train and to test.

The format: LeCun, Bottou, Bengio and Haffner (1998).
"""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADERS = {"images": (2051, 3), "labels": (2049, 1)}
"""Magic number (0x08: unsigned bytes; then the number of dimensions) and number of dimensions."""
_GZIP = b"\x1f\x8b"
_FILE_NAME = re.compile(r"((?!\.).*?)-?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
_SMALL, _SQUEEZED = 2**26, 100
"""A small file may unzip to so many bytes; any other to so many times its own."""


def read_idx(file: Path, kind: str) -> NDArray[Any]:
    """Bytes of an IDX file, gzipped or not, (samples, height, width) or (samples,).

    Args:
        kind: images or labels.

    Raises:
        ValueError: the file cannot be read, is damaged, not of the kind, or promises what a file
            of its size cannot hold; the message names it, what was expected and what was found.
    """
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            raise ValueError(f"{file}: expected a readable file, found none that is regular")
        with file.open("rb") as stream:
            held = file.stat().st_size
            # by content, since browsers unzip what they download and leave the name
            zipped = stream.read(2) == _GZIP
            stream.seek(0)
            if not zipped:
                return _read(stream, file, kind, held)
            with gzip.open(stream) as unzipped:
                return _read(unzipped, file, kind, None, max(_SMALL, _SQUEEZED * held))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: expected a readable file, found: {error}") from error


def has_idx_files(folder: Path) -> bool:
    """Whether a folder has a file that is called an IDX file."""
    return bool(_sets(folder))


def idx_files(source: Path) -> tuple[str, dict[str, Path]]:
    """The name of the set of files that a source means, and its files: `train images` and so on.

    Raises:
        ValueError: there is none, or more than one.
    """
    folder, wanted = (source, None) if source.is_dir() else (source.parent, source.name.rstrip("-"))
    sets = _sets(folder)
    if wanted is None and ("" in sets or len(sets) == 1):
        wanted = min(sets)
    if wanted in sets:
        return wanted or folder.resolve().name, sets[wanted]

    if wanted is not None:
        expected, found = (
            "'mnist', a folder of IDX files or images, or FOLDER/PREFIX",
            "nothing there",
        )
    elif sets:
        expected, found = "one set of IDX files, or FOLDER/PREFIX", f"prefixes {', '.join(sets)}"
    else:
        expected = (
            "IDX files such as train-images-idx3-ubyte.gz, or folders train and val with a folder "
            "of images for each class"
        )
        found = "none"
    raise ValueError(f"{source}: expected {expected}, found {found}")


def read_part(files: dict[str, Path], part: str) -> tuple[NDArray[Any], NDArray[Any], str, str]:
    """Images and labels of a set, for `train` or `test`, and the names of their files.

    Raises:
        ValueError: a file is missing, or as `read_idx`.
    """
    for content in (f"{part} images", f"{part} labels"):
        if content not in files:
            found = ", ".join(file.name for file in files.values())
            folder = min(files.values()).parent
            raise ValueError(f"{folder}: expected a file of {content}, found only {found}")
    images, labels = files[f"{part} images"], files[f"{part} labels"]
    pixels, classes = read_idx(images, "images"), read_idx(labels, "labels")
    return pixels, classes.astype(np.int64), str(images), str(labels)


def times(shape: Iterable[int]) -> str:
    """A shape in words: 28 x 28."""
    return " x ".join(map(str, shape))


def _sets(folder: Path) -> dict[str, dict[str, Path]]:
    """The files of each set in a folder, by the prefix of their names."""
    sets: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := _FILE_NAME.fullmatch(file.name):
            prefix, part, kind = match.groups()
            # sorted: the unzipped file before its .gz, and it wins
            content = f"{'train' if part == 'train' else 'test'} {kind}"
            sets.setdefault(prefix, {}).setdefault(content, file)
    return sets


def _read(
    stream: io.BufferedReader | gzip.GzipFile,
    file: Path,
    kind: str,
    held: int | None,
    most: float = math.inf,
) -> NDArray[Any]:
    """The bytes after the header.

    Args:
        held: how many bytes the stream holds, where that is known.
        most: how many it can hold.
    """
    magic, dimensions = _HEADERS[kind]
    start = 4 + 4 * dimensions
    header = stream.read(start)
    found, *shape = np.frombuffer(header.ljust(start, b"\0"), ">u4").tolist()
    if found != magic:
        others = {number: f" ({name})" for name, (number, _) in _HEADERS.items()}
        raise ValueError(
            f"{file}: expected magic number {magic} ({kind}), found {found}{others.get(found, '')}"
        )
    size, promised = math.prod(shape), f"{times(shape)} {kind}"
    expected = f"{file}: expected {promised}, at least one, in {start + size} bytes, found"
    if not size or (held is not None and held != start + size):
        raise ValueError(f"{expected} {len(header) if held is None else held} bytes")
    if size > most:
        raise ValueError(
            f"{file}: expected a zipped file of at most {most:.0f} bytes by its size, found "
            f"{promised}, which are {size} bytes: if they are there, unzip it"
        )
    # what is never written takes no memory, should there be less than was promised
    content = np.empty(size, np.uint8)
    got = 0
    while got < size and (more := stream.readinto(content.data[got : got + 2**20])):
        got += more
    if got < size or stream.read(1):
        there = "more" if got == size else f"{start + got} bytes"
        raise ValueError(f"{expected} {there}")
    return content.reshape(shape)
