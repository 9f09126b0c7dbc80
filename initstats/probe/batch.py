"""One batch through a model, which stays as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initstats.probe.objective import sent_back
from initstats.probe.operations import tensors

Loss = Callable[[Any], Tensor]
Writing = Callable[[Any], None]


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's output: a tuple is positional, a mapping keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


class Kept:
    """A model's parameters, buffers and attributes, as they were when this was made.

    Buffers are copied. Parameters may be large and are rarely written to in a forward pass, so one
    is copied just before the first operation that writes to its memory.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        # a lazy module becomes another one in its first pass
        self._modules = [
            (module, _attributes(module))
            for module in modules
            if not isinstance(module, torch.jit.ScriptModule)
            and not any(is_lazy(p) for p in module.parameters(recurse=False))
        ]
        self._parameters: list[tuple[nn.Parameter, Tensor, bool]] = []
        self._unwritten: dict[int, list[Tensor]] = {}
        for p in model.parameters():
            if not is_lazy(p):
                self._parameters.append((p, p.data, p.requires_grad))
                self._unwritten.setdefault(_memory(p), []).append(p.data)
        buffers = [x for x in model.buffers() if not is_lazy(x)]
        self._buffers = [(x, x.data) for x in buffers]
        scripted = [m for m in modules if isinstance(m, torch.jit.ScriptModule)]
        foreign = [p for m in scripted for p in m.parameters()]  # written to out of sight
        self._values = [(x, x.detach().clone()) for x in (*buffers, *foreign)]

    def writing(self, target: Any) -> None:
        """Copy the parameters in whose memory an operation is about to write."""
        for x in tensors(target):
            for data in self._unwritten.pop(_memory(x), ()):
                self._values.append((data, data.clone()))

    def put_back(self) -> None:
        """Make the model what it was."""
        for module, attributes in self._modules:
            _put_attributes_back(module, attributes)
        for p, data, requires_grad in self._parameters:
            if _place(p) != _place(data):
                p.data = data
            if p.requires_grad != requires_grad:
                p.requires_grad_(requires_grad)
        for x, data in self._buffers:
            if _place(x) != _place(data):
                x.data = data
        for x, values in self._values:
            with torch.inference_mode(x.is_inference()), torch.no_grad():
                x.copy_(values)


@contextmanager
def unmoved(model: nn.Module) -> Iterator[Writing]:
    """Put back what a forward pass moves on a model, and the random states that it uses.

    Yields:
        A function to be called with what an operation is about to write to.
    """
    kept = Kept(model)
    devices = {x.device.index for x in (*model.parameters(), *model.buffers()) if x.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (kept, not drawn from)
    try:
        with torch.random.fork_rng(devices=devices):
            yield kept.writing
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        kept.put_back()


def send_back(
    model: nn.Module,
    inputs: Any,
    output: Any,
    loss: Loss | None,
    captured: Callable[[], AbstractContextManager[None]],
) -> None:
    """Backpropagate without accumulating gradients; without a loss, unit-normal ones.

    Args:
        captured: surrounds what leaves no gradient in `.grad`.

    Raises:
        TypeError: the loss returns no tensor.
        ValueError: the output has no gradient.
    """
    ends = [loss(output)] if loss else [x for x in tensors(output) if x.is_floating_point()]
    if not all(isinstance(x, Tensor) for x in ends):
        raise TypeError(
            "loss: a function of the model's output that returns a tensor of one number is "
            f"expected, and it returned {type(ends[0]).__name__} (without .item() or float())"
        )
    ends = [x for x in ends if x.requires_grad]
    if not ends:
        raise ValueError(
            "no gradient flows back from the model's output: it has no tensor that requires one "
            "(are the parameters frozen, or the output detached?)"
        )
    starts = [x for x in (*model.parameters(), *tensors(inputs)) if x.requires_grad]
    generator = sent_back()
    sent = None if loss else [torch.randn(x.shape, generator=generator).to(x) for x in ends]
    if any(type(node).__name__ == "CheckpointFunctionBackward" for node in _nodes(ends)):
        # a reentrant checkpoint refuses `grad`, and adds to `.grad`
        kept = [(x, x.grad) for x in starts]
        for x in starts:
            x.grad = None
        try:
            torch.autograd.backward(ends, sent)
        finally:
            for x, gradient in kept:
                x.grad = gradient
        return
    with captured():
        torch.autograd.grad(ends, starts, sent, allow_unused=True)


def _nodes(ends: list[Tensor]) -> Iterator[Any]:
    """The operations that made some tensors, as autograd knows them."""
    waiting, seen = [x.grad_fn for x in ends], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [source for source, _ in node.next_functions]


_TABLES = ("_parameters", "_buffers", "_modules")
"""Attributes of a module that are tables themselves, and may have changed inside."""


def _attributes(module: nn.Module) -> dict[str, Any]:
    own = vars(module)
    return {**own, **{name: dict(own[name]) for name in _TABLES if name in own}}


def _put_attributes_back(module: nn.Module, attributes: dict[str, Any]) -> None:
    own = vars(module)
    for name in own.keys() - attributes.keys():
        del own[name]
    for name, value in attributes.items():
        if name in _TABLES:
            own[name].clear()
            own[name].update(value)
        elif own.get(name) is not value:
            own[name] = value


def _memory(x: Tensor) -> int:
    """Where a tensor's numbers begin in memory, for all its views; 0 where it has none."""
    try:
        return x.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, or a wrapper
        return 0


def _place(x: Tensor) -> object:
    """Where and how a tensor's numbers lie."""
    try:
        return x.data_ptr(), x.shape, x.stride(), x.dtype
    except (RuntimeError, NotImplementedError):
        return id(x)
