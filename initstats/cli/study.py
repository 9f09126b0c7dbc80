"""Studies: measure a grid, and draw what came of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from initstats.cli.app import Dask, Interruption, Plugins, Workers, say
from initstats.cli.cluster import cluster
from initstats.cli.command import Pages, Report, command
from initstats.cli.console import Bar
from initstats.cli.data import Size, given_data
from initstats.cli.options import GRID, load_own, takes
from initstats.cli.output import output
from initstats.failure import in_a_line
from initstats.plural import counted
from initstats.stopping import request

if TYPE_CHECKING:
    import pandas as pd

    from initstats.report.page import Files
    from initstats.sweep import FailedCellsError


Theory = Annotated[
    bool | None,
    typer.Option(
        "--theory/--no-theory",
        help="Predict the same rows, and draw them too (some seconds). \\[default: theory]",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="mnist|FOLDER",
        help="mnist; a folder of IDX files; or one of images, train/CLASS/*.jpg and val/CLASS/.",
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="The run's folder; an unfinished run there goes on. \\[default: reports/DATA]"
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="A TOML file, such as a run's grid.toml: the options above --theory, data, size "
        "and plugins as keys. Options win."
    ),
]
Planned = Annotated[
    bool,
    typer.Option("--plan", help="Tell what it takes (time, disk, memory), and do nothing."),
]
Trusted = Annotated[
    bool, typer.Option("--trust-plugins", help="Import the plugins that the config names, too.")
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of a training study: the activation or init that the others are compared with. "
        "\\[default: relu, or the first]",
    ),
]


@command("Measure", page=True)
@takes(GRID)
def sweep(
    given: dict[str, Any],
    theory: Theory = None,
    data: Data = None,
    size: Size = None,
    out: Folder = None,
    config: Config = None,
    workers: Workers = None,
    plan: Planned = False,
    dask: Dask = None,
    plugin: Plugins = None,
    trust: Trusted = False,
    report: Report = True,
    *,
    pages: Pages,
) -> None:
    """Measure every init with every activation, and write the report.

    Without options: the default study of MNIST, into reports/mnist.
    The same command again computes only what is missing; longer lists extend it.
    A parameter takes a range: "general_relu(leak=0:0.4:5)" is five activations,
    "mean_field(sigma_w=0.5:4:8log)" eight inits with equal factors between them.

    JSON: folder, page, cells, new, failed, seconds, verdicts (how many of each), and summary, a row
    for each configuration.
    """
    began = time.perf_counter()
    from initstats.sweep.plugins import absolute_plugin, load_config

    pages.check(report, "leave out --no-report")
    load_own(plugin)
    fields = load_config(config, trusted=trust or plugin or ()) if config else {}
    if "networks" in given:
        fields.pop("network", None)
    plugins = map(absolute_plugin, [*fields.get("plugins", ()), *(plugin or ())])
    fields |= (
        given | {"plugins": [*dict.fromkeys(plugins)]} | ({} if data is None else {"data": data})
    )
    request.listen_again()  # the config may have brought plugins, too
    if plan:
        _plan(fields, size, out, workers, theory is not False)
        return
    from initstats.prediction import FailedPredictionError

    try:
        files = pages.files("report", workers) if report else None
        folder, failed, found = _sweep(fields, size, out, theory, dask, workers, files)
    except FailedPredictionError as error:
        say(f"initstats: {error}", error.failure.traceback)
        raise typer.Exit(1) from error
    page = written(folder, files) if files and (failed is None or len(failed.table)) else None
    seconds = time.perf_counter() - began
    output.tell(f"{seconds:.1f} s in all")
    output.result(folder=folder, page=page, seconds=seconds, **found)
    if failed:
        say(f"initstats: {failed}", "".join(failed.failures.drop_duplicates("error")["traceback"]))
        raise typer.Exit(1)


@command("Measure", page=True)
def report(
    run: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN [RUN]",
            help="The folder of a run, finished or not; two are compared (also pages of models).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the page goes. \\[default: the run's folder; of two, reports/A-and-B]"
        ),
    ] = None,
    baseline: Baseline = None,
    workers: Workers = None,
    plugin: Plugins = None,
    *,
    pages: Pages,
) -> None:
    """Draw the report of a run again, or that of two side by side: index.html first.

    JSON: page, figures (the paths of their files beside it), and seconds.
    """
    began = time.perf_counter()
    load_own(plugin)
    asked: Any = run[0] if len(run) == 1 else run
    folder = out if len(run) == 1 else out or compared_folder(run)
    page = written(asked, pages.files("report", workers), folder, baseline)
    seconds = time.perf_counter() - began
    figures = sorted(str(path) for path in page.parent.glob("figures/*.*"))
    output.result(page=page, figures=figures, seconds=seconds)


def compared_folder(runs: list[Path]) -> Path:
    """Where the comparison of two runs goes, unless somebody says."""
    return Path("reports") / "-and-".join(run.resolve().name for run in runs[:2])


def written(
    run: Path | list[Path], files: Files, out: Path | None = None, baseline: str | None = None
) -> Path:
    """The page of a run, by default in its folder, or of two."""
    from initstats.report import write_report

    wanted: Any = {"workers": files.workers, "figures": files.figures, "ready": files.ready}
    return write_report(run, out, baseline=baseline, **wanted)


def _plan(
    fields: dict[str, Any],
    size: int | None,
    out: Path | None,
    workers: int | None,
    theory: bool,
) -> None:
    """Print what the grid that the fields describe will take."""
    from initstats.plan import plan_sweep
    from initstats.sweep import Grid

    source, kept, _ = fields.pop("data", "mnist"), fields.pop("size", None), fields.pop("plugins")
    data = given_data(source, size, kept=kept, workers=workers)
    folder = out or Path("reports") / data.name
    grid = Grid(**_with_gradients(fields, folder))
    planned = str(plan_sweep(grid, data, out=folder, workers=workers, theory=theory))
    output.tell(planned)
    output.result(folder=folder, plan=planned)


def _sweep(
    fields: dict[str, Any],
    size: int | None,
    out: Path | None,
    theory: bool | None,
    dask: str | None,
    workers: int | None,
    files: Files | None,
) -> tuple[Path, FailedCellsError | None, dict[str, Any]]:
    """Run the grid that the fields describe into its folder, and say what came of it."""
    from initstats.data import dataset_name
    from initstats.prediction import predict_run
    from initstats.report.page import claim_page
    from initstats.store import load_predictions
    from initstats.sweep import FailedCellsError as Failed
    from initstats.sweep import Grid, run_sweep
    from initstats.sweep.running import chosen_samples

    source, plugins = fields.pop("data", "mnist"), fields.pop("plugins")
    folder, failed = out or Path("reports") / dataset_name(source), None
    kept, grid = fields.pop("size", None), Grid(**_with_gradients(fields, folder))
    if files:
        claim_page("study", folder, files, make=False)  # before the work, not after it
    data = given_data(source, size, kept=kept, folder=folder, workers=workers)
    output.tell(
        f"{data.name}: {counted(len(chosen_samples(grid, data)), 'image')} of the "
        f"{grid.split} split, normalized with the training mean {data.mean:.4f} and "
        f"std {data.std:.4f}"
    )
    options: dict[str, Any] = {"source": source, "plugins": plugins}
    with cluster(dask, workers) as hands:
        with Bar("cells") as bar:
            try:
                table = run_sweep(
                    grid, data, out=folder, workers=hands, progress=bar.show, **options
                )
            except Failed as error:
                failed, table = error, error.table
            except KeyboardInterrupt as error:
                bar.stop()
                raise Interruption(
                    f"{request.words}: {bar.done:,} of "
                    f"{counted(bar.total, 'cell is', 'cells are')} kept in {folder}; "
                    "the same command goes on from there"
                ) from error
        found = _tell(table, bar, folder) | {"failed": len(failed.failures) if failed else 0}
        told = failed is None if theory is None else theory
        if len(table) and (told or load_predictions(folder) is not None):
            try:
                with Bar("predictions") as bar:
                    predict_run(folder, data, workers=hands, progress=bar.show)
            except BaseException as error:
                # nobody asked for it: what an activation of the user's raises here is no fault
                if theory or isinstance(error, KeyboardInterrupt):
                    raise
                say(f"initstats: no theory: {in_a_line(error)} (--no-theory leaves it out)")
    return folder, failed, found


def _with_gradients(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of a grid, which measures gradients unless it is told not to.

    A run that is there goes on with what it measures.
    """
    if "backward" in fields:
        return fields
    from initstats.store import StoreError, load_run

    try:
        there = load_run(folder).settings.get("backward", True)
    except (StoreError, OSError):
        there = True
    return fields | {"backward": there}


def _tell(table: pd.DataFrame, bar: Bar, folder: Path) -> dict[str, Any]:
    """Print how many cells there are, and what becomes of the signal; the same for programs."""
    from initstats.diagnosis import summarize

    summary = summarize(table) if len(table) else table
    verdicts = dict(summary["verdict"].value_counts()) if len(table) else {}
    output.tell(
        f"{counted(bar.done, 'cell')} ({bar.done - bar.first:,} new) in {folder}; "
        f"of {counted(sum(verdicts.values()), 'configuration')}"
    )
    for verdict, count in verdicts.items():
        if count:
            output.tell(f"  {count:>4}  {verdict}")
    known = {"cells": bar.done, "new": bar.done - bar.first}
    return known | {"verdicts": verdicts, "summary": summary}
