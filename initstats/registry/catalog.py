"""The one catalogue: entries by name, families by their parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Generic, TypeVar

from initstats.registry.names import unknown
from initstats.registry.values import Value, read_range, read_value, spelled

T = TypeVar("T")
Members = Mapping[str, Mapping[str, Mapping[str, Value]]]
"""The parameters of entries, by family and by spelling."""

_SPELLING = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\(([^()]*)\))?\s*")


@dataclass(frozen=True)
class Family(Generic[T]):
    """What a catalogue knows of a name.

    Attributes:
        name: without parameters.
        make: ``make(canonical_spelling, **parameters)`` builds a member.
        defaults: the parameters and their defaults, in the order of declaration.
        meaning: one line.
        module: the module that defined it.
    """

    name: str
    make: Callable[..., T]
    defaults: Mapping[str, Value] = field(default_factory=dict)
    meaning: str = ""
    module: str = ""


class Catalog(Mapping[str, T]):
    """Entries of one kind by name; ``catalog[spelling]`` is a member, built once.

    Iterating it gives names in the order of registration.

    Args:
        noun: what messages call one entry, and ``register_<noun>`` the decorator that adds one.
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._families: dict[str, Family[T]] = {}
        self._made: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._families)

    def __len__(self) -> int:
        return len(self._families)

    def __contains__(self, name: object) -> bool:
        return name in self._families

    def __getitem__(self, spelling: str) -> T:
        """The member that a spelling names; the same object for every spelling of it.

        Raises:
            ValueError: no such entry or parameter, or a value that the entry refuses.
        """
        if spelling in self._made:
            return self._made[spelling]
        name, parameters = self.parse(spelling)
        canonical = self.spell(name, parameters)
        if canonical not in self._made:
            self._made[canonical] = self._families[name].make(canonical, **parameters)
        return self._made[canonical]

    def add(self, family: Family[T]) -> None:
        """Register an entry. The same module may define a name again: the new entry replaces it.

        Raises:
            ValueError: another module defined the name, or it cannot be spelled.
        """
        name = family.name
        if not name.isidentifier():
            raise ValueError(f"{self.noun} {name!r} cannot be spelled: give it a plain name")
        if name in self and self._families[name].module != family.module:
            raise ValueError(
                f"{self.noun} {name!r} is registered already, by {self._families[name].module}: "
                "choose another name"
            )
        for key, value in family.defaults.items():
            if not isinstance(value, Value):
                raise ValueError(
                    f"{self.noun} {name!r}: the default of {key!r} must be a number, a boolean "
                    f"or a word, got {value!r}"
                )
        self._forget(name)
        self._families[name] = family

    def add_one(self, name: str, entry: T, *, meaning: str, module: str) -> None:
        """Register an entry without parameters; see `add`."""
        self.add(Family(name, lambda spelling: entry, meaning=meaning, module=module))

    def remove(self, name: str) -> None:
        """Take an entry out again.

        Raises:
            ValueError: no such entry.
        """
        self.family(name)
        self._forget(name)
        del self._families[name]

    def family(self, name: str) -> Family[T]:
        """What is known of a name.

        Raises:
            ValueError: no such entry.
        """
        if name not in self._families:
            raise unknown(self.noun, name, self._families)
        return self._families[name]

    def parse(self, spelling: str) -> tuple[str, dict[str, Value]]:
        """An entry's name and all its parameters, defaults filled in.

        >>> demo = Catalog[str]("demo")
        >>> demo.add(Family("ramp", lambda spelling, **_: spelling, {"low": 0.0, "high": 6.0}))
        >>> demo.parse("ramp(high=8)")
        ('ramp', {'low': 0.0, 'high': 8.0})
        """
        name, given = self._read(spelling)
        defaults = self.family(name).defaults
        values = {
            key: read_value(text, defaults[key], f"{self.noun} {spelling!r}: {key}")
            for key, text in given.items()
        }
        return name, {
            # An equal value is the default itself: 0.0 for -0.0, 6.0 for 6.
            key: default if values.get(key, default) == default else values[key]
            for key, default in defaults.items()
        }

    def spell(self, name: str, parameters: Mapping[str, Value]) -> str:
        """The canonical spelling: only what differs from the defaults.

        >>> demo = Catalog[str]("demo")
        >>> demo.add(Family("ramp", lambda spelling, **_: spelling, {"low": 0.0, "high": 6.0}))
        >>> demo.spell("ramp", {"low": 0.1 + 0.2, "high": 8.0})
        'ramp(low=0.3,high=8)'
        """
        given = [
            f"{key}={spelled(parameters[key])}"
            for key, default in self.family(name).defaults.items()
            if parameters.get(key, default) != default
        ]
        return f"{name}({','.join(given)})" if given else name

    def expand(self, spelling: str) -> list[str]:
        """The canonical spellings that a spelling with ranges stands for.

        A range is ``low:high:count``, evenly spaced, or ``low:high:countlog``, by equal factors;
        several make every combination. Values are rounded to what tells neighbours apart.

        >>> demo = Catalog[str]("demo")
        >>> demo.add(Family("ramp", lambda spelling, **_: spelling, {"low": 0.0, "high": 6.0}))
        >>> demo.expand("ramp(low=0:0.4:5)")
        ['ramp', 'ramp(low=0.1)', 'ramp(low=0.2)', 'ramp(low=0.3)', 'ramp(low=0.4)']
        >>> demo.expand("ramp(high=1:100:3log)")
        ['ramp(high=1)', 'ramp(high=10)', 'ramp(high=100)']

        Raises:
            ValueError: as `parse`, or a range that is none.
        """
        name, given = self._read(spelling)
        choices = [
            [f"{key}={text}" for text in read_range(text, f"{self.noun} {spelling!r}: {key}")]
            for key, text in given.items()
        ]
        return [
            self.spell(*self.parse(f"{name}({','.join(chosen)})")) for chosen in product(*choices)
        ]

    def members(self, spellings: Iterable[str]) -> dict[str, dict[str, dict[str, Value]]]:
        """All parameters of entries, by family and by spelling; bare callables are left out.

        >>> demo = Catalog[str]("demo")
        >>> demo.add(Family("ramp", lambda spelling, **_: spelling, {"low": 0.0, "high": 6.0}))
        >>> demo.members(["ramp(high=8)", "lambda"])
        {'ramp': {'ramp(high=8)': {'low': 0.0, 'high': 8.0}}}
        """
        found: dict[str, dict[str, dict[str, Value]]] = {}
        for spelling in spellings:
            if spelling.partition("(")[0] in self:
                name, parameters = self.parse(spelling)
                found.setdefault(name, {})[spelling] = parameters
        return found

    def _forget(self, name: str) -> None:
        """Let go of the members that were built."""
        self._made = {
            spelling: made
            for spelling, made in self._made.items()
            if spelling.partition("(")[0] != name
        }

    def _read(self, spelling: str) -> tuple[str, dict[str, str]]:
        """An entry's name, and the parameters that a spelling gives as text."""
        match = _SPELLING.fullmatch(spelling)
        if match is None:
            raise ValueError(
                f"cannot read {self.noun} {spelling!r}: write name or name(parameter=value,...)"
            )
        name, inside = match.groups()
        defaults = self.family(name).defaults
        given: dict[str, str] = {}
        for item in (inside or "").split(",") if (inside or "").strip() else ():
            key, equals, text = (part.strip() for part in item.partition("="))
            if not equals or key in given:
                fault = "is given twice" if equals else "is not parameter=value"
                raise ValueError(f"cannot read {self.noun} {spelling!r}: {key!r} {fault}")
            if key not in defaults:
                raise unknown(f"parameter of {self.noun} {name!r}", key, defaults)
            given[key] = text
        return name, given


def varied(members: Members) -> dict[str, dict[str, Value]]:
    """The parameters that differ between entries of one family.

    Args:
        members: as `Catalog.members` gives them.

    Returns:
        For each such parameter its value by spelling, for all entries that have it, defaults
        filled in.

    >>> varied({"ramp": {"ramp": {"low": 0.0}, "ramp(low=1)": {"low": 1.0}}})
    {'low': {'ramp': 0.0, 'ramp(low=1)': 1.0}}
    """
    differing = {
        key: None
        for family in members.values()
        for key in {key: None for parameters in family.values() for key in parameters}
        if len({parameters.get(key) for parameters in family.values()}) > 1
    }
    every = {name: found for family in members.values() for name, found in family.items()}
    return {
        key: {name: parameters[key] for name, parameters in every.items() if key in parameters}
        for key in differing
    }
