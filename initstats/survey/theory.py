"""What theory says of the recipes, without data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from initstats import activations
from initstats.survey.studied import ACTIVATIONS, INITS, Studied
from initstats.survival import DEEPEST, boundary, predict_survival, survives
from initstats.theory.norms import Norm, Place, gradient_rate


def by_depth(studied: Studied, depths: Sequence[int]) -> pd.DataFrame:
    """The rows of `predict_survival` of one recipe, with its `label` and its `largest` depth.

    That is the greatest number of layers at which it survives, to within 2%; NaN where theory does
    not follow.
    """
    table = predict_survival(*studied[1:], depths)
    return table.assign(label=studied.label, largest=_largest(studied, table))


def _largest(studied: Studied, table: pd.DataFrame) -> float:
    """The depth at which a recipe ceases to survive, found between the depths of a table."""
    silent = (table["note"] != "").to_numpy()
    if silent.all():
        return math.nan
    kept = survives(table).to_numpy() & ~silent
    low = max([1, *map(int, table["depth"][kept])])
    above = [depth for depth in table["depth"] if depth > low]
    if not above:
        return float(min(low, DEEPEST))

    def kept_at(depth: int) -> bool:
        return bool(survives(predict_survival(*studied[1:], [depth])).all())

    return float(boundary(kept_at, low, min(above), precision=0.02))


def by_init(network: str, label: str, depth: int, *, quick: bool = False) -> pd.DataFrame:
    """Verdicts of a network for inits and activations at one depth, with its `label`."""
    inits, names = (INITS[1:4], ACTIVATIONS[:3]) if quick else (INITS, ACTIVATIONS)
    return predict_survival(network, [*inits], [*names], [depth]).assign(label=label)


def by_scale(
    network: str, label: str, depth: int, logits: Sequence[float], branches: Sequence[float]
) -> pd.DataFrame:
    """Verdicts of a transformer for variances of its first logits and scales of its branches.

    An init of sigma_w gives queries and keys sigma_w^2 each, and logits the variance sigma_w^4, at
    inputs of second moment 1.

    Args:
        network: with a place for the scale of the branches.
    """
    networks = [network.format(f"{scale:g}") for scale in branches]
    inits = [f"mean_field(sigma_w={variance**0.25:.6g},sigma_b=0)" for variance in logits]
    table = predict_survival(networks, inits, "relu", [depth])
    return table.assign(
        label=label,
        logits=np.tile(logits, len(branches)),
        branch=np.repeat(branches, len(logits)),
    )


def rates(names: Sequence[str] = ("relu", "gelu", "tanh")) -> pd.DataFrame:
    """Factors per layer of the gradient's squared norm, without a skip, by norm and its place.

    Returns:
        `norm`, `place` (`before` or `after` the activation), `activation`, `rate`.
    """
    norms: tuple[tuple[str, Norm, float], ...] = (
        ("layer norm", "layer", math.inf),
        ("RMS norm", "rms", math.inf),
        ("batch norm, large batches", "batch", math.inf),
        ("batch norm, batches of 32", "batch", 32),
    )
    places: tuple[Place, ...] = "pre", "after"
    rows = [
        (label, "before" if at == "pre" else at, name, gradient_rate(phi, norm, at, batch=batch))
        for name in names
        for phi in [activations.get(name)]
        for at in places
        for label, norm, batch in norms
    ]
    return pd.DataFrame(rows, columns=["norm", "place", "activation", "rate"])
