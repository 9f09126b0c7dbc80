"""Names: lists of them, near misses, and those of functions and their parameters."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection
from functools import partial

from initstats.registry.values import Value


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
