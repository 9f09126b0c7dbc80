"""Training studies: does a variant train better?"""

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
from initstats.cli.options import TRAINING, load_own, takes
from initstats.cli.output import output
from initstats.cli.study import Baseline, Data, Trusted, written
from initstats.plural import counted
from initstats.stopping import request

if TYPE_CHECKING:
    import pandas as pd

    from initstats.report.page import Files
    from initstats.sweep import FailedCellsError

Folder = Annotated[
    Path | None,
    typer.Option(
        help="The study's folder; an unfinished one goes on. \\[default: reports/training/DATA]"
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="A TOML file, such as a study's train.toml: the options above --quick, data, size "
        "and plugins as keys. Options win."
    ),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="One init (kaiming_normal), 12 seeds, 20,000 images."),
]


@command("Measure", page=True)
@takes(TRAINING)
def train(
    given: dict[str, Any],
    quick: Quick = False,
    data: Data = None,
    size: Size = None,
    out: Folder = None,
    baseline: Baseline = None,
    config: Config = None,
    workers: Workers = None,
    dask: Dask = None,
    plugin: Plugins = None,
    trust: Trusted = False,
    report: Report = True,
    *,
    pages: Pages,
) -> None:
    """Train activations and inits on paired seeds, and report which trains better.

    Without options: four ReLU variants under two inits in the lesson's conv net, on MNIST, into
    reports/training/mnist. Each variant gets a learning rate of its own, chosen by one rule.
    The same command again trains only what is missing; more seeds or variants extend it.

    JSON: folder, page, failed, seconds, variants (a row each) and comparisons (with the baseline).
    """
    began = time.perf_counter()
    pages.check(report, "leave out --no-report")
    load_own(plugin)
    fields = _fields(config, plugin, trust) | given
    if quick:
        from initstats.training import QUICK

        fields = QUICK | fields
    request.listen_again()  # the config may have brought plugins, too
    source = data or fields.pop("data", "mnist")
    fields.pop("data", None)
    baseline = baseline and _spelled(baseline)
    files = pages.files("report", workers) if report else None
    folder, table, failed = _train(fields, source, size, out, baseline, dask, workers, files)
    there = len(table) > 0
    page = written(folder, files, baseline=baseline) if files and there else None
    seconds = time.perf_counter() - began
    output.tell(f"{seconds:.1f} s in all")
    if output.json:
        lost = len(failed.failures) if failed else 0
        known = _found(table, baseline) if there else {}
        output.result(folder=folder, page=page, failed=lost, seconds=seconds, **known)
    if failed:
        say(f"initstats: {failed}", "".join(failed.failures.drop_duplicates("error")["traceback"]))
        raise typer.Exit(1)


def _fields(config: Path | None, plugin: list[str] | None, trust: bool) -> dict[str, Any]:
    """The fields of a configuration, and the plugins of all."""
    from initstats.sweep.plugins import absolute_plugin
    from initstats.training.grid import load_training_config

    fields = load_training_config(config, trusted=trust or plugin or ()) if config else {}
    plugins = map(absolute_plugin, [*fields.get("plugins", ()), *(plugin or ())])
    return fields | {"plugins": [*dict.fromkeys(plugins)]}


def _spelled(baseline: str) -> str:
    """A baseline as tables spell it."""
    from initstats.activations import ACTIVATIONS
    from initstats.inits import INITS

    for catalog in (ACTIVATIONS, INITS):
        if baseline.partition("(")[0].strip() in catalog:
            return catalog.spell(*catalog.parse(baseline))
    return baseline


def _train(
    fields: dict[str, Any],
    source: str,
    size: int | None,
    out: Path | None,
    baseline: str | None,
    dask: str | None,
    workers: int | None,
    files: Files | None,
) -> tuple[Path, pd.DataFrame, FailedCellsError | None]:
    """Run the study that the fields describe into its folder, and say what came of it."""
    from initstats.data import dataset_name
    from initstats.plots.trained import check_baseline
    from initstats.report.page import claim_page
    from initstats.store import committed_cells
    from initstats.sweep import FailedCellsError as Failed
    from initstats.training import TrainingGrid, compare_training

    kept, plugins = fields.pop("size", None), fields.pop("plugins")
    grid = TrainingGrid(**fields)
    if baseline is not None:
        check_baseline(baseline, grid.config["activations"], grid.config["inits"])
    folder, failed = out or Path("reports/training") / dataset_name(source), None
    if files:
        claim_page("training", folder, files, make=False)  # before the work, not after it
    images = given_data(source, size, kept=kept, folder=folder, workers=workers)
    output.tell(
        f"{images.name}: {counted(grid.images or len(images.train), 'image')} to train on, "
        f"{len(images.valid):,} to validate with; {counted(len(grid), 'run')}"
    )
    with cluster(dask, workers) as hands, _Bars() as bars:
        try:
            table = compare_training(
                grid,
                images,
                out=folder,
                workers=hands,
                progress=bars.show,
                source=source,
                plugins=plugins,
            )
        except Failed as error:
            failed, table = error, error.table
        except KeyboardInterrupt as error:
            bars.close()
            raise Interruption(
                f"{request.words}: {bars.words} kept in {folder}; the same command goes on there"
            ) from error
    output.tell(f"{bars.words} in {folder}")
    if len(table) and failed is None:
        if grid.lr is not None:
            output.tell("at one learning rate for all: another may rank them otherwise")
        _tell(table, baseline)
    if files and (kept := len(committed_cells(folder)[1])) > len(table) / grid.epochs:
        output.tell(f"the report is about all {counted(kept, 'run')} that {folder} keeps")
    return folder, table, failed


class _Bars:
    """A progress bar for each kind of run, one after the other."""

    def __init__(self) -> None:
        self.what, self._bar = "", Bar("")

    @property
    def words(self) -> str:
        """How many runs of the present kind are done."""
        if not self.what:
            return "no run is"
        done = f"{self._bar.done:,} of {counted(self._bar.total, self.what.removesuffix('s'))}"
        return f"{done} ({self._bar.done - self._bar.first:,} new)"

    def show(self, what: str, done: int, total: int) -> None:
        """Show how many are done, and of how many."""
        if what != self.what:
            self.close()
            self.what, self._bar = what, Bar(what).__enter__()
        self._bar.show(done, total)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _found(table: pd.DataFrame, baseline: str | None) -> dict[str, Any]:
    """What the comparison of these runs found, for programs."""
    from initstats.plots import Trained
    from initstats.report.training import comparisons, variants

    trained = Trained(table, baseline=baseline)
    return {"variants": variants(trained), "comparisons": comparisons(trained)}


def _tell(table: pd.DataFrame, baseline: str | None) -> None:
    """Print what the comparison of these runs found."""
    from initstats.plots import Trained

    trained = Trained(table, baseline=baseline)
    if trained.comparisons is None:
        return
    kind = trained.panel_kind
    for name, rows in trained.comparisons.groupby(kind, observed=True, sort=False):
        output.tell(f"{kind} {name}:")
        for words in rows["words"]:
            output.tell(f"  {words}")
