"""An audit in a sentence, and the parameters that its findings name."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from initstats.audits.parameter import Drawn
from initstats.audits.scale import Formula

MANY = {
    "weight": "weights",
    "embedding": "embeddings",
    "gain": "gains",
    "bias": "biases",
    "other": "other parameters",
}
"""What the parameters of a kind are called, in the order of a sentence."""
MOST = 2
"""Laws that are told of a kind; the others are counted."""


def sentence(
    parameters: Iterable[Drawn],
    formulas: Mapping[str, Formula],
    computed: Container[str] = (),
) -> str:
    """The laws of a model's parameters by kind, the commonest first, with how many have each.

    Args:
        computed: names of those that follow a formula, and of which no law is told.
    """
    kinds: dict[str, Counter[Words]] = {kind: Counter() for kind in MANY}
    for each in parameters:
        law = law_in_words(each, formulas.get(each.name))
        kinds[each.kind][COMPUTED if each.name in computed else law] += 1
    told = [f"{MANY[kind]} {_told(laws)}" for kind, laws in kinds.items() if laws]
    return "; ".join(told) or "no parameters"


class Words(NamedTuple):
    """A law, empty where it is not known, and the scale, empty where it is no matter of chance."""

    law: str
    scale: str = ""

    def __str__(self) -> str:
        link = "with std" if self.law else "of std"
        return f"{self.law} {link} {self.scale}".strip() if self.scale else self.law


COMPUTED = Words("computed")
"""Of a parameter that follows a formula, and was not drawn."""


def law_in_words(each: Drawn, formula: Formula | None) -> Words:
    """The law of a parameter, with its scale where that is a matter of chance."""
    if each.law.name == "empty":
        return Words("without numbers")
    if each.law.name == "orthogonal":
        return Words(f"orthogonal with {formula.text}" if formula else "orthogonal")
    if not each.by_chance or not math.isfinite(each.std):
        return Words(str(each.law))
    scale = formula.text if formula else f"{each.std:.3g}"
    return Words("" if each.law.name in ("undecided", "unlike any") else str(each.law), scale)


def named_in(where: str, parameters: Iterable[Drawn]) -> list[str]:
    """The names of the parameters that the place of a finding is about, or of all of its role."""
    words = set(re.split(r"[\s,]+", where))
    return [each.name for each in parameters if words & {each.name, each.role}]


def _told(laws: Counter[Words]) -> str:
    """The commonest laws, with numbers where there are several."""
    for unknown in [words for words in laws if not words.law]:
        # too few entries to tell the law: that of others with the same scale
        alike = [words for words in laws if words.law and words.scale == unknown.scale]
        if alike:
            laws[max(alike, key=laws.__getitem__)] += laws.pop(unknown)
    if len(laws) == 1:
        return str(next(iter(laws)))
    total, common = laws.total(), laws.most_common(MOST if len(laws) > MOST + 1 else None)
    (first, most), *others = common
    parts = [f"{first} ({most} of {total})", *(f"{law} ({count})" for law, count in others)]
    left = total - sum(count for _, count in common)
    return ", ".join(parts) + (f", others ({left})" if left else "")
