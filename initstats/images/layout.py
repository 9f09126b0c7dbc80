"""The layout of an image folder: a folder for each split, and in it one for each class.

It is that of Imagenette and ImageWoof (github.com/fastai/imagenette).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from initstats.files import shown, some
from initstats.images.decoding import ENDINGS
from initstats.plural import counted

SPLITS = {"train": ("train",), "valid": ("val", "valid"), "test": ("test",)}
"""What the folder of a split may be called."""
LARGEST = 2**28
"""Bytes of the largest file that is read."""


class ImageFile(NamedTuple):
    """A file that is called an image.

    Attributes:
        name: with its class, as `n02086240/n02086240_1.JPEG`.
        label: the place of its class among the classes.
        size: in bytes.
        modified: when, in nanoseconds.
        fault: why it cannot be read, where that is seen from outside.
    """

    name: str
    label: int
    size: int = 0
    modified: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Part:
    """The files of a split.

    Their classes take turns, so that the first files, however many, hold each class in its share.
    """

    folder: str
    files: tuple[ImageFile, ...]

    def first(self, count: int | None) -> Part:
        """The first files, all where None is given; a ValueError where there are not so many."""
        if count is None:
            return self
        if not 1 <= count <= len(self.files):
            raise ValueError(
                f"{shown(self.folder)}: expected to take 1 to all of its "
                f"{counted(len(self.files), 'image')}, found {count} asked for"
            )
        return replace(self, files=self.files[:count])

    def path(self, file: ImageFile) -> str:
        """Where a file is."""
        return f"{self.folder}/{file.name}"


def parts_of(folder: Path) -> tuple[tuple[str, ...], dict[str, Part]]:
    """The names of the classes, sorted, and the parts, by split; a test split may be lacking.

    Hidden files, and files whose names do not end as images' do, are no part of it.

    Raises:
        ValueError: a folder is missing, holds no images, or holds other classes than the training
            split does.
        OSError: a folder cannot be read.
    """
    folders = {split: _folder(folder, split, names) for split, names in SPLITS.items()}
    classes = {split: _classes(found) for split, found in folders.items() if found}
    if not classes.get("test", ["none"]):
        del classes["test"]  # its images have no labels
    parts = {}
    for split, names in classes.items():
        where = folders[split]
        if not names:
            raise ValueError(f"{shown(where)}: expected a folder for each class, found none")
        if split != "train":
            _compare(where, names, classes["train"])
        parts[split] = Part(where, tuple(_in_turns(where, names)))
    return tuple(map(shown, classes["train"])), parts


def _folder(folder: Path, split: str, names: tuple[str, ...]) -> str:
    """The folder of a split; empty where an image folder needs none."""
    found = [name for name in names if (folder / name).is_dir()]
    if len(found) > 1 or not (found or split == "test"):
        raise ValueError(
            f"{shown(str(folder))}: expected a folder {' or '.join(names)} beside train, found "
            f"{' and '.join(found) or 'none'}"
        )
    return str(folder / found[0]) if found else ""


def _classes(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    return sorted((name for name in names if Path(folder, name).is_dir()), key=os.fsencode)


def _compare(folder: str, names: list[str], classes: list[str]) -> None:
    lacking = [name for name in classes if name not in names]
    strange = [name for name in names if name not in classes]
    if lacking or strange:
        found = [f"none of {some(lacking)}"] * bool(lacking) + [f"{some(strange)}"] * bool(strange)
        raise ValueError(
            f"{shown(folder)}: expected the {counted(len(classes), 'class', 'classes')} of train, "
            f"found {', but '.join(found)}"
        )


def _in_turns(folder: str, classes: list[str]) -> list[ImageFile]:
    """The files of all classes, each class spread evenly over the whole."""
    places = []
    for label, name in enumerate(classes):
        files = sorted(_files(folder, name, label), key=lambda file: os.fsencode(file.name))
        if not files:
            raise ValueError(
                f"{shown(f'{folder}/{name}')}: expected images of the class, found none"
            )
        places += [((2 * n + 1) / len(files), label, file) for n, file in enumerate(files)]
    return [file for *_, file in sorted(places, key=lambda place: place[:2])]


def _files(folder: str, name: str, label: int) -> Iterator[ImageFile]:
    with os.scandir(f"{folder}/{name}") as entries:
        for entry in entries:
            if Path(entry.name).suffix.lower() in ENDINGS and not entry.name.startswith("."):
                yield _file(f"{name}/{entry.name}", label, entry)


def _file(name: str, label: int, entry: os.DirEntry[str]) -> ImageFile:
    try:
        state = entry.stat()
    except OSError as error:  # a link that leads nowhere, or round in a circle
        return ImageFile(name, label, fault=error.strerror or "it cannot be found")
    fault = "" if stat.S_ISREG(state.st_mode) else "a folder, a pipe, a socket or a device"
    if not fault and state.st_size > LARGEST:
        fault = f"larger than {LARGEST >> 20} MiB"
    return ImageFile(name, label, state.st_size, state.st_mtime_ns, fault)
