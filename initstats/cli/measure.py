"""A check-up of the user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from initstats.cli.app import Plugins, app
from initstats.cli.options import named_function, numbers

SAMPLES = 256
TOKENS = 100


@app.command(rich_help_panel="Measure")
def measure(
    factory: Annotated[
        str,
        typer.Argument(metavar="MODULE:FACTORY", help="What makes the model; file.py:name works."),
    ],
    shape: Annotated[
        str | None, typer.Option("--input", metavar="SIZES", help="Unit-normal input: 8,3,224,224.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="mnist|FOLDER",
            help="Its first 256 validation images, (256, 1, 28, 28) of MNIST.",
        ),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="SIZES", help="Token ids below 100: 2,128.")
    ] = None,
    backward: Annotated[
        bool, typer.Option("--backward", help="Gradients of a unit-normal cotangent, too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write a page into this folder.", show_default=False)
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Measure every operation of a model of your own, and say what is wrong with it."""
    from torch import nn

    from initstats.diagnosis import diagnose
    from initstats.probe import Probe
    from initstats.sweep import load_plugins

    load_plugins(plugin or ())
    inputs = _inputs(shape, data, tokens)
    model = named_function(factory)()
    if not isinstance(model, nn.Module):
        raise ValueError(f"{factory} returns {type(model).__name__}, no torch.nn.Module")
    try:
        probe = Probe(model, backward=backward).run(inputs)
    except RuntimeError as error:
        place = "".join(f" ({note.split(';')[0]})" for note in getattr(error, "__notes__", []))
        sizes = tuple(inputs.shape)
        raise ValueError(
            f"the model cannot take this input of shape {sizes}: {error}{place}"
        ) from error
    table = probe.table()
    typer.echo(str(probe))
    for finding in diagnose(table).itertuples():
        if finding.severity not in ("healthy", "unchecked"):
            typer.echo(f"{finding.severity}: {finding.rule} at {finding.where}: {finding.evidence}")
            typer.echo(f"  remedy: {finding.remedy}")
    if out:
        from initstats.report.model import write_model_report

        page = write_model_report(
            out, table, probe.histograms(), probe.missed(), coverage=probe.coverage
        )
        typer.echo(f"page: {page}")


def _inputs(shape: str | None, data: str | None, tokens: str | None) -> Any:
    """What goes into the model, the same at every call."""
    import torch

    if sum(choice is not None for choice in (shape, data, tokens)) != 1:
        raise ValueError("say what goes into the model: one of --input, --data and --tokens")
    if data is not None:
        from initstats.data import load_data

        split = load_data(data).valid
        some = split.first(min(SAMPLES, len(split)))
        return some.x.view(len(some), *some.shape)
    sizes = numbers("--input" if shape else "--tokens", [shape or tokens or ""])
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{shape or tokens!r} is no shape: give sizes of at least 1, as in 8,784")
    generator = torch.Generator().manual_seed(0)
    if tokens is not None:
        return torch.randint(TOKENS, sizes, generator=generator)
    return torch.randn(sizes, generator=generator)
