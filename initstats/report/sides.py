"""The page of two runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from initstats.diagnosis import VERDICTS, diagnose
from initstats.differences import BOTH, Pair, Side
from initstats.differences.ends import MEASURES, ends, moved, ranked, shown_differences, size
from initstats.differences.side import MODEL, SEED, TRAINING
from initstats.plots.sides import Comparison
from initstats.plural import counted
from initstats.report import changes
from initstats.report.embedded import Report
from initstats.report.page import FILES, Files, Page, claim_page, figures_of, left_out
from initstats.report.printed import (
    DASH,
    Column,
    Table,
    growth,
    percent,
    printed,
    significant,
    typeset,
)
from initstats.report.record import seeds_of, some

FAULTS = [
    Column("severity", "word"),
    Column("rule"),
    Column("where", "code"),
    Column("evidence", "prose"),
]
MOST_ROWS = 300
"""Combinations or values, the most changed, that the page lists; the tables beside it have all."""
MOST_CELLS = 40
"""Inits and activations, those with most changes, that the map of verdicts shows."""
MOST_MAPS = 6
Row = Mapping[str, Any]


def write_comparison(
    runs: Sequence[Any] | Mapping[str, Any],
    folder: str | Path | None,
    *,
    files: Files = FILES,
    rows: bool = True,
) -> Report:
    """Write the page of two runs; see `write_report`.

    Args:
        runs: two of those that `compare_runs` takes, or a mapping of their names to them.
        folder: where to.
        files: those of figures that are wanted.
        rows: whether all differences lie beside the page, or those that it tells of.

    Raises:
        ValueError: not two runs, no folder, and as `compare_runs` and `write_report`.
    """
    named = dict(runs) if isinstance(runs, Mapping) else dict(enumerate(runs))
    if len(named) != 2:
        raise ValueError(f"two runs are compared side by side, not {len(named)}")
    if folder is None:
        raise ValueError("two runs do not say where their comparison goes: name a folder")
    claim_page("comparison", Path(folder), files, make=False)  # before the work, not after it
    called = [name if isinstance(name, str) else "" for name in named]
    first, second = named.values()
    pair = Pair.of(first, second, (called[0], called[1]))
    differences = shown_differences(pair)
    both = Comparison(pair, ends(pair, differences))
    page = compose(both, differences if rows else None)
    return replace(page, figures=figures_of("comparison", both)).publish(folder, files)


def compose(both: Comparison, differences: pd.DataFrame | None) -> Page:
    """The page of two runs.

    Args:
        both: the runs, and what is told of them.
        differences: all rows of them, to lie beside the page; None for those that are told.
    """
    pair, told = both
    tables: dict[str, pd.DataFrame | str] = {
        "differences.csv": told if differences is None else differences
    }
    if pair.kind is not MODEL:
        tables["verdicts.csv"] = pair.verdicts
    values: dict[str, Any] = {
        "kind": pair.kind.name,
        "names": pair.names,
        "lead": changes.lead(pair, told),
        "answers": changes.answers(pair, told),
        "alone": changes.alone(pair),
        "apart": changes.apart(pair),
        "transitions": [] if pair.kind is MODEL else changes.transitions(pair, told),
        "maps": [] if pair.kind is MODEL else maps(pair, told),
        "words": {} if pair.kind is MODEL else met(pair),
        "faults": faults(pair) if pair.kind is MODEL else None,
        "listed": values_of(pair, told) if pair.kind is MODEL else combinations(pair, told),
        "differs": bool(moved(told).any()),
        "count": _count(pair, told),
        "facts": facts(pair),
        "intervals": bool(told["low"].notna().any()),
        "paired": bool(told["paired"].all()),
        "left_out": {
            title: why
            for title, why in left_out("comparison", both).items()
            if "it is about" not in why and "nothing differs" not in why
        },
    }
    return Page("comparison", values, (), tables)


def _count(pair: Pair, told: pd.DataFrame) -> int:
    """How many combinations or values both have."""
    if pair.kind is not MODEL:
        return int((pair.verdicts["measured"] == BOTH).sum())
    return len(told[["name", "op", "call", "tensor"]].drop_duplicates())


def met(pair: Pair) -> dict[str, str]:
    """The verdicts of the combinations that both have, and what each means."""
    shared = pair.verdicts[pair.verdicts["measured"] == BOTH]
    words = {*shared["a_verdict"].astype(str), *shared["b_verdict"].astype(str)}
    return {each.name: typeset(each.meaning) for each in VERDICTS if each.name in words}


def maps(pair: Pair, told: pd.DataFrame) -> list[dict[str, Any]]:
    """For each network of those with a changed verdict, init x activation with both verdicts."""
    if not {"init", "activation"} <= {*pair.configuration}:
        return []
    shared = ranked(pair, told)
    blocks = [key for key in changes.varied(pair) if key not in ("init", "activation")]
    groups = shared.groupby(blocks, observed=True) if blocks else [((), shared)]
    found = []
    for values, rows in groups:
        changed = rows[rows["changed"]]
        if len(changed):
            title = ", ".join(
                str(v) if k == "network" else f"{k} {v}"
                for k, v in zip(blocks, values, strict=True)
            )
            found.append((len(changed), {"title": title} | _map(rows, changed)))
    found.sort(key=lambda each: -each[0])
    return [each for _, each in found[:MOST_MAPS]]


def _map(rows: pd.DataFrame, changed: pd.DataFrame) -> dict[str, Any]:
    """The inits and activations of which some verdict changed, and the cells between them."""
    kept = {
        key: {*changed[key].astype(str).value_counts().head(MOST_CELLS).index}
        for key in ("init", "activation")
    }
    listed = {key: [v for v in rows[key].sort_values().unique() if v in kept[key]] for key in kept}
    cells = {
        (row["init"], row["activation"]): (str(row["a_verdict"]), str(row["b_verdict"]))
        for row in rows.to_dict("records")
    }
    return {
        "activations": listed["activation"],
        "rows": [
            (init, [cells.get((init, name)) for name in listed["activation"]])
            for init in listed["init"]
        ],
    }


def combinations(pair: Pair, told: pd.DataFrame) -> Table:
    """The configurations that both have, the most changed first, with what changed."""
    shared = ranked(pair, told).head(MOST_ROWS)
    keys = [key for key in pair.configuration if key in ("init", "activation")]
    keys += [key for key in changes.varied(pair) if key not in keys]
    columns = [Column(key, "code" if key in ("init", "activation") else "name") for key in keys]
    columns += [
        Column("verdict", "name", _verdicts, ("a_verdict", "b_verdict")),
        Column("std", "number", _both, ("a", "b")),
        Column("factor", "number", _factor, ("difference", "low", "high")),
        Column("correlation", "number", _both, ("a_correlation", "b_correlation")),
    ]
    return printed(shared, columns)


def _factor(middle: float, low: float, high: float) -> str:
    """exp of a difference with its interval."""
    return growth(*(changes.exponential(value) for value in (middle, low, high)))


def values_of(pair: Pair, told: pd.DataFrame) -> Table:
    """The values of a model in the order of execution, with the most changed if they are many."""
    rows = told[told["measure"] == MEASURES[0].name]
    dead = told[told["measure"] == "share of constant units"]
    place = ["name", "op", "call", "tensor"]
    rows = rows.merge(dead[[*place, "a", "b"]], on=place, how="left", suffixes=("", "_dead"))
    if len(rows) > MOST_ROWS:
        rows = rows.loc[size(rows["difference"]).nlargest(MOST_ROWS).index].sort_index()
    columns = [
        Column("layer", "number"),
        Column("module", "head", str, ("name",)),
        Column("operation", "code", str, ("op",)),
        Column("std", "number", _both, ("a", "b")),
        Column("factor", "number", _factor, ("difference", "low", "high")),
        Column("dead", "number", _shares, ("a_dead", "b_dead")),
    ]
    return printed(rows, columns)


def _verdicts(one: str, other: str) -> str:
    return one if one == other else f"{one} → {other}"


def _both(one: float, other: float) -> str:
    return f"{significant(one)} → {significant(other)}"


def _shares(one: float, other: float) -> str:
    return f"{percent(one)} → {percent(other)}" if one > 0 or other > 0 else ""


def faults(pair: Pair) -> dict[str, Any]:
    """What the checks find in each model, and what only one of them has."""
    found = [_faults(side) for side in pair.sides]
    marks = [rows["rule"].astype(str) + "\n" + rows["where"].astype(str) for rows in found]
    only = [found[i][~marks[i].isin({*marks[1 - i]})] for i in (0, 1)]
    return {
        "counts": [_told(rows) for rows in found],
        "only": [printed(rows, FAULTS) if len(rows) else None for rows in only],
        "shared": int(marks[0].isin({*marks[1]}).sum()),
    }


def _faults(side: Side) -> pd.DataFrame:
    """The findings about all seeds of a model, each once."""
    parts = [
        pd.DataFrame(diagnose(rows.drop(columns=SEED))) for _, rows in side.table.groupby(SEED)
    ]
    found = pd.concat(parts, ignore_index=True)
    found = found[found["severity"].isin(["error", "warning", "note"])]
    return found.astype({"severity": str}).drop_duplicates(["rule", "where"])


def _told(rows: pd.DataFrame) -> str:
    """Numbers of findings by their severity."""
    counts = {word: int((rows["severity"] == word).sum()) for word in ("error", "warning", "note")}
    *front, last = [counted(n, word) for word, n in counts.items() if n] or ["no fault"]
    return " and ".join(filter(None, [", ".join(front), last]))


def facts(pair: Pair) -> list[tuple[str, str, str, bool]]:
    """How both were measured: a term, what is so in each, and whether that differs."""
    both = [_facts(pair, side) for side in pair.sides]
    found = []
    for term in dict.fromkeys([*both[0], *both[1]]):
        one, other = (each.get(term, DASH) for each in both)
        found.append((term, one, other, one != other))
    return found


def _facts(pair: Pair, side: Side) -> dict[str, str]:
    table = side.table
    told = {}
    if "dataset" in table:
        told["data"] = some([*table["dataset"].unique()])
    told["network"] = some([*table["network"].unique()])
    if pair.kind is MODEL:
        told["mode"] = some([*table["mode"].unique()]) if "mode" in table else ""
        told["steps"] = _range(table["step"])
        table = table[table["tensor"] != "weight"]
    else:
        told["widths"] = some([*map(str, sorted(table["width"].unique()))])
        told["layers"] = str(side.depth)
        if pair.kind is TRAINING:
            told["steps"] = _range(table["step"])
    if len(side.seeds) > 1 or pair.kind is not MODEL:
        told["seeds"] = seeds_of(table)
    told["gradients"] = "measured" if side.backward else "not measured"
    told["entries of a tensor"] = _range(table["count"])
    if side.run:
        settings = side.run.settings
        names = ("split", "samples", "images", "epochs", "batch", "optimizer", "schedule", "lr")
        told |= {n: str(settings[n]) for n in (*names, "loss") if settings.get(n) is not None}
        if "data" in settings:
            told["data fingerprint"] = f"SHA-256 {str(settings['data'])[:16]}…"
        told["computed"] = (
            f"in {settings.get('dtype', 'float32')} on {settings.get('device', 'cpu')}"
        )
        told["engine"] = ", ".join(f"{n} {value}" for n, value in side.run.engine.items())
    return told


def _range(numbers: pd.Series[Any]) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
