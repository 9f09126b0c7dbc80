"""Repair of a model's initialization, in place: layer-sequential unit variance, and any init.

LSUV is that of Mishkin & Matas (2016, arXiv:1511.06422). Which layers there are, in which order
they run and what they read is measured, not guessed from the model's structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from initstats import activations, inits
from initstats.activations import ACTIVATIONS, Activation
from initstats.fitting import fit_std
from initstats.inits import Init
from initstats.probe import measure
from initstats.probe.batch import called, unmoved
from initstats.probe.kinds import LINEAR, MIXING, NORMALIZATIONS, source

__all__ = ["lsuv_", "reinitialize_"]


def lsuv_(
    model: nn.Module,
    inputs: Any,
    *,
    std: float = 1.0,
    tolerance: float = 0.01,
    rounds: int = 10,
    orthogonal: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Give every layer with weights an output of one std on a batch, in place.

    Weights are drawn orthogonal and biases set to zero; then each layer, in the order of
    execution, is divided by the std of its output until that fits. One forward pass does it all;
    mode, device, buffers and random states stay as they are. A module that is called several
    times is fitted at its first call.

    Args:
        model: any module; its linear and convolutional layers are fitted, parametrized ones
            (`weight_norm`) through their parameters. Weights that are used without a module of
            their own, as in `nn.MultiheadAttention`, stay.
        inputs: the batch; as `measure` takes it.
        std: the standard deviation that each output is to have.
        tolerance: the largest relative deviation from that.
        rounds: largest number of divisions for each layer.
        orthogonal: draw the weights anew first; else keep weights and biases, and only scale.
        seed: names the draw.

    Returns:
        One row for each call of a layer: `layer`, `name`, `op`, `call`, and `mean` and `std` of
        the output and `weight_std`, each `_before` and `_after`.

    Raises:
        ValueError: a layer whose output is constant or not finite on the batch, or that does not
            come within the tolerance. The model is then as it was.
    """

    def fit(layers: list[_Layer]) -> None:
        if orthogonal:
            _draw(layers, inits.get("orthogonal"), seed)
        _fit(model, inputs, layers, std, tolerance, rounds)

    return _changed(model, inputs, fit)[1]


def reinitialize_(
    model: nn.Module, init: str | Init | Callable[..., object], inputs: Any, *, seed: int = 0
) -> pd.DataFrame:
    """Draw the weights of every layer anew, in place.

    Args:
        model: any module; layers as in `lsuv_`.
        init: as `initstats.inits.get`. `matched` takes the gain of the activation that a layer
            reads, whatever function it is and also through pooling and dropout. A layer that reads
            anything else (the model's input, a normalization, an embedding, a residual sum) gets
            gain 1. So the second moment of every pre-activation stays at that of the input, if
            that is 1.
        inputs: a batch to run the model on; as `measure` takes it.
        seed: names the draw; a layer's does not depend on the others'.

    Returns:
        As `lsuv_`, and the `activation` that the layer reads; `identity` where it reads none.

    Raises:
        ValueError: an unknown init, or one that is fitted to data (use `lsuv_`).
    """
    entry = inits.get(init)
    if entry.fitted:
        raise ValueError(f"init {entry.name!r} is fitted to data: use lsuv_(model, inputs)")
    layers, table = _changed(model, inputs, lambda layers: _draw(layers, entry, seed))
    read = {layer.name: layer.activation.name for layer in layers}
    return table.assign(activation=table["name"].map(read))


@dataclass(frozen=True)
class _Layer:
    """A module with a weight matrix or kernel, and the activation that it reads.

    A transposed one keeps its weight as (in, out).
    """

    name: str
    module: nn.Module
    activation: Activation
    transposed: bool

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight.detach()

    def set_weight(self, values: Tensor) -> None:
        """Write to the weight, or to the parameters that it is made of."""
        if is_parametrized(self.module, "weight"):
            self.module.weight = values
        else:
            self.weight.copy_(values)


def _changed(
    model: nn.Module, inputs: Any, change: Callable[[list[_Layer]], None]
) -> tuple[list[_Layer], pd.DataFrame]:
    """Change a model's layers, or nothing if that fails; the layers, and a table that compares."""
    before = measure(model, inputs)
    layers = _layers(model, before)
    kept = [(p, p.detach().clone()) for layer in layers for p in layer.module.parameters()]
    try:
        change(layers)
    except BaseException:
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)
        raise
    return layers, _compared(before, measure(model, inputs))


def _layers(model: nn.Module, table: pd.DataFrame) -> list[_Layer]:
    """The layers with weights in the order in which they first run."""
    linear = table[table["op"].isin(LINEAR)]
    axes = dict(zip(linear["name"], linear["unit_axis"], strict=True))
    values = table[(table["tensor"] != "weight") & (table["layer"] > 0)]
    by_layer = {int(row["layer"]): row for _, row in values.iterrows()}
    modules = dict(model.named_modules())
    rows = linear[linear["tensor"] == "preactivation"].drop_duplicates("name")
    found = []
    for name, layer in zip(rows["name"], rows["layer"], strict=True):
        module = modules.get(name, model)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1:
            transposed = weight.ndim == 2 and axes.get(f"{name}.weight", 0) == 1
            activation = _activation_of(source(layer, by_layer), modules)
            found.append(_Layer(name, module, activation, transposed))
    return found


def _activation_of(value: pd.Series[Any] | None, modules: dict[str, nn.Module]) -> Activation:
    """The elementwise function that made a value; the identity where something else did."""
    op = "" if value is None else value["op"].rstrip("_")
    if value is not None and op not in LINEAR | MIXING | NORMALIZATIONS:
        module = modules.get(value["name"])
        if module is not None and not any(True for _ in module.children()):
            with suppress(Exception):  # whatever a module raises that is no elementwise function
                return activations.get(_bare(module))
        if op in ACTIVATIONS:
            return activations.get(op)
    return activations.get("identity")


def _bare(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The function that a module computes, without the hooks on it."""

    def function(x: Tensor) -> Tensor:
        y: Tensor = module.forward(x)
        return y

    function.__name__ = type(module).__name__
    return function


def _draw(layers: list[_Layer], init: Init, seed: int) -> None:
    """Draw the weights and biases of each layer anew."""
    for number, layer in enumerate(layers):
        weight = layer.weight
        shape = weight.t().shape if layer.transposed else weight.shape
        generator = Generator().manual_seed(seed * 1_000_003 + number)
        drawn, bias = init.sample(shape, generator, layer.activation)
        with torch.no_grad():
            layer.set_weight((drawn.t() if layer.transposed else drawn).to(weight))
            if isinstance(own := getattr(layer.module, "bias", None), Tensor):
                own.copy_(bias)


def _fit(
    model: nn.Module, inputs: Any, layers: list[_Layer], std: float, tolerance: float, rounds: int
) -> None:
    """Fit each layer when its first call has an output, and go on with the fitted output."""
    fitted: set[str] = set()

    def fit(layer: _Layer, _: nn.Module, args: Any, kwargs: Any, y: Tensor) -> Tensor:
        def divide(by: float) -> None:
            nonlocal y
            layer.set_weight(layer.weight * (1 / by))
            y = layer.module.forward(*args, **kwargs)

        if layer.name in fitted:
            return y
        fitted.add(layer.name)
        size = fit_std(
            lambda: float(y.double().std()), divide, target=std, tolerance=tolerance, rounds=rounds
        )
        if not 0 < size < math.inf:
            raise ValueError(
                f"layer {layer.name!r} gives an output of std {size:g} on this batch: is what "
                "comes before it dead, or the batch constant? Nothing was changed"
            )
        if abs(size / std - 1) > tolerance:
            raise ValueError(
                f"layer {layer.name!r} has std {size:.4g} after {rounds} rounds, not {std:g}: is "
                "its bias large, or its weight normalized? Exclude it, or allow more. Nothing was "
                "changed"
            )
        return y

    with unmoved(model), torch.no_grad(), ExitStack() as stack:
        for layer in layers:
            handle = layer.module.register_forward_hook(partial(fit, layer), with_kwargs=True)
            stack.callback(handle.remove)
        called(model, inputs)


def _compared(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The outputs and weights of the layers before and after, one row for each call."""
    keys = ["layer", "name", "op", "call"]

    def rows(table: pd.DataFrame) -> pd.DataFrame:
        chosen = table[(table["tensor"] == "preactivation") & table["op"].isin(LINEAR)]
        weights = table[(table["tensor"] == "weight") & table["name"].str.endswith("weight")]
        sizes = weights.drop_duplicates("name").set_index("name")["std"]
        names = chosen["name"] + ".weight"
        return chosen[[*keys, "mean", "std"]].assign(weight_std=names.map(sizes))

    return rows(before).merge(rows(after), on=keys, suffixes=("_before", "_after"))
