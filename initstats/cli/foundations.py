"""The lesson that the project comes from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from initstats.cli.app import Workers
from initstats.cli.command import Pages, command
from initstats.cli.console import print_table
from initstats.cli.output import output


@command("Learn", page=True)
def foundations(
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("reports/foundations"),
    seeds: Annotated[int, typer.Option(min=10, help="Draws of the weights.")] = 4000,
    workers: Workers = None,
    *,
    pages: Pages,
) -> None:
    """Walk through the lesson: forward and backward by hand, every published number anew.

    JSON: page, seconds, and lesson, a row for each published number.
    """
    began = time.perf_counter()
    from initstats.foundations import measure, write_lesson
    from initstats.report.page import claim_page

    files = pages.files(workers=workers)
    claim_page("lesson", out, files)  # before the minute of work, not after it
    evidence = measure(seeds, workers)
    lesson = evidence.lesson.to_dict("split", index=False)
    print_table(lesson["columns"], lesson["data"])
    page = write_lesson(out, evidence, files)
    seconds = time.perf_counter() - began
    output.tell(f"{seconds:.1f} s in all")
    output.result(page=page, seconds=seconds, lesson=evidence.lesson)
