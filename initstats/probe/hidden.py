"""Weights that a model uses and torch does not know of, as those of layers in a plain list."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.facts import Facts

_REGISTERED = ("_parameters", "_buffers", "_modules")


class Hidden:
    """Counts the weights of operations that get gradients and are no parameters of the model.

    Such weights are leaves that the model holds itself: in an attribute, in a container, or in a
    module that it calls and that is none of its own. Those that come as arguments are left alone,
    and so are those that an optimizer has.

    Args:
        model: the model whose parameters are known.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._held: Any = WeakIdKeyDictionary()
        self._noted: Any = WeakIdKeyDictionary()

    def enter(self, module: nn.Module) -> None:
        """Hear that a module runs which is none of the model's."""
        for x in module.parameters(recurse=False):
            if type(x) is nn.Parameter:  # `functional_call` puts tensors of any kind in their place
                self._held[x] = True

    def note(
        self, given: list[Tensor], summed: Container[int], registered: Container[int], facts: Facts
    ) -> None:
        """Count the entries of such weights among the arguments of an operation.

        Args:
            summed: the arguments (by id) that may be weights though they are no `nn.Parameter`.
            registered: the model's parameters, by id.
            facts: those of what the operation made.
        """
        for x in given:
            if not (x.is_leaf and x.requires_grad) or id(x) in registered:
                continue
            if not torch.is_grad_enabled() or torch._C._functorch.is_functorch_wrapped_tensor(x):
                continue
            if not (type(x) is nn.Parameter or id(x) in summed):
                continue
            if x not in self._held:
                self._held[x] = any(x is y for y in _kept(self._model))
            if self._held[x]:
                self._noted.setdefault(x, []).append(facts)
                facts.unregistered += x.numel()

    def forgive(self, optimized: Iterable[Tensor]) -> None:
        """Take back what was noted of weights that an optimizer has, now and later."""
        for x in optimized:
            for facts in self._noted.pop(x, ()):
                facts.unregistered -= x.numel()
                self._held[x] = False


def _kept(model: nn.Module) -> Iterator[Tensor]:
    """The tensors that a model holds otherwise than as parameters and buffers."""
    waiting: list[Any] = [
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if name not in _REGISTERED
    ]
    seen = set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, nn.Module):
            yield from value.parameters()
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
