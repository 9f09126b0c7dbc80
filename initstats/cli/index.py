"""The index of pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from initstats.cli.command import Pages, command
from initstats.cli.output import output


@command("Measure", page=True)
def index(
    folder: Annotated[
        Path, typer.Argument(help="The folder whose pages are listed.", show_default=True)
    ] = Path("reports"),
    *,
    pages: Pages,
) -> None:
    """Write an index of all pages in a folder and below: a picture and a sentence each.

    JSON: page, the index.
    """
    from initstats.report import write_index

    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    output.result(page=write_index(folder, pages.files()))
