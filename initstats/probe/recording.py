"""Follows the signal through the operations of a model, and measures every value on its way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.gradients import Gradients
from initstats.probe.kinds import CASTS, FUSED, REARRANGING
from initstats.probe.operations import (
    axis_after,
    is_maker,
    keeps_distribution,
    moved_axis,
    tensors,
    unmeasurable,
    weight_axis,
)
from initstats.probe.slots import Key, Slot


@dataclass(frozen=True)
class Options:
    """What a probe was asked to do; see `Probe`."""

    backward: bool
    weights: bool
    every: int
    selected: Callable[[str], bool]
    axis_of: Callable[[str], int | None]


@dataclass
class Place:
    """A module's call in progress, and how often each operation came in it."""

    module: nn.Module
    name: str
    call: int
    turns: Counter[str] = field(default_factory=Counter)


class Trace(NamedTuple):
    """What is known of a tensor.

    Attributes:
        kind: `signal` where the input reaches it, `weight` where only parameters do, `constant`
            where neither does.
        layers: the measured values that it holds or, if it was not measured, was made of.
        axis: of its units; None: the last.
        parameters: (by id) whose entries it holds, rearranged.
        pending: where its gradient belongs, once autograd knows it.
    """

    kind: Literal["signal", "weight", "constant"]
    layers: tuple[int, ...] = ()
    axis: int | None = None
    parameters: tuple[int, ...] = ()
    pending: Slot | None = None


class Miss(NamedTuple):
    """Something that was not measured, and why."""

    kind: str
    name: str
    op: str
    reason: str


class Recorder:
    """The values of a model by the operations that made them, with their statistics.

    Attributes:
        slots: every value that was measured, in order of execution.
        misses: what was seen but could not be measured.
        step: how many updates of the weights came before the present pass.
        measuring: whether the present step is measured.
    """

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.model, self.options = model, options
        self.slots: dict[Key, Slot] = {}
        self.misses: dict[Miss, None] = {}  # an ordered set
        self.step, self.measuring = 0, True
        self.gradients = Gradients()
        self._layers = 0
        self._parameters: dict[int, tuple[str, nn.Parameter]] = {}
        self._weights: dict[int, Slot] = {}
        self._used: set[int] = set()
        self._version = -1
        self._traces: Any = WeakIdKeyDictionary()
        self._outside: Any = WeakIdKeyDictionary()

    def begin_pass(self) -> None:
        """A forward pass begins; and a step, where the weights changed since the last one."""
        self.name_parameters()
        parameters = [parameter for _, parameter in self._parameters.values()]
        version = sum(0 if p.is_inference() else p._version for p in parameters)
        if self._version not in (-1, version):
            for slot in self.slots.values():
                slot.close(self.step)
            self.step += 1
        self._version = version
        self.measuring = self.step % self.options.every == 0
        self.gradients.forget_dead()
        for x in list(self._outside):  # what comes from outside is measured at every pass
            self._traces.pop(x, None)
        self._outside.clear()
        for buffer in self.model.buffers():
            self._traces[buffer] = Trace("constant")
        for parameter in parameters:
            key = id(parameter)
            self._traces[parameter] = Trace("weight", axis=0, parameters=(key,))
            if self.options.backward and parameter.requires_grad:
                self.gradients.watch(parameter, partial(self.take_weight_gradient, key))

    def take_weight_gradient(self, key: int, gradient: Tensor) -> None:
        """Measure the gradient of a parameter (by id) that this step's passes used."""
        if self.measuring and key in self._weights:
            self._take_gradient(self._weights[key], gradient)

    def name_parameters(self) -> None:
        """Find the model's parameters, which lazy modules may have made only now."""
        named = self.model.named_parameters()
        self._parameters = {id(p): (bare(name), p) for name, p in named}

    def unused(self, beside: set[int]) -> Iterator[str]:
        """Parameters that no operation used, beside some (by id)."""
        known = self._used | beside
        return (name for key, (name, _) in self._parameters.items() if key not in known)

    def uses(self, module: nn.Module) -> bool:
        """Whether a module has parameters of its own, and operations used all of them."""
        own = {id(parameter) for parameter in module.parameters(recurse=False)}
        return bool(own) and own <= self._used

    def observe(
        self, place: Place, op: str, outputs: list[Tensor], given: list[Tensor], writes: bool
    ) -> None:
        """An operation made, or wrote to, tensors of floats.

        Args:
            place: the module that runs it.
            op: its name.
            outputs: what it made.
            given: the tensors among its arguments.
            writes: whether the outputs are arguments that it wrote to.
        """
        if writes and any(id(x) in self._parameters for x in outputs):
            return  # the next operation that uses the parameter measures it
        traces = [self._trace(place, op, x) for x in given]
        kinds = {trace.kind for trace in traces}
        indexed = any(not (x.is_floating_point() or x.is_complex()) for x in given)
        leading = "signal" if "signal" in kinds else "weight"
        if leading not in kinds or is_maker(op):
            self._set_constant(place, op, outputs)
            return
        source, trace = next(
            pair for pair in zip(given, traces, strict=True) if pair[1].kind == leading
        )
        made = []
        for x in outputs:
            if not writes and keeps_distribution(op, x, source):
                self._traces[x] = trace._replace(axis=moved_axis(trace.axis, x, source))
            else:
                made.append(x)
        if not made:
            return
        derived = leading == "weight" and not indexed
        tensor = "weight" if derived else "preactivation" if "weight" in kinds else "activation"
        layers = tuple(dict.fromkeys(layer for t in traces for layer in t.layers))
        turn, place.turns[op] = place.turns[op], place.turns[op] + 1
        for output, x in enumerate(made):
            axis = axis_after(op, x, source, trace.axis)
            self._measure(place, op, tensor, (turn, output), x, layers, axis)
        self._measure_weights(place, op, given, traces, self._traces[made[0]].layers)
        if op in FUSED:
            self._miss("tensor", place.name, op, FUSED[op])

    def observe_result(self, place: Place, given: Any, result: Any) -> None:
        """A module ends: what it hands on without anybody having seen it made was made unseen."""
        passed = {id(x) for x in tensors(given)}
        for x in tensors(result):
            if not x.is_floating_point() or id(x) in passed:
                continue
            if x in self._traces:
                self._follow(x)
            else:
                reason = "its operations run out of sight (scripted or foreign code)"
                self._miss("module", place.name, "", reason)
                turn, place.turns["output"] = place.turns["output"], place.turns["output"] + 1
                self._measure(place, "output", "activation", (turn, 0), x, (), None)

    def _set_constant(self, place: Place, op: str, outputs: list[Tensor]) -> None:
        for x in outputs:
            self._traces[x] = Trace("constant")
            if x.numel() and op not in REARRANGING | CASTS:
                reason = "a constant: neither input nor weights reach it"
                self._miss("tensor", place.name, op, reason)

    def _trace(self, place: Place, op: str, x: Tensor) -> Trace:
        """What is known of an argument. One that comes from outside is measured now."""
        if x not in self._traces:
            if not x.is_floating_point():
                return Trace("constant")
            turn, place.turns["input"] = place.turns["input"], place.turns["input"] + 1
            axis = axis_after(op, x, None, None)
            self._outside[x] = True
            self._measure(place, "input", "activation", (turn, 0), x, (), axis)
        return self._follow(x)

    def _follow(self, x: Tensor) -> Trace:
        """The trace of a tensor; by now autograd may know it (a custom function's output)."""
        trace: Trace = self._traces[x]
        if trace.pending is not None and x.requires_grad:
            self._watch_gradient(x, trace.pending)
            trace = trace._replace(pending=None)
            self._traces[x] = trace
        return trace

    def _measure(
        self,
        place: Place,
        op: str,
        tensor: str,
        which: tuple[int, int],
        x: Tensor,
        layers: tuple[int, ...],
        axis: int | None,
    ) -> None:
        """Take a value, and remember the tensor as holding it."""
        kind: Literal["signal", "weight"] = "weight" if tensor == "weight" else "signal"
        reason = unmeasurable(x) if self.options.selected(place.name) else "excluded"
        if reason:
            self._miss("tensor", place.name, op, reason)
            self._traces[x] = Trace(kind, layers, axis)
            return
        axis = self._chosen_axis(place.name, x, axis)
        key = Key(place.name, op, tensor, place.call, *which, x.shape[axis] if x.ndim else 1)
        slot = self._slot(key, 0 if op == "input" else None, layers, x, axis)
        slot.add("forward", x)
        pending = None
        if self.options.backward and x.requires_grad:
            self._watch_gradient(x, slot)
        elif self.options.backward:
            pending = slot
            slot.detached |= not torch.is_grad_enabled()
        self._traces[x] = Trace(kind, (slot.layer,), axis, pending=pending)

    def _measure_weights(
        self, place: Place, op: str, given: list[Tensor], traces: list[Trace], made: tuple[int, ...]
    ) -> None:
        """The parameters that an operation uses, once a step; under the layer that it made."""
        self._used.update(key for trace in traces for key in trace.parameters)
        if not (self.options.weights and made and self.options.selected(place.name)):
            return
        for operand, trace in zip(given, traces, strict=True):
            for key in trace.parameters:
                name, parameter = self._parameters[key]
                if key not in self._weights:
                    axis = weight_axis(op, parameter, operand, trace.axis)
                    units = parameter.shape[axis] if parameter.ndim else 1
                    place_in_table = Key(name, op, "weight", 1, 0, 0, units)
                    slot = self._slot(place_in_table, made[0], (), parameter, axis)
                    self._weights[key] = slot
                if not self._weights[key].holds("forward"):
                    self._weights[key].add("forward", parameter)

    def _slot(
        self, key: Key, layer: int | None, layers: tuple[int, ...], x: Tensor, axis: int
    ) -> Slot:
        if key not in self.slots:
            if layer is None:
                layer = self._layers = self._layers + 1
            self.slots[key] = Slot(key, layer, layers, tuple(x.shape), x.dtype, axis)
        return self.slots[key]

    def _watch_gradient(self, x: Tensor, slot: Slot) -> None:
        slot.attached = True
        self.gradients.watch(x, partial(self._take_gradient, slot))

    def _take_gradient(self, slot: Slot, gradient: Tensor) -> None:
        if not unmeasurable(gradient):
            slot.add("backward", gradient)

    def _chosen_axis(self, name: str, x: Tensor, axis: int | None) -> int:
        """The dimension of the units, counted from the front."""
        if x.ndim == 0:
            return 0
        chosen = self.options.axis_of(name)
        axis = axis if chosen is None else chosen
        return x.ndim - 1 if axis is None or not -x.ndim <= axis < x.ndim else axis % x.ndim

    def _miss(self, *what: str) -> None:
        self.misses[Miss(*what)] = None


def bare(name: str) -> str:
    """A qualified name as it was before `torch.compile` wrapped the module."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
