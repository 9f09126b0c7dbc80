"""A signal through many layers: lengths, moments, gradients, and what a finite width adds.

Infinite width: Poole et al. 2016 (arXiv:1606.05340), Schoenholz et al. 2017 (arXiv:1611.01232).
To first order in 1/width: Yaida 2019 (arXiv:1910.00019). The log-normal length of rectifier nets:
Hanin & Nica 2018 (arXiv:1812.05994).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, polygamma
from scipy.stats import binom

from initstats import activations
from initstats.activations import Activation
from initstats.registry import unknown
from initstats.theory.maps import (
    Bias,
    Phi,
    check_variance,
    positive,
    product_moment,
    uniform_share,
)
from initstats.theory.response import Response, response

Array = NDArray[np.float64]
Weights = Literal["independent", "orthogonal"]
PerLayer = float | Sequence[float] | NDArray[np.float64]


def propagate(
    fn: Phi,
    sigma_w2: PerLayer = 2.0,
    sigma_b2: PerLayer = 0.0,
    depth: int = 30,
    q0: ArrayLike = 1.0,
    c0: float | None = None,
    *,
    bias: Bias = "normal",
    weights: Weights = "independent",
) -> pd.DataFrame:
    """What an infinitely wide stack of layers does to a signal, and how a finite width departs.

    Args:
        fn: the activation: a name, an entry, or a callable Tensor -> Tensor.
        sigma_w2: fan_in times the variance of a weight; one for all layers, or one a layer.
        sigma_b2: variance of a bias; likewise.
        depth: how many layers.
        q0: second moment |x|^2 / n_0 of the input; one, or one a sample: then every column is the
            mean over the samples.
        c0: correlation of two inputs of that second moment.
        bias: how biases are distributed: `normal`, or `uniform` as torch's own are.
        weights: `independent`, or `orthogonal`: square layers, whose weights keep lengths exactly.

    Returns:
        One row a layer, index `layer` from 1. Of pre-activations: `q` (second moment), `pre_mean`,
        `pre_std`; of activations: `act_mean`, `act_second_moment`, `act_std`, over samples and
        draws of the weights. `chi_1`: by what a gradient's squared norm is multiplied on its way
        back from the next layer (hence with the next layer's sigma_w2; the last with its own);
        `chi_q`: by what an error in q is multiplied on its way there. At width H the variance of
        q over draws is `V` / H and its mean is off by `g` / H, to first order and for one sample;
        over many samples V is an upper bound. With `c0`, `c`: the correlation of two samples.

    Raises:
        ValueError: an argument is out of range; E phi(h)^2 does not exist.
    """
    entry = activations.get(fn)
    if c0 is not None and np.ndim(q0):
        raise ValueError("c0 is the correlation of two samples of one length: give one q0")
    with np.errstate(over="ignore", invalid="ignore"):  # a signal may leave float64
        layers = list(_layers(entry, sigma_w2, sigma_b2, depth, q0, bias, weights))
        rows = [_row(layer) for layer in layers]
    if c0 is not None:
        correlations = _correlations(entry, layers, float(np.asarray(q0)), c0)
        rows = [{**row, "c": c} for row, c in zip(rows, correlations, strict=True)]
    return pd.DataFrame(rows, index=pd.RangeIndex(1, depth + 1, name="layer"))


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

    (depth,), from the first layer to the last, where it is 1: the product of `chi_1` on the way,
    its mean over samples. Sums over units, not means: where the width changes, means have another
    factor of n_next / n. Backward weights count as independent of forward ones, which is exact
    for rectifiers and off by O(1 / width) otherwise (Schoenholz et al. 2017).

    >>> gradient_factors("relu", depth=3).tolist()
    [1.0, 1.0, 1.0]

    Raises:
        ValueError: as `propagate`.
    """
    layers = list(_layers(activations.get(fn), sigma_w2, sigma_b2, depth, q0, bias, "independent"))
    factors = np.ones((depth, *layers[0].q.shape))
    for number in range(depth - 2, -1, -1):
        factors[number] = layers[number].chi_1 * factors[number + 1]
    return np.asarray(factors.reshape(depth, -1).mean(axis=1))


def relu_log_length(widths: Sequence[int], sigma_w2: float = 2.0) -> tuple[float, float]:
    """Mean and variance of log(q at the end / q at the start) for one sample in a relu net.

    Exact at every width: of n units, k ~ Binomial(n, 1/2) fire, and the next q is sigma_w^2 q
    chi^2_k / n. In many layers log q is normal: to leading order of variance 5 / n a layer, so
    that the typical (median) net lies below the mean, by exp(-variance / 2) in q. Given that some
    unit fires in every layer: none does with probability 2^-n (Hanin & Nica 2018).

    Args:
        widths: units of each layer on the way.
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
        share = binom.pmf(k, n, 0.5) / (1 - 0.5**n)
        log = digamma(k / 2) + math.log(2 * sigma_w2 / n)
        mean += float(share @ log)
        variance += float(share @ polygamma(1, k / 2) + share @ (log - share @ log) ** 2)
    return mean, variance


class Layer(NamedTuple):
    """A layer's state, arrays of the shape of q0."""

    q: Array
    response: Response
    chi_1: Array
    chi_q: Array
    V: Array
    g: Array
    sigma_w2: float
    sigma_b2: float
    uniform: float


def _layers(
    entry: Activation,
    sigma_w2: PerLayer,
    sigma_b2: PerLayer,
    depth: int,
    q0: ArrayLike,
    bias: Bias,
    weights: Weights,
) -> Iterator[Layer]:
    if depth < 1:
        raise ValueError(f"depth is a number of layers, at least 1: got {depth}")
    if weights not in get_args(Weights):
        raise unknown("weights", weights, get_args(Weights))
    w2, b2 = _per_layer("sigma_w2", sigma_w2, depth), _per_layer("sigma_b2", sigma_b2, depth)
    q = w2[0] * positive("q0", q0) + b2[0]
    V = g = np.zeros_like(q)
    for number in range(depth):
        following = w2[min(number + 1, depth - 1)]
        uniform = uniform_share(bias, b2[number])
        r = response(entry, q, uniform)
        slope_square = np.full_like(q, math.inf) if jumps(entry) else r.slope_square
        chi_q = following * r.square_1
        yield Layer(q, r, following * slope_square, chi_q, V, g, w2[number], b2[number], uniform)
        kept = float(weights == "orthogonal")  # of a length, which then does not fluctuate
        w = q - uniform
        noise = unit_noise(r) - kept * radial_noise(r, w)
        g = chi_q * g + following * r.square_2 * (V / 2 - kept * w**2)
        V = following**2 * noise + chi_q**2 * V
        square = np.where(np.isinf(q), math.inf, r.square)
        q = following * square + b2[min(number + 1, depth - 1)]


def jumps(entry: Activation) -> bool:
    """Whether phi jumps, so that its slope does not tell how inputs are told apart."""
    try:
        return math.isinf(entry.gain.chi_1)
    except ValueError:  # no gain at q = 1
        return False


def unit_noise(r: Response) -> Array:
    """Var phi(h)^2: over units, what makes the next q fluctuate."""
    return r.fourth - r.square**2


def radial_noise(r: Response, w: Array) -> Array:
    """The part of `unit_noise` that comes with the length of h: orthogonal weights have none."""
    return 2 * (w * r.square_1) ** 2


def _row(layer: Layer) -> dict[str, float]:
    r = layer.response
    mean, square = np.mean(r.mean), np.mean(r.square)
    row = {
        "q": np.mean(layer.q),
        "pre_mean": 0.0,
        "pre_std": np.sqrt(np.mean(layer.q)),
        "act_mean": mean,
        "act_second_moment": square,
        "act_std": np.sqrt(np.maximum(square - mean**2, 0.0)),
        "chi_1": np.mean(layer.chi_1),
        "chi_q": np.mean(layer.chi_q),
        "V": np.mean(layer.V),
        "g": np.mean(layer.g),
    }
    return {name: float(value) for name, value in row.items()}


def _correlations(
    entry: Activation, layers: Sequence[Layer], q0: float, c0: float
) -> Iterator[float]:
    """c of every layer."""
    if not -1 <= c0 <= 1:
        raise ValueError(f"c0 is a correlation, between -1 and 1: got {c0}")
    shared = c0 * q0  # the product moment of the layer's inputs
    for layer in layers:
        q = float(layer.q)
        k = layer.sigma_w2 * shared + layer.sigma_b2
        if not 0 < q < math.inf:
            yield math.nan
            continue
        k = min(max(k, -q), q)  # beyond which only rounding could carry it
        yield k / q
        shared = product_moment(entry.function, q, k, layer.uniform, entry.kinks)


def _per_layer(name: str, values: PerLayer, depth: int) -> list[float]:
    listed = np.full(depth, values).tolist() if np.ndim(values) == 0 else list(np.ravel(values))
    if len(listed) != depth:
        raise ValueError(f"{name} has {len(listed)} values for {depth} layers: give one a layer")
    for value in listed:
        check_variance(name, value)
    return listed
