"""The page of a measured model: what was found, its values by depth, and what was missed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from markupsafe import Markup

from initstats.diagnosis import diagnose
from initstats.plots import Probed
from initstats.plural import counted
from initstats.probe.summary import summarize_values
from initstats.report.embedded import Report
from initstats.report.page import FILES, Files, Page, figures_of
from initstats.report.printed import Column, percent, printed, significant

FINDINGS = [
    Column("severity", "word"),
    Column("rule"),
    Column("where", "code"),
    Column("evidence", "prose"),
    Column("remedy", "prose", lambda lines: Markup("<br>").join(lines.splitlines())),
]
VALUES = [
    Column("layer", "number"),
    Column("module", "head", str, ("name",)),
    Column("operation", "code", str, ("op",)),
    Column("shape", "name", lambda shape: shape.replace("x", " × ")),
    Column("mean", "number", significant),
    Column("std", "number", significant),
    Column("distribution", "picture"),
    Column("dead", "number", lambda share: percent(share) if share > 0 else ""),
    Column("not finite", "number", lambda count: f"{count:,}" if count else "", ("nonfinite",)),
]


def write_model_report(
    folder: str | Path,
    table: pd.DataFrame,
    histograms: pd.DataFrame,
    missed: pd.DataFrame,
    *,
    coverage: str = "",
    files: Files = FILES,
) -> Report:
    """Write `index.html`, a page that needs no other file, with `figures/` and `table.csv`.

    Args:
        folder: where to.
        table, histograms, missed, coverage: of a `Probe`, by the methods of these names.
        files: those of figures that are wanted.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page, or one of another kind; no such figure.
        OSError: the folder cannot be written.
    """
    found = diagnose(table)
    severity = found["severity"].astype(str)
    faults = found[severity.isin(["error", "warning", "note"])]
    checks = found.loc[severity != "unchecked", "rule"].nunique()
    values = {
        "network": table["network"].iloc[0] if len(table) else "Nothing",
        "steps": table["step"].nunique(),
        "errors": int((severity == "error").sum()),
        "warnings": int((severity == "warning").sum()),
        "faults": printed(faults, FINDINGS),
        "healthy": found[severity == "healthy"].to_dict("records"),
        "unchecked": _by_reason(found[severity == "unchecked"]),
        "values": printed(summarize_values(table, histograms), VALUES) if len(table) else None,
        "missed": missed.to_dict("records"),
        "coverage": coverage,
        "measured": counted(int((coverage or "0").split()[0]), "tensor was", "tensors were"),
        "checked": counted(checks, "check that could be made", "checks that could be made"),
    }
    figures = figures_of("model", Probed(table, histograms))
    tables = {"table.csv": table, "findings.csv": found, "missed.csv": missed}
    return Page("model", values, figures, tables).publish(folder, files)


def _by_reason(unchecked: pd.DataFrame) -> dict[str, list[str]]:
    """The names of the rules that were not checked, by the reason."""
    groups = unchecked.groupby("evidence", sort=False)["rule"]
    return {str(reason): [*dict.fromkeys(rules)] for reason, rules in groups}
