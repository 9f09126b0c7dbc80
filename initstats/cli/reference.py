"""What there is, what is known of it, and what theory says should happen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from initstats.cli.app import Plugins, app
from initstats.cli.console import Bar, print_table
from initstats.cli.options import load_own, named_function
from initstats.registry import Catalog


@app.command(rich_help_panel="Look up")
def gain(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAMES...", help="Activations, or module:function of your own."),
    ],
    table: Annotated[
        bool, typer.Option("--table", help="One row each instead of a paragraph each.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Compute the weight gains of activations, and compare them with torch's calculate_gain."""
    from initstats import activations

    load_own(plugin)
    entries = [activations.get(named_function(name) if ":" in name else name) for name in names]
    compared = [(entry, activations.torch_gain(entry)) for entry in entries]
    if table:
        columns = ("forward", "variance", "backward", "chi_1", "chi_q")
        rows = (
            [entry.name, *(getattr(entry.gain, column) for column in columns)]
            + ([torchs.number, torchs.verdict] if torchs else [math.nan, "torch has none"])
            for entry, torchs in compared
        )
        print_table(("activation", *columns, "torch", "which is"), rows, digits=6)
        return
    for entry, torchs in compared:
        typer.echo(f"{entry.name}: {entry.gain.advice}")
        if torchs:
            typer.echo(f"  torch's calculate_gain says {torchs.number:.5g}: {torchs.verdict}")


@app.command("list", rich_help_panel="Look up")
def list_(plugin: Plugins = None) -> None:
    """Say what there is, a line each: inits, activations, networks, statistics, rules, figures.

    Names are those of the table; parameters are shown with their defaults.
    """

    load_own(plugin)
    for catalog in _catalogs():
        families = [catalog.family(name) for name in catalog]
        columns = {
            "name": [family.name for family in families],
            "parameters": [_parameters(family.defaults) for family in families],
            "meaning": [family.meaning for family in families],
        }
        shown = {name: cells for name, cells in columns.items() if any(cells)}
        print_table(shown, zip(*shown.values(), strict=True), title=f"{catalog.noun}s")


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
    from initstats.report.folder import claim
    from initstats.report.theory import write_theory
    from initstats.theory.diagram import diagram

    load_own(plugin)
    entries = list(dict.fromkeys(map(activations.get, names)))
    claim(out)  # before the work, not after it
    diagrams = []
    with Bar("activations") as bar:
        for done, entry in enumerate(entries):
            bar.show(done, len(entries))
            diagrams.append(diagram(entry, sigma_b2))
    for each in diagrams:
        typer.echo(each.words)
    typer.echo(f"page: {write_theory(out, diagrams)}")


def _catalogs() -> list[Catalog[Any]]:
    """All of them; other libraries take their time to load."""
    from initstats.activations import ACTIVATIONS
    from initstats.diagnosis import RULES
    from initstats.inits import INITS
    from initstats.moments import STATISTICS
    from initstats.networks import NETWORKS
    from initstats.plots import FIGURES

    return [INITS, ACTIVATIONS, NETWORKS, STATISTICS, RULES, FIGURES]


def _parameters(defaults: Mapping[str, Any]) -> str:
    """Parameters and their defaults, as they are spelled after a name."""
    return ",".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in defaults.items()
    )
