"""The passes of a model, and the steps that updates of its weights divide them into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.gradients import Gradients, WeightGradients, at_the_end
from initstats.probe.heap import Heap
from initstats.probe.hidden import Hidden
from initstats.probe.misses import Guard, Miss
from initstats.probe.operations import tensors
from initstats.probe.origins import Origin
from initstats.probe.ranks import distributed, gather, ranks
from initstats.probe.readings import Mode, read_together
from initstats.probe.slots import Address, Slot
from initstats.probe.updates import Updates

if TYPE_CHECKING:
    from initstats.probe.probe import Probe


class Passes:
    """The passes and steps of a model: where they begin and end, and what failed in them.

    Args:
        probe: the model, and what is to be measured.

    Attributes:
        slots: every value that was measured, in order of execution.
        misses: what was seen but could not be measured.
        parameters: the model's, by id, with their names.
        hidden: counts weights that are no parameters of the model.
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
        self.heap = Heap()
        self.measuring, self.inside, self.watching, self.capturing = True, False, True, False
        guard = partial(Guard, Miss("gradient", "", "", ""), self.misses.setdefault)
        self.gradients = Gradients(guard)
        self.hidden = Hidden(probe.model)
        self.weight_gradients = WeightGradients(self)
        self.parameters: dict[int, tuple[str, nn.Parameter]] = {}
        self.used: set[int] = set()
        self._updated = False
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

    @property
    def ended(self) -> int:
        """How many steps ended with an update, that after the last pass among them."""
        with torch._C.DisableTorchFunction():
            return self.step + (self._updated or self.updates.changed(self._present()))

    def _present(self) -> dict[str, nn.Parameter]:
        """The parameters that the last pass brought, which others may have replaced since."""
        named = ((bare(name), p) for name, p in self.probe.model.named_parameters())
        return {name: p for name, p in named if name in self._called}

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
            self._expect(ident, parameter)

    def meet(self, module: nn.Module, caller: nn.Module) -> str | None:
        """The name of a module that became a part of its caller during the pass; None: it did not.

        Its parameters are the model's from now on.
        """
        if all(part is not module for part in caller.modules()):
            return None
        with self.guarded("module", "", ""), torch._C.DisableTorchFunction():
            for name, parameter in self.probe.model.named_parameters():
                if id(parameter) not in self.parameters:
                    self.parameters[id(parameter)] = bare(name), parameter
                    self._expect(id(parameter), parameter)
            return self.probe.name_modules().get(id(module))
        return None

    def _expect(self, ident: int, parameter: nn.Parameter) -> None:
        """Know a parameter where an operation uses it, and where its gradient arrives."""
        moved = tuple(range(parameter.ndim))
        self._origins[parameter] = Origin("weight", (), 0, (ident,), moved=moved)
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
        with self.guarded("parameter", "", ""):
            self._updated = self.ended > self.step
        self.updates.close()
        self.heap.close()

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
        ended = [reading for slot in self.slots.values() for reading in slot.close(step)]
        if distributed():
            return  # accumulators can still be merged
        with suppress(ValueError):  # a statistic that fails is told to whoever asks for it
            read_together(ended)
            for reading in ended:
                reading.reduce()

    def gather(self, group: Any) -> None:
        """Merge what all ranks measured, up to the present step, which ends here."""
        self.weight_gradients.settle()
        if distributed():
            self._close_step(self.step)
            self.updates.tell()
            for slot in gather(self.slots, group):
                reason = "each rank has a part of it, and only weights' own gradients are averaged"
                self.miss("gradient", slot.address.name, slot.address.op, reason)

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
            shape, spectra = tuple(x.shape), self.probe.spectra
            self.slots[address] = Slot(address, layer, layers, shape, x.dtype, axis, spectra)
        return self.slots[address]

    def miss(self, *what: str) -> None:
        """List something that was not measured, and why."""
        self.misses[Miss(*what)] = None


def bare(name: str) -> str:
    """A qualified name as it was before `torch.compile` wrapped the module."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
