"""Has a model use the weights of a plan, and checks that it does."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from initstats.fitting import fit_std
from initstats.repair.planning import Plan
from initstats.repair.uses import Use, follow, gates
from initstats.repair.weights import Output, Weight, unexpanded

PASSES = 4
"""Largest number of passes in which layers are fitted, as a tied one may move what others read."""


def settle(plan: Plan, inputs: Any) -> None:
    """Write the weights of a plan to the model, until the model uses them.

    Raises:
        ValueError: the model makes something else of a weight, whatever is written.
    """
    for weight in plan.weights:
        weight.write()
    while True:
        seen = _seen(plan, inputs)
        off = [weight for weight, operand in seen.items() if not weight.agrees(operand)]
        if not off:
            break
        for weight in off:
            if not weight.correct(seen[weight]):
                raise ValueError(_unused(weight))
    for weight, operand in seen.items():
        if weight.computed:
            weight.change(operand)  # where it is masked, the model's zeros


def check(plan: Plan, inputs: Any) -> None:
    """See once more that the model uses what it computes of its parameters.

    Raises:
        ValueError: it does not.
    """
    if any(weight.computed for weight in plan.weights):
        for weight, operand in _seen(plan, inputs).items():
            if not weight.agrees(operand):
                raise ValueError(_unused(weight))


def fit(plan: Plan, inputs: Any, *, std: float, tolerance: float, rounds: int) -> None:
    """Scale each weight when its first use has an output, until the model runs with one std.

    Raises:
        ValueError: an output that cannot be scaled to the std.
    """
    if computed := [weight for weight in plan.weights if weight.computed]:
        for weight in computed:
            weight.change(weight.values * 2)  # can it be scaled at all?
        settle(plan, inputs)
    for _ in range(PASSES):
        _fit_once(plan, inputs, std, 0.9 * tolerance, rounds)
        settle(plan, inputs)
        scaled = [w for w in plan.weights if w.outputs[1:] and not gates(w.op)]
        off = [w for w in scaled if not abs(w.outputs[-1].std / std - 1) <= tolerance]
        if not off:
            return
    raise ValueError(_unfitted(off[0], off[0].outputs[-1].std, std, f"{PASSES} passes"))


def _seen(plan: Plan, inputs: Any) -> dict[Weight, Tensor]:
    """The weights as the model uses them, in one pass."""
    seen: dict[Weight, Tensor] = {}
    for weight in plan.weights:
        del weight.outputs[1:]

    def see(use: Use) -> Any:
        weight = plan.used(use)
        if weight is None or weight in seen:
            return None
        y = use.run()
        weight.outputs.append(Output.of(y))
        seen[weight] = unexpanded(use.operand.detach()).clone()
        return y

    plan.traces = follow(plan.model, inputs, see)
    return seen


def _fit_once(plan: Plan, inputs: Any, std: float, tolerance: float, rounds: int) -> None:
    fitted: set[Weight] = set()

    def fit_use(use: Use) -> Any:
        weight = plan.used(use)
        if weight is None:
            return None
        weight.show(use.operand)
        if weight in fitted or gates(use.op):
            return None
        fitted.add(weight)
        return _fitted(weight, use, std, tolerance, rounds)

    follow(plan.model, inputs, fit_use)


def _fitted(weight: Weight, use: Use, std: float, tolerance: float, rounds: int) -> Tensor:
    """The output of an operation, once its weight is scaled so that it has the std."""
    y: Tensor = use.run()

    def divide(by: float) -> None:
        nonlocal y
        weight.change(weight.values / by)
        weight.show(use.operand)
        y = use.run()

    size = fit_std(
        lambda: float(y.double().std()), divide, target=std, tolerance=tolerance, rounds=rounds
    )
    if not 0 < size < math.inf:
        raise ValueError(
            f"layer {weight.name!r} gives an output of std {size:g} on this batch: is what comes "
            f"before it dead, or the batch constant? Exclude it: exclude={weight.name!r}. Nothing "
            "was changed"
        )
    if abs(size / std - 1) > tolerance:
        raise ValueError(_unfitted(weight, size, std, f"{rounds} rounds"))
    return y


def _unused(weight: Weight) -> str:
    return (
        f"layer {weight.name!r} does not use the weight that is written to it: is it normalized, "
        f"or computed in a way that cannot be undone? Exclude it: exclude={weight.name!r}. Nothing "
        "was changed"
    )


def _unfitted(weight: Weight, size: float, std: float, after: str) -> str:
    return (
        f"layer {weight.name!r} has std {size:.4g} after {after}, not {std:g}: is its bias large? "
        f"Exclude it (exclude={weight.name!r}), or allow more rounds or a larger tolerance. "
        "Nothing was changed"
    )
