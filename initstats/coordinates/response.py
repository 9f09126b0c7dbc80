"""The response of an optimizer to gradients: what a scale or the shape of one does to an update.

Muon (Jordan et al. 2024) and its kin make the update of a matrix orthogonal: the nearest matrix
whose singular values are all the same. The size of such an update is its spectral norm; its rms
falls with the width, and says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from initstats.coordinates.factory import Maker, seeded
from initstats.coordinates.keeper import rms
from initstats.coordinates.trial import Objective, Size, loss_at, placed
from initstats.draws import generator_for
from initstats.probe.probe import Probe

ALIKE = 0.93
"""The cosine between an update and the orthogonal one from which on they are one: Newton-Schulz
iterations leave singular values of 0.7 to 1.2, a cosine of 0.98; the gradient that is tried, of two
singular values, has 0.88, and one of more has less."""
SMALL = 0.3
"""Of the gradient that is tried, all singular values but the first together."""


@dataclass(frozen=True)
class Response:
    """How an optimizer answers.

    Attributes:
        degrees: by parameter: log_4 of what a loss times 4 does to an update: 1 where it is
            proportional to the gradient (SGD), 0 where it does not depend on its size (Adam).
        orthogonal: parameters whose updates are made orthogonal.
    """

    degrees: Mapping[str, float]
    orthogonal: frozenset[str]

    @property
    def degree(self) -> float:
        """Of most parameters; NaN where none moved."""
        known = [degree for degree in self.degrees.values() if not math.isnan(degree)]
        return float(np.median(known)) if known else math.nan


def response_of(maker: Maker, size: Size, objective: Objective) -> Response:
    """The response of the optimizer of one model, which is made anew for each trial."""
    small, large = (_sizes(maker, size, objective, factor) for factor in (1.0, 4.0))
    degrees = {n: math.log(large[n] / small[n], 4) for n in small if small[n] > 0 and large[n] > 0}
    middle = float(np.median([*degrees.values()])) if degrees else math.nan
    near = {name: degrees.get(name, middle) for name in small}
    whole = {n: next((w for w in (0.0, 1.0) if abs(d - w) < 0.1), d) for n, d in near.items()}
    return Response(whole, _orthogonal(maker, size, objective))


def _sizes(maker: Maker, size: Size, objective: Objective, factor: float) -> dict[str, float]:
    """The rms of the first update, of a loss that is multiplied."""
    with seeded(size.seed), placed(size):
        model, optimizer = maker.make(*size)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        with Probe(model, weights=False):  # which says where a model fails
            loss_at(model, optimizer, maker.inputs(size.width), objective, size.seed, factor)
        optimizer.step()
        return {name: rms(p.detach() - before[name]) for name, p in model.named_parameters()}


def _orthogonal(maker: Maker, size: Size, objective: Objective) -> frozenset[str]:
    """The parameters whose update is orthogonal where their gradient is not."""
    with seeded(size.seed):
        model, optimizer = maker.make(*size)
        loss_at(model, optimizer, maker.inputs(size.width), objective, size.seed)
        tried = {name: p for name, p in model.named_parameters() if _is_matrix(p)}
        nearest = {name: _steep(p) for name, p in tried.items()}
        before = {name: p.detach().clone() for name, p in tried.items()}
        optimizer.step()
        updates = {name: (p.detach() - before[name]).flatten(1) for name, p in tried.items()}
    return frozenset(n for n, update in updates.items() if cosine(update, nearest[n]) > ALIKE)


def _is_matrix(p: nn.Parameter) -> bool:
    dense = p.grad is not None and p.grad.layout == torch.strided
    return dense and p.ndim > 1 and p.is_floating_point() and min(p.flatten(1).shape) > 1


def _steep(p: nn.Parameter) -> Tensor:
    """Give a parameter a gradient with one large singular value; the orthogonal one beside it."""
    assert p.grad is not None
    rows, columns = p.flatten(1).shape
    least = min(rows, columns)
    generator = generator_for(least, "steep")
    left, right = (
        torch.linalg.qr(torch.randn(n, least, generator=generator, dtype=torch.float64))[0]
        for n in (rows, columns)
    )
    values = torch.full((least,), SMALL / math.sqrt(least - 1), dtype=torch.float64)
    values[0] = 1.0
    size = rms(p.grad) * math.sqrt(p.numel()) or 1.0
    p.grad.copy_((size * (left * values) @ right.T).view(p.shape))
    nearest: Tensor = left @ right.T
    return nearest.to(p.device)


def cosine(x: Tensor, y: Tensor) -> float:
    """The cosine of the angle between two matrices, without its sign; 0 where one is 0."""
    x, y = x.double(), y.double()
    sizes = float(x.norm() * y.norm())
    return abs(float((x * y).sum())) / sizes if sizes > 0 and math.isfinite(sizes) else 0.0
