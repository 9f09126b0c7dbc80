"""A probe that keeps the values of the first pass, and says how far those of later ones are off."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from initstats.coordinates.anatomy import SCALINGS, Pairing, Use
from initstats.probe.linear import labels
from initstats.probe.operations import Operation
from initstats.probe.origins import Call, Origin
from initstats.probe.origins import Use as Summed
from initstats.probe.probe import Probe
from initstats.probe.recording import Recorder
from initstats.probe.slots import Address, Slot

ROUNDING = 8
"""Units in the last place that a change must have, at least, to be one."""
FUSED_ATTENTION = "scaled_dot_product_attention"


class Keeper(Recorder):
    """Follows a model as the probe's recorder does.

    Attributes:
        changes: rms of what a value changed by since the first pass, by step and layer; NaN where
            that is rounding.
        uses: of parameters, in the first pass.
        pairings: products of signals, in the first pass.
        scalings: layers that are multiples of another, by a constant, in the first pass.
    """

    def __init__(self, probe: Probe) -> None:
        super().__init__(probe)
        self.changes: dict[tuple[int, int], float] = {}
        self.uses: list[Use] = []
        self.pairings: list[Pairing] = []
        self.scalings: set[int] = set()
        self._first: dict[Address, Tensor] = {}

    def observe(
        self, call: Call, operation: Operation, outputs: list[Tensor], writes: bool
    ) -> None:
        """As the recorder does; the first pass shows the anatomy."""
        first = self.step == 0
        signals = [x for x in operation.read if self._kind(x) != "constant"] if first else []
        super().observe(call, operation, outputs, writes)
        made = self._origins.get(outputs[0])
        if not first or made is None or made.kind != "signal" or not made.layers:
            return
        layer, kinds = made.layers[0], [self._kind(x) for x in signals]
        if operation.name in SCALINGS and kinds == ["signal"]:
            self.scalings.add(layer)
        if kinds[:2] == ["signal", "signal"]:
            self._note_pairing(operation, layer)

    def _kind(self, x: Tensor) -> str:
        origin = self._origins.get(x)
        if origin is None:  # a number of the user's, or the model's input
            return "signal" if x.is_floating_point() and x.numel() > 1 else "constant"
        return str(origin.kind)

    def _note_pairing(self, operation: Operation, layer: int) -> None:
        if operation.name == FUSED_ATTENTION:
            size = operation.argument(0, "query").shape[-1]
            scale = operation.kwargs.get("scale")
            given = 1 / math.sqrt(size) if scale is None else float(scale)
            self.pairings.append(Pairing(layer, size, given))
        elif (found := labels(operation)) is not None:
            operands, out = found
            sizes = {
                label: size
                for x, names in operands
                for label, size in zip(names, x.shape, strict=True)
                if label not in out
            }
            self.pairings.append(Pairing(layer, math.prod(sizes.values())))

    def _measure(
        self, address: Address, x: Tensor, layers: tuple[int, ...], axis: int | None
    ) -> Slot | None:
        slot = super()._measure(address, x, layers, axis)
        if slot is None or address.tensor == "weight":
            return slot
        if self.step == 0:
            self._first[slot.address] = x.detach().clone()
        elif (before := self._first.get(slot.address)) is not None and before.shape == x.shape:
            self.changes[self.step, slot.layer] = change(before, x.detach())
        return slot

    def _measure_weights(
        self,
        call: Call,
        operation: Operation,
        origins: list[Origin],
        made: Tensor,
        uses: list[Summed],
    ) -> None:
        super()._measure_weights(call, operation, origins, made, uses)
        layers = self._origins[made].layers
        if self.step or not layers:
            return
        sums = {id(use.operand): use.sum for use in uses}
        summed = {i for use in uses for i in (*use.origin.parameters, *use.origin.made_of)}
        derived = self._origins[made].kind == "weight"  # what uses that, uses these
        for operand, origin in () if derived else zip(operation.read, origins, strict=True):
            for ident in origin.parameters:
                if ident in summed and id(operand) not in sums:
                    continue
                self._note_use(ident, layers[0], operation.name, sums.get(id(operand)))
        for use in uses:
            for ident in use.origin.made_of:
                self._note_use(ident, layers[0], operation.name, use.sum, use.operand)

    def _note_use(
        self, ident: int, layer: int, op: str, summed: Any, operand: Tensor | None = None
    ) -> None:
        name, parameter = self.parameters[ident]
        fans = () if summed is None else (float(summed.fan_in), float(summed.fan_out))
        factor = 1.0 if operand is None else multiple(operand, parameter)
        self.uses.append(Use(name, layer, op, *(fans or (math.nan, math.nan)), factor=factor))


class KeepingProbe(Probe):
    """A probe whose recorder keeps the first pass."""

    recording: ClassVar[type[Recorder]] = Keeper

    @property
    def kept(self) -> Keeper:
        """The recorder."""
        assert isinstance(self._recorder, Keeper)
        return self._recorder


def rms(x: Tensor) -> float:
    """Root of the mean square, in float64."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) / math.sqrt(max(x.numel(), 1))


def spectral_norm(x: Tensor) -> float:
    """The largest singular value of a matrix, of all sides but the first together; NaN of none."""
    wide = x.flatten(1).double()
    return float(torch.linalg.matrix_norm(wide, 2)) if wide.isfinite().all() else math.nan


def change(before: Tensor, now: Tensor) -> float:
    """rms of a difference; NaN where it is no more than the rounding of what is subtracted."""
    size = rms(now - before)
    return math.nan if 0 < size < ROUNDING * torch.finfo(now.dtype).eps * rms(now) else size


def multiple(operand: Tensor, parameter: Tensor) -> float:
    """How many times a parameter some weights are; NaN where they are no multiple of it."""
    if operand.numel() != parameter.numel() or not (size := rms(parameter)):
        return math.nan
    by_square = rms(operand) / size
    by_mean = float(operand.abs().double().mean() / parameter.abs().double().mean())
    return by_square if abs(by_mean / by_square - 1) < 1e-4 else math.nan
