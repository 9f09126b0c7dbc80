"""The parameters that stand for each other: the same one in each of a model's blocks."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress

import numpy as np
from scipy import stats

from initstats.audits.law import CHANCE
from initstats.audits.parameter import Drawn

LEAST = 3
"""Blocks, at least, of which one can be out of line."""
_MAD = 1.4826  # of a normal law, the std over the median absolute deviation
SAME = 1.02
"""Scales within this factor are told apart only by their numbers of entries, and are alike."""


@dataclass(frozen=True)
class Siblings:
    """The parameters of one role, one shape, and one class of module.

    Attributes:
        members: in the model's order.
        level: probability with which chance alone puts one of them out of line, at most.
        numbers: of their blocks, from 1, among all blocks that have the role in any shape.
    """

    members: tuple[Drawn, ...]
    level: float
    numbers: tuple[int, ...]

    @property
    def role(self) -> str:
        """The name that they share."""
        return self.members[0].role

    @cached_property
    def law(self) -> str:
        """The law of most of them; empty where there is none."""
        known = Counter(_family(each) for each in self.members)
        chance = [name for name in known if name in CHANCE and name != "undecided"]
        unclear = known.pop("undecided", 0)
        if len(chance) < 2:
            known[chance[0] if chance else "undecided"] += unclear
        name, count = known.most_common(1)[0]
        return name if 2 * count > known.total() else ""

    @cached_property
    def strangers(self) -> tuple[Drawn, ...]:
        """Those of another law, where most have one."""
        if len(self.members) < LEAST or not self.law:
            return ()
        odd = tuple(each for each in self.members if not self._alike(each))
        return odd if 3 * len(odd) < len(self.members) or len(odd) == 1 else ()

    def _alike(self, each: Drawn) -> bool:
        name = _family(each)
        if "undecided" in (name, self.law):
            return name in CHANCE and self.law in CHANCE
        return name == self.law

    @property
    def trend(self) -> float:
        """Power of the block's number, from 1, with which the scales go; 0 where they are alike."""
        return self._line[0] if self._line else math.nan

    @property
    def outliers(self) -> tuple[tuple[Drawn, float], ...]:
        """Those out of line, and by which factor; empty where there is no line."""
        return tuple((each, ratio) for each, ratio in self._line[1] if ratio) if self._line else ()

    @cached_property
    def ordinary(self) -> tuple[Drawn, ...]:
        """Those that are not out of line."""
        odd = {each.name for each in (*self.strangers, *(each for each, _ in self.outliers))}
        return tuple(each for each in self.members if each.name not in odd)

    @property
    def regular(self) -> tuple[Drawn, ...]:
        """Those of them that were drawn."""
        return tuple(each for each in self.ordinary if each.by_chance and each.std > 0)

    @cached_property
    def _line(self) -> tuple[float, list[tuple[Drawn, float]]] | None:
        """A power law from which few scales differ, and those that do with their factor."""
        drawn = [each.by_chance and each.std > 0 for each in self.members]
        members = list(compress(self.members, drawn))
        if len(members) < LEAST:
            return 0.0, []
        heights = np.log([each.std for each in members])
        errors = np.array([each.error for each in members])
        far = float(stats.norm.isf(self.level / 2 / len(members)))
        numbers = np.log(list(compress(self.numbers, drawn)))
        slopes = [0.0]
        if len(members) > LEAST:
            slopes.append(float(stats.theilslopes(heights, numbers).slope))
        typical = float(np.median(errors))
        for slope in slopes:
            off = heights - slope * numbers
            off = off - np.median(off)
            allowed = far * np.sqrt(errors**2 + typical**2) + math.log(SAME)
            if (np.abs(off) > allowed).sum() <= max(1, (len(members) - 1) // 3):
                # where all differ by more than chance, as scales that are fitted to data do, one
                # that differs like the others is not out of line
                spread = _MAD * float(np.median(np.abs(off)))
                allowed = np.maximum(allowed, far * spread * (spread > 2 * typical))
                ratios = np.where(np.abs(off) > allowed, np.exp(off), 0.0).tolist()
                return slope, list(zip(members, ratios, strict=True))
        return None


def siblings(parameters: Iterable[Drawn], level: float) -> list[Siblings]:
    """The parameters in groups, in their order."""
    groups: dict[tuple[object, ...], list[tuple[Drawn, int]]] = {}
    seen: Counter[str] = Counter()
    blocks: dict[str, dict[tuple[int, ...], None]] = {}
    for each in parameters:
        blocks.setdefault(each.role, {})[each.place[:1]] = None
        seen[each.role] += 1
        fans = (each.fan_in, each.fan_out) if each.kind == "bias" else ()
        key = each.role, each.module, each.shape, each.block, *map(str, fans)
        groups.setdefault(key, []).append((each, seen[each.role]))
    found = []
    for group in _joined(groups):
        members, numbers = zip(*group, strict=True)
        whole = Siblings(members, level, numbers)
        found += _parts(whole, [*blocks[whole.role]]) or [whole]
    return found


def _joined(
    groups: Mapping[tuple[object, ...], list[tuple[Drawn, int]]],
) -> list[list[tuple[Drawn, int]]]:
    """The groups; one member, whose block is made otherwise, with the only other group like it.

    A first block may hold more than the others, as the table of relative positions in T5.
    """
    alike: dict[tuple[object, ...], list[list[tuple[Drawn, int]]]] = {}
    for (role, module, shape, _, *fans), group in groups.items():
        alike.setdefault((role, module, shape, *fans), []).append(group)
    joined = []
    for few in alike.values():
        sizes = sorted(map(len, few))
        if len(few) == 2 and sizes[0] == 1 and sizes[1] >= LEAST:
            few = [sorted(itertools.chain(*few), key=lambda member: member[1])]
        joined += few
    return joined


def _parts(group: Siblings, blocks: list[tuple[int, ...]]) -> list[Siblings]:
    """Siblings by their numbers within blocks, where their laws are as different as those.

    So are the steps of a branch that ends in zeros. Empty where all have one law, or all but few.

    Args:
        blocks: all that have the role, by their numbers, in order.
    """
    families = {_family(each) for each in group.members} - {"undecided"}
    if len(families) < 2 or group.strangers:
        return []
    held: dict[tuple[int, ...], list[int]] = {}
    for at, each in enumerate(group.members):
        held.setdefault(each.place[1:], []).append(at)
    if len(held) < 2 or min(map(len, held.values())) < LEAST:
        return []
    return [
        Siblings(
            tuple(group.members[at] for at in places),
            group.level,
            tuple(1 + blocks.index(group.members[at].place[:1]) for at in places),
        )
        for places in held.values()
    ]


def copies(parameters: Sequence[Drawn]) -> list[list[str]]:
    """Names of parameters that may be equal, as their moments are."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for each in parameters:
        if each.law.name in CHANCE and each.count > 1 and len(each.shape) > 1:
            groups.setdefault((each.shape, each.mean, each.std), []).append(each.name)
    return [names for names in groups.values() if len(names) > 1]


def _family(each: Drawn) -> str:
    """The law, without what may differ between siblings."""
    name = each.law.name
    return "constant" if name == "ones" else str(name)
