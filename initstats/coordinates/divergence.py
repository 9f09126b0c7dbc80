"""Divergence: a training that blew up within the few steps of a check."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from initstats.coordinates.trial import PLACE, Trial

DIVERGED = "training"
"""The rule about it."""
EXPLODED = 100.0
"""The factor by which the largest value of a model grows in a training that blew up."""


class Divergence(NamedTuple):
    """A training that blew up.

    Attributes:
        width: of the model.
        step: the first one after which it had.
        factor: rms of its largest values over that at init; inf where the loss or values are not
            finite.
    """

    width: int
    step: int
    factor: float


def divergences(trials: Iterable[Trial]) -> Iterator[Divergence]:
    """The trials whose training blew up, or whose loss was not finite at init (step 0)."""
    for trial in trials:
        sizes = _largest(trial)
        for step, loss in enumerate(trial.losses):
            factor = sizes[step] / sizes[0] if sizes[0] else 1.0
            if not math.isfinite(loss) or not factor <= EXPLODED:
                known = factor if math.isfinite(loss) and math.isfinite(factor) else math.inf
                yield Divergence(trial.size.width, step, known)
                break


def told(found: Sequence[Divergence]) -> str:
    """What became of the trainings, in words."""
    step = min(each.step for each in found)
    widths = ", ".join(f"{width:,}" for width in sorted({each.width for each in found}))
    at = f"at the width{'s' * (widths.count(' ') > 0)} {widths}"
    if step == 0:
        return f"the loss is not finite at init, {at}"
    factor = max(each.factor for each in found)
    times = f"{factor:,.0f}" if factor < 1e6 else f"{factor:.0e}"
    grown = f"grew to {times} times their size" if factor < math.inf else "are no longer finite"
    return (
        f"the training diverged by step {step} {at}: values {grown}; take a smaller learning rate"
    )


def _largest(trial: Trial) -> Mapping[int, float]:
    """The rms of a model's largest values by step; those of a mask are infinite from the start."""
    rows = trial.table[(trial.table["tensor"] != "weight") & (trial.table["quantity"] == "value")]
    rows = rows.set_index(PLACE[1:])
    begun = rows[rows["step"] == 0]["rms"]
    rows = rows[rows.index.isin(begun.index[np.isfinite(begun)])]
    sizes = rows.groupby("step")["rms"].max()
    return {step: float(sizes.get(step, 0.0)) for step in range(len(trial.losses))}
