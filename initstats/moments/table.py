"""The table of statistics: what each column means and how it follows from the moments of units.

A unit's entries are summarized by the fields of `FIELDS`; every column of the table is a function
of the units' fields and of the histogram. Pooled moments follow Chan, Golub & LeVeque (1983) and
Pebay (2008). No torch here: a report is drawn from tables alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.moments.histogram import BINS, QUANTILES, bin_edges, quantiles
from initstats.registry import Catalog, unknown

__all__ = [
    "BINS",
    "FIELDS",
    "STATISTICS",
    "Field",
    "Statistic",
    "Summary",
    "bin_edges",
    "register_statistic",
    "summarize_units",
]

FIELDS = (
    "count",
    "nonfinite",
    "infinite",
    "scale",
    "mean",
    "m2",
    "m3",
    "m4",
    "min",
    "max",
    "negative",
    "zero",
)
"""What is kept of a unit (float64). `count` is of the finite entries, as is all that follows it;
`m2 m3 m4` are sums of powers of (x - mean) / scale, `scale` a power of two or 0."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """The moments of some tensors (slots), by unit and pooled; each statistic is read off here.

    Args:
        units: (slots, units, fields).
        histogram: (slots, BINS).
        fields: names of the fields.
    """

    units: Array
    histogram: NDArray[np.int64]
    fields: tuple[str, ...] = FIELDS

    def unit(self, field: str) -> Array:
        """One field of every unit, (slots, units).

        Raises:
            ValueError: no such field.
        """
        if field not in self.fields:
            raise unknown("field", field, self.fields)
        values: Array = self.units[..., self.fields.index(field)]
        return values

    def total(self, field: str) -> Array:
        """One field summed over units, (slots,)."""
        values: Array = self.unit(field).sum(axis=1)
        return values

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Units with at least one finite entry, (slots, units)."""
        return self.unit("count") > 0

    @cached_property
    def count(self) -> Array:
        """Finite entries of a slot, (slots,)."""
        return self.total("count")

    @cached_property
    def mean(self) -> Array:
        """Mean of all finite entries, measured from one unit's mean: equal means stay exact."""
        first = np.take_along_axis(self.unit("mean"), self.seen.argmax(axis=1)[:, None], axis=1)
        share = _ratio(self.unit("count"), self.count[:, None])
        offset: Array = (share * (self.unit("mean") - first)).sum(axis=1)
        return offset + first[:, 0]

    @cached_property
    def central(self) -> tuple[Array, Array, Array, Array]:
        """(scale, m2, m3, m4) over all finite entries: sums of powers of (x - mean) / scale."""
        n, mean = self.unit("count"), self.mean[:, None]
        offset = np.where(self.seen, self.unit("mean") - mean, 0.0)
        scale = np.maximum(self.unit("scale"), np.abs(offset)).max(axis=1, initial=0.0)
        safe = np.where(scale > 0, scale, 1.0)[:, None]
        d, r = offset / safe, self.unit("scale") / safe
        d2, r2 = d * d, r * r  # powers as products: ** takes fifty times as long
        m2, m3, m4 = self.unit("m2") * r2, self.unit("m3") * r2 * r, self.unit("m4") * r2 * r2
        return (
            safe[:, 0],
            (m2 + n * d2).sum(axis=1),
            (m3 + d * (3 * m2 + n * d2)).sum(axis=1),
            (m4 + 4 * d * m3 + d2 * (6 * m2 + n * d2)).sum(axis=1),
        )

    @cached_property
    def root_mean_square(self) -> Array:
        """Square root of the mean of x**2: a number also where x**2 overflows or vanishes."""
        scale, m2, *_ = self.central
        return np.hypot(np.sqrt(_ratio(m2, self.count)) * scale, self.mean)

    @cached_property
    def unit_std(self) -> Array:
        """Population standard deviation of each unit, (slots, units); NaN without entries."""
        return np.sqrt(_ratio(self.unit("m2"), self.unit("count"))) * self.unit("scale")

    @cached_property
    def min(self) -> Array:
        """Smallest finite entry, NaN where there is none."""
        return np.where(self.count > 0, self.unit("min").min(axis=1), np.nan)

    @cached_property
    def max(self) -> Array:
        """Largest finite entry, NaN where there is none."""
        return np.where(self.count > 0, self.unit("max").max(axis=1), np.nan)

    @cached_property
    def quantiles(self) -> dict[str, Array]:
        """The quantiles of the histogram, (slots,) each."""
        return quantiles(self.histogram, self.min, self.max)


@dataclass(frozen=True)
class Field:
    """A number to keep of every unit for one statistic, where `FIELDS` do not suffice.

    It goes by the statistic's name: ``summary.unit(name)``, ``summary.total(name)``.

    Args:
        of: the number in one tile, (..., units), from the tile, a torch tensor (..., units,
            entries) of float32 or float64 that may hold NaN and infinities.
        merge: what two numbers of a unit become together; a sum by default.
        start: the number before the first entry.
    """

    of: Callable[[Any], Any]
    merge: Callable[[Any, Any], Any] = operator.add
    start: float = 0.0


@dataclass(frozen=True)
class Statistic:
    """One column of the table: its name, its meaning in a line, how to read it off a `Summary`."""

    name: str
    meaning: str
    read: Callable[[Summary], Array]
    integer: bool = False
    field: Field | None = None


STATISTICS: Catalog[Statistic] = Catalog("statistic")
"""Every statistic, in the order of the table's columns."""

Reader = Callable[[Summary], Array]


def register_statistic(
    *, integer: bool = False, field: Field | None = None
) -> Callable[[Reader], Reader]:
    """Add a column: the function's name is the column's, its docstring the meaning.

    A statistic that needs more of a tile than `FIELDS` brings its own field::

        @register_statistic(field=Field(lambda x: (x.abs() > 0.99).sum(-1)))
        def saturated_fraction(s):
            'share of entries beyond -0.99 or 0.99'
            return s.total("saturated_fraction") / s.count

    Args:
        integer: whether its values are whole numbers.
        field: what is kept of every unit besides `FIELDS`, from then on.

    Raises:
        ValueError: another module took the name, or one of `FIELDS` has it.
    """

    def add(read: Reader) -> Reader:
        name, meaning = read.__name__.rstrip("_"), (read.__doc__ or "").strip()
        if field and name in FIELDS:
            raise ValueError(f"{name!r} is a field already: rename the statistic")
        entry = Statistic(name, meaning, read, integer, field)
        STATISTICS.add_one(name, entry, meaning=meaning, module=read.__module__)
        return read

    return add


def own_fields() -> dict[str, Field]:
    """The fields that registered statistics bring along, by name."""
    return {name: entry.field for name, entry in STATISTICS.items() if entry.field}


def summarize_units(
    units: Array, histogram: NDArray[np.int64], fields: tuple[str, ...] = FIELDS
) -> Array:
    """All statistics of all slots, (slots, statistics), columns in the order of `STATISTICS`.

    NaN where a statistic's own field was not kept, as it was registered later.

    Args:
        units, histogram, fields: see `Summary`.
    """
    # as many at once as stay in cache, units and histograms
    size = max(1, min(2**15 // units.shape[1], 256))
    table = np.full((len(units), len(STATISTICS)), np.nan)
    readable = [
        (column, entry)
        for column, entry in enumerate(STATISTICS.values())
        if entry.field is None or entry.name in fields
    ]
    with np.errstate(all="ignore"):
        for start in range(0, len(units), size):
            part = slice(start, start + size)
            summary = Summary(units[part], histogram[part], fields)
            for column, entry in readable:
                table[part, column] = entry.read(summary)
    return table


@register_statistic(integer=True)
def count(s: Summary) -> Array:
    """entries seen (samples x units x positions)"""
    return s.count + s.total("nonfinite")


@register_statistic(integer=True)
def nonfinite(s: Summary) -> Array:
    """entries that are NaN or infinite; no other statistic sees them"""
    return s.total("nonfinite")


@register_statistic(integer=True)
def infinite(s: Summary) -> Array:
    """entries that are infinite"""
    return s.total("infinite")


@register_statistic()
def mean(s: Summary) -> Array:
    """mean of all entries"""
    return s.mean


@register_statistic()
def std(s: Summary) -> Array:
    """standard deviation of all entries (ddof=1, as torch)"""
    scale, m2, *_ = s.central
    return np.sqrt(_ratio(m2, s.count - 1)) * scale


@register_statistic()
def second_moment(s: Summary) -> Array:
    """mean of x^2, the q of mean-field theory: compare this with theory, not the std"""
    return s.root_mean_square**2


@register_statistic()
def skewness(s: Summary) -> Array:
    """asymmetry: third standardized moment (population); 0 for a symmetric distribution"""
    _, m2, m3, _ = s.central
    return _ratio(np.sqrt(s.count) * m3, m2**1.5)


@register_statistic()
def kurtosis(s: Summary) -> Array:
    """heaviness of the tails: fourth standardized moment minus 3 (population); 0 for a Gaussian"""
    _, m2, _, m4 = s.central
    return _ratio(s.count * m4, m2**2) - 3.0


@register_statistic()
def min_(s: Summary) -> Array:
    """smallest entry"""
    return s.min


@register_statistic()
def max_(s: Summary) -> Array:
    """largest entry"""
    return s.max


@register_statistic()
def negative_fraction(s: Summary) -> Array:
    """share of entries below 0"""
    return _ratio(s.total("negative"), s.count)


@register_statistic()
def zero_fraction(s: Summary) -> Array:
    """share of entries that are exactly 0"""
    return _ratio(s.total("zero"), s.count)


@register_statistic()
def dead_fraction(s: Summary) -> Array:
    """share of units with one value for every sample: they tell nothing about the input"""
    entries = s.unit("count") + s.unit("nonfinite")
    judged = (entries > 1) & s.seen
    dead = judged & (s.unit("min") == s.unit("max")) & (s.unit("nonfinite") == 0)
    return _ratio(dead.sum(axis=1), judged.sum(axis=1))


@register_statistic()
def unit_mean_std(s: Summary) -> Array:
    """spread across units of the unit's mean (population)"""
    return _spread(np.where(s.seen, s.unit("mean"), np.nan))


@register_statistic()
def unit_std_mean(s: Summary) -> Array:
    """mean over units of the unit's standard deviation (population)"""
    return _average(s.unit_std)


@register_statistic()
def unit_std_std(s: Summary) -> Array:
    """spread across units of the unit's standard deviation (population)"""
    return _spread(s.unit_std)


@register_statistic()
def sample_correlation(s: Summary) -> Array:
    """mean kernel of pairs of samples over q: 1 when every input looks the same to the layer"""
    relative = _ratio(s.unit("mean"), s.root_mean_square[:, None])
    pairs = (s.unit("count") > 1).any(axis=1)  # of one sample there are none
    return np.where(pairs, _average(np.where(s.seen, relative**2, np.nan)), np.nan)


def _quantile(name: str, p: float) -> Reader:
    def read(s: Summary) -> Array:
        return s.quantiles[name]

    read.__name__, read.__doc__ = name, f"{p:.0%} of the entries lie below (from the histogram)"
    return read


for _name, _p in QUANTILES.items():
    register_statistic()(_quantile(_name, _p))


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Numerator over denominator, NaN where the denominator is not positive."""
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), np.nan)


def _average(values: Array) -> Array:
    """Mean over units of what is not NaN."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def _spread(values: Array) -> Array:
    """Population standard deviation over units of what is not NaN; exactly 0 for equal values."""
    known = ~np.isnan(values)
    first = np.take_along_axis(values, known.argmax(axis=1)[:, None], axis=1)
    offset = values - first
    centred = offset - _average(offset)[:, None]
    largest = np.abs(np.where(known, centred, 0.0)).max(axis=1, initial=0.0)
    safe = np.where(largest > 0, largest, 1.0)
    return np.sqrt(_average((centred / safe[:, None]) ** 2)) * safe
