"""Follows the signal through the operations of a model, and measures every value on its way."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Coroutine, Generator
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from initstats.probe.axes import axis_after, moved_axis, parameter_axis
from initstats.probe.elementwise import UNKNOWN
from initstats.probe.forms import Forms
from initstats.probe.gradients import reduced
from initstats.probe.kinds import (
    CASTS,
    FUSED,
    LOOKUPS,
    MIXING,
    NORMALIZATIONS,
    REARRANGING,
    TOGETHER,
    VALUES,
)
from initstats.probe.linear import Sum, sums
from initstats.probe.losses import logits_of
from initstats.probe.notes import Notes
from initstats.probe.operations import (
    Operation,
    by_unit,
    carries,
    draws,
    is_maker,
    keeps_distribution,
    spread,
    tensors,
    unmeasurable,
)
from initstats.probe.origins import Call, Origin, Use, axes_of, constant, same_units, uses_of
from initstats.probe.passes import Passes
from initstats.probe.readings import Mode
from initstats.probe.recurrent import saturated
from initstats.probe.scales import Scales
from initstats.probe.shares import held, record_products, shares_axis
from initstats.probe.slots import Address, Slot
from initstats.probe.sums import Products, record_sums

if TYPE_CHECKING:
    from initstats.probe.probe import Probe


UNMASKED = "mask"
"""The kind of a miss that was measured, but with the entries that the mask leaves out."""


class Recorder(Passes):
    """The values of a model by the operations that made them, with their statistics.

    Args:
        probe: the model, and what is to be measured.

    Attributes:
        masked: whether the probe's mask fitted any tensor.
    """

    def __init__(self, probe: Probe) -> None:
        super().__init__(probe)
        self.masked = False
        self._forms = Forms()
        self._scales = Scales()
        self._products = Products()
        self._notes = Notes(self)
        self._rewritten: set[int] = set()

    def begin_pass(self, module: nn.Module) -> None:
        """Begin a forward pass."""
        super().begin_pass(module)
        self._notes.begin_pass()

    def observe(
        self, call: Call, operation: Operation, outputs: list[Tensor], writes: bool
    ) -> None:
        """Follow the signal through an operation that made, or wrote to, tensors of floats.

        An operation makes a constant, where neither the input nor the weights reach its arguments;
        or it rearranges the entries of one argument, as a view does, whose origin the output takes
        over, not measured; or it makes new values, which are measured, of a kind by its arguments.
        Those that all come from weights make a weight (weight normalization), except rows that are
        looked up by an index, an input. Weights with a signal make a pre-activation, a signal alone
        an activation. The first argument of the leading kind, if possible of the output's shape,
        says where the units are.

        Args:
            writes: whether the outputs are arguments that it wrote to.
        """
        if writes and any(id(x) in self.parameters for x in outputs):
            return  # the next operation that uses the parameter measures it
        op, given, summed = operation.name, operation.read, sums(operation)
        origins = self._origins_of(call, operation, summed)
        kinds = {origin.kind for origin in origins}
        leading = "signal" if "signal" in kinds else "weight"
        if leading not in kinds or is_maker(op):
            self._set_constant(call, operation, outputs)
            self._forms.note(operation, outputs[0])
            return
        led = [pair for pair in zip(given, origins, strict=True) if pair[1].kind == leading]
        source, origin = next((p for p in led if p[0].shape == outputs[0].shape), led[0])
        pairs = zip(given, origins, strict=True) if op in TOGETHER else repeat((source, origin))
        made = [
            x
            for x, pair in zip(outputs, pairs, strict=False)
            if writes or not self._rearranged(operation, x, *pair)
        ]
        if not made:
            return
        indexed = op in LOOKUPS and not all(x.is_floating_point() or x.is_complex() for x in given)
        derived = leading == "weight" and not indexed
        uses = [] if derived else uses_of(summed, given, origins) + self._products.uses(operation)
        tensor = "preactivation" if uses or "weight" in kinds else "activation"
        layers = tuple(dict.fromkeys(layer for o in origins for layer in o.layers))
        made = self._values(call, op, made, layers)
        address = call.address(op, "weight" if derived else tensor)
        axes = axes_of(operation, made, uses, source, origin.axis)
        if not derived:
            self._notes.follow(operation, origins, made, axes, weighted=bool(uses))
            kept = same_units(made[0], axes[0], source, origin.axis)
            self._forms.follow(operation, made, source, kept)
        slots = [
            self._measure(address._replace(output=output), x, layers, axis)
            for output, (x, axis) in enumerate(zip(made, axes, strict=True))
        ]
        if not derived:
            self._note(call, operation, origins, made, slots, summed, weighted=bool(uses))
        self._measure_weights(call, operation, origins, made[0], uses)
        if leading == "weight":
            self._remember_weights(op, origins, made, slots, indexed=indexed)
        self._products.note(operation, origins, made[0])
        record_sums(uses, slots, self._weights, self.parameters, self._mode)

    def foresee(self, call: Call, operation: Operation, target: Any) -> None:
        """Measure what comes from outside, and is read by an operation that may write to it.

        Parameters whose entries it may change are measured again at their next use.
        """
        written = {id(x) for x in tensors(target)}
        held = [self._origins[x].parameters for x in tensors(target) if x in self._origins]
        self._rewritten.update(ident for idents in held for ident in idents)
        across = {id(each.weight): each.summed for each in sums(operation)}
        for x in operation.read:
            if id(x) in written:
                self._origin(call, operation, x, across.get(id(x)))

    def observe_loss(self, operation: Operation) -> None:
        """Note down at a value that a loss, in the model or behind it, takes it for logits."""
        for x in logits_of(operation):
            for slot in self.slots.values():
                if x in self._origins and slot.layer in self._origins[x].layers and slot.is_value:
                    slot.facts[self._mode].read_as_logits = 1.0

    def observe_mask(self, call: Call, operation: Operation, out: Tensor) -> None:
        """Follow an elementwise operation whose output is no signal: `x > 0`, `zeros_like(x)`."""
        self._forms.note(operation, out)
        if out not in self._origins:
            self._origins[out] = constant(call, operation, out, self._origins)

    def observe_result(self, call: Call, given: Any, result: Any) -> None:
        """Measure what a module returns, where no operation was seen that made it."""
        if isinstance(result, Generator | AsyncGenerator | Coroutine):
            reason = "what it does after it was called (a generator, or a coroutine)"
            self.miss("module", call.name, "", reason)
        passed = {id(x) for x in tensors(given)}
        for x in tensors(result):
            if not x.is_floating_point() or id(x) in passed:
                continue
            if x in self._origins:
                self._follow(x)
            else:
                reason = "its operations run out of sight (scripted or foreign code)"
                self.miss("module", call.name, "", reason)
                self._forms.begin(x, UNKNOWN)
                self._measure(call.address("output"), x, (), None)

    def _note(
        self,
        call: Call,
        operation: Operation,
        origins: list[Origin],
        made: list[Tensor],
        slots: list[Slot | None],
        summed: list[Sum],
        *,
        weighted: bool,
    ) -> None:
        """Note down how an operation treated the entries of a signal, and among each other."""
        if slots[0] is not None and (counted := saturated(operation)):
            slots[0].facts[self._mode].observe_gates(counted)
        if slots[0] is not None:
            # what weights of the model are multiplied by is no weight itself
            alone = not any(origin.parameters for origin in origins)
            weights = {id(each.weight) for each in summed if alone}
            facts = slots[0].facts[self._mode]
            self.hidden.note(operation.tensors, weights, self.parameters, facts)
        normalized = self._scales.follow(operation, made, weighted=weighted)
        drawn = max((origin.drawn for origin in origins), default=0) or draws(operation)
        record_products(operation, origins, slots[0], self._mode)
        self.observe_loss(operation)
        shares = held(operation, origins, made[0])
        for x, slot in zip(made, slots, strict=True):
            if slot is not None:
                facts = slot.facts[self._mode]
                facts.normalized, facts.draws = float(normalized), drawn or math.nan
                facts.shares_axis = shares_axis(operation, x, normalized=normalized)
                if not math.isnan(facts.shares_axis):
                    shares = Origin("signal", slot=slot, moved=tuple(range(x.ndim)))
            if shares is not None:
                self._origins[x] = self._origins[x]._replace(slot=shares.slot, moved=shares.moved)
        self._notes.note(call, operation, origins, slots[0], made[0], self._mode, self.probe.mask)

    def _values(
        self, call: Call, op: str, made: list[Tensor], layers: tuple[int, ...]
    ) -> list[Tensor]:
        """The outputs of a call that are values; that it does not show others is told."""
        if op in FUSED:
            self.miss("tensor", call.name, op, FUSED[op])
        values = VALUES.get(op, len(made))
        for x in made[values:]:
            self._origins[x] = Origin("signal", layers)
        return made[:values]

    def _set_constant(self, call: Call, operation: Operation, outputs: list[Tensor]) -> None:
        op = operation.name
        for x in outputs:
            self._origins[x] = constant(call, operation, x, self._origins)
            if x.numel() and op not in REARRANGING | CASTS and not self._origins[x].switch:
                reason = "a constant: neither input nor weights reach it"
                self.miss("tensor", call.name, op, reason)

    def _switched(self, x: Tensor, origin: Origin) -> Origin:
        """The origin of an operand of a map: what says where a signal is on is one itself."""
        if origin.switch is None:
            return origin
        self._measure(origin.switch, x, origin.layers, origin.axis)
        return self._follow(x)

    def _rearranged(self, operation: Operation, x: Tensor, source: Tensor, origin: Origin) -> bool:
        """Whether a tensor holds the entries of a source, which is remembered."""
        if not keeps_distribution(operation.name, x, source):
            return False
        axis = moved_axis(operation, x, source, origin.axis)
        moved = tuple(moved_axis(operation, x, source, dim) for dim in origin.moved)
        self._origins[x] = origin._replace(axis=axis, moved=moved)
        if source in self._forms:
            self._forms.carry(x, source, operation)
        self._scales.carry(x, source)
        if origin.kind == "signal":
            self._notes.carry(operation, x, source, origin.axis)
        return True

    def _origins_of(self, call: Call, operation: Operation, summed: list[Sum]) -> list[Origin]:
        """The origins of the arguments; where a map reads masks alone, they are its signal."""
        given, across = operation.read, {id(each.weight): each.summed for each in summed}
        origins = [self._origin(call, operation, x, across.get(id(x))) for x in given]
        maps = summed or operation.name in MIXING | NORMALIZATIONS
        if maps and "signal" not in {origin.kind for origin in origins}:
            return [self._switched(x, o) for x, o in zip(given, origins, strict=True)]
        return origins

    def _origin(self, call: Call, operation: Operation, x: Tensor, axis: int | None) -> Origin:
        """The origin of an argument; one from outside the model is measured now.

        Args:
            axis: the dimension that the operation sums over, if it does.
        """
        if x not in self._origins:
            if not carries(x):
                return Origin("constant")
            self._outside[x] = True
            axis = axis_after(operation, x, None, None) if axis is None else axis
            if x.numel() != 1:  # one number is a parameter of what it is used in
                self._forms.begin(x, given=True)
                self._scales.begin(x)
            self._measure(call.address("input"), x, (), axis)
        return self._follow(x)

    def _follow(self, x: Tensor) -> Origin:
        """The origin of a tensor, whose gradient is watched as soon as autograd knows the tensor.

        Autograd learns of the tensors in a custom function only when that returns.
        """
        origin: Origin = self._origins[x]
        if origin.pending is not None and x.requires_grad:
            origin.pending.attached = True
            origin.pending.facts[self._mode].requires_grad = True
            take = partial(self._take_gradient, origin.pending, self._mode)
            self.gradients.watch(x, take)
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
            self.miss("tensor", name, op, reason)
            self._origins[x] = Origin(kind, layers, axis)
            return None
        axis = self._chosen_axis(name, x, axis)
        slot = self._slot(address, 0 if op == "input" else None, layers, x, axis)
        mask = self._mask(slot, x) if kind == "signal" else None
        with self.guarded("tensor", name, op):
            slot.add("forward", x, self._mode, mask=mask)
            if kind == "signal":
                self._notes.measure(slot, "forward", x, self._mode, mask)
        self.heap.hear(x.nbytes)
        slot.derived = kind == "weight"
        slot.detached |= not (x.requires_grad or torch.is_grad_enabled())
        slot.facts[self._mode].requires_grad |= x.requires_grad
        pending = slot if self.probe.backward else None
        self._origins[x] = Origin(kind, (slot.layer,), axis, pending=pending, value=slot.address)
        self._follow(x)
        if kind == "signal":
            counted = x if mask is None else by_unit(x, axis)[:, mask.to(x.device)]
            slot.facts[self._mode].observe(counted, self._forms.of(x))
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
        if not (self.probe.weights and self.probe.selected(call.name)):
            return
        axes, op = {id(use.operand): use.sum.axis for use in uses}, operation.name
        for operand, origin in zip(operation.read, origins, strict=True):
            for ident in origin.parameters:
                name, parameter = self.parameters[ident]
                beside = "" if layers else "no value that is made of it could be measured"
                if reason := unmeasurable(parameter) or beside:
                    self.miss("parameter", name, op, reason)
                    continue
                if ident not in self._weights:
                    axis = axes.get(id(operand))
                    if axis is None:
                        axis = parameter_axis(operation, operand, made, self._origins[made].axis)
                    address = Address(name, op, "weight", 1, 0)
                    axis = origin.dimension(axis) or 0
                    self._weights[ident] = self._slot(address, layers[0], (), parameter, axis)
                    self._weights[ident].settled = op in MIXING
                self._measure_weight(ident, name, op, parameter)

    def _measure_weight(self, ident: int, name: str, op: str, parameter: nn.Parameter) -> None:
        slot = self._weights[ident]
        slot.facts[self._mode].requires_grad |= parameter.requires_grad
        if torch.is_grad_enabled():
            self._trained[ident] = self._mode
        slot.update_ratio = self.updates.ratios.get(name, math.nan)
        with self.guarded("parameter", name, op):
            if ident in self._rewritten:
                self._rewritten.discard(ident)
                slot.put("forward", parameter, self._mode)
            elif (self._mode, "forward") not in slot.current:
                slot.once(parameter, self._mode)

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

    def _mask(self, slot: Slot, x: Tensor) -> Tensor | None:
        """The entries of each unit that the probe's mask lets count; None: all."""
        address, mask = slot.address, self.probe.mask
        if mask is None or address.tensor == "weight":
            return None
        fitting = spread(mask, x, slot.axis)
        if fitting is None:
            sizes = "x".join(map(str, mask.shape))
            reason = f"measured whole: the mask of {sizes} does not fit its samples and positions"
            self.miss(UNMASKED, address.name, address.op, reason)
        self.masked |= fitting is not None
        return fitting

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
                gradient = reduced(gradient, self.scale * self._ranks)
                mask = self._mask(slot, gradient)
                slot.add("backward", gradient, mode, mask=mask)
                self._notes.measure(slot, "backward", gradient, mode, mask)
                self.heap.hear(gradient.nbytes)

    def _chosen_axis(self, name: str, x: Tensor, axis: int | None) -> int:
        """The dimension of the units, counted from the front."""
        if x.ndim == 0:
            return 0
        axis = self.probe.axis_of(name, axis)
        return x.ndim - 1 if axis is None or not -x.ndim <= axis < x.ndim else axis % x.ndim
