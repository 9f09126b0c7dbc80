"""Deep stacks of layers, run tile by tile: the statistics of every layer, forward and backward.

The setting is that of Poole et al. (2016). Weights are drawn once and serve all activations, which
also share the first layer's pre-activation; samples stream through in tiles that stay in cache;
layer l's statistics do not depend on how deep the stack goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from initstats.activations import Activation
from initstats.data import Split
from initstats.inits import Init
from initstats.stack.layers import NETWORKS, Layer, architecture
from initstats.stack.numerics import exact_numerics, keep_freed_memory
from initstats.stack.passes import Passes, Result, tile_samples
from initstats.stack.settings import DType, Settings, row_keys
from initstats.stack.weights import (
    FIT_SAMPLES,
    Weights,
    draw,
    generator_for,
    weights_by_activation,
)

__all__ = [
    "FIT_SAMPLES",
    "NETWORKS",
    "DType",
    "Layer",
    "Result",
    "Settings",
    "Weights",
    "architecture",
    "draw",
    "exact_numerics",
    "generator_for",
    "row_keys",
    "run_stack",
    "tile_samples",
]


def run_stack(
    network: str,
    init: Init,
    activations: Sequence[Activation],
    width: int,
    seeds: Sequence[int],
    split: Split,
    fit: Split | None,
    settings: Settings,
) -> Iterator[Result]:
    """The statistics of one network, init and width: all activations of a seed, then the next seed.

    A result does not depend on which other activations and seeds are asked for. All is measured
    when this returns; results are put together one at a time, since their histograms are large.

    Args:
        network: a name of `NETWORKS`.
        init: how the weights are drawn.
        activations: one or more.
        width: units of a layer; channels of the first convolution.
        seeds: name the draws; those that share a pass, all with one quotient by `settings.batch`.
        split: the samples, already limited to `settings.samples`.
        fit: the samples that a data-dependent init is fitted on.
        settings: what the run has chosen.

    Raises:
        ValueError: seeds that do not share a pass; an activation that changes its input; an init
            that is fitted on data, without data to fit on.
    """
    batch = settings.batch
    if len({seed // batch for seed in seeds}) != 1:
        raise ValueError(f"seeds {seeds} do not share a pass of {batch}")
    layers = architecture(network, width, settings.depth, split.shape)
    # always as many, each in its place: a product's last bits depend on what it is computed beside
    places = [seed % batch for seed in seeds]
    together = [seeds[places.index(place) if place in places else 0] for place in range(batch)]
    keep_freed_memory()
    with exact_numerics():
        weights = weights_by_activation(init, activations, layers, together, fit, settings)
        passes = Passes(layers, activations, weights, together, settings)
        passes.run(split)
        return passes.results(places)
