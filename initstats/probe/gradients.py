"""Hooks for gradients that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Take = Callable[[Tensor], None]


class Gradients:
    """Has gradients taken during backward, until it is closed.

    The hooks are on autograd's nodes: a node stands for a value at one time, so that operations in
    place change nothing, and tensors stay as they are. Only leaves have no node of their own.
    """

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._leaves: Any = WeakIdKeyDictionary()

    def watch(self, x: Tensor, take: Take) -> None:
        """Give the gradient of the loss with respect to x, as it is now, to `take`.

        A leaf stays what it is, so it is hooked once.
        """
        if x.grad_fn is not None:
            self._nodes.append(x.grad_fn.register_prehook(partial(_take_one, take, x.output_nr)))
        elif x not in self._leaves:
            had_none = x._backward_hooks is None
            self._leaves[x] = x.register_hook(take), had_none  # type: ignore[no-untyped-call]

    def forget_dead(self) -> None:
        """Let go of hooks whose graph is gone."""
        self._nodes = [handle for handle in self._nodes if handle.hooks_dict_ref() is not None]

    def close(self) -> None:
        """Remove all hooks, and the empty dictionary that torch leaves on a leaf."""
        for handle in self._nodes:
            handle.remove()
        for x, (handle, had_none) in self._leaves.items():
            handle.remove()
            if had_none and not x._backward_hooks:
                x._backward_hooks = None
        self._nodes, self._leaves = [], WeakIdKeyDictionary()


def _take_one(take: Take, number: int, gradients: tuple[Tensor | None, ...]) -> None:
    if (gradient := gradients[number]) is not None:
        take(gradient)
