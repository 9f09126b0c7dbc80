"""Figures of the derivation that theory of architectures here rests on, as they were printed.

"initstats: theory for architectures", section 9: simulations in float64 by a program that shares no
code with this one, in units of what seeds leave open, and the table of a hundred layers.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import NamedTuple

SEEDS = 24
"""Draws of weights behind each measured figure of a hundred layers."""
QUANTITIES = ("forward", "backward", "cosine")
"""Root mean square of what goes through all layers, at the last; that of its gradient at the first
layer over that at the last; cosine of two rows, or tokens, at the last."""

# recipe | forward | backward | cosine: measured (theory)
_HUNDRED = """
plain, He                      | 0.18 (1)    | 0.24 (1)    | 0.999 (0.996)
LN before relu                 | 0.50 (0.5)  | 0.3 (0.5)   | 0.999 (0.996)
LN after relu                  | 0.70 (0.71) | 9e7 (1.5e8) | 0.05 (0)
BN, B=32                       | 0.50 (0.5)  | 6e8 (1e9)   | 0.31 (0.30)
weight standardization         | 0.6 (1.2)   | 2e7 (2e8)   | 0.35 (0.32)
skip, alpha=1                  | 4e14 (1e15) | 5e14 (1e15) | 0.99 (0.99)
skip, 1/√L                   | 1.65 (1.64) | 1.68 (1.64) | 0.47 (0.45)
skip, 1/L                      | 1.00 (1.01) | 1.01 (1.01) | 0.32 (0.30)
ReZero                         | 1 (1)       | 1 (1)       | 0.32 (0.30)
Fixup                          | 1 (1)       | 1 (1)       | 0.32 (0.30)
pre-LN                         | 10.1 (10)   | 10.8 (10)   | 0.70 (0.71)
pre-LN, 1/√L                 | 1.41 (1.41) | 1.43 (1.41) | 0.43 (0.41)
post-LN                        | 1 (1)       | 1.3 (1)     | 0.990 (0.988)
DeepNorm                       | 1 (1)       | 0.99 (1)    | 0.31 (0.30)
pre-BN                         | 10.1 (10)   | 28.7 (28.8) | 0.31 (0.30)
transformer, no skip           | 1           | 0.14 (0.49) | 1.000 (1)
transformer, post-LN           | 1           | 0.10 (0.39) | 1.000 (1)
transformer, pre-LN            | 9.5 (9.7)   | 6.0 (5.5)   | 0.93 (0.93)
transformer, pre-LN, 1/√L    | 1.28 (1.31) | 1.27 (1.26) | 0.42 (0.45)
transformer, no norm, 1/√L   | 1.41 (1.45) | 1.40 (1.41) | 0.45 (0.50)
transformer, DeepNorm          | 1 (1)       | 1.01 (1.00) | 0.30 (0.30)
"""


class Printed(NamedTuple):
    """A number as it was printed.

    Attributes:
        digits: as printed; empty where there is none.
    """

    digits: str = ""

    @property
    def value(self) -> float:
        """The number; NaN where there is none."""
        return float(self.digits or "nan")

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest number that may be printed so; NaN where there is none.

        A single digit was printed to two, of which the second is 0, but before an exponent.
        """
        if not self.digits:
            return math.nan, math.nan
        _, digits, exponent = Decimal(self.digits).as_tuple()
        half = 0.5 * 10.0 ** int(exponent)
        if "e" in self.digits:  # numbers below a power of ten have a digit more
            return self.value - half / (10 if digits == (1,) else 1), self.value + half
        half /= 1 if len(digits) > 1 else 10
        return self.value - half, self.value + half


class Hundred(NamedTuple):
    """What was printed of a recipe at a hundred layers, by `QUANTITIES`."""

    text: dict[str, str]
    measured: dict[str, Printed]
    theory: dict[str, Printed]


def _hundred(line: str) -> tuple[str, Hundred]:
    name, *cells = [cell.strip() for cell in line.split("|")]
    text = dict(zip(QUANTITIES, cells, strict=True))
    parts = {key: re.fullmatch(r"(\S+)(?: \((\S+)\))?", cell) for key, cell in text.items()}
    measured = {key: Printed(found[1]) for key, found in parts.items() if found}
    theory = {key: Printed(found[2] or "") for key, found in parts.items() if found}
    return name, Hundred(text, measured, theory)


HUNDRED = dict(map(_hundred, _HUNDRED.strip().splitlines()))
"""The table of relu networks of a hundred layers, of width 64, by recipe."""


# claim | by which it is made | width | seeds | worst z | figure, as printed | its least and largest
_CLAIMS = """
no norm, three phi, four scales, L=16: q | streams q | 64 | 1200 | 2.0 | <= 1.7% | -0.017 | 0.017
same: K | streams K | 64 | 1200 | 2.2 | <= 2.7% | -0.027 | 0.027
same: gamma | streams gamma | 64 | 1200 | 2.6 | <= 2.4% | -0.024 | 0.024
pre-norm LN, RMS, relu, tanh(1, 9), L=20: q | pre-norm q | 32 | 800 | 2.4 | <= 1.2% | -0.012 | 0.012
same: gamma, at infinite width | pre-norm gamma 32 | 32 | 800 | 8.7 | +6% to +39% | 0.06 | 0.39
same: gamma, at infinite width | pre-norm gamma 128 | 128 | 800 | 5.2 | +1% to +10% | 0.01 | 0.10
pre-norm gamma: closed form less product | closed form | | | | 1e-14 | 0 | 1e-12
post-norm: gamma | post-norm 32 | 32 | | 8 | +30% to +108% | 0.30 | 1.08
post-norm: gamma | post-norm 128 | 128 | | 5 | +6% to +20% | 0.06 | 0.20
post-norm with beta 2.5, alpha 0.28: gamma | strong skip | 128 | | 3.7 | 0.5% | -0.005 | 0.005
LN before relu: rate | rate LN before 128 | 128 | | | 1.0076 | 1.0076 | 1.0076
LN after relu: rate | rate LN after 32 | 32 | | | 1.593 | 1.593 | 1.593
LN after relu: rate | rate LN after 128 | 128 | | | 1.499 | 1.499 | 1.499
weight standardization, relu: rate | rate standardized 32 | 32 | | | 1.412 | 1.412 | 1.412
weight standardization, relu: rate | rate standardized 128 | 128 | | | 1.454 | 1.454 | 1.454
BN, relu, B=16: rate | rate relu 32 | 32 | | | 1.617(4) | 1.605 | 1.629
BN, relu, B=16: rate | rate relu 128 | 128 | | | 1.590(3) | 1.581 | 1.599
BN, relu, B=16: rate | rate relu 256 | 256 | | | 1.593(3) | 1.584 | 1.602
BN, tanh, B=16: rate | rate tanh 16 | 256 | | | 1.252(2) | 1.246 | 1.258
BN, tanh, B=32: rate | rate tanh 32 | 256 | | | 1.216(2) | 1.210 | 1.222
BN, gelu, B=16: rate | rate gelu 16 | 256 | | | 1.433(3) | 1.424 | 1.442
BN, relu, linear: rate by integrals less closed form | theorem 8 | | | | 1e-6 | 0 | 1e-6
BN before branches, relu, B=32, L=24: gamma | batch stream | 64 | | | 59.6(5) | 58.1 | 61.1
BN before branches: gamma, theory at B=32 | batch stream theory | | | | 64.3 | 64.25 | 64.35
BN before branches: gamma, theory at B infinite | batch stream infinite | | | | 52.2 | 52.15 | 52.25
BN before branches: gamma, as if LN | batch stream LN | | | | 25 | 24.5 | 25.5
dropout 0.1, relu: q | dropout 0.1 | 64 | 600 | 1.3 | | |
dropout 0.5, relu: q | dropout 0.5 | 64 | 600 | 2.0 | | |
stochastic depth: q | drop path q | 64 | | 1.4 | | |
stochastic depth: gamma, a mean over masks | paths | 128 | | 3.2 | 4% | |
stochastic depth: gamma with mean q, worst | drop path gamma | 128 | | 16 | 37% | 0.30 | 0.40
branches that end in relu, with mean; without | ends in relu | 128 | | 1.9; 59 | 4%; x22 | |
ResNet v1: density of a unit; (1+a)^l/2 | v1 | 256 | | 1.3; 150 | 2.6%; 79% | |
attention, s_a² = 0 to 16, c = 0.3, 0.8, H = 1, 4: q | attention q | 64–128 | 400 | 1.5 | | |
same: K | attention K | 64–128 | 400 | 1.9 | | |
same: S, H = 1 | attention S | 64–128 | 400 | | <= 1% | -0.01 | 0.01
same: S, 16 units a head | attention S 16 | 64 | 400 | | -3% | -0.035 | -0.025
same: gamma, all three paths | attention gamma | 64–128 | 400 | 2.8 | <= 5% | -0.05 | 0.05
transformer, pre-LN, s_a² = 1, 8 blocks: q, p | pre-LN q | 128 | 100 | 0.8 | 1.4% | -0.014 | 0.014
same: gamma | pre-LN gamma | 128 | 100 | 1.9 | 2.5% | -0.025 | 0.025
same, s_a² = 4: gamma | pre-LN warm 64 | 64 | 100 | 4.4 | 14% | 0 | 0.14
same, s_a² = 4: gamma | pre-LN warm 128 | 128 | 100 | 2.6 | 4.7% | 0 | 0.047
transformer, post-LN: gamma | post-LN gamma | 128 | | 3.1 | 5% to 43% | 0.05 | 0.43
transformer, no norm, He, q₀=2: gamma by 3 paths | three paths | 64 | | | within 25% | -0.25 | 0.25
same: gamma, over that by values alone | values alone | 64 | | | 500 | 450 | 550
transformer, pre-LN, 48 blocks: q, p | deep q | 64 | 60 | 1.2 | 3% | -0.03 | 0.03
same: gamma | deep gamma | 64 | 60 | 2.8 | 15% | 0 | 0.15
Var log q without norm; pre-norm, relative | scatter | 64 | | 1.0; 1.9 | 3%; 10% | |
participation ratio of tokens, of their correlation | participation | 64 | | | 0.6% | -0.006 | 0.006
"""


class Claim(NamedTuple):
    """A row of the table of claims.

    Attributes:
        claim: in words; q, K (p of tokens) are second moment and product of two rows, gamma is
            the mean square of the gradient at the first layer, over that at the last, a rate its
            factor per layer. The four scales of branches of two products are 1, 1/√L, 1/√(2L)
            and 1/L, the three phi relu, tanh and gelu.
        key: what makes it.
        width, seeds, z, figure: as printed; z is the worst over layers, in standard errors.
        low, high: the least and largest figure that was printed, with three errors where it has
            one; of closed forms, what is demanded of them; NaN where there is none.
    """

    claim: str
    key: str
    width: str
    seeds: str
    z: str
    figure: str
    low: float
    high: float


def _claim(line: str) -> Claim:
    claim, key, width, seeds, z, figure, *ends = [cell.strip() for cell in line.split("|")]
    low, high = (float(end or "nan") for end in ends)
    return Claim(claim, key, width, seeds, z, figure, low, high)


CLAIMS = tuple(map(_claim, _CLAIMS.strip().splitlines()))
"""Section 9, a row for each width and quantity."""
