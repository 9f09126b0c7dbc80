"""The losses and the updates of training by hand, compiled.

A network that diverges gives infinities and NaN here, and no error: they are its outcome.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from initstats.compiling import kernel

Array = NDArray[np.float32]
# fused multiply-add alone: other freedoms would let a processor forget what is not finite
_FAST = {"contract"}


@kernel(nogil=True, fastmath=_FAST)
def cross_entropy(
    outputs: Array, labels: NDArray[np.int64], share: float, gradient: Array
) -> tuple[float, int]:
    """Softmax cross-entropy of (classes, samples) against a class for each sample.

    Args:
        share: the factor of the gradient, 1 / samples of the batch.
        gradient: as `outputs`; it is written there.

    Returns:
        The sum of the losses, and how many samples have their own class on top.
    """
    classes, samples = outputs.shape
    loss, correct = 0.0, 0
    for n in range(samples):
        top, best = outputs[0, n], 0
        for c in range(1, classes):
            if outputs[c, n] > top:
                top, best = outputs[c, n], c
        correct += best == labels[n]
        total = np.float32(0)
        for c in range(classes):
            gradient[c, n] = np.exp(outputs[c, n] - top)
            total += gradient[c, n]
        loss += math.log(total) + top - outputs[labels[n], n]
        factor = np.float32(share) / total
        for c in range(classes):
            gradient[c, n] *= factor
        gradient[labels[n], n] -= np.float32(share)
    return loss, correct


@kernel(nogil=True, fastmath=_FAST)
def mean_squared_error(
    outputs: Array, labels: NDArray[np.int64], share: float, gradient: Array
) -> tuple[float, int]:
    """Squared distance of one output (1, samples) from the number of each sample's class.

    Arguments and results are those of `cross_entropy`; the class on top is the nearest number.
    """
    loss, correct = 0.0, 0
    for n in range(outputs.shape[1]):
        gap = outputs[0, n] - np.float32(labels[n])
        loss += float(gap) * float(gap)
        correct += abs(gap) < 0.5
        gradient[0, n] = np.float32(2 * share) * gap
    return loss, correct


@kernel(nogil=True, fastmath=_FAST)
def sgd(
    weights: Array, gradient: Array, speed: Array, rate: float, momentum: float, decay: float
) -> None:
    """A step of gradient descent with momentum, as `torch.optim.SGD` makes it."""
    lr, keep, shrink = np.float32(rate), np.float32(momentum), np.float32(decay)
    for i in range(weights.size):
        v = keep * speed[i] + gradient[i] + shrink * weights[i]
        speed[i] = v
        weights[i] -= lr * v


@kernel(nogil=True, fastmath=_FAST)
def adamw(
    weights: Array,
    gradient: Array,
    first: Array,
    second: Array,
    step: int,
    rate: float,
    decay: float,
) -> None:
    """A step of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), as `torch.optim.AdamW`'s.

    Args:
        first, second: running means of the gradient and of its square.
        step: how many steps there were with this one.
    """
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    size = np.float32(rate / (1 - beta1**step))
    root = np.float32(math.sqrt(1 - beta2**step))
    keep, keep2, tiny = np.float32(beta1), np.float32(beta2), np.float32(epsilon)
    new, new2 = np.float32(1 - beta1), np.float32(1 - beta2)
    shrink = np.float32(1 - rate * decay)
    for i in range(weights.size):
        m = keep * first[i] + new * gradient[i]
        v = keep2 * second[i] + new2 * gradient[i] * gradient[i]
        first[i], second[i] = m, v
        weights[i] = shrink * weights[i] - size * m / (np.sqrt(v) / root + tiny)
