"""One batch through a model, which stays as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from initstats.probe.operations import tensors

Loss = Callable[[Any], Tensor]


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's output: a tuple is positional, a mapping keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Put back the buffers that a forward pass changes, and the random states that it uses."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = {x.device.index for x in (*model.parameters(), *model.buffers()) if x.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (kept, not drawn from)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for module, name, buffer, values in before:
                module._buffers[name] = buffer
                buffer.copy_(values)


def send_back(model: nn.Module, output: Any, loss: Loss | None) -> None:
    """Backpropagate without accumulating gradients; without a loss, unit-normal ones.

    Raises:
        ValueError: the output has no gradient.
    """
    ends = [loss(output)] if loss else [x for x in tensors(output) if x.is_floating_point()]
    ends = [x for x in ends if x.requires_grad]
    if not ends:
        raise ValueError(
            "no gradient flows back from the model's output: it has no tensor that requires one "
            "(are the parameters frozen, or the output detached?)"
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    sent = None if loss else [torch.randn(x.shape, generator=generator).to(x) for x in ends]
    torch.autograd.grad(ends, parameters, sent, allow_unused=True)
