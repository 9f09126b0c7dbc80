"""The factory of the user's models: one for each width, depth and seed, with its optimizer."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initstats.draws import seed_for
from initstats.probe.batch import called

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], float]] = {
    "sgd": (torch.optim.SGD, 0.01),
    "adam": (torch.optim.Adam, 0.001),
}
"""Optimizers by name, and their learning rates where none is given."""


@dataclass(frozen=True)
class Maker:
    """Makes the models of a check.

    Attributes:
        factory: gives a model, or a model and its optimizer, for a width, or a width and a depth.
        optimizer: a name of `OPTIMIZERS`, or what makes an optimizer for a model.
        lr: of an optimizer by name.
        x: the input, or what gives it for a width.
    """

    factory: Callable[..., Any]
    optimizer: str | Callable[[nn.Module], Any]
    lr: float | None
    x: Any

    def inputs(self, width: int) -> Any:
        """What the model of a width is called with."""
        return self.x(width) if callable(self.x) else self.x

    def make(
        self, width: int, depth: int | None, seed: int
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A new model and its optimizer; torch's generator is used, as `seeded` leaves it.

        Raises:
            TypeError: the factory makes no module.
        """
        made = self.factory(width) if depth is None else self.factory(width, depth)
        model, optimizer = made if isinstance(made, tuple) else (made, None)
        if not isinstance(model, nn.Module):
            raise TypeError(f"the factory returns {type(model).__name__}, no torch.nn.Module")
        if any(is_lazy(p) for p in model.parameters()):
            with torch.no_grad():
                called(model, self.inputs(width))
        return model, optimizer or self._optimizer_of(model)

    def _optimizer_of(self, model: nn.Module) -> torch.optim.Optimizer:
        if callable(self.optimizer):
            made = self.optimizer(model)
            if not hasattr(made, "step"):
                raise TypeError(f"optimizer returns {type(made).__name__}, which has no step()")
            return made  # type: ignore[no-any-return]
        kind, lr = OPTIMIZERS[self.optimizer]
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise ValueError("the model has no parameters to train")
        return kind(trained, lr=lr if self.lr is None else self.lr)  # type: ignore[call-arg]


def takes_depth(factory: Callable[..., Any]) -> bool:
    """Whether a factory can be called with a width and a depth."""
    try:
        inspect.signature(factory).bind(1, 1)
    except TypeError:
        return False
    except ValueError:  # written in C
        return True
    return True


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generators begin at a seed; all random states are put back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (kept, not drawn from)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            reseed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def reseed(seed: int) -> None:
    """Begin torch's generators at a seed; only inside of `seeded`."""
    number = seed_for(seed, "coordinates")
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)
