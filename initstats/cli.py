"""The command line: it mirrors the API, and is the only place that prints.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from initstats import __version__

app = typer.Typer(
    name="initstats",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Does the signal survive the depth of your network? Measured for every initialization "
    "and activation, forward and backward.",
    epilog="Start with: initstats sweep",
)

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="Import this module (or file.py) first: it registers your own inits and activations.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes. \\[default: one a core]", show_default=False)
]


def main() -> None:
    """Run the command line; every expected error is one line on stderr and exit code 2."""
    # Spinning OpenMP threads slow a busy machine fifty times; torch reads these when imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.append(str(Path.cwd()))  # where a plugin is looked for; spawned workers look there too
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        _fail(_usage(error))
    except (ValueError, OSError) as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _version(asked: bool) -> None:
    if asked:
        print(f"initstats {__version__}")
        raise typer.Exit


@app.callback()
def _initstats(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
        "inits": _listed(inits),
        "activations": _listed(activations),
        "network": network,
        "widths": _listed(widths, "widths"),
        "depth": depth,
        "seeds": _listed(seeds, "seeds"),
        "split": split,
        "samples": samples,
        "backward": backward,
        "data": data,
        "plugins": plugin,
    }
    from initstats.sweep import read_config

    fields = read_config(config) if config else {}
    fields |= {name: value for name, value in given.items() if value is not None}
    workers = (os.cpu_count() or 1) if workers is None else workers
    folder = _sweep(fields, out, workers)
    print(f"report: {_report(folder, folder, workers)}")
    print(f"{time.perf_counter() - began:.1f} s in all")


@app.command(rich_help_panel="Measure")
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes. \\[default: the run's folder]")
    ] = None,
    workers: Workers = None,
) -> None:
    """Draw the report of a run again: index.html, figures and tables."""
    print(f"report: {_report(run, out or run, workers or os.cpu_count() or 1)}")


@app.command(rich_help_panel="Learn")
def bench(
    workloads: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="Of S10, S, M, M512, C; all if unsaid."),
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
        _time_lesson(quick) if lesson else _time_engine(_listed(workloads), rounds, quick, plot)
    )
    if json:
        from initstats.bench import as_json

        json.write_text(as_json(**results), encoding="utf-8")


@app.command(rich_help_panel="Learn")
def foundations(
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("reports/foundations"),
    seeds: Annotated[int, typer.Option(min=10, help="Draws of the weights.")] = 4000,
    workers: Workers = None,
) -> None:
    """Walk through the lesson: forward and backward by hand, every published number anew."""
    began = time.perf_counter()
    from initstats.foundations import measure, write_lesson

    out.mkdir(parents=True, exist_ok=True)  # before the minute of work, not after it
    evidence = measure(seeds, workers)
    _print_lesson(evidence.lesson)
    print(f"page: {write_lesson(out, evidence)}")
    print(f"{time.perf_counter() - began:.1f} s in all")


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
    entries = [activations.get(_function(name) if ":" in name else name) for name in names]
    if table:
        _print_gains(entries)
        return
    for entry in entries:
        torchs = activations.torch_gain(entry)
        print(f"{entry.name}: {entry.gain.advice}")
        if torchs:
            print(f"  torch's calculate_gain says {torchs.number:.5g}: {torchs.verdict}")


@app.command("list", rich_help_panel="Look up")
def list_(plugin: Plugins = None) -> None:
    """Say what there is: inits, activations, networks and statistics, a line each."""
    from initstats.activations import ACTIVATIONS
    from initstats.inits import INITS
    from initstats.moments.table import STATISTICS
    from initstats.stack import NETWORKS
    from initstats.sweep import load_plugins

    load_plugins(plugin or ())
    _print_meanings("inits", {_signature(INITS, name): INITS.get(name).summary for name in INITS})
    _print_meanings(
        "activations",
        {_signature(ACTIVATIONS, name): ACTIVATIONS.get(name).summary for name in ACTIVATIONS},
    )
    _print_meanings("networks", NETWORKS)
    _print_meanings("statistics", {name: entry.meaning for name, entry in STATISTICS.items()})


def _sweep(fields: dict[str, Any], out: Path | None, workers: int) -> Path:
    """Run the grid that the fields describe into its folder, and say what came of it."""
    from initstats.data import load_data
    from initstats.diagnosis import summarize
    from initstats.sweep import Grid, load_plugins, run_sweep

    source, plugins = fields.pop("data", "mnist"), fields.pop("plugins", [])
    load_plugins(plugins)
    grid = Grid(**fields)
    data = load_data(source)
    folder = out or Path("reports") / data.name
    print(
        f"{data.name}: {grid.samples or len(getattr(data, grid.split)):,} images of the "
        f"{grid.split} split, normalized with the training mean {data.mean:.4f} and "
        f"std {data.std:.4f}"
    )
    with _Bar("cells") as bar:
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
            print(
                f"interrupted: {bar.done:,} of {bar.total:,} cells are kept in {folder}; "
                "the same command goes on from there",
                file=sys.stderr,
            )
            sys.exit(130)
    verdicts = summarize(table)["verdict"].value_counts()
    print(f"{bar.total:,} cells ({bar.total - bar.first:,} new) in {folder}: the signal")
    for verdict, count in verdicts[verdicts > 0].items():
        print(f"  {verdict!s:<18} {count:>4} of {verdicts.sum()} configurations")
    return folder


def _report(run: Path, folder: Path, workers: int) -> Path:
    from initstats.report import write_report

    return write_report(run, folder, workers=workers)


class _Bar:
    """A progress bar on stderr: done, rate and time left; silent when that is not a terminal."""

    def __init__(self, noun: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self.first = self.done = self.total = 0
        self._began = time.perf_counter()
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(noun),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(noun, total=None, rate="")
        self.stop = self._progress.stop

    def show(self, done: int, total: int) -> None:
        if not self.total:
            self.first, self._began = done, time.perf_counter()
        self.done, self.total = done, total
        passed = time.perf_counter() - self._began
        rate = f"{(done - self.first) / passed:.0f}/s" if done > self.first else ""
        self._progress.update(self._task, completed=done, total=total, rate=rate)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _function(path: str) -> Any:
    """The function that `module:function` names; the module may be in the working directory."""
    from initstats.sweep import load_plugins

    module, _, name = path.partition(":")
    load_plugins([module])
    found = getattr(
        sys.modules[Path(module).stem if module.endswith(".py") else module], name, None
    )
    if found is None:
        raise ValueError(f"module {module!r} has no function {name!r}")
    return found


def _print_gains(entries: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from initstats.activations import torch_gain

    columns = ("forward", "variance", "backward", "chi_1", "chi_q")
    table = Table("activation", *columns, "torch", "which is", box=None, pad_edge=False)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for entry in entries:
        torchs = torch_gain(entry)
        numbers = (f"{getattr(entry.gain, column):.5f}" for column in columns)
        compared = (f"{torchs.number:.5f}", torchs.verdict) if torchs else ("-", "")
        table.add_row(entry.name, *numbers, *compared)
    Console().print(table)


def _time_engine(workloads: Any, rounds: int, quick: bool, plot: Path | None) -> dict[str, Any]:
    """Print what the benchmark finds; all of it as tables."""
    from initstats import bench

    machine = bench.machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    with _Bar("timings") as bar:
        timings = bench.run(
            workloads or tuple(bench.WORKLOADS), rounds=rounds, quick=quick, progress=bar.show
        )
    ratios = bench.ratios(timings)
    print(bench.table(timings))
    if plot:
        from initstats.plots.timings import timings as drawn

        drawn(ratios).savefig(plot)
    with _Bar("studies") as bar:
        efficiency = bench.efficiency(quick=quick, progress=bar.show)
    speedup = efficiency["speedup"]
    print(
        f"\ntwo workers: {speedup.median():.2f} times one "
        f"({speedup.min():.2f} to {speedup.max():.2f}; goal 1.8)"
    )
    memory = bench.memory((1_000, 10_000) if quick else (1_000, 10_000, 50_000))
    print("peak memory above the process with its data (goal 60 MB):")
    for row in memory.itertuples():
        print(f"  {row.samples:>6,} samples  {row.megabytes:5.0f} MB")
    return {
        "machine": machine,
        "timings": timings,
        "ratios": ratios,
        "efficiency": efficiency,
        "memory": memory,
    }


def _time_lesson(quick: bool) -> dict[str, Any]:
    from initstats import bench
    from initstats.foundations import timings

    table = timings(5_000, 2) if quick else timings()
    print(table.to_string(index=False, float_format="{:.3g}".format))
    return {"machine": bench.machine(), "timings": table}


def _print_lesson(lesson: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "quantity", box=None, pad_edge=False)
    for column in ("published", "mean", "low", "high"):
        table.add_column(column, justify="right")
    table.add_column("inside")
    for row in lesson.itertuples():
        numbers = (row.published, row.mean, row.low, row.high)
        cells = ("" if x != x else f"{x:.4g}" for x in numbers)
        inside = {True: "yes", False: "no"}.get(row.inside, "")
        table.add_row(row.step, row.quantity, *cells, inside)
    Console().print(table)


def _listed(values: list[str] | None, numbers: str | None = None) -> list[Any] | int | None:
    """The items of an option given once or more, each comma-separated.

    `numbers` names an option whose items are whole numbers; a single seed is how many.
    """
    from initstats.registry import split_names

    if values is None:
        return None
    items: list[Any] = [item for value in values for item in split_names(value)]
    if numbers:
        for index, item in enumerate(items):
            try:
                items[index] = int(item)
            except ValueError:
                raise ValueError(f"{numbers}: {item!r} is not a whole number") from None
    return items[0] if numbers == "seeds" and len(items) == 1 else items


def _signature(registry: Any, name: str) -> str:
    """A name with its parameters and their defaults."""
    parameters = registry.defaults(name)
    inside = ",".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in parameters.items()
    )
    return f"{name}({inside})" if inside else name


def _print_meanings(title: str, meanings: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, meaning in meanings.items():
        table.add_row(name, meaning)
    Console().print(table, "")


def _fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    print(f"initstats: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _usage(error: typer.TyperException) -> str:
    """A usage error in a line, with where to read on."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "initstats"
    return f"{text} (see {path} --help)"
