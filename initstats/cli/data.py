"""The data that a command names."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from initstats.cli.console import Bar

if TYPE_CHECKING:
    from initstats.data import Dataset

Size = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default=False,
        help="What the images of an image folder become: so many pixels wide and high. "
        "\\[default: 64]",
    ),
]


def given_data(
    source: str,
    size: int | None = None,
    *,
    kept: int | None = None,
    folder: Path | None = None,
    workers: int | None = None,
) -> Dataset:
    """The dataset of a source, with a progress bar while images are decoded.

    Args:
        size: of images, where an option says it.
        kept: the size where no option does, as in a run's configuration.
        folder: of the run, which keeps decoded images; by default nothing does.

    Raises:
        ValueError, ChildProcessError: as `load_data`; a size of data that have their own.
    """
    from initstats.data import CACHE, load_data

    with closing(_Decoding()) as decoding:
        data = load_data(
            source,
            size=size or kept or 64,
            cache=folder / CACHE if folder else None,
            workers=workers,
            progress=decoding.show,
        )
    if size and data.size is None:
        raise ValueError(f"--size is for image folders: samples of {data.name} are {data.shape}")
    return data


class _Decoding:
    """A bar that is there once images are decoded."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def show(self, done: int, total: int) -> None:
        """Show how many are done, and of how many."""
        if self._bar is None:
            self._bar = Bar("images").__enter__()
        self._bar.show(done, total)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
