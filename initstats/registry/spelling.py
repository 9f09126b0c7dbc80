"""Spelling: how names and the values of parameters are written, and how they are read again."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection

Value = bool | int | float | str

_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_INSIDE = re.compile(r"\([^()]*\)")
_MOST_VALUES = 10_000
_WHOLE = 1e16
"""From here on a fraction's spelling has an exponent, as a whole number's has not."""


def unknown(noun: str, name: Value, available: Collection[str]) -> ValueError:
    """The error for a name that is not among those available, with the nearest of them.

    A number may have been read where a word belongs.

    >>> unknown("mode", "fanin", ["fan_in", "fan_out"])
    ValueError("unknown mode 'fanin': did you mean 'fan_in'? available: fan_in, fan_out")
    """
    name = spelled(name)
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
    if {"(", ")"} & {*_INSIDE.sub("", text)}:
        raise ValueError(f"the parentheses of {text!r} do not match, or one is inside another")
    names = [name.strip() for name in re.split(r",(?![^()]*\))", text)]
    if "" in names:
        raise ValueError(f"a name is missing in {text!r}: write names with one comma between them")
    return names


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


def read_value(text: str, default: Value, where: str) -> Value:
    """Read a value of the default's kind; a whole-number default takes fractions too."""
    if isinstance(default, bool):
        if text in ("true", "false"):
            return text == "true"
        raise ValueError(f"{where} must be true or false, got {text!r}")
    if isinstance(default, str):
        if _WORD.fullmatch(text):
            return text
        try:  # a rule by name may be a plain number, too; the entry says whether
            return read_value(text, 0.0, where)
        except ValueError:
            raise ValueError(f"{where} must be a word, got {text!r}") from None
    for kind in (int, float) if isinstance(default, int) else (float,):
        try:
            number = kind(text)
        except ValueError:
            continue
        if not math.isnan(number):
            # one value, one spelling: no negative zero, no rounding of somebody's arithmetic, and
            # no 3.0 for a 3 that is counted with
            number = number if isinstance(number, int) else plain(number)
            counts = isinstance(default, int) and abs(number) < _WHOLE and number == int(number)
            return (int(number) if counts else number) + 0
    raise ValueError(f"{where} must be a number, got {text!r}")


def read_range(text: str, where: str) -> list[str]:
    """The values of ``low:high:count[log]`` as text; anything else is one value."""
    if ":" not in text:
        return [text]
    logarithmic = text.endswith("log")
    try:
        first, last, number = text.removesuffix("log").split(":")
        low, high, count = float(first), float(last), int(number)
    except ValueError:
        low, high, count = math.nan, math.nan, 0
    possible = math.isfinite(high - low) and low != high and (min(low, high) > 0 or not logarithmic)
    if not (possible and 2 <= count <= _MOST_VALUES):
        raise ValueError(
            f"{where}: cannot read the range {text!r}: write low:high:count, as in 0:0.4:5, or "
            "low:high:countlog, as in 0.5:4:8log, with both ends above 0; of 2 values or more"
        )
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
