"""The lesson that the project comes from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from initstats.cli.app import Workers, app
from initstats.cli.console import print_table


@app.command(rich_help_panel="Learn")
def foundations(
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("reports/foundations"),
    seeds: Annotated[int, typer.Option(min=10, help="Draws of the weights.")] = 4000,
    workers: Workers = None,
) -> None:
    """Walk through the lesson: forward and backward by hand, every published number anew."""
    began = time.perf_counter()
    from initstats.foundations import measure, write_lesson
    from initstats.report.page import claim_page

    claim_page("lesson", out)  # before the minute of work, not after it
    evidence = measure(seeds, workers)
    lesson = evidence.lesson.to_dict("split", index=False)
    print_table(lesson["columns"], lesson["data"])
    typer.echo(f"page: {write_lesson(out, evidence)}")
    typer.echo(f"{time.perf_counter() - began:.1f} s in all")
