"""Activations: each is its function, its derivative, its kinks and its known Gaussian moments.

A family is a plain function of a tensor with keyword parameters, decorated with `activation`;
what is known about it beyond its values is a `Facts`. Moments are for x ~ N(0, q), the
pre-activations of a wide layer (Poole et al. 2016, arXiv:1606.05340).
"""

from __future__ import annotations

import importlib
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from initstats import gaussian
from initstats.gaussian import Function, Gain
from initstats.registry import Registry, keyword_defaults, summary_of

F_ = TypeVar("F_", bound=Callable[..., Tensor])
OfQ = Callable[[float], float]

aten = torch.ops.aten


@dataclass(frozen=True)
class Facts:
    """What is known about one activation, at given parameters, beyond its function.

    Attributes:
        derivative: almost everywhere, elementwise, in the input's dtype; autograd's where None.
        kinks: the x at which the derivative jumps, ascending.
        out: ``out(x, result)`` writes the function's values, bit for bit, into a tensor of x's
            shape that does not overlap it, and allocates nothing.
        mean: E phi(x) as a function of q.
        second_moment: E phi(x)^2, the G(q) of the length map.
        derivative_second_moment: E phi'(x)^2.
    """

    derivative: Function | None = None
    kinks: tuple[float, ...] = ()
    out: Callable[[Tensor, Tensor], object] | None = None
    mean: OfQ | None = None
    second_moment: OfQ | None = None
    derivative_second_moment: OfQ | None = None


@dataclass(frozen=True)
class Activation:
    """An activation at given parameters; call it with a tensor.

    Attributes:
        name: the canonical spelling, or the name of the callable that it was made from.
        function: elementwise, keeps shape and dtype.
        facts: derivative, kinks, closed forms; also reachable as attributes of their own.
        summary: one line.
        module: where a registered family is defined; empty for a bare callable.
    """

    name: str
    function: Function
    facts: Facts = field(default=Facts(), repr=False)
    summary: str = ""
    module: str = field(default="", repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    @cached_property
    def derivative(self) -> Function:
        """The derivative almost everywhere, elementwise, in the input's dtype."""
        return self.facts.derivative or gaussian.derivative_of(self.function)

    @cached_property
    def gain(self) -> Gain:
        """The gains at q = 1, by quadrature."""
        return gaussian.gain(self.function, self.derivative)

    @property
    def kinks(self) -> tuple[float, ...]:
        """Where the derivative jumps, as far as known."""
        return self.facts.kinks

    @property
    def out_function(self) -> Callable[[Tensor, Tensor], object] | None:
        """Writes the function's values into a second tensor; see `Facts.out`."""
        return self.facts.out

    @property
    def mean(self) -> OfQ | None:
        """E phi(x) for x ~ N(0, q) in closed form, where known."""
        return self.facts.mean

    @property
    def second_moment(self) -> OfQ | None:
        """E phi(x)^2 for x ~ N(0, q) in closed form, where known."""
        return self.facts.second_moment

    @property
    def derivative_second_moment(self) -> OfQ | None:
        """E phi'(x)^2 for x ~ N(0, q) in closed form, where known."""
        return self.facts.derivative_second_moment

    def __reduce__(self) -> tuple[Callable[..., Activation], tuple[object, ...]]:
        if self.module:
            return _restore, (self.name, self.module)
        try:
            pickle.dumps(self.function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise pickle.PicklingError(
                f"activation {self.name!r} cannot be sent to another process: register it with "
                "@activation() in a module that can be imported, or use workers=1"
            ) from error
        return get, (self.function,)


ACTIVATIONS: Registry[Activation] = Registry("activation")


def get(activation: str | Activation | Function) -> Activation:
    """The activation that a spelling names, or one made of any callable Tensor -> Tensor.

    A callable that has the name of a registered family must be that function (`torch.tanh` is
    `tanh`), as two different things of one name cannot be told apart in a table.

    >>> get("leaky_relu(negative_slope=0.010)").name
    'leaky_relu'

    Raises:
        ValueError: an unknown name or parameter; a callable that does not map a tensor to one of
            its shape and dtype, or that takes a registered name.
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        return ACTIVATIONS.get(activation)
    if not callable(activation):
        raise ValueError(f"an activation is a name or a callable, not {activation!r}")
    name = _name_of(activation)
    found = _tried(Activation(name, activation, summary=summary_of(activation)))
    if name not in ACTIVATIONS:
        return found
    registered = ACTIVATIONS.get(name)
    x = torch.linspace(-8, 8, 129, dtype=torch.float64)
    if torch.allclose(found(x), registered(x), rtol=1e-12, atol=1e-15):
        return registered
    raise ValueError(f"this callable is not the registered activation {name!r}: rename it")


def gain(activation: str | Activation | Function) -> Gain:
    """The gains of an activation, by name or of any callable; see `initstats.gaussian.Gain`.

    >>> round(gain("gelu").forward, 5)
    1.53353
    """
    return get(activation).gain


@dataclass(frozen=True)
class TorchGain:
    """What ``torch.nn.init.calculate_gain`` says, and which of our gains that is.

    Attributes:
        number: torch's recommendation.
        equals: those of forward, variance, backward that it equals to nine digits.
        forward_ratio: number over the forward gain; a layer multiplies q by its square at q = 1.
    """

    number: float
    equals: tuple[str, ...]
    forward_ratio: float


def torch_gain(activation: str | Activation | Function) -> TorchGain | None:
    """Compare torch's number with the gains; None where torch has no entry for the activation.

    >>> torch_gain("relu").equals
    ('forward', 'backward')
    """
    entry = get(activation)
    family, parameters = (
        ACTIVATIONS.parse(entry.name) if entry.module else (entry.name, dict[str, Any]())
    )
    if not entry.module or family not in _IN_TORCH:
        return None
    number = torch.nn.init.calculate_gain(_IN_TORCH[family], parameters.get("negative_slope"))
    names = ("forward", "variance", "backward")
    equals = (name for name in names if math.isclose(number, getattr(entry.gain, name)))
    return TorchGain(number, tuple(equals), number / entry.gain.forward)


_IN_TORCH: dict[str, Any] = {
    "identity": "linear",
    "relu": "relu",
    "leaky_relu": "leaky_relu",
    "selu": "selu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}


def activation(facts: Facts | Callable[..., Facts] = Facts()) -> Callable[[F_], F_]:
    """Register a function of a tensor and keyword parameters as a family of activations.

    The function's name and the first line of its docstring are the entry's. `facts`, or what it
    returns when called with the parameters, adds what is known; without it the derivative is
    autograd's::

        @activation()
        def cube(x, *, scale=1.0):
            \"""scale * x^3.\"""
            return scale * x**3

    Raises:
        ValueError: the name is taken, or a parameter is not keyword-only with a default.
    """

    def register(function: F_) -> F_:
        def make(spelling: str, **parameters: Any) -> Activation:
            return _tried(
                Activation(
                    spelling,
                    partial(function, **parameters) if parameters else function,
                    facts if isinstance(facts, Facts) else facts(**parameters),
                    summary_of(function),
                    function.__module__,
                )
            )

        ACTIVATIONS.add(function.__name__, make, keyword_defaults(function))
        return function

    return register


def _tried(entry: Activation) -> Activation:
    """The entry, if it maps some tensor to another of its shape and dtype."""
    x = torch.linspace(-2, 2, 6).view(2, 3)
    try:
        with torch.no_grad():
            y = entry(x.clone())
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"activation {entry.name!r} cannot be evaluated: {error}") from error
    if not isinstance(y, Tensor) or (y.shape, y.dtype) != (x.shape, x.dtype):
        made = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"activation {entry.name!r} must keep shape and dtype: it made {made} of "
            f"{x.dtype} {tuple(x.shape)}"
        )
    return entry


def _restore(name: str, module: str) -> Activation:
    importlib.import_module(module)
    return ACTIVATIONS.get(name)


def _name_of(function: Callable[..., object]) -> str:
    while isinstance(function, partial):
        function = function.func
    name: str = getattr(function, "__name__", type(function).__name__)
    return name.strip("<>")


# Closed forms. Phi and the incomplete Gaussian moments give those of piecewise polynomials.


def _phi(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _mass(low: float, high: float) -> float:
    """P(low < z < high), from the tail that is nearer: no cancellation far from zero."""
    if low > 0:
        low, high = -high, -low
    return (math.erfc(-high / math.sqrt(2)) - math.erfc(-low / math.sqrt(2))) / 2


def _partial_moments(low: float, high: float, order: int) -> list[float]:
    """E z^k 1(low < z < high) for k = 0 .. order, by parts."""
    moments = [_mass(low, high), _phi(low) - _phi(high)]
    for k in range(2, order + 1):
        edges = [z ** (k - 1) * _phi(z) if math.isfinite(z) else 0.0 for z in (low, high)]
        moments.append((k - 1) * moments[k - 2] + edges[0] - edges[1])
    return moments


Polynomial = tuple[float, ...]  # ascending coefficients


def _squared(p: Polynomial) -> Polynomial:
    return tuple(
        sum(p[i] * p[k - i] for i in range(k + 1) if i < len(p) and k - i < len(p))
        for k in range(2 * len(p) - 1)
    )


def _slope(p: Polynomial) -> Polynomial:
    return tuple(k * c for k, c in enumerate(p))[1:] or (0.0,)


def piecewise(
    kinks: Sequence[float],
    pieces: Sequence[Polynomial],
    out: Callable[[Tensor, Tensor], object] | None = None,
) -> Facts:
    """The facts of a function that is a polynomial between its kinks.

    `pieces` are ascending coefficients, one polynomial more than there are kinks.
    """
    slopes = [_slope(piece) for piece in pieces]

    def derivative(x: Tensor) -> Tensor:
        result = _evaluate(slopes[0], x)
        for kink, slope in zip(kinks, slopes[1:], strict=True):
            result = torch.where(x > kink, _evaluate(slope, x), result)
        return result

    def expectation(polynomials: Sequence[Polynomial]) -> OfQ:
        edges = (-math.inf, *kinks, math.inf)

        def of_q(q: float) -> float:
            scale = math.sqrt(q)
            total = 0.0
            for low, high, piece in zip(edges, edges[1:], polynomials, strict=False):
                moments = _partial_moments(low / scale, high / scale, max(len(piece) - 1, 1))
                total += sum(
                    c * scale**k * m for k, (c, m) in enumerate(zip(piece, moments, strict=False))
                )
            return total

        return of_q

    return Facts(
        derivative,
        tuple(kinks),
        out,
        expectation(pieces),
        expectation([_squared(piece) for piece in pieces]),
        expectation([_squared(slope) for slope in slopes]),
    )


def _evaluate(p: Polynomial, x: Tensor) -> Tensor:
    result = torch.full_like(x, p[-1])
    for coefficient in reversed(p[:-1]):
        result = result * x + coefficient
    return result


def _exponential(alpha: float, rate: float = 1.0, scale: float = 1.0) -> Facts:
    """scale * (x above zero, alpha (exp(rate x) - 1) below): the elu family."""

    def half(k: float) -> float:
        """E exp(k z) 1(z < 0)."""
        return float(torch.special.erfcx(torch.tensor(k / math.sqrt(2), dtype=torch.float64))) / 2

    def mean(q: float) -> float:
        s = math.sqrt(q)
        return scale * (s * _phi(0) + alpha * (half(rate * s) - 0.5))

    def second_moment(q: float) -> float:
        s = math.sqrt(q)
        below = half(2 * rate * s) - 2 * half(rate * s) + 0.5
        return scale**2 * (q / 2 + alpha**2 * below)

    def derivative(x: Tensor) -> Tensor:
        below = scale * alpha * rate * torch.exp(rate * x.clamp_max(0))
        return torch.where(x > 0, scale, below)

    return Facts(
        derivative,
        () if alpha * rate == 1 else (0.0,),
        lambda x, out: aten.elu.out(x, alpha, scale, rate, out=out),
        mean,
        second_moment,
        lambda q: scale**2 * (0.5 + (alpha * rate) ** 2 * half(2 * rate * math.sqrt(q))),
    )


def _gelu_second_moment(q: float) -> float:
    root = math.sqrt(1 + 2 * q)
    return q * (0.25 + math.asin(q / (1 + q)) / (2 * math.pi)) + q * q / (
        math.pi * (1 + q) * root
    )


def _gelu_derivative_second_moment(q: float) -> float:
    # E Phi^2 + 2 E x phi Phi + E x^2 phi^2, the second by Stein's identity.
    root = math.sqrt(1 + 2 * q)
    density = 2 * q / ((1 + q) * root) + q / root**3
    return 0.25 + (math.asin(q / (1 + q)) + density) / (2 * math.pi)


def _density(x: Tensor) -> Tensor:
    return torch.exp(x * x * -0.5) / math.sqrt(2 * math.pi)


# The families, in the order of their histories: identity, rectifiers, smooth, saturating.


@activation(piecewise((), [(0.0, 1.0)], lambda x, out: out.copy_(x)))
def identity(x: Tensor) -> Tensor:
    """x itself: a linear network."""
    return x


@activation(
    piecewise((0.0,), [(0.0,), (0.0, 1.0)], lambda x, out: torch.clamp_min(x, 0.0, out=out))
)
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


@activation(
    lambda shift: piecewise(
        (0.0,),
        [(-shift,), (-shift, 1.0)],
        lambda x, out: torch.clamp_min(x, 0.0, out=out).sub_(shift),
    )
)
def shifted_relu(x: Tensor, *, shift: float = 0.5) -> Tensor:
    """relu(x) - shift: the mean comes back, for one layer."""
    return torch.relu(x) - shift


def _leaky(slope: float) -> Facts:
    return piecewise(
        (0.0,),
        [(0.0, slope), (0.0, 1.0)],
        lambda x, out: aten.leaky_relu.out(x, slope, out=out),
    )


@activation(lambda negative_slope: _leaky(negative_slope))
def leaky_relu(x: Tensor, *, negative_slope: float = 0.01) -> Tensor:
    """x above zero, negative_slope * x below."""
    return F.leaky_relu(x, negative_slope)


def _general(leak: float, sub: float, maxv: float) -> Facts:
    def value(x: float) -> float:
        return (x if x > 0 else leak * x) - sub

    top = maxv + sub
    # The clamp meets the right branch where top > 0, the left one where leak and top differ in sign.
    clamps = [top] if 0 < top < math.inf else []
    clamps += [top / leak] if leak and top / leak < 0 and math.isfinite(top) else []
    kinks = sorted({0.0, *clamps} - ({0.0} if top < 0 else set()))
    probes = [kinks[0] - 1, *((a + b) / 2 for a, b in zip(kinks, kinks[1:], strict=False))]
    return piecewise(
        kinks,
        [
            (maxv,) if value(x) > maxv else (-sub, leak if x < 0 else 1.0)
            for x in (*probes, kinks[-1] + 1)
        ],
        lambda x, out: aten.leaky_relu.out(x, leak, out=out).sub_(sub).clamp_max_(maxv),
    )


@activation(_general)
def general_relu(
    x: Tensor, *, leak: float = 0.1, sub: float = 0.4, maxv: float = 6.0
) -> Tensor:
    """min(leaky_relu(x) - sub, maxv): subtracts first, then clamps."""
    return (F.leaky_relu(x, leak) - sub).clamp_max(maxv)


@activation(lambda slope: _leaky(slope))
def prelu(x: Tensor, *, slope: float = 0.25) -> Tensor:
    """leaky_relu at the slope where PReLU starts to learn; fixed here."""
    return F.leaky_relu(x, slope)


@activation(lambda lower, upper: _leaky((lower + upper) / 2))
def rrelu(x: Tensor, *, lower: float = 1 / 8, upper: float = 1 / 3) -> Tensor:
    """leaky_relu at the mean of the random slopes, as RReLU evaluates: nothing random here."""
    return F.leaky_relu(x, (lower + upper) / 2)


@activation(
    piecewise(
        (0.0, 6.0), [(0.0,), (0.0, 1.0), (6.0,)], lambda x, out: torch.clamp(x, 0.0, 6.0, out=out)
    )
)
def relu6(x: Tensor) -> Tensor:
    """relu that stops at 6."""
    return F.relu6(x)


@activation(lambda alpha: _exponential(alpha))
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above zero, alpha (exp(x) - 1) below."""
    return F.elu(x, alpha)


@activation(lambda alpha: _exponential(alpha, 1 / alpha))
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above zero, alpha (exp(x / alpha) - 1) below: smooth for every alpha."""
    return F.celu(x, alpha)


@activation(_exponential(1.6732632423543772848, 1.0, 1.0507009873554804934))
def selu(x: Tensor) -> Tensor:
    """elu scaled so that mean 0 and second moment 1 reproduce themselves."""
    return F.selu(x)


@activation(
    Facts(
        lambda x: torch.special.ndtr(x) + x * _density(x),
        out=lambda x, out: aten.gelu.out(x, out=out),
        mean=lambda q: q / math.sqrt(2 * math.pi * (1 + q)),
        second_moment=_gelu_second_moment,
        derivative_second_moment=_gelu_derivative_second_moment,
    )
)
def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function of x."""
    return F.gelu(x)


@activation(Facts(out=lambda x, out: aten.gelu.out(x, approximate="tanh", out=out)))
def gelu_tanh(x: Tensor) -> Tensor:
    """gelu by its tanh approximation, as many transformers have it."""
    return F.gelu(x, approximate="tanh")


def _silu_derivative(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


@activation(Facts(_silu_derivative, out=lambda x, out: aten.silu.out(x, out=out)))
def silu(x: Tensor) -> Tensor:
    """x times sigmoid of x; also known as swish."""
    return F.silu(x)


def _mish_derivative(x: Tensor) -> Tensor:
    gate = torch.tanh(F.softplus(x))
    return gate + x * torch.sigmoid(x) * (1 - gate * gate)


@activation(Facts(_mish_derivative, out=lambda x, out: aten.mish.out(x, out=out)))
def mish(x: Tensor) -> Tensor:
    """x times tanh of softplus of x."""
    return F.mish(x)


@activation(
    lambda beta: Facts(
        lambda x: torch.sigmoid(beta * x), out=lambda x, out: aten.softplus.out(x, beta, out=out)
    )
)
def softplus(x: Tensor, *, beta: float = 1.0) -> Tensor:
    """log(1 + exp(beta x)) / beta: a smooth relu, never zero."""
    return F.softplus(x, beta)


@activation(
    piecewise(
        (-3.0, 3.0),
        [(0.0,), (0.0, 1 / 2, 1 / 6), (0.0, 1.0)],
        lambda x, out: aten.hardswish.out(x, out=out),
    )
)
def hardswish(x: Tensor) -> Tensor:
    """x times relu6(x + 3) / 6."""
    return F.hardswish(x)


@activation(
    piecewise(
        (0.0,), [(0.0,), (0.0, 0.0, 1.0)], lambda x, out: torch.clamp_min(x, 0.0, out=out).square_()
    )
)
def squared_relu(x: Tensor) -> Tensor:
    """relu squared: a signal of size q comes out as q^2."""
    return torch.relu(x).square()


@activation(
    Facts(
        lambda x: 1 - torch.tanh(x).square(),
        out=lambda x, out: torch.tanh(x, out=out),
        mean=lambda q: 0.0,
    )
)
def tanh(x: Tensor) -> Tensor:
    """Odd, saturates at -1 and 1."""
    return torch.tanh(x)


def _sigmoid_derivative(x: Tensor) -> Tensor:
    y = torch.sigmoid(x)
    return y * (1 - y)


@activation(
    Facts(
        _sigmoid_derivative,
        out=lambda x, out: torch.sigmoid(x, out=out),
        mean=lambda q: 0.5,
    )
)
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)): between 0 and 1, mean 1/2."""
    return torch.sigmoid(x)


@activation(
    lambda min_val, max_val: piecewise(
        (min_val, max_val),
        [(min_val,), (0.0, 1.0), (max_val,)],
        lambda x, out: torch.clamp(x, min_val, max_val, out=out),
    )
)
def hardtanh(x: Tensor, *, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x between min_val and max_val, constant outside."""
    return F.hardtanh(x, min_val, max_val)


@activation(
    Facts(
        lambda x: (1 + x.abs()).square().reciprocal(),
        out=lambda x, out: torch.div(x, torch.abs(x, out=out).add_(1), out=out),
        mean=lambda q: 0.0,
    )
)
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|): saturates slowly."""
    return F.softsign(x)


@activation(
    Facts(
        lambda x: torch.exp(-x * x) * (2 / math.sqrt(math.pi)),
        out=lambda x, out: torch.erf(x, out=out),
        mean=lambda q: 0.0,
        second_moment=lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),
        derivative_second_moment=lambda q: 4 / (math.pi * math.sqrt(1 + 4 * q)),
    )
)
def erf(x: Tensor) -> Tensor:
    """The error function: like tanh, with every moment in closed form."""
    return torch.erf(x)


@activation(
    Facts(
        torch.cos,
        out=lambda x, out: torch.sin(x, out=out),
        mean=lambda q: 0.0,
        second_moment=lambda q: -math.expm1(-2 * q) / 2,
        derivative_second_moment=lambda q: (1 + math.exp(-2 * q)) / 2,
    )
)
def sin(x: Tensor) -> Tensor:
    """Periodic: large pre-activations come back anywhere."""
    return torch.sin(x)
