"""The page of an audit: what a model was initialized with, and which parameter is out of line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from initstats.diagnosis.advice import advise
from initstats.diagnosis.rules.rule import shortened
from initstats.plots.results import evenly
from initstats.plural import counted
from initstats.report.embedded import Report
from initstats.report.page import FILES, Files, Page, figures_of
from initstats.report.printed import DASH, Column, printed, significant

PRINTED = 2_000
"""Parameters of the page's table; of more, some, evenly taken."""


def _sizes(shape: str) -> str:
    return shape.replace("x", " × ") or DASH


ROLES = [
    Column("parameters", "head", str, ("role",)),
    Column("module", "code"),
    Column("shape", "name", _sizes),
    Column("blocks", "number", lambda blocks: str(blocks) if blocks else ""),
    Column("entries", "number", "{:,}".format, ("count",)),
    Column("drawn as", "prose", str, ("drawn",)),
]
PARAMETERS = [
    Column("parameter", "head", str, ("name",)),
    Column("shape", "name", _sizes),
    Column("law"),
    Column("mean", "number", lambda x: significant(x, 3)),
    Column("std", "number", lambda x: significant(x, 4)),
    Column("formula", "name"),
    Column("gives", "number", lambda x: significant(x, 4), ("expected_std",)),
    Column("inputs", "number", "{:,.0f}".format, ("fan_in",)),
    Column("outputs", "number", "{:,.0f}".format, ("fan_out",)),
    Column("tied to", "prose", str, ("tied",)),
]


def write_audit(folder: str | Path, found: Any, files: Files = FILES) -> Report:
    """Write `index.html`, a page that needs no other file, with `figures/` and tables.

    Args:
        folder: where to.
        found: what `audit` gives.
        files: those of figures that are wanted.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page, or one of another kind; no such figure.
        OSError: the folder cannot be written.
    """
    severity = found.findings["severity"].astype(str)
    faults = found.findings[severity.isin(["error", "warning", "note"])]
    faults = faults.assign(where=[shortened(where) for where in faults["where"]])
    counts = [(severity == name).sum() for name in ("error", "warning", "note")]
    table = found.table
    shown = table.iloc[evenly(range(len(table)), PRINTED)]
    values = {
        "network": found.network,
        "words": found.words,
        "verdict": _verdict(*counts),
        "size": found.size.partition(": ")[2],
        "level": f"{round(1 / found.level):,}",
        "advice": advise(faults, [[] for _ in range(len(faults))]),
        "healthy": found.findings[severity == "healthy"].to_dict("records"),
        "roles": printed(found.roles, ROLES),
        "parameters": printed(shown, PARAMETERS),
        "shown": counted(len(shown), "parameter"),
        "total": len(table),
        "cut": len(shown) < len(table),
    }
    tables = {"parameters.csv": table, "roles.csv": found.roles, "findings.csv": found.findings}
    return Page("audit", values, figures_of("audit", found), tables).publish(folder, files)


def _verdict(errors: int, warnings: int, notes: int) -> str:
    """How many faults were found."""
    told = [
        counted(number, noun)
        for number, noun in ((errors, "error"), (warnings, "warning"), (notes, "note"))
        if number
    ]
    return f"The audit found {' and '.join(told)}." if told else "The audit found no fault."
