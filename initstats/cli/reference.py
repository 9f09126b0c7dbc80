"""What there is, what is known of it, and what theory says should happen."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from initstats.cli.app import Plugins
from initstats.cli.command import Pages, command
from initstats.cli.completion import activations as known
from initstats.cli.completion import listed
from initstats.cli.console import Bar, print_table
from initstats.cli.options import load_own, named_function
from initstats.cli.output import output
from initstats.registry import Catalog, unknown
from initstats.registry.spelling import spelled

T = TypeVar("T")


@command("Look up")
def gain(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAMES...",
            autocompletion=listed(known),
            help="Activations, or module:function of your own.",
        ),
    ],
    table: Annotated[
        bool, typer.Option("--table", help="One row each instead of a paragraph each.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Compute the weight gains of activations, and compare them with torch's calculate_gain.

    JSON: activations, each with its gains, and torch's gain and which of ours that is.
    """
    from initstats import activations

    load_own(plugin)
    entries = [activations.get(named_function(name) if ":" in name else name) for name in names]
    compared = [(entry, activations.torch_gain(entry)) for entry in entries]
    gains = ("forward", "variance", "backward", "chi_1", "chi_q")
    columns = ("activation", *gains, "torch", "which is")
    rows = [
        [entry.name, *(getattr(entry.gain, column) for column in gains)]
        + ([torchs.number, torchs.verdict] if torchs else [math.nan, "torch has none"])
        for entry, torchs in compared
    ]
    fields = (*columns[:-1], "which")
    output.result(activations=[dict(zip(fields, row, strict=True)) for row in rows])
    if table:
        print_table(columns, rows, digits=6)
        return
    for entry, torchs in compared:
        output.tell(f"{entry.name}: {entry.gain.advice}")
        if torchs:
            output.tell(f"  torch's calculate_gain says {torchs.number:.5g}: {torchs.verdict}")


@command("Look up", "list")
def list_(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KINDS]...",
            help="Of these alone: inits, schemes, activations, networks, network_parameters, "
            "recipes, statistics, columns, rules, audit_rules, figures.",
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Say what there is, a line each: inits, activations, networks, statistics, rules, figures.

    Names are those of the table; parameters are shown with their defaults. Behind the inits stand
    schemes: published initializations of whole models, for `audit --expected`; behind the networks
    the meaning of their parameters, and recipes: networks and inits that belong together; behind
    the statistics the columns that only some networks have; behind the rules those of audits.
    Where the output is no terminal, a line is an entry, with tabs between its columns.

    JSON: inits, schemes, activations, networks, network_parameters, recipes, statistics, columns,
    rules, audit_rules and figures, or the kinds that are named: name, parameters, meaning.
    """
    load_own(plugin)
    found: dict[str, list[dict[str, Any]]] = {}
    for catalog in _catalogs():
        found[f"{catalog.noun}s"] = _entries(catalog)
        found |= _behind(catalog.noun, found[f"{catalog.noun}s"])
    if kinds:
        found = _chosen(found, kinds)
    output.result(**{noun.replace(" ", "_"): entries for noun, entries in found.items()})
    if not sys.stdout.isatty():
        lines = [
            [noun, each["name"], _parameters(each["parameters"]), each["meaning"]]
            for noun, entries in found.items()
            for each in entries
        ]
        print_table(("kind", "name", "parameters", "meaning"), lines)
        return
    for noun, entries in found.items():
        columns = {
            "name": [each["name"] for each in entries],
            # a line breaks at spaces, which a name may have
            "parameters": [_parameters(each["parameters"], ", ") for each in entries],
            "meaning": [each["meaning"] for each in entries],
        }
        shown = {name: cells for name, cells in columns.items() if any(cells)}
        print_table(shown, zip(*shown.values(), strict=True), title=noun)


@command("Look up", page=True)
def theory(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAMES...", autocompletion=listed(known), help="Activations."),
    ],
    sigma_b2: Annotated[
        float, typer.Option("--sigma-b2", help="Variance of the biases, for the maps.")
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("reports/theory"),
    plugin: Plugins = None,
    *,
    pages: Pages,
) -> None:
    """Draw the phase diagrams of activations: order, chaos, and where each init lies.

    JSON: page, and activations: name, words, and inits, a row each.
    """
    from initstats import activations
    from initstats.report.page import claim_page
    from initstats.report.theory import write_theory
    from initstats.theory.diagram import diagram

    load_own(plugin)
    entries = list(dict.fromkeys(map(activations.get, names)))
    files = pages.files()
    claim_page("theory", out, files)  # before the work, not after it
    diagrams = []
    with Bar("activations") as bar:
        for done, entry in enumerate(entries):
            bar.show(done, len(entries))
            diagrams.append(diagram(entry, sigma_b2))
    for each in diagrams:
        output.tell(each.words)
    page = write_theory(out, diagrams, files)
    found = [{"name": each.name, "words": each.words, "inits": each.inits} for each in diagrams]
    output.result(page=page, activations=found)


def _chosen(found: Mapping[str, T], kinds: Iterable[str]) -> dict[str, T]:
    """Some kinds of what there is, in their usual order."""
    known = {noun.replace(" ", "_"): noun for noun in found}
    asked = [name.replace(" ", "_") for name in kinds]
    for name in asked:
        if name not in known:
            raise unknown("kind", name, known)
    return {known[name]: found[known[name]] for name in known if name in asked}


def _entries(catalog: Catalog[Any]) -> list[dict[str, Any]]:
    """The families of a catalogue, for programs."""
    families = map(catalog.family, catalog)
    return [
        {"name": each.name, "parameters": dict(each.defaults), "meaning": each.meaning}
        for each in families
    ]


def _behind(noun: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What is told behind a catalogue: entries by heading."""
    if noun == "init":
        from initstats.schemes.initializing import MATCHED
        from initstats.schemes.published import SCHEMES

        told = {name: str(each.__doc__).partition("\n")[0] for name, each in SCHEMES.items()}
        told[MATCHED] = "Each weight with the gain of the activation that its layer reads."
        return {"schemes": _meant(told.items())}
    if noun == "network":
        from initstats.cli.meanings import parameter_meanings
        from initstats.recipes import RECIPES

        names = dict.fromkeys(name for each in entries for name in each["parameters"])
        return {
            "network parameters": _meant(parameter_meanings(names)),
            "recipes": [
                {
                    "name": name,
                    "parameters": {each: getattr(recipe, each) for each in _PARTS},
                    "meaning": recipe.meaning,
                }
                for name, recipe in RECIPES.items()
            ],
        }
    if noun == "rule":
        from initstats.audits.rules import RULES

        told = {rule.__name__: str(rule.__doc__).partition("\n")[0] for rule in RULES}
        return {"audit rules": _meant((name, f"holds where {text}") for name, text in told.items())}
    if noun == "statistic":
        from initstats.moments.notes import NOTES

        return {"columns": _meant(NOTES.items())}
    return {}


_PARTS = ("network", "init", "activation")
"""Of a recipe."""


def _meant(pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"name": name, "parameters": {}, "meaning": meaning} for name, meaning in pairs]


def _catalogs() -> list[Catalog[Any]]:
    """All of them; other libraries take their time to load."""
    from initstats.activations import ACTIVATIONS
    from initstats.diagnosis import RULES
    from initstats.inits import INITS
    from initstats.moments import STATISTICS
    from initstats.networks import NETWORKS
    from initstats.plots import FIGURES

    return [INITS, ACTIVATIONS, NETWORKS, STATISTICS, RULES, FIGURES]


def _parameters(defaults: Mapping[str, Any], between: str = ",") -> str:
    """Parameters and their defaults, as they are spelled after a name."""
    return between.join(f"{name}={spelled(value)}" for name, value in defaults.items())
