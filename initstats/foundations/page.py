"""The lesson as a page: the template has the words; code, numbers and figures come from here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from initstats import backprop
from initstats.foundations import steps
from initstats.foundations.evidence import LEVEL, Evidence, measure
from initstats.foundations.published import PUBLISHED
from initstats.machine import machine
from initstats.plots.style import decimal
from initstats.report.page import FILES, Files, Page, figures_of
from initstats.report.printed import DASH, Column, Table, printed, significant, typeset


def write_lesson(
    folder: str | Path, evidence: Evidence | None = None, files: Files = FILES
) -> Path:
    """Write the lesson as `index.html`, a page that needs no other file and no network.

    Beside it lie `figures/` (PNG and SVG), `lesson.csv`, `timings.csv` and `draws.csv`.

    Args:
        folder: where to.
        evidence: what `measure` returned; None measures now.
        files: those of figures that are wanted.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page, or one of another kind; no such figure.
        OSError: the folder cannot be written.
    """
    evidence = evidence or measure()
    table, draws, times = evidence.lesson, evidence.draws, evidence.timings
    drawn = table[[(row.step, row.quantity) in draws for row in table.itertuples()]]
    backward = times[times["direction"] == "backward"].set_index("implementation")
    ratios = [f"ratio{end}" for end in ("", "_low", "_high")]
    values = {
        "drawn": len(drawn),
        "inside": int(drawn["inside"].sum()),
        "level": f"{LEVEL:.1%}",
        "draws": f"{len(draws):,}",
        "gradients": table.loc[table["step"] == "gradients by hand", "mean"].iloc[0],
        "matmul": _range(*backward.loc["Module, matmul", ratios]),
        "outer": _range(*backward.loc["classes, outer product", ratios]),
        "lesson": partial(_rows, evidence),
        "source": _source,
        "timings": printed(times, TIMES),
        "facts": {
            "draws": f"{len(draws):,} seeds, 0 to {len(draws) - 1:,}",
            "intervals": f"the middle {LEVEL:.1%} of the draws",
            **{name: str(value) for name, value in machine().items()},
        },
    }
    flat = draws.set_axis([": ".join(column) for column in draws.columns], axis=1)
    tables: dict[str, pd.DataFrame | str] = {
        "lesson.csv": table,
        "timings.csv": times,
        "draws.csv": flat.to_csv(float_format="%.6g"),
    }
    return Page("lesson", values, figures_of("lesson", evidence), tables).publish(folder, files)


def _rows(evidence: Evidence, wanted: Sequence[str]) -> Table:
    """The measured rows of some steps of the lesson's table, as printed."""
    printed_as = {"printed": [row.printed for row in PUBLISHED]}
    printed_as["source"] = [row.source for row in PUBLISHED]
    table = evidence.lesson.assign(**printed_as)
    return printed(table[table["step"].isin(wanted) & table["mean"].notna()], LESSON)


def _source(names: Sequence[str]) -> str:
    """The source of some functions and classes, each docstring cut to its first line."""
    things = [getattr(steps if hasattr(steps, name) else backprop, name) for name in names]
    source = "\n\n".join(inspect.getsource(thing).rstrip() for thing in things)
    return re.sub(r'("""[^\n"]+)\n.*?"""', r'\1"""', source, flags=re.DOTALL)


def _range(middle: float, low: float, high: float) -> str:
    """A ratio with what it ranges over."""
    digits = 2 if high < 10 else 0
    return f"{decimal(middle, digits)} ({decimal(low, digits)} to {decimal(high, digits)})"


def _like(value: float, published: str) -> str:
    """A number to as many digits as the published one."""
    if not published or "e" in published:
        return significant(value, 2)
    return decimal(value, len(published.partition(".")[2]))


def _between(low: float, high: float, published: str) -> str:
    """The interval of what is drawn or timed."""
    if low == high:
        return DASH
    return f"{_like(low, published)} to {_like(high, published)}"


LESSON = [
    Column("step", "text", typeset),
    Column("quantity", "text", typeset),
    Column("published", "number", lambda text: text.replace("-", "−") or DASH, ("printed",)),
    Column("source"),
    Column("ours", "number", _like, ("mean", "printed")),
    Column("from … to", "number", _between, ("low", "high", "printed")),
    Column("inside", "word", lambda inside: "yes" if inside else "no"),
]
TIMES = [
    Column("implementation", "text"),
    Column("pass", "text", str, ("direction",)),
    Column("ms", "number", partial(significant, digits=3)),
    Column("times torch’s (range)", "number", _range, ("ratio", "ratio_low", "ratio_high")),
    Column("samples at once", "number", "{:,}".format, ("at_once",)),
    Column("peak memory, MiB", "number", lambda mib: decimal(mib, 0), ("peak_mib",)),
]
