"""Numbers about values that their entries alone do not tell: branches, tokens and attention."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import proxy

import torch
from torch import Tensor

from initstats.moments.tokens import resemblance
from initstats.probe.attention import Unknown, fused, plain
from initstats.probe.flex import flexible
from initstats.probe.kinds import ATTENTION
from initstats.probe.linear import labels
from initstats.probe.masks import Masks, Unfollowed
from initstats.probe.noted import CONFLICT
from initstats.probe.operations import Operation, aside
from initstats.probe.origins import Call, Origin
from initstats.probe.readings import Direction, Mode
from initstats.probe.sequences import Layout, Sequences
from initstats.probe.shares import pairs, weighted_values
from initstats.probe.slots import Address, Slot
from initstats.probe.slots import plain as entries_of
from initstats.probe.streams import Streams

if TYPE_CHECKING:
    from initstats.probe.passes import Passes

UNTOLD = "attention"
"""The kind of a miss that was measured, but whose weights of attention are not known."""
_TILE = 2**18  # entries of samples that are looked at together


class Notes:
    """What is noted about the values of a model, as its operations run.

    Args:
        recorder: lists what could not be known, and what failed.
    """

    def __init__(self, recorder: Passes) -> None:
        self._recorder: Passes = proxy(recorder)  # which holds this
        self._sequences, self._streams, self._masks = Sequences(), Streams(), Masks()
        self._branch: tuple[Address, float] | None = None

    def begin_pass(self) -> None:
        """Begin a pass."""
        self._streams.begin()

    def carry(self, operation: Operation, x: Tensor, source: Tensor, axis: int | None) -> None:
        """Follow entries that an operation rearranged, with units in a dimension of the source."""
        with self._recorder.guarded(UNTOLD, "", operation.name):
            self._streams.carry(x, source)
            self._sequences.carry(operation, x, source, axis)
            self._masks.carry(operation, x, source)

    def follow(
        self,
        operation: Operation,
        origins: Sequence[Origin],
        outputs: list[Tensor],
        axes: Sequence[int | None],
        *,
        weighted: bool,
    ) -> None:
        """Follow an operation that makes new values, before they are measured.

        Args:
            axes: dimensions of the outputs' units.
            weighted: whether weights made them.
        """
        self._branch = None
        known = {id(x): origin for x, origin in zip(operation.read, origins, strict=True)}
        signals = [x for x in operation.read if known[id(x)].kind == "signal"]
        with self._recorder.guarded(UNTOLD, "", operation.name):
            branch = self._streams.follow(operation, signals, outputs, weighted=weighted)
            if branch is not None and (value := known[id(branch[0])].value) is not None:
                self._branch = value, branch[1]
            placed = [(x, known[id(x)].axis) for x in signals]
            self._sequences.follow(operation, placed, outputs, axes, weighted=weighted)
            if _are_scores(operation, origins):
                self._masks.begin(operation, known, outputs[0])
            else:
                self._masks.follow(operation, known, outputs)

    def measure(
        self, slot: Slot, direction: Direction, x: Tensor, mode: Mode, mask: Tensor | None
    ) -> None:
        """Measure how the tokens of a value, or those of its gradient, resemble each other.

        Args:
            mask: booleans, (entries of a unit): which of them count; by default all do.
        """
        with self._recorder.guarded(UNTOLD, slot.address.name, slot.address.op):
            self._measure_tokens(slot, direction, x, mode, mask)

    def note(
        self,
        call: Call,
        operation: Operation,
        origins: Sequence[Origin],
        slot: Slot | None,
        x: Tensor,
        mode: Mode,
        mask: Tensor | None,
    ) -> None:
        """Note at the output x of an operation that was followed its branch and its attention.

        Args:
            slot: of the output; None where it was not measured.
            mask: the probe's.
        """
        with self._recorder.guarded(UNTOLD, call.name, operation.name):
            if (found := weighted_values(operation, origins, mode)) is not None:
                shares, place, weights = found
                weights.facts[mode].noted.attends = True
                self._sequences.tell_of_product(operation, shares, place)
            if slot is not None:
                noted = slot.facts[mode].noted
                noted.branch = self._branch or noted.branch
                self._measure_attention(call.name, operation, slot, x, mode, mask)

    def _measure_attention(
        self,
        name: str,
        operation: Operation,
        slot: Slot,
        x: Tensor,
        mode: Mode,
        mask: Tensor | None,
    ) -> None:
        facts = slot.facts[mode]
        try:
            with _plainly(x):
                if operation.name in ATTENTION:
                    facts.noted.attends = True
                    weights = flexible if operation.name == "flex_attention" else fused
                    facts.noted.add("forward", weights(operation, mask))
                elif not math.isnan(facts.shares_axis):
                    self._measure_shares(operation, slot, x, mode, mask)
        except Unfollowed:
            reason = "a mask of its scores could not be followed through what moved them"
            self._recorder.miss(UNTOLD, name, operation.name, reason)
        except Unknown as reason:
            self._recorder.miss(UNTOLD, name, operation.name, str(reason))

    def _measure_tokens(
        self, slot: Slot, direction: Direction, x: Tensor, mode: Mode, mask: Tensor | None
    ) -> None:
        first, layout = slot.layout is None, slot.layout
        if direction == "forward":
            layout = self._sequences.of(x, slot.axis)
            if layout is not None and slot.layout is not None:
                layout.order.join(slot.layout.order)
        if layout is None or slot.axis != 2 or not layout.fits(x):
            return
        slot.layout, noted = layout, slot.facts[mode].noted
        noted.order, told = layout.order, layout.order.tokens
        untold = (0, 1) if first and direction == "forward" else (1,)
        with _plainly(x):
            for along in untold if told is None else () if told == CONFLICT else (told,):
                for tile in _samples(entries_of(x), mask, layout, along):
                    noted.add(direction, resemblance(*tile), along)

    def _measure_shares(
        self, operation: Operation, slot: Slot, x: Tensor, mode: Mode, mask: Tensor | None
    ) -> None:
        scores = [y for y in operation.tensors if y in self._masks and y.shape == x.shape]
        if not scores or operation.name == "log_softmax":
            return
        facts, allowed = slot.facts[mode], self._masks.of(scores[0])
        logits = scores[0] if operation.name == "softmax" and scores[0] is not x else None
        facts.noted.add("forward", plain(x, int(facts.shares_axis), logits, allowed, mask))


def _are_scores(operation: Operation, origins: Sequence[Origin]) -> bool:
    """Whether it is a product of queries and keys, which are no parameters themselves."""
    if all(origin.kind != "signal" for origin in origins) or len(origins) > 3:
        return False
    if any(origin.parameters for origin in origins):
        return False
    product = labels(operation)
    return product is not None and pairs([own for _, own in product[0]], product[1])


def _samples(
    x: Tensor, mask: Tensor | None, layout: Layout, along: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Some samples after others, (samples, tokens, units), and which of their tokens count.

    Args:
        along: the leading dimension of the layout that counts tokens.
    """
    counted = None if mask is None else mask.to(x.device).view(x.shape[:2])
    if layout.leading[along].place == 0:
        x, counted = x.transpose(0, 1), None if counted is None else counted.T
    if x.shape[1] < 2 or not x.numel():
        return
    step = max(1, _TILE // (x.shape[1] * x.shape[2]))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        tile = x[part] if x.dtype in (torch.float32, torch.float64) else x[part].float()
        yield tile, None if counted is None else counted[part]


@contextmanager
def _plainly(x: Tensor) -> Iterator[None]:
    """Compute aside, in the precision of the numbers given."""
    with aside(), torch.autocast(x.device.type, enabled=False):
        yield
