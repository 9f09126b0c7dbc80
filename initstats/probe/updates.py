"""Updates of a model's weights: whoever makes them, they begin a step, and have a size."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from initstats.probe.operations import is_empty

_NO_NUMBERS = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What is raised for a parameter that is not made yet, or by a tensor of a foreign kind."""
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Seen:
    """A parameter as it was in the pass that saw it last.

    Attributes:
        step: the step of that pass.
        layout: type, shape, strides and device.
        mark: a number that stands for its values, where no copy is kept.
        copy: its values, flat in the order of the memory.
        handle: what changes if it is replaced or written to in a way that torch counts.
    """

    step: int
    layout: Hashable = None
    mark: Hashable = None
    copy: Tensor | None = None
    handle: Hashable = None


class Updates:
    """Counts the updates of a model's weights, and measures them.

    Version counters miss what fused optimizers write and what goes through `.data`, so the values
    are compared too: with a copy where the size of an update is wanted, with a mark otherwise. Both
    read them once, at the memory's speed. What a pass itself does to the weights (an embedding's
    `max_norm`) is no update. A step of an optimizer is one even if it leaves all values as they
    are, as at a learning rate of 0.

    Each pass looks at the parameters of the module that is called. Where only parts of a model are
    called by themselves, a part that is first called at a step shows what began it.

    Attributes:
        step: how many updates came before the present pass.
        ratios: by name, rms of a parameter's update over its rms before; NaN where no copy of it
            was kept, infinite for one that was 0. Only of parameters that the step has seen.
    """

    def __init__(self) -> None:
        self.step = 0
        self.ratios: dict[str, float] = {}
        self._seen: dict[str, Seen] = {}
        self._names: dict[int, tuple[int, frozenset[str]]] = {}
        self._told = False

    def tell(self) -> None:
        """Hear that an optimizer stepped: the next pass begins a step."""
        self._told = bool(self._seen)

    def begin(self, module: nn.Module, named: Mapping[str, Tensor], *, copies: bool) -> bool:
        """Look at the weights as a pass begins; whether a step begins with it.

        Args:
            module: the module that is called.
            named: its parameters.
            copies: whether to keep copies of those that are trained.
        """
        changed = {name for name, x in named.items() if self._differs(name, x)}
        step, names = self._names.get(id(module), (-1, frozenset()))
        began = self._told or (step == self.step and names != named.keys())
        began |= any(self._seen[name].step == self.step for name in changed)
        if began:
            self.step += 1
            self.ratios = {}
        self._told = False
        self._names[id(module)] = self.step, frozenset(named)
        for name, x in named.items():
            seen = self._seen.setdefault(name, Seen(self.step))
            if seen.step < self.step:
                changes = name in changed
                self.ratios[name] = _follow(seen, x) if changes else 0.0
            seen.step = self.step
            self._keep(seen, x, copies=copies and (x.requires_grad or name in changed))
        return began

    def end(self, named: Mapping[str, Tensor]) -> None:
        """Take the weights as a pass leaves them for those of its step."""
        for name, x in named.items():
            seen = self._seen.get(name)
            if seen is None or seen.handle != handle(x):
                seen = self._seen.setdefault(name, Seen(self.step))
                _follow(seen, x)
                self._keep(seen, x, copies=seen.copy is not None)

    def changed(self, named: Mapping[str, Tensor]) -> bool:
        """Whether the weights were updated since the last pass."""
        return self._told or any(self._differs(name, x) for name, x in named.items())

    def close(self) -> None:
        """Let go of all copies."""
        self._seen, self._names = {}, {}

    def _differs(self, name: str, x: Tensor) -> bool:
        seen = self._seen.get(name)
        if seen is None:
            return False
        if written(seen.handle, handle(x)):
            return True
        if (values := numbers(x)) is None or seen.copy is None:
            return seen.mark != mark(x)
        if seen.layout != layout(x):
            return True
        return differ(seen.copy, values)

    def _keep(self, seen: Seen, x: Tensor, *, copies: bool) -> None:
        """Remember the values of a parameter; a copy that is there holds them already."""
        values = numbers(x)
        if values is None or (seen.copy is not None and seen.layout != layout(x)):
            seen.copy = None
        if seen.copy is None and copies and values is not None:
            seen.copy = values.clone()
        seen.layout, seen.handle = layout(x), handle(x)
        seen.mark = mark(x) if seen.copy is None else None


def _follow(seen: Seen, x: Tensor) -> float:
    """Copy a parameter's new values; rms of what changed over rms of the old ones."""
    values = numbers(x)
    if values is None or seen.copy is None or seen.layout != layout(x):
        return math.nan
    update, before = follow(seen.copy, values)
    return update / before if before else math.inf if update else 0.0


def numbers(x: Tensor) -> Tensor | None:
    """The entries, flat in the order of the memory; None where they cannot be read."""
    try:
        if is_empty(x):
            return None
        x = x.detach()
        x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
        if x.layout != torch.strided or x.is_quantized or x.is_meta or type(x) is not Tensor:
            return None
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            x = x.permute(0, 2, 3, 1)
        return x.reshape(-1)
    except _NO_NUMBERS:
        return None


def bits(x: Tensor) -> Tensor:
    """Flat numbers as integers, eight bytes at a time where possible."""
    size = x.numel() * x.itemsize
    whole = not (size % 8 or x.data_ptr() % 8)
    return x.view(torch.int64 if whole else INTEGERS[x.itemsize])


def layout(x: Tensor) -> Hashable:
    """How a tensor lies in memory."""
    try:
        return x.dtype, tuple(x.shape), x.stride(), x.device
    except _NO_NUMBERS:
        return None


def handle(x: Tensor) -> Hashable:
    """What changes when a tensor is replaced, or written to in a way that torch counts."""
    try:
        return id(x), x.data_ptr(), object() if x.is_inference() else x._version
    except _NO_NUMBERS:
        return id(x)


def written(before: Hashable, now: Hashable) -> bool:
    """Whether torch counted a write to a tensor between two of its handles."""
    if not (isinstance(before, tuple) and isinstance(now, tuple)):
        return False
    return before[:2] == now[:2] and isinstance(now[2], int) and before[2] != now[2]


def mark(x: Tensor) -> Hashable:
    """A number that stands for all values; where they cannot be read, the tensor's version."""
    values = numbers(x)
    if values is None:
        return handle(x)
    words = bits(values)
    if words.device.type == "cpu":
        from initstats.probe import kernels  # numba takes half a second to load

        return layout(x), int(kernels.mark(words.numpy()))
    # the same idea for any device: a sum with odd weights that depend on the place
    odd = 0x9E3779B97F4A7C15 - 2**64
    place = torch.arange(len(words), device=words.device) * odd
    place = (place ^ (place >> 29)) * odd
    return layout(x), int((words.to(torch.int64) * (place | 1)).sum())


def differ(old: Tensor, new: Tensor) -> bool:
    """Whether some bit of flat numbers is another."""
    if old.device.type != "cpu":
        return not torch.equal(old.view(INTEGERS[old.itemsize]), new.view(INTEGERS[new.itemsize]))
    from initstats.probe import kernels

    size = INTEGERS[old.itemsize]
    return bool(kernels.differ(old.view(size).numpy(), new.view(size).numpy()))


def follow(old: Tensor, new: Tensor) -> tuple[float, float]:
    """Copy new numbers over old ones; rms of what changed, and of the old ones."""
    if old.device.type == "cpu" and old.dtype in (torch.float32, torch.float64):
        from initstats.probe import kernels

        update, before = kernels.follow(old.numpy(), new.numpy())
        return float(update), float(before)
    wide = torch.float64 if old.dtype == torch.float64 else torch.float32
    root = math.sqrt(max(len(old), 1))
    update = torch.linalg.vector_norm(new.to(wide) - old.to(wide), dtype=torch.float64)
    before = torch.linalg.vector_norm(old.to(wide), dtype=torch.float64)
    old.copy_(new)
    return float(update) / root, float(before) / root
