"""The numbers that a name gives: how a folder notices that the name has come to mean another thing.

A file of code may change without a change of what it computes, and a function may change although
its own code does not. So the definition of an entry is known by what it makes of fixed inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product

import torch

from initstats import inits
from initstats.activations import ACTIVATIONS, Activation
from initstats.data import Split
from initstats.draws import generator_for
from initstats.inits import Init
from initstats.moments import STATISTICS, Moments
from initstats.networks import Network
from initstats.registry import Entry
from initstats.stack import Settings, run_stack
from initstats.store import Definitions

SAMPLES = WIDTH = 8
SHAPES = ((WIDTH, WIDTH), (12, 30), (30, 12), (6, 4, 3, 3))
"""Shapes of the weights that inits draw."""


def definitions(entries: Iterable[Entry], split: Split, depth: int) -> Definitions:
    """What networks, inits and activations make of fixed inputs.

    Args:
        split: gives the networks their first samples.
        depth: of the networks.
    """
    samples = split.first(min(SAMPLES, len(split)))
    found: dict[str, dict[str, list[float]]] = {"network": {}, "init": {}, "activation": {}}
    for entry in entries:
        if isinstance(entry, Network):
            numbers = _of_network(entry, samples, depth)
        elif isinstance(entry, Init):
            numbers = _of_init(entry)
        else:
            assert isinstance(entry, Activation)
            numbers = _of_activation(entry)
        found[entry.catalog.noun][entry.name] = numbers
    return found


def statistic_definitions() -> Definitions:
    """Every statistic of tensors that differ in their distribution: dense, sparse, constant."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(5, WIDTH, 40, generator=generator) + 0.5
    tensors = torch.stack([x[0], x[1].tanh(), x[2].relu(), x[3].clamp(0, 0), x[4].exp()])
    tensors[0, 0, 0], tensors[0, 1, 0] = torch.nan, torch.inf
    moments = Moments(len(tensors), WIDTH, kernels="torch")
    moments.add(slice(0, len(tensors)), tensors)
    return {"statistic": dict(zip(STATISTICS, moments.statistics().T.tolist(), strict=True))}


def _of_activation(activation: Activation) -> list[float]:
    """Values, and slopes where there are any: in steps of 1/16 near 0, in powers far from it."""
    scales = torch.logspace(-3, 4, 29)
    x = torch.cat([-scales, torch.linspace(-4, 4, 129), scales])
    numbers: list[float] = []
    with _as_far_as_it_can(), torch.no_grad():
        numbers += activation(x.clone()).tolist()
    with _as_far_as_it_can():
        numbers += activation.derivative(x.clone()).tolist()
    return [float(f"{number:.7g}") for number in numbers]  # float32 has no more digits


def _of_init(init: Init) -> list[float]:
    """A part of what it draws for layers that read data or an activation, as far as it can."""
    numbers = [float(init.fitted)]
    for shape, name in product(SHAPES, ("identity", "gelu")):
        with _as_far_as_it_can():
            weight, bias = init.sample(shape, generator_for(0, *shape), ACTIVATIONS[name])
            numbers += [*weight.flatten()[:8].tolist(), weight.std().item(), *bias[:4].tolist()]
    return numbers


def _of_network(network: Network, samples: Split, depth: int) -> list[float]:
    """The second moments of a narrow one, forward and backward; none if it cannot be so narrow."""
    settings = Settings(depth, len(samples), backward=True, dtype="float64", kernels="torch")
    init, relu = inits.get("kaiming_normal"), ACTIVATIONS["relu"]
    with _as_far_as_it_can():
        narrow = network.on(samples.shape, WIDTH, depth)
        (result,) = run_stack(narrow, init, [relu], [0], samples, None, settings)
        moments = result.statistics[:, list(STATISTICS).index("second_moment")]
        return [*(leaf.outputs.size for leaf in narrow.leaves()), *moments.tolist()]
    return []


@contextmanager
def _as_far_as_it_can() -> Iterator[None]:
    """Pass over what an entry cannot do, which a study may not ask of it either."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException:  # noqa: BLE001 (a cell that needs it will fail, and tell)
        return
