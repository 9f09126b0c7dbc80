"""Gradients as autograd and optimizers see them, taken by hooks that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import proxy

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.misses import Guard
from initstats.probe.operations import unmeasurable

if TYPE_CHECKING:
    from initstats.probe.passes import Passes

Take = Callable[[Tensor], None]


class Gradients:
    """Has gradients taken during backward, until it is closed.

    The hooks are on autograd's nodes: a node stands for a value at one time, so that operations in
    place change nothing, and tensors stay as they are. Only leaves have no node of their own.

    Args:
        guard: makes a block whose errors do not reach autograd.
    """

    def __init__(self, guard: Callable[[], Guard]) -> None:
        self._guard = guard
        self._nodes: list[Any] = []
        self._leaves: Any = WeakIdKeyDictionary()
        self._sums: Any = WeakIdKeyDictionary()

    def watch(self, x: Tensor, take: Take) -> None:
        """Give the gradient of the loss with respect to x, as it is now, to `take`.

        A leaf stays what it is, so it is hooked once. Its gradient comes in one part for each time
        that autograd arrives there.
        """
        if x.grad_fn is not None:
            hook = partial(self._take_one, take, x.output_nr)
            self._nodes.append(x.grad_fn.register_prehook(hook))
        elif x not in self._leaves:
            self._leaves[x] = x.register_hook(partial(self._take, take))  # type: ignore[no-untyped-call]

    def watch_sum(self, x: Tensor, take: Take) -> None:
        """Give a leaf to `take` each time that something was added to its `grad`."""
        if x.grad_fn is None and x not in self._sums:
            hook = partial(self._take, take)
            self._sums[x] = x.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def forget_dead(self) -> None:
        """Let go of hooks whose graph is gone."""
        self._nodes = [handle for handle in self._nodes if handle.hooks_dict_ref() is not None]

    def close(self) -> None:
        """Remove all hooks, and the empty dictionaries that torch leaves on a leaf."""
        for handle in self._nodes:
            handle.remove()
        for leaves, name in (
            (self._leaves, "_backward_hooks"),
            (self._sums, "_post_accumulate_grad_hooks"),
        ):
            for x, handle in leaves.items():
                handle.remove()
                if not getattr(x, name):
                    setattr(x, name, None)
            leaves.clear()
        self._nodes = []

    def _take(self, take: Take, gradient: Tensor) -> None:
        with self._guard():
            take(gradient)

    def _take_one(self, take: Take, number: int, gradients: tuple[Tensor | None, ...]) -> None:
        with self._guard():
            if (gradient := gradients[number]) is not None:
                take(gradient)


class WeightGradients:
    """Gradients of weights as the optimizer gets them: whole, summed, reduced and unscaled.

    They are read from `grad` when an optimizer of torch steps. Until one has stepped, and wherever
    none does, they are read each time that backward has added to them, and the last reading counts.

    Args:
        recorder: takes the gradients, and hears of the steps.
    """

    def __init__(self, recorder: Passes) -> None:
        self._recorder: Passes = proxy(recorder)  # which holds this
        self._optimized: Any = WeakIdKeyDictionary()
        self._unread: Any = WeakIdKeyDictionary()
        self._hooks = ExitStack()

    def open(self) -> None:
        """Watch all optimizers."""
        if self._recorder.probe.backward:
            self._hooks.callback(register_optimizer_step_pre_hook(self._before_step).remove)
        self._hooks.callback(register_optimizer_step_post_hook(self._after_step).remove)

    def close(self) -> None:
        """Watch them no longer."""
        self._hooks.close()

    def add(self, parameter: Tensor, gradient: Tensor) -> None:
        """Measure a gradient of a parameter that goes to no `grad`, beside those before."""
        if self._recorder.capturing or not parameter.is_leaf:
            self._measure(parameter, gradient, self._recorder.scale, whole=False)

    def arrive(self, parameter: Tensor) -> None:
        """Hear that backward has added to a parameter's `grad`."""
        if self._recorder.weight(parameter)[0] is not None:
            self._unread[parameter] = self._recorder.scale
            if parameter not in self._optimized:
                self.settle([parameter])

    def settle(self, parameters: list[Tensor] | None = None) -> None:
        """Read the gradients that have arrived, of some parameters or of all."""
        for parameter in list(self._unread) if parameters is None else parameters:
            scale = self._unread.pop(parameter, None)
            if scale is not None and parameter.grad is not None:
                self._measure(parameter, parameter.grad, scale, whole=True)

    def _measure(self, parameter: Tensor, gradient: Tensor, scale: float, *, whole: bool) -> None:
        """Measure the gradient of a parameter.

        Args:
            scale: the factor by which the gradient is too large.
            whole: whether it takes the place of what came before.
        """
        slot, mode = self._recorder.weight(parameter)
        if slot is None:
            return
        miss = "gradient", slot.address.name, slot.address.op
        with self._recorder.guarded(*miss):
            sparse = gradient.layout in (torch.sparse_coo, torch.sparse_csr)
            if reason := "" if sparse else unmeasurable(gradient):
                self._recorder.miss(*miss, reason)
            else:
                take = slot.put if whole else slot.add
                take("backward", reduced(gradient, scale), mode)

    def _before_step(self, optimizer: Optimizer, _: Any, __: Any) -> None:
        with self._recorder.guarded("gradient", type(optimizer).__name__, "step"):
            scale = getattr(optimizer, "grad_scale", None)  # one that unscales while it steps
            for parameter in self._stepping(optimizer):
                self._optimized[parameter] = True
                self._unread[parameter] = 1.0 if scale is None else float(scale)
                self.settle([parameter])

    def _after_step(self, optimizer: Optimizer, _: Any, __: Any) -> None:
        with self._recorder.guarded("gradient", type(optimizer).__name__, "step"):
            parameters = self._stepping(optimizer)
            self._recorder.hidden.forgive(x for g in optimizer.param_groups for x in g["params"])
            self.settle([x for x in parameters if x in self._unread])  # a closure made them
            skipped = getattr(optimizer, "found_inf", None)
            if parameters and not (skipped is not None and float(skipped)):
                self._recorder.updates.tell()

    def _stepping(self, optimizer: Optimizer) -> list[Tensor]:
        """The model's parameters that an optimizer updates."""
        every = [x for group in optimizer.param_groups for x in group["params"]]
        return [x for x in every if x.grad is not None and id(x) in self._recorder.parameters]


def scaled_by(function: Callable[..., Any], frame: Any) -> bool:
    """Whether a multiplication is that of a loss by a `GradScaler`.

    Args:
        function: the operation.
        frame: that in which it was called, behind those of other modes.
    """
    if getattr(function, "__name__", "") not in ("mul", "__mul__"):
        return False
    for _ in range(8):
        if frame is None or frame.f_code in _SCALING:
            break
        frame = frame.f_back
    return frame is not None and frame.f_code in _SCALING


_SCALE = torch.amp.GradScaler.scale.__code__
_SCALING = {_SCALE, *(code for code in _SCALE.co_consts if isinstance(code, type(_SCALE)))}


def reduced(gradient: Tensor, factor: float) -> Tensor:
    """A gradient that is too large by a factor, without it; not in half precision."""
    if factor == 1:
        return gradient
    return (gradient if gradient.dtype == torch.float64 else gradient.float()) / factor


def at_the_end(function: Callable[[], None]) -> None:
    """Call a function at the end of the backward that is in progress."""
    torch.autograd.Variable._execution_engine.queue_callback(function)
