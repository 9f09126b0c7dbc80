"""The page of a study: what goes where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from initstats.diagnosis import VERDICTS
from initstats.plots import FIGURES, Results
from initstats.plots.style import decimal
from initstats.report.drawing import Drawing
from initstats.report.frame import Shown, render
from initstats.report.source import Source
from initstats.report.words import (
    DASH,
    against_theory,
    best_by_activation,
    factor,
    findings,
    growth,
    significant,
    standfirst,
    typeset,
)


def compose(source: Source, drawings: Sequence[Drawing], missing: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
        source: what is reported.
        drawings: the figures, in their order.
        missing: by name, why the others could not be drawn.
    """
    results = source.results
    met = {word.name: (results.summary["verdict"] == word.name).any() for word in VERDICTS}
    return render(
        "study.html",
        {
            "title": f"Does the signal survive {_layers(results.depth)}?",
            "kicker": _kicker(source),
            "standfirst": standfirst(results),
            "unfinished": _unfinished(source),
            "findings": findings(results),
            "best": _best(results),
            "blocks": len(results.blocks) > 1,
            "figures": [_figure(drawing) for drawing in drawings],
            "theory": against_theory(results),
            "missing": {
                typeset(FIGURES[name].title): typeset(why) for name, why in missing.items()
            },
            "verdicts": {word.name: typeset(word.meaning) for word in VERDICTS if met[word.name]},
            "unmet": [name for name, there in met.items() if not there],
            "summary_columns": _columns(results),
            "summary": _rows(results),
            "facts": _facts(source),
            "grid": source.public_grid,
        },
    )


def _unfinished(source: Source) -> str:
    """A warning where the page shows a part of what was asked for."""
    cells = len(source.run.cells) if source.run else 0
    there = source.measured
    if there >= cells:
        return ""
    return f"Unfinished: {there:,} of {cells:,} cells are measured. The sweep's command goes on."


def _kicker(source: Source) -> str:
    """What was measured, in a line."""
    results = source.results
    seeds = f"{results.seeds} seed{'s' * (results.seeds != 1)}"
    return " · ".join(filter(None, (source.dataset, _networks(results), seeds)))


def _networks(results: Results) -> str:
    return ", ".join(f"{block.network} of width {block.width}" for block in results.blocks)


def _figure(drawing: Drawing) -> Shown:
    picture = FIGURES[drawing.name]
    return Shown(drawing, typeset(picture.title), typeset(picture.caption))


def _best(results: Results) -> list[dict[str, Any]]:
    """For each activation, which inits keep the signal, and by how much the best of them."""
    return [
        {
            "block": f"{best.block.network}, width {best.block.width}",
            "activation": best.activation,
            "kept": best.kept,
            "growth": DASH if best.row is None else growth(best.row),
            "std": DASH if best.row is None else significant(best.row["std"]),
            "lost": ", ".join(f"{word} {count}" for word, count in best.lost.items()) or DASH,
        }
        for best in best_by_activation(results)
    ]


def _columns(results: Results) -> dict[str, str]:
    """The columns of the summary, and what kind of thing is in each."""
    block = {"network": "name", "width": "number"} if len(results.blocks) > 1 else {}
    names = {"init": "name", "activation": "name", "verdict": "word", "of seeds": "number"}
    numbers = ["growth a layer", "std", "mean", "dead", "correlation"]
    if (results.table["direction"] == "backward").any():
        numbers.append("gradient growth")
    return block | names | dict.fromkeys(numbers, "number")


def _rows(results: Results) -> list[dict[str, str]]:
    """The summary, as printed."""
    return [
        {
            "network": row["network"],
            "width": row["width"],
            "init": row["init"],
            "activation": row["activation"],
            "verdict": row["verdict"],
            "of seeds": f"{round(row['agreement'] * row['seeds'])} of {row['seeds']}",
            "growth a layer": growth(row),
            "std": significant(row["std"]),
            "mean": significant(row["mean"]),
            "dead": DASH if pd.isna(row["dead"]) else f"{decimal(100 * row['dead'], 0)}%",
            "correlation": DASH if pd.isna(row["correlation"]) else decimal(row["correlation"], 2),
            "gradient growth": factor(row["gradient_growth"]),
        }
        for _, row in results.summary.iterrows()
    ]


def _facts(source: Source) -> dict[str, str]:
    """How the numbers came about: of a run all that its store noted, of a table what it shows."""
    results, run = source.results, source.run
    facts = {
        "data": source.dataset,
        "networks": _networks(results),
        "depth": _layers(results.depth),
        "seeds": _seeds(results),
    }
    if run is None or source.sessions is None:
        return {term: fact for term, fact in facts.items() if fact}
    settings, sessions = run.settings, source.sessions
    facts |= {
        "data": f"{source.dataset}, {settings['samples']:,} of the {settings['split']} split",
        "data fingerprint": f"SHA-256 {settings['data'][:16]}…",
        "finished": f"{source.measured:,} of {len(run.cells):,} cells",
        "duration": f"{sessions['seconds'].sum():.0f} s of computation"
        + (f" in {len(sessions)} sessions" if len(sessions) > 1 else ""),
        "started": f"{sessions['started'].iloc[0]:%Y-%m-%d %H:%M} UTC",
        "computed": f"in {settings.get('dtype', 'float32')} on {settings.get('device', 'cpu')}",
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
