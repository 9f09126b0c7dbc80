"""The page of a coordinate check: the verdict, sizes over width, and the powers of parameters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from initstats.diagnosis.advice import is_code
from initstats.plots.style import decimal
from initstats.plural import counted
from initstats.report.embedded import Report
from initstats.report.page import FILES, Files, Page, figures_of
from initstats.report.printed import Column, printed

POWER = partial(decimal, digits=2)
PARAMETERS = [
    Column("parameter", "head"),
    Column("kind"),
    Column("multiplier", "number", POWER),
    Column("initial values", "number", POWER, ("init",)),
    Column("should be", "number", POWER, ("init_expected",)),
    Column("learning rate", "number", POWER, ("rate",)),
    Column("should be", "number", POWER, ("rate_expected",)),
    Column("not judged", "prose", str, ("note",)),
]
SLOPES = [
    Column("module", "head", str, ("name",)),
    Column("operation", "code", str, ("place",)),
    Column("quantity"),
    Column("when", "name"),
    Column("slope", "number", POWER),
    Column("95% interval", "number", lambda a, b: f"{POWER(a)} to {POWER(b)}", ("low", "high")),
    Column("should be", "number", POWER, ("expected",)),
    Column("verdict", "name"),
]


def write_coordinates(folder: str | Path, found: Any, files: Files = FILES) -> Report:
    """Write `index.html`, a page that needs no other file, with `figures/` and tables.

    Args:
        folder: where to.
        found: what `coordinate_check` gives.
        files: those of figures that are wanted.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page, or one of another kind; no such figure.
        OSError: the folder cannot be written.
    """
    severity = found.findings["severity"].astype(str)
    faults = found.findings[severity.isin(["error", "warning", "note"])].to_dict("records")
    slopes = found.slopes[found.slopes["verdict"] != ""].sort_values(["layer", "quantity", "step"])
    widths, table = sorted(found.table["width"].unique()), found.table
    values = {
        "network": found.network,
        "lead": found.lead,
        "comparison": found.comparison,
        "faults": [row | {"code": is_code(str(row["remedy"]))} for row in faults],
        "unchecked": found.findings[severity == "unchecked"].to_dict("records"),
        "widths": ", ".join(f"{width:,}" for width in widths),
        "base": int(widths[0]),
        "seeds": counted(table["seed"].nunique(), "draw of the weights", "draws of the weights"),
        "steps": counted(table["step"].max(), "step"),
        "parameters": printed(found.parameters.fillna({"note": ""}), PARAMETERS),
        "slopes": printed(told_apart(slopes), SLOPES),
        "missed": found.missed.to_dict("records"),
    }
    tables = {
        "table.csv": found.table,
        "slopes.csv": found.slopes,
        "parameters.csv": found.parameters,
        "findings.csv": found.findings,
        "missed.csv": found.missed,
    }
    return Page("coordinates", values, figures_of("coordinates", found), tables).publish(
        folder, files
    )


def told_apart(slopes: pd.DataFrame) -> pd.DataFrame:
    """Slopes with a `place`, no two rows of which look alike, and `when` they were measured.

    The place is the operation, with the number of the module's call, of the operation in it and the
    kind of the tensor, as far as these differ at the same module and operation.
    """
    own = ["name", "op"]
    words = {"call": "call {}", "turn": "no. {}", "tensor": "{}"}
    place = slopes["op"].astype(str)
    for column, text in words.items():
        several = slopes.groupby(own, observed=True)[column].transform("nunique") > 1
        number = slopes[column] + 1 if column == "turn" else slopes[column]
        more = number.map(lambda value, text=text: ", " + text.format(value))
        place = place.where(~several, place + more.astype(str))
    steps = slopes["step"].map(lambda step: f"after step {step}" if step else "at init")
    return slopes.assign(place=place, when=steps)
