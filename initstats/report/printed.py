"""Numbers and tables as they are printed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup, escape

from initstats.plots.style import decimal, power_of_ten

DASH = "—"


def significant(value: float, digits: int = 2) -> str:
    """A number as it is printed: few digits, powers of ten where there would be many zeros.

    >>> [significant(x) for x in (0.0, 0.98, 14.2, -2.05e-26, float("inf"), float("nan"))]
    ['0', '0.98', '14', '−2.0×10⁻²⁶', '∞', '—']
    """
    if not math.isfinite(value):
        return DASH if math.isnan(value) else decimal(value, 0)
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -3 <= int(exponent) < 5:
        return decimal(value, max(0, digits - 1 - int(exponent)))
    return f"{mantissa.replace('-', '−')}×{power_of_ten(int(exponent))}"


def factor(value: float) -> str:
    """A factor per layer, with the digits that matter when it is multiplied many times.

    >>> [factor(x) for x in (0.99961, 0.0486, 88.817, 0.0)]
    ['1.000', '0.049', '88.8', '0']
    """
    return decimal(value, 3) if 0.01 <= value < 10 else significant(value, 3)


def growth(middle: float, low: float, high: float) -> str:
    """A factor per layer with its interval, which a single seed does not have.

    >>> growth(0.5, 0.4, 0.6), growth(0.5, float("nan"), float("nan"))
    ('0.500 (0.400 to 0.600)', '0.500')
    """
    return factor(middle) + ("" if math.isnan(low) else f" ({factor(low)} to {factor(high)})")


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{decimal(100 * share, 0)}%"


def typeset(text: str) -> str:
    """The text with a typographer's apostrophe, and a true minus before digits.

    Quotes of code stay as they are.

    >>> typeset("relu - 0.5's mean is -0.25, with inits=['normal(std=1)']")
    "relu − 0.5’s mean is −0.25, with inits=['normal(std=1)']"
    """
    return re.sub(r"(?<=[ e])-(?= ?\d)", "−", re.sub(r"(?<=\w)'", "’", text))


def humps(name: str) -> Markup:
    """A spelling that may be broken before a capital, and after an underscore or a point.

    >>> humps("ResNet_18")
    Markup('Res<wbr>Net_<wbr>18')
    """
    parts = re.split(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[_.])", name)
    return Markup("<wbr>").join(parts)


def breakable(name: str) -> Markup:
    """A spelling that may be broken after `_`, `,` and `=`, and before a bracket.

    >>> breakable("mlp(norm=layer,place=after)")
    Markup('mlp<wbr>(norm=<wbr>layer,<wbr>place=<wbr>after)')
    """
    parts = re.split(r"(?<=[_,=])|(?=\()", name)
    return Markup("<wbr>").join(escape(part) for part in parts if part)


class Column(NamedTuple):
    """A column of a printed table.

    Attributes:
        title: its heading.
        kind: what is in it, which says how it is set: `head` or `code` (set as code), `number`,
            `name`, `word` (which has a class of its own), `picture` (not read aloud), `text`,
            `prose`, `names`.
        text: from the values of the fields to what is printed.
        fields: columns of the data frame; by default the one that is called as the title.
    """

    title: str
    kind: str = "name"
    text: Callable[..., str] = str
    fields: tuple[str, ...] = ()


class Table(NamedTuple):
    """A table as it is printed: its columns, and a text for each of them in every row."""

    columns: list[Column]
    rows: list[list[str]]


def printed(frame: pd.DataFrame, columns: Sequence[Column]) -> Table:
    """Print some columns of a data frame; a dash where the first field of a column is missing.

    >>> rate = Column("rate", "number", percent, ("share",))
    >>> frame = pd.DataFrame({"name": ["a", "b"], "share": [0.5, None]})
    >>> printed(frame, [Column("name"), rate]).rows
    [['a', '50%'], ['b', '—']]
    """
    rows = []
    for record in frame.to_dict("records"):
        values = [[record[field] for field in c.fields or (c.title,)] for c in columns]
        pairs = zip(columns, values, strict=True)
        rows.append([DASH if pd.isna(v[0]) is True else c.text(*v) for c, v in pairs])
    return Table(list(columns), rows)
