"""Hooks for gradients that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

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
        self._leaves: list[Callable[[], None]] = []
        self._hooked: Any = WeakIdKeyDictionary()

    def watch(self, x: Tensor, take: Take) -> None:
        """Give the gradient of the loss with respect to x, as it is now, to `take`.

        A leaf stays what it is, so it is hooked once.
        """
        if x in self._hooked:
            return
        if x.grad_fn is None:
            self._hooked[x] = True
            self._leaves.append(_hook_leaf(x, take))
        else:
            self._nodes.append(x.grad_fn.register_prehook(partial(_take_one, take, x.output_nr)))

    def forget_dead(self) -> None:
        """Let go of hooks whose graph is gone."""
        self._nodes = [handle for handle in self._nodes if handle.hooks_dict_ref() is not None]

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self._nodes:
            handle.remove()
        for remove in self._leaves:
            remove()
        self._nodes, self._leaves = [], []


def _take_one(take: Take, number: int, gradients: tuple[Tensor | None, ...]) -> None:
    if (gradient := gradients[number]) is not None:
        take(gradient)


def _hook_leaf(x: Tensor, take: Take) -> Callable[[], None]:
    """Hook a leaf; returns how to undo it, also of the empty dictionary that torch leaves."""
    untouched = x._backward_hooks is None
    handle: Any = x.register_hook(take)  # type: ignore[no-untyped-call]
    leaf = ref(x)

    def undo() -> None:
        handle.remove()
        tensor = leaf()
        if untouched and tensor is not None and not tensor._backward_hooks:
            tensor._backward_hooks = None

    return undo
