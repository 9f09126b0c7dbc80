"""Training by autograd: any model of the user's own, under the same orders of batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from initstats.data import Split
from initstats.draws import generator_for
from initstats.moments import STATISTICS
from initstats.networks import Place
from initstats.probe import measure
from initstats.training.batches import Batch
from initstats.training.byhand import Measured
from initstats.training.losses import Loss
from initstats.training.optimizers import Optimizer


class AutogradNet:
    """A model, and torch's optimizer for it."""

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, ...],
        outputs: int,
        optimizer: Optimizer,
        decay: float,
        loss: Loss,
        seed: int,
    ) -> None:
        self.model, self.shape, self.outputs, self.loss = model, shape, outputs, loss
        self.optimizer = optimizer.torchs(list(model.parameters()), 1.0, decay)
        self._chance = generator_for(seed, "model").get_state()

    def train(self, batch: Batch, rate: float) -> tuple[float, int]:
        """Take a step on a batch; the mean loss before it, and how many were right."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        labels = torch.from_numpy(batch.labels)
        self.model.train()
        with self._own_chance(), torch.enable_grad():
            outputs = self._outputs(batch)
            loss = self.loss.by_autograd(outputs, labels)
            if not loss.requires_grad:
                raise ValueError("the model's output does not depend on its parameters")
            self.optimizer.zero_grad()
            if math.isfinite(value := loss.item()):
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
        return value, self.loss.correct(outputs, labels)

    def evaluate(self, batch: Batch) -> tuple[float, int]:
        """The sum of the losses of a batch, and how many are right."""
        labels = torch.from_numpy(batch.labels)
        self.model.eval()
        with self._own_chance():
            outputs = self._outputs(batch)
        loss = self.loss.by_autograd(outputs, labels).item()
        return loss * len(labels), self.loss.correct(outputs, labels)

    def statistics(self, split: Split, seed: int) -> Measured:
        """The places and the statistics of all tensors for some samples, as a probe has them."""
        self.model.eval()
        chance = self._chance
        with torch.enable_grad(), self._own_chance():
            table = measure(self.model, split.images, backward=True)
        self._chance = chance  # whoever is watched trains as others do
        table = table[table["tensor"] != "weight"].drop_duplicates(["layer", "tensor", "direction"])
        places: list[Place] = list(
            table[["layer", "tensor", "direction"]].itertuples(index=False, name=None)
        )
        return places, table[list(STATISTICS)].to_numpy(np.float64)

    def _outputs(self, batch: Batch) -> Tensor:
        x = batch.x.T.reshape(-1, *self.shape)
        return expect_outputs(self.model(x), len(x), self.outputs)

    @contextmanager
    def _own_chance(self) -> Iterator[None]:
        """The model's random numbers come from the seed, and the caller's stay as they were."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._chance)
            yield
            self._chance = torch.get_rng_state()


def expect_outputs(made: object, samples: int, outputs: int) -> Tensor:
    """What a model made of some samples.

    Raises:
        ValueError: it is no tensor of so many outputs for each sample.
    """
    if isinstance(made, Tensor) and made.shape == (samples, outputs):
        return made
    each = "one output, the number of the class" if outputs == 1 else "an output for each class"
    told = f"a {type(made).__name__}"
    if isinstance(made, Tensor):
        told = f"one of shape {tuple(made.shape)}"
    raise ValueError(
        f"the model must turn {samples} samples into a tensor of shape ({samples}, {outputs}), "
        f"with {each}: it gives {told}"
    )
