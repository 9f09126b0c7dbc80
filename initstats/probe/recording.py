"""Follows the signal through the operations of a model, and measures every value on its way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.gradients import Gradients, WeightGradients, at_the_end, reduced
from initstats.probe.kinds import CASTS, FUSED, REARRANGING
from initstats.probe.misses import Guard, Miss
from initstats.probe.operations import (
    axis_after,
    is_maker,
    keeps_distribution,
    moved_axis,
    tensors,
    unmeasurable,
    weight_axis,
)
from initstats.probe.ranks import distributed, gather, ranks
from initstats.probe.slots import Address, Mode, Slot
from initstats.probe.updates import Updates

if TYPE_CHECKING:
    from initstats.probe.probe import Probe


@dataclass
class Call:
    """A call of a module that is in progress.

    Attributes:
        name: the module's qualified name.
        number: which call of the module within the pass it is, from 1.
        turns: how often each operation ran in it so far.
    """

    module: nn.Module
    name: str
    number: int
    turns: Counter[str] = field(default_factory=Counter)

    def address(self, op: str, tensor: str = "activation") -> Address:
        """The address of an operation's first output, at the next turn of the operation."""
        self.turns[op] += 1
        return Address(self.name, op, tensor, self.number, self.turns[op] - 1)


class Origin(NamedTuple):
    """Where the entries of a tensor come from.

    Attributes:
        kind: `signal` where the input reaches it, `weight` where only parameters do, `constant`
            where neither does.
        layers: the measured values that it holds or, if it was not measured, was made of.
        axis: dimension of its units; None: the last.
        parameters: ids of the parameters whose entries it holds, rearranged.
        pending: the slot of its gradient, until autograd knows the tensor.
    """

    kind: Literal["signal", "weight", "constant"]
    layers: tuple[int, ...] = ()
    axis: int | None = None
    parameters: tuple[int, ...] = ()
    pending: Slot | None = None


class Recorder:
    """The values of a model by the operations that made them, with their statistics.

    Args:
        probe: the model, and what is to be measured.

    Attributes:
        slots: every value that was measured, in order of execution.
        misses: what was seen but could not be measured.
        parameters: the model's, by id, with their names.
        used: the parameters (by id) that operations used.
        updates: counts the steps.
        measuring: whether the present step is measured.
        inside: whether a pass is in progress.
        watching: whether more than one pass may come.
        scale: the factor of the loss whose backward is in progress.
        capturing: whether gradients are computed that go to no parameter's `grad`.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.slots: dict[Address, Slot] = {}
        self.misses: dict[Miss, None] = {}  # an ordered set
        self.updates = Updates()
        self.measuring, self.inside, self.watching, self.capturing = True, False, True, False
        self.gradients = Gradients(partial(self.guarded, "gradient", "", ""))
        self.weight_gradients = WeightGradients(self)
        self.parameters: dict[int, tuple[str, nn.Parameter]] = {}
        self.used: set[int] = set()
        self._layers, self._ranks, self.scale = 0, 1, 1.0
        self._weights: dict[int, Slot] = {}
        self._called: dict[str, nn.Parameter] = {}
        self._mode: Mode = "train"
        self._trained: dict[int, Mode] = {}
        self._origins: Any = WeakIdKeyDictionary()
        self._outside: Any = WeakIdKeyDictionary()

    def weight(self, parameter: Tensor) -> tuple[Slot | None, Mode]:
        """The slot of a parameter that this step's passes used, and the mode of the last of them.

        None where its gradient is not wanted: the step is not measured, or the model itself
        computes derivatives.
        """
        ident = id(parameter)
        wanted = self.measuring and not self.inside
        return self._weights.get(ident) if wanted else None, self._trained.get(ident, self._mode)

    @property
    def step(self) -> int:
        """How many updates of the weights came before the present pass."""
        return self.updates.step

    def guarded(self, kind: str, name: str, op: str, result: Any = None) -> Guard:
        """A block whose errors are listed, and go no further; what was made remains a signal."""
        return Guard(Miss(kind, name, op, ""), partial(self._fail, result))

    def _fail(self, result: Any, miss: Miss) -> None:
        self.misses[miss] = None
        for x in tensors(result):
            if x.is_floating_point() and x not in self._origins:
                self._origins[x] = Origin("signal")

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Gradients are computed in here that go to no parameter's `grad`."""
        before, self.capturing = self.capturing, True
        try:
            yield
        finally:
            self.capturing = before

    def begin_pass(self, module: nn.Module) -> None:
        """Begin a forward pass, and a new step where the weights changed since the last one.

        Args:
            module: the module that is called: the model, or a part of it.
        """
        # named at each pass: lazy modules make their parameters in their first
        named = [(bare(name), p) for name, p in self.probe.model.named_parameters()]
        if self.watching:
            self._follow_updates(module, named)
        self.inside, self.measuring = True, self.step % self.probe.every == 0
        self._mode = "train" if module.training else "eval"
        self.parameters = {id(p): (name, p) for name, p in named}
        # an id may come again, as that of another parameter
        names = {ident: name for ident, (name, _) in self.parameters.items()}
        kept = {i: slot for i, slot in self._weights.items() if names.get(i) == slot.address.name}
        self._weights = kept
        self._ranks, self.scale = ranks(self.probe.model), 1.0
        self.gradients.forget_dead()
        for x in list(self._outside):  # what comes from outside is measured at every pass
            self._origins.pop(x, None)
        self._outside.clear()
        for buffer in self.probe.model.buffers():
            self._origins[buffer] = Origin("constant")
        for ident, (_, parameter) in self.parameters.items():
            self._origins[parameter] = Origin("weight", axis=0, parameters=(ident,))
            if self.probe.backward and parameter.requires_grad:
                self.gradients.watch(parameter, partial(self.weight_gradients.add, parameter))
                self.gradients.watch_sum(parameter, self.weight_gradients.arrive)

    def end_pass(self) -> None:
        """End a forward pass; what it did to the weights itself is no update."""
        self.inside = False
        if self.watching:
            self.updates.end(self._called)

    def close(self) -> None:
        """Read what has arrived, and leave no hook and no copy behind."""
        with self.guarded("gradient", "", ""):
            self.weight_gradients.settle()
        self.weight_gradients.close()
        self.gradients.close()
        self.updates.close()

    def begin_backward(self, scale: float, _: Tensor) -> None:
        """Begin the backward of a loss that was multiplied by a factor; a hook for its gradient."""
        self.scale = scale
        at_the_end(partial(setattr, self, "scale", 1.0))

    def _follow_updates(self, module: nn.Module, named: list[tuple[str, nn.Parameter]]) -> None:
        """Close the present step if the weights that a module brings are not those of the step."""
        own, step = {id(p) for p in module.parameters()}, self.step
        self._called = {name: p for name, p in named if id(p) in own}
        trained = self.probe.weights and torch.is_grad_enabled() and module.training
        if self.updates.begin(module, self._called, copies=trained):
            self._close_step(step)

    def _close_step(self, step: int) -> None:
        self.weight_gradients.settle()
        for slot in self.slots.values():
            slot.close(step, whole=distributed())

    def gather(self, group: Any) -> None:
        """Merge what all ranks measured, up to the present step, which ends here."""
        self.weight_gradients.settle()
        if distributed():
            self._close_step(self.step)
            self.updates.tell()
            for slot in gather(self.slots, group):
                reason = "each rank has a part of it, and only weights' own gradients are averaged"
                self.miss("gradient", slot.address.name, slot.address.op, reason)

    def observe(
        self, call: Call, op: str, outputs: list[Tensor], given: list[Tensor], writes: bool
    ) -> None:
        """Follow the signal through an operation that made, or wrote to, tensors of floats.

        An operation does one of three things. It makes a constant, where neither the input nor the
        weights reach its arguments. It rearranges the entries of one argument, as a view does:
        statistics stay what they are, so the output takes over the argument's origin and nothing
        is measured. Or it makes new values: those are measured, and what kind they are depends on
        its arguments. Arguments that all come from weights make a weight (weight normalization),
        except rows that are looked up by an index, as in an embedding: the index is the model's
        input. Weights with a signal make a pre-activation, a signal alone makes an activation. The
        first argument of the leading kind decides where the units are.

        Args:
            given: the tensors among its arguments.
            writes: whether the outputs are arguments that it wrote to.
        """
        if writes and any(id(x) in self.parameters for x in outputs):
            return  # the next operation that uses the parameter measures it
        origins = [self._origin(call, op, x) for x in given]
        kinds = {origin.kind for origin in origins}
        leading = "signal" if "signal" in kinds else "weight"
        if leading not in kinds or is_maker(op):
            self._set_constant(call, op, outputs)
            return
        source, origin = next(
            pair for pair in zip(given, origins, strict=True) if pair[1].kind == leading
        )
        made = []
        for x in outputs:
            if not writes and keeps_distribution(op, x, source):
                self._origins[x] = origin._replace(axis=moved_axis(origin.axis, x, source))
            else:
                made.append(x)
        if not made:
            return
        indexed = any(not (x.is_floating_point() or x.is_complex()) for x in given)
        derived = leading == "weight" and not indexed
        tensor = "weight" if derived else "preactivation" if "weight" in kinds else "activation"
        layers = tuple(dict.fromkeys(layer for o in origins for layer in o.layers))
        address = call.address(op, tensor)
        for output, x in enumerate(made):
            axis = axis_after(op, x, source, origin.axis)
            self._measure(address._replace(output=output), x, layers, axis)
        self._measure_weights(call, op, given, origins, self._origins[made[0]].layers)
        if op in FUSED:
            self.miss("tensor", call.name, op, FUSED[op])

    def observe_result(self, call: Call, given: Any, result: Any) -> None:
        """Measure what a module returns, where no operation was seen that made it."""
        passed = {id(x) for x in tensors(given)}
        for x in tensors(result):
            if not x.is_floating_point() or id(x) in passed:
                continue
            if x in self._origins:
                self._follow(x)
            else:
                reason = "its operations run out of sight (scripted or foreign code)"
                self.miss("module", call.name, "", reason)
                self._measure(call.address("output"), x, (), None)

    def _set_constant(self, call: Call, op: str, outputs: list[Tensor]) -> None:
        for x in outputs:
            self._origins[x] = Origin("constant")
            if x.numel() and op not in REARRANGING | CASTS:
                reason = "a constant: neither input nor weights reach it"
                self.miss("tensor", call.name, op, reason)

    def _origin(self, call: Call, op: str, x: Tensor) -> Origin:
        """The origin of an argument; one from outside the model is measured now."""
        if x not in self._origins:
            if not x.is_floating_point():
                return Origin("constant")
            self._outside[x] = True
            self._measure(call.address("input"), x, (), axis_after(op, x, None, None))
        return self._follow(x)

    def _follow(self, x: Tensor) -> Origin:
        """The origin of a tensor, whose gradient is watched as soon as autograd knows the tensor.

        Autograd learns of the tensors in a custom function only when that returns.
        """
        origin: Origin = self._origins[x]
        if origin.pending is not None and x.requires_grad:
            origin.pending.attached = True
            take = partial(self._take_gradient, origin.pending, self._mode)
            self.gradients.watch(x, take)
            origin = self._origins[x] = origin._replace(pending=None)
        return origin

    def _measure(
        self, address: Address, x: Tensor, layers: tuple[int, ...], axis: int | None
    ) -> None:
        """Measure a value made of the values at some layers, and remember where it comes from."""
        name, op = address.name, address.op
        kind: Literal["signal", "weight"] = "weight" if address.tensor == "weight" else "signal"
        reason = unmeasurable(x) if self.probe.selected(name) else "excluded"
        if reason:
            self.miss("tensor", name, op, reason)
            self._origins[x] = Origin(kind, layers, axis)
            return
        axis = self._chosen_axis(name, x, axis)
        slot = self._slot(address, 0 if op == "input" else None, layers, x, axis)
        with self.guarded("tensor", name, op):
            slot.add("forward", x, self._mode)
        slot.derived = kind == "weight"
        slot.detached |= not (x.requires_grad or torch.is_grad_enabled())
        pending = slot if self.probe.backward else None
        self._origins[x] = Origin(kind, (slot.layer,), axis, pending=pending)
        self._follow(x)

    def _measure_weights(
        self, call: Call, op: str, given: list[Tensor], origins: list[Origin], made: tuple[int, ...]
    ) -> None:
        """Measure the parameters that an operation uses, once a step, under the layer it made."""
        self.used.update(ident for origin in origins for ident in origin.parameters)
        if not (self.probe.weights and self.probe.selected(call.name)):
            return
        for operand, origin in zip(given, origins, strict=True):
            for ident in origin.parameters:
                name, parameter = self.parameters[ident]
                beside = "" if made else "no value that is made of it could be measured"
                if reason := unmeasurable(parameter) or beside:
                    self.miss("parameter", name, op, reason)
                    continue
                if ident not in self._weights:
                    axis = weight_axis(op, parameter, operand, origin.axis)
                    address = Address(name, op, "weight", 1, 0)
                    self._weights[ident] = self._slot(address, made[0], (), parameter, axis)
                self._measure_weight(ident, name, op, parameter)

    def _measure_weight(self, ident: int, name: str, op: str, parameter: nn.Parameter) -> None:
        slot = self._weights[ident]
        if torch.is_grad_enabled():
            self._trained[ident] = self._mode
        if (self._mode, "forward") not in slot.current:
            slot.update_ratio = self.updates.ratios.get(name, math.nan)
            with self.guarded("parameter", name, op):
                slot.once(parameter, self._mode)

    def _slot(
        self, address: Address, layer: int | None, layers: tuple[int, ...], x: Tensor, axis: int
    ) -> Slot:
        """The slot of an address, a new one where it is seen first; None is the next layer."""
        address = address._replace(units=x.shape[axis] if x.ndim else 1)
        if address not in self.slots:
            if layer is None:
                layer = self._layers = self._layers + 1
            self.slots[address] = Slot(address, layer, layers, tuple(x.shape), x.dtype, axis)
        return self.slots[address]

    def _take_gradient(self, slot: Slot, mode: Mode, gradient: Tensor) -> None:
        """Measure the gradient of a value, of the loss that the optimizer sees.

        Under a `GradScaler` the loss was multiplied; over several ranks it is their mean.
        """
        if self.inside:
            return  # a derivative that the model itself computes
        name, op = slot.address.name, slot.address.op
        with self.guarded("gradient", name, op):
            if reason := unmeasurable(gradient):
                self.miss("gradient", name, op, reason)
            else:
                slot.add("backward", reduced(gradient, self.scale * self._ranks), mode)

    def _chosen_axis(self, name: str, x: Tensor, axis: int | None) -> int:
        """The dimension of the units, counted from the front."""
        if x.ndim == 0:
            return 0
        axis = self.probe.axis_of(name, axis)
        return x.ndim - 1 if axis is None or not -x.ndim <= axis < x.ndim else axis % x.ndim

    def miss(self, *what: str) -> None:
        """List something that was not measured, and why."""
        self.misses[Miss(*what)] = None


def bare(name: str) -> str:
    """A qualified name as it was before `torch.compile` wrapped the module."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
