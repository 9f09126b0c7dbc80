"""Sees the operations of a model's forward passes, and which module runs them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch._ops import HigherOrderOperator
from torch.nn.parameter import is_lazy

from initstats.probe.eager import is_compiled_by_torch
from initstats.probe.gradients import scaled_by
from initstats.probe.losses import is_loss
from initstats.probe.operations import Opening, Operation, called, carries, tensors
from initstats.probe.origins import Call
from initstats.probe.recording import Recorder

EXPOSING = frozenset(("set", "numpy", "array", "data_ptr", "untyped_storage", "dlpack"))
"""Calls after which code of any kind may write to the memory of their first argument."""


class Watch(Opening):
    """Hands every operation that the modules of a model run to its recorder.

    Nothing is put on the model: operations are seen by torch's function mode, modules by its global
    hooks. Only the thread that makes it is watched.

    Args:
        names: the qualified names of the modules, by id.

    Attributes:
        entered: the modules (by id) whose calls were seen.
        apart: why some calls of modules (by id) were not followed.
        failure: the error that an operation raised, if one did, and the place.
        writing: called, if given, with what an operation is about to write to.
    """

    def __init__(self, names: Mapping[int, str], recorder: Recorder) -> None:
        super().__init__()
        self.entered: set[int] = set()
        self.apart: dict[int, str] = {}
        self.failure: tuple[Exception, str] | None = None
        self.writing: Callable[[Any], None] | None = None
        self._recorder = recorder
        self._names = names
        self._thread = get_ident()
        self._running: list[Call] = []
        self._counts: Counter[int] = Counter()

    def enter_module(self, module: nn.Module, _: Any) -> None:
        """A global forward pre-hook."""
        if torch.compiler.is_dynamo_compiling():
            return
        name = self._names.get(id(module))
        if name is not None and get_ident() != self._thread:
            self.apart[id(module)] = "not counted: its calls in other threads"
        elif name is not None and torch._C._get_tracing_state() is not None:
            self.apart[id(module)] = "not counted: its calls while torch.jit traced it"
        if self._elsewhere():
            return
        if name is None and self._running:
            name = self._recorder.meet(module, self._running[-1].module)
            if name is None:
                self._recorder.hidden.enter(module)
        if name is None:
            return
        self.entered.add(id(module))
        if not self._running:
            self._counts.clear()
            with self._recorder.guarded("module", name, ""), torch._C.DisableTorchFunction():
                self._recorder.begin_pass(module)
        self._counts[id(module)] += 1
        self._running.append(Call(module, name, self._counts[id(module)]))

    def leave_module(self, module: nn.Module, given: Any, result: Any) -> None:
        """A global forward hook, called after an error too."""
        if torch.compiler.is_dynamo_compiling():
            return
        if self._elsewhere() or not self._running or self._running[-1].module is not module:
            return
        call = self._running.pop()
        with self._recorder.guarded("module", call.name, ""), torch._C.DisableTorchFunction():
            if self._recorder.measuring:
                self._recorder.observe_result(call, given, result)
        if not self._running:
            with self._recorder.guarded("module", call.name, ""), torch._C.DisableTorchFunction():
                self._recorder.end_pass()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and have what it made recorded."""
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():  # what is compiled calls this again when it runs
            return func(*args, **kwargs)
        if not self._running or not self._recorder.measuring or self._elsewhere():
            return self._run_outside(func, args, kwargs)
        if is_compiled_by_torch() and not isinstance(func, HigherOrderOperator):
            return func(*args, **kwargs)  # what the compiler does, not the model
        if self.opens(func):
            return self.inside(func, args, kwargs)
        with torch._C.DisableTorchFunction():
            operation = called(func, args, kwargs)
        with self._recorder.guarded("tensor", self._running[-1].name, operation.name):
            self._before_writing(operation)
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            self.failure = error, f"{operation.name} of {self._running[-1].name}"
            raise
        guard = self._recorder.guarded("tensor", self._running[-1].name, operation.name, result)
        with torch._C.DisableTorchFunction(), guard:
            self._record(operation, result)
        return result

    def _before_writing(self, operation: Operation) -> None:
        target, name = operation.written, operation.name
        if target is None and (name in EXPOSING or name.endswith("_")):
            target = operation.args[:1] or [*operation.kwargs.values()]
        if target is None:
            return
        with torch._C.DisableTorchFunction():
            if self.writing is not None:
                self.writing(target)
            if not any(is_lazy(x) for x in operation.tensors):
                self._recorder.foresee(self._running[-1], operation, target)

    def _run_outside(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run an operation between the passes, or one in a pass that is not measured."""
        if self._running or self._elsewhere():
            return func(*args, **kwargs)
        if func is torch.autograd.grad:
            with self._recorder.captured():
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if is_loss(func) and self._recorder.measuring:
            with self._recorder.guarded("tensor", "", "loss"), torch._C.DisableTorchFunction():
                self._recorder.observe_loss(called(func, args, kwargs))
        if scaled_by(func, sys._getframe(2)):
            with self._recorder.guarded("gradient", "", "mul"), torch._C.DisableTorchFunction():
                begin = partial(self._recorder.begin_backward, float(args[1]))
                self._recorder.gradients.watch(result, begin)
        return result

    def _record(self, operation: Operation, result: Any) -> None:
        target = operation.written
        made = list(tensors(result if target is None else target))
        if not made or any(is_lazy(x) for x in operation.tensors):
            return  # a lazy module finds its shape
        if outputs := [x for x in made if carries(x)]:
            self._recorder.observe(self._running[-1], operation, outputs, target is not None)
        else:
            self._recorder.observe_mask(self._running[-1], operation, made[0])

    def _elsewhere(self) -> bool:
        """Whether this is not a forward pass of the thread that is watched.

        Autograd has a task during backward: what runs then is the recomputation of a checkpoint,
        or the backward of a custom function. While `torch.jit.trace` runs a model, all that is done
        becomes part of the trace.
        """
        return (
            get_ident() != self._thread
            or torch._C._current_graph_task_id() != -1
            or torch._C._get_tracing_state() is not None
        )
