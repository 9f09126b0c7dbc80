"""The rows of `measure` from theory, for a model of one's own."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from initstats import inits
from initstats.inits import Init
from initstats.prediction.model.laws import Laws
from initstats.prediction.model.signals import Given, Signal, State, Unknown
from initstats.prediction.model.statistics import Moments, moments_of, moments_of_data
from initstats.prediction.model.tables import MOST_ROWS, NONE, Cotangent, Table, summed
from initstats.prediction.model.tracing import Tracer, Tracing
from initstats.probe.objective import sent_back
from initstats.probe.rows import ORDERED
from initstats.probe.slots import Slot

COLUMNS = [
    *("layer", "name", "op", "tensor", "direction"),
    *("second_moment", "sample_correlation", "claim", "note"),
]
"""Columns of the table."""


def predict_model(
    model: nn.Module, inputs: Any, init: str | Init | None = None, *, backward: bool = False
) -> pd.DataFrame:
    """What `measure` should find of an untrained model, in the mean over draws of its weights.

    Theory is that of wide layers. Gaussian values are followed exactly; what is not Gaussian, as a
    batch that was normalized, a rectified sum, or logits, is drawn in columns, always with the same
    seed, which is good to a percent or two. Weights that are used twice, copies of others and
    identities are no independent draws, so that what they make is not predicted.

    Args:
        model: any module, in the mode to predict; it runs once, and is left as it was.
        inputs: as `measure` takes them: their own values are what the theory begins with.
        init: the law of the weights that are summed with; by default, that of each parameter is
            its measured variance. Other parameters keep their measured mean and variance.
        backward: predict the gradients, too, of the unit-normal ones that `measure` sends back.

    Returns:
        One row for each value and direction, `layer name op tensor direction` as in the table of
        `measure`; `second_moment` and `sample_correlation` (a mean product of two rows over a
        mean square), NaN where they cannot be predicted; `claim`, `exact`, `infinite width` or
        empty; `note`, why something is not known.

    Raises:
        ValueError: an unknown init, or one that is fitted to data.
        TypeError: no module.
    """
    entry = None if init is None else inits.get(init)
    if entry is not None and entry.fitted:
        raise ValueError(f"init {entry.name!r} is fitted to data: no variance is declared")
    laws = Laws(entry)
    probe = Tracing(model, weights=False, laws=laws)
    tracer = probe.follow(inputs)
    values = [(slot, state) for slot, state in tracer.found if slot.is_value]
    rows = [_row(slot, "forward", state, _forward(slot, state)) for slot, state in values]
    if backward:
        gradients = _gradients(tracer)
        rows += [_backward_row(slot, state, gradients) for slot, state in values if _sent_to(slot)]
    table = pd.DataFrame(rows, columns=COLUMNS).astype(ORDERED)
    return table.sort_values("layer", kind="stable").reset_index(drop=True)


def _sent_to(slot: Slot) -> bool:
    """Whether a gradient may come back to a value: not to data that requires none."""
    return slot.layer > 0 or any(facts.requires_grad for facts in slot.facts.values())


def _row(slot: Slot, direction: str, state: State, found: Moments) -> tuple[Any, ...]:
    address = slot.address
    op = address.op + (f"[{address.output}]" if address.output else "")
    known = not math.isnan(found.square)
    claim = found.claim if known else ""
    note = found.note
    if isinstance(state, Unknown) and not note:
        note = state.reason
    keys = slot.layer, address.name, op, address.tensor, direction
    return *keys, found.square, found.correlation, claim, note


def _forward(slot: Slot, state: State) -> Moments:
    if isinstance(state, Given):
        return moments_of_data(state.values, slot.axis)
    if not isinstance(state, Signal):
        return Moments(note=getattr(state, "reason", "it is made of weights alone"))
    table = state.table
    try:
        return moments_of(state, slot.axis, table.square, table, table.claim)
    except Exception as error:  # noqa: BLE001 (a model's own function may raise)
        return Moments(note=not_computed(error))


def not_computed(error: Exception) -> str:
    """Why a value that was followed is not known."""
    what = (str(error).splitlines() or [""])[0]
    return f"it cannot be computed ({type(error).__name__}: {what})"


def _backward_row(slot: Slot, state: State, gradients: _Gradients) -> tuple[Any, ...]:
    if not isinstance(state, Signal):
        note = (
            ""
            if isinstance(state, Unknown)
            else "it is known as data are: no gradient is followed to it"
        )
        return _row(slot, "backward", state, Moments(note=note))
    found = gradients.of(state.table)
    if isinstance(found, str):
        return _row(slot, "backward", state, Moments(note=found))
    if state.rows.numel() != state.table.rows * state.table.units:
        note = "some of its entries are copies of others"
        return _row(slot, "backward", state, Moments(note=note))
    if math.isnan(_forward(slot, state).square):
        return _row(slot, "backward", state, Moments(note="it leaves the range of numbers"))
    moments = moments_of(state, slot.axis, found.square, found, found.claim)
    return _row(slot, "backward", state, moments)


class _Gradients:
    """Gradients with respect to all tables, from those at the model's ends."""

    def __init__(self) -> None:
        self._arrived: dict[Table, list[Cotangent]] = {}
        self._strong: set[Table] = set()  # to which not only gradients of statistics come back
        self._done: dict[Table, Cotangent] = {}
        self._why: dict[Table, str] = {}

    def send(self, table: Table, cotangent: Cotangent, *, strong: bool = True) -> None:
        """Take a gradient, which is strong where it is not that of a statistic alone."""
        self._arrived.setdefault(table, []).append(cotangent)
        if strong:
            self._strong.add(table)

    def go(self) -> None:
        for table in _ordered(list(self._arrived)):
            if table not in self._arrived or table in self._why:
                continue
            total = summed(self._arrived[table])
            if table.rows > MOST_ROWS:
                total.kernel_of = None
            try:  # now, as what waits for each other would be nested as deep as the model
                _ = total.square
            except Exception as error:  # noqa: BLE001 (a model's own function may raise)
                self.lose(table, not_computed(error))
                continue
            self._done[table] = total
            strong = table in self._strong
            for parent, pull in table.parents:
                self.send(parent, pull(total), strong=strong and not parent.statistic)

    def of(self, table: Table) -> Cotangent | str:
        if table in self._why:
            return self._why[table]
        if table not in self._done:
            return "no gradient that is known comes back to it"
        if table not in self._strong:
            return "the gradient of a number that all units share is a fluctuation between them"
        return self._done[table]

    def lose(self, table: Table, why: str) -> None:
        """Take the gradients of a table, and of all that it is made of, for unknown."""
        waiting = [table]
        while waiting:
            each = waiting.pop()
            if each not in self._why:
                self._why[each] = why
                waiting += [parent for parent, _ in each.parents]


def _gradients(tracer: Tracer) -> _Gradients:
    """Send back what `measure` sends: unit-normal gradients of the ends, with its seed."""
    gradients = _Gradients()
    generator = sent_back()
    for x, state in tracer.ends:
        if isinstance(state, Given):
            continue
        sent = torch.randn(x.shape, generator=generator).double()
        if isinstance(state, Signal):
            gradients.send(state.table, _sent(state, sent, tracer))
    gradients.go()
    for table, why in tracer.lost:
        gradients.lose(table, why)
    return gradients


def _sent(end: Signal, sent: Tensor, tracer: Tracer) -> Cotangent:
    table, key = end.table, tracer.draws.key()
    wide = sent.new_zeros(table.rows, table.units)
    wide.index_put_((end.rows, end.units), sent, accumulate=True)
    kernel = wide @ wide.T / table.units
    return Cotangent(
        lambda: kernel,
        lambda: tracer.draws.normal(kernel, table.units, key),
        frozenset([(key, ())]),
        NONE,
        "exact",
    )


def _ordered(ends: list[Table]) -> list[Table]:
    """Tables that lead to some ends, each behind all that are made of it."""
    order: list[Table] = []
    seen: set[Table] = set()
    stack = [(table, False) for table in ends]
    while stack:
        table, left = stack.pop()
        if left:
            order.append(table)
        elif table not in seen:
            seen.add(table)
            stack.append((table, True))
            stack += [(parent, False) for parent, _ in table.parents]
    return order[::-1]
