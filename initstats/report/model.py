"""A measured model as a page: what was found, its values by depth, and what was missed."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from initstats import __version__
from initstats.diagnosis import diagnose
from initstats.plots.probed import (
    depth_profile,
    distribution_profile,
    training_distributions,
    training_lines,
)
from initstats.plots.style import STYLE
from initstats.probe.summary import summarize_values
from initstats.report.drawing import Drawing, rendered
from initstats.report.page import EXTENT
from initstats.report.words import significant

PAGE = "index.html"


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
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    drawings = [(_drawn(*item), item) for item in _figures(table, histograms)]
    found = diagnose(table)
    files: dict[Path, bytes] = {
        folder / "table.csv": table.to_csv(index=False).encode(),
        folder / "findings.csv": found.to_csv(index=False).encode(),
        folder / "missed.csv": missed.to_csv(index=False).encode(),
    }
    for drawing, _ in drawings:
        files[folder / "figures" / f"{drawing.name}.png"] = drawing.png
        files[folder / "figures" / f"{drawing.name}.svg"] = drawing.svg.encode()
    environment = Environment(
        loader=PackageLoader("initstats"),
        autoescape=True,  # names come from users
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("model.html").render(
        css=Markup(environment.get_template("report.css").render()),
        network=table["network"].iloc[0] if len(table) else "Nothing",
        answer=_answer(found),
        graves=_rows(found, "error", "warning", "note"),
        healthy=_rows(found, "healthy"),
        unchecked=_rows(found, "unchecked"),
        figures=[_figure(drawing, *item[1:]) for drawing, item in drawings],
        values=_values(table, histograms),
        missed=missed.to_dict("records"),
        coverage=coverage,
        version=__version__,
    )
    files[folder / PAGE] = page.encode()  # last
    draft = Path(tempfile.mkdtemp(prefix=".model-", dir=folder))
    try:
        for number, content in enumerate(files.values()):
            (draft / str(number)).write_bytes(content)
        for number, place in enumerate(files):
            (draft / str(number)).replace(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / PAGE


Item = tuple[str, str, Callable[..., Figure], tuple[pd.DataFrame, ...]]


def _figures(table: pd.DataFrame, histograms: pd.DataFrame) -> list[Item]:
    """Name, title, function and arguments of the figures that the table has the rows for."""
    if table.empty:
        return []
    items: list[Item] = [
        ("depth_profile", "Depth profile", depth_profile, (table,)),
        (
            "distribution_profile",
            "Distributions by depth",
            distribution_profile,
            (table, histograms),
        ),
    ]
    if table["step"].nunique() > 1:
        items += [
            ("training_lines", "Through training", training_lines, (table,)),
            (
                "training_distributions",
                "The colourful dimension",
                training_distributions,
                (table, histograms),
            ),
        ]
    return items


def _drawn(
    name: str, _: str, function: Callable[..., Figure], given: tuple[pd.DataFrame, ...]
) -> Drawing:
    with mpl.rc_context(STYLE):
        return rendered(name, partial(function, *given)())


def _figure(
    drawing: Drawing, title: str, function: Callable[..., Figure], _: tuple[pd.DataFrame, ...]
) -> dict[str, Any]:
    return {
        "name": drawing.name,
        "title": title,
        "caption": " ".join((inspect.getdoc(function) or "").split()).replace("'", "’"),
        "width": round(EXTENT * drawing.width),
        "svg": Markup(drawing.inline),
    }


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


def _values(table: pd.DataFrame, histograms: pd.DataFrame) -> list[dict[str, str]]:
    if table.empty:
        return []
    return [
        {
            "layer": str(row["layer"]),
            "name": str(row["name"]),
            "op": str(row["op"]),
            "shape": str(row["shape"]).replace("x", " × "),
            "mean": significant(row["mean"]),
            "std": significant(row["std"]),
            "distribution": str(row["distribution"]),
            "dead": f"{row['dead']:.0%}" if row["dead"] > 0 else "",
            "nonfinite": f"{row['nonfinite']:,}" if row["nonfinite"] else "",
        }
        for _, row in summarize_values(table, histograms).iterrows()
    ]
