"""A comparison of a model's parameters with a published scheme or a lock file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from initstats.audits import lock
from initstats.audits.changes import Changes
from initstats.audits.expected import Expected, Seen
from initstats.audits.locked import Entry, by_formula, code_of, sizes
from initstats.audits.parameter import Drawn
from initstats.audits.siblings import siblings
from initstats.audits.words import named_in
from initstats.diagnosis.rules import Finding
from initstats.diagnosis.rules.rule import listed
from initstats.plural import counted
from initstats.schemes import SCHEMES, Prescription, prescribe
from initstats.schemes.code import names_in_code
from initstats.schemes.published import Ruling


class Different(NamedTuple):
    """A parameter that is not what it should be.

    Attributes:
        name: its own; `role` as of `Drawn`.
        seen, wanted: laws with their scales, in words.
        fault: in what they differ, as of `Seen`.
        ratio: of the stds; 0 where there is none.
        code: the line that mends it, for what is called `model.get_parameter(name)`; empty where
            there is none.
        mean: of the entries.
        around: what they should lie around.
    """

    role: str
    name: str
    seen: str
    wanted: str
    fault: str
    ratio: float
    code: str
    mean: float = 0.0
    around: float = 0.0


TARGET = "model.get_parameter(name)"
_LEFT = {
    "": "{source} says nothing of {number}",
    "frozen": "{number} not trained (requires_grad is False): not compared with {source}",
    "adapter": "{number} of low-rank pairs that add nothing yet: not compared with {source}",
}
_LEAVE = "nothing, if they are as they were meant"
NEAR = 1.1
"""Ratios within this factor are told as one."""


@dataclass(frozen=True)
class Comparison:
    """What a model should be.

    Attributes:
        source: name of a scheme, or of a file.
        prescription: of a scheme.
        entries: of a file.
    """

    source: str
    prescription: Prescription | None = None
    entries: tuple[Entry, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, expected: str | Path | Prescription, x: Any) -> Comparison:
        """That of a scheme's name, a file, or a prescription.

        Raises:
            ValueError: neither a scheme nor a file that can be read, or a scheme that does not fit.
        """
        if isinstance(expected, Prescription):
            return cls(expected.scheme, expected)
        text = str(expected)
        if isinstance(expected, Path) or text.endswith(".toml") or "/" in text:
            return cls(Path(text).name, None, tuple(lock.read(text)))
        if text not in SCHEMES and Path(text).is_file():
            return cls(text, None, tuple(lock.read(text)))
        return cls(text, prescribe(model, text, x))

    def findings(
        self, model: nn.Module, parameters: Sequence[Drawn], level: float
    ) -> Iterator[Finding]:
        """What differs, the same in all blocks told once.

        Args:
            level: probability with which chance alone makes one parameter differ.
        """
        groups: dict[tuple[str, ...], list[Different]] = {}
        for each in self._different(model, parameters, level):
            law = each.seen.partition(", std ")[0]
            groups.setdefault((each.role, each.wanted, each.fault, each.code, law), []).append(each)
        for found in _merged(groups):
            yield self._finding(found)
        yield from self._others(parameters)

    def agreeing(self, parameters: Sequence[Drawn], found: Sequence[Finding]) -> set[str]:
        """The names of the parameters that are as a scheme has them.

        Args:
            found: what `findings` told.
        """
        said = self.prescription.rulings.keys() if self.prescription else set[str]()
        wrong = {
            name
            for each in found
            if each.severity == "error"
            for name in named_in(each.where, parameters)
        }
        return {each.name for each in parameters if each.name in said} - wrong

    def _finding(self, found: list[Different]) -> Finding:
        first, names = found[0], [each.name for each in found]
        typical = _typical(found)
        number = f" ({counted(len(found), 'parameter')})" if len(found) > 1 else ""
        evidence = f"{typical.seen}{number}, where {self.source} has {first.wanted}"
        anew = f"or write {self.source} anew, if that is meant"
        remedy = _lines(found) or f"draw it as {self.source} says"
        if not self.prescription:
            remedy += f"\n# {anew}" if first.code else f", {anew}"
        return Finding("error", ", ".join(names), evidence + _how(typical), remedy)

    def _different(
        self, model: nn.Module, parameters: Sequence[Drawn], level: float
    ) -> Iterator[Different]:
        if not self.prescription:
            yield from self._from_file(parameters, level)
            return
        for each in parameters:
            ruling = self.prescription.rulings.get(each.name)
            if ruling and each.law.name != "empty":
                yield from self._against(model, each, ruling, level)

    def _from_file(self, parameters: Sequence[Drawn], level: float) -> Iterator[Different]:
        """Parameters against what a file says of them, or gives by a formula for other sizes."""
        homes = {one.name: group for group in siblings(parameters, level) for one in group.members}
        blocks = Counter(role for role, _ in {(e.role, e.place[:1]) for e in parameters})
        changes = Changes(self.source, self.entries, parameters)
        for each in parameters:
            entry = changes.said.get(each.name)
            if each.law.name == "empty" or not entry:
                continue
            chance = entry.expected.by_chance and entry.expected.law != "undecided"
            home = homes[each.name], blocks[each.role]
            by_scale = by_formula(entry, each, *home) if chance else None
            other = entry.shape != each.shape
            wanted: Expected | None = replace(entry.expected, runs="") if other else entry.expected
            deeper = "block" in entry.formula and (changes.deeper(each.role) or not entry.number)
            if chance and (other or deeper or entry.name not in (each.name, each.role)):
                wanted = by_scale or (None if other else wanted)
            faults = [Seen.of(each).fault(wanted, level)] if wanted else []
            if not entry.number and wanted:  # an older file may be of as many blocks, or of others
                faults.append(Seen.of(each).fault(entry.expected, level))
            if wanted is None:
                seen = f"its shape is {sizes(each.shape)}"
                yield Different(each.role, each.name, seen, sizes(entry.shape), "shape", 0.0, "")
            elif all(faults):
                code = code_of(by_scale or wanted, TARGET)
                yield _different(each, Seen.of(each), wanted, faults[0], code)

    def _against(
        self, model: nn.Module, each: Drawn, ruling: Ruling, level: float
    ) -> Iterator[Different]:
        """A parameter against what a scheme says of it, or of its rows."""
        parameter = model.get_parameter(each.name)
        for piece in ruling.pieces:
            whole = piece.axis < 0
            seen = Seen.of(each) if whole else Seen.part(piece.of(parameter.detach()), level)
            allowed = [piece.draw, *(ruling.also if whole else ())]
            share = level / len(allowed)
            faults = [seen.fault(Expected.of(draw), share) for draw in allowed]
            if all(faults):
                target = piece.target(TARGET) + ("" if whole else ".data")
                code = piece.draw.code(target)
                yield _different(each, seen, Expected.of(piece.draw), faults[0], code)

    def _others(self, parameters: Sequence[Drawn]) -> Iterator[Finding]:
        """What only the model has, or only the file."""
        if self.prescription:
            said = self.prescription.rulings
            left = {part.name: part.left for part in self.prescription.parts}
            for why, text in _LEFT.items():
                names = [
                    each.name
                    for each in parameters
                    if each.name not in said and left.get(each.name, "") == why
                ]
                if names:
                    number = counted(len(names), "parameter")
                    evidence = text.format(source=self.source, number=number)
                    yield Finding("note", listed(names), evidence, _LEAVE)
            return
        yield from Changes(self.source, self.entries, parameters).findings()


def _different(each: Drawn, seen: Seen, wanted: Expected, fault: str, code: str) -> Different:
    ratio = seen.std / wanted.std if wanted.std > 0 and seen.std > 0 else 0.0
    means = seen.mean, wanted.mean
    return Different(each.role, each.name, str(seen), str(wanted), fault, ratio, code, *means)


def _merged(groups: dict[tuple[str, ...], list[Different]]) -> list[list[Different]]:
    """Groups of which those of several roles are one that differ in the same way."""
    merged: list[tuple[tuple[str, ...], float, list[Different]]] = []
    for (_, *alike), members in groups.items():
        ratio, key = _typical(members).ratio, tuple(alike)
        for other, near, found in merged:
            if other == key and ratio <= NEAR * near and near <= NEAR * ratio:
                found.extend(members)
                break
        else:
            merged.append((key, ratio, [*members]))
    return [found for _, _, found in merged]


def _typical(found: Sequence[Different]) -> Different:
    return sorted(found, key=lambda each: each.ratio)[len(found) // 2]


def _how(each: Different) -> str:
    """In what a parameter differs."""
    match each.fault:
        case "law":
            return ": another law of the same std"
        case "law and scale":
            return f": another law, and {each.ratio:.3g} times the std that it should have"
        case "scale":
            return f": {each.ratio:.3g} times what it should be"
        case "mean":
            return f": the mean is {each.mean:.3g}, not {each.around:.3g}"
    return ""


def _lines(found: Sequence[Different]) -> str:
    """Lines that mend parameters of one fault; empty where there are none."""
    code = found[0].code
    if not code or len(found) == 1:
        return code.replace("(name)", f'("{found[0].name}")')
    roles: dict[str, list[str]] = {}
    for each in found:
        roles.setdefault(each.role, []).append(each.name)
    return "\n".join(f"for name in {names_in_code(names)}:\n    {code}" for names in roles.values())
