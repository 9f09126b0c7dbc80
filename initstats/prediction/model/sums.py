"""The operations that sum what they read with new weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import unfold

from initstats.prediction.model.arguments import Arguments
from initstats.prediction.model.entries import scattered
from initstats.prediction.model.laws import Law
from initstats.prediction.model.products import Sums, patches, product, terms
from initstats.prediction.model.signals import (
    Given,
    Signal,
    State,
    Weight,
    distinct,
    laid_out,
)
from initstats.prediction.model.tables import Table, Unpredicted, checked
from initstats.probe.linear import labels


def linear(of: Arguments, out: Tensor) -> Signal:
    """The output of a linear map of the last dimension."""
    x, weight, bias = of.summed(0, "input"), of.weight(1, "weight"), of.state(2, "bias")
    sums = _inputs(x, -1) if isinstance(x, Given) else terms(x, x.rows.ndim - 1)
    if weight.values.ndim != 2:
        raise Unpredicted("weights that are no matrix")
    laws = _laws(of, x, weight, bias)
    return product(x, sums, out.shape, out.ndim - 1, *laws, of.draws)


def convolution(of: Arguments, out: Tensor) -> Signal:
    """The output of a convolution over one or two dimensions."""
    x, weight, bias = of.summed(0, "input"), of.weight(1, "weight"), of.state(2, "bias")
    flat = out.ndim == 3  # over one dimension
    if out.ndim not in (3, 4) or (out.ndim == 3) != (weight.values.ndim == 3):
        raise Unpredicted("a convolution without a dimension of samples")
    kernel = [1] * flat + [*weight.values.shape[2:]]
    stride = _pair(of.value(3, "stride", 1), flat, 1)
    dilation = _pair(of.value(5, "dilation", 1), flat, 1)
    groups = int(of.value(6, "groups", 1))
    pads = _padding(of.value(4, "padding", 0), kernel, dilation, flat)
    sums: Sums | Tensor
    if isinstance(x, Given):
        values = x.values.to(torch.float64, copy=True)
        values = values[:, :, None] if flat else values
        checked(out.numel() // out.shape[1])
        found = unfold(values, (*kernel,), (*dilation,), (*pads,), (*stride,))
        sums = found.movedim(1, -1).flatten(0, 1) / math.sqrt(groups)
    else:
        whole = x.moved(lambda i: i[:, :, None]) if flat else x
        sums = patches(whole, kernel, [stride, pads, dilation], groups)
    return product(x, sums, out.shape, 1, *_laws(of, x, weight, bias), of.draws)


def embedding(of: Arguments, out: Tensor) -> Signal:
    """Rows of a table of weights, one for each token."""
    tokens, weight = of.given(1, "indices"), of.weight(0, "weight")
    found = of.laws.of_entries(weight)
    tokens_seen, which = distinct(tokens)
    shape = len(tokens_seen), out.shape[-1]
    checked(len(tokens_seen))
    like = laid_out(Table(*shape, None, lambda: torch.zeros(shape)), shape, [1])
    empty = (weight.values.detach()[tokens_seen] == 0).all(1)
    if empty.any():
        raise Unpredicted("a row of zeros, as that of padding, is looked up")
    drawn = scattered(torch.empty(shape), found, like, of.draws)
    rows = which[..., None].expand(out.shape)
    units = torch.arange(out.shape[-1]).expand(out.shape)
    return Signal(drawn.table, rows, units)


def with_weights(of: Arguments, out: Tensor) -> Signal:
    """The product with a matrix of weights that is written as one of tensors."""
    labelled = labels(of.operation)
    if labelled is None or len(labelled[0]) != 2:
        raise Unpredicted("a product of a kind that is not followed")
    (one, ours), (other, theirs) = labelled[0]
    if isinstance(of.state_of(one), Weight):
        (one, ours), (other, theirs) = (other, theirs), (one, ours)
    x, weight = of.state_of(one), of.state_of(other)
    gone = [label for label in ours if label not in labelled[1]]
    new = [label for label in theirs if label not in ours]
    if not isinstance(weight, Weight) or not isinstance(x, Given | Signal):
        raise Unpredicted("a product of weights with weights")
    if len(gone) != 1 or len(new) != 1 or set(theirs) != {gone[0], new[0]}:
        raise Unpredicted("weights that are no matrix")
    kept = [label for label in ours if label != gone[0]]
    if [label for label in labelled[1] if label != new[0]] != kept:
        raise Unpredicted("a product that moves positions")
    dim, made = list(ours).index(gone[0]), list(labelled[1]).index(new[0])
    sums: Sums | Tensor
    sums = _inputs(x, dim) if isinstance(x, Given) else terms(x, dim)
    turned = weight.values.shape == weight.shape and list(theirs) == [gone[0], new[0]]
    weight = replace(weight, shape=weight.shape[::-1]) if turned else weight
    return product(x, sums, out.shape, made, *_laws(of, x, weight, None), of.draws)


def with_bias(of: Arguments, out: Tensor) -> Signal:
    """The product of a matrix with one of weights, and their bias."""
    x, weight, bias = of.summed(1, "mat1"), of.weight(2, "mat2"), of.state(0, "input")
    if (of.value(3, "beta", 1), of.value(4, "alpha", 1)) != (1, 1):
        raise Unpredicted("a sum of a product and a bias with factors")
    if isinstance(bias, Weight) and bias.values.ndim > 1:
        raise Unpredicted("a bias with positions")
    sums = _inputs(x, 1) if isinstance(x, Given) else terms(x, 1)
    if weight.values.shape == weight.shape:
        weight = replace(weight, shape=weight.shape[::-1])
    return product(x, sums, out.shape, 1, *_laws(of, x, weight, bias), of.draws)


def _laws(
    of: Arguments, x: Signal | Given, weight: Weight, bias: State | None
) -> tuple[Law, Law | None]:
    table = x.table if isinstance(x, Signal) else None
    if bias is not None and not isinstance(bias, Weight):
        raise Unpredicted("a bias that is no parameter")
    return of.laws.of_product(weight, bias, table)


def _inputs(x: Given, summed: int) -> Tensor:
    """What a sum over one dimension of data reads, (outputs, inputs)."""
    values = x.values.to(torch.float64, copy=True).movedim(summed, -1)
    return values.reshape(-1, values.shape[-1])


def _padding(given: Any, kernel: list[int], dilation: list[int], flat: bool) -> list[int]:
    if given == "valid":
        return [0, 0]
    if given != "same":
        return _pair(given, flat, 0)
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(span % 2 for span in spans):
        raise Unpredicted("padding that is not the same on both sides")
    return [span // 2 for span in spans]


def _pair(value: Any, flat: bool, fill: int) -> list[int]:
    values = [value] if isinstance(value, int) else [*value]
    if flat:
        return [fill, values[0]]
    return values * 2 if len(values) == 1 else values
