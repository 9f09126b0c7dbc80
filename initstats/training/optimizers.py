"""Optimizers and schedules: how a step of training changes the weights, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from initstats.training import kernels

Array = NDArray[np.float32]
Update = Callable[..., None]


@dataclass(frozen=True)
class Optimizer:
    """A way to change weights by their gradient.

    Attributes:
        states: how many numbers it remembers for each weight.
        update: ``update(weights, gradient, *states, step, rate, decay)`` changes weights and
            states in place.
        torchs: ``torchs(parameters, rate, decay)`` makes torch's own, which does the same.
        rates: learning rates that are tried unless others are asked for.
        decay: weight decay unless another one is asked for, as torch has it.
    """

    name: str
    states: int
    update: Update
    torchs: Callable[[Iterable[torch.nn.Parameter], float, float], torch.optim.Optimizer]
    rates: tuple[float, ...]
    decay: float = 0.0


def _sgd(momentum: float) -> dict[str, Any]:
    def update(
        weights: Array, gradient: Array, speed: Array, step: int, rate: float, decay: float
    ) -> None:
        kernels.sgd(weights, gradient, speed, rate, momentum, decay)

    def torchs(
        parameters: Iterable[torch.nn.Parameter], rate: float, decay: float
    ) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, rate, momentum=momentum, weight_decay=decay)

    return {"states": 1, "update": update, "torchs": torchs}


OPTIMIZERS = {
    each.name: each
    for each in (
        Optimizer("sgd", **_sgd(0.0), rates=(0.03, 0.1, 0.3, 1.0, 3.0)),
        Optimizer("momentum", **_sgd(0.9), rates=(0.003, 0.01, 0.03, 0.1, 0.3)),
        Optimizer(
            "adamw",
            2,
            kernels.adamw,
            lambda parameters, rate, decay: torch.optim.AdamW(parameters, rate, weight_decay=decay),
            rates=(0.0003, 0.001, 0.003, 0.01, 0.03),
            decay=0.01,
        ),
    )
}

SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "linear": lambda step, steps: 1 - step / steps,
    "constant": lambda step, steps: 1.0,
}
"""The factor of the learning rate at a step, from 0, of so many."""
