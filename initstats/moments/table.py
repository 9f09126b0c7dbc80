"""The table of statistics: what each column means and how it follows from the moments of units.

The fields of `FIELDS` summarize the entries of a unit; every column of the table is a function of
the units' fields and of the histogram. Moments are pooled over units as in Chan, Golub & LeVeque
(1983) and Pebay (2008). This module needs no torch: a report is drawn from tables alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.moments.histogram import BINS as BINS
from initstats.moments.histogram import QUANTILES, quantiles
from initstats.moments.histogram import bin_edges as bin_edges
from initstats.registry import Catalog, unknown

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
    "abs",
)
"""The numbers that are kept for a unit (float64). All but `nonfinite` and `infinite` are of the
finite entries; `m2 m3 m4` are sums of powers of (x - mean) / scale, `scale` is a power of two or 0;
`abs` is the mean of |x|.
"""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """The moments of some tensors (slots), by unit and pooled; every statistic is read off them.

    Args:
        units: (slots, units, fields).
        histogram: (slots, BINS).
        fields: names of the fields.
    """

    units: Array
    histogram: NDArray[np.int64]
    fields: tuple[str, ...]

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

    def average(self, field: str) -> Array:
        """A field that is a mean over a unit's entries as the mean over all of them, (slots,).

        It is computed as an offset from one unit's mean, so that equal means stay exact.
        """
        values = self.unit(field)
        first = np.take_along_axis(values, self.seen.argmax(axis=1)[:, None], axis=1)
        offset: Array = (self.share * (values - first)).sum(axis=1)
        return offset + first[:, 0]

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Units with at least one finite entry, (slots, units)."""
        return self.unit("count") > 0

    @cached_property
    def share(self) -> Array:
        """Each unit's share of the finite entries, (slots, units); NaN where there are none."""
        return _ratio(self.unit("count"), self.count[:, None])

    @cached_property
    def count(self) -> Array:
        """Number of finite entries, (slots,)."""
        return self.total("count")

    @cached_property
    def mean(self) -> Array:
        """Mean of all finite entries, (slots,)."""
        return self.average("mean")

    @cached_property
    def central(self) -> tuple[Array, Array, Array, Array]:
        """(scale, m2, m3, m4) of all finite entries: sums of powers of (x - mean) / scale."""
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
        """Square root of the mean of x**2, finite even if x**2 overflows or vanishes."""
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


_SUMMARY = [name for name in (*Summary.__annotations__, *vars(Summary)) if name[0] != "_"]


@dataclass(frozen=True)
class Field:
    """A number that one statistic keeps for every unit, in addition to `FIELDS`.

    It has the statistic's name: ``summary.unit(name)``, ``summary.total(name)``.

    Args:
        of: computes the numbers of a tile, (..., units), from a torch tensor (..., units, entries)
            of float32 or float64 that may hold NaN and infinities.
        merge: combines two numbers of a unit; by default their sum.
        start: the number before the first entry.
    """

    of: Callable[[Any], Any]
    merge: Callable[[Any, Any], Any] = operator.add
    start: float = 0.0


@dataclass(frozen=True)
class Statistic:
    """A column of the table: its name, its meaning in a line, and how a `Summary` gives it."""

    name: str
    meaning: str
    read: Callable[[Summary], Array]
    integer: bool = False
    field: Field | None = None
    size: bool = False


STATISTICS: Catalog[Statistic] = Catalog("statistic")
"""Every statistic, in the order of the table's columns."""

Reader = Callable[[Summary], Array]


def register_statistic(
    *, integer: bool = False, field: Field | None = None, size: bool = False
) -> Callable[[Reader], Reader]:
    """Add a column to the table: the function gives its name, the docstring its meaning.

    A statistic that needs more than `FIELDS` brings a field of its own::

        @register_statistic(field=Field(lambda x: (x.abs() > 0.99).sum(-1)))
        def saturated_fraction(s):
            'share of entries beyond -0.99 or 0.99'
            return s.total("saturated_fraction") / s.count

    The function is given a `Summary` of some tensors and returns an array with a number for each.
    What it reads are sums over units (``s.total(field)``), fields of the units (``s.unit(field)``),
    and what follows from both, such as ``s.mean`` and ``s.quantiles``.

    Args:
        integer: whether the values are whole numbers.
        field: what every unit keeps in addition to `FIELDS`, from now on.
        size: whether it is a size, 0 or more, which grows and shrinks by factors: it is averaged
            and compared by its logarithm.

    Raises:
        ValueError: another module took the name, or one of `FIELDS` has it.
    """

    def add(read: Reader) -> Reader:
        name, meaning = read.__name__.rstrip("_"), (read.__doc__ or "").strip()
        if field and name in FIELDS:
            raise ValueError(f"{name!r} is a field already: rename the statistic")
        entry = Statistic(name, meaning, read, integer, field, size)
        STATISTICS.add_one(name, entry, meaning=meaning, module=read.__module__)
        return read

    return add


def summarize_units(units: Array, histogram: NDArray[np.int64], fields: tuple[str, ...]) -> Array:
    """All statistics of all slots, (slots, statistics), columns in the order of `STATISTICS`.

    A statistic is NaN if it was registered after the accumulator was made, which lacks its field.
    """
    # as many slots at once as stay in the cache, units and histograms
    size = max(1, min(2**15 // units.shape[1], 256))
    table = np.full((len(units), len(STATISTICS)), np.nan)
    with np.errstate(all="ignore"):
        for start in range(0, len(units), size):
            part = slice(start, start + size)
            summary = Summary(units[part], histogram[part], fields)
            for column, entry in enumerate(STATISTICS.values()):
                if entry.field is None or entry.name in fields:
                    table[part, column] = _read(entry, summary)
    return table


def _read(entry: Statistic, summary: Summary) -> Array:
    """A statistic of every slot, (slots,).

    Raises:
        ValueError: the statistic's function fails, or does not give a number for each slot.
    """
    try:
        values = np.asarray(entry.read(summary), np.float64)
    except Exception as error:  # whatever a user's function may do
        raise ValueError(
            f"statistic {entry.name!r} cannot be computed: {type(error).__name__}: {error}; it is "
            f"given a Summary, which has {', '.join(_SUMMARY)}"
        ) from error
    if values.shape != summary.count.shape:
        raise ValueError(
            f"statistic {entry.name!r} has shape {values.shape}, {summary.count.shape} is "
            "expected: a number for each tensor, as s.total('zero') / s.count gives"
        )
    return values


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


@register_statistic(size=True)
def std(s: Summary) -> Array:
    """standard deviation of all entries (ddof=1, as torch)"""
    scale, m2, *_ = s.central
    return np.sqrt(_ratio(m2, s.count - 1)) * scale


@register_statistic(size=True)
def second_moment(s: Summary) -> Array:
    """mean of x^2, the q of mean-field theory: compare this with theory, not the std"""
    return s.root_mean_square**2


@register_statistic(size=True)
def abs_mean(s: Summary) -> Array:
    """mean of |x|"""
    return s.average("abs")


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


@register_statistic(size=True)
def unit_mean_std(s: Summary) -> Array:
    """spread across units of the unit's mean (population)"""
    return _spread(np.where(s.seen, s.unit("mean"), np.nan))


@register_statistic(size=True)
def unit_std_mean(s: Summary) -> Array:
    """mean over units of the unit's standard deviation (population)"""
    return _average(s.unit_std)


@register_statistic(size=True)
def unit_std_std(s: Summary) -> Array:
    """spread across units of the unit's standard deviation (population)"""
    return _spread(s.unit_std)


@register_statistic()
def sample_correlation(s: Summary) -> Array:
    """kernel of two different samples (or positions) over q: 1 when all look alike to the layer"""
    # Entries of a unit are samples at positions, and a tensor does not tell which are one sample's.
    # A unit's mean over pairs i != j is its squared mean less what pairs of i with i add to that.
    n = s.unit("count")
    paired = n > 1
    mean, std = (np.where(paired, values, 0.0) for values in (s.unit("mean"), s.unit_std))
    largest = np.maximum(np.abs(mean), std).max(axis=1, initial=0.0)[:, None]
    square, variance = _ratio(mean, largest) ** 2, _ratio(std, largest) ** 2
    kernel = square - variance / np.maximum(n - 1, 1.0)
    weight = np.where(paired, n, 0.0)
    return _ratio((weight * kernel).sum(axis=1), (weight * (square + variance)).sum(axis=1))


for _name, _p in QUANTILES.items():

    def _quantile(s: Summary, name: str = _name) -> Array:
        return s.quantiles[name]

    _quantile.__name__ = _name
    _quantile.__doc__ = f"{_p:.0%} of the entries lie below (from the histogram)"
    register_statistic()(_quantile)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Numerator over denominator, NaN where the denominator is not positive."""
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), np.nan)


def _average(values: Array) -> Array:
    """Mean over units, without those that are NaN."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def _spread(values: Array) -> Array:
    """Population standard deviation over units, without NaN; exactly 0 for equal values."""
    known = ~np.isnan(values)
    first = np.take_along_axis(values, known.argmax(axis=1)[:, None], axis=1)
    offset = values - first
    centred = offset - _average(offset)[:, None]
    largest = np.abs(np.where(known, centred, 0.0)).max(axis=1, initial=0.0)
    safe = np.where(largest > 0, largest, 1.0)
    return np.sqrt(_average((centred / safe[:, None]) ** 2)) * safe
