"""Forward and backward by hand: layers that know their own gradients, and a check that they do.

A layer keeps its input and its output. Backward, it turns the gradient of the loss with respect to
its output into the gradients with respect to its input and its parameters; chained from the loss to
the first layer, this is backpropagation (Rumelhart, Hinton & Williams 1986). Nothing here uses
autograd, except `gradient_check`, which compares the two.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from initstats import activations
from initstats.activations import Activation
from initstats.gaussian import Function
from initstats.registry import unknown

Gradients = dict[str, Tensor]


def normalize(x: Tensor, mean: float | Tensor, std: float | Tensor) -> Tensor:
    """(x - mean) / std; give every split the mean and std of the training split."""
    return (x - mean) / std


def assert_near_zero(a: float | Tensor, tol: float = 1e-3) -> None:
    """Raise AssertionError, with the farthest entry, unless all are within `tol` of zero.

    >>> assert_near_zero(0.25)
    Traceback (most recent call last):
    AssertionError: expected near zero, within 0.001: got 0.25
    """
    farthest = float(torch.as_tensor(a).abs().max())
    if not farthest <= tol:
        raise AssertionError(f"expected near zero, within {tol:g}: got {farthest:g}")


class Module:
    """A step of a network: calling it runs `forward` and keeps its tensors, `backward` runs `bwd`.

    A subclass writes ``forward(x, ...)``, and ``bwd(gradient, x, ...)`` whose `gradient` is that of
    the loss with respect to what forward returned.

    Attributes:
        args: the arguments of the last call.
        out: what the last call returned.
        gradients: gradients of the loss with respect to the first argument, under "input", and to
            each parameter, under its name.
        parameters: names of the attributes that a training would change.
        kinks: the inputs at which the slope jumps, where the step is elementwise.
    """

    args: tuple[Tensor, ...]
    out: Tensor
    gradients: Gradients
    parameters: tuple[str, ...] = ()
    kinks: tuple[float, ...] = ()

    def __call__(self, *args: Tensor) -> Tensor:
        """Run forward."""
        self.args = args
        self.out = self.forward(*args)
        return self.out

    def backward(self, gradient: Tensor | None = None) -> Tensor:
        """Compute and keep the gradients of the last call; return that of its first argument.

        Args:
            gradient: gradient of the loss with respect to `out`; by default, `out` is the loss.

        Raises:
            RuntimeError: there was no call.
        """
        if not hasattr(self, "out"):
            raise RuntimeError(f"{type(self).__name__} has nothing to go back from: call it first")
        if gradient is None:
            gradient = torch.ones_like(self.out)
        self.gradients = self.bwd(gradient, *self.args)
        return self.gradients["input"]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the step makes of its arguments."""
        raise NotImplementedError(f"{type(self).__name__} needs a method: def forward(self, x)")

    def bwd(self, gradient: Tensor, *args: Any, **kwargs: Any) -> Gradients:
        """The gradients with respect to the input and the parameters, by name."""
        name = type(self).__name__
        raise NotImplementedError(f"{name} needs a method: def bwd(self, gradient, x)")


def outer(x: Tensor, gradient: Tensor) -> Tensor:
    """The sum over samples of outer products, (samples, inputs, units) in memory at once."""
    return (x[:, :, None] * gradient[:, None, :]).sum(0)


def einsum(x: Tensor, gradient: Tensor) -> Tensor:
    """The same sum, written with its indices."""
    return torch.einsum("bi,bj->ij", x, gradient)


def matmul(x: Tensor, gradient: Tensor) -> Tensor:
    """The same sum as a matrix product, x.T @ gradient."""
    return (gradient.T @ x).T  # a sixth faster, as x is read row by row


WEIGHT_GRADIENTS = {strategy.__name__: strategy for strategy in (outer, einsum, matmul)}
"""The lesson's three ways from x (samples, inputs) and the gradient of the output (samples, units)
to the gradient of the weight (inputs, units). They differ in rounding, time and memory."""


class Linear(Module):
    """x @ weight + bias, for x (samples, inputs).

    Args:
        weight: (inputs, units), as the lesson multiplies it; `torch.nn.Linear` keeps (units,
            inputs).
        bias: (units,).
        weight_gradient: a name of `WEIGHT_GRADIENTS`.
    """

    parameters = ("weight", "bias")

    def __init__(self, weight: Tensor, bias: Tensor, *, weight_gradient: str = "matmul") -> None:
        if weight_gradient not in WEIGHT_GRADIENTS:
            raise unknown("weight gradient", weight_gradient, WEIGHT_GRADIENTS)
        self.weight, self.bias = weight, bias
        self.weight_gradient = WEIGHT_GRADIENTS[weight_gradient]

    def forward(self, x: Tensor) -> Tensor:
        """(samples, units)."""
        if x.ndim != 2 or x.shape[1] != len(self.weight):
            raise ValueError(
                f"a layer of weight {tuple(self.weight.shape)} takes (samples, "
                f"{len(self.weight)}): got {tuple(x.shape)}"
            )
        return x @ self.weight + self.bias

    def bwd(self, gradient: Tensor, x: Tensor) -> Gradients:
        """For the input, a sum over units; for the parameters, sums over samples."""
        return {
            "input": gradient @ self.weight.T,
            "weight": self.weight_gradient(x, gradient),
            "bias": gradient.sum(0),
        }


class ReLU(Module):
    """max(x, 0): the gradient passes where the input was positive."""

    kinks = (0.0,)

    def forward(self, x: Tensor) -> Tensor:
        """x where it is positive, else 0."""
        return x.clamp_min(0.0)

    def bwd(self, gradient: Tensor, x: Tensor) -> Gradients:
        """The gradient where x is positive, else 0."""
        return {"input": (x > 0) * gradient}


class Nonlinearity(Module):
    """Any activation, by its name or as a callable: the gradient is multiplied by its slope."""

    def __init__(self, activation: str | Activation | Function) -> None:
        self.activation = activations.get(activation)
        self.kinks = self.activation.kinks

    def forward(self, x: Tensor) -> Tensor:
        """phi(x)."""
        return self.activation(x)

    def bwd(self, gradient: Tensor, x: Tensor) -> Gradients:
        """phi'(x) times the gradient."""
        return {"input": self.activation.derivative(x) * gradient}


class MSE(Module):
    """The mean squared difference of output and target."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar. The target has the output's shape, or (samples,) for an output (samples, 1)."""
        return self._difference(output, target).square().mean()

    def bwd(self, gradient: Tensor, output: Tensor, target: Tensor) -> Gradients:
        """Twice the difference over the number of entries, times the gradient."""
        difference = self._difference(output, target)
        return {"input": (gradient * 2 / difference.numel() * difference).view_as(output)}

    def _difference(self, output: Tensor, target: Tensor) -> Tensor:
        # never a bare squeeze(): a batch of one would lose its samples, too
        squeezed = output if output.shape == target.shape else output.squeeze(-1)
        if squeezed.shape != target.shape:
            raise ValueError(
                f"the target must have the shape of the output {tuple(output.shape)}, a last 1 "
                f"aside: got {tuple(target.shape)}"
            )
        return squeezed - target


class CrossEntropy(Module):
    """Softmax, then the mean negative logarithm of the probability of the right class."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar, of logits (samples, classes) and class numbers (samples,)."""
        if output.ndim != 2 or target.shape != output.shape[:1]:
            raise ValueError(
                "cross-entropy takes logits (samples, classes) and class numbers (samples,): got "
                f"{tuple(output.shape)} and {tuple(target.shape)}"
            )
        right = output.gather(1, target[:, None]).squeeze(1)
        return (output.logsumexp(1) - right).mean()

    def bwd(self, gradient: Tensor, output: Tensor, target: Tensor) -> Gradients:
        """The probabilities minus 1 at the right class, over the number of samples."""
        error = output.softmax(1)
        error[torch.arange(len(target)), target] -= 1
        return {"input": gradient / len(target) * error}


class Model(Module):
    """Layers, and a loss of the last layer's output and the target.

    Call it with samples and targets, then call `backward`. Every layer keeps the tensors of one
    call, so that none may occur twice.

    >>> model = Model([Linear(torch.eye(2), torch.zeros(2)), ReLU()], MSE())
    >>> model(torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 1.0]]))
    tensor(2.5000)
    >>> model.backward()
    tensor([[2., 0.]])
    """

    def __init__(self, layers: Sequence[Module], loss: Module) -> None:
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("a layer remembers one call: make one for each place in the model")
        self.layers, self.loss = list(layers), loss

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        for layer in self.layers:
            x = layer(x)
        return self.loss(x, target)

    def bwd(self, gradient: Tensor, x: Tensor, target: Tensor) -> Gradients:
        """The chain rule, from the loss to the first layer."""
        for layer in (self.loss, *reversed(self.layers)):
            gradient = layer.backward(gradient)
        return {"input": gradient}


_STEP = 1e-5  # for central differences: in float64, truncation and rounding are both near 1e-10
_Place = tuple[int, str]


def gradient_check(model: Model, x: Tensor, y: Tensor, *, entries: int = 20) -> pd.DataFrame:
    """Compare the gradients by hand with autograd's and with central differences.

    Autograd runs in the dtype of the model; differences, and the gradients that they are compared
    with, are in float64. The model and its gradients stay as they are.

    Args:
        model: its parameters are tensors of the dtype of `x`.
        x: (samples, inputs).
        y: the target.
        entries: number of entries of each tensor that are nudged, spread evenly.

    Returns:
        One row for the input and for each parameter: `layer` (0 for the input, then from 1),
        `tensor`, `shape`, `norm` of the gradient; `autograd` and `differences`, the root mean
        square of the deviation over that of the gradient (0 is equal); `compared`, the number of
        entries whose difference is compared, and `straddled`, the number of those left out because
        the nudge leads across a kink, where there is no slope to compare with.
    """
    with torch.no_grad():
        by_hand = _by_hand(_copy(model, x.dtype), x, y)
        wide, samples = _copy(model, torch.float64), x.to(torch.float64, copy=True).contiguous()
        exact = _by_hand(wide, samples, y)
        slopes = {
            place: _differences(wide, samples, y, tensor, entries)
            for place, tensor in _tensors(wide, samples).items()
        }
    by_autograd = _by_autograd(_copy(model, x.dtype), x.detach().clone(), y)
    return pd.DataFrame(
        {
            "layer": layer,
            "tensor": name,
            "shape": tuple(gradient.shape),
            "norm": float(gradient.norm()),
            "autograd": _apart(gradient, by_autograd[layer, name], gradient),
            "differences": _apart(
                exact[layer, name].flatten()[index], quotients, exact[layer, name]
            ),
            "compared": len(index),
            "straddled": straddled,
        }
        for (layer, name), gradient in by_hand.items()
        for index, quotients, straddled in [slopes[layer, name]]
    )


def _copy(model: Model, dtype: torch.dtype) -> Model:
    """The same layers on copies of the parameters."""
    layers = [copy.copy(layer) for layer in model.layers]
    for layer in layers:
        for name in layer.parameters:
            own = getattr(layer, name).detach().to(dtype, copy=True)
            setattr(layer, name, own.contiguous())
    return Model(layers, copy.copy(model.loss))


def _tensors(model: Model, x: Tensor) -> dict[_Place, Tensor]:
    """The input and the parameters, by layer and name."""
    parameters = {
        (number, name): getattr(layer, name)
        for number, layer in enumerate(model.layers, 1)
        for name in layer.parameters
    }
    return {(0, "input"): x, **parameters}


def _by_hand(model: Model, x: Tensor, y: Tensor) -> dict[_Place, Tensor]:
    model(x, y)
    model.backward()
    steps = [model, *model.layers]
    return {(number, name): steps[number].gradients[name] for number, name in _tensors(model, x)}


def _by_autograd(model: Model, x: Tensor, y: Tensor) -> dict[_Place, Tensor]:
    tensors = _tensors(model, x)
    with torch.enable_grad():
        leaves = [tensor.requires_grad_() for tensor in tensors.values()]
        gradients = torch.autograd.grad(model(x, y), leaves, materialize_grads=True)
    return dict(zip(tensors, gradients, strict=True))


def _differences(
    model: Model, x: Tensor, y: Tensor, tensor: Tensor, entries: int
) -> tuple[list[int], Tensor, int]:
    """Entries of a contiguous tensor, the slope of the loss along each, and the number left out."""
    flat = tensor.view(-1)

    def nudged(index: int, by: float) -> tuple[float, list[Tensor]]:
        """The loss, and between which kinks every input of each kinked layer lies."""
        value = flat[index].item()
        flat[index] = value + by
        loss = float(model(x, y))
        kinked = [layer for layer in model.layers if layer.kinks]
        sides = [torch.bucketize(layer.args[0], x.new_tensor(layer.kinks)) for layer in kinked]
        flat[index] = value
        return loss, sides

    slopes, spread = {}, torch.linspace(0, len(flat) - 1, min(entries, len(flat))).long().tolist()
    for index in spread:
        step = _STEP * max(1.0, abs(flat[index].item()))
        (above, right), (below, left) = nudged(index, step), nudged(index, -step)
        if all(map(torch.equal, right, left)):
            slopes[index] = (above - below) / (2 * step)
    return list(slopes), x.new_tensor(list(slopes.values())), len(spread) - len(slopes)


def _apart(a: Tensor, b: Tensor, whole: Tensor) -> float:
    """Root mean square of a - b over that of `whole`; 0 if there is nothing to compare."""
    deviation = float((a - b).norm()) / max(a.numel(), 1) ** 0.5
    size = float(whole.norm()) / whole.numel() ** 0.5
    return deviation / size if deviation else 0.0
