"""The lesson's code, as it is taught; what grew out of it is `initstats.backprop`.

Weights are (inputs, units) here, as the lesson multiplies them.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from initstats.backprop import MSE, Linear, Model, ReLU
from initstats.data import load_data

INPUTS, UNITS, OUTPUTS = 784, 50, 1
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""w1, b1, w2 and b2."""


def get_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_train, y_train, x_valid, y_valid: flat images in [0, 1), and their labels."""
    mnist = load_data("mnist")
    x_train, x_valid = (torch.from_numpy(split.raw) / 256 for split in (mnist.train, mnist.valid))
    return x_train, mnist.train.y, x_valid, mnist.valid.y


def simplified_kaiming(inputs: int, units: int, generator: Generator) -> Tensor:
    """Weights under which a linear layer keeps mean 0 and std 1."""
    return torch.randn(inputs, units, generator=generator) / math.sqrt(inputs)


def lin(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """A linear layer."""
    return x @ w + b


def relu(x: Tensor) -> Tensor:
    """x where it is positive, else 0."""
    return x.clamp_min(0.0)


def kaiming(inputs: int, units: int, generator: Generator, a: float = 0.0) -> Tensor:
    """The same with a 2 in the numerator, for what relu removes; `a`: slope of a leaky relu."""
    return torch.randn(inputs, units, generator=generator) * math.sqrt(2 / ((1 + a**2) * inputs))


def torch_kaiming(inputs: int, units: int, generator: Generator) -> Tensor:
    """The same by torch, which reads a weight as (units, inputs): our inputs are its fan_out."""
    w = torch.zeros(inputs, units)
    return nn.init.kaiming_normal_(w, mode="fan_out", generator=generator)


def shifted_relu(x: Tensor) -> Tensor:
    """relu less a half."""
    return x.clamp_min(0.0) - 0.5


def forward(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Linear, relu, linear; returns all that the backward pass needs."""
    l1 = lin(x, w1, b1)
    l2 = relu(l1)
    return l1, l2, lin(l2, w2, b2)


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error. A bare squeeze() would take the samples axis of a batch of one, too."""
    return (output.squeeze(-1) - target).pow(2).mean()


def mse_gradient(output: Tensor, target: Tensor) -> Tensor:
    """Gradient of the loss with respect to the output."""
    return 2 * (output.squeeze(-1) - target).unsqueeze(-1) / len(output)


def relu_gradient(x: Tensor, behind: Tensor) -> Tensor:
    """Gradient with respect to x; `behind` is that with respect to relu(x)."""
    return (x > 0) * behind


def linear_gradients(x: Tensor, w: Tensor, behind: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias; the weight's is one giant outer product, summed."""
    return behind @ w.t(), (x.unsqueeze(-1) * behind.unsqueeze(1)).sum(0), behind.sum(0)


def backward(
    x: Tensor, y: Tensor, passed: tuple[Tensor, Tensor, Tensor], w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The chain rule, from the output: the gradients of x, w1, b1, w2 and b2."""
    l1, l2, output = passed
    l2_gradient, w2_gradient, b2_gradient = linear_gradients(l2, w2, mse_gradient(output, y))
    x_gradient, w1_gradient, b1_gradient = linear_gradients(x, w1, relu_gradient(l1, l2_gradient))
    return x_gradient, w1_gradient, b1_gradient, w2_gradient, b2_gradient


def layers(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight_gradient: str) -> Model:
    """The same network of layers that know their gradients."""
    first, last = (Linear(w, b, weight_gradient=weight_gradient) for w, b in ((w1, b1), (w2, b2)))
    return Model([first, ReLU(), last], MSE())


def torch_layers(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> nn.Sequential:
    """The same network by torch, which keeps weights as (units, inputs); draws nothing."""
    first, last = (nn.Linear(len(w), w.shape[1], device="meta") for w in (w1, w2))
    for layer, w, b in ((first, w1, b1), (last, w2, b2)):
        layer.weight, layer.bias = nn.Parameter(w.t().contiguous()), nn.Parameter(b.clone())
    return nn.Sequential(first, nn.ReLU(), last)
