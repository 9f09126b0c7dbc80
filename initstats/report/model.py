"""The page of a measured model: what was found, its values by depth, and what was missed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from initstats.diagnosis import diagnose
from initstats.diagnosis.advice import advise
from initstats.plots import Probed
from initstats.plural import counted
from initstats.probe.summary import summarize_values
from initstats.report.embedded import Report
from initstats.report.page import FILES, Files, Page, figures_of
from initstats.report.printed import Column, percent, printed, significant
from initstats.report.profile import Places, profile_of

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


THEORY = [
    Column("layer", "number"),
    Column("module", "head", str, ("name",)),
    Column("operation", "code", str, ("op",)),
    Column("direction", "name", str),
    Column("second moment", "number", significant, ("measured",)),
    Column("predicted", "number", significant),
    Column("ratio", "number", lambda ratio: significant(ratio, 3)),
    Column("claim", "name", str),
    Column("why not", "name", str, ("note",)),
]


def write_model_report(
    folder: str | Path,
    table: pd.DataFrame,
    histograms: pd.DataFrame,
    missed: pd.DataFrame,
    *,
    coverage: str = "",
    name: str = "",
    theory: pd.DataFrame | None = None,
    files: Files = FILES,
) -> Report:
    """Write `index.html`, a page that needs no other file, with `figures/` and `table.csv`.

    Args:
        folder: where to.
        table, histograms, missed, coverage: of a `Probe`, by the methods of these names.
        name: the model's; by default its class, as the table has it.
        theory: what was predicted, laid beside what was measured, as `beside` gives it.
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
    places = Places(table)
    layers = [places.among(where) for where in faults["where"]]
    values = {
        "network": name or (table["network"].iloc[0] if len(table) else "A model"),
        "steps": table["step"].nunique(),
        "errors": int((severity == "error").sum()),
        "warnings": int((severity == "warning").sum()),
        "advice": advise(faults, layers),
        "profile": profile_of(table, layers),
        "healthy": found[severity == "healthy"].to_dict("records"),
        "unchecked": _by_reason(found[severity == "unchecked"]),
        "values": printed(summarize_values(table, histograms), VALUES) if len(table) else None,
        "theory": None if theory is None else printed(theory, THEORY),
        "missed": missed.to_dict("records"),
        "coverage": coverage,
        "measured": counted(int((coverage or "0").split()[0]), "tensor was", "tensors were"),
        "checked": counted(checks, "check that could be made", "checks that could be made"),
    }
    figures = figures_of("model", Probed(table, histograms))
    tables = {"table.csv": table, "findings.csv": found, "missed.csv": missed}
    if theory is not None:
        tables["theory.csv"] = theory
    return Page("model", values, figures, tables).publish(folder, files)


def _by_reason(unchecked: pd.DataFrame) -> dict[str, list[str]]:
    """The names of the rules that were not checked, by the reason."""
    groups = unchecked.groupby("evidence", sort=False)["rule"]
    return {str(reason): [*dict.fromkeys(rules)] for reason, rules in groups}
