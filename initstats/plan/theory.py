"""The time that predictions take, from a trial of some."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise, product
from statistics import fmean
from time import perf_counter as clock

from initstats.activations import Activation
from initstats.data import Dataset
from initstats.inits import Init
from initstats.networks import Network, Serial
from initstats.plan.trial import evenly
from initstats.prediction import predict
from initstats.sweep import Grid

SECONDS, ACTIVATIONS = 2.0, 4
"""The trial of a network ends after so many seconds; it is of so many activations."""

Kind = tuple[object, ...]


class _EnoughError(Exception):
    """The end of a trial."""


def theory_seconds(grid: Grid, data: Dataset) -> float:
    """The seconds that `predict` takes for a grid.

    Inits that have the same laws share their predictions, which take nearly all of the time.
    """
    return sum(_of_network(grid, data, network) for network in grid.every_network)


def _of_network(grid: Grid, data: Dataset, network: Network) -> float:
    """The seconds for a network: an activation costs most where it is met first."""
    shape, narrow, inits = data.train.shape, grid.widths[:1], grid.inits_of(network)
    placed = {width: network.on(shape, width, grid.depth) for width in grid.widths}
    kinds = {
        _kind(init, activation, placed[width])
        for init, activation, width in product(inits, grid.activations, grid.widths)
    }
    tried = [grid.activations[place] for place in evenly(len(grid.activations), ACTIVATIONS)]
    seen, new, further = set[Kind](), list[float](), list[float]()
    alone = {"networks": (network,), "inits": inits, "recipes": ()}
    less = alone | {"widths": narrow, "activations": tuple(tried)}
    seconds = _trial(grid.model_copy(update=less), data, 2 * len(tried))
    for (init, activation), cost in zip(product(inits, tried), seconds, strict=False):
        kind = _kind(init, activation, placed[narrow[0]])
        if len(new) < len(tried):
            new.append(cost)
        elif kind not in seen:
            further.append(cost)
        seen.add(kind)
    first, *others = new  # in the first, the data are looked at
    first_met = fmean(others or new) * (len(grid.activations) - 1)
    return first + first_met + fmean(further or [0.0]) * (len(kinds) - len(grid.activations))


def _trial(grid: Grid, data: Dataset, least: int) -> list[float]:
    """The seconds of each configuration, as far as the time allows."""
    marks = list[float]()

    def stop(done: int, total: int) -> None:
        marks.append(clock())
        if done >= least and marks[-1] - marks[0] > SECONDS:
            raise _EnoughError

    with suppress(_EnoughError):
        predict(grid, data, progress=stop)
    return [end - begin for begin, end in pairwise(marks)]


def _kind(init: Init, activation: Activation, network: Serial) -> Kind:
    """What inits share a prediction by; theory says nothing where laws cannot be had."""
    try:
        laws = tuple(layer.law(init, activation) for layer in network.layers)
    except ValueError:
        return ()
    return activation.name, network, laws
