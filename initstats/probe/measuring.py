"""A model, measured on one batch in one line, and left as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from initstats.probe.operations import tensors
from initstats.probe.probe import Patterns, Probe

Loss = Callable[[Any], Tensor]


def measure(
    model: nn.Module,
    inputs: Any,
    *,
    backward: bool = False,
    loss: Loss | None = None,
    weights: bool = True,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    unit_axis: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """The statistics of every operation of a model over one batch; see `Probe.table`.

    The model is left as it was: buffers that the forward pass moved (batch norm's statistics) are
    put back, so are random states, and gradients are not accumulated.

    Args:
        model: any module, in the mode to measure.
        inputs: what it is called with: a tuple is its positional arguments, a mapping its keyword
            arguments, anything else its only argument.
        backward: measure gradients too.
        loss: of the model's output; without one, a unit-normal gradient is sent back from every
            tensor of floats in the output.
        weights, include, exclude, unit_axis: as `Probe`.

    Raises:
        ValueError: as `Probe`; or backward was asked of an output that has no gradient.

    >>> table = measure(nn.Linear(3, 2), torch.ones(5, 3))
    >>> table["op"].tolist()
    ['input', 'linear', 'linear', 'linear']
    """
    return examine(
        model,
        inputs,
        backward=backward,
        loss=loss,
        weights=weights,
        include=include,
        exclude=exclude,
        unit_axis=unit_axis,
    ).table()


def examine(
    model: nn.Module,
    inputs: Any,
    *,
    backward: bool = False,
    loss: Loss | None = None,
    weights: bool = True,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    unit_axis: Mapping[str, int] | None = None,
) -> Probe:
    """As `measure`, but give the whole probe: its table, histograms, and what it missed."""
    probe = Probe(
        model,
        backward=backward,
        weights=weights,
        include=include,
        exclude=exclude,
        unit_axis=unit_axis,
    )
    with unmoved(model), torch.set_grad_enabled(backward), probe:
        output = called(model, inputs)
        if backward:
            _send_back(probe, output, loss)
    return probe


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's output: a tuple is positional, a mapping keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Put back the buffers that a forward pass moves, and the random states that it draws from."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (kept, not drawn from)
    try:
        with torch.random.fork_rng(devices=[device.index for device in devices]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for module, name, buffer, values in before:
                module._buffers[name] = buffer
                buffer.copy_(values)


def _send_back(probe: Probe, output: Any, loss: Loss | None) -> None:
    """Backpropagate without accumulating gradients."""
    ends = [loss(output)] if loss else [x for x in tensors(output) if x.is_floating_point()]
    ends = [x for x in ends if x.requires_grad]
    if not ends:
        raise ValueError(
            "no gradient flows back from the model's output: it has no tensor that requires one "
            "(are the parameters frozen, or the output detached?)"
        )
    parameters = [p for p in probe.model.parameters() if p.requires_grad]
    torch.autograd.grad(ends, parameters, None if loss else _cotangents(ends), allow_unused=True)


def _cotangents(ends: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(x.shape, generator=generator).to(x) for x in ends]
