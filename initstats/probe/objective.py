"""The number that a training makes small, found from what a model returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from initstats.draws import generator_for
from initstats.probe.operations import tensors


def sent_back() -> torch.Generator:
    """What draws the unit-normal gradients of a model's outputs, where no loss is given."""
    return generator_for(0, "gradients of outputs")


def loss_of(output: Any, labels: Tensor | None) -> Tensor:
    """The loss of a model's output.

    A model that returns its loss (a number, or an output with a `loss`) has that minimized; one
    that returns scores for classes has their cross-entropy, where there are classes; any other
    learns to return unit-normal numbers, drawn once.

    Args:
        labels: classes, (samples,).

    Raises:
        ValueError: the output holds nothing to train.
    """
    own = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own.mean()
    found = [x for x in tensors(output) if x.is_floating_point() and x.requires_grad]
    if not found:
        raise ValueError("the model's output holds no numbers that depend on its parameters")
    scores = found[0]
    if scores.ndim == 0:
        return scores
    if labels is not None and scores.ndim == 2 and scores.shape[1] > int(labels.max()):
        return nn.functional.cross_entropy(scores, labels)
    generator = generator_for(len(found), "targets")
    targets = [torch.randn(x.shape, generator=generator).to(x) for x in found]
    errors = [(x - y).square().mean() for x, y in zip(found, targets, strict=True)]
    return torch.stack(errors).mean()
