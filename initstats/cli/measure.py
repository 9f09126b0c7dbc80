"""Studies: measure a grid, and draw what came of it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from initstats.cli.app import Plugins, Workers, app
from initstats.cli.console import Bar
from initstats.cli.options import listed


@app.command(rich_help_panel="Measure")
def sweep(
    inits: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES", help="Initializations: comma-separated, or repeat the option."
        ),
    ] = None,
    activations: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES", help='Activations, e.g. "relu,general_relu(leak=0.2,sub=0.3)".'
        ),
    ] = None,
    network: Annotated[str | None, typer.Option(help="mlp or cnn.")] = None,
    widths: Annotated[
        list[str] | None, typer.Option(metavar="NUMBERS", help="Units of a layer, e.g. 50,200.")
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Layers.")] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(metavar="NUMBERS", help="How many seeds, or which: 10 means 0 to 9; 3,5,8."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, valid or test.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="How many of the split's first samples. \\[default: all]")
    ] = None,
    backward: Annotated[
        bool | None, typer.Option("--backward/--no-backward", help="Measure gradients too.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float64 or bfloat16: of weights and tensors.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:NUMBER.")] = None,
    theory: Annotated[
        bool,
        typer.Option("--theory", help="Predict the same rows, and draw them too (some seconds)."),
    ] = False,
    data: Annotated[
        str | None, typer.Option(metavar="mnist|FOLDER", help="mnist, or a folder of IDX files.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder; an unfinished run there goes on. \\[default: reports/DATA]"
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with these options as keys; options win.")
    ] = None,
    workers: Workers = None,
    plugin: Plugins = None,
) -> None:
    """Measure every init with every activation, and write the report.

    Without options: the default study of MNIST, into reports/mnist. The same command again
    computes only what is missing; longer lists extend the run.
    """
    began = time.perf_counter()
    given = {
        "inits": listed(inits),
        "activations": listed(activations),
        "network": network,
        "widths": listed(widths, "widths"),
        "depth": depth,
        "seeds": listed(seeds, "seeds"),
        "split": split,
        "samples": samples,
        "backward": backward,
        "dtype": dtype,
        "device": device,
        "data": data,
        "plugins": plugin,
    }
    from initstats.sweep import read_config

    fields = read_config(config) if config else {}
    fields |= {name: value for name, value in given.items() if value is not None}
    workers = (os.cpu_count() or 1) if workers is None else workers
    folder = _sweep(fields, out, workers, theory)
    typer.echo(f"report: {_report(folder, folder, workers)}")
    typer.echo(f"{time.perf_counter() - began:.1f} s in all")


@app.command(rich_help_panel="Measure")
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes. \\[default: the run's folder]")
    ] = None,
    workers: Workers = None,
) -> None:
    """Draw the report of a run again: index.html, figures and tables."""
    typer.echo(f"report: {_report(run, out or run, workers or os.cpu_count() or 1)}")


def _sweep(fields: dict[str, Any], out: Path | None, workers: int, theory: bool) -> Path:
    """Run the grid that the fields describe into its folder, and say what came of it."""
    from initstats.data import load_data
    from initstats.diagnosis import summarize
    from initstats.sweep import Grid, load_plugins, run_sweep

    source, plugins = fields.pop("data", "mnist"), fields.pop("plugins", [])
    load_plugins(plugins)
    grid = Grid(**fields)
    data = load_data(source)
    folder = out or Path("reports") / data.name
    typer.echo(
        f"{data.name}: {grid.samples or len(getattr(data, grid.split)):,} images of the "
        f"{grid.split} split, normalized with the training mean {data.mean:.4f} and "
        f"std {data.std:.4f}"
    )
    with Bar("cells") as bar:
        try:
            table = run_sweep(
                grid,
                data,
                out=folder,
                workers=workers,
                progress=bar.show,
                source=source,
                plugins=plugins,
            )
        except KeyboardInterrupt:
            bar.stop()
            typer.echo(
                f"interrupted: {bar.done:,} of {bar.total:,} cells are kept in {folder}; "
                "the same command goes on from there",
                err=True,
            )
            sys.exit(130)
    verdicts = summarize(table)["verdict"].value_counts()
    typer.echo(
        f"{bar.total:,} cells ({bar.total - bar.first:,} new) in {folder}; "
        f"of {verdicts.sum()} configurations"
    )
    for verdict, count in verdicts[verdicts > 0].items():
        typer.echo(f"  {count:>4}  {verdict}")
    _compare(grid, data, folder, predicting=theory)
    return folder


def _compare(grid: Any, data: Any, folder: Path, *, predicting: bool) -> None:
    """Keep z-scores of a run in its folder, and predictions that it lacks."""
    from initstats.store import load_predictions, load_table, save_predictions

    known = load_predictions(folder)
    if known is None and not predicting:
        return
    import pandas as pd

    from initstats.prediction import KEYS, compare_with_theory, predict

    parts = [] if known is None else [known.drop(columns=["z", "seeds"])]
    there = {tuple(key) for part in parts for key in part[["init", "activation", "width"]].values}
    lacking = tuple(
        activation
        for activation in grid.activations
        if not {(init.name, activation.name, width) for init in grid.inits for width in grid.widths}
        <= there
    )
    if predicting and lacking:
        with Bar("predictions") as bar:
            alone = grid.model_copy(update={"activations": lacking})
            parts.append(predict(alone, data, progress=bar.show))
    names = {name: "int64" if name in ("width", "layer") else "str" for name in KEYS}
    predicted = pd.concat([part.astype(names) for part in parts]).drop_duplicates(KEYS)
    scored = compare_with_theory(load_table(folder), predicted)
    scored = scored.query("statistic == 'second_moment'")
    scores = scored[[*KEYS, "z", "seeds"]]
    save_predictions(folder, predicted.merge(scores, on=KEYS, how="left"))


def _report(run: Path, folder: Path, workers: int) -> Path:
    from initstats.report import write_report

    return write_report(run, folder, workers=workers)
