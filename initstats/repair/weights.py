"""The weights that a model uses, each with the parameters behind it, and how to set them."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from initstats.probe.operations import tensors
from initstats.repair import reasons
from initstats.repair.layout import Layout

ATTEMPTS = 3
"""Ways in which a computed weight is corrected until the model uses what it should."""


class Output(NamedTuple):
    """The mean and std of what an operation makes; of the first tensor, if it makes several."""

    mean: float
    std: float

    @classmethod
    def of(cls, result: Any) -> Output:
        """The moments of an operation's result."""
        y = next(tensors(result)).detach()
        return cls(float(y.double().mean()), std_of(y))


@dataclass(eq=False)
class Bias:
    """What a layer adds: the tensor that is added, and the parameter behind it."""

    operand: Tensor
    parameter: nn.Parameter

    def __post_init__(self) -> None:
        used, own = (float(x.detach().double().norm()) for x in (self.operand, self.parameter))
        self._factor = used / own if own and used else 1.0

    def write(self, values: Tensor, kept: Tensor | None = None) -> None:
        """Set the bias, or the parameter of which a multiple is used, but for entries to keep."""
        if shares_storage(self.operand, self.parameter):
            target, factor = self.operand, 1.0
        else:
            target, factor = self.parameter.detach(), self._factor
        values = values.flatten()[: target.numel()].view(target.shape).to(target) / factor
        if kept is not None:
            values = torch.where(kept[: target.numel()].view(target.shape), target, values)
        target.copy_(values)


@dataclass(eq=False)
class Weight:
    """A weight as operations use it.

    Attributes:
        name: the qualified name of the layer; of the parameter where the model itself holds it.
        op: the operation that first uses it.
        operand: the weight as that operation got it; a view of the parameter where nothing is
            computed in between, so that the parameter is written through it.
        parameters: what it is made of; the first has its entries.
        layout: its matrices.
        module: the module and the name under which the weight is parametrized, if it is.
        fixed: entries that stay as they are, such as the row of an embedding's padding.
        held: which units or inputs stay at zero, in words; empty where none does.
        biases: what is added to its output.
        before: the weight as the model used it at first.
        values: the weight as the model is to use it.
        outputs: those of the operation, before and after.
        factor: what follows multiplies the output by it first.
        uses: how many operations use it in one pass.
        unscaled: why it is drawn, but not scaled; empty where it is.
        nearly: whether the model makes something of it that is near to what is written.
    """

    name: str
    op: str
    operand: Tensor
    parameters: list[nn.Parameter]
    layout: Layout
    module: tuple[nn.Module, str] | None = None
    biases: list[Bias] = field(default_factory=list)
    fixed: Tensor | None = None

    def __post_init__(self) -> None:
        self.operand = unexpanded(self.operand.detach())
        self.before = self.operand.clone()
        self.values = self.before.to(torch.promote_types(self.before.dtype, torch.float32))
        self.outputs: list[Output] = []
        self.factor, self.uses, self.unscaled, self.nearly, self.held = 1.0, 1, "", False, ""
        self._others = [parameter.detach().clone() for parameter in self.parameters[1:]]
        self._attempt = self._yielded = 0
        self._inverted = False
        self._turned = _turned(self.before, self.parameters[0].detach())

    @property
    def computed(self) -> bool:
        """Whether the model computes it of its parameters, and does not use one itself."""
        return not shares_storage(self.operand, self.parameters[0])

    @property
    def changed(self) -> list[nn.Parameter]:
        """The parameters that hold something else than before, or may do so."""
        others = zip(self.parameters[1:], self._others, strict=True)
        moved = [other for other, before in others if not torch.equal(other, before)]
        return [self.parameters[0], *moved, *(bias.parameter for bias in self.biases)]

    def zero_part(self) -> tuple[Tensor, str]:
        """As that of the layout, without the row of an embedding's padding."""
        x = self.before
        return self.layout.zero_part(x if self.fixed is None else x.masked_fill(self.fixed, 1))

    def hold(self, entries: Tensor, said: str) -> None:
        """Keep entries of zero as they are."""
        self.fixed = entries if self.fixed is None else entries | self.fixed
        self.held = said

    def change(self, values: Tensor) -> None:
        """Change what the model is to use."""
        values = unexpanded_as(values.to(self.values), self.operand)
        if self.fixed is not None:
            values = torch.where(self.fixed, self.before.to(values), values)
        self.values = values
        self._attempt = 0

    def show(self, operand: Tensor) -> None:
        """Write the values where an operation is about to read them."""
        target = unexpanded(operand.detach())
        if self.computed and target.shape == self.values.shape:
            target.copy_(self.values)
        elif not self.computed:
            self.operand.copy_(self.values)

    def write(self) -> None:
        """Write the values to the parameters."""
        if not self.computed:
            self.operand.copy_(self.values)
            return
        self._inverted = self.module is not None and self._invert(self.values)
        if not self._inverted:
            self.parameters[0].detach().copy_(self._oriented(self.values))

    def _invert(self, values: Tensor) -> bool:
        """Give values to the parametrization; whether it takes them."""
        assert self.module is not None
        module, name = self.module
        # its right inverse may refuse, or not exist, in any way it likes
        with suppress(Exception):
            setattr(module, name, self._oriented(values).to(self.parameters[0].dtype).clone())
            return True
        return False

    def agrees(self, used: Tensor) -> bool:
        """Whether the model uses the values; where entries are masked, the others."""
        used = unexpanded(used.detach())
        masked = (used == 0) & self.computed
        if used.shape != self.values.shape or (masked.all() and self.values.any()):
            return False
        wanted = self.values.masked_fill(masked, 0)
        if self.unscaled == reasons.FIXED:
            wanted = wanted * _ratio(used, wanted)
        tolerance = max(1e-3, 4 * torch.finfo(used.dtype).eps) * wanted.abs().max()
        return bool(((used - wanted).abs() <= tolerance).all())

    def give_way(self, used: Tensor) -> bool:
        """Take what the model makes of the values instead; False where that is nothing lasting."""
        used = unexpanded(used.detach())
        if not self.computed or used.shape != self.values.shape or not used.isfinite().all():
            return False
        ratio = _ratio(used, self.values)
        if not (0 < ratio < math.inf):
            return False
        unscaled, self.unscaled = self.unscaled, reasons.FIXED
        if self.agrees(used):
            self.change(used)
            return True
        self._yielded += 1
        if self._yielded > 2:
            self.unscaled = unscaled
            return False
        # first with the scale that was wanted, then with its own
        self.nearly = self._yielded == 1
        if self.nearly:
            self.unscaled, used = unscaled, used / ratio
        self.change(used)
        self.write()
        return True

    def restrict(self, values: Tensor) -> None:
        """Take values whose scale is the model's."""
        self.unscaled, self.nearly = reasons.FIXED, False
        self.change(values)
        self.write()

    def correct(self, used: Tensor) -> bool:
        """Correct the parameters, given what the model makes of them; False when out of ideas."""
        used = unexpanded(used.detach()).to(self.values)
        if not self.computed or used.shape != self.values.shape:
            return False
        used, wanted = self._oriented(used), self._oriented(self.values)
        ratio = (wanted / used).where((used != 0) & (wanted != 0), math.nan)
        body, *others = self.parameters
        factor = _along(ratio, body.new_empty(()))
        self._attempt += 1
        if self._inverted:  # a parametrization keeps its own parameters in order
            if factor is None or self._attempt > 1:
                return False
            return self._invert(self.values * float(factor))
        if self._attempt == 1:
            for other in others:
                if (own := _along(ratio, other)) is not None:
                    other.detach().mul_(own)
                    return True
            self._attempt += 1
        if self._attempt == 2 and factor is not None:
            body.detach().mul_(factor)
            return True
        self._attempt = max(self._attempt, 3)
        if self._attempt == 3 and others and factor is None:
            body.detach().add_((wanted - used).to(body))
            return True
        return False

    def _oriented(self, x: Tensor) -> Tensor:
        """A tensor of the operand's shape in the order of the parameter's axes."""
        return (x.t() if self._turned else x).reshape(self.parameters[0].shape)


def std_of(x: Tensor) -> float:
    """The std of the entries; NaN where there is only one, without the warning of torch."""
    return float(x.detach().double().std()) if x.numel() > 1 else math.nan


def _ratio(x: Tensor, y: Tensor) -> float:
    """How many times as large the entries of x are, by their rms."""
    sizes = [float(t.double().square().mean().sqrt()) for t in (x, y)]
    return sizes[0] / sizes[1] if sizes[1] else math.inf


def unexpanded(x: Tensor) -> Tensor:
    """The tensor with one entry along the axes that repeat their entries."""
    for axis, (size, step) in enumerate(zip(x.shape, x.stride(), strict=True)):
        if step == 0 and size > 1:
            x = x.narrow(axis, 0, 1)
    return x


def unexpanded_as(x: Tensor, like: Tensor) -> Tensor:
    """The part of a tensor that has another's shape."""
    return x[tuple(slice(size) for size in like.shape)]


def shares_storage(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are views of one memory."""
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def overlap(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors have an entry in common."""
    if not shares_storage(x, y):
        return False
    (low, high), (other_low, other_high) = _range(x), _range(y)
    if high <= other_low or other_high <= low:
        return False
    if x.numel() == high - low or y.numel() == other_high - other_low:
        return True  # one of them has no holes
    cells = torch.zeros(max(high, other_high), dtype=torch.bool)
    cells.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
    return bool(cells.as_strided(y.shape, y.stride(), y.storage_offset()).any())


def parametrization_of(name: str, modules: dict[str, nn.Module]) -> tuple[nn.Module, str] | None:
    """The module and the name of the weight that a parameter parametrizes."""
    path, found, rest = name.partition("parametrizations.")
    module = modules.get(path.removesuffix("."))
    weight = rest.split(".")[0]
    return (module, weight) if found and module and is_parametrized(module, weight) else None


def _turned(x: Tensor, body: Tensor) -> bool:
    """Whether a matrix was computed of another in the transposed order."""
    if x.ndim != 2 or body.ndim != 2 or x.shape not in (body.shape, body.t().shape):
        return False
    if x.shape[0] != x.shape[1]:
        return x.shape != body.shape
    straight, turned = ((x.double() * y.double()).sum().abs() for y in (body, body.t()))
    return bool(turned > straight)


def _range(x: Tensor) -> tuple[int, int]:
    """The first place in memory, and the one behind the last."""
    start = int(x.storage_offset())
    return start, start + 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))


def _along(ratio: Tensor, other: Tensor) -> Tensor | None:
    """The factor for a parameter that multiplies a weight; None where no factor gives the ratio.

    Args:
        ratio: wanted over used entries (NaN where there are none to compare).
        other: one entry, or one for each row; a gain of weight normalization.
    """
    shapes = [other.shape, (*other.shape, *[1] * (ratio.ndim - other.ndim))]
    for shape in shapes:
        if len(shape) > ratio.ndim:
            return None
        padded = (*[1] * (ratio.ndim - len(shape)), *shape)
        if any(size not in (1, whole) for size, whole in zip(padded, ratio.shape, strict=True)):
            continue
        alike = [axis for axis, size in enumerate(padded) if size == 1]
        factor = ratio.nanmean(alike, keepdim=True) if alike else ratio
        if not ((ratio - factor).abs() > 0.01 * factor.abs()).any():
            return factor.nan_to_num(1.0).reshape(other.shape).to(other)
    return None
