"""What should happen, in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from initstats.cli.app import Plugins, app
from initstats.cli.console import Bar


@app.command(rich_help_panel="Look up")
def theory(
    names: Annotated[list[str], typer.Argument(metavar="NAMES...", help="Activations.")],
    sigma_b2: Annotated[
        float, typer.Option("--sigma-b2", help="Variance of the biases, for the maps.")
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("reports/theory"),
    plugin: Plugins = None,
) -> None:
    """Draw the phase diagrams of activations: order, chaos, and where each init lies."""
    from initstats import activations
    from initstats.report.theory import write_theory
    from initstats.sweep import load_plugins
    from initstats.theory.diagram import diagram

    load_plugins(plugin or ())
    entries = list(dict.fromkeys(map(activations.get, names)))
    diagrams = []
    with Bar("activations") as bar:
        for done, entry in enumerate(entries):
            bar.show(done, len(entries))
            diagrams.append(diagram(entry, sigma_b2))
    for each in diagrams:
        typer.echo(each.words)
    typer.echo(f"page: {write_theory(out, diagrams)}")
