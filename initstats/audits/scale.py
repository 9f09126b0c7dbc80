"""The rule behind a scale: of the usual formulas, the simplest that fits all siblings.

A formula is about the standard deviation of the entries. It fits where it lies within the error of
every member's own; of formulas that fit, the one that explains most groups of the model is taken,
and of those the simplest.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scipy import stats

from initstats.audits.law import Law
from initstats.audits.parameter import Drawn
from initstats.audits.siblings import Siblings
from initstats.schemes.draw import cut_moments

CUT = math.sqrt(cut_moments(2.0)[0])
"""What a cut at 2 standard deviations leaves of a normal law's, where nobody made up for it."""
FETCHED = 1.5
"""The cost of depths that no constant is divided by."""
EXACT = ("constant", "ones", "identity")
"""Laws without a scale of chance."""
_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3, "RNN": 1, "RNNCell": 1}
"""Recurrent modules, and how many matrices they keep in one."""
_MANTISSAS = {1: 1, 2: 1, 5: 1, 3: 2, 4: 2, 6: 2, 7: 2, 8: 2, 9: 2, 1.5: 2, 2.5: 2}


class Formula(NamedTuple):
    """A formula for a standard deviation, and how far-fetched it is."""

    text: str
    cost: float
    value: float


def depth(group: Siblings) -> int:
    """The number of blocks in which a group has members."""
    return len({each.place[:1] for each in group.members})


def formulas(each: Drawn, blocks: int, block: int, *, least: int = 2) -> Iterator[Formula]:
    """What a parameter's scale may have been computed by.

    Args:
        blocks: how many there are.
        block: number of its own, from 1.
        least: number of blocks from which on a scale may depend on it.
    """
    constants = [*_constants()]
    for text, cost, value in (*_by_fans(each), *constants):
        yield Formula(text, cost, value)
        if each.law.name == "truncated_normal":
            yield Formula(f"{text}, before the cut", cost + 0.5, value * CUT)
        if blocks >= least:
            for depth_text, more, factor in _by_depth(blocks, block):
                # a far-fetched power of a round number fits anything
                if more < FETCHED or (text, cost, value) not in constants:
                    yield Formula(f"{text} / {depth_text}", cost + more, value / factor)


Fitting = list[dict[str, list[Formula]]]
"""The formulas that fit each group, of each of its members that was drawn, by their text."""


def fitting(groups: Sequence[Siblings], level: float) -> Fitting:
    """All formulas that fit all members of each group."""
    return [_fitting(group, level) for group in groups]


def explained(groups: Sequence[Siblings], fitting: Fitting) -> dict[str, Formula]:
    """The formula of each parameter's scale, by the parameter's name, where one fits its group."""
    popular: dict[str, Counter[str]] = defaultdict(Counter)
    for group, found in zip(groups, fitting, strict=True):
        popular[group.members[0].kind].update([*found])
    chosen: dict[str, Formula] = {}
    for group, found in zip(groups, fitting, strict=True):
        if not found:
            continue
        counts = popular[group.members[0].kind]
        text = min(found, key=lambda text: (2 * found[text][0].cost - counts[text], text))
        chosen |= {each.name: one for each, one in zip(group.regular, found[text], strict=True)}
    return chosen


def _fitting(group: Siblings, level: float) -> dict[str, list[Formula]]:
    """The formulas that fit all members of a group, by their text."""
    members = group.regular
    if not members or not all(math.isfinite(each.std) for each in members):
        return {}
    blocks, far = depth(group), float(stats.norm.isf(level / 2 / len(members)))
    kept: dict[str, list[Formula]] = {}
    numbers = dict(zip((each.name for each in group.members), group.numbers, strict=True))
    for count, each in enumerate(members):
        here: dict[str, Formula] = {}
        if each.law.name == "orthogonal":
            gain = each.law.value
            here = {one.text: one for one in _gains() if abs(one.value / gain - 1) < 1e-3}
        else:
            allowed = far * each.error + 1e-4
            for one in formulas(each, blocks, numbers[each.name]):
                if one.value > 0 and abs(math.log(one.value / each.std)) < allowed:
                    here.setdefault(one.text, one)
        if not count:
            kept = {text: [one] for text, one in here.items()}
        else:
            kept = {text: [*ones, here[text]] for text, ones in kept.items() if text in here}
    return kept


def _by_fans(each: Drawn) -> Iterator[tuple[str, float, float]]:
    """Formulas of the numbers of inputs and outputs."""
    inputs, outputs = each.fan_in, each.fan_out
    if (gates := _GATES.get(each.module)) and each.shape:
        yield "1/sqrt(3 hidden)", -0.5, (3 * each.shape[0] / gates) ** -0.5
    if inputs > 0:
        yield "1/sqrt(fan_in)", 0, inputs**-0.5
        yield "sqrt(2/fan_in)", 0, (2 / inputs) ** 0.5
        yield "1/sqrt(3 fan_in)", 0, (3 * inputs) ** -0.5
        yield "1/fan_in", 1, 1 / inputs
        yield "(5/3)/sqrt(fan_in)", 1.5, 5 / 3 * inputs**-0.5
        yield "sqrt(2/(5 fan_in))", 1.5, (0.4 / inputs) ** 0.5
        if outputs > 0:
            yield "sqrt(2/(fan_in + fan_out))", 0, (2 / (inputs + outputs)) ** 0.5
            yield "sqrt(2/fan_out)", 0.5, (2 / outputs) ** 0.5
            yield "1/sqrt(fan_out)", 0.5, outputs**-0.5
            yield "1/sqrt(3 fan_out)", 1, (3 * outputs) ** -0.5
    elif outputs > 0:
        yield "1/sqrt(width)", 0.5, outputs**-0.5


def _constants() -> Iterator[tuple[str, float, float]]:
    """Round numbers."""
    for power in range(-8, 2):
        for mantissa, cost in _MANTISSAS.items():
            value = mantissa * 10.0**power
            yield f"{value:.6g}", cost, value


def _by_depth(blocks: int, block: int) -> Iterator[tuple[str, float, float]]:
    """What a scale is divided by in deep networks."""
    yield "sqrt(2 blocks)", 0.5, math.sqrt(2 * blocks)
    yield "sqrt(blocks)", 1, math.sqrt(blocks)
    yield "blocks", 1.5, blocks
    yield "(8 blocks)^(1/4)", 1, (8 * blocks) ** 0.25
    yield "blocks^(1/4)", 1.5, blocks**0.25
    yield "sqrt(2 block)", 1, math.sqrt(2 * block)
    yield "sqrt(block)", 1.5, math.sqrt(block)


def _gains() -> Iterator[Formula]:
    """Usual gains of orthogonal matrices."""
    yield Formula("gain sqrt(2)", 0, math.sqrt(2))
    yield Formula("gain 5/3", 1, 5 / 3)
    for text, cost, value in _constants():
        yield Formula(f"gain {text}", cost, value)


def told(law: Law, formula: Formula | None, std: float, centre: float) -> str:
    """A law, what its entries lie around where that is not 0, and its scale, in words."""
    if law.name == "orthogonal":
        return f"orthogonal, {formula.text if formula else f'gain {law.value:.4g}'}"
    if not math.isfinite(std) or not std or law.runs or law.name in EXACT:
        return str(law)
    around = f", mean {centre:.4g}" if centre else ""
    return f"{law}{around}, std {formula.text if formula else f'{std:.4g}'}"
