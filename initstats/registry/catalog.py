"""The one catalogue: entries by name, families by their parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from initstats.registry.spelling import Value, read_range, read_value, spelled, unknown
from initstats.registry.staying import staying

T = TypeVar("T")

_SPELLING = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\(([^()]*)\))?\s*")


@dataclass(frozen=True)
class Family(Generic[T]):
    """What a catalogue knows of a name.

    Attributes:
        make: ``make(canonical_spelling, **parameters)`` builds a member.
        defaults: the parameters and their defaults, in the order of declaration.
        meaning: one line.
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

    >>> demo = Catalog[str]("demo")
    >>> demo.add(Family("ramp", lambda spelling, **_: spelling, {"low": 0.0, "high": 6.0}))
    >>> demo.parse("ramp(high=8)")
    ('ramp', {'low': 0.0, 'high': 8.0})
    >>> demo.spell("ramp", {"low": 0.1 + 0.2, "high": 8.0})
    'ramp(low=0.3,high=8)'
    >>> demo.expand("ramp(low=0:0.4:5)")
    ['ramp', 'ramp(low=0.1)', 'ramp(low=0.2)', 'ramp(low=0.3)', 'ramp(low=0.4)']
    >>> demo.expand("ramp(high=1:100:3log)")
    ['ramp(high=1)', 'ramp(high=10)', 'ramp(high=100)']
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._families: dict[str, Family[T]] = {}
        self._made: dict[str, T] = {}
        _catalogs[id(self)] = self

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
            with staying():  # what is made may be tried
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

    def add_function(
        self, function: Callable[..., object], make: Callable[..., T], given: Collection[str] = ()
    ) -> None:
        """Register a family by a function that gives it its name, its meaning and its parameters.

        The parameters are its keyword-only arguments beside those that are `given`.

        Raises:
            ValueError: as `add`; or a parameter is not keyword-only with a default.
        """
        defaults = keyword_defaults(function, given)
        meaning, module = meaning_of(function), function.__module__
        self.add(Family(function.__name__, make, defaults, meaning, module))

    def add_one(self, name: str, entry: T, *, meaning: str, module: str) -> None:
        """Register an entry without parameters; see `add`."""
        self.add(Family(name, lambda spelling: entry, meaning=meaning, module=module))

    def remove(self, name: str) -> None:
        """Take an entry out again; a ValueError where there is none."""
        self.family(name)
        self._forget(name)
        del self._families[name]

    def family(self, name: str) -> Family[T]:
        """What is known of a name; a ValueError where that is nothing."""
        if name not in self._families:
            raise unknown(self.noun, name, self._families)
        return self._families[name]

    def parse(self, spelling: str) -> tuple[str, dict[str, Value]]:
        """An entry's name and all its parameters, defaults filled in."""
        name, given = self._read(spelling)
        parameters = dict(self.family(name).defaults)
        for key, text in given.items():
            value = read_value(text, parameters[key], f"{self.noun} {spelling!r}: {key}")
            if value != parameters[key]:  # an equal value is the default itself: 6.0 for 6
                parameters[key] = value
        return name, parameters

    def spell(self, name: str, parameters: Mapping[str, Value]) -> str:
        """The canonical spelling: only what differs from the defaults."""
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

    def forget_modules(self, modules: Collection[str]) -> None:
        """Take out all that some modules have registered."""
        for name in [name for name, family in self._families.items() if family.module in modules]:
            self.remove(name)

    def _forget(self, name: str) -> None:
        """Let go of the members that were built."""
        for spelling in [made for made in self._made if made.partition("(")[0] == name]:
            del self._made[spelling]

    def _read(self, spelling: str) -> tuple[str, dict[str, str]]:
        """An entry's name, and the parameters that a spelling gives as text."""
        match = _SPELLING.fullmatch(spelling)
        if match is None:
            raise ValueError(
                f"cannot read {self.noun} {spelling!r}: write name or name(parameter=value,...)"
            )
        name, inside = match[1], (match[2] or "").strip()
        defaults = self.family(name).defaults
        given: dict[str, str] = {}
        for item in inside.split(",") if inside else ():
            key, equals, text = (part.strip() for part in item.partition("="))
            if not equals or key in given:
                fault = "is given twice" if equals else "is not parameter=value"
                raise ValueError(f"cannot read {self.noun} {spelling!r}: {key!r} {fault}")
            if key not in defaults:
                raise unknown(f"parameter of {self.noun} {name!r}", key, defaults)
            given[key] = text
        return name, given


_catalogs: WeakValueDictionary[int, Catalog[Any]] = WeakValueDictionary()


def forget_modules(modules: Collection[str]) -> None:
    """Take what some modules have registered out of all catalogues, before they are run anew."""
    for catalog in list(_catalogs.values()):
        catalog.forget_modules(modules)


def keyword_defaults(
    function: Callable[..., object], given: Collection[str] = ()
) -> dict[str, Value]:
    """The parameters of a family's function, and their defaults; see `Catalog.add_function`."""
    name, arguments = name_of(function), list(inspect.signature(function).parameters.values())
    parameters = [argument for argument in arguments[1:] if argument.name not in given]
    for parameter in parameters:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ValueError(
                f"{name}: write its parameters after a *, each with a default: "
                f"def {name}({arguments[0].name}, *, {parameter.name}=...)"
            )
    return {parameter.name: parameter.default for parameter in parameters}


def meaning_of(function: Callable[..., object]) -> str:
    """The first line of a docstring; empty where there is none."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def name_of(function: Callable[..., object]) -> str:
    """What a callable is called: a function's name, a module's class, ``lambda``."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")
