"""What mean-field theory says of the variants of a study before they are trained."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd

from initstats.activations import Activation
from initstats.inits import Init
from initstats.networks import Serial
from initstats.outcome.columns import KEYS
from initstats.theory import propagate
from initstats.training.architectures import Factory, classifier
from initstats.training.chain import linked
from initstats.training.grid import TrainingGrid


def gradient_factors(grid: TrainingGrid, shape: tuple[int, ...]) -> pd.DataFrame:
    """chi_1 of every variant: the factor per layer of the gradient's squared norm, by theory.

    It is the geometric mean over layers that read an activation (Schoenholz et al. 2017,
    arXiv:1611.01232), for samples of second moment 1; of convolutions, away from the borders.

    Args:
        shape: of one sample.

    Returns:
        `network init activation width depth chi_1`; `chi_1` is NaN where theory does not follow:
        models of the user's own, residual sums, inits that declare no variance.
    """
    rows = []
    variants = product(
        grid.networks, grid.inits, grid.activations, grid.widths or (), grid.depths or ()
    )
    for network, init, activation, width, depth in variants:
        chi = math.nan
        if not isinstance(network, Factory):
            chi = _chi_1(classifier(network, shape, width, depth, 1), init, activation)
        rows.append((network.name, init.name, activation.name, width, depth, chi))
    return pd.DataFrame(rows, columns=[*KEYS[:-1], "chi_1"])


def _chi_1(network: Serial, init: Init, activation: Activation) -> float:
    """The mean over the layers of a chain that read an activation; NaN where it is not known."""
    if linked(network) is None or len(network.layers) < 2:
        return math.nan
    try:
        laws = [layer.law(init, activation) for layer in network.layers]
        if None in laws:
            return math.nan
        table = propagate(
            activation,
            sigma_w2=[law.sigma_w2 for law in laws if law],
            sigma_b2=[law.sigma_b2 for law in laws if law],
            depth=len(laws),
        )
    except ValueError:  # no moments there, as of what grows too fast
        return math.nan
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(table["chi_1"].to_numpy()[:-1]).mean()))
