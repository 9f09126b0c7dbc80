"""Values of parameters: how they are written in a name, and read from one."""

from __future__ import annotations

import math
import re

Value = bool | int | float | str

_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_RANGE = re.compile(r"([^:]+):([^:]+):(\d+)(log)?")
_MOST_VALUES = 10_000


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


def read_range(text: str, where: str) -> list[str]:
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
