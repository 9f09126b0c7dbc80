"""Sentences that say what a comparison of two variants found."""

from __future__ import annotations

import math
from typing import Any

from initstats.outcome.runs import Measure
from initstats.plural import counted

FEWEST = 5
"""The seeds below which the spread of differences is hardly known."""


def sentence(row: dict[str, Any], kind: Measure, confidence: float) -> str:
    """One comparison of `summarize_training` in one sentence."""
    tell = _SENTENCES.get(str(row["verdict"]), _difference)
    where = f"For {row['where']}, " if row["where"] else ""
    return f"{where}{row['variant']} {tell(row, kind, confidence)}."


def _failing(row: dict[str, Any], kind: Measure, confidence: float) -> str:
    """It fails more often, or less."""
    return (
        f"{row['verdict']} than {row['baseline']}: it fails in {row['failed']} of "
        f"{counted(row['seeds'], 'seed')} and {row['baseline']} in {row['baseline_failed']} "
        f"(adjusted p = {row['p_failed_holm']:.2g})"
    )


def _same(row: dict[str, Any], kind: Measure, confidence: float) -> str:
    """It is the same, whatever the seed."""
    if row["failed"] == row["seeds"]:
        return f"fails in each of {counted(row['seeds'], 'seed')}, and so does {row['baseline']}"
    also = f"; both fail in {row['failed']} of them" if row["failed"] else ""
    return (
        f"has the same {kind.noun} as {row['baseline']} in each of "
        f"{counted(row['seeds'], 'seed')}{also}"
    )


def _difference(row: dict[str, Any], kind: Measure, confidence: float) -> str:
    """It is better, or worse."""
    by = {1: "a higher", -1: "a lower"}[kind.sign if row["verdict"] == "better" else -kind.sign]
    return f"has {by} {kind.noun} than {row['baseline']}: {_numbers(row, kind, confidence)}"


def _equivalent(row: dict[str, Any], kind: Measure, confidence: float) -> str:
    """It makes no difference that matters."""
    return (
        f"trains as well as {row['baseline']}: the difference in {kind.noun} is smaller than "
        f"{_amount(row['margin'], kind)} ({_numbers(row, kind, confidence)})"
    )


def _undecided(row: dict[str, Any], kind: Measure, confidence: float) -> str:
    """Nobody can say yet."""
    if not row["seeds"]:
        return f"has no seed in common with {row['baseline']} here, so they cannot be compared"
    if row["method"] == "too few":
        needs = f"at least {counted(row['seeds_needed'], 'more seed')} must be run before a test"
    elif math.isinf(row["seeds_needed"]):
        needs = "no number of further seeds would decide it if the true difference is this one"
    else:
        needs = (
            f"about {counted(row['seeds_needed'], 'more seed')} would decide it if the true "
            "difference is this one"
        )
        if row["seeds"] < FEWEST:
            needs = f"{row['seeds']} seeds are too few to say how many would decide it"
    return (
        f"cannot be told apart from {row['baseline']} yet: "
        f"{_numbers(row, kind, confidence)}; {needs}"
    )


def _numbers(row: dict[str, Any], kind: Measure, confidence: float) -> str:
    """The difference, its interval, the seeds, and who failed."""
    if math.isinf(row["difference"]):
        parts = ["too many runs failed for an estimate of the difference"]
    else:
        parts = [f"difference {_amount(row['difference'], kind, signed=True)}"]
    if not math.isnan(row["low"]):
        low, high = (_number(row[end], kind, signed=True) for end in ("low", "high"))
        parts.append(f"{100 * confidence:g}% interval {low} to {high}")
    parts.append(counted(row["seeds"], "seed"))
    if row["failed"] or row["baseline_failed"]:
        parts.append(
            f"{row['failed']} failed against {row['baseline_failed']}, ranked below all others"
        )
    return ", ".join(parts)


def _amount(value: float, kind: Measure, *, signed: bool = False) -> str:
    """A finite difference with its unit."""
    return f"{_number(value, kind, signed=signed)}{' points' if kind.share else ''}"


def _number(value: float, kind: Measure, *, signed: bool = False) -> str:
    """A difference in percentage points, or in three digits."""
    sign = "+" if signed else ""
    value = round(value, 4) + 0.0 if kind.share else value  # no -0.00
    if math.isinf(value):
        return "plus infinity" if value > 0 else "minus infinity"
    return f"{100 * value:{sign}.2f}" if kind.share else f"{value:{sign}.3g}"


_SENTENCES = {
    "fails more often": _failing,
    "fails less often": _failing,
    "same in every seed": _same,
    "equivalent": _equivalent,
    "not decided": _undecided,
}
