"""The lesson that the project comes from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

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
    from initstats.report.folder import claim

    claim(out)  # before the minute of work, not after it
    evidence = measure(seeds, workers)
    _print(evidence.lesson)
    typer.echo(f"page: {write_lesson(out, evidence)}")
    typer.echo(f"{time.perf_counter() - began:.1f} s in all")


def _print(lesson: Any) -> None:
    """The published numbers of the lesson beside ours."""
    numbers = ("published", "mean", "low", "high")
    rows = []
    for row in lesson.to_dict("records"):
        printed = ("" if row[name] != row[name] else f"{row[name]:.4g}" for name in numbers)
        inside = {True: "yes", False: "no"}.get(row["inside"], "")
        rows.append((row["step"], row["quantity"], *printed, inside))
    print_table(("step", "quantity", *numbers, "inside"), rows, numbers=numbers)
