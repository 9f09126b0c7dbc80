"""What training makes small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from initstats.training import kernels


@dataclass(frozen=True)
class Loss:
    """A loss of classes.

    Attributes:
        kernel: see `kernels.cross_entropy`.
        by_autograd: the mean over a batch of (samples, outputs), differentiable.
        single: whether it takes one output, and not one for each class.
    """

    name: str
    kernel: Callable[..., tuple[float, int]]
    by_autograd: Callable[[Tensor, Tensor], Tensor]
    single: bool = False

    def outputs(self, classes: int) -> int:
        """How many outputs a network needs for so many classes."""
        return 1 if self.single else classes

    def correct(self, outputs: Tensor, labels: Tensor) -> int:
        """How many of (samples, outputs) have their own class on top."""
        if self.single:
            return int(((outputs.squeeze(-1) - labels).abs() < 0.5).sum())
        return int((outputs.argmax(-1) == labels).sum())


def _squares(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(outputs.squeeze(-1), labels.to(outputs.dtype))


LOSSES: dict[str, Loss] = {
    each.name: each
    for each in (
        Loss("cross_entropy", kernels.cross_entropy, F.cross_entropy),
        Loss("mse", kernels.mean_squared_error, _squares, single=True),
    )
}
"""`mse` is the lesson's: one output, which is to be the number of the class."""
