"""Sees the operations of a model's forward passes, and which module runs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from threading import get_ident
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from initstats.probe.operations import Operation, body, name_of, tensors
from initstats.probe.origins import Call
from initstats.probe.recording import Recorder


class Watch(TorchFunctionMode):
    """Hands every operation that the modules of a model run to its recorder.

    Nothing is put on the model: operations are seen by torch's function mode, modules by its global
    hooks. Only the thread that makes it is watched.

    Args:
        names: the qualified names of the modules, by id.

    Attributes:
        entered: the modules (by id) whose calls were seen.
        failure: the error that an operation raised, if one did, and the place.
    """

    def __init__(self, names: Mapping[int, str], recorder: Recorder) -> None:
        super().__init__()
        self.entered: set[int] = set()
        self.failure: tuple[Exception, str] | None = None
        self._recorder = recorder
        self._names = names
        self._thread = get_ident()
        self._running: list[Call] = []
        self._counts: Counter[int] = Counter()
        self._inside: list[FunctionType] = []

    def enter_module(self, module: nn.Module, _: Any) -> None:
        """A global forward pre-hook."""
        name = self._names.get(id(module))
        if name is None or self._elsewhere():
            return
        self.entered.add(id(module))
        if not self._running:
            self._counts.clear()
            with torch._C.DisableTorchFunction():
                self._recorder.begin_pass()
        self._counts[id(module)] += 1
        self._running.append(Call(module, name, self._counts[id(module)]))

    def leave_module(self, module: nn.Module, given: Any, result: Any) -> None:
        """A global forward hook, called after an error too."""
        if self._elsewhere() or not self._running or self._running[-1].module is not module:
            return
        call = self._running.pop()
        if self._recorder.measuring:
            with torch._C.DisableTorchFunction():
                self._recorder.observe_result(call, given, result)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and have what it made recorded."""
        kwargs = kwargs or {}
        if not self._running or not self._recorder.measuring or self._elsewhere():
            return func(*args, **kwargs)
        if isinstance(func, FunctionType) and func not in self._inside:
            self._inside.append(func)
            try:
                with self:
                    return body(func)(*args, **kwargs)
            finally:
                self._inside.pop()
        operation = Operation(func, name_of(func), args, kwargs)
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            self.failure = error, f"{operation.name} of {self._running[-1].name}"
            raise
        with torch._C.DisableTorchFunction():
            self._record(operation, result)
        return result

    def _record(self, operation: Operation, result: Any) -> None:
        target = operation.written
        made = list(tensors(result if target is None else target))
        if not made or any(is_lazy(x) for x in operation.tensors):
            return  # a lazy module finds its shape
        if outputs := [x for x in made if x.is_floating_point() or x.is_complex()]:
            self._recorder.observe(self._running[-1], operation, outputs, target is not None)
        else:
            self._recorder.observe_mask(operation, made[0])

    def _elsewhere(self) -> bool:
        """Whether this is not a forward pass of the thread that is watched.

        Autograd has a task during backward: what runs then is the recomputation of a checkpoint,
        or the backward of a custom function.
        """
        return get_ident() != self._thread or torch._C._current_graph_task_id() != -1
