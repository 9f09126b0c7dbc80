"""Where a model's values have the tokens of sequences, followed through its operations.

A value (samples, tokens, units) comes from outside, from a lookup, or from an image whose positions
were put in a row. Its two leading dimensions are followed by their place in the memory's order
through views, by trying through what moves dimensions, and by their labels through products. Which
of the two counts tokens is told by what works along one of them: attention, or a recurrent layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from initstats.probe.axes import moved_axis
from initstats.probe.kinds import ATTENTION, CHOOSING, LOOKUPS, RECURRENT, words
from initstats.probe.linear import labels
from initstats.probe.noted import Order
from initstats.probe.operations import Operation

_VIEWS = words(
    "_unsafe_view alias clone contiguous cpu cuda detach flatten ravel reshape reshape_as squeeze "
    "to unflatten unsqueeze view view_as"
)
"""Calls that leave the entries in the order in which rows follow each other."""


class Role(NamedTuple):
    """The place of a dimension that may have become a part of a larger one.

    Attributes:
        place: the dimension that it is, or is a part of.
        inside: the product of the sizes of the parts before it.
        size: its own.
    """

    place: int
    inside: int
    size: int

    def whole(self, x: Tensor) -> bool:
        """Whether it is all of a tensor's dimension."""
        return self.inside == 1 and x.shape[self.place] == self.size

    def viewed(self, x: Tensor, out: Tensor) -> Role | None:
        """Its place in another view of the same entries; None where it was taken apart."""
        before = math.prod(x.shape[: self.place]) * self.inside
        found, start = None, 1
        for place, size in enumerate(out.shape):
            end = start * size
            if start <= before and before % start == 0 and end % (before * self.size) == 0:
                role = Role(place, before // start, self.size)
                if role.whole(out):
                    return role
                found = found or role
            start = end
        return found


class Layout(NamedTuple):
    """The dimensions of a value with tokens.

    Attributes:
        leading: samples and tokens, in the order that the first value of the sequence had.
        units: None where the last values of a token are no units, or some of them.
        order: which of the leading ones counts tokens.
    """

    leading: tuple[Role, Role]
    units: Role | None
    order: Order

    def fits(self, x: Tensor) -> bool:
        """Whether a tensor is (samples, tokens, units), in this order or with the first two turned.

        What has one unit is none: a mean, or a norm, over units.
        """
        if self.units is None or x.ndim != 3 or x.shape[2] < 2:
            return False
        whole = all(role.whole(x) for role in (*self.leading, self.units))
        return whole and self.units.place == 2

    def tell(self, place: int) -> None:
        """Say that the tokens are in a dimension."""
        found = [n for n, role in enumerate(self.leading) if role.place == place]
        if len(found) == 1:
            self.order.tell(found[0])


class Sequences:
    """The layouts of the tensors that carry a signal; None of those that lost theirs."""

    def __init__(self) -> None:
        self._layouts: Any = WeakIdKeyDictionary()

    def of(self, x: Tensor, axis: int | None) -> Layout | None:
        """The layout of a tensor with its units in a dimension (None: the last).

        One of three dimensions, that has none yet, begins a sequence.
        """
        if x not in self._layouts and _may_begin(x, axis):
            first, second, units = (Role(n, 1, size) for n, size in enumerate(x.shape))
            self._layouts[x] = Layout((first, second), units, Order())
        layout: Layout | None = self._layouts.get(x)
        return layout

    def carry(self, operation: Operation, x: Tensor, source: Tensor, axis: int | None) -> None:
        """Take over the layout of a source whose entries an operation rearranged or chose."""
        if x is source and operation.before is None:
            return
        layout = self.of(source, axis)
        if layout is None:
            if source in self._layouts:
                self._layouts[x] = None
            return
        roles = [self._moved(operation, x, source, role) for role in layout.leading]
        units = layout.units and self._moved(operation, x, source, layout.units)
        if units is not None and not units.whole(x):
            units = None
        self._layouts[x] = _made(roles, units, layout.order)

    def follow(
        self,
        operation: Operation,
        signals: Sequence[tuple[Tensor, int | None]],
        outputs: Sequence[Tensor],
        axes: Sequence[int | None],
        *,
        weighted: bool,
    ) -> None:
        """Find the layouts of what an operation made of signals, with their units' dimensions.

        Args:
            axes: dimensions of the outputs' units.
            weighted: whether weights made them.
        """
        name, out = operation.name.rstrip("_"), outputs[0]
        if out.ndim < 2 or name in LOOKUPS - CHOOSING:
            return
        known = [(x, found) for x, axis in signals if (found := self.of(x, axis)) is not None]
        if not known:
            lost = any(x in self._layouts or x.ndim > 2 for x, _ in signals)
            for x, axis in zip(outputs, axes, strict=True):
                if lost and _may_begin(x, axis):
                    self._layouts[x] = None
            return
        if name in CHOOSING:
            for x in outputs:
                self.carry(operation, x, known[0][0], None)
            return
        self._tell(name, operation, known)
        for x in outputs[1:]:  # states of a recurrent layer, indices of the largest
            self._layouts[x] = None
        made = axes[0] if axes[0] is not None else out.ndim - 1
        self._layouts[out] = self._after(name, operation, known, out, made if weighted else None)

    def _after(
        self,
        name: str,
        operation: Operation,
        known: list[tuple[Tensor, Layout]],
        out: Tensor,
        made: int | None,
    ) -> Layout | None:
        if name in ATTENTION:
            return _beside(known[0], out, out.ndim - 1 if _values_whole(operation, known) else None)
        if (product := labels(operation)) is not None:
            return _labelled(product, known, out, made)
        alike = [(x, layout) for x, layout in known if x.ndim == out.ndim]
        if not alike:
            return None
        _, first = alike[0]
        for _, layout in alike[1:]:
            if [r.place for r in layout.leading] == [r.place for r in first.leading]:
                first.order.join(layout.order)
        largest = max(alike, key=lambda pair: pair[0].numel())
        units = out.ndim - 1 if name in RECURRENT else (first.units and first.units.place)
        return _beside(largest, out, units)

    def _tell(self, name: str, operation: Operation, known: list[tuple[Tensor, Layout]]) -> None:
        """Learn from what works along one of the dimensions that it counts tokens."""
        by_id = {id(x): (x, layout) for x, layout in known}
        if name in ATTENTION:
            for number, key in enumerate(("query", "key")):
                x, layout = by_id.get(id(operation.argument(number, key)), (None, None))
                if x is not None and layout is not None:
                    layout.tell(x.ndim - 2)
        elif name in RECURRENT and isinstance(first := operation.argument(8, "batch_first"), bool):
            x, layout = known[0]
            if x is operation.args[0] and x.ndim == 3:
                layout.tell(1 if first else 0)

    def tell_of_product(self, operation: Operation, shares: Tensor, place: int) -> None:
        """Learn from a product that sums values with weights of attention, and shares of 1.

        Args:
            place: the dimension of the shares that is summed over.
        """
        found = labels(operation)
        if found is None:
            return
        operands, out = found
        own = next(given for x, given in operands if x is shares)
        layout = self._layouts.get(shares)
        rows = [n for n, label in enumerate(own) if label in out]
        if layout is not None and rows:
            layout.tell(rows[-1])
        for x, given in operands:
            layout = self._layouts.get(x)
            if x is not shares and layout is not None and own[place] in given:
                layout.tell(list(given).index(own[place]))

    def _moved(self, operation: Operation, x: Tensor, source: Tensor, role: Role) -> Role | None:
        """The role of a source's dimension in what an operation rearranged or chose of it."""
        name = operation.name.rstrip("_")
        if name in _VIEWS and x.numel() == source.numel() and operation.before is None:
            return role.viewed(source, x)
        place = moved_axis(operation, x, source, role.place)
        if place is None or place >= x.ndim:
            return None
        return _resized(role, source, x, place)


def _may_begin(x: Tensor, axis: int | None) -> bool:
    return x.ndim == 3 and axis in (None, 2)


def _made(roles: Sequence[Role | None], units: Role | None, order: Order) -> Layout | None:
    first, second = roles
    if first is None or second is None:
        return None
    if first[:2] == second[:2] and first.size * second.size > 1:
        return None  # one of them was lost in the other
    return Layout((first, second), units, order)


def _resized(role: Role, source: Tensor, x: Tensor, place: int) -> Role | None:
    """A role at another place, with another size where some of its entries were chosen."""
    if role.whole(source):
        return Role(place, 1, x.shape[place])
    same = source.shape[role.place] == x.shape[place]
    return role._replace(place=place) if same else None


def _beside(known: tuple[Tensor, Layout], out: Tensor, units: int | None) -> Layout | None:
    """The layout of an output whose dimensions are those of what it was made of."""
    x, layout = known
    roles = [_resized(role, x, out, role.place) for role in layout.leading]
    own = None if units is None else Role(units, 1, out.shape[units])
    return _made(roles, own, layout.order)


def _values_whole(operation: Operation, known: list[tuple[Tensor, Layout]]) -> bool:
    value = operation.argument(2, "value")
    return any(x is value and layout.units is not None for x, layout in known)


def _labelled(
    product: Any, known: list[tuple[Tensor, Layout]], out: Tensor, units: int | None
) -> Layout | None:
    """The layout of a product, whose dimensions have labels as those of its operands have.

    Args:
        units: the dimension that weights made, if they did.
    """
    given, made = product[0], list(product[1])
    layouts = {id(x): layout for x, layout in known}
    places: list[Role | None] = [None, None]
    weighted, order = units is not None, None
    for x, own in given:
        layout = layouts.get(id(x))
        if layout is None:
            continue
        order = order or layout.order
        for n, role in enumerate(layout.leading):
            if places[n] is None and layout.order is order and own[role.place] in made:
                places[n] = role._replace(place=made.index(own[role.place]))
        if not weighted and layout.units is not None and own[layout.units.place] in made:
            units = made.index(own[layout.units.place])
    if order is None:
        return None
    return _made(places, None if units is None else Role(units, 1, out.shape[units]), order)
