"""Named entries, spelled the way users type them: ``relu``, ``general_relu(leak=0.2,sub=0.3)``.

A catalogue keeps everything of one kind (inits, activations, networks, statistics, rules, figures)
by name. An entry may be a family: a spelling picks one member of it by its parameters. The
canonical spelling names only the parameters that differ from the family's defaults, in the order of
their declaration and without spaces, so that one member has one name in every table.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import inspect
import math
import pickle
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")
Value = bool | int | float | str
Members = Mapping[str, Mapping[str, Mapping[str, Value]]]
"""The parameters of entries, by family and by spelling."""

_SPELLING = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\(([^()]*)\))?\s*")
_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_RANGE = re.compile(r"([^:]+):([^:]+):(\d+)(log)?")
_MOST_VALUES = 10_000


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
            key: _value(text, defaults[key], f"{self.noun} {spelling!r}: {key}")
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
            [f"{key}={text}" for text in _range(text, f"{self.noun} {spelling!r}: {key}")]
            for key, text in given.items()
        ]
        return [
            self.spell(*self.parse(f"{name}({','.join(chosen)})")) for chosen in product(*choices)
        ]

    def varied(self, spellings: Iterable[str]) -> dict[str, dict[str, Value]]:
        """The parameters that differ between entries of one family.

        Args:
            spellings: of entries, those of bare callables among them.

        Returns:
            For each such parameter its value by spelling, for all entries that have it, defaults
            filled in.

        >>> demo = Catalog[str]("demo")
        >>> demo.add(Family("ramp", lambda spelling, **_: spelling, {"low": 0.0, "high": 6.0}))
        >>> demo.varied(["ramp", "ramp(high=8)"])
        {'high': {'ramp': 6.0, 'ramp(high=8)': 8.0}}
        """
        return varied(self.members(spellings))

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


class Entry:
    """A frozen dataclass that a catalogue holds, and that crosses to another process by its name.

    Attributes:
        name: its canonical spelling.
        module: the module that defines its family; empty where it was made of a bare callable.
    """

    catalog: ClassVar[Catalog[Any]]
    name: str
    module: str

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        noun = self.catalog.noun
        check_importable(noun, self.name, self.module)
        if self.module:
            return _recall, (type(self), self.name, self.module)
        state = tuple(getattr(self, field.name) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        try:
            pickle.dumps(state)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise pickle.PicklingError(
                f"{noun} {self.name!r} cannot be sent to another process: register it in a module "
                f"that can be imported, with @register_{noun}(), or use workers=1"
            ) from error
        return type(self), state


def check_importable(noun: str, name: str, module: str) -> None:
    """Refuse what another process cannot import.

    Raises:
        pickle.PicklingError: it is defined in a notebook, or at a prompt.
    """
    if module == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise pickle.PicklingError(
            f"{noun} {name!r} is defined in a notebook or at a prompt, which other processes "
            "cannot read: put it into a module (a file.py) and import that, or use workers=1"
        )


def _recall(kind: type[Entry], name: str, module: str) -> Any:
    if name.partition("(")[0] not in kind.catalog:
        import_module(module)
    return kind.catalog[name]


def varied(members: Members) -> dict[str, dict[str, Value]]:
    """The parameters that differ between entries of one family; see `Catalog.varied`."""
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


def import_module(name: str) -> ModuleType:
    """Import a module by its name, or a file that ends in .py by its path, once.

    A file's module is named by its absolute path, so that files of one name are told apart, and
    another process finds the file by the name of its module. Its folder is added at the end of the
    search path, for what it imports itself.

    Raises:
        ImportError, OSError, SyntaxError: there is no such module or file, or it is no Python.
    """
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).resolve()
    for known in (str(path), path.stem, "__main__"):
        module = sys.modules.get(known)
        if module and Path(getattr(module, "__file__", None) or "").resolve() == path:
            return module
    spec = importlib.util.spec_from_file_location(str(path), path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def unknown(noun: str, name: str, available: Collection[str]) -> ValueError:
    """The error for a name that is not among those available, with the nearest of them.

    >>> unknown("mode", "fanin", ["fan_in", "fan_out"])
    ValueError("unknown mode 'fanin': did you mean 'fan_in'? available: fan_in, fan_out")
    """
    lower = {entry.lower(): entry for entry in available}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    hint = f" did you mean {lower[near[0]]!r}?" if near else ""
    return ValueError(f"unknown {noun} {name!r}:{hint} available: {', '.join(available) or 'none'}")


def split_names(text: str) -> list[str]:
    """Split a comma-separated list; commas inside parentheses belong to the name.

    >>> split_names("relu, general_relu(leak=0.2,sub=0.3)")
    ['relu', 'general_relu(leak=0.2,sub=0.3)']

    Raises:
        ValueError: a name between two commas is missing, or parentheses do not match.
    """
    if not text.strip():
        return []
    names, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == "," and depth == 0:
            names.append("")
        else:
            names[-1] += character
    if depth != 0:
        raise ValueError(f"the parentheses of {text!r} do not match")
    names = [name.strip() for name in names]
    if "" in names:
        raise ValueError(f"a name is missing in {text!r}: write names with one comma between them")
    return names


def keyword_defaults(
    function: Callable[..., object], reserved: Collection[str] = ()
) -> dict[str, Value]:
    """A family's parameters: the keyword-only arguments of `function` beside the reserved ones.

    Raises:
        ValueError: a parameter has no default, or could be given by position.
    """
    positional = [p.name for p in inspect.signature(function).parameters.values()][:1]
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in (*positional, *reserved)
    ]
    for parameter in parameters:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ValueError(
                f"{name_of(function)}: write its parameters after a *, each with a default: "
                f"def {name_of(function)}({positional[0]}, *, {parameter.name}=...)"
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


def plain(number: float) -> float:
    """A number without the rounding of the arithmetic that made it: 1.2 for 1.2000000000000002.

    >>> plain(0.1 + 0.2), plain(2**0.5) == 2**0.5
    (0.3, True)
    """
    short = float(f"{number:.12g}")
    return short if abs(short - number) <= 4 * math.ulp(number) else number


def spelled(value: Value) -> str:
    """A parameter's value as it is written in a name."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(plain(value) + 0).removesuffix(".0") if isinstance(value, float) else str(value)


def _value(text: str, default: Value, where: str) -> Value:
    """Read a value of the default's kind; a whole-number default takes fractions too."""
    if isinstance(default, bool):
        if text in ("true", "false"):
            return text == "true"
        raise ValueError(f"{where} must be true or false, got {text!r}")
    if isinstance(default, str):
        if _WORD.fullmatch(text):
            return text
        raise ValueError(f"{where} must be a word, got {text!r}")
    for kind in (int, float) if isinstance(default, int) else (float,):
        try:
            number = kind(text)
        except ValueError:
            continue
        if not math.isnan(number):
            # one value, one spelling: no negative zero, no rounding of somebody's arithmetic
            return (number if isinstance(number, int) else plain(number)) + 0
    raise ValueError(f"{where} must be a number, got {text!r}")


def _range(text: str, where: str) -> list[str]:
    """The values of ``low:high:count[log]`` as text; anything else is one value."""
    if ":" not in text:
        return [text]
    fault = ValueError(
        f"{where}: cannot read the range {text!r}: write low:high:count, as in 0:0.4:5, or "
        "low:high:countlog, as in 0.5:4:8log, of 2 values or more"
    )
    match = _RANGE.fullmatch(text)
    try:
        low, high = (float(end) for end in match.groups()[:2]) if match else (math.nan, math.nan)
    except ValueError:
        raise fault from None
    count, logarithmic = (int(match[3]), bool(match[4])) if match else (0, False)
    possible = math.isfinite(high - low) and (not logarithmic or min(low, high) > 0)
    if not (possible and low != high and 2 <= count <= _MOST_VALUES):
        raise fault
    steps = [step / (count - 1) for step in range(count)]
    if logarithmic:
        values = [low ** (1 - share) * high**share for share in steps]
        digits = 3 - math.floor(math.log10(abs((high / low) ** (1 / (count - 1)) - 1)))
        rounded = [float(f"{value:.{max(digits, 3)}g}") for value in values]
    else:
        values = [low + (high - low) * share for share in steps]
        digits = 2 - math.floor(math.log10(abs(high - low) / (count - 1)))
        rounded = [round(value, digits) for value in values]
    return [repr(value).removesuffix(".0") for value in (low, *rounded[1:-1], high)]
