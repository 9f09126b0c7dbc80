"""Verdicts of a coordinate check: which parameter is off, and which power of width repairs it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from initstats.coordinates.parameters import GROWS, TOLERANCE, Grid, power
from initstats.coordinates.parametrization import MUP, PARAMETRIZATIONS, Growth
from initstats.coordinates.remedies import (
    init_lines,
    multiplier_lines,
    rate_lines,
    snapped,
    written,
)
from initstats.coordinates.trial import records
from initstats.diagnosis.findings import COLUMNS, SEVERITIES, Findings
from initstats.plural import counted

SHOWN = 4
"""The largest number of places that a finding lists in full."""
GROWTH = 0.25
"""The slope of a change from which on it grows with the width."""
OUTPUT_BELOW = "output"
Told = tuple[str, str, str, str, str]
"""Severity, rule, place, evidence and remedy."""


def nearest(parameters: pd.DataFrame) -> tuple[str, str]:
    """The parametrization that fits most powers, and how many, in words; "" of none."""
    scores = {}
    judged = parameters[parameters["kind"] != "fixed"].dropna(subset=["rate"])
    for name, each in PARAMETRIZATIONS.items():
        fits = 0
        for row in records(judged):
            growth = Growth(row["kind"], row["fan_in"], row["fan_out"])
            matrix = row["kind"] in ("input", "hidden", "output") and not math.isnan(row["init"])
            degree = row["degree"]
            wanted = each.rate_of(growth, degree, orthogonal=row["orthogonal"])
            fits += abs(row["rate"] - wanted) <= TOLERANCE
            fits += not matrix or abs(row["init"] - each.init(growth, degree)) <= TOLERANCE
        scores[name] = fits
    best = max(scores, key=scores.__getitem__)
    share = f"{scores[best]} of {2 * len(judged)} powers" if len(judged) else ""
    return best, share


def findings_of(
    parameters: pd.DataFrame,
    grid: Grid,
    slopes: pd.DataFrame,
    *,
    subject: str,
    parametrization: str = MUP,
    deep: Sequence[Told] = (),
) -> Findings:
    """What a check found, in the form of `initstats.diagnose`.

    Args:
        parameters: of `exponents`.
        slopes: of the values of all operations, with their `role`.
        subject: the model's class.
        parametrization: what the model is compared with.
        deep: what was found over depth, without the subject.
    """
    title = PARAMETRIZATIONS[parametrization].title
    if not (parameters["kind"] != "fixed").any():
        reason = "no parameter's shape changes: the factory makes the same model at every width"
        over_depth = [(severity, rule, subject, *rest) for severity, rule, *rest in deep]
        return _findings([("unchecked", "parameters", subject, "", reason, ""), *over_depth])
    told = [*_off(parameters, grid, title), *_scores(grid, parametrization)]
    if not told and parametrization == MUP:
        told = [*_unexplained(slopes)]
    rows: list[tuple[str, ...]] = [
        (severity, rule, subject, *rest) for severity, rule, *rest in told
    ]
    blind: dict[str, list[str]] = {}
    for row in records(parameters):
        if row["note"]:
            blind.setdefault(row["note"], []).append(row["parameter"])
    if not any(row[0] in ("error", "warning") for row in rows):
        judged = counted(
            parameters["rate"].notna().sum(), "use of a parameter is", "uses of parameters are"
        )
        rows.append(("healthy", "parameters", subject, "", f"{judged} as {title} has them", ""))
    rows += [(severity, rule, subject, *rest) for severity, rule, *rest in deep]
    for reason, names in blind.items():
        rows.append(("unchecked", "parameters", subject, listed(names), reason, ""))
    return _findings(rows)


def _findings(rows: Sequence[tuple[str, ...]]) -> Findings:
    found = pd.DataFrame(rows, columns=COLUMNS)
    found["severity"] = pd.Categorical(found["severity"], categories=SEVERITIES, ordered=True)
    return Findings(found.sort_values("severity", kind="stable", ignore_index=True))


def _off(parameters: pd.DataFrame, grid: Grid, title: str) -> Iterator[Told]:
    """Parameters that are off, those together that are off alike."""
    groups: dict[tuple[str, str, float, float], list[dict[str, Any]]] = {}
    for row in records(parameters):
        for rule, severity, off, was in faults(row):
            key = severity, rule, snapped(off), snapped(was)
            groups.setdefault(key, []).append(row)
    for (severity, rule, off, was), rows in groups.items():
        names = [*dict.fromkeys(str(row["parameter"]) for row in rows)]
        kinds = [*dict.fromkeys(str(row["kind"]) for row in rows)]
        curved = any(row["curved"] is True for row in rows)
        yield (
            severity,
            rule,
            listed(names),
            evidence(rule, kinds, off, was, title, curved=curved),
            REMEDIES[rule](names, off, grid.sizes[0]),
        )


def faults(row: dict[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """What is off about a use of a parameter: rule, severity, by which power, and what it is."""
    init, rate = _number(row["init_off"]), _number(row["rate_off"])
    below = "note" if row["kind"] == OUTPUT_BELOW else "warning"
    at_once = init * (1 + _number(row["degree"]))
    if init and rate and abs(rate - at_once) <= TOLERANCE and row["kind"] in ("hidden", "output"):
        yield "multiplier", "error" if init > 0 else "warning", init, row["multiplier"]
        return
    if init:
        yield "init_scale", "error" if init > 0 else below, init, row["init"]
    idle = row["kind"] == "fixed" and rate < 0 and _number(row["multiplier"]) < -GROWS
    if rate and not idle:
        yield "learning_rate", "error" if rate > 0 else "warning", rate, row["rate"]


NOUNS = {
    "init_scale": "the initial scale",
    "learning_rate": "the learning rate",
    "multiplier": "the multiplier",
}
EFFECTS = {
    ("init_scale", True): "its output grows with the width",
    ("init_scale", False): "its output vanishes with the width",
    ("learning_rate", True): "its updates change the model more, the wider it is",
    ("learning_rate", False): "its updates change the model less, the wider it is",
    ("multiplier", True): "its output and what its updates do grow with the width",
    ("multiplier", False): "its output and what its updates do vanish with the width",
}
"""What becomes of it, by the rule and whether the power is too large."""
REMEDIES = {
    "init_scale": init_lines,
    "learning_rate": rate_lines,
    "multiplier": multiplier_lines,
}
KINDS = {"fixed": "parameters of fixed shape", "vector": "vectors"}


def evidence(
    rule: str, kinds: Sequence[str], off: float, was: float, title: str, *, curved: bool
) -> str:
    """A fault in numbers."""
    effect = EFFECTS[rule, off > 0]
    if OUTPUT_BELOW in kinds and rule == "init_scale" and off < 0:
        effect = "it begins as if it were zero: what is before it learns from the second step on"
    at = " at the largest widths (it is no power of the width n)" if curved else ""
    of = " and ".join(KINDS.get(kind, f"{kind} weights") for kind in kinds)
    return (
        f"{NOUNS[rule]} of {of} is proportional to {written(was)}{at}, with {title} it is "
        f"{written(was - off)}: {effect}"
    )


def _scores(grid: Grid, parametrization: str) -> Iterator[Told]:
    """Products of two signals over something that grows, as the scores of attention."""
    wanted = -1.0 if parametrization in (MUP, "mean_field") else -0.5
    counts = {len(trial.anatomy.pairings) for trial in grid.first}
    if len(counts) > 1:
        return
    for pairings in zip(*(trial.anatomy.pairings for trial in grid.first), strict=True):
        grown = power(grid.x, [each.size for each in pairings])
        scales = [
            trial.anatomy.score_scale(each)
            for trial, each in zip(grid.first, pairings, strict=True)
        ]
        if grown <= GROWS or not all(scale > 0 for scale in scales):
            continue
        was = power(grid.x, scales)
        off = was - wanted * grown
        if abs(off) > TOLERANCE:
            name, op = grid.first[0].anatomy.places[pairings[0].layer]
            yield (
                "error" if off > 0 else "warning",
                "attention_scale",
                f"{name} ({op})",
                f"scores are multiplied by {written(was)}, {written(wanted * grown)} is expected: "
                f"once queries and keys agree, they {'grow' if off > 0 else 'vanish'} with the "
                f"width n; they sum {counted(pairings[0].size, 'term')} at the smallest width and "
                f"{pairings[-1].size:,} at the largest",
                "divide the scores by d_head, not by its root: "
                "scaled_dot_product_attention(q, k, v, scale=1 / q.shape[-1])"
                if wanted == -1
                else "divide the scores by the root of d_head",
            )


def _unexplained(slopes: pd.DataFrame) -> Iterator[Told]:
    """Operations whose values grow though all parameters are as they should be."""
    rows = slopes[slopes["role"].isin(["input", "hidden", "output"]) & (slopes["note"] == "")]
    last = rows["step"].max()
    for quantity, step in (("value", 0), ("change", last)):
        here = rows[(rows["quantity"] == quantity) & (rows["step"] == step)].sort_values("layer")
        grown = here[(here["slope"] > GROWTH) & (here["end"] > GROWTH) & (here["low"] > TOLERANCE)]
        for row in records(grown.head(1)):
            what = "the values at init" if quantity == "value" else f"the change after step {step}"
            yield (
                "warning",
                "growth",
                f"{row['name']} ({row['op']})",
                f"{what} grow as {written(row['slope'])}, though no parameter is off",
                f"look for a sum over the width at or before it, and multiply it by "
                f"{written(-snapped(row['slope']))}",
            )
            return


def listed(names: Sequence[str]) -> str:
    """Some names, not too many."""
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[: SHOWN - 1])} and {len(names) - SHOWN + 1} more"


def _number(value: Any) -> float:
    return 0.0 if math.isnan(value) else float(value)
