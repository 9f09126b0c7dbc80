"""The findings of all rules about a table."""

from __future__ import annotations

import ast
import html
import textwrap
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any

import pandas as pd

from initstats.diagnosis.profile import Profile, profiles
from initstats.diagnosis.rules import RULES, Rule
from initstats.diagnosis.sight import Blind
from initstats.registry import missing

FAULTS = ["error", "warning", "note"]
SEVERITIES = [*FAULTS, "healthy", "unchecked"]
COLUMNS = ["severity", "rule", "subject", "where", "evidence", "remedy"]


class Findings(pd.DataFrame):
    """A DataFrame that prints each finding in full, until its columns are others."""

    @property
    def _constructor(self) -> type[Findings]:
        return Findings

    def __str__(self) -> str:
        if list(self.columns) != COLUMNS:
            return str(pd.DataFrame(self))
        width = pd.get_option("display.width") or 80
        several = self["subject"].nunique() > 1
        # names and numbers are not broken, nor is code
        wrapper = textwrap.TextWrapper(
            width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        lines: list[str] = []
        for finding in self._faults().itertuples():
            about = f" ({finding.subject})" if several else ""
            head = f"{finding.severity}: {finding.rule} at {finding.where}{about}"
            lines += wrapper.wrap(head) + wrapper.wrap(f"  {finding.evidence}")
            first, *rest = str(finding.remedy).splitlines() or [""]
            remedy = [f"  remedy: {first}", *(f"  {line}" for line in rest)]
            code = _is_code(str(finding.remedy))
            lines += remedy if code else [part for line in remedy for part in wrapper.wrap(line)]
        lines += [part for line in self._others() for part in wrapper.wrap(line)]
        return "\n".join(lines) or "no findings"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if list(self.columns) != COLUMNS:
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        with pd.option_context("display.max_colwidth", None):
            table = pd.DataFrame(self._faults()).to_html(index=False, border=0)
        return table + "".join(f"<p>{html.escape(text)}</p>" for text in self._others())

    def _faults(self) -> pd.DataFrame:
        return self[self["severity"].isin(FAULTS)]

    def _others(self) -> Iterator[str]:
        """One line about the rules that hold, and one for each reason not to check a rule."""
        healthy = self[self["severity"] == "healthy"]
        if len(healthy):
            yield f"healthy: {_listed(healthy['rule'], self['subject'].nunique())}"
        unchecked = self[self["severity"] == "unchecked"]
        for reason, rows in unchecked.groupby("evidence", sort=False):
            yield f"unchecked: {_listed(rows['rule'], self['subject'].nunique())}: {reason}"


def diagnose(table: Any) -> Findings:
    """Look for every fault that the rules know, in a study, a measured model or a training.

    Args:
        table: of `run_sweep` or `load_table` (each configuration is judged by the medians over its
            seeds), of `measure`, or of a `Probe` that watched a training (a fault is told once,
            with the steps at which it was found); or the probe itself.

    Returns:
        A DataFrame that is printed in full, with one row per finding, the gravest first:

        - `severity`: `error` (the network will hardly train), `warning`, `note` (worth knowing), or
          `healthy` where a rule was checked and holds, `unchecked` where it could not be;
        - `rule`: a name of `RULES`; `subject`: the model's class, or the study's configuration;
        - `where`, `evidence`: the place, and the numbers; for `unchecked` the reason;
        - `remedy`: what to do about it.

    Raises:
        ValueError: neither the table of a study nor that of a probe.
    """
    if not isinstance(table, pd.DataFrame):
        if not hasattr(table, "table"):
            raise ValueError(f"a table or a Probe is expected, not {type(table).__name__}")
        table = table.table()
    groups = [list(steps) for _, steps in groupby(profiles(table), attrgetter("subject"))]
    rows = [row for steps in groups for rule in RULES.values() for row in _told(rule, steps)]
    found = pd.DataFrame(rows, columns=COLUMNS)
    found["severity"] = pd.Categorical(found["severity"], categories=SEVERITIES, ordered=True)
    return Findings(found.sort_values("severity", kind="stable", ignore_index=True))


def _is_code(remedy: str) -> bool:
    """Whether a remedy runs as it is written."""
    try:
        return bool(ast.parse(remedy).body)
    except SyntaxError:
        return False


def _listed(rules: pd.Series[str], subjects: int) -> str:
    """Names of rules, each with the number of subjects if it is not said of all."""
    counts = rules.value_counts(sort=False)
    return ", ".join(
        str(name) if count == subjects else f"{name} ({count} of {subjects})"
        for name, count in counts.items()
    )


def _told(rule: Rule, steps: list[Profile]) -> list[tuple[str, ...]]:
    """The findings of a rule about one network at all its steps, one for each severity."""
    about = (rule.name, steps[0].subject)
    reasons = [missing(rule.needs, profile) for profile in steps]
    if all(reasons):
        return [("unchecked", *about, "", reasons[-1], "")]
    checked = [p for p, reason in zip(steps, reasons, strict=True) if not reason]
    said = [(profile, [*rule.check(profile, rule.threshold)]) for profile in checked]
    measured = [profile.step for profile in steps]

    def when(chosen: list[Profile]) -> str:
        at = [profile.step for profile in chosen]
        return f" (at {_spelled(at, measured)})" if len({*measured}) > 1 else ""

    told: list[tuple[str, ...]] = []
    for severity in FAULTS:
        found = {p: [f for f in all_ if f.severity == severity] for p, all_ in said}
        at = [profile for profile, faults in found.items() if faults]
        # told as it was found first, where the cause is: all that a rule says of that step
        for finding in found[at[0]] if at else ():
            evidence = finding.evidence + when(at)
            told.append((severity, *about, finding.where, evidence, finding.remedy))
    if told:
        return told
    blind = [(p, sight) for p in checked if (sight := p.sight.blind(rule.judges))]
    blind += [
        (p, Blind(f.where, f.evidence))
        for p, all_ in said
        for f in all_
        if f.severity == "unchecked"
    ]
    if blind:
        where, reason = blind[0][1]
        return [("unchecked", *about, where, reason + when([p for p, _ in blind]), "")]
    # what a rule says though it holds is of its last step
    where, evidence = next(((f.where, f.evidence) for f in said[-1][1]), ("", rule.meaning))
    return [("healthy", *about, where, evidence, "")]


def _spelled(at: list[int], measured: list[int]) -> str:
    """The steps of a fault in words."""
    found, steps = sorted({*at}), sorted({*measured})
    if found == steps:
        return "every step"
    if found == [step for step in steps if step >= found[0]]:
        return f"step {found[0]}" + (" and every step after it" if len(found) > 1 else "")
    if len(found) == 1:
        return f"step {found[0]}"
    return f"{len(found)} steps, {found[0]} to {found[-1]}"
