"""The statistics of one batch, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from torch import Tensor, nn

from initstats.probe.batch import Loss
from initstats.probe.elementwise import Phi
from initstats.probe.probe import Patterns, Probe


def examine(model: nn.Module, inputs: Any, *, loss: Loss | None = None, **settings: Any) -> Probe:
    """A probe that has measured one batch, for histograms and `missed` beside the table.

    Args:
        model: any module, in the mode to measure; it is left as it was.
        inputs, loss: as `Probe.run`.
        settings: as `Probe`.

    Raises:
        TypeError, ValueError: as `Probe` and `Probe.run`.

    >>> import torch
    >>> int(examine(nn.ReLU(), torch.ones(5, 3)).histograms()["count"].sum())
    30
    """
    return Probe(model, **settings).run(inputs, loss)


def measure(
    model: nn.Module,
    inputs: Any,
    *,
    backward: bool = False,
    loss: Loss | None = None,
    weights: bool = True,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    unit_axis: Mapping[str, int] | None = None,
    spectra: bool = False,
    mask: Tensor | None = None,
) -> pd.DataFrame:
    """The statistics of every operation of a model over one batch: `examine(...).table()`.

    Args:
        model: any module, in the mode to measure; it is left as it was.
        inputs, loss: as `Probe.run`.
        backward, weights, include, exclude, unit_axis, spectra, mask: as `Probe`.

    Raises:
        TypeError, ValueError: as `Probe` and `Probe.run`.

    >>> import torch
    >>> table = measure(nn.Linear(3, 2), torch.ones(5, 3))
    >>> table["op"].tolist()
    ['input', 'linear', 'linear', 'linear']
    """
    return examine(
        model,
        inputs,
        loss=loss,
        backward=backward,
        weights=weights,
        include=include,
        exclude=exclude,
        unit_axis=unit_axis,
        spectra=spectra,
        mask=mask,
    ).table()


def functions_of(probe: Probe) -> dict[int, Phi]:
    """The elementwise function that made each value in the last pass, by its layer."""
    slots = probe._recorder.slots.values()
    found = {slot.layer: facts.phi for slot in slots for facts in slot.facts.values()}
    return {layer: phi for layer, phi in found.items() if isinstance(phi, Phi)}


def products_of(probe: Probe) -> dict[str, int]:
    """The layer that first sums with each measured weight, by the weight's name."""
    found: dict[str, int] = {}
    for slot in probe._recorder.slots.values():
        for facts in slot.facts.values():
            if facts.weight is not None and slot.address.tensor != "weight":
                found.setdefault(facts.weight.name, slot.layer)
    return found
