"""Deep networks, run tile by tile: the statistics of every layer, forward and backward.

The setting is that of Poole et al. (2016). Weights are drawn once and serve all activations, which
also share what comes before the first activation; samples stream through in tiles that stay in
cache; the statistics of layer l do not depend on how deep the network goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from initstats.activations import Activation
from initstats.data import Split
from initstats.inits import Init
from initstats.networks import Place, Serial
from initstats.stack.numerics import exact_numerics as exact_numerics
from initstats.stack.numerics import keep_freed_memory
from initstats.stack.passes import Passes
from initstats.stack.passes import Result as Result
from initstats.stack.passes import tile_samples as tile_samples
from initstats.stack.settings import DType as DType
from initstats.stack.settings import Settings as Settings
from initstats.stack.weights import FIT_SAMPLES as FIT_SAMPLES
from initstats.stack.weights import ByLayer as ByLayer
from initstats.stack.weights import weights_by_activation as weights_by_activation


def run_stack(
    network: Serial,
    init: Init,
    activations: Sequence[Activation],
    seeds: Sequence[int],
    split: Split,
    fit: Split | None,
    settings: Settings,
) -> Iterator[Result]:
    """The statistics of one network and init: all activations of a seed, then the next seed.

    A result does not depend on which other activations and seeds are asked for. All is measured
    when this returns; results are put together one at a time, since their histograms are large.

    Args:
        network: the blocks, as `Network.on` places them behind the samples.
        init: how the weights are drawn.
        activations: one or more.
        seeds: name the draws; all have one quotient by `settings.batch`, and so share a pass.
        split: the samples, already limited to `settings.samples`.
        fit: the samples that a data-dependent init is fitted on.
        settings: the choices of the run.

    Raises:
        ValueError: seeds that do not share a pass; an activation that changes its input; an init
            that is fitted on data, without data to fit on.
    """
    batch = settings.batch
    if len({seed // batch for seed in seeds}) != 1:
        raise ValueError(f"seeds {seeds} do not share a pass of {batch}")
    # A pass always holds `batch` seeds, each at its own place: the last bits of a product depend on
    # what is computed beside it.
    places = [seed % batch for seed in seeds]
    together = [seeds[places.index(place) if place in places else 0] for place in range(batch)]
    keep_freed_memory()
    with exact_numerics():
        weights = weights_by_activation(init, activations, network, together, fit, settings)
        passes = Passes(network, activations, weights, together, settings)
        passes.run(split)
        return passes.results(places)


def measure_weights(
    network: Serial,
    activation: Activation,
    weights: ByLayer,
    seed: int,
    split: Split,
    settings: Settings,
) -> tuple[list[Place], Result]:
    """The statistics of a network with weights of whatever origin, as after some training.

    Args:
        weights: of each layer, in the type and place of the settings.
        seed: names the gradient of the outputs, as in `run_stack`.
        split, settings: as `run_stack`.

    Returns:
        The places of the rows, and their numbers.
    """
    with exact_numerics():
        passes = Passes(network, [activation], [weights], [seed], settings)
        passes.run(split)
        (result,) = passes.results([0])
    return passes.places, result
