"""What the benchmark found: a file for programs, and a page for readers."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from initstats.bench.comparison import milliseconds, ratios, table
from initstats.bench.resources import GOALS
from initstats.bench.timing import VARIANTS, WORKLOADS
from initstats.plots.timings import timings as draw
from initstats.report.drawing import rendered
from initstats.report.folder import PAGE, drafted, fill
from initstats.report.frame import Shown, render

CAPTION = (
    "One panel for each ratio, one row for each workload: the median (dot), the range over the "
    "rounds (line) and the goal (upright mark). Green reaches its goal, red does not."
)


def as_json(results: Mapping[str, Any]) -> str:
    """Results as JSON: a table is a list of records."""
    values = {
        name: part.astype(object).where(part.notna(), None).to_dict("records")
        if isinstance(part, pd.DataFrame)
        else part
        for name, part in results.items()
    }
    return json.dumps(values, indent=1)


def from_json(text: str) -> dict[str, Any]:
    """The results that `as_json` wrote.

    Raises:
        ValueError: something else, or the results of `initstats bench --foundations`.
    """
    values = json.loads(text)
    parts = {
        name: pd.DataFrame(part) if isinstance(part, list) else part
        for name, part in values.items()
    }
    if "ratios" not in parts:
        raise ValueError("no timings of the engine: write them with initstats bench --json FILE")
    for name in ("workload", "variant"):
        values = parts["timings"][name]
        parts["timings"][name] = pd.Categorical(values, values.unique())
    return parts


def whole_runs(results: Mapping[str, Any]) -> dict[str, str]:
    """What whole runs take, in words, with the goals that they are held against."""
    found = {}
    for name, term in (("efficiency", "two workers"), ("gpu", "a GPU")):
        if name in results:
            speedup = results[name]["speedup"]
            goal = f"; goal {GOALS['speedup']}" if name == "efficiency" else ""
            found[term] = (
                f"{speedup.median():.2f} times as fast as one worker "
                f"({speedup.min():.2f} to {speedup.max():.2f}{goal})"
            )
    if "memory" in results:
        rows = results["memory"].itertuples()
        sizes = ", ".join(f"{row.megabytes:.0f} MB for {row.samples:,} samples" for row in rows)
        found["peak memory"] = f"{sizes} (goal {GOALS['megabytes']} MB)"
    if "study" in results:
        found["the default study"] = f"{results['study']:.0f} s (goal {GOALS['seconds']} s)"
    return found


def write_benchmark(folder: str | Path, results: Mapping[str, Any]) -> Path:
    """Write `index.html`, a page that needs no other file, with `figures/` and `bench.json`.

    Args:
        folder: where to.
        results: `machine`, `timings` and, as far as they were measured, `efficiency`, `gpu`,
            `memory` and `study`.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page.
        OSError: the folder cannot be written.
    """
    compared, timings = ratios(results["timings"]), results["timings"]
    workloads = list(timings["workload"].unique())
    values = {
        "figure": Shown(rendered("ratios", partial(draw, compared)), "The ratios", CAPTION),
        "medians": compared.set_index(["ratio", "workload"])["median"].unstack().to_dict("index"),
        "missed": {*compared.loc[compared["reached"].eq(False), "ratio"]},
        "columns": {"": "text"} | dict.fromkeys(workloads, "number"),
        "ratios": _records(table(timings)),
        "times": _records(milliseconds(timings).map("{:,.0f}".format).rename(index=VARIANTS)),
        "workloads": [WORKLOADS[name] for name in workloads if name in WORKLOADS],
        "whole_runs": whole_runs(results),
        "machine": results["machine"],
    }
    with drafted(folder) as draft:
        (draft / "bench.json").write_text(as_json(results), encoding="utf-8")
        fill(draft, render("bench.html", values), [values["figure"].drawing])
    return Path(folder) / PAGE


def _records(rows: pd.DataFrame) -> list[dict[Hashable, str]]:
    """The rows of a table for a page, whose first column are the names."""
    return rows.rename_axis("").reset_index().to_dict("records")
