"""Findings that follow from a graver one about the same parameters, and are not told beside it."""

from __future__ import annotations

import re

from initstats.audits.reading import Reading
from initstats.diagnosis.rules import Finding

_FOLLOWING = ("equal_units", "centred", "gains", "wrong_fan", "left_at_default", "strays")
"""Rules about numbers that somebody drew."""


def consequences(told: dict[str, list[Finding]], reading: Reading) -> list[Finding]:
    """The findings that follow from a fault which another one tells of all their parameters."""
    law = {each.name: each.law.name for each in reading.parameters}

    def names(rule: str) -> set[str]:
        return {n for f in told[rule] if f.severity != "note" for n in re.split(r"[\s,]+", f.where)}

    unwritten, zeros = names("uninitialized"), names("zeros")
    constant = {name for name in names("equal_units") if law.get(name) in ("constant", "ones")}
    causes = dict.fromkeys(_FOLLOWING, unwritten)
    causes["out_of_line"] = unwritten | zeros | constant
    pairs = [(rule, found) for rule, all_ in told.items() for found in all_]
    return [found for rule, found in pairs if {*found.where.split(", ")} <= causes.get(rule, set())]
