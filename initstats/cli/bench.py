"""How fast everything is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from initstats.cli.command import Pages, command
from initstats.cli.console import Bar
from initstats.cli.options import names
from initstats.cli.output import output


@command("Time", page=True, file=True)
def bench(
    workloads: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Of S10, S (width 50, depth 10, 50), M, M512 (256, 512; depth 20), C (conv net).",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Paired, interleaved rounds; five take half an hour.")
    ] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, two rounds: about a minute.")
    ] = False,
    lesson: Annotated[
        bool, typer.Option("--foundations", help="Time the lesson's implementations instead.")
    ] = False,
    earlier: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Time nothing: take what --json wrote."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a page into this folder.", show_default=False)
    ] = None,
    *,
    json: str | None,
    pages: Pages,
) -> None:
    """Time the engine against the plain forward, against hooks and against its own limit.

    Ratios of paired runs come first, with the goals they are held against; milliseconds second.
    """
    from initstats import bench
    from initstats.drafts import write_whole
    from initstats.files import read_text
    from initstats.report.page import claim_page

    file = Path(json) if json and json != "-" else None
    if file and not file.parent.is_dir():
        raise ValueError(f"cannot write {file}: there is no folder {file.parent}")
    if out and lesson:
        raise ValueError("--out is for the engine: initstats foundations writes the lesson's page")
    pages.check(bool(out), "say where with --out")
    if out:
        claim_page("bench", out, pages.files())  # before the minutes of work, not after them
    if earlier:
        results = bench.from_json(read_text(earlier))
    elif lesson:
        results = _time_lesson(quick)
    else:
        results = _time_engine(names(workloads) if workloads else None, rounds, quick)
    if file:
        write_whole(file, bench.as_json(results))
    page = bench.write_benchmark(out, results, pages.files()) if out else None
    output.result(page=page, **results)


def _time_engine(workloads: list[str] | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Print what the benchmark finds; all of it as tables."""
    import torch

    from initstats import bench

    results: dict[str, Any] = {"machine": _machine()}
    with Bar("timings") as bar:
        timings = bench.run(
            tuple(bench.WORKLOADS) if workloads is None else workloads,
            rounds=rounds,
            quick=quick,
            progress=bar.show,
        )
    results |= {"timings": timings, "ratios": bench.ratios(timings)}
    output.tell(bench.table(timings).to_string())
    output.tell(bench.milliseconds(timings).map("{:.0f} ms".format).to_string())
    with Bar("studies") as bar:
        results["efficiency"] = bench.efficiency(quick=quick, progress=bar.show)
    with Bar("trainings") as bar:
        results["training"] = bench.training(quick=quick, rounds=rounds, progress=bar.show)
    with Bar("architectures") as bar:
        results["architectures"] = bench.architectures(
            quick=quick, rounds=rounds, progress=bar.show
        )
    with Bar("studies") as bar:
        results["training_workers"] = bench.training_workers(quick=quick, progress=bar.show)
    if torch.cuda.is_available():
        with Bar("studies") as bar:
            results["gpu"] = bench.gpu(quick=quick, progress=bar.show)
    results["driver"] = bench.driver(quick=quick)
    results["memory"] = bench.memory((1_000, 10_000) if quick else (1_000, 10_000, 50_000))
    results["study"] = bench.study(quick=quick)
    for term, fact in bench.whole_runs(results).items():
        output.tell(f"{term}: {fact}")
    return results


def _time_lesson(quick: bool) -> dict[str, Any]:
    from initstats.foundations import timings

    machine = _machine()
    table = timings(5_000, 2) if quick else timings()
    output.tell(table.to_string(index=False, float_format="{:.3g}".format))
    return {"machine": machine, "timings": table}


def _machine() -> dict[str, Any]:
    """The machine, and how busy it is; printed."""
    import torch

    from initstats.machine import machine

    vectors = torch.backends.cpu.get_cpu_capability()
    found = {**machine(), "vectors": vectors, "load": round(os.getloadavg()[0], 2)}
    output.tell(", ".join(f"{key} {value}" for key, value in found.items()))
    return found
