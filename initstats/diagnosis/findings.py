"""The findings of all rules about a table."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import pandas as pd

from initstats.diagnosis.advice import AS_FOR, is_code, told_once
from initstats.diagnosis.profile import Profile, profiles
from initstats.diagnosis.rules import RULES, Finding, Rule
from initstats.diagnosis.rules.rule import SLOWER, shortened
from initstats.diagnosis.sight import Blind
from initstats.diagnosis.training import Symptom, Training
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
            remedy = told_remedy(str(finding.remedy))
            code = is_code(str(finding.remedy))
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
        """The findings, each remedy once, of many places some."""
        faults = pd.DataFrame(self[self["severity"].isin(FAULTS)])
        faults = faults.assign(where=[shortened(where) for where in faults["where"]])
        if self["subject"].nunique() > 1:
            return faults
        return faults.assign(remedy=told_once([*faults["remedy"]], [*faults["rule"]]))

    def _others(self) -> Iterator[str]:
        """One line about the rules that hold, and one for each reason not to check a rule."""
        healthy = self[self["severity"] == "healthy"]
        if len(healthy):
            yield f"no fault found by: {_listed(healthy['rule'], self['subject'].nunique())}"
        unchecked = self[self["severity"] == "unchecked"]
        for reason, rows in unchecked.groupby("evidence", sort=False):
            yield f"unchecked: {_listed(rows['rule'], self['subject'].nunique())}: {reason}"


def told_remedy(remedy: str) -> list[str]:
    """The lines of a remedy as they are printed, one under the other."""
    head = "  remedy: "
    first, *rest = remedy.splitlines() or [""]
    return [head + first, *(" " * len(head) + line for line in rest)]


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
    rows = [row for steps in groups for row in _judged(steps)]
    if not groups:
        reason = "nothing was measured: the table is empty (did the model run, and in the probe?)"
        rows = [("unchecked", name, "", "", reason, "") for name in RULES]
    rows.sort(key=lambda row: row[0] not in FAULTS or not RULES[row[1]].cause)
    found = pd.DataFrame(rows, columns=COLUMNS)
    found["severity"] = pd.Categorical(found["severity"], categories=SEVERITIES, ordered=True)
    return Findings(found.sort_values("severity", kind="stable", ignore_index=True))


def _listed(rules: pd.Series[str], subjects: int) -> str:
    """Names of rules, each with the number of subjects if it is not said of all."""
    counts = rules.value_counts(sort=False)
    return ", ".join(
        str(name) if count == subjects else f"{name} ({count} of {subjects})"
        for name, count in counts.items()
    )


Found = list[tuple[Profile, Finding]]
"""What a rule says, each with the time that it says it about."""


def _judged(steps: list[Profile]) -> Iterator[tuple[str, ...]]:
    """What all rules have to say about one network: those about its training know the others."""
    each = {rule.name: _found(rule, steps) for rule in RULES.values() if not rule.whole}
    mode = {id(profile) for profile in Training(steps).trained}
    symptoms = {
        name: Symptom(bad[0][0].step, min((f.severity for _, f in bad), key=FAULTS.index))
        for name, found in each.items()
        if RULES[name].symptom and (bad := [(p, f) for p, f in found if _harms(p, f, mode)])
    }
    training = Training(steps, symptoms)
    whole = {
        rule.name: [*rule.check(training, rule.threshold)]
        for rule in RULES.values()
        if rule.whole and not missing(rule.needs, training)
    }
    causes = [
        name
        for name, told in whole.items()
        if RULES[name].cause and any(f.severity in FAULTS for f in told)
    ]
    brought = _brought(training, each, *causes[:1])
    for rule in RULES.values():
        about: list[Any] = [training] if rule.whole else _looked_at(rule, steps)
        reasons = [missing(rule.needs, one) for one in about]
        if all(reasons):
            yield "unchecked", rule.name, steps[0].subject, "", reasons[-1], ""
            continue
        if rule.name not in each:
            told = whole[rule.name] or [_holds("", rule.meaning)]
        else:
            told = _told(rule, each[rule.name], training, brought.get(rule.name, ""))
        for severity, *rest in told:
            yield severity, rule.name, steps[0].subject, *rest


def _looked_at(rule: Rule, steps: Sequence[Profile]) -> list[Profile]:
    """The times that a rule is about."""
    return [p for p in steps if not (rule.drawn and p.step > steps[0].step)]


def _found(rule: Rule, steps: list[Profile]) -> Found:
    """What a rule says about each time at which it can be checked."""
    checked = [p for p in _looked_at(rule, steps) if not missing(rule.needs, p)]
    return [(profile, f) for profile in checked for f in rule.check(profile, rule.threshold)]


def _harms(profile: Profile, finding: Finding, trained: set[int]) -> bool:
    return finding.severity in ("error", "warning") and id(profile) in trained


def _brought(training: Training, each: Mapping[str, Found], cause: str = "") -> dict[str, str]:
    """What to do about faults of the signal that a training brought about, by the rules' names.

    It is told where the cause is, or at the gravest; the others have the same cause.
    """
    late = dict[str, list[tuple[int, int]]]()
    for name, found in each.items():
        faults = [(FAULTS.index(f.severity), p.step) for p, f in found if f.severity in FAULTS]
        grown = any(f.remedy.startswith(SLOWER) for _, f in found)
        if (RULES[name].symptom or grown) and faults and faults[0][1] > training.first:
            late[name] = faults
    if not late:
        return {}
    lead = cause or min(late, key=lambda name: min(late[name]))
    begun = min(step for faults in late.values() for _, step in faults)
    told = dict.fromkeys(late, f"{AS_FOR}{lead}")
    return told if cause else told | {lead: _later(training, begun)}


def _told(rule: Rule, found: Found, training: Training, late: str) -> list[Finding]:
    """The findings of a rule at all steps, one for each severity, with the steps of each.

    Where there are none, why it could not look everywhere; or that it holds.

    Args:
        late: the remedy of a fault that the training brought about; empty for others.
    """
    measured = [profile.step for profile in training.profiles]

    def when(at: list[Profile]) -> str:
        steps = [profile.step for profile in at]
        return f" (at {_spelled(steps, measured)})" if len({*measured}) > 1 else ""

    told: list[Finding] = []
    faults = [(profile, finding) for profile, finding in found if finding.severity in FAULTS]
    for severity in FAULTS:
        at = [profile for profile, finding in faults if finding.severity == severity]
        # told as it was found first, where the cause is: all that a rule says of that step
        for profile, finding in faults:
            if finding.severity == severity and profile is at[0]:
                again = late and told and not late.startswith(AS_FOR)
                remedy = f"{AS_FOR}{rule.name}" if again else late
                evidence = finding.evidence + when(at)
                told.append(finding._replace(evidence=evidence, remedy=remedy or finding.remedy))
    if told:
        return told
    looked_at = _looked_at(rule, training.profiles)
    checked = [profile for profile in looked_at if not missing(rule.needs, profile)]
    blind = [(p, sight) for p in checked if (sight := p.sight.blind(rule.judges))]
    blind += [(p, Blind(f.where, f.evidence)) for p, f in found if f.severity == "unchecked"]
    if blind:
        where, reason = blind[0][1]
        return [Finding("unchecked", where, reason + when([p for p, _ in blind]), "")]
    # what a rule says though it holds is of its last step
    last = [f for profile, f in found if profile is checked[-1]]
    return [_holds(last[0].where, last[0].evidence) if last else _holds("", rule.meaning)]


def _holds(where: str, evidence: str) -> Finding:
    return Finding("healthy", where, evidence, "")


def _later(training: Training, step: int) -> str:
    """What to do about a fault of the signal that a training brought about."""
    if training.sick:
        first = ", ".join(name for name, s in training.symptoms.items() if s.step == training.first)
        return f"mend first what was there at step {training.first} already: {first}"
    size = training.largest_update(step)
    sizes = f", up to {size:.3g} of the weights (0.001 is usual)," if size > 0 else ""
    slow = "; weight decay or a normalization stops a slow growth" if size < 0.01 else ""
    return (
        f"{SLOWER}: the updates since step {training.first}{sizes} "
        f"caused this, not the initialization{slow}"
    )


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
