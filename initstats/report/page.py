"""The page: what goes where. How it looks is the templates' matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from initstats import __version__
from initstats.diagnosis import VERDICTS
from initstats.plots import FIGURES, Results
from initstats.plots.style import decimal
from initstats.report.drawing import Drawing
from initstats.report.source import Source
from initstats.report.words import (
    DASH,
    best_by_activation,
    findings,
    significant,
    standfirst,
)

EXTENT = 112
"""Width of an inch of a figure on the page, pixels."""


def compose(source: Source, drawings: Sequence[Drawing], missing: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
        source: what is reported.
        drawings: the figures, in their order.
        missing: by name, why the others could not be drawn.
    """
    environment = Environment(
        loader=PackageLoader("initstats"),
        autoescape=True,  # names come from users
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = source.results
    return environment.get_template("report.html").render(
        css=Markup(environment.get_template("report.css").render()),
        title=f"Does the signal survive {_layers(results.depth)}?",
        kicker=_kicker(source),
        standfirst=standfirst(results),
        findings=findings(results),
        best=_best(results),
        blocks=len(results.blocks) > 1,
        figures=[_figure(drawing) for drawing in drawings],
        missing={FIGURES[name].title: reason for name, reason in missing.items()},
        verdicts=[
            verdict for verdict in VERDICTS if verdict.name in set(results.summary["verdict"])
        ],
        header=_header(results),
        summary=_rows(results),
        facts=_facts(source),
        grid=source.public_grid,
        version=__version__,
    )


def _kicker(source: Source) -> str:
    """What was measured, in a line."""
    results = source.results
    networks = ", ".join(f"{block.network} of width {block.width}" for block in results.blocks)
    seeds = f"{results.seeds} seed{'s' * (results.seeds != 1)}"
    return " · ".join(filter(None, (source.dataset, networks, seeds)))


def _figure(drawing: Drawing) -> dict[str, Any]:
    picture = FIGURES[drawing.name]
    return {
        "name": drawing.name,
        "title": picture.title,
        "caption": picture.caption,
        "width": round(EXTENT * drawing.width),
        "wide": drawing.width > 5,
        "svg": Markup(drawing.inline),
    }


def _best(results: Results) -> list[dict[str, Any]]:
    """For each activation, which inits keep the signal, and by how much the best of them."""
    rows = []
    for row in best_by_activation(results).itertuples():
        best = results.summary.loc[row.best] if row.kept else None
        rows.append(
            {
                "block": f"{row.network}, width {row.width}",
                "activation": row.activation,
                "kept": row.kept,
                "growth": _growth(best) if best is not None else DASH,
                "std": significant(best["std"]) if best is not None else DASH,
                "lost": ", ".join(f"{word} {count}" for word, count in row.lost.items()) or DASH,
            }
        )
    return rows


def _growth(row: pd.Series) -> str:
    """Growth a layer with its interval."""
    growth = significant(row["growth"], 3)
    if pd.isna(row["growth_low"]):
        return growth
    return f"{growth} ({significant(row['growth_low'], 3)} to {significant(row['growth_high'], 3)})"


def _header(results: Results) -> list[str]:
    """The columns of the summary."""
    block = ["network", "width"] if len(results.blocks) > 1 else []
    names = ["init", "activation", "verdict", "seeds", "growth a layer", "std", "mean", "dead"]
    gradient = ["gradient growth"] if _measured_gradients(results) else []
    return [*block, *names, "correlation", *gradient]


def _rows(results: Results) -> list[dict[str, Any]]:
    """The summary, as printed."""
    return [
        {
            "verdict": str(row["verdict"]),
            "cells": [
                *([row["network"], row["width"]] if len(results.blocks) > 1 else []),
                row["init"],
                row["activation"],
                row["verdict"],
                f"{round(row['agreement'] * row['seeds'])} of {row['seeds']}",
                _growth(row),
                significant(row["std"]),
                significant(row["mean"]),
                DASH if pd.isna(row["dead"]) else f"{decimal(100 * row['dead'], 0)}%",
                DASH if pd.isna(row["correlation"]) else decimal(row["correlation"], 2),
                *([significant(row["gradient_growth"], 3)] if _measured_gradients(results) else []),
            ],
        }
        for _, row in results.summary.iterrows()
    ]


def _measured_gradients(results: Results) -> bool:
    return bool((results.table["direction"] == "backward").any())


def _facts(source: Source) -> dict[str, str]:
    """How the numbers came about: of a run all that its store noted, of a table what it shows."""
    results, run = source.results, source.run
    facts = {
        "data": source.dataset,
        "networks": ", ".join(
            f"{block.network} of width {block.width}" for block in results.blocks
        ),
        "depth": _layers(results.depth),
        "seeds": _seeds(results),
    }
    if run is None or source.sessions is None:
        return {term: fact for term, fact in facts.items() if fact}
    settings, sessions = run.settings, source.sessions
    cells = len(results.table) // len(run.rows)
    facts |= {
        "data": f"{source.dataset}, {settings['samples']:,} images of the {settings['split']} split",
        "data fingerprint": f"SHA-256 {settings['data'][:16]}…",
        "finished": f"{cells:,} of {len(run.cells):,} cells",
        "duration": f"{sessions['seconds'].sum():.0f} s of computation"
        + (f" in {len(sessions)} sessions" if len(sessions) > 1 else ""),
        "started": f"{sessions['started'].iloc[0]:%Y-%m-%d %H:%M} UTC",
        "engine": ", ".join(f"{name} {value}" for name, value in run.engine.items()),
    }
    environment = sessions.iloc[-1].drop(["started", "seconds", "cells"]).dropna()
    return facts | {str(name): str(value) for name, value in environment.items()}


def _seeds(results: Results) -> str:
    seeds = sorted(int(seed) for seed in results.table["seed"].unique())
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _layers(depth: int) -> str:
    return "one layer" if depth == 1 else f"{depth} layers"
