"""Rates of gradients in networks with norms: the norm's place decides, more than its kind.

Whatever takes the mean away from phi, over units, inputs or the batch, divides by a variance; as
E phi'^2 >= Var phi, with equality for a linear phi only, gradients then explode without a skip.
Rates are of squared gradients, a layer, at infinite width. Batch norm: Yang et al. 2019
(arXiv:1902.08129); the power law behind a skip: Doshi et al. 2023 (arXiv:2111.12143), its exponent
derived here, as the other rates are.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from scipy.special import gammaln

from initstats.activations import Activation
from initstats.registry import unknown
from initstats.theory.batch import batch_norm_rate
from initstats.theory.batch_after import CARRIED, batch_after_moments
from initstats.theory.maps import check_variance
from initstats.theory.response import response

_LAYERS = 3  # until the second moment is that of all that follow
Norm = Literal["layer", "rms", "group", "batch"]
Place = Literal["pre", "after"]


def gradient_rate(
    activation: Activation,
    norm: Norm,
    place: Place,
    sigma_w2: float = 1.0,
    batch: float = math.inf,
) -> float:
    """The factor by which a layer without a skip multiplies a gradient's squared norm, going back.

    With G = E phi^2, m = E phi and D = E phi'^2, at pre-activations of second moment s: D / G, and
    D / (G - m^2) for batch norm, before phi (s = 1); s D / G for RMSNorm, and s D / (G - m^2) for
    the others, after phi (s = sigma_w2). Batch norm of a finite batch after phi has no closed form:
    its rate is a mean over units that are drawn, to three digits, for samples that are all alike.

    Args:
        activation: phi.
        norm: the kind of norm.
        place: `pre`, before the activation, or `after` it.
        sigma_w2: fan_in times the variance of a weight; without effect before the activation.
        batch: samples of a batch, for batch norm.

    >>> from initstats import activations
    >>> relu = activations.get("relu")
    >>> gradient_rate(relu, "layer", "pre"), round(gradient_rate(relu, "layer", "after"), 5)
    (1.0, 1.46694)

    Raises:
        ValueError: an unknown norm or place; no such variance or batch; a few samples, of which a
            batch that is normalized after the activation has no mean rate.
    """
    for what, given, known in (("norm", norm, Norm), ("place", place, Place)):
        if given not in get_args(known):
            raise unknown(what, given, get_args(known))
    check_variance("sigma_w2", sigma_w2)
    if norm == "batch" and place == "pre":
        return batch_norm_rate(activation, batch)
    if norm == "batch" and batch != math.inf:
        return _behind(activation, sigma_w2, batch)
    s = 1.0 if place == "pre" else sigma_w2
    return _rate(activation, s, centred=place == "after" and norm != "rms")


def standardized_rate(activation: Activation) -> float:
    """The same factor for standardized weights, with the gain 1 / sqrt(G - m^2): D / (G - m^2).

    Rows of weights have a mean of 0 and a second moment of gain^2 / fan_in.

    Raises:
        ValueError: E phi^2 does not exist.
    """
    return _rate(activation, 1.0, centred=True)


def post_norm_rate(
    activation: Activation,
    sigma_1_2: float = 1.0,
    sigma_2_2: float = 1.0,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> float:
    """The same factor for x' = N(beta x + alpha W_2 phi(W_1 x)): 1 for relu, whatever the scales.

    (beta^2 + alpha^2 chi) / (beta^2 + alpha^2 v), with chi = sigma_1^2 sigma_2^2 D(sigma_1^2) and
    v = sigma_2^2 G(sigma_1^2).

    Raises:
        ValueError: no such variances.
    """
    check_variance("sigma_1_2", sigma_1_2)
    check_variance("sigma_2_2", sigma_2_2)
    r, branch = response(activation, sigma_1_2), alpha**2 * sigma_2_2
    size = beta**2 + branch * float(r.square)
    return (beta**2 + branch * sigma_1_2 * float(r.slope_square)) / size if size else math.inf


def pre_norm_growth(exponent: float, sublayers: int, k0: float) -> float:
    """By how much a gradient's square grows through a stack x' = x + alpha f(N x), going back.

    The product of 1 + exponent / (k0 + l) over sublayers l = 0, 1, ..., a ratio of gamma functions:
    a power law, ~ (sublayers / k0)^exponent, instead of the exponential law without a skip.

    Args:
        exponent: the rate of the branch without its skip: `gradient_rate(phi, norm, "pre")` for
            f = W phi(N x), `gradient_rate(phi, "rms", "after", sigma_1_2)` for W_2 phi(W_1 N x).
        sublayers: L.
        k0: what the stream brings along, in units of what a sublayer adds: q_0 / (alpha^2 v) for
            norms over units, (q_0 - K_0) / (alpha^2 (v - k)) for batch norm.

    Raises:
        ValueError: k0 is not above 0; L is negative.
    """
    if not (k0 > 0 and sublayers >= 0):
        raise ValueError(
            f"a stream of size k0 > 0 passes at least 0 sublayers: got k0 = {k0}, {sublayers}"
        )
    ends = gammaln([sublayers + k0 + exponent, k0, sublayers + k0, k0 + exponent])
    return math.exp(float(ends[0] + ends[1] - ends[2] - ends[3]))


def _behind(activation: Activation, sigma_w2: float, batch: float) -> float:
    """The rate of batches that are normalized after the activation, layer by layer."""
    if not sigma_w2:
        return math.inf
    square = 1.0  # of what the norm gives, which eps makes less than 1
    for _ in range(_LAYERS):
        q = sigma_w2 * square
        moments = batch_after_moments(activation, batch, q, -q / (batch - 1))
        square = moments.square
    if not moments.told:
        raise ValueError(CARRIED)
    return sigma_w2 * (moments.own - moments.other)


def _rate(activation: Activation, s: float, *, centred: bool) -> float:
    r = response(activation, s)
    size = float(r.square) - (float(r.mean) ** 2 if centred else 0.0)
    return s * float(r.slope_square) / size if size > 0 else math.inf
