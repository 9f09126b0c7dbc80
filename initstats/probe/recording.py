"""Follows the signal through the operations of a model, and measures every value on its way."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.axes import axis_after, moved_axis, parameter_axis
from initstats.probe.elementwise import UNKNOWN
from initstats.probe.forms import Forms
from initstats.probe.gradients import Gradients
from initstats.probe.kinds import CASTS, FUSED, LOOKUPS, MIXING, REARRANGING
from initstats.probe.linear import sums
from initstats.probe.operations import (
    Operation,
    is_maker,
    keeps_distribution,
    tensors,
    unmeasurable,
)
from initstats.probe.origins import Call, Origin, Use, axes_of, same_units, uses_of
from initstats.probe.slots import Address, Slot

if TYPE_CHECKING:
    from initstats.probe.probe import Probe


class Miss(NamedTuple):
    """Something that was not measured, and why."""

    kind: str
    name: str
    op: str
    reason: str


class Recorder:
    """The values of a model by the operations that made them, with their statistics.

    Args:
        probe: the model, and what is to be measured.

    Attributes:
        slots: every value that was measured, in order of execution.
        misses: what was seen but could not be measured.
        parameters: the model's, by id, with their names.
        used: the parameters (by id) that operations used.
        step: how many updates of the weights came before the present pass.
        measuring: whether the present step is measured.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.slots: dict[Address, Slot] = {}
        self.misses: dict[Miss, None] = {}  # an ordered set
        self.step, self.measuring = 0, True
        self.gradients = Gradients()
        self.parameters: dict[int, tuple[str, nn.Parameter]] = {}
        self.used: set[int] = set()
        self._layers = 0
        self._weights: dict[int, Slot] = {}
        self._version = -1
        self._origins: Any = WeakIdKeyDictionary()
        self._outside: Any = WeakIdKeyDictionary()
        self._forms = Forms()

    def begin_pass(self) -> None:
        """Begin a forward pass, and a new step where the weights changed since the last one."""
        # named at each pass: lazy modules make their parameters in their first
        named = self.probe.model.named_parameters()
        self.parameters = {id(p): (bare(name), p) for name, p in named}
        version = sum(0 if p.is_inference() else p._version for _, p in self.parameters.values())
        if self._version not in (-1, version):
            for slot in self.slots.values():
                slot.close(self.step)
            self.step += 1
        self._version = version
        self.measuring = self.step % self.probe.every == 0
        self.gradients.forget_dead()
        for x in list(self._outside):  # what comes from outside is measured at every pass
            self._origins.pop(x, None)
        self._outside.clear()
        for buffer in self.probe.model.buffers():
            self._origins[buffer] = Origin("constant")
        for ident, (_, parameter) in self.parameters.items():
            moved = tuple(range(parameter.ndim))
            self._origins[parameter] = Origin("weight", (), 0, (ident,), moved=moved)
            if self.probe.backward and parameter.requires_grad:
                self.gradients.watch(parameter, partial(self._take_weight_gradient, ident))

    def observe(
        self, call: Call, operation: Operation, outputs: list[Tensor], writes: bool
    ) -> None:
        """Follow the signal through an operation that made, or wrote to, tensors of floats.

        An operation does one of three things. It makes a constant, where neither the input nor the
        weights reach its arguments. It rearranges the entries of one argument, as a view does:
        statistics stay what they are, so the output takes over the argument's origin and nothing
        is measured. Or it makes new values: those are measured, and what kind they are depends on
        its arguments. Arguments that all come from weights make a weight (weight normalization),
        except rows that are looked up by an index, as in an embedding: the index is the model's
        input. Weights with a signal make a pre-activation, a signal alone makes an activation. The
        first argument of the leading kind, of the output's shape if there is one, decides where the
        units are.

        Args:
            writes: whether the outputs are arguments that it wrote to.
        """
        if writes and any(id(x) in self.parameters for x in outputs):
            return  # the next operation that uses the parameter measures it
        op, given, summed = operation.name, operation.tensors, sums(operation)
        across = {id(each.weight): each.summed for each in summed}
        origins = [self._origin(call, operation, x, across.get(id(x))) for x in given]
        kinds = {origin.kind for origin in origins}
        leading = "signal" if "signal" in kinds else "weight"
        if leading not in kinds or is_maker(op):
            self._set_constant(call, op, outputs)
            self.observe_mask(operation, outputs[0])
            return
        led = [pair for pair in zip(given, origins, strict=True) if pair[1].kind == leading]
        source, origin = next((p for p in led if p[0].shape == outputs[0].shape), led[0])
        made = []
        for x in outputs:
            if not writes and keeps_distribution(op, x, source):
                self._rearrange(operation, x, source, origin)
            else:
                made.append(x)
        if not made:
            return
        indexed = op in LOOKUPS and not all(x.is_floating_point() or x.is_complex() for x in given)
        derived = leading == "weight" and not indexed
        uses = [] if derived else uses_of(summed, given, origins)
        tensor = "preactivation" if uses or "weight" in kinds else "activation"
        layers = tuple(dict.fromkeys(layer for o in origins for layer in o.layers))
        address = call.address(op, "weight" if derived else tensor)
        axes = axes_of(operation, made, uses, source, origin.axis)
        if not derived:
            kept = same_units(made[0], axes[0], source, origin.axis)
            self._forms.follow(operation, made, source, kept)
        slots = [
            self._measure(address._replace(output=output), x, layers, axis)
            for output, (x, axis) in enumerate(zip(made, axes, strict=True))
        ]
        self._measure_weights(call, operation, origins, made[0], uses)
        if leading == "weight":
            self._remember_weights(op, origins, made, slots, indexed=indexed)
        self._record_sums(uses, slots)
        if op in FUSED:
            self._miss("tensor", call.name, op, FUSED[op])

    def observe_mask(self, operation: Operation, out: Tensor) -> None:
        """Follow an elementwise operation whose output is no signal: `x > 0`, `zeros_like(x)`."""
        self._forms.note(operation, out)

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
                self._miss("module", call.name, "", reason)
                self._forms.begin(x, UNKNOWN)
                self._measure(call.address("output"), x, (), None)

    def _set_constant(self, call: Call, op: str, outputs: list[Tensor]) -> None:
        for x in outputs:
            self._origins[x] = Origin("constant")
            if x.numel() and op not in REARRANGING | CASTS:
                reason = "a constant: neither input nor weights reach it"
                self._miss("tensor", call.name, op, reason)

    def _rearrange(self, operation: Operation, x: Tensor, source: Tensor, origin: Origin) -> None:
        """Remember that a tensor holds the entries of a source."""
        axis = moved_axis(operation, x, source, origin.axis)
        moved = tuple(moved_axis(operation, x, source, dim) for dim in origin.moved)
        self._origins[x] = origin._replace(axis=axis, moved=moved)
        if source in self._forms:
            self._forms.carry(x, source, operation)

    def _origin(self, call: Call, operation: Operation, x: Tensor, axis: int | None) -> Origin:
        """The origin of an argument; one from outside the model is measured now.

        Args:
            axis: the dimension that the operation sums over, if it does.
        """
        if x not in self._origins:
            if not x.is_floating_point():
                return Origin("constant")
            self._outside[x] = True
            axis = axis_after(operation, x, None, None) if axis is None else axis
            if x.numel() != 1:  # one number is a parameter of what it is used in
                self._forms.begin(x)
            self._measure(call.address("input"), x, (), axis)
        return self._follow(x)

    def _follow(self, x: Tensor) -> Origin:
        """The origin of a tensor, whose gradient is watched as soon as autograd knows the tensor.

        Autograd learns of the tensors in a custom function only when that returns.
        """
        origin: Origin = self._origins[x]
        if origin.pending is not None and x.requires_grad:
            origin.pending.attached = True
            self.gradients.watch(x, partial(self._take_gradient, origin.pending))
            origin = self._origins[x] = origin._replace(pending=None)
        return origin

    def _measure(
        self, address: Address, x: Tensor, layers: tuple[int, ...], axis: int | None
    ) -> Slot | None:
        """Measure a value made of the values at some layers, and remember where it comes from.

        Returns:
            Its slot; None where it cannot or shall not be measured.
        """
        name, op = address.name, address.op
        kind: Literal["signal", "weight"] = "weight" if address.tensor == "weight" else "signal"
        reason = unmeasurable(x) if self.probe.selected(name) else "excluded"
        if reason:
            self._miss("tensor", name, op, reason)
            self._origins[x] = Origin(kind, layers, axis)
            return None
        axis = self._chosen_axis(name, x, axis)
        slot = self._slot(address, 0 if op == "input" else None, layers, x, axis)
        slot.add("forward", x)
        slot.detached |= not (x.requires_grad or torch.is_grad_enabled())
        pending = slot if self.probe.backward else None
        self._origins[x] = Origin(kind, (slot.layer,), axis, pending=pending)
        self._follow(x)
        if kind == "signal":
            slot.facts.observe(x, self._forms.of(x))
        return slot

    def _measure_weights(
        self,
        call: Call,
        operation: Operation,
        origins: list[Origin],
        made: Tensor,
        uses: list[Use],
    ) -> None:
        """Measure the parameters that an operation uses, once a step, under the layer it made."""
        self.used.update(ident for origin in origins for ident in origin.parameters)
        layers = self._origins[made].layers
        if not (self.probe.weights and layers and self.probe.selected(call.name)):
            return
        axes = {id(use.operand): use.sum.axis for use in uses}
        for operand, origin in zip(operation.tensors, origins, strict=True):
            for ident in origin.parameters:
                name, parameter = self.parameters[ident]
                if ident not in self._weights:
                    axis = axes.get(id(operand))
                    if axis is None:
                        axis = parameter_axis(operation, operand, made, self._origins[made].axis)
                    address = Address(name, operation.name, "weight", 1, 0)
                    axis = origin.dimension(axis) or 0
                    self._weights[ident] = self._slot(address, layers[0], (), parameter, axis)
                    self._weights[ident].settled = operation.name in MIXING
                if "forward" not in self._weights[ident].current:
                    self._weights[ident].add("forward", parameter)

    def _remember_weights(
        self,
        op: str,
        origins: list[Origin],
        made: list[Tensor],
        slots: list[Slot | None],
        *,
        indexed: bool,
    ) -> None:
        """Remember of which parameters weights were computed, or chosen from a stack of them."""
        idents = {ident for o in origins for ident in (*o.parameters, *o.made_of)}
        if indexed:
            idents = {i for i in idents if i in self.parameters and self.parameters[i][1].ndim > 2}
        known = () if op in MIXING else tuple(idents)
        for x, slot in zip(made, slots, strict=True):
            self._origins[x] = self._origins[x]._replace(
                made_of=known, moved=tuple(range(x.ndim)), slot=slot
            )

    def _record_sums(self, uses: list[Use], slots: list[Slot | None]) -> None:
        """Record what an operation sums, with the weights that it used and those behind them."""
        for operand, origin, each in uses:
            own = [self._weights[i] for i in origin.parameters if i in self._weights]
            used = own[0] if own else origin.slot
            for slot in slots:
                if slot is not None and not each.inner:
                    slot.facts.sum_with(each.fan_in, used)
            for slot in own:
                slot.facts.sum_with(each.fan_in, used)
                dim = origin.dimension(each.axis)
                if dim is not None and not slot.settled:
                    slot.turn(dim, operand, each.axis)
                slot.settled = True
            if used is None or own:
                continue
            dim = origin.dimension(each.axis)
            if used.address.tensor == "weight" and dim is not None and not used.settled:
                used.turn(dim, operand, each.axis)
                used.settled = True
            for ident in origin.made_of:
                self._record_behind(ident, used, each.fan_in, dim)

    def _record_behind(self, ident: int, used: Slot, fan_in: float, dim: int | None) -> None:
        """Record a sum at a parameter (by id) of which the weights that it used were computed."""
        slot = self._weights.get(ident)
        if slot is None or ident not in self.parameters or len(slot.shape) < 2:
            return
        if dim is not None and math.prod(slot.shape) <= used.shape[dim]:
            return  # one number for each unit: a scale
        slot.facts.sum_with(fan_in, used)
        if dim is not None and not slot.settled:
            behind = dim + len(slot.shape) - len(used.shape)
            if behind >= 0 and slot.shape[behind] >= used.shape[dim]:
                slot.turn(behind, self.parameters[ident][1], behind)
        slot.settled = True

    def _slot(
        self, address: Address, layer: int | None, layers: tuple[int, ...], x: Tensor, axis: int
    ) -> Slot:
        """The slot of an address, a new one where it is seen first; None is the next layer."""
        weights = address.tensor == "weight"  # whose axis is known later
        units = x.numel() if weights or not x.ndim else x.shape[axis]
        address = address._replace(units=units)
        if address not in self.slots:
            if layer is None:
                layer = self._layers = self._layers + 1
            self.slots[address] = Slot(address, layer, layers, tuple(x.shape), x.dtype, axis)
        return self.slots[address]

    def _take_gradient(self, slot: Slot, gradient: Tensor) -> None:
        if not unmeasurable(gradient):
            slot.add("backward", gradient)

    def _take_weight_gradient(self, ident: int, gradient: Tensor) -> None:
        """Measure the gradient of a parameter (by id) that this step's passes used."""
        if self.measuring and ident in self._weights:
            self._take_gradient(self._weights[ident], gradient)

    def _chosen_axis(self, name: str, x: Tensor, axis: int | None) -> int:
        """The dimension of the units, counted from the front."""
        if x.ndim == 0:
            return 0
        axis = self.probe.axis_of(name, axis)
        return x.ndim - 1 if axis is None or not -x.ndim <= axis < x.ndim else axis % x.ndim

    def _miss(self, *what: str) -> None:
        self.misses[Miss(*what)] = None


def bare(name: str) -> str:
    """A qualified name as it was before `torch.compile` wrapped the module."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
