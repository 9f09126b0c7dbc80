"""A measured model as a page: what was found, its values by depth, and what was missed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from initstats.diagnosis import diagnose
from initstats.plots import Probed, of_page
from initstats.probe.summary import summarize_values
from initstats.report.drawing import rendered
from initstats.report.folder import PAGE, drafted, fill
from initstats.report.frame import Shown, render, shown
from initstats.report.words import significant


def write_model_report(
    folder: str | Path,
    table: pd.DataFrame,
    histograms: pd.DataFrame,
    missed: pd.DataFrame,
    *,
    coverage: str = "",
) -> Path:
    """Write `index.html`, a page that needs no other file, with `figures/` and `table.csv`.

    Args:
        folder: where to.
        table, histograms, missed, coverage: of a `Probe`, by the methods of these names.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page.
        OSError: the folder cannot be written.
    """
    with drafted(folder) as draft:
        figures = _figures(table, histograms)
        found = diagnose(table)
        for name, rows in {"table": table, "findings": found, "missed": missed}.items():
            rows.to_csv(draft / f"{name}.csv", index=False)
        values = {
            "network": table["network"].iloc[0] if len(table) else "Nothing",
            "answer": _answer(found),
            "graves": _rows(found, "error", "warning", "note"),
            "healthy": _rows(found, "healthy"),
            "unchecked": _rows(found, "unchecked"),
            "figures": figures,
            "columns": _COLUMNS,
            "values": _values(table, histograms),
            "missed": missed.to_dict("records"),
            "coverage": coverage,
        }
        fill(draft, render("model.html", values), [figure.drawing for figure in figures])
    return Path(folder) / PAGE


def _figures(table: pd.DataFrame, histograms: pd.DataFrame) -> list[Shown]:
    """Those that the table has the rows for."""
    probed = Probed(table, histograms)
    return [
        shown(rendered(picture.name, partial(picture.draw, probed)), picture.title, picture.drawing)
        for picture in of_page("model")
        if not picture.missing(probed)
    ]


def _answer(found: pd.DataFrame) -> str:
    """The findings in a sentence."""
    counts = {name: int((found["severity"] == name).sum()) for name in ("error", "warning")}
    graves = [f"{n} {name}{'s' * (n > 1)}" for name, n in counts.items() if n]
    if graves:
        return f"There {'is' if sum(counts.values()) == 1 else 'are'} {' and '.join(graves)}."
    checked = found.loc[found["severity"] != "unchecked", "rule"].nunique()
    return f"No fault was found by the {checked} checks that could be made."


def _rows(found: pd.DataFrame, *severities: str) -> list[dict[str, str]]:
    chosen = found[found["severity"].isin(severities)]
    return [{str(key): str(value) for key, value in row.items()} for _, row in chosen.iterrows()]


_COLUMNS = {
    "layer": "number",
    "module": "head",
    "operation": "code",
    "shape": "name",
    "mean": "number",
    "std": "number",
    "distribution": "picture",
    "dead": "number",
    "not finite": "number",
}


def _values(table: pd.DataFrame, histograms: pd.DataFrame) -> list[dict[str, str]]:
    if table.empty:
        return []
    return [
        {
            "layer": str(row["layer"]),
            "module": str(row["name"]),
            "operation": str(row["op"]),
            "shape": str(row["shape"]).replace("x", " × "),
            "mean": significant(row["mean"]),
            "std": significant(row["std"]),
            "distribution": str(row["distribution"]),
            "dead": f"{row['dead']:.0%}" if row["dead"] > 0 else "",
            "not finite": f"{row['nonfinite']:,}" if row["nonfinite"] else "",
        }
        for _, row in summarize_values(table, histograms).iterrows()
    ]
