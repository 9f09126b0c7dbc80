"""What changed of a model beside its laws since its lock file was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from initstats.audits.locked import Entry, Lists, grown, list_of, said_of, sizes
from initstats.audits.parameter import Drawn, role_of
from initstats.diagnosis.rules import Finding
from initstats.plural import counted


@dataclass(frozen=True, eq=False)
class Changes:
    """A model beside a lock file.

    Attributes:
        source: the file's name.
        entries: of the file.
        parameters: of the model.
    """

    source: str
    entries: Sequence[Entry]
    parameters: Sequence[Drawn]

    @cached_property
    def said(self) -> dict[str, Entry]:
        """The entry about each parameter, by its name; without those of which there is none."""
        found = {p.name: self._said_of(p) for p in self.parameters}
        return {name: entry for name, entry in found.items() if entry}

    def _said_of(self, each: Drawn) -> Entry | None:
        entry = said_of(self.entries, each.name, each.shape)
        if entry and entry.name == each.role and entry.shape != each.shape:
            # of several sizes, each is for the one at its place
            alike, now = [e for e in self.entries if e.name == each.role], self._shapes[each.role]
            if len(alike) == len(now):
                return alike[now.index(each.shape)]
        return entry

    @cached_property
    def _shapes(self) -> dict[str, list[tuple[int, ...]]]:
        """The sizes that each role has, in the model's order."""
        found: dict[str, dict[tuple[int, ...], None]] = {}
        for each in self.parameters:
            found.setdefault(each.role, {})[each.shape] = None
        return {role: [*shapes] for role, shapes in found.items()}

    @cached_property
    def grown(self) -> dict[str, tuple[int, int]]:
        """Lists of blocks that have another number of them: the file's, and the model's."""
        return grown(self._before, self._now) if self._counted else {}

    def deeper(self, role: str) -> bool:
        """Whether a list that a role belongs to has another number of blocks."""
        return any(role.startswith(home) for home in self.grown)

    def findings(self) -> Iterator[Finding]:
        """All of it; what is meant to be so is a note."""
        anew = f"write {self.source} anew, if that is meant"
        yield from self._ties(anew)
        tied = {role for roles in self._lost.values() for role in roles}
        tied |= {role for roles in self._gained.values() for role in roles}
        used = {entry.name for entry in self.said.values()}
        new = [p.name for p in self.parameters if p.name not in self.said and p.role not in tied]
        gone = [e.name for e in self.entries if e.name not in used and e.role not in tied]
        number = sum(e.number or 1 for e in self.entries if e.name in gone)
        for names, count, where in (
            (new, len(new), f"not in {self.source}"),
            (gone, number, "not in the model"),
        ):
            if names:
                what = f"{counted(count, 'parameter')} {where}"
                yield Finding("error", ", ".join(names), what, anew)
        yield from self._numbers(anew, {*map(role_of, [*new, *gone]), *tied})
        yield from self._types(anew)
        yield from self._sizes(anew)

    def _ties(self, anew: str) -> Iterator[Finding]:
        """What is no longer tied, and what is now."""
        for changed, verb in ((self._lost, "no longer tied to"), (self._gained, "tied to")):
            for role, roles in changed.items():
                names = [p.name for p in self.parameters if p.role == role]
                what = f"it is {verb} {', '.join(sorted(roles))}"
                what += f", which {self.source} does not have" * (changed is self._gained)
                yield Finding("error", ", ".join(names), what, anew)

    @cached_property
    def _lost(self) -> dict[str, frozenset[str]]:
        """Roles that were tied to each role, and are not."""
        found: dict[str, frozenset[str]] = {}
        for each in self.parameters:
            entry = self.said.get(each.name)
            if entry and entry.tied and (lost := entry.tied - {*map(role_of, each.also)}):
                found[each.role] = lost
        return found

    @cached_property
    def _gained(self) -> dict[str, frozenset[str]]:
        """Roles that are tied to each role, and were not."""
        own = {entry.role for entry in self.entries}
        found: dict[str, frozenset[str]] = {}
        for each in self.parameters:
            if entry := self.said.get(each.name):
                also = frozenset(map(role_of, each.also))
                # of an older file only what has an entry of its own is known not to have been
                gained = also & (own - {each.role}) if entry.tied is None else also - entry.tied
                if gained:
                    found[each.role] = gained
        return found

    @property
    def _counted(self) -> bool:
        """Whether the file says of each entry how many parameters it is about."""
        return all(entry.number for entry in self.entries)

    @cached_property
    def _before(self) -> Lists:
        return Lists.of((entry.role, entry.number) for entry in self.entries)

    @cached_property
    def _now(self) -> Lists:
        return Lists.of((each.role, 1) for each in self.parameters)

    def _numbers(self, anew: str, told: set[str]) -> Iterator[Finding]:
        """Blocks that are more or fewer, and parameters that some have and others have not."""
        for home, (before, now) in self.grown.items():
            blocks = counted(before, "block") if home.count("*") == 1 else f"{before} {home}"
            what = f"{self.source} has {blocks}, this model {now}"
            yield Finding("note", home, f"{what}: scales are compared by their formulas", anew)
        missing: dict[str, list[str]] = {}
        for role, before in self._before.roles.items() if self._counted else ():
            home, now = list_of(role), self._now.roles.get(role, 0)
            if role in told or not home or home not in self._now.blocks:
                continue
            if home in self.grown:
                if before != self._before.blocks[home]:
                    continue  # some blocks had it, and nobody knows which of these should
                before = self._now.blocks[home]
            if now < before:
                missing.setdefault(f"{before} blocks", []).extend(self._missing(role, home))
            elif now > before:
                what = f"{counted(now, 'block')} have it, where {self.source} has {before}"
                yield Finding("error", role, what, anew)
        for number, names in missing.items():
            what = f"{counted(len(names), 'parameter')} not in the model, where {self.source} has "
            yield Finding("error", ", ".join(names), f"{what}the same in all {number}", anew)

    def _missing(self, role: str, home: str) -> list[str]:
        """The names of a role in the blocks that have no such parameter."""
        places = dict.fromkeys(p.place for p in self.parameters if list_of(p.role) == home)
        own = {p.place for p in self.parameters if p.role == role}
        names = []
        for place in places:
            if place not in own:
                name = role
                for number in place:
                    name = name.replace("*", str(number), 1)
                names.append(name)
        return names

    def _types(self, anew: str) -> Iterator[Finding]:
        """Parameters of another type."""
        found: dict[tuple[str, str], list[str]] = {}
        for each in self.parameters:
            entry = self.said.get(each.name)
            if entry and entry.dtype and entry.dtype != each.dtype:
                found.setdefault((each.dtype, entry.dtype), []).append(each.name)
        for (now, before), names in found.items():
            are = counted(len(names), "parameter is", "parameters are")
            what = f"{are} of {now}, where {self.source} has {before}"
            yield Finding("error", ", ".join(names), what, f"model.to(torch.{before})\n# or {anew}")

    def _sizes(self, anew: str) -> Iterator[Finding]:
        """Parameters of other sizes."""
        other = [
            (each, self.said[each.name])
            for each in self.parameters
            if each.name in self.said and self.said[each.name].shape != each.shape
        ]
        if other:
            (first, entry), names = other[0], [each.name for each, _ in other]
            have = counted(len(other), "parameter has another size", "parameters have other sizes")
            what = f"{have} than in {self.source}, as {first.name}, {sizes(first.shape)}, has "
            what += f"{sizes(entry.shape)} there: scales are compared by their formulas"
            yield Finding("note", ", ".join(names), what, anew)
