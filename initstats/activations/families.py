"""The activations: linear pieces first, then smooth ones, then those that saturate.

`torch.ops.aten` are torch's own kernels. They write into a given tensor where torch's public
functions cannot.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from initstats.activations.entry import Facts, OutBackward, register_activation
from initstats.activations.tailoring import tailored_slope
from initstats.gaussian import Function

aten = torch.ops.aten


def _kernel(backward: Any, *options: float, **more: str) -> OutBackward:
    """A kernel of torch's backward pass, writing into a tensor."""
    return lambda gradient, x, out: backward.grad_input(
        gradient, x, *options, **more, grad_input=out
    )


def _torchs(
    name: str,
    *options: float,
    derivative: Function | None = None,
    kinks: tuple[float, ...] = (),
    **more: str,
) -> Facts:
    """The facts of a function for which torch has kernels, forward and backward."""
    forward, backward = getattr(aten, name), getattr(aten, f"{name}_backward")
    return Facts(
        derivative,
        kinks,
        lambda x, out: forward.out(x, *options, **more, out=out),
        _kernel(backward, *options, **more),
    )


_threshold = _kernel(aten.threshold_backward, 0.0)


@register_activation(
    Facts(
        out_function=lambda x, out: out.copy_(x),
        out_backward=lambda gradient, x, out: out.copy_(gradient),
    )
)
def identity(x: Tensor) -> Tensor:
    """x itself: a linear network."""
    return x


@register_activation(
    Facts(
        kinks=(0.0,),
        out_function=lambda x, out: torch.clamp_min(x, 0.0, out=out),
        out_backward=_threshold,
    )
)
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


@register_activation(
    lambda shift: Facts(
        kinks=(0.0,),
        out_function=lambda x, out: torch.clamp_min(x, 0.0, out=out).sub_(shift),
        out_backward=_threshold,
    )
)
def shifted_relu(x: Tensor, *, shift: float = 0.5) -> Tensor:
    """relu(x) - shift: the mean comes back, for one layer."""
    return torch.relu(x) - shift


def _leaky(negative_slope: float, factor: float = 1.0) -> Facts:
    kernel = _kernel(aten.leaky_relu_backward, negative_slope, False)

    def backward(gradient: Tensor, x: Tensor, out: Tensor) -> None:
        kernel(gradient, x, out)
        if factor != 1:
            out.mul_(factor)

    def function(x: Tensor, out: Tensor) -> None:
        aten.leaky_relu.out(x, negative_slope, out=out)
        if factor != 1:
            out.mul_(factor)

    return Facts(None, (0.0,), function, backward)


@register_activation(_leaky)
def leaky_relu(x: Tensor, *, negative_slope: float = 0.01) -> Tensor:
    """x above zero, negative_slope * x below."""
    return F.leaky_relu(x, negative_slope)


def _general(leak: float, sub: float, maxv: float) -> Facts:
    top = maxv + sub
    if not top > 0:
        raise ValueError(f"maxv must be above -sub, or nothing passes: got {maxv:g}, {sub:g}")
    bottom = top / leak if leak < 0 else -math.inf  # clamped there too, as in |x|
    kinks = tuple(kink for kink in (bottom, 0.0, top) if math.isfinite(kink))
    leaky = _kernel(aten.leaky_relu_backward, leak, False)
    stopped = _kernel(aten.hardtanh_backward, bottom, top)

    def backward(gradient: Tensor, x: Tensor, out: Tensor) -> None:
        leaky(gradient, x, out)
        stopped(out, x, out)

    def function(x: Tensor, out: Tensor) -> None:
        aten.leaky_relu.out(x, leak, out=out).sub_(sub).clamp_max_(maxv)

    return Facts(None, kinks, function, backward)


@register_activation(_general)
def general_relu(x: Tensor, *, leak: float = 0.1, sub: float = 0.4, maxv: float = 6.0) -> Tensor:
    """min(leaky_relu(x) - sub, maxv): subtracts first, then clamps."""
    return torch.clamp_max(F.leaky_relu(x, leak) - sub, maxv)


@register_activation(lambda slope: _leaky(slope))
def prelu(x: Tensor, *, slope: float = 0.25) -> Tensor:
    """leaky_relu at the slope where PReLU starts to learn; fixed here."""
    return F.leaky_relu(x, slope)


@register_activation(lambda lower, upper: _leaky((lower + upper) / 2))
def rrelu(x: Tensor, *, lower: float = 1 / 8, upper: float = 1 / 3) -> Tensor:
    """leaky_relu at the mean of the random slopes, as RReLU evaluates: nothing random here."""
    return F.leaky_relu(x, (lower + upper) / 2)


@cache
def _tailored(depth: float) -> tuple[float, float]:
    """The slope, and the factor that makes E phi(z)^2 one."""
    slope = tailored_slope(depth)
    return slope, math.sqrt(2 / (1 + slope * slope))


@register_activation(lambda depth: _leaky(*_tailored(depth)))
def tailored_relu(x: Tensor, *, depth: int = 50) -> Tensor:
    """leaky_relu of gain 1 with a slope that keeps inputs apart through so many layers (TAT)."""
    slope, factor = _tailored(depth)
    return F.leaky_relu(x, slope) * factor


@register_activation(_torchs("hardtanh", 0.0, 6.0, kinks=(0.0, 6.0)))
def relu6(x: Tensor) -> Tensor:
    """relu that stops at 6."""
    return F.relu6(x)


def _exponential(alpha: float, rate: float = 1.0, size: float = 1.0) -> Facts:
    """What is known of size * (x above zero, alpha (exp(rate x) - 1) below), the elu family."""

    def backward(gradient: Tensor, x: Tensor, out: Tensor) -> None:
        aten.elu_backward.grad_input(gradient, alpha, size, rate, False, x, grad_input=out)

    return Facts(
        kinks=() if alpha * rate == 1 else (0.0,),
        out_function=lambda x, out: aten.elu.out(x, alpha, size, rate, out=out),
        out_backward=backward,
    )


@register_activation(_exponential)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above zero, alpha (exp(x) - 1) below."""
    return F.elu(x, alpha)


@register_activation(lambda alpha: _exponential(alpha, 1 / alpha))
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above zero, alpha (exp(x / alpha) - 1) below: smooth for every alpha."""
    return F.celu(x, alpha)


@register_activation(_exponential(1.6732632423543772848, 1.0, 1.0507009873554804934))
def selu(x: Tensor) -> Tensor:
    """elu scaled so that mean 0 and second moment 1 reproduce themselves."""
    return F.selu(x)


@register_activation(_torchs("gelu"))
def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function of x."""
    return F.gelu(x)


@register_activation(_torchs("gelu", approximate="tanh"))
def gelu_tanh(x: Tensor) -> Tensor:
    """gelu by its tanh approximation, as many transformers have it."""
    return F.gelu(x, approximate="tanh")


@register_activation(_torchs("silu"))
def silu(x: Tensor) -> Tensor:
    """x times sigmoid of x; also known as swish."""
    return F.silu(x)


def _mish_derivative(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    half = torch.addcmul(s, s, s, value=-0.5)
    rest = 1 - half  # tanh of softplus is half / rest, and 1 less its square ((1 - s) / rest)^2
    steep = (1 - s).div_(rest).square_().mul_(s).mul_(x)
    return half.div_(rest).add_(steep)


def _mish_out(x: Tensor, out: Tensor) -> None:
    torch.sigmoid(x, out=out)
    torch.addcmul(out, out, out, value=-0.5, out=out).reciprocal_().sub_(1)
    torch.div(x, out, out=out)


@register_activation(Facts(_mish_derivative, out_function=_mish_out))
def mish(x: Tensor) -> Tensor:
    """x times tanh of softplus of x."""
    # 1 / tanh(log(1 + e^x)) is 1 / (s - s^2 / 2) - 1; F.mish takes four times as long
    s = torch.sigmoid(x)
    return x / (torch.addcmul(s, s, s, value=-0.5).reciprocal() - 1)


@register_activation(
    lambda beta: _torchs("softplus", beta, 20.0, derivative=lambda x: (beta * x).sigmoid_())
)
def softplus(x: Tensor, *, beta: float = 1.0) -> Tensor:
    """log(1 + exp(beta x)) / beta: a smooth relu, never zero."""
    return F.softplus(x, beta)


@register_activation(
    Facts(
        lambda x: torch.where(x > 3, 1.0, torch.where(x > -3, x * (1 / 3) + 0.5, 0.0)),
        kinks=(-3.0, 3.0),
        out_function=lambda x, out: aten.hardswish.out(x, out=out),
        out_backward=lambda gradient, x, out: aten.hardswish_backward.out(gradient, x, out=out),
    )
)
def hardswish(x: Tensor) -> Tensor:
    """x times relu6(x + 3) / 6."""
    return F.hardswish(x)


@register_activation(
    Facts(
        kinks=(0.0,),
        out_function=lambda x, out: torch.clamp_min(x, 0.0, out=out).square_(),
        out_backward=lambda gradient, x, out: (
            torch.clamp_min(x, 0.0, out=out).mul_(2).mul_(gradient)
        ),
    )
)
def squared_relu(x: Tensor) -> Tensor:
    """relu squared: a signal of size q comes out as q^2."""
    return torch.relu(x).square()


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    """Tanh into `out`: on the CPU by numpy, as near to the truth, in a tenth of torch's time."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        np.tanh(x.detach().numpy(), out=out.numpy())
        return out
    return torch.tanh(x, out=out)


@register_activation(
    Facts(
        out_function=_tanh,
        out_backward=lambda gradient, x, out: aten.tanh_backward.grad_input(
            gradient, _tanh(x, out), grad_input=out
        ),
    )
)
def tanh(x: Tensor) -> Tensor:
    """Odd, saturates at -1 and 1."""
    return torch.tanh(x)


@register_activation(
    Facts(
        out_function=lambda x, out: torch.sigmoid(x, out=out),
        out_backward=lambda gradient, x, out: aten.sigmoid_backward.grad_input(
            gradient, torch.sigmoid(x, out=out), grad_input=out
        ),
    )
)
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)): between 0 and 1, mean 1/2."""
    return torch.sigmoid(x)


@register_activation(
    lambda min_val, max_val: _torchs("hardtanh", min_val, max_val, kinks=(min_val, max_val))
)
def hardtanh(x: Tensor, *, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x between min_val and max_val, constant outside."""
    return F.hardtanh(x, min_val, max_val)


@register_activation(
    Facts(
        lambda x: (1 + x.abs()).square().reciprocal(),
        out_function=lambda x, out: torch.div(x, torch.abs(x, out=out).add_(1), out=out),
    )
)
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|): saturates slowly."""
    return F.softsign(x)


@register_activation(
    Facts(
        lambda x: torch.exp(-x * x) * (2 / math.sqrt(math.pi)),
        out_function=lambda x, out: torch.erf(x, out=out),
    )
)
def erf(x: Tensor) -> Tensor:
    """The error function: like tanh, with every moment in closed form."""
    return torch.erf(x)


@register_activation(Facts(torch.cos, out_function=lambda x, out: torch.sin(x, out=out)))
def sin(x: Tensor) -> Tensor:
    """Periodic: large pre-activations come back anywhere."""
    return torch.sin(x)
