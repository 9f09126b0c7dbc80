"""What a parameter should be, and whether it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy import stats
from torch import Tensor

from initstats.audits.law import CHANCE, Law, law_of
from initstats.audits.parameter import Drawn, moments
from initstats.schemes.draw import Draw

ROUNDING = 2e-3
"""Relative differences of scales that are none: written numbers have few digits."""
FAR_CUT = 4.0
"""A normal law that is cut at so many stds, or beyond, looks like one that is not."""
WRITTEN = 1e-5
"""By what share of itself a number may be off that is written with six digits."""
NEAR_CUT = 0.1
"""Cuts, in stds, that are told from the entries come so near to the true ones."""


Fault = Literal["", "value", "law", "law and scale", "scale", "mean"]
"""In what a parameter differs."""


@dataclass(frozen=True)
class Expected:
    """A law and its scale.

    Attributes:
        law: a name of `Law`.
        value: of a constant; gain of an orthogonal matrix or identity.
        std: of the entries.
        cut: where a truncated law ends, in stds of the law before the cut.
        error: standard error of `std` as a share of it, where it was measured itself.
        text: in words.
        mean: what the entries lie around, and `std` is measured from.
        runs: of constants, in their order, as of `Law`; empty where it does not matter.
    """

    law: str
    value: float = math.nan
    std: float = 0.0
    cut: float = math.nan
    error: float = 0.0
    text: str = ""
    mean: float = 0.0
    runs: str = ""

    @classmethod
    def of(cls, draw: Draw) -> Expected:
        """That of a draw."""
        law = "normal" if draw.law == "truncated_normal" and draw.cut >= FAR_CUT else draw.law
        return cls(law, draw.value, draw.std, draw.cut, text=str(draw))

    @property
    def by_chance(self) -> bool:
        """Whether its entries are drawn."""
        return self.law in CHANCE or self.law in ("orthogonal", "unlike any")

    def __str__(self) -> str:
        return self.text or self.law


@dataclass(frozen=True)
class Seen:
    """What a parameter, or a part of it, is.

    Attributes:
        rounding: by what share of itself a number of its type may be off.
        law, mean, std, error, count: as of `Drawn`.
    """

    law: Law
    mean: float
    std: float
    error: float
    count: int
    rounding: float = WRITTEN

    @classmethod
    def of(cls, each: Drawn) -> Seen:
        """That of a whole parameter."""
        rounding = _rounding(getattr(torch, each.dtype))
        return cls(each.law, each.mean, each.std, each.error, each.count, rounding)

    @classmethod
    def part(cls, x: Tensor, level: float) -> Seen:
        """That of a part."""
        law = law_of(x, level)
        mean, std, *_ = moments(x)
        error = math.sqrt((law.kurtosis - 1) / 4 / max(x.numel(), 1))
        return cls(law, mean, std, error, x.numel(), _rounding(x.dtype))

    def differs(self, wanted: Expected, level: float) -> bool:
        """Whether it is something else than what is expected, and that is not by chance.

        Args:
            level: probability with which chance alone makes it differ, at most.
        """
        return bool(self.fault(wanted, level))

    def fault(self, wanted: Expected, level: float) -> Fault:
        """In what it differs from what is expected, more than by chance; empty where it does not.

        Args:
            level: as of `differs`.
        """
        name = self.law.name
        if not wanted.by_chance:
            alike = name == wanted.law or {name, wanted.law} == {"constant", "ones"}
            # gains of identities are fitted, as scales are; a constant is as it was written
            exact = name in ("constant", "ones")
            near = _near(self.law.value, wanted.value, self.rounding if exact else 4e-3)
            placed = not wanted.runs or self.law.runs == wanted.runs
            return "" if alike and near and placed else "value"
        if name not in (*CHANCE, "orthogonal", "unlike any"):
            few = self.count == 1 and name in ("constant", "ones") and wanted.law in CHANCE
            return "" if few else "value"
        far = self._chance(self.std / wanted.std, wanted) < level / 2
        if not self._law_is(wanted):
            return "law and scale" if far else "law"
        if far:
            return "scale"
        return "mean" if wanted.law in CHANCE and self._leans(wanted, level) else ""

    def _leans(self, wanted: Expected, level: float) -> bool:
        """Whether the entries lie around another number."""
        edge = float(stats.t.isf(level / 4, max(self.count - 1, 1)))
        # the mean that is wanted was measured too, on about as many entries, unless it is 0
        error = self.std * math.sqrt((1 + (wanted.mean != 0)) / self.count)
        return abs(self.mean - wanted.mean) > edge * error

    def _chance(self, ratio: float, wanted: Expected) -> float:
        """How likely a ratio of stds is that is as far from 1, or farther.

        Squares of stds from few entries are far from normal: they have Fisher's law, with as many
        degrees of freedom as their standard errors say.
        """
        own, other = (1 / (2 * max(error, 1e-6) ** 2) for error in (self.error, wanted.error))
        near = math.exp(max(abs(math.log(max(ratio, 1e-300))) - ROUNDING, 0.0))
        square = near**2 if ratio > 1 else near**-2
        law = stats.f(own, other)
        return 2 * float(law.sf(square) if ratio > 1 else law.cdf(square))

    def _law_is(self, wanted: Expected) -> bool:
        name = self.law.name
        if name == "truncated_normal" and self.law.cut > FAR_CUT:
            name = "normal"
        if "undecided" in (name, wanted.law):
            return name in CHANCE and wanted.law in CHANCE
        if name != wanted.law:
            return False
        return name != "truncated_normal" or abs(self.law.cut - wanted.cut) < NEAR_CUT

    def __str__(self) -> str:
        exact = self.law.name in ("constant", "ones") or self.law.runs
        if not self.std or not math.isfinite(self.std) or exact:
            return str(self.law)
        return f"{self.law}, std {self.std:.4g}"


def _near(x: float, y: float, tolerance: float) -> bool:
    """Whether two numbers are one but for a relative tolerance; NaN is near to NaN."""
    return math.isnan(y) or math.isclose(x, y, rel_tol=tolerance)


def _rounding(dtype: torch.dtype) -> float:
    """By what share of itself a number of a type may be off, or one that is written down."""
    return max(torch.finfo(dtype).eps, WRITTEN) if dtype.is_floating_point else WRITTEN
