"""Has a model use the weights of a plan, and checks that it does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from initstats.fitting import fit_std
from initstats.repair import reasons
from initstats.repair.planning import Plan
from initstats.repair.uses import Use, follow
from initstats.repair.weights import Output, Weight, std_of, unexpanded

PASSES = 8
"""Largest number of passes in which layers are fitted, as a tied one may move what others read."""
ITERATIONS = 60
"""Largest number of passes in which a norm that is computed little by little comes to rest."""


def settle(plan: Plan, inputs: Any, otherwise: dict[Weight, Tensor] | None = None) -> None:
    """Write the weights of a plan to the model, until the model uses them.

    A weight of which the model makes one that cannot be had otherwise gets that instead: with the
    scale that the model gives it, or as it comes out of the model once more. One that does not stay
    even so is left.

    Args:
        otherwise: what weights get again that cannot be had with another scale.
    """
    for weight in plan.weights:
        weight.write()
    while True:
        seen = _seen(plan, inputs)
        off = [weight for weight, operand in seen.items() if not weight.agrees(operand)]
        if not off:
            break
        for weight in off:
            _amend(plan, weight, seen[weight], otherwise or {})
    if fixed := [weight for weight in plan.weights if weight.unscaled == reasons.FIXED]:
        seen = _come_to_rest(plan, inputs, fixed) or seen
    for weight, operand in seen.items():
        if weight.computed:
            weight.change(operand)  # where it is masked, the model's zeros


def _amend(plan: Plan, weight: Weight, used: Tensor, otherwise: dict[Weight, Tensor]) -> None:
    """Bring a weight and what the model uses of it together, or leave it."""
    if weight.correct(used):
        return
    if weight in otherwise:
        weight.restrict(otherwise.pop(weight))
    elif not weight.give_way(used):
        plan.leave(weight, reasons.UNSETTABLE)


def check(plan: Plan, inputs: Any) -> None:
    """See once more that the model uses what it computes of its parameters.

    Raises:
        ValueError: it does not.
    """
    if any(weight.computed for weight in plan.weights):
        seen = _seen(plan, inputs).items()
        if off := [weight for weight, operand in seen if not weight.agrees(operand)]:
            raise ValueError(
                f"layer {off[0].name!r} does not use the weight that was written to it before, but "
                f"computes another at each pass. Exclude {_excluded(off)}. Nothing was changed"
            )


def fit(plan: Plan, inputs: Any, *, std: float, tolerance: float, rounds: int) -> None:
    """Scale each weight when its first use has an output, until the model runs with one std.

    Raises:
        ValueError: outputs that cannot be scaled to the std.
    """
    if any(weight.computed for weight in plan.weights):
        settle(plan, inputs)
        computed = [w for w in plan.weights if w.computed and not w.unscaled]
        drawn = {weight: weight.values for weight in computed}
        for weight in computed:
            weight.change(weight.values * 2)  # can it be scaled at all?
        settle(plan, inputs, drawn)
        if held := [weight for weight in plan.weights if weight.unscaled == reasons.FIXED]:
            raise ValueError(_held(held))
    off: list[Weight] = []
    for _ in range(PASSES):
        _Fitting(plan, std, 0.9 * tolerance, rounds, off).run(inputs)
        settle(plan, inputs)
        scaled = [w for w in plan.weights if w.outputs[1:] and not w.unscaled]
        off = [w for w in scaled if not abs(w.outputs[-1].std * w.factor / std - 1) <= tolerance]
        if not off:
            return
    sizes = {w: (w.outputs[-1].std, 0.0) for w in off}
    training = any(module.training for module in plan.model.modules())
    raise ValueError(_unfitted(sizes, std, f"{PASSES} passes", training=training))


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


def _come_to_rest(plan: Plan, inputs: Any, fixed: list[Weight]) -> dict[Weight, Tensor]:
    """Go on until norms are exact that the model computes by a step a pass while it trains.

    Returns:
        The weights as the model uses them then; none where nothing had to move.
    """
    names = {weight.name for weight in fixed}
    layers = [module for name in names if (module := plan.modules.get(name))]
    parts = [part for layer in layers for part in layer.modules()]
    modes = [part.training for part in parts]
    before: list[float] = []
    try:
        for part in parts:
            part.training = True
        for _ in range(ITERATIONS):
            seen = _seen(plan, inputs)
            if not plan.advance():
                return {}
            sizes = [float(seen[w].double().norm()) for w in fixed if w in seen]
            pairs = zip(before, sizes, strict=False)
            if before and all(math.isclose(*pair, rel_tol=1e-6) for pair in pairs):
                break
            before = sizes
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
    return _seen(plan, inputs)


class _Fitting:
    """A pass in which each weight is scaled when its first use has an output.

    Args:
        plan, std, tolerance, rounds: as `fit`.
        doubtful: weights that were off after the last pass, as they change what they read.
    """

    def __init__(
        self, plan: Plan, std: float, tolerance: float, rounds: int, doubtful: list[Weight]
    ) -> None:
        self._plan, self._std, self._tolerance, self._rounds = plan, std, tolerance, rounds
        self._doubtful = doubtful
        self._fitted: set[Weight] = set()
        self._dead: dict[Weight, float] = {}
        self._off: dict[Weight, tuple[float, float]] = {}

    def run(self, inputs: Any) -> None:
        """Run the model.

        Raises:
            ValueError: outputs that cannot be scaled to the std.
        """
        follow(self._plan.model, inputs, self._fit_use)
        if self._dead:
            raise ValueError(_dead(self._dead))
        if self._off:
            raise ValueError(_unfitted(self._off, self._std, f"{self._rounds} rounds"))

    def _fit_use(self, use: Use) -> Any:
        weight = self._plan.used(use)
        if weight is None:
            return None
        weight.show(use.operand)
        if weight in self._fitted or weight.unscaled:
            return None
        self._fitted.add(weight)
        if weight in self._plan.idle and use.signal is not None and not use.signal.any():
            weight.unscaled = reasons.FED_ZEROS
            return None
        return self._fit(weight, use)

    def _fit(self, weight: Weight, use: Use) -> Tensor:
        """The output of an operation, once its weight is scaled so that it has the std."""
        before, target = weight.values, self._std / weight.factor
        y: Tensor = use.run()

        def divide(by: float) -> None:
            nonlocal y
            weight.change(weight.values / by)
            weight.show(use.operand)
            y = use.run()

        def size() -> float:
            return std_of(y)

        options: Any = {"target": target, "tolerance": self._tolerance, "rounds": self._rounds}
        found = fit_std(size, divide, **options)
        if not 0 < found < math.inf:
            self._dead[weight] = found
            return y
        if abs(found / target - 1) > self._tolerance:
            by, beside = _divisor(weight, use, y, target)
            divide(by)
            if abs(size() / target - 1) > self._tolerance:
                self._off[weight] = size(), beside
        elif weight.uses > 1 and weight in self._doubtful:
            # what it reads will follow: half of the way is all of it
            divide(float((weight.values.double().norm() / before.double().norm()).sqrt()))
        return y


def _divisor(weight: Weight, use: Use, y: Tensor, target: float) -> tuple[float, float]:
    """What a weight must be divided by, and the std of what is added to its output and stays."""
    kept = weight.values
    weight.change(torch.zeros_like(kept))
    weight.show(use.operand)
    rest = use.run().double()
    weight.change(kept)
    weight.show(use.operand)
    share = y.double() - rest
    share, rest = share - share.mean(), rest - rest.mean()
    # (rest + s share)^2 has the mean target^2
    a, b = float(share.square().mean()), float((share * rest).mean())
    root = b * b - a * (float(rest.square().mean()) - target**2)
    s = (math.sqrt(root) - b) / a if root >= 0 and a else 0.0
    return 1 / s if s > 0 else 1.0, math.sqrt(float(rest.square().mean()))


def _excluded(weights: Iterable[Weight]) -> str:
    names = [weight.name for weight in weights]
    return f"it: exclude={names[0]!r}" if len(names) == 1 else f"them: exclude={names!r}"


def _others(weights: Iterable[Weight]) -> str:
    _, *names = (repr(weight.name) for weight in weights)
    return f", and so it is with {', '.join(names)}" if names else ""


def _dead(sizes: dict[Weight, float]) -> str:
    first, size = next(iter(sizes.items()))
    return (
        f"layer {first.name!r} gives an output of std {size:g} on this batch{_others(sizes)}: is "
        "what comes before it dead, or the batch constant or a single number? Exclude "
        f"{_excluded(sizes)}. Nothing was changed"
    )


def _held(weights: list[Weight]) -> str:
    return (
        f"layer {weights[0].name!r} cannot be scaled{_others(weights)}: {reasons.FIXED}. Exclude "
        f"{_excluded(weights)}, or draw all with reinitialize_. Nothing was changed"
    )


def _unfitted(
    sizes: dict[Weight, tuple[float, float]], std: float, after: str, *, training: bool = False
) -> str:
    """The words for outputs that are off, given with the std of what is added to them."""
    first, (size, beside) = next(iter(sizes.items()))
    target, why = std / first.factor, "allow more rounds or a larger tolerance"
    if beside > target:
        why = f"what is added to its output has std {beside:.4g} by itself"
    elif first.uses > 1:
        why = f"{first.uses} operations use it, and a scale that fits one moves what another reads"
    elif training:
        why = "dropout, if there is any, changes it at each pass: call model.eval() before"
    return (
        f"layer {first.name!r} has std {size:.4g} after {after}, not {target:g}"
        f"{_others(sizes)}: {why}. Exclude {_excluded(sizes)}. Nothing was changed"
    )
