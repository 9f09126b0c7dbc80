"""How fast everything is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from initstats.cli.app import app
from initstats.cli.console import Bar
from initstats.cli.options import listed


@app.command(rich_help_panel="Time")
def bench(
    workloads: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Of S10, S (width 50, depth 10, 50), M, M512 (256, 512; depth 20), C (conv net).",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Paired, interleaved rounds.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes: small sizes, two rounds.")
    ] = False,
    lesson: Annotated[
        bool, typer.Option("--foundations", help="Time the lesson's implementations instead.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the ratios (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """Time the engine against the plain forward, against hooks and against its own limit.

    Ratios of paired runs come first, with the goals they are held against; milliseconds second.
    """
    for file in (json, plot):
        if file and not file.parent.is_dir():
            raise ValueError(f"cannot write {file}: there is no folder {file.parent}")
    results = (
        _time_lesson(quick) if lesson else _time_engine(listed(workloads), rounds, quick, plot)
    )
    if json:
        from initstats.bench import as_json

        json.write_text(as_json(**results), encoding="utf-8")


def _time_engine(workloads: Any, rounds: int, quick: bool, plot: Path | None) -> dict[str, Any]:
    """Print what the benchmark finds; all of it as tables."""
    import torch

    from initstats import bench

    machine = bench.machine()
    with Bar("timings") as bar:
        timings = bench.run(
            workloads or tuple(bench.WORKLOADS), rounds=rounds, quick=quick, progress=bar.show
        )
    ratios = bench.ratios(timings)
    typer.echo(", ".join(f"{key} {value}" for key, value in machine.items()))
    typer.echo(bench.table(timings).to_string())
    if plot:
        from initstats.plots import figure

        figure("timings", ratios, width=9.0).savefig(plot)
    with Bar("studies") as bar:
        efficiency = bench.efficiency(quick=quick, progress=bar.show)
    speedup = efficiency["speedup"]
    typer.echo(
        f"\ntwo workers: {speedup.median():.2f} times one "
        f"({speedup.min():.2f} to {speedup.max():.2f}; goal 1.8)"
    )
    results = {"efficiency": efficiency}
    if torch.cuda.is_available():
        with Bar("studies") as bar:
            results["gpu"] = bench.gpu(quick=quick, progress=bar.show)
        speedup = results["gpu"]["speedup"]
        typer.echo(
            f"{torch.cuda.get_device_name()}: {speedup.median():.1f} times one worker "
            f"({speedup.min():.1f} to {speedup.max():.1f})"
        )
    memory = bench.memory((1_000, 10_000) if quick else (1_000, 10_000, 50_000))
    typer.echo("peak memory above the process with its data (goal 60 MB):")
    for row in memory.itertuples():
        typer.echo(f"  {row.samples:>6,} samples  {row.megabytes:5.0f} MB")
    return {"machine": machine, "timings": timings, "ratios": ratios, **results, "memory": memory}


def _time_lesson(quick: bool) -> dict[str, Any]:
    from initstats import bench
    from initstats.foundations import timings

    table = timings(5_000, 2) if quick else timings()
    typer.echo(table.to_string(index=False, float_format="{:.3g}".format))
    return {"machine": bench.machine(), "timings": table}
