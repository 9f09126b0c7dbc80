"""The results of the benchmark: a file for programs, and a page for readers."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from initstats.bench.comparison import milliseconds, ratios, table
from initstats.bench.resources import GOALS
from initstats.bench.timing import VARIANTS, WORKLOADS
from initstats.plural import counted
from initstats.report.page import FILES, Files, Page, figures_of
from initstats.report.printed import Column, Table, printed


def as_json(results: Mapping[str, Any]) -> str:
    """Results as JSON: a table is a list of records."""

    def records(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
        return table.astype(object).where(table.notna(), None).to_dict("records")

    return json.dumps(results, indent=1, default=records)


def from_json(text: str) -> dict[str, Any]:
    """The results that `as_json` wrote.

    Raises:
        ValueError: something else, or the results of `initstats bench --foundations`.
    """
    try:
        parts: dict[str, Any] = dict(json.loads(text))
        tables = {name: part for name, part in parts.items() if isinstance(part, list)}
        if not all(isinstance(row, dict) for part in tables.values() for row in part):
            raise TypeError("rows without names")
        parts |= {name: pd.DataFrame.from_records(part) for name, part in tables.items()}
        parts["ratios"]
        timings = parts["timings"]
        timings["workload"] = pd.Categorical(timings["workload"], timings["workload"].unique())
        timings["variant"] = pd.Categorical(timings["variant"], list(VARIANTS))
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            "no timings of the engine: write them with initstats bench --json FILE"
        ) from error
    return parts


def whole_runs(results: Mapping[str, Any]) -> dict[str, str]:
    """The time and memory of whole runs in words, with the goals that they are held against."""
    found = {}
    kinds = {
        "efficiency": "two workers",
        "gpu": "a GPU",
        "training_workers": "two workers that train",
    }
    for name, term in kinds.items():
        if name in results:
            speedup = results[name]["speedup"]
            goal = f"; goal {GOALS['speedup']}" if name != "gpu" else ""
            found[term] = (
                f"{speedup.median():.2f} times as fast as one worker "
                f"({speedup.min():.2f} to {speedup.max():.2f}{goal})"
            )
    if "training" in results:
        for (network, batch), rows in results["training"].groupby(["network", "batch"], sort=False):
            speedup, goal = rows["speedup"], rows["goal"].iloc[0]
            found[f"training a {network}, batches of {batch}"] = (
                f"{speedup.median():.2f} times as fast as a plain loop "
                f"({speedup.min():.2f} to {speedup.max():.2f}; goal {goal})"
            )
    if "architectures" in results:
        for network, rows in results["architectures"].groupby("network", sort=False):
            ratio, goal = rows["ratio"], rows["goal"].iloc[0]
            found[f"measuring all of {network}"] = (
                f"{ratio.median():.2f} times the time of a torch module that records nothing "
                f"({ratio.min():.2f} to {ratio.max():.2f}; goal {goal})"
            )
    if "driver" in results:
        seconds = results["driver"]
        found["the driver"] = (
            f"{1e3 * seconds:.2f} ms per cell: it keeps "
            f"{counted(round(0.1 / seconds), 'worker')} busy whose cells take 100 ms"
        )
    if "memory" in results:
        rows = results["memory"].itertuples()
        sizes = ", ".join(f"{row.megabytes:.0f} MB for {row.samples:,} samples" for row in rows)
        found["peak memory"] = f"{sizes} (goal {GOALS['megabytes']} MB)"
    if "study" in results:
        found["the default study"] = f"{results['study']:.0f} s (goal {GOALS['seconds']} s)"
    return found


def _without(timed: pd.DataFrame | None) -> list[float]:
    """What the engine takes over the plain module, measuring nothing, where a goal was missed."""
    if timed is None or "engine_off" not in timed:  # as older files have it
        return []
    each = timed.assign(bare=timed["engine_off"] / timed["plain"]).groupby("network")
    medians = each[["bare", "ratio", "goal"]].median()
    return list(medians["bare"]) if (medians["ratio"] > medians["goal"]).any() else []


def write_benchmark(folder: str | Path, results: Mapping[str, Any], files: Files = FILES) -> Path:
    """Write `index.html`, a page that needs no other file, with `figures/` and `bench.json`.

    Args:
        folder: where to.
        results: `machine`, `timings` and, as far as they were measured, `efficiency`, `gpu`,
            `training`, `architectures`, `training_workers`, `driver`, `memory` and `study`.
        files: those of figures that are wanted.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page, or one of another kind; no such figure.
        OSError: the folder cannot be written.
    """
    compared, timings = ratios(results["timings"]), results["timings"]
    workloads = list(timings["workload"].unique())
    times = milliseconds(timings)
    measured = {"engine_off", "plain"} <= {*times.index}
    values = {
        "medians": compared.set_index(["ratio", "workload"])["median"].unstack().to_dict("index"),
        "missed": {*compared.loc[compared["reached"].eq(False), "ratio"]},
        "ratios": _printed(table(timings)),
        "times": _printed(times.map("{:,.0f}".format).rename(index=VARIANTS)),
        "without": list(times.loc["engine_off"] / times.loc["plain"]) if measured else [],
        "streams": _without(results.get("architectures")),
        "workloads": [WORKLOADS[name] for name in workloads if name in WORKLOADS],
        "whole_runs": whole_runs(results),
        "machine": results["machine"],
    }
    tables = {"bench.json": as_json(results)}
    return Page("bench", values, figures_of("bench", compared), tables).publish(folder, files)


def _printed(rows: pd.DataFrame) -> Table:
    """A table whose first column holds the names of its rows."""
    columns = [Column("", "text"), *(Column(str(name), "number") for name in rows)]
    return printed(rows.rename_axis("").reset_index(), columns)
