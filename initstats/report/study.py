"""The page of a study: a run, or the bare table of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from initstats.diagnosis import VERDICTS
from initstats.outcome.tables import is_training
from initstats.plots import Results, Trained
from initstats.plots.results import evenly
from initstats.plots.style import decimal
from initstats.plural import counted
from initstats.report import answer
from initstats.report.embedded import Report
from initstats.report.explore import Exploration, exploration
from initstats.report.page import (
    FILES,
    Files,
    Page,
    Shown,
    claim_page,
    figures_of,
    left_out,
    names,
)
from initstats.report.printed import (
    Column,
    Table,
    factor,
    growth,
    percent,
    printed,
    significant,
    typeset,
)
from initstats.report.record import (
    of_environment,
    of_failures,
    of_sessions,
    public_grid,
    seeds_of,
    some,
)
from initstats.report.training import write_training_report
from initstats.store import Run, load_failures, load_run, load_sessions, to_toml

GROWTH = Column("growth per layer", "number", growth, ("growth", "growth_low", "growth_high"))
BLOCK = [Column("network"), Column("width", "number")]
BEST = [
    Column("activation", "head"),
    Column("healthy with, the steadiest first", "names", names, ("kept",)),
    GROWTH,
    Column("last std", "number", significant, ("std",)),
    Column(
        "other verdicts", "lost", lambda lost: ", ".join(f"{n} {lost[n]}" for n in lost), ("lost",)
    ),
]
ENTRIES = [Column("init"), Column("activation")]
VERDICT = [
    Column("verdict", "word"),
    Column(
        "of seeds",
        "number",
        lambda share, seeds, tied: (
            f"{round(share * seeds)} of {seeds}" + f", tie: {tied}" * bool(tied)
        ),
        ("agreement", "seeds", "tied"),
    ),
    GROWTH,
    Column("std", "number", significant),
    Column("mean", "number", significant),
    Column("dead", "number", percent),
    Column("correlation", "number", lambda value: decimal(value, 2)),
]
GRADIENT = Column("gradient growth", "number", factor, ("gradient_growth",))
COUNTED = [
    Column("init", "head"),
    Column("activation", "code"),
    Column("combinations", "number", "{:,}".format),
    Column("verdicts", "lost", lambda met: ", ".join(f"{n:,} {word}" for word, n in met.items())),
]
MOST_ROWS = 300
"""A longer table of combinations shows so many, and counts all."""


def write_report(
    run: str | Path | pd.DataFrame | list[Any] | tuple[Any, ...] | Mapping[str, Any],
    folder: str | Path | None = None,
    *,
    workers: int = 1,
    rows: bool = True,
    baseline: str | None = None,
    figures: bool | Collection[str] = True,
    ready: Callable[[Path], object] | None = None,
) -> Report:
    """Write the report of a run: `index.html`, a page that needs no other file and no network.

    Beside it lie `summary.csv` and of a run its `grid.toml`, and, written when it is in its place,
    `figures/` (PNG and SVG) and `table.csv` (and `table.parquet` where pyarrow is installed); of a
    training study `table.csv`, `variants.csv`, `comparisons.csv`, `train.toml` and `figures/`.

    Args:
        run: the folder of a sweep or of a training study, finished or not; or a sweep's table, from
            which all can be drawn but the distributions. Or two of these, or two models: a list of
            what `compare_runs` takes, or a mapping of their names to them, whose page tells what
            differs between them, beside its `differences.csv` and `verdicts.csv`.
        folder: where to; by default the run's own.
        workers: processes at work, this one among them. The others are spawned, so that a script
            needs `if __name__ == "__main__":`.
        rows: whether to write all rows of the table, which are large, and to link to them.
        baseline: of a training study, the activation or init that the others are compared with; by
            default `relu`, or the first of the study.
        figures: whether to write files of figures, or the names of those that are wanted.
        ready: is given the path of the page once it can be read; files of figures follow.

    Returns:
        The path of the page.

    Raises:
        ValueError: a table, or two runs, without a folder; not the table of one sweep; not a run's
            folder; the folder holds somebody else's page, or one of another kind; no such figure; a
            baseline that the study does not have.
        OSError: the folder cannot be written.
    """
    files = Files(figures, workers, ready or FILES.ready)
    if isinstance(run, Mapping | list | tuple):
        if baseline is not None:
            raise ValueError(f"baseline: {baseline!r} is for one training study, and not for two")
        from initstats.report.sides import write_comparison  # with the rules of the diagnosis

        return write_comparison(run, folder, files=files, rows=rows)
    if not isinstance(run, pd.DataFrame):
        folder = folder or run
        if is_training(run):
            own = Path(run).resolve() == Path(folder).resolve()
            return write_training_report(
                Trained.of(run, baseline), folder, files=files, rows=rows, config=not own
            )
    elif folder is None:
        raise ValueError("a table does not say where its report goes: name a folder")
    if baseline is not None:
        raise ValueError(f"baseline: {baseline!r} is for training studies, and this is a sweep")
    return _write_study(run, Path(folder), files, rows=rows)


def _write_study(
    run: str | Path | pd.DataFrame, folder: Path, files: Files, *, rows: bool
) -> Report:
    """Write the report of a sweep."""
    recorded, failures = None, None
    if not isinstance(run, pd.DataFrame):
        recorded, failures = (load_run(run), load_sessions(run)), load_failures(run)
    claim_page("study", folder, files)  # before the work, not after it
    results = Results.of(run)
    page = compose(results, figures_of("study", results), recorded, rows=rows, failures=failures)
    if not isinstance(run, pd.DataFrame) and Path(run).resolve() == folder.resolve():
        # the run keeps its configuration there itself
        others = {name: page.tables[name] for name in page.tables if name != "grid.toml"}
        page = replace(page, tables=others)
    return page.publish(folder, files)


def compose(
    results: Results,
    figures: Sequence[Shown] = (),
    recorded: tuple[Run, pd.DataFrame] | None = None,
    *,
    rows: bool = True,
    failures: pd.DataFrame | None = None,
) -> Page:
    """The page of a study.

    Args:
        results: what is reported.
        figures: the figures, in their order.
        recorded: of a run, its settings and the drivers at work on it; None for a bare table.
        rows: whether all rows of the table lie beside the page.
        failures: of a run, the cells that failed.
    """
    run = recorded[0] if recorded else None
    best = BLOCK * (len(results.blocks) > 1) + BEST
    explore = exploration(results) if len(results.table) else None
    facts = _facts(results) | (_record(results, *recorded) if recorded else {})
    values = {
        "dataset": _dataset(results),
        "networks": _networks(results),
        "depth": results.depth,
        "seeds": int(results.summary["seeds"].max()),
        "blocks": len(results.blocks),
        "varied": answer.varied(results),
        "normed": bool(answer.normed(results)),
        "tokens": "pair_correlation" in results.table,
        "signal": results.signal,
        "healthy": int((results.summary["verdict"] == "healthy").sum()),
        "configurations": len(results.summary),
        "cells": (_cells(results), run.count if run else 0),
        "failures": 0 if failures is None else len(failures),
        "failed": {} if failures is None else of_failures(failures),
        "explore": explore,
        "limits": answer.limits(results),
        "gradients": answer.gradients(results),
        "fitted": [name for name in results.inits if name in results.fitted],
        "tied": int((results.summary["tied"] != "").sum()),
        "keepers": answer.keepers(results),
        "alone": answer.alone(results),
        "contrast": answer.contrast(results),
        "hopeless": answer.hopeless(results),
        "hidden": answer.hidden(results),
        "shift": answer.shift_story(results),
        "best": printed(answer.best_by_activation(_listed(results)), best),
        "theory": answer.agreement(results),
        "some": results.left_out,
        "left_out": left_out("study", results),
        "verdicts": {word.name: typeset(word.meaning) for word in VERDICTS},
        "summary": _summary(results),
        "counted": printed(answer.counted(results), COUNTED)
        if len(results.summary) > MOST_ROWS
        else None,
        "facts": {term: fact for term, fact in facts.items() if fact},
        "grid": public_grid(run) if run else "",
    }
    return Page("study", values, figures, _tables(results, run, explore, rows=rows))


def _tables(
    results: Results, run: Run | None, explore: Exploration | None, *, rows: bool
) -> dict[str, pd.DataFrame | str]:
    """The files beside the page."""
    tables: dict[str, pd.DataFrame | str] = {"summary.csv": results.summary}
    if explore:
        tables |= explore.beside
    if rows:
        tables["table.csv"] = results.table
        if find_spec("pyarrow"):
            tables["table.parquet"] = results.table
    if run:
        tables["grid.toml"] = to_toml(run.config)
    return tables


def _listed(results: Results) -> Results:
    """The results under all inits, for those activations, networks and widths that figures show."""
    few = results.outline
    results = replace(results, table=results.table.iloc[:0], predicted=None)
    shown = results.only("activation", few.activations) if results.left_out else results
    return shown.within(few.blocks) if len(results.blocks) > len(few.blocks) else shown


def _networks(results: Results) -> str:
    return some([f"{block.network} of width {block.width}" for block in results.blocks])


def _summary(results: Results) -> Table:
    """The configurations, of many those of the figures or some of these, by the names that make
    them again; parameters that vary are in columns of their own, too.
    """
    summary = results.summary
    if len(summary) > MOST_ROWS:
        summary = results.outline.summary
        summary = summary.iloc[evenly(range(len(summary)), MOST_ROWS)]
    columns = BLOCK * (len(results.blocks) > 1) + ENTRIES
    for entry in ("network", "init", "activation"):
        for name in map(str, summary.filter(regex=f"^{entry}_")):
            title = f"{name.removeprefix(f'{entry}_')} ({entry})"
            columns.append(Column(title, "number", _parameter, (name,)))
    columns += VERDICT
    if results.summary["gradient_growth"].notna().any():
        columns.append(GRADIENT)
    return printed(summary, columns)


def _parameter(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _dataset(results: Results) -> str:
    """The data set's name; empty where the table does not say."""
    return str(results.table["dataset"].iloc[0]) if "dataset" in results.table else ""


def _cells(results: Results) -> int:
    """Cells that are measured."""
    return int(results.summary["seeds"].sum())


def _facts(results: Results) -> dict[str, str]:
    """How the numbers came about, as far as the table shows."""
    return {
        "data": _dataset(results),
        "networks": _networks(results),
        "depth": counted(results.depth, "layer"),
        "seeds": seeds_of(results.table),
    }


def _record(results: Results, run: Run, sessions: pd.DataFrame) -> dict[str, str]:
    """How the numbers of a run came about, as its store noted."""
    settings = run.settings
    facts = {
        "data": f"{_dataset(results)}, {settings['samples']:,} of the {settings['split']} split",
        "data fingerprint": f"SHA-256 {settings['data'][:16]}…",
        "finished": f"{_cells(results):,} of {counted(run.count, 'cell')}",
        **of_sessions(sessions),
        "computed": f"in {settings.get('dtype', 'float32')} on {settings.get('device', 'cpu')}",
        "engine": ", ".join(f"{name} {value}" for name, value in run.engine.items()),
    }
    return facts | of_environment(sessions)
