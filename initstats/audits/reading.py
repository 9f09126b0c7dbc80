"""What the rules of an audit look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from initstats.audits.parameter import Drawn
from initstats.audits.scale import Formula
from initstats.audits.siblings import Siblings
from initstats.diagnosis.rules import Finding


@dataclass(frozen=True)
class Reading:
    """What rules look at.

    Attributes:
        parameters: all of a model's.
        groups: the same, by siblings.
        formulas: of scales, by the names of parameters.
        fits: texts of all formulas that fit each group.
        equal: groups of names whose tensors are equal in all entries.
        level: probability with which chance alone makes one question a finding.
        stuck: faults of weights of zeros that never change; None where no gradient was measured.
        smooth: names of parameters that were not drawn, but follow a formula.
    """

    parameters: tuple[Drawn, ...]
    groups: tuple[Siblings, ...]
    formulas: dict[str, Formula]
    fits: tuple[frozenset[str], ...]
    equal: tuple[tuple[str, ...], ...]
    level: float
    stuck: tuple[Finding, ...] | None = None
    smooth: frozenset[str] = frozenset()


Rule = Callable[[Reading], Iterator[Finding]]
