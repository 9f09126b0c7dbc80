"""Norms of one row at a time, or of many: layer, root mean square, batch, group.

A norm over units divides a row by its length. In wide layers that hardly fluctuates, and gradients
are divided by it, too; of n units their parts along the row and along its mean are lost, and what
fluctuations of the length add is counted, to first order in 1 / n. Norms over rows divide each
unit by what it is itself, which columns follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import group_norm

from initstats.prediction.model.arguments import Arguments
from initstats.prediction.model.laws import Law
from initstats.prediction.model.moving import copied
from initstats.prediction.model.pointwise import applied
from initstats.prediction.model.signals import Given, Signal, State, Weight, unit_dims
from initstats.prediction.model.tables import Cotangent, Draws, Table, Unpredicted


def normalized(x: Signal, over: int, eps: float, *, centre: bool) -> Signal:
    """Each row divided by its size over units.

    Args:
        over: how many of the last dimensions hold one row.
        centre: whether the mean over units is subtracted.

    Raises:
        Unpredicted: what is normalized together is not one row.
    """
    rows = x.rows.flatten(-over)
    if (rows != rows[..., :1]).any() or unit_dims(x) != [*range(x.rows.ndim - over, x.rows.ndim)]:
        raise Unpredicted("what is normalized together is not one row of units")
    table = x.table

    def mean() -> Tensor:
        return table.mean if centre else torch.zeros_like(table.mean)

    def size() -> Tensor:
        return (table.square - mean().square() + eps).sqrt()

    def kernel() -> Tensor:
        m, s = mean(), size()
        return (table.kernel - m[:, None] * m) / s[:, None] / s

    def columns() -> Tensor:
        return (table.columns - mean().float()[:, None]) / size().float()[:, None]

    def factor() -> Tensor:
        """How much of a gradient is left, over the size: E 1 / s^2 is above 1 / E s^2."""
        left = 1 + (table.scatter - 1 - int(centre)) / table.units
        return left.clamp(min=0).sqrt() / size()

    def pull(cotangent: Cotangent) -> Cotangent:
        return Cotangent(
            lambda: cotangent.kernel * factor()[:, None] * factor(),
            lambda: cotangent.columns * factor().float()[:, None],
            cotangent.back,
            cotangent.seen,
        )

    made = Table(
        table.rows,
        table.units,
        kernel,
        columns,
        lambda: (table.mean - mean()) / size(),
        table.gaussian,
        table.roots,
        "infinite width",
        [(table, pull)],
        scatter_of=lambda: torch.zeros(table.rows, dtype=torch.float64),
    )
    return Signal(made, x.rows, x.units)


def over_rows(x: Signal, function: Callable[[Tensor], Tensor], draws: Draws) -> Signal:
    """A norm of whole tensors, without weights.

    Args:
        function: of a tensor of the value's shape.
    """
    return copied([x], function, x.rows.shape, unit_dims(x), draws)


def stretched(x: Signal, weight: Law | None, bias: Law | None) -> Signal:
    """The units times a weight each, plus a bias each.

    Raises:
        Unpredicted: weights or biases differ from unit to unit by chance and have a mean, too.
    """
    if weight is None and bias is None:
        return x
    scale, shift = weight or Law(1.0, 1.0), bias or Law(0.0)
    for each in (scale, shift):
        if abs(each.square - each.mean**2) > 1e-9 * each.square:
            raise Unpredicted("its own weights and biases are not the same for all units")
    if (scale.square, scale.mean, shift.square) == (1.0, 1.0, 0.0):
        return x
    table, factor, added = x.table, scale.mean, shift.mean

    def kernel() -> Tensor:
        mean = factor * added * table.mean
        return factor**2 * table.kernel + mean[:, None] + mean + added**2

    made = Table(
        table.rows,
        table.units,
        kernel,
        lambda: factor * table.columns + added,
        lambda: factor * table.mean + added,
        table.gaussian and added == 0,
        table.roots,
        table.claim,
        [(table, partial(Cotangent.scaled, factor=factor))],
    )
    return Signal(made, x.rows, x.units)


def norm(of: Arguments, out: Tensor) -> Signal:
    """The output of a norm, with its own weights."""
    name = of.operation.name
    x = of.signal(0, "input")
    if name in ("layer_norm", "rms_norm"):
        eps = of.value(4, "eps", 1e-5) if name == "layer_norm" else of.value(3, "eps")
        eps = torch.finfo(out.dtype).eps if eps is None else float(eps)
        over = len(of.value(1, "normalized_shape"))
        made = normalized(x, over, eps, centre=name == "layer_norm")
        weight = of.state(2, "weight")
        bias = of.state(3, "bias") if name == "layer_norm" else None
        return stretched(made, _affine(weight), _affine(bias))
    if name == "group_norm":
        groups, eps = of.value(1, "num_groups"), of.value(4, "eps", 1e-5)
        made = over_rows(x, lambda t: group_norm(t, groups, eps=eps), of.draws)
        return stretched(made, _affine(of.state(2, "weight")), _affine(of.state(3, "bias")))
    weight, bias = of.state(1, "weight"), of.state(2, "bias")
    means, variances = of.state(3, "running_mean"), of.state(4, "running_var")
    trains, eps = of.value(5, "training"), of.value(7, "eps", 1e-5)
    if name == "instance_norm" or trains:
        function = {"batch_norm": _batch_norm, "instance_norm": _instance_norm}[name]
        if unit_dims(x) != [1]:
            raise Unpredicted("the channels of a norm are not its units")
        made = over_rows(x, lambda t: function(t, float(eps)), of.draws)
        return stretched(made, _affine(weight), _affine(bias))
    if not isinstance(means, Given) or not isinstance(variances, Given):
        raise Unpredicted("running statistics that are no buffers")
    if means.values.any() or (variances.values != variances.values.flatten()[0]).any():
        raise Unpredicted("its running statistics are those of a training")
    factor = 1 / math.sqrt(float(variances.values.flatten()[0]) + float(eps))
    scaled = applied(lambda t: factor * t, [x], [], of.draws)
    return stretched(scaled, _affine(weight), _affine(bias))


def _affine(state: State | None) -> Law | None:
    if state is None:
        return None
    if not isinstance(state, Weight):
        raise Unpredicted("its own weights are no parameters")
    values = state.values.detach().double()
    return Law(float(values.square().mean()), float(values.mean()))


def _batch_norm(x: Tensor, eps: float) -> Tensor:
    over = [dim for dim in range(x.ndim) if dim != 1]
    centred_x = x - x.mean(over, keepdim=True)
    return centred_x / (centred_x.square().mean(over, keepdim=True) + eps).sqrt()


def _instance_norm(x: Tensor, eps: float) -> Tensor:
    over = [*range(2, x.ndim)]
    centred_x = x - x.mean(over, keepdim=True)
    return centred_x / (centred_x.square().mean(over, keepdim=True) + eps).sqrt()
