"""Products of two signals, as attention makes of queries and keys, and of shares and values.

What they make is no sum with new weights: logits are sums of as many products as a head has
dimensions, so that the operation is computed on copies of what it reads, drawn as theory says.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from initstats.prediction.model.arguments import Arguments
from initstats.prediction.model.moving import copied
from initstats.prediction.model.signals import Signal, unit_dims, varies
from initstats.prediction.model.tables import Unpredicted
from initstats.probe.elementwise import filled
from initstats.probe.linear import labels


def between(of: Arguments, out: Tensor) -> Signal:
    """A product of signals: of queries and keys, or of shares and values."""
    name = of.operation.name
    args, named, parts = of.holes
    function = of.operation.function
    if name == "scaled_dot_product_attention":
        if float(of.value(4, "dropout_p", 0.0)):
            raise Unpredicted("dropout of the shares of attention: model.eval() has none")
        of_value = unit_dims(of.signal(2, "value"))
    else:
        of_value = _unit_dims_of_product(of)
    signals = [of.state_of(part) for part in parts]

    def run(*copies: Tensor) -> Tensor:
        rest = iter(copies)
        filled_in = [
            next(rest) if isinstance(s, Signal) else _as_float(p)
            for s, p in zip(signals, parts, strict=True)
        ]
        made: Tensor = function(*filled(args, filled_in), **dict(filled(named, filled_in)))
        return made

    ordered = [s for s in signals if isinstance(s, Signal)]
    return copied(ordered, run, out.shape, of_value, of.draws)


def _unit_dims_of_product(of: Arguments) -> list[int]:
    """The dimensions of a product along which its units are."""
    labelled = labels(of.operation)
    if labelled is None:
        raise Unpredicted("a product of a kind that is not followed")
    operands, made = labelled
    along: set[Any] = set()
    across: set[Any] = set()
    for tensor, names in operands:
        state = of.state_of(tensor)
        if not isinstance(state, Signal):
            raise Unpredicted("a product with what is no signal")
        along |= {names[dim] for dim in unit_dims(state)}
        across |= {names[dim] for dim, varied in enumerate(varies(state.rows)) if varied}
    if along & across:
        raise Unpredicted("positions of one value meet units of the other")
    return [dim for dim, label in enumerate(made) if label in along]


def _as_float(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x
