"""What there is, and what is known of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from initstats.cli.app import Plugins, app
from initstats.cli.console import print_gains, print_meanings
from initstats.cli.options import named_function


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
    from initstats.sweep import load_plugins

    load_plugins(plugin or ())
    entries = [activations.get(named_function(name) if ":" in name else name) for name in names]
    if table:
        print_gains(entries)
        return
    for entry in entries:
        torchs = activations.torch_gain(entry)
        typer.echo(f"{entry.name}: {entry.gain.advice}")
        if torchs:
            typer.echo(f"  torch's calculate_gain says {torchs.number:.5g}: {torchs.verdict}")


@app.command("list", rich_help_panel="Look up")
def list_(plugin: Plugins = None) -> None:
    """Say what there is: inits, activations, networks and statistics, a line each."""
    from initstats.activations import ACTIVATIONS
    from initstats.inits import INITS
    from initstats.moments.table import STATISTICS
    from initstats.networks import NETWORKS
    from initstats.sweep import load_plugins

    load_plugins(plugin or ())
    print_meanings("inits", {_signature(INITS, name): INITS[name].meaning for name in INITS})
    print_meanings(
        "activations",
        {_signature(ACTIVATIONS, name): ACTIVATIONS[name].meaning for name in ACTIVATIONS},
    )
    print_meanings(
        "networks", {_signature(NETWORKS, name): NETWORKS[name].meaning for name in NETWORKS}
    )
    print_meanings("statistics", {name: entry.meaning for name, entry in STATISTICS.items()})


def _signature(registry: Any, name: str) -> str:
    """A name with its parameters and their defaults."""
    parameters = registry.family(name).defaults
    inside = ",".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in parameters.items()
    )
    return f"{name}({inside})" if inside else name
