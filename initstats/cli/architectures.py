"""What becomes of signals in known architectures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from initstats.cli.app import Workers
from initstats.cli.command import Pages, command
from initstats.cli.console import Bar
from initstats.cli.output import output


@command("Look up", page=True)
def architectures(
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("reports/architectures"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer recipes, depths and seeds.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Make the figures of the derivation behind it again, too; takes minutes.",
        ),
    ] = False,
    workers: Workers = None,
    *,
    pages: Pages,
) -> None:
    """Say how deep known architectures may be: streams, norms, transformers, named recipes.

    Theory and, beside it, small sweeps, which the same command goes on with.

    JSON: page, seconds, recipes (a row each, at 100 layers), and answer.
    """
    began = time.perf_counter()
    from initstats.report.page import claim_page
    from initstats.report.survey import answer, at_depth, write_survey
    from initstats.report.verification import verification
    from initstats.survey import survey

    files = pages.files(workers=workers)
    claim_page("architectures", out, files)  # before the minutes of work, not after them
    with Bar("parts of the work") as bar:
        evidence = survey(out, quick=quick, verify=verify, workers=files.workers, progress=bar.show)
    found, recipes = answer(evidence), at_depth(evidence)
    if claims := verification(evidence):
        agree, differ, unmade = (claims[name] for name in ("agree", "differ", "unmade"))
        output.tell(
            f"claims of the derivation: {agree} agree, {differ} differ, {unmade} are not made"
        )
    for row in recipes.to_dict("records"):
        output.tell(f"{row['verdict']:>18}  {row['label']}")
    page = write_survey(out, evidence, files)
    seconds = time.perf_counter() - began
    output.tell(f"{seconds:.1f} s in all")
    output.result(page=page, seconds=seconds, recipes=recipes, answer=found)
