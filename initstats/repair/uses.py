"""Which operations of a forward pass multiply the signal with which weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.batch import called, unmoved
from initstats.probe.eager import EAGER
from initstats.probe.kinds import CASTS, REARRANGING, words
from initstats.probe.linear import sums
from initstats.probe.operations import Opening, Operation, name_of, tensors

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Recurrent operations, also those of cells, and how many gates' rows their matrices have."""
BIAS_FIRST = words("addbmm addmm addmv baddbmm")
"""Products whose first argument is added to them."""


@dataclass(frozen=True)
class Use:
    """A call of an operation on a weight and, maybe, a signal.

    Attributes:
        operation: the call.
        operand: the weight as the operation got it.
        sources: ids of the parameters that the operand is made of.
        signal: the first argument that the model's input reaches; None where there is none.
        biases: arguments that it adds, and the parameters (by id) that they are made of.
        peers: the operation's weights, this one among them.
        blocks: how many layers the operand's rows are packed from.
        after: the operand and sources of the product that made the signal, if one did.
    """

    operation: Operation
    operand: Tensor
    sources: frozenset[int]
    signal: Tensor | None
    biases: tuple[tuple[Tensor, frozenset[int]], ...]
    peers: tuple[Tensor, ...]
    blocks: int
    after: tuple[Tensor, frozenset[int]] | None

    @property
    def op(self) -> str:
        """The operation's name."""
        return self.operation.name

    @property
    def is_product(self) -> bool:
        """Whether the operation makes units that sum over the signal with these weights."""
        return self.signal is not None and bool(sums(self.operation))

    def run(self) -> Any:
        """The operation's result, with its arguments as they are now."""
        operation = self.operation
        return operation.function(*operation.args, **operation.kwargs)


Handle = Callable[[Use], Any]
"""What is done with a use; its result stands in for the operation's, if it is not None."""


def gates(op: str) -> int:
    """The number of gates of a recurrent operation; 0 for any other."""
    return GATES.get(op.removesuffix("_cell"), 0)


def _is_bias(operation: Operation, x: Tensor) -> bool:
    """Whether an argument, made of weights, is what a product adds."""
    op = operation.name
    if op.rstrip("_") in BIAS_FIRST:
        return x is operation.argument(0, "input")
    return x.ndim < 2 and (op.startswith(("conv", "linear", "bilinear")) or gates(op) > 0)


class Traces(NamedTuple):
    """What a pass computed of parameters and left in the model.

    Attributes:
        buffers: such as the vectors of spectral norm, with their values and the parameters (by id).
        attributes: modules, names and values under which they hold what was computed, as hooks do.
    """

    buffers: list[tuple[Tensor, Tensor, frozenset[int]]]
    attributes: list[tuple[nn.Module, str, Tensor]]


def follow(model: nn.Module, inputs: Any, handle: Handle, added: Handle | None = None) -> Traces:
    """Run a model, which is put back afterwards, and hand over every use of a weight in its turn.

    Args:
        handle: gets uses by an operation with a signal or of a parameter itself.
        added: gets parameters that are added to the output of a product.
    """
    with ExitStack() as stack:
        stack.enter_context(EAGER)
        stack.enter_context(unmoved(model))
        stack.enter_context(torch.no_grad())
        follower = _Follower(model, inputs, handle, added or (lambda use: None))
        with follower:
            called(model, inputs)
        return follower.traces()


class _Follower(Opening):
    """Sees every operation, and knows of each tensor whether the input or only weights reach it."""

    def __init__(self, model: nn.Module, inputs: Any, handle: Handle, added: Handle) -> None:
        super().__init__()
        self._model, self._handle, self._added = model, handle, added
        self._rows: dict[int, int] = {}
        self._buffers = {id(buffer): buffer for buffer in model.buffers()}
        self._moved: dict[int, frozenset[int]] = {}
        self._sources: Any = WeakIdKeyDictionary()  # of tensors that no input reaches
        self._signals: Any = WeakIdKeyDictionary()  # with the weight of the product that made them
        for module in model.modules():
            for x in [*vars(module).values(), *module._buffers.values()]:
                if isinstance(x, Tensor):
                    self._sources[x] = frozenset()
        for parameter in model.parameters():
            self._sources[parameter] = frozenset({id(parameter)})
        for x in tensors(inputs):
            if x in self._sources:
                del self._sources[x]
            self._signals[x] = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, unless a handle does, and follow what it made."""
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():
            return func(*args, **kwargs)
        if self.opens(func):
            if func.__name__ == "multi_head_attention_forward" and args[5] is not None:
                self._rows[id(args[5])] = args[3]  # its packed weight has this many rows for each
            return self.inside(func, args, kwargs)
        operation = Operation(func, name_of(func), args, kwargs)
        known = [self._sources_of(x) for x in operation.tensors]
        result = self._used(operation, known) if any(known) else None
        if result is None:
            result = func(*args, **kwargs)
        self._take(operation, known, result)
        return result

    def traces(self) -> Traces:
        """What was computed of parameters and is still there."""
        moved = [(self._buffers[ident], sources) for ident, sources in self._moved.items()]
        attributes = [
            (module, name, x)
            for module in self._model.modules()
            for name, x in vars(module).items()
            if isinstance(x, Tensor) and self._sources.get(x)
        ]
        return Traces([(x, x.clone(), sources) for x, sources in moved], attributes)

    def _sources_of(self, x: Tensor) -> frozenset[int] | None:
        """The parameters that a tensor is made of; None where the input reaches it."""
        if x not in self._sources and x not in self._signals:
            self._signals[x] = None
        return self._sources.get(x)  # type: ignore[no-any-return]

    def _used(self, operation: Operation, known: list[frozenset[int] | None]) -> Any:
        """Hand over the uses of an operation; the result of the handle that has one."""
        op = operation.name.rstrip("_")
        if op in REARRANGING | CASTS:
            return None
        pairs = list(zip(operation.tensors, known, strict=True))
        signals = [x for x, sources in pairs if sources is None]
        signals = [x for x in signals if x.is_floating_point()] or signals
        weights = [(x, s) for x, s in pairs if s and not (signals and _is_bias(operation, x))]
        biases = tuple((x, s) for x, s in pairs if s and signals and _is_bias(operation, x))
        after = next(filter(None, map(self._signals.get, signals)), None)
        handle = self._added if after and op == "add" else self._handle
        result = None
        for x, sources in weights:
            rows = self._rows.get(next(iter(sources))) if len(sources) == 1 else None
            blocks = x.shape[0] // rows if rows and x.shape[0] % rows == 0 else 1
            signal = signals[0] if signals else None
            peers = tuple(peer for peer, _ in weights)
            use = Use(operation, x, sources, signal, biases, peers, blocks, after)
            with torch._C.DisableTorchFunction():
                made = handle(use)
            result = made if result is None else result
        return result

    def _take(self, operation: Operation, known: list[frozenset[int] | None], result: Any) -> None:
        """Remember what a result is made of."""
        target = operation.written
        signal = any(sources is None for sources in known)
        after = self._product(operation, known) if signal else None
        for x in tensors(result if target is None else target):
            if signal:
                if x in self._sources:
                    del self._sources[x]
                self._signals[x] = after
            elif x not in self._signals:
                own = self._sources.get(x, frozenset())
                self._sources[x] = sources = own.union(*(s for s in known if s))
                if target is not None and sources and id(x) in self._buffers:
                    self._moved[id(x)] = sources

    def _product(
        self, operation: Operation, known: list[frozenset[int] | None]
    ) -> tuple[Tensor, frozenset[int]] | None:
        """The weight, with its sources, of the product that made what an operation gives."""
        if operation.name.rstrip("_") in REARRANGING | CASTS:
            return next(filter(None, map(self._signals.get, operation.tensors)), None)
        if not any(known) or not sums(operation):
            return None
        pairs = zip(operation.tensors, known, strict=True)
        return next(((x, s) for x, s in pairs if s and not _is_bias(operation, x)), None)
