"""Parametrizations: the powers of width that initial weights and learning rates have in each.

The powers of Yang and Hu 2021 (arXiv:2011.14522, table 1) and Yang et al. 2022 (arXiv:2203.03466,
tables 3 and 8), written for a weight of any fans, so that they hold where not all widths grow
together: f_in and f_out are the powers with which fan-in and fan-out grow, 0 or 1 in most models.
All powers are of what a weight does together with its multiplier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MUP = "mup"


@dataclass(frozen=True)
class Growth:
    """How a parameter grows with the width.

    Attributes:
        kind: `input` (only the units that it makes grow), `hidden` (both grow), `output` (only what
            it sums grows), `vector` (a bias, a gain, an embedding: it grows, and nothing is summed
            with it) or `fixed` (it has the same shape at all widths).
        fan_in, fan_out: powers of the width.
    """

    kind: str
    fan_in: float
    fan_out: float


Power = Callable[[Growth, float], float]


@dataclass(frozen=True)
class Parametrization:
    """Powers of the width, by the growth of a parameter and the degree of the optimizer.

    The degree is 1 where an update is proportional to the gradient (SGD), 0 where it does not
    depend on the gradient's size (Adam).

    Attributes:
        title: its name in words.
        meaning: what it is, for readers who do not know it.
        init: of the rms of the initial weights.
        rate: of the learning rate.
        spectral: of the learning rate of updates that an optimizer makes orthogonal, which is their
            spectral norm (Yang, Simon and Bernstein 2023, arXiv:2310.17813, condition 1).
    """

    title: str
    meaning: str
    init: Power
    rate: Power
    spectral: Callable[[Growth], float]

    def rate_of(self, growth: Growth, degree: float, *, orthogonal: bool) -> float:
        """The power of the learning rate, of the spectral norm where updates are orthogonal."""
        return self.spectral(growth) if orthogonal else self.rate(growth, degree)


def _maximal_init(growth: Growth, _: float) -> float:
    """The spectral condition of Yang, Simon and Bernstein 2023 (arXiv:2310.17813)."""
    return -growth.fan_in / 2 + min(0.0, (growth.fan_out - growth.fan_in) / 2)


def _maximal_rate(growth: Growth, degree: float) -> float:
    return -growth.fan_in + degree * growth.fan_out


def _maximal_norm(growth: Growth) -> float:
    return (growth.fan_out - growth.fan_in) / 2


def _standard_init(growth: Growth, _: float) -> float:
    return -growth.fan_in / 2


PARAMETRIZATIONS = {
    MUP: Parametrization(
        "muP",
        "the maximal update parametrization, in which initial values and learning rates change "
        "with the width so that every layer learns as much at any width",
        _maximal_init,
        _maximal_rate,
        _maximal_norm,
    ),
    "standard": Parametrization(
        "the standard parametrization",
        "weights of size 1/√fan-in and one learning rate for all widths, as PyTorch's defaults "
        "have it",
        _standard_init,
        lambda g, d: 0.0,
        lambda g: 0.0,
    ),
    "ntk": Parametrization(
        "the NTK parametrization",
        "weights of size 1, multiplied by 1/√fan-in in the forward pass, and one learning rate "
        "for all widths",
        _standard_init,
        lambda g, d: -g.fan_in * (1 + d) / 2,
        lambda g: -g.fan_in / 2,
    ),
    "mean_field": Parametrization(
        "the mean-field parametrization",
        "weights of size 1/fan-in, with the learning rates of muP",
        lambda g, _: -g.fan_in,
        _maximal_rate,
        _maximal_norm,
    ),
}
"""By the name that users type."""


def gradient_power(growth: Growth) -> float:
    """The power of a parameter's gradient, times its multiplier, in a sound muP model."""
    return -growth.fan_out


# what a coordinate check shows: by parametrization, role of the operation and degree
VALUE = {"input": 0.0, "hidden": 0.0}
"""Slope of the values at init, where the parametrization keeps the signal."""
OUTPUT_VALUE = {MUP: -0.5, "standard": 0.0, "ntk": 0.0, "mean_field": -0.5}
CHANGE = {
    (MUP, 1): (0.0, 0.0, 0.0),
    (MUP, 0): (0.0, 0.0, 0.0),
    ("standard", 1): (-0.5, 0.5, 1.0),
    ("standard", 0): (0.0, 1.0, 1.5),
    ("ntk", 1): (-0.5, -0.5, 0.0),
    ("ntk", 0): (0.0, 0.5, 1.0),
}
"""Slopes of the change after one step at (input, hidden, output) operations, by (parametrization,
degree), where something hidden is between input and output."""
