"""A signal through many layers: moments, gradients, and what a finite width adds.

Infinite width: Poole et al. 2016 (arXiv:1606.05340), Schoenholz et al. 2017 (arXiv:1611.01232).
To first order in 1/width: Yaida 2019 (arXiv:1910.00019). The log-normal length of rectifier nets:
Hanin & Nica 2018 (arXiv:1812.05994).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, digamma, polygamma

from initstats import activations
from initstats.activations import Activation
from initstats.gaussian import one_thread
from initstats.plural import counted
from initstats.registry import unknown
from initstats.theory.maps import (
    Bias,
    Phi,
    check_variance,
    positive,
    product_moment,
    uniform_share,
)
from initstats.theory.response import Response
from initstats.theory.state import Activated, Joint, Law, Pairs, State

Array = NDArray[np.float64]
WeightKind = Literal["independent", "orthogonal"]
PerLayer = float | Sequence[float] | NDArray[np.float64]


@one_thread()
def propagate(
    fn: Phi,
    sigma_w2: PerLayer = 2.0,
    sigma_b2: PerLayer = 0.0,
    depth: int = 30,
    q0: ArrayLike = 1.0,
    c0: float | None = None,
    *,
    bias: Bias = "normal",
    weights: WeightKind = "independent",
) -> pd.DataFrame:
    """What an infinitely wide stack of layers does to a signal, and how a finite width departs.

    Args:
        fn: the activation: a name, an entry, or a callable Tensor -> Tensor.
        sigma_w2: fan_in times the variance of a weight; one for all layers, or one for each.
        sigma_b2: variance of a bias; likewise.
        depth: how many layers.
        q0: second moment |x|^2 / n_0 of the input; one, or one for each sample: then every column
            is the mean over the samples.
        c0: correlation of two inputs of that second moment.
        bias: how biases are distributed: `normal`, or `uniform` as torch's own are.
        weights: `independent`, or `orthogonal`: square layers, whose weights keep lengths exactly.

    Returns:
        Two rows for each layer, of its `preactivation` and its `activation`, with the names of a
        study's table, so that both merge: `layer`, `tensor`, `direction` (forward), `mean`, `std`
        and `second_moment` (the q of theory) over samples and draws of the weights. At width H the
        variance of the second moment over draws is `V` / H and its mean is off by `g` / H, to first
        order and for one sample; over many samples V is an upper bound. Both rows of a layer have
        `chi_1`, the factor of a gradient's squared norm on its way back from the next layer (hence
        with the next layer's sigma_w2; the last with its own), and `chi_q`, the factor of an error
        in q on its way there. With `c0`, `sample_correlation`: the product moment of two samples
        over the second moment.

    >>> table = propagate("relu", sigma_w2=1.0, depth=3)
    >>> table.query("tensor == 'preactivation'")["second_moment"].round(9).tolist()
    [1.0, 0.5, 0.25]

    Raises:
        ValueError: an argument is out of range; E phi(h)^2 does not exist.
    """
    entry = activations.get(fn)
    if c0 is not None and np.ndim(q0):
        raise ValueError("c0 is the correlation of two samples of one length: give one q0")
    if c0 is not None and not -1 <= c0 <= 1:
        raise ValueError(f"c0 is a correlation, between -1 and 1: got {c0}")
    with np.errstate(over="ignore", invalid="ignore"):  # a signal may leave float64
        layers = list(_layers(entry, sigma_w2, sigma_b2, depth, q0, c0, bias, weights))
        rows = [row for number, layer in enumerate(layers, 1) for row in _rows(number, *layer)]
    return pd.DataFrame(rows)


@one_thread()
def gradient_factors(
    fn: Phi,
    sigma_w2: PerLayer = 2.0,
    sigma_b2: PerLayer = 0.0,
    depth: int = 30,
    q0: ArrayLike = 1.0,
    *,
    bias: Bias = "normal",
) -> Array:
    """The squared norm of a gradient at every layer's pre-activations over that at the last one's.

    An array (depth,), from the first layer to the last, where it is 1: the product of `chi_1` on
    the way, its mean over samples. A norm is a sum over units: where the width changes, means have
    another factor of n_next / n. Backward weights count as independent of forward ones, which is
    exact for rectifiers and off by O(1 / width) otherwise (Schoenholz et al. 2017).

    >>> gradient_factors("relu", depth=3).tolist()
    [1.0, 1.0, 1.0]

    Raises:
        ValueError: as `propagate`.
    """
    entry = activations.get(fn)
    layers = list(_layers(entry, sigma_w2, sigma_b2, depth, q0, None, bias, "independent"))
    factors = np.ones((depth, *layers[0][0].square.shape))
    for number in range(depth - 2, -1, -1):
        factors[number] = layers[number][1] * factors[number + 1]
    return np.asarray(factors.reshape(depth, -1).mean(axis=1))


def relu_log_length(widths: Sequence[int], sigma_w2: float = 2.0) -> tuple[float, float]:
    """Mean and variance of log(q at the end / q at the start) for one sample in a relu net.

    They are exact at every width, given that some unit fires in every layer (none does with
    probability 2^-n): of n units, k ~ Binomial(n, 1/2) fire, and the next q is sigma_w^2 q chi^2_k
    / n. After many layers log q is normal, with a variance of about 5 / n a layer, so that the
    typical (median) net lies below the mean, by exp(-variance / 2) in q (Hanin & Nica 2018).

    Args:
        widths: number of units of each layer on the way.
        sigma_w2: fan_in times the variance of a weight, without biases.

    >>> mean, variance = relu_log_length([50] * 10)
    >>> round(50 * variance / 10, 2)
    5.41

    Raises:
        ValueError: a width below 1; sigma_w2 is not above 0.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths are those of at least one layer, each at least 1: got {widths}")
    if not 0 < sigma_w2 < math.inf:
        raise ValueError(f"log q exists for a sigma_w2 above 0: got {sigma_w2}")
    mean = variance = 0.0
    for n in widths:
        k = np.arange(1, n + 1)
        share = np.exp(-betaln(k + 1, n - k + 1) - n * math.log(2))  # n + 1 times the binomial's
        share /= share.sum()
        log = digamma(k / 2) + math.log(2 * sigma_w2 / n)
        mean += float(share @ log)
        variance += float(share @ polygamma(1, k / 2) + share @ (log - share @ log) ** 2)
    return mean, variance


class _OnePair(Pairs):
    """Two samples of one length, whose kernel is integrated exactly."""

    def products(self, values: Array) -> Array:
        return values**2

    def behind(self, activation: Activation, state: State, r: Response) -> Joint:
        q, k = float(state.square), float(state.k)
        found = np.array(np.nan)
        if 0 < q < math.inf and not math.isnan(k):
            k = min(max(k, -q), q)  # rounding may carry it beyond
            uniform = state.law.uniform_bias
            found = np.array(product_moment(activation.function, q, k, uniform, activation.kinks))
        return Joint(found, found - r.mean**2, np.array(np.nan))


def _layers(
    entry: Activation,
    sigma_w2: PerLayer,
    sigma_b2: PerLayer,
    depth: int,
    q0: ArrayLike,
    c0: float | None,
    bias: Bias,
    weights: WeightKind,
) -> Iterator[tuple[Activated, Array, Array]]:
    """The activations of every layer, and chi_1 and chi_q, shaped as q0."""
    if depth < 1:
        raise ValueError(f"depth is a number of layers, at least 1: got {depth}")
    if weights not in get_args(WeightKind):
        raise unknown("weights", weights, get_args(WeightKind))
    w2, b2 = _per_layer("sigma_w2", sigma_w2, depth), _per_layer("sigma_b2", sigma_b2, depth)
    radial = float(weights == "independent")
    laws = [Law(w, b, uniform_share(bias, b), radial) for w, b in zip(w2, b2, strict=True)]
    q = positive("q0", q0)
    state = State.of_data(q) if c0 is None else State.of_data(q, np.asarray(c0 * q), _OnePair())
    for number, law in enumerate(laws):
        state = activated = state.through(law, 1).activated(entry)
        r, following = activated.response, laws[min(number + 1, depth - 1)].sigma_w2
        slope_square = np.full_like(r.square, math.inf) if entry.jumps else r.slope_square
        yield activated, following * slope_square, following * r.square_1


def _rows(
    number: int, activated: Activated, chi_1: Array, chi_q: Array
) -> Iterator[dict[str, object]]:
    for tensor, state in (("preactivation", activated.before), ("activation", activated)):
        mean, square = (float(np.mean(values)) for values in (state.mean, state.square))
        row = {
            "layer": number,
            "tensor": tensor,
            "direction": "forward",
            "mean": mean,
            "std": math.sqrt(max(square - mean**2, 0.0)) if math.isfinite(square) else square,
            "second_moment": square,
            "chi_1": float(np.mean(chi_1)),
            "chi_q": float(np.mean(chi_q)),
            "V": float(np.mean(state.V)),
            "g": float(np.mean(state.g)),
        }
        if state.pairs is not None:
            c = float(state.k) / square if 0 < square < math.inf else math.nan
            row["sample_correlation"] = min(max(c, -1.0), 1.0)
        yield row


def _per_layer(name: str, values: PerLayer, depth: int) -> list[float]:
    listed = np.full(depth, values).tolist() if np.ndim(values) == 0 else list(np.ravel(values))
    if len(listed) != depth:
        raise ValueError(
            f"{name} has {counted(len(listed), 'value')} for {counted(depth, 'layer')}: "
            "give one per layer"
        )
    for value in listed:
        check_variance(name, value)
    return listed
