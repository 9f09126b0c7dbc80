"""An entry of a lock file: what a parameter, or the same one in all blocks, should be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from initstats.audits.expected import Expected
from initstats.audits.parameter import Drawn, role_of
from initstats.audits.scale import formulas
from initstats.audits.siblings import Siblings
from initstats.schemes.draw import Draw, cut_moments


@dataclass(frozen=True)
class Entry:
    """What a lock file says of a parameter.

    Attributes:
        name: the parameter's, or that of all blocks with a * for the number.
        shape: its sizes.
        expected: its law and scale.
        formula: that fitted the scale; empty where none did, or where the file is older.
        number: of parameters that it is about; 0 where the file does not say.
        dtype: of its entries; empty where the file does not say.
        tied: names that were tied to it, with a * for each number; None where the file does not
            say.
    """

    name: str
    shape: tuple[int, ...]
    expected: Expected
    formula: str = ""
    number: int = 0
    dtype: str = ""
    tied: frozenset[str] | None = None

    @property
    def role(self) -> str:
        """Its name with a * for each number."""
        return role_of(self.name)


def said_of(entries: Sequence[Entry], name: str, shape: tuple[int, ...]) -> Entry | None:
    """The entry about a parameter: of its name, else of its role and shape, else of its role.

    Else that of another block, where a formula says how its scale goes with the block.
    """
    role = role_of(name)
    for wanted, sized in ((name, False), (role, True), (role, False)):
        for entry in entries:
            if entry.name == wanted and (entry.shape == shape or not sized):
                return entry
    alike = (e for e in entries if e.role == role and e.name != role and "block)" in e.formula)
    return next((e for e in alike if e.shape == shape), None)


def list_of(role: str) -> str:
    """The list of blocks that a role belongs to: it up to its last *; empty outside of lists.

    >>> list_of("h.*.mlp.weight"), list_of("head.weight")
    ('h.*', '')
    """
    return role[: role.rfind("*") + 1]


class Lists(NamedTuple):
    """How often each role is there, and how many blocks each list has."""

    roles: Mapping[str, int]
    blocks: Mapping[str, int]

    @classmethod
    def of(cls, numbers: Iterable[tuple[str, int]]) -> Lists:
        """Those of roles, each with how often it is there."""
        roles: Counter[str] = Counter()
        for role, number in numbers:
            roles[role] += number
        blocks: dict[str, int] = {}
        for role, number in roles.items():
            if home := list_of(role):
                blocks[home] = max(number, blocks.get(home, 0))
        return cls(roles, blocks)


def grown(before: Lists, now: Lists) -> dict[str, tuple[int, int]]:
    """The lists whose number of blocks is another, with both numbers."""
    return {
        home: (count, now.blocks[home])
        for home, count in before.blocks.items()
        if home in now.blocks and now.blocks[home] != count
    }


def by_formula(entry: Entry, each: Drawn, group: Siblings, blocks: int) -> Expected | None:
    """What an entry's formula gives for a parameter of another size, or another depth.

    Args:
        blocks: how many have the parameter, in any shape.

    Returns:
        None where it has no formula, or none of ours, as in a file that was edited.
    """
    wanted = entry.expected
    if wanted.law == "orthogonal":
        longest = max(each.shape[0], each.count // each.shape[0])
        return replace(wanted, std=wanted.value / math.sqrt(longest), error=0.0)
    number = dict(zip((one.name for one in group.members), group.numbers, strict=True))[each.name]
    law = replace(each.law, name=wanted.law, cut=wanted.cut)  # type: ignore[arg-type]
    for one in formulas(replace(each, law=law), blocks, number, least=1):
        if one.text == entry.formula and one.value > 0:
            text = f"{worded(wanted, one.value)} ({entry.formula})"
            return replace(wanted, std=one.value, error=0.0, text=text)
    return None


def worded(wanted: Expected, std: float) -> str:
    """A law and its scale in words."""
    if wanted.law == "truncated_normal":
        return f"normal, std {std:.4g}, cut at {wanted.cut:.3g} std"
    value = f" {wanted.value:.6g}" if wanted.law == "constant" else ""
    around = f", mean {wanted.mean:.4g}" if wanted.mean else ""
    runs = f": {wanted.runs}" if wanted.runs else ""
    return f"{wanted.law}{value}{around}{runs}" + (f", std {std:.4g}" if std else "")


def code_of(wanted: Expected, target: str) -> str:
    """The line of torch that draws a parameter; empty where there is none."""
    law = wanted.law
    if law in ("zeros", "ones", "constant"):
        return Draw(law, wanted.value).code(target)  # type: ignore[arg-type]
    if law == "normal" and wanted.mean:
        return f"nn.init.normal_({target}, mean={wanted.mean:.6g}, std={wanted.std:.6g})"
    if law == "uniform" and wanted.mean:
        ends = (wanted.mean + sign * math.sqrt(3) * wanted.std for sign in (-1, 1))
        return f"nn.init.uniform_({target}, {', '.join(f'{end:.6g}' for end in ends)})"
    if wanted.mean:
        return ""
    if law in ("normal", "uniform"):
        return Draw(law, wanted.std).code(target)  # type: ignore[arg-type]
    if law == "truncated_normal":
        before = wanted.std / math.sqrt(cut_moments(wanted.cut)[0])
        return Draw("truncated_normal", before, cut=wanted.cut).code(target)
    return f"nn.init.orthogonal_({target}, gain={wanted.value:.6g})" if law == "orthogonal" else ""


def sizes(shape: tuple[int, ...]) -> str:
    """A shape in words."""
    return "x".join(map(str, shape)) or "a scalar"
