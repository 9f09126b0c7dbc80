"""Scales of weights that were computed with the wrong one of two fans."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from initstats.audits.parameter import Drawn
from initstats.audits.reading import Reading
from initstats.audits.siblings import Siblings
from initstats.diagnosis.rules import Finding

OUTWARDS = {
    "sqrt(2/fan_in)": "sqrt(2/fan_out)",
    "1/sqrt(fan_in)": "1/sqrt(fan_out)",
    "1/sqrt(3 fan_in)": "1/sqrt(3 fan_out)",
}
"""Formulas of the inputs, and the same with the outputs in their place."""


def wrong_fan(reading: Reading) -> Iterator[Finding]:
    """no weight takes one fan for its scale where the others of its kind take the other"""
    pairs = [*OUTWARDS.items(), *((out, inside) for inside, out in OUTWARDS.items())]
    for usual, odd in pairs:
        right: dict[str, list[Drawn]] = defaultdict(list)
        wrong: dict[str, list[Siblings]] = defaultdict(list)
        for group, fits in zip(reading.groups, reading.fits, strict=True):
            first = group.members[0]
            formula = reading.formulas.get(first.name)  # the one that explains most of the model
            if first.kind != "weight" or not formula:
                continue
            if formula.text == usual and odd not in fits:
                right[first.module].append(first)
            elif formula.text == odd and usual not in fits:
                wrong[first.module].append(group)
        for module, groups in wrong.items():
            if len(right[module]) >= max(2, 3 * len(groups) - 1):
                for each in [each for group in groups for each in group.members]:
                    apart = [not _same_scale(each, other) for other in right[module]]
                    if 2 * sum(apart) >= len(apart):
                        yield _other_fan(each, usual, odd)


def _same_scale(one: Drawn, other: Drawn) -> bool:
    """Whether two stds may be one number: where most are, it is no matter of fans."""
    return abs(math.log(one.std / other.std)) < 5 * math.hypot(one.error, other.error) + 1e-4


def _other_fan(each: Drawn, usual: str, odd: str) -> Finding:
    """A weight whose scale is that of the other fan."""
    fans = {"fan_in": each.fan_in, "fan_out": each.fan_out}
    meant, taken = fans if "fan_in" in usual else (*fans,)[::-1]
    return Finding(
        "warning",
        each.name,
        f"its std is {odd}, and that of other {each.module} weights {usual}: "
        f"{math.sqrt(fans[meant] / fans[taken]):.3g} times what it should be",
        f"compute its scale with {meant}, {fans[meant]:.0f}, not {fans[taken]:.0f}",
    )
