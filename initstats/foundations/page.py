"""The lesson as a page: words, code from the source itself, numbers and figures."""

from __future__ import annotations

import inspect
import platform
import re
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from markupsafe import Markup, escape

from initstats.foundations.chapters import CHAPTERS, Chapter
from initstats.foundations.evidence import LEVEL, Evidence, measure
from initstats.foundations.published import PUBLISHED, Published
from initstats.plots import FIGURES
from initstats.plots.style import decimal
from initstats.report.drawing import rendered
from initstats.report.folder import PAGE, drafted, fill
from initstats.report.frame import Shown, render, shown
from initstats.report.words import DASH, significant, typeset


def write_lesson(folder: str | Path, evidence: Evidence | None = None) -> Path:
    """Write the lesson as `index.html`, a page that needs no other file and no network.

    Beside it lie `figures/` (PNG and SVG), `lesson.csv`, `timings.csv` and `draws.csv`.

    Args:
        folder: where to.
        evidence: what `measure` returned; None measures now.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page.
        OSError: the folder cannot be written.
    """
    evidence = evidence or measure()
    with drafted(folder) as draft:
        evidence.lesson.to_csv(draft / "lesson.csv", index=False)
        evidence.timings.to_csv(draft / "timings.csv", index=False)
        _flat(evidence.draws).to_csv(draft / "draws.csv", float_format="%.6g")
        chapters = [_chapter(chapter, evidence) for chapter in CHAPTERS]
        values = {
            "findings": _findings(evidence),
            "chapters": chapters,
            "columns": _COLUMNS,
            "timing_columns": _TIMING_COLUMNS,
            "facts": _facts(evidence),
        }
        drawings = [figure.drawing for chapter in chapters for figure in chapter["figures"]]
        fill(draft, render("lesson.html", values), drawings)
    return Path(folder) / PAGE


def _flat(draws: pd.DataFrame) -> pd.DataFrame:
    """One line of column names."""
    return draws.set_axis([": ".join(column) for column in draws.columns], axis=1)


def _facts(evidence: Evidence) -> dict[str, str]:
    return {
        "draws": f"{len(evidence.draws):,} seeds, 0 to {len(evidence.draws) - 1:,}",
        "intervals": f"the middle {LEVEL:.1%} of the draws",
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": f"{platform.system()}, {platform.machine()}",
    }


def _findings(evidence: Evidence) -> list[str]:
    """What came out, in sentences."""
    lesson = evidence.lesson
    drawn = lesson[[(row.step, row.quantity) in evidence.draws for row in lesson.itertuples()]]
    inside = int(drawn["inside"].sum())
    gradients = float(lesson.loc[lesson["step"] == "gradients by hand", "mean"].iloc[0])
    backward = evidence.timings[evidence.timings["direction"] == "backward"]
    matmul, outer = (
        backward[backward["implementation"] == name].iloc[0]
        for name in ("Module, matmul", "classes, outer product")
    )
    return [
        f"Of {len(drawn)} published numbers that are draws, {inside} lie inside the middle "
        f"{LEVEL:.1%} of {len(evidence.draws):,} draws of ours.",
        f"The gradients by hand are autograd’s to {significant(gradients, 1)} of their norm.",
        f"Backward, layers written by hand take {_range(matmul, 'ratio', 2)} times as long as "
        f"torch if the weight gradient is a matrix product, and "
        f"{_range(outer, 'ratio', 0)} times as long if it is one giant outer product.",
    ]


def _range(row: pd.Series, name: str, digits: int) -> str:
    """A median with what it ranges over."""
    low, middle, high = (decimal(row[f"{name}{end}"], digits) for end in ("_low", "", "_high"))
    return f"{middle} ({low} to {high})"


def _chapter(chapter: Chapter, evidence: Evidence) -> dict[str, Any]:
    rows = [
        _row(published, row)
        for published, row in zip(PUBLISHED, evidence.lesson.to_dict("records"), strict=True)
        if published.step in chapter.steps and not pd.isna(row["mean"])
    ]
    return {
        "id": re.sub(r"\W+", "-", chapter.title.lower()).strip("-"),
        "title": chapter.title,
        "text": [_prose(paragraph) for paragraph in chapter.text],
        "code": "\n\n".join(map(_source, chapter.code)),
        "rows": rows,
        "figures": [_figure(name, evidence) for name in chapter.figures],
        "timings": _timings(evidence.timings) if "torch" in chapter.steps else [],
    }


def _source(thing: Callable[..., object]) -> str:
    """The source of a function or class, each docstring cut to its first line."""
    source = inspect.getsource(thing).rstrip()
    return re.sub(r'("""[^\n"]+)\n.*?"""', r'\1"""', source, flags=re.DOTALL)


_COLUMNS = {
    "step": "text",
    "quantity": "text",
    "published": "number",
    "source": "name",
    "ours": "number",
    "from … to": "number",
    "inside": "word",
}
_TIMING_COLUMNS = {
    "implementation": "text",
    "pass": "text",
    "ms": "number",
    "times torch’s (range)": "number",
    "samples at once": "number",
    "peak memory, MiB": "number",
}


def _row(published: Published, row: dict[Hashable, Any]) -> dict[str, str]:
    """A row of the lesson's table, as printed: ours to the digits of the published number."""
    low, high = (_like(published.printed, row[end]) for end in ("low", "high"))
    return {
        "step": typeset(published.step),
        "quantity": typeset(published.quantity),
        "published": published.printed.replace("-", "−") or DASH,
        "source": published.source,
        "ours": _like(published.printed, row["mean"]),
        "from … to": DASH if row["low"] == row["high"] else f"{low} to {high}",
        "inside": DASH if pd.isna(row["inside"]) else ("yes" if row["inside"] else "no"),
    }


def _like(printed: str, value: float) -> str:
    """A number to as many digits as another."""
    if not printed or "e" in printed:
        return significant(value, 2)
    return decimal(value, len(printed.partition(".")[2]))


def _timings(timings: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "implementation": row["implementation"],
            "pass": row["direction"],
            "ms": significant(row["ms"], 3),
            "times torch’s (range)": _range(row, "ratio", 2 if row["ratio_high"] < 10 else 0),
            "samples at once": f"{row['at_once']:,}",
            "peak memory, MiB": DASH if pd.isna(row["peak_mib"]) else decimal(row["peak_mib"], 0),
        }
        for _, row in timings.iterrows()
    ]


def _figure(name: str, evidence: Evidence) -> Shown:
    picture = FIGURES[name]
    return shown(rendered(name, partial(picture.draw, evidence)), picture.title, picture.drawing)


def _prose(text: str) -> Markup:
    """A paragraph: `code` in backticks, *stress* in asterisks."""
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(typeset(text))))
    return Markup(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", html))
