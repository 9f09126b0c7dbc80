"""A comparison of a model's parameters with a published scheme or a lock file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from initstats.audits import lock
from initstats.audits.expected import Expected, Seen
from initstats.audits.parameter import Drawn
from initstats.diagnosis.rules import Finding
from initstats.diagnosis.rules.rule import listed
from initstats.plural import counted
from initstats.schemes import SCHEMES, Prescription, prescribe
from initstats.schemes.published import Ruling


class Fault(NamedTuple):
    """A parameter that is not what it should be."""

    role: str
    name: str
    seen: str
    wanted: str
    ratio: float
    remedy: str


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
    entries: tuple[lock.Entry, ...] = ()

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
        groups: dict[tuple[str, str, str], list[Fault]] = {}
        for fault in self._faults(model, parameters, level):
            key = fault.role, fault.wanted, fault.seen.partition(", std ")[0]
            groups.setdefault(key, []).append(fault)
        for faults in groups.values():
            yield self._finding(faults)
        yield from self._others(parameters)

    def _finding(self, faults: list[Fault]) -> Finding:
        first = faults[0]
        typical = sorted(faults, key=lambda fault: fault.ratio)[len(faults) // 2]
        ratio = f": {typical.ratio:.3g} times what it should be" if typical.ratio > 0 else ""
        number = f" ({counted(len(faults), 'parameter')})" if len(faults) > 1 else ""
        evidence = f"{typical.seen}{number}, where {self.source} has {first.wanted}{ratio}"
        return Finding("error", listed([each.name for each in faults]), evidence, first.remedy)

    def _faults(
        self, model: nn.Module, parameters: Sequence[Drawn], level: float
    ) -> Iterator[Fault]:
        for each in parameters:
            if each.law.name == "empty":
                continue
            if self.prescription:
                if ruling := self.prescription.rulings.get(each.name):
                    yield from self._against(model, each, ruling, level)
            elif entry := lock.said_of(self.entries, each.name, each.shape):
                remedy = f"draw it as {self.source} says, or write {self.source} anew"
                if entry.shape != each.shape:
                    seen = f"its shape is {'x'.join(map(str, each.shape)) or 'scalar'}"
                    wanted = "x".join(map(str, entry.shape)) or "a scalar"
                    yield Fault(each.role, each.name, seen, wanted, 0.0, remedy)
                elif Seen.of(each).differs(entry.expected, level):
                    yield _fault(each, Seen.of(each), entry.expected, remedy)

    def _against(
        self, model: nn.Module, each: Drawn, ruling: Ruling, level: float
    ) -> Iterator[Fault]:
        """A parameter against what a scheme says of it, or of its rows."""
        parameter = model.get_parameter(each.name)
        for piece in ruling.pieces:
            whole = piece.axis < 0
            seen = Seen.of(each) if whole else Seen.part(piece.of(parameter.detach()), level)
            allowed = [piece.draw, *(ruling.also if whole else ())]
            if all(seen.differs(Expected.of(draw), level / len(allowed)) for draw in allowed):
                target = piece.target(f'model.get_parameter("{each.name}")')
                if not whole:
                    target += ".data"
                yield _fault(each, seen, Expected.of(piece.draw), piece.draw.code(target))

    def _others(self, parameters: Sequence[Drawn]) -> Iterator[Finding]:
        """What only the model has, or only the file."""
        if self.prescription:
            said = self.prescription.rulings
            unsaid = [each.name for each in parameters if each.name not in said]
            if unsaid:
                yield Finding(
                    "note",
                    listed(unsaid),
                    f"{self.source} says nothing of {counted(len(unsaid), 'parameter')}",
                    "nothing, if they are as they were meant",
                )
            return
        known = {
            each.name: lock.said_of(self.entries, each.name, each.shape) for each in parameters
        }
        new = [name for name, entry in known.items() if entry is None]
        used = {entry.name for entry in known.values() if entry}
        gone = [entry.name for entry in self.entries if entry.name not in used]
        for names, where in ((new, f"not in {self.source}"), (gone, "not in the model")):
            if names:
                yield Finding(
                    "error",
                    listed(names),
                    f"{counted(len(names), 'parameter')} {where}",
                    f"write {self.source} anew, if that is meant",
                )


def _fault(each: Drawn, seen: Seen, wanted: Expected, remedy: str) -> Fault:
    ratio = seen.std / wanted.std if wanted.std > 0 and seen.std > 0 else 0.0
    return Fault(each.role, each.name, str(seen), str(wanted), ratio, remedy)
