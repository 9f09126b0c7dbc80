"""The repairs: each changes a model in place, or leaves it as it was and says why."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Generator, nn
from torch.nn.parameter import is_lazy

from initstats import activations, inits
from initstats.activations import Activation
from initstats.draws import generator_for
from initstats.inits import Init
from initstats.probe import measure
from initstats.probe.ranks import sharded
from initstats.repair import reasons
from initstats.repair.keeping import Kept
from initstats.repair.planning import Patterns, Plan
from initstats.repair.purpose import Ways, why_frequencies
from initstats.repair.reading import Reading
from initstats.repair.setting import check, fit, settle
from initstats.repair.uses import gates
from initstats.repair.weights import std_of

SUFFIXES = ("_before", "_after")
COLUMNS = [
    *("layer", "name", "op", "call", "mean_before", "std_before", "weight_std_before"),
    *("mean_after", "std_after", "weight_std_after", "outcome"),
]


def lsuv_(
    model: nn.Module,
    inputs: Any,
    *,
    std: float = 1.0,
    tolerance: float = 0.01,
    rounds: int = 10,
    orthogonal: bool = True,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    frozen: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Give every layer with weights an output of one std on a batch, in place.

    Weights are drawn orthogonal and biases set to zero; then each weight, in the order of
    execution, is divided by the std of what is made of it until that fits. A weight that is used
    several times, as a tied one, is fitted at the first product. Mode, device and random states
    stay, and buffers but for those of a changed weight (spectral norm), which its `outcome` names.

    A weight is whatever an operation multiplies the signal with: the parameter of a linear or
    convolutional layer of any kind, of an attention or of `x @ self.W`, or what the model computes
    of parameters (`weight_norm`, a mask, a constant factor). The matrices of experts, groups, gates
    and packed projections are drawn one by one. Recurrent layers, whose output is not linear in
    their weights, are drawn, but not scaled; all their biases are 0. Where a constant makes the
    function behind a layer steep, as in sin(30 z), it is the product that gets the std.

    What looks deliberate is left: an embedding's padding, zeros that make an output or that the
    signal passes beside, and the frequencies in front of the first periodic function.

    Args:
        model: any module.
        inputs: the batch; as `measure` takes it.
        std: the standard deviation that each output is to have.
        tolerance: the largest relative deviation from that.
        rounds: largest number of divisions for each layer.
        orthogonal: draw the weights anew first; else keep weights and biases, and only scale.
        include: draw parameters whose name matches one of these shell patterns, or is inside a
            module whose name does, also where their values look deliberate.
        exclude: leave parameters whose names match such patterns.
        frozen: change parameters that are not trained, too.
        seed: names the draw; a layer's does not depend on the others'.

    Returns:
        One row for each parameter, in the model's order, under each of its names: its `name`;
        `layer`, `op` and `call` of the first operation that multiplies the signal with it or, if
        none does, uses it, as in `measure` (-1 where none was seen); `mean` and `std` of that
        operation's output and `weight_std`, that of the weight as the model uses it, each
        `_before` and `_after` (NaN for a single entry); and the `outcome`: `done`, maybe with a
        comma and more, `drawn, not scaled because ...`, or `left because ...`.

    Raises:
        ValueError: layers whose output is constant or not finite on the batch, whose scale the
            model divides away (`spectral_norm`, `orthogonal`), or that do not come within the
            tolerance, all of them; a pattern that matches nothing. The model is then as it was.
    """
    scale = partial(fit, inputs=inputs, std=std, tolerance=tolerance, rounds=rounds)
    change = partial(_fit, scale=scale, seed=seed if orthogonal else None)
    chosen: Any = {"include": include, "exclude": exclude, "frozen": frozen}
    return _changed(model, inputs, chosen, change)[0]


def _fit(plan: Plan, before: Reading, *, scale: Callable[[Plan], None], seed: int | None) -> None:
    """Draw weights orthogonal, or keep them where there is no seed, and scale them."""
    _leave_deliberate(plan, before)
    _take_factors(plan, before)
    if seed is None:
        plan.keep_draw()
        scale(plan)
        for weight in [weight for weight in plan.weights if weight.unscaled]:
            plan.leave(weight, weight.unscaled)
        return
    linear = activations.get("identity")
    _draw(plan, inits.get("orthogonal"), seed, lambda _: linear)
    for weight in plan.weights:
        weight.unscaled = reasons.curved(weight.op) if gates(weight.op) else ""
    scale(plan)


class Law(NamedTuple):
    """What a parameter was drawn from.

    Attributes:
        gain: that of the function which its layer reads; 0 of a bias that was set to 0.
        fan_in: inputs that a unit sums.
        factor: what follows multiplies the output by it first.
    """

    gain: float
    fan_in: float = 1.0
    factor: float = 1.0


def reinitialize_(
    model: nn.Module,
    init: str | Init | Callable[..., object],
    inputs: Any,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    frozen: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw the weights of every layer anew, in place.

    Args:
        model: any module; weights as in `lsuv_`.
        init: as `initstats.inits.get`. `matched` takes the gain of the activation that a layer
            reads, whatever function it is and also through pooling and dropout. A layer that reads
            anything else (the model's input, a normalization, an embedding, a residual sum) gets
            gain 1. So the second moment of every pre-activation stays at that of the input, if
            that is 1. Where a constant makes the function behind a layer steep, the pre-activation
            is the product, as in `lsuv_`.
        inputs: a batch to run the model on; as `measure` takes it.
        include, exclude, frozen: as `lsuv_`. Weights of zero that look deliberate stay under any
            init, frequencies under one that follows activations.
        seed: names the draw; a layer's does not depend on the others'.

    Returns:
        As `lsuv_`, and of each weight the `activation` that made what it reads, `identity` where
        none did, and that function's `gain`.

    Raises:
        ValueError: an unknown init, or one that is fitted to data (use `lsuv_`); a pattern that
            matches nothing. The model is then as it was.
    """
    chosen: Any = {"include": include, "exclude": exclude, "frozen": frozen}
    return _redrawn(model, inits.get(init), inputs, chosen, seed)[0]


def matched_(
    model: nn.Module, inputs: Any, *, seed: int
) -> tuple[pd.DataFrame, dict[str, Law | None]]:
    """Draw every weight anew by the init `matched`, in place.

    Returns:
        As `reinitialize_`; and what each parameter was drawn from that was changed, by its first
        name; None where it is one of which the model computes a weight.

    Raises:
        ValueError: as `reinitialize_`.
    """
    chosen: Any = {"include": None, "exclude": None, "frozen": False}
    table, plan = _redrawn(model, inits.get("matched"), inputs, chosen, seed)
    gains = dict(zip(table["name"], table["gain"], strict=True))
    laws: dict[str, Law | None] = {}
    for weight in plan.weights:
        for parameter in weight.changed:
            laws.setdefault(plan.names[id(parameter)][0])
        for bias in weight.biases:
            if not bias.parameter.any():
                laws[plan.names[id(bias.parameter)][0]] = Law(0.0)
        name = plan.names[id(weight.parameters[0])][0]
        if not weight.computed:
            laws[name] = Law(float(gains[name]), weight.layout.summed, weight.factor)
    return table, laws


def _redrawn(
    model: nn.Module, entry: Init, inputs: Any, chosen: Any, seed: int
) -> tuple[pd.DataFrame, Plan]:
    """A table of what was drawn by an init, and the plan that was carried out."""
    if entry.fitted:
        raise ValueError(f"init {entry.name!r} is fitted to data: use lsuv_(model, inputs)")
    read: dict[str, Activation] = {}

    def change(plan: Plan, before: Reading) -> None:
        _leave_deliberate(plan, before, frequencies=entry.follows_activation)
        if entry.follows_activation:
            _take_factors(plan, before)

        def activation_of(name: str) -> Activation:
            found = before.activation(name, plan.modules)
            read.update(dict.fromkeys(plan.names[plan.idents[name]], found))
            return found

        _draw(plan, entry, seed, activation_of)
        settle(plan, inputs)

    table, plan = _changed(model, inputs, chosen, change)
    functions = [read.get(name) for name in table["name"]]
    told = table.assign(
        activation=[function.name if function else "" for function in functions],
        gain=[function.gain.forward if function else math.nan for function in functions],
    )
    return told, plan


def _changed(
    model: nn.Module, inputs: Any, chosen: Any, change: Callable[[Plan, Reading], None]
) -> tuple[pd.DataFrame, Plan]:
    """Change a model's weights, or nothing if that fails; a table that compares, and the plan.

    Args:
        chosen: the arguments of a plan that choose parameters.
    """
    if reason := sharded(model):
        raise ValueError(reason)
    if any(is_lazy(parameter) for parameter in model.parameters()):
        measure(model, inputs)  # it finds the shapes
    kept = Kept(model)
    devices = {x.device.index for x in (*model.parameters(), *model.buffers()) if x.is_cuda}
    try:
        before = Reading(model, inputs)
        # the inverse of a parametrization may draw numbers
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            plan = Plan(model, inputs, kept, **chosen)
            change(plan, before)
            after = Reading(model, inputs)
            _finish(plan, kept)
            check(plan, inputs)
            _finish(plan, kept)  # a pass may have moved something
    except BaseException:
        kept.put_back()
        raise
    return _compared(plan, before, after), plan


def _leave_deliberate(plan: Plan, before: Reading, *, frequencies: bool = True) -> None:
    """Leave weights that are what they are on purpose, unless they are included."""
    ways, left = Ways(before.values), set[int]()
    made = {w: before.made(plan.names[id(w.parameters[0])][0]) for w in plan.weights}
    own = [w for w in plan.weights if not plan.included(w)]
    zeros = [w for w in own if not w.before.any() and not gates(w.op)]
    for weight in zeros:
        others = set[int]().union(*(made[w] for w in zeros if w is not weight)) - made[weight]
        if reason := ways.why_zero(made[weight], others, left):
            plan.leave(weight, reason)
            left |= made[weight]
    for weight in own if frequencies else []:
        name = plan.names[id(weight.parameters[0])][0]
        if weight not in zeros and (reason := why_frequencies(before, ways, name)):
            plan.leave(weight, reason)
    for weight in [w for w in own if w in plan.weights and not w.computed]:
        entries, said = weight.zero_part()
        shut = ways.shut(made[weight]) if said else set()
        others = set[int]().union(*(made[w] for w in zeros))
        if said and (not shut or ways.why_zero(shut, others, left)):
            weight.hold(entries, said)
            left |= shut
    after = ways.after(left)
    plan.idle = {weight for weight in plan.weights if made[weight] & after}


def _take_factors(plan: Plan, before: Reading) -> None:
    """Count the scale of outputs where what follows has multiplied them."""
    for weight in plan.weights:
        weight.factor = before.follows(plan.names[id(weight.parameters[0])][0]).factor


def _finish(plan: Plan, kept: Kept) -> None:
    """Put everything back but what the plan is to change."""
    kept.put_back([*plan.changed, *plan.buffers])
    plan.leave_traces()


def _draw(plan: Plan, init: Init, seed: int, activation_of: Callable[[str], Activation]) -> None:
    """Draw the weights of a plan and set its biases."""
    numbers = {ident: number for number, ident in enumerate(plan.parameters)}
    generators: dict[int, Generator] = {}
    for weight in plan.weights:
        ident = id(weight.parameters[0])
        if ident not in generators:
            generators[ident] = generator_for(seed, "weight", numbers[ident])
        activation = activation_of(plan.names[ident][0])
        values, biases = weight.layout.draw(init, activation, generators[ident])
        weight.change(values.to(weight.values.device) / weight.factor)
        held = weight.fixed if weight.held and not gates(weight.op) else None
        kept = None if held is None else weight.layout.units(held)  # a gate has two biases
        for bias in weight.biases:
            bias.write(biases, kept)


def _compared(plan: Plan, before: Reading, after: Reading) -> pd.DataFrame:
    """A row for each parameter."""
    rows = []
    for name, ident in plan.idents.items():
        first, weight = plan.names[ident][0], plan.weight_of(ident)
        row: dict[str, Any] = before.keys(first) | {"name": name}
        row["op"] = weight.op if weight else row["op"]
        for place, reading in enumerate((before, after)):
            mean, std = reading.output(first)
            if weight and weight.outputs[place:]:
                mean, std = weight.outputs[place]
            size = reading.std(first)
            if weight and ident == id(weight.parameters[0]):
                size = std_of(weight.values if place else weight.before)
            numbers = {"mean": mean, "std": std, "weight_std": size}
            row |= {f"{key}{SUFFIXES[place]}": x for key, x in numbers.items()}
        rows.append(row | {"outcome": plan.outcome(name)})
    return pd.DataFrame(rows, columns=COLUMNS)
