"""What all rules have to say about a table."""

from __future__ import annotations

import pandas as pd

from initstats.diagnosis.profile import Profile, profiles
from initstats.diagnosis.rules import RULES, Rule

SEVERITIES = ["error", "warning", "note", "healthy", "unchecked"]
COLUMNS = ["severity", "rule", "subject", "where", "evidence", "remedy"]


def diagnose(table: pd.DataFrame) -> pd.DataFrame:
    """Look for every fault that the rules know, in a study, a measured model or a training.

    Args:
        table: of `run_sweep` or `load_table` (each configuration is judged by the medians over its
            seeds), of `measure`, or of a `Probe` that watched a training (a fault is told once,
            with the steps at which it was there).

    Returns:
        One row a finding, the gravest first:

        - `severity`: `error` (the network will hardly train), `warning`, `note` (worth knowing), or
          `healthy` where a rule was checked and holds, `unchecked` where it could not be;
        - `rule`: a name of `RULES`; `subject`: the model's class, or the study's configuration;
        - `where`, `evidence`: the place, and the numbers; for `unchecked` why;
        - `remedy`: what to do about it.

    Raises:
        ValueError: neither the table of a study nor that of a probe.
    """
    subjects: dict[str, list[Profile]] = {}
    for profile in profiles(table):
        subjects.setdefault(profile.subject, []).append(profile)
    rows = [
        row for group in subjects.values() for rule in RULES.values() for row in _told(rule, group)
    ]
    found = pd.DataFrame(rows, columns=COLUMNS)
    found["severity"] = pd.Categorical(found["severity"], categories=SEVERITIES, ordered=True)
    return found.sort_values("severity", kind="stable", ignore_index=True)


def _told(rule: Rule, group: list[Profile]) -> list[tuple[str, ...]]:
    """What a rule says about one network at all its steps."""
    subject = group[0].subject
    reasons = [rule.missing(profile) for profile in group]
    if all(reasons):
        return [("unchecked", rule.name, subject, "", reasons[-1], "")]
    found: dict[str, tuple[str, ...]] = {}
    steps: dict[str, list[int]] = {}
    for profile, reason in zip(group, reasons, strict=True):
        for finding in () if reason else rule.check(profile, rule.threshold):
            severity, *rest = finding
            found[severity] = (severity, rule.name, subject, *rest)
            steps.setdefault(severity, []).append(profile.step)
    if not found:
        return [("healthy", rule.name, subject, "", rule.meaning, "")]
    if len(group) == 1:
        return list(found.values())
    return [
        (*row[:4], f"{row[4]} (at {_spelled(steps[severity], len(group))})", row[5])
        for severity, row in found.items()
    ]


def _spelled(steps: list[int], measured: int) -> str:
    """The steps of a fault in words."""
    if len(steps) == measured:
        return "every step"
    return (
        f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps, {steps[0]} to {steps[-1]}"
    )
