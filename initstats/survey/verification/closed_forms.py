"""Closed forms of rates, beside the integrals that they come from."""

from __future__ import annotations

import math
from itertools import product

from initstats import activations, theory
from initstats.survey.verification.found import Found


def closed_forms(*, quick: bool) -> dict[str, Found]:
    """The power law of pre-norm as a product; batch norm's rate by Yang et al.'s theorem 8."""
    gap = 0.0
    for name, k0 in product(("relu", "tanh"), (0.3, 1.0, 5.0)):
        rho = theory.gradient_rate(activations.get(name), "layer", "pre")
        exact = math.prod(1 + rho / (k0 + layer) for layer in range(20))
        gap = max(gap, abs(theory.pre_norm_growth(rho, 20, k0) / exact - 1))
    return {"closed form": Found.figure(gap), "theorem 8": Found.figure(_theorem_8())}


def _theorem_8() -> float:
    """The largest difference from the rates of a linear activation and of relu."""
    rectifier, identity, gap = activations.get("relu"), activations.get("identity"), 0.0
    for batch in (8, 16, 32, 64):
        c = -1 / (batch - 1)
        angle = math.acos(c)
        kernel = (math.sin(angle) + c * (math.pi - angle)) / math.pi
        slopes = 1 - angle / math.pi
        relu = ((batch - 1) + slopes) / ((batch - 3) * (1 - kernel)) - 1 / (batch - 3)
        linear = (batch - 2) / (batch - 3)
        for activation, rate in ((rectifier, relu), (identity, linear)):
            gap = max(gap, abs(theory.batch_norm_rate(activation, batch) - rate))
    return gap
