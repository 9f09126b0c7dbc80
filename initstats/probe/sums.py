"""The sums of operations, recorded at what they made and at the weights that they used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.linear import Sum, sum_of_product
from initstats.probe.operations import Operation, aside
from initstats.probe.origins import Origin, Use
from initstats.probe.readings import Mode
from initstats.probe.slots import Slot

_PAIRS = (["signal", "weight"], ["weight", "signal"])


class Products:
    """The weights that a signal was multiplied with entry by entry, until a sum follows."""

    def __init__(self) -> None:
        self._factors: Any = WeakIdKeyDictionary()  # of no signal, which would stay in memory

    def note(self, operation: Operation, origins: list[Origin], out: Tensor) -> None:
        """Remember a product of a signal and a weight."""
        given = dict(zip((origin.kind for origin in origins), operation.read, strict=True))
        if operation.name in ("mul", "multiply") and [*given] in _PAIRS and len(origins) == 2:
            weight = next(o for o in origins if o.kind == "weight")
            self._factors[out] = given["weight"], weight, tuple(given["signal"].shape)

    def uses(self, operation: Operation) -> list[Use]:
        """The weights of the products that an operation sums."""
        given = operation.tensors[:1]
        if operation.name != "sum" or not given or given[0] not in self._factors:
            return []
        weight, origin, shape = self._factors[given[0]]
        with aside():
            found = sum_of_product(operation, weight, shape)
        return [] if found is None else [Use(weight, origin, found)]


def record_sums(
    uses: list[Use],
    slots: list[Slot | None],
    weights: Mapping[int, Slot],
    parameters: Mapping[int, tuple[str, nn.Parameter]],
    mode: Mode,
) -> None:
    """Record what an operation sums, with the weights that it used and those behind them.

    Args:
        slots: of what the operation made.
        weights: slots of the parameters that were measured, by id.
        parameters: all, by id, with their names.
    """
    for operand, origin, each in uses:
        own = [weights[i] for i in origin.parameters if i in weights]
        used = own[0] if own else origin.slot
        name = None if used is None else used.address
        for slot in slots:
            if slot is not None and not each.inner:
                slot.facts[mode].sum_with(each, name)
        for slot in own:
            slot.facts[mode].sum_with(each, name)
            dim = origin.dimension(each.axis)
            if dim is not None and not slot.settled:
                slot.turn(dim, operand, each.axis, mode)
            slot.settled = True
        if used is None or own:
            continue
        dim = origin.dimension(each.axis)
        if used.address.tensor == "weight" and dim is not None and not used.settled:
            used.turn(dim, operand, each.axis, mode)
            used.settled = True
        for ident in origin.made_of:
            if ident in parameters and ident in weights:
                _record_behind(weights[ident], parameters[ident][1], used, each, dim, mode)


def _record_behind(
    slot: Slot, parameter: nn.Parameter, used: Slot, each: Sum, dim: int | None, mode: Mode
) -> None:
    """Record a sum at a parameter of which the weights that it used were computed."""
    if len(slot.shape) < 2:
        return
    if dim is not None and math.prod(slot.shape) <= used.shape[dim]:
        return  # one number for each unit: a scale
    slot.facts[mode].sum_with(each, used.address)
    if dim is not None and not slot.settled:
        behind = dim + len(slot.shape) - len(used.shape)
        if behind >= 0 and slot.shape[behind] >= used.shape[dim]:
            slot.turn(behind, parameter, behind, mode)
    slot.settled = True
