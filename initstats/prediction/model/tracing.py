"""Follows what theory knows through the operations of a model, beside the probe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import proxy

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from initstats.prediction.model.laws import Laws
from initstats.prediction.model.rules import Rules
from initstats.prediction.model.signals import Given, Signal, State, Unknown, Weight
from initstats.prediction.model.tables import Draws, Table
from initstats.probe.batch import called, unmoved
from initstats.probe.operations import Operation, tensors
from initstats.probe.origins import Call
from initstats.probe.probe import Probe
from initstats.probe.recording import Recorder
from initstats.probe.slots import Address, Slot


class Tracer(Recorder):
    """A recorder that follows states, too.

    Attributes:
        found: the state of each measured value, in order of execution.
        draws: makes columns.
        rules: find the state of what operations make.
        ends: what the model returned.
    """

    def __init__(self, probe: Probe, laws: Laws) -> None:
        super().__init__(probe)
        self.found: list[tuple[Slot, State]] = []
        self._left: list[tuple[Table, str, Any]] = []
        self.draws = Draws()
        self.rules = Rules(self.draws, laws)
        self.ends: list[tuple[Tensor, State]] = []
        self._states: Any = WeakIdKeyDictionary()
        self._slots: list[tuple[Tensor, Slot]] = []
        self._cut: Any = WeakIdKeyDictionary()

    def observe(
        self, call: Call, operation: Operation, outputs: list[Tensor], writes: bool
    ) -> None:
        """Follow an operation whose outputs may hold a signal."""
        self._slots.clear()
        try:
            super().observe(call, operation, outputs, writes)
        finally:  # what was written to is not what it was, also where measuring it fails
            self._follow_states(operation, outputs, writes)
        for x, slot in self._slots:
            self.found.append((slot, self.state_of(x)))

    def observe_mask(self, call: Call, operation: Operation, out: Tensor) -> None:
        """Follow an operation whose output is no signal."""
        super().observe_mask(call, operation, out)
        kinds = [self.state_of(x) for x in operation.read]
        if any(not isinstance(state, Given) for state in kinds):
            self._states[out] = Unknown(f"{operation.name}: it depends on weights")

    def observe_result(self, call: Call, given: Any, result: Any) -> None:
        """Keep what a module returns: that of the last one is the model's."""
        self._slots.clear()
        super().observe_result(call, given, result)
        for x in tensors(result):
            self._mind_own_ways(x)
        for x, slot in self._slots:
            self._states[x] = Unknown("it is made out of sight")
            self.found.append((slot, self._states[x]))
        self.ends = [(x, self.state_of(x)) for x in tensors(result) if x.is_floating_point()]

    def state_of(self, x: Tensor) -> State:
        """What is known of a tensor."""
        if x in self._states:
            state: State = self._states[x]
            return state
        if id(x) in self.parameters:
            name, parameter = self.parameters[id(x)]
            return Weight(parameter.detach(), name, tuple(parameter.shape))
        if x in self._origins and self._origins[x].kind != "constant" and self._origins[x].layers:
            if self._origins[x].layers == (0,) or self._from_outside(x):
                return Given(x.detach().cpu())
            return Unknown("what made it was not seen")
        return Given(x.detach().cpu())

    def _from_outside(self, x: Tensor) -> bool:
        return x in self._outside

    def _measure(
        self, address: Address, x: Tensor, layers: tuple[int, ...], axis: int | None
    ) -> Slot | None:
        slot = super()._measure(address, x, layers, axis)
        if slot is not None and slot.is_value:
            self._slots.append((x, slot))
        return slot

    def _follow_states(self, operation: Operation, outputs: list[Tensor], writes: bool) -> None:
        if operation.name in ("setitem", "copy_") or operation.kwargs.get("out") is not None:
            found: list[State] = [Unknown(f"{operation.name}: it writes to a tensor")]
            if all(isinstance(self.state_of(x), Given) for x in operation.read):
                found = [Given(outputs[0].detach().cpu())]
            found *= len(outputs)
        else:
            found = self.rules.follow(operation, outputs, self.state_of)
        for x in operation.read:
            self._mind_own_ways(x)
        why = [state.reason for state in found if isinstance(state, Unknown)]
        nodes = [x.grad_fn for x in outputs if x.grad_fn is not None]
        for state in map(self.state_of, operation.read) if why and nodes else ():
            if isinstance(state, Signal):
                self._left.append((state.table, why[0], nodes[0]))
        if writes:
            self._forget_views(outputs)
        for x, state in zip(outputs, found, strict=True):
            self._states[x] = state
            if isinstance(state, Signal) and not x.requires_grad:
                self._states[x] = state.cut
                self._cut[x] = state.table

    @property
    def lost(self) -> Iterator[tuple[Table, str]]:
        """Tables to which gradients come back that are not known, and why they are not."""
        waiting, seen = [x.grad_fn for x, _ in self.ends], set[Any]()
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [source for source, _ in node.next_functions]
        for table, why, node in self._left:
            if node in seen:
                yield table, why

    def _mind_own_ways(self, x: Tensor) -> None:
        """A gradient comes back on a way of its own to what was made while gradients were off."""
        if x in self._cut and x.requires_grad:
            why = "a gradient comes back to it on a way that is not seen"
            self._left.append((self._cut.pop(x), why, x.grad_fn))

    def _forget_views(self, outputs: list[Tensor]) -> None:
        """What shares memory with a tensor that was written to is no longer known."""
        written = {x.untyped_storage().data_ptr() for x in outputs}
        for x in list(self._states):
            before = self._states[x]
            known = isinstance(before, Signal)
            if known and x.untyped_storage().data_ptr() in written:
                self._states[x] = Unknown("another tensor with the same memory was written to")


@dataclass(eq=False, repr=False)
class Tracing(Probe):
    """A probe that follows states, too."""

    laws: Laws | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tracer = Tracer(proxy(self), self.laws or Laws())
        self._recorder = self.tracer

    def follow(self, inputs: Any) -> Tracer:
        """Run one batch forward, and leave the model as it was."""
        self.tracer.watching = False  # a single pass
        with unmoved(self.model) as writing, torch.enable_grad(), self as probe:
            assert probe._watch is not None
            probe._watch.writing = writing
            called(self.model, inputs)
        return self.tracer
