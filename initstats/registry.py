"""Named entries, spelled the way users type them: ``relu``, ``general_relu(leak=0.2,sub=0.3)``.

A registry keeps families by name; a spelling picks one member of a family by its parameters.
The canonical spelling names only the parameters that differ from the family's defaults, in the
order of their declaration and without spaces, so that one member has one name in every table.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import math
import pickle
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")
Value = bool | int | float | str

_SPELLING = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\(([^()]*)\))?\s*")
_WORD = re.compile(r"[A-Za-z_][\w.-]*")


@dataclass(frozen=True)
class _Family(Generic[T]):
    make: Callable[..., T]
    defaults: Mapping[str, Value]


class Registry(Generic[T]):
    """Families of `T` by name; `noun` is what error messages call one of them."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._families: dict[str, _Family[T]] = {}
        self._made: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._families)

    def __contains__(self, name: object) -> bool:
        return name in self._families

    def add(self, name: str, make: Callable[..., T], defaults: Mapping[str, Value]) -> None:
        """Register a family: ``make(canonical_spelling, **parameters)`` builds a member.

        Raises:
            ValueError: the name is taken, or cannot be spelled.
        """
        if not name.isidentifier():
            raise ValueError(f"{self.noun} {name!r} cannot be spelled: give it a plain name")
        if name in self:
            raise ValueError(f"{self.noun} {name!r} is registered already: choose another name")
        for key, value in defaults.items():
            if not isinstance(value, Value):
                raise ValueError(
                    f"{self.noun} {name!r}: the default of {key!r} must be a number, a boolean "
                    f"or a word, got {value!r}"
                )
        self._families[name] = _Family(make, dict(defaults))

    def get(self, spelling: str) -> T:
        """The member that a spelling names; the same object for every spelling of it.

        Raises:
            ValueError: no such family or parameter, or a value that the family refuses.
        """
        name, parameters = self.parse(spelling)
        canonical = self.spell(name, parameters)
        if canonical not in self._made:
            self._made[canonical] = self._families[name].make(canonical, **parameters)
        return self._made[canonical]

    def defaults(self, name: str) -> Mapping[str, Value]:
        """A family's parameters and their defaults, in the order of declaration."""
        return self._family(name).defaults

    def parse(self, spelling: str) -> tuple[str, dict[str, Value]]:
        """A family's name and all its parameters, defaults filled in.

        >>> demo = Registry[str]("demo")
        >>> demo.add("ramp", lambda spelling, **_: spelling, {"low": 0.0, "high": 6.0})
        >>> demo.parse("ramp(high=8)")
        ('ramp', {'low': 0.0, 'high': 8.0})
        """
        match = _SPELLING.fullmatch(spelling)
        if match is None:
            raise ValueError(
                f"cannot read {self.noun} {spelling!r}: write name or name(parameter=value,...)"
            )
        name, inside = match.groups()
        defaults = self._family(name).defaults
        given: dict[str, Value] = {}
        for item in (inside or "").split(",") if (inside or "").strip() else ():
            key, equals, text = (part.strip() for part in item.partition("="))
            if not equals or key in given:
                fault = "is given twice" if equals else "is not parameter=value"
                raise ValueError(f"cannot read {self.noun} {spelling!r}: {key!r} {fault}")
            if key not in defaults:
                raise unknown(f"parameter of {self.noun} {name!r}", key, defaults)
            given[key] = _value(text, defaults[key], f"{self.noun} {spelling!r}: {key}")
        return name, {
            # An equal value is the default itself: 0.0 for -0.0, 6.0 for 6.
            key: default if given.get(key, default) == default else given[key]
            for key, default in defaults.items()
        }

    def spell(self, name: str, parameters: Mapping[str, Value]) -> str:
        """The canonical spelling: only what differs from the defaults.

        >>> demo = Registry[str]("demo")
        >>> demo.add("ramp", lambda spelling, **_: spelling, {"low": 0.0, "high": 6.0})
        >>> demo.spell("ramp", {"low": 0.0, "high": 8.0})
        'ramp(high=8)'
        """
        given = [
            f"{key}={_text(parameters[key])}"
            for key, default in self._family(name).defaults.items()
            if parameters.get(key, default) != default
        ]
        return f"{name}({','.join(given)})" if given else name

    def _family(self, name: str) -> _Family[T]:
        if name not in self:
            raise unknown(self.noun, name, self._families)
        return self._families[name]


class Entry:
    """A frozen dataclass that a registry holds, and that crosses to another process by its name.

    Attributes:
        name: its canonical spelling.
        module: defines its family; empty where it was made of a bare callable.
    """

    registry: ClassVar[Registry[Any]]
    name: str
    module: str

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.module:
            return _recall, (type(self), self.name, self.module)
        state = tuple(getattr(self, field.name) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        try:
            pickle.dumps(state)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise pickle.PicklingError(
                f"{self.registry.noun} {self.name!r} cannot be sent to another process: register "
                f"it in a module that can be imported, with @{self.registry.noun}(), or use "
                "workers=1"
            ) from error
        return type(self), state


def _recall(kind: type[Entry], name: str, module: str) -> Any:
    family = name.partition("(")[0]
    if family not in kind.registry:
        importlib.import_module(module)
    return kind.registry.get(name)


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
    first, *others = inspect.signature(function).parameters.values()
    parameters = [parameter for parameter in others if parameter.name not in reserved]
    for parameter in parameters:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ValueError(
                f"{name_of(function)}: write its parameters after a *, each with a default: "
                f"def {name_of(function)}({first.name}, *, {parameter.name}=...)"
            )
    return {parameter.name: parameter.default for parameter in parameters}


def summary_of(function: Callable[..., object]) -> str:
    """The first line of a docstring; empty where there is none."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def name_of(function: Callable[..., object]) -> str:
    """What a callable is called: a function's name, a module's class, ``lambda``."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value + 0).removesuffix(".0") if isinstance(value, float) else str(value)


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
            return number + 0  # no negative zero: one value, one spelling
    raise ValueError(f"{where} must be a number, got {text!r}")
