"""What one would write by hand: a network of torch's layers, and hooks that record from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initstats import activations, inits
from initstats.draws import generator_for
from initstats.moments.histogram import HALF, QUANTILES, SHIFT
from initstats.networks import Conv, Linear, get

Seen = TypeVar("Seen")

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "shifted_relu": lambda x: F.relu(x) - 0.5,
    "general_relu": lambda x: (F.leaky_relu(x, 0.1) - 0.4).clamp_max(6.0),
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}
"""The activations as one writes them with torch: out of place, and independent of the entries."""

EVERY = 8
"""One entry in so many is counted in the histogram."""


class Function(nn.Module):
    """A function as a layer, so that hooks see what it gives."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """function(x)."""
        return self.function(x)


def networks(
    network: str, width: int, depth: int, shape: Sequence[int], *, init: str, seed: int
) -> dict[str, nn.Sequential]:
    """The stack under each activation, with the very weights that the engine draws.

    Layers and functions alternate; all networks share the layers. Inputs are (samples, features)
    for an `mlp`, (samples, channels, height, width) for a `cnn`.
    """
    layers = [
        _module(layer, init, generator_for(seed, layer.number))
        for layer in get(network).on(shape, width, depth).layers
    ]
    return {
        name: nn.Sequential(*(part for layer in layers for part in (layer, Function(function))))
        for name, function in FUNCTIONS.items()
    }


def _module(layer: Linear, init: str, generator: torch.Generator) -> nn.Module:
    out, channels = layer.weight[:2]
    # a layer on meta draws nothing of its own from the global random state
    module = (
        nn.Conv2d(channels, out, layer.kernel, layer.stride, layer.padding, device="meta")
        if isinstance(layer, Conv)
        else nn.Linear(channels, out, device="meta")
    )
    weight, bias = inits.get(init).sample(layer.weight, generator, activations.get("relu"))
    module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
    return module


@contextmanager
def hooked(model: nn.Sequential, observe: Callable[[Tensor], Seen]) -> Iterator[list[Seen]]:
    """Hooks on every layer and function that append what they observe to a list, in order."""
    seen: list[Seen] = []
    with ExitStack() as hooks:
        for part in model:
            hook = part.register_forward_hook(lambda *of: seen.append(observe(of[-1])))
            hooks.enter_context(hook)
        yield seen


def course_set(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The statistics that courses record: mean, std, a histogram over a chosen range."""
    return x.mean(), x.std(), x.histc(40, 0.0, 10.0)


def whole_set(x: Tensor) -> dict[str, Tensor]:
    """All statistics of the table by an ordinary torch call each, units in dimension 1.

    They are float32, and defined if all entries are finite. Quantiles come from the engine's kind
    of histogram, of the leading bits of one entry in eight: a sort would cost more than all else.
    """
    samples = [dim for dim in range(x.ndim) if dim != 1]
    mean, std, second_moment = x.mean(), x.std(), (x * x).mean()
    z = (x - mean) / (std * math.sqrt(1 - 1 / x.numel()))
    z2 = z * z
    unit_mean, unit_std = x.mean(samples), x.std(samples, correction=0)
    pairs = unit_mean.square() - unit_std.square() / (x.numel() / x.shape[1] - 1)
    low, high = x.amin(samples), x.amax(samples)
    return {
        "count": torch.tensor(x.numel()),
        "nonfinite": x.numel() - x.isfinite().count_nonzero(),
        "infinite": x.isinf().count_nonzero(),
        "mean": mean,
        "std": std,
        "second_moment": second_moment,
        "abs_mean": x.abs().mean(),
        "skewness": (z2 * z).mean(),
        "kurtosis": (z2 * z2).mean() - 3,
        "min": low.min(),
        "max": high.max(),
        "negative_fraction": (x < 0).count_nonzero() / x.numel(),
        "zero_fraction": (x == 0).count_nonzero() / x.numel(),
        "dead_fraction": (low == high).float().mean(),
        "unit_mean_std": unit_mean.std(correction=0),
        "unit_std_mean": unit_std.mean(),
        "unit_std_std": unit_std.std(correction=0),
        "sample_correlation": pairs.mean() / second_moment,
        "quantiles": _quantiles(x),
    }


def _quantiles(x: Tensor) -> Tensor:
    """The edges, towards zero, of the bins that the quantiles fall into."""
    taken = x.flatten()[::EVERY].contiguous()
    counts = torch.bincount((taken.view(torch.int32) >> SHIFT) + HALF, minlength=2 * HALF)
    # patterns of negative numbers come first, the largest of them last
    counts = torch.cat([counts[:HALF].flip(0), counts[HALF:]])
    below = (torch.tensor([*QUANTILES.values()]) * len(taken)).long()
    bins = torch.searchsorted(counts.cumsum(0), below, right=True)
    magnitude = torch.where(bins < HALF, HALF - 1 - bins, bins - HALF)
    edge = (magnitude << SHIFT).to(torch.int32).view(torch.float32)
    return torch.where(bins < HALF, -edge, edge)
