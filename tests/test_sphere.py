"""Normalized pre-activations at finite width against closed forms and torch's own norms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import group_norm, layer_norm, rms_norm

from initstats import activations, theory

NORMS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "layer": (lambda x: layer_norm(x, (12,), eps=0), 11),
    "rms": (lambda x: rms_norm(x, (12,), eps=0), 12),
    "group of four": (lambda x: group_norm(x, 3, eps=0), 3),
    "group of three": (lambda x: group_norm(x, 4, eps=0), 2),
    "group of two": (lambda x: group_norm(x, 6, eps=0), 1),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["relu", "tanh", "elu", "leaky_relu(negative_slope=0.3)"])
def test_norms_of_torch(norm: str, name: str) -> None:
    function, d = NORMS[norm]
    activation = activations.get(name)
    generator = torch.Generator().manual_seed(0)
    z = function(torch.randn(3000, 12, generator=generator, dtype=torch.float64))
    y, slope = activation(z), activation.derivative(z)
    for value, found in zip((y, y**2, slope**2), theory.sphere_moments(activation, d), strict=True):
        rows = value.mean(1)
        error = float(rows.std()) / math.sqrt(len(rows))
        assert abs(float(rows.mean()) - found) < 4 * error + 1e-9


@pytest.mark.parametrize("d", [1, 2, 3, 4, 31, 1000, 10**7])
@pytest.mark.parametrize("q", [1.0, 2.5])
def test_closed_forms(d: int, q: float) -> None:
    absolute = math.sqrt(d / math.pi) * math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2))
    relu = theory.sphere_moments(activations.get("relu"), d, q)
    assert relu == pytest.approx((math.sqrt(q) * absolute / 2, q / 2, 0.5), rel=1e-8)
    square = theory.sphere_moments(activations.get("squared_relu"), d, q)
    assert square.square == pytest.approx(1.5 * q**2 * d / (d + 2), rel=1e-11)
    identity = theory.sphere_moments(activations.get("identity"), d, q)
    assert identity == pytest.approx((0, q, 1), abs=1e-11)


@pytest.mark.parametrize("name", ["tanh", "gelu", "leaky_relu"])
def test_the_limit_is_gaussian(name: str) -> None:
    """E phi^2 = G - G'' q^2 / d to first order."""
    activation = activations.get(name)
    r = theory.response(activation, 1.0)
    limit = theory.sphere_moments(activation, math.inf)
    assert limit == pytest.approx((r.mean, r.square, r.slope_square), rel=1e-12)
    near = theory.sphere_moments(activation, 4000)
    assert 4000 * (near.square - limit.square) == pytest.approx(-float(r.square_2), abs=2e-3)


def test_tanh_of_thirty_two_units() -> None:
    tanh = activations.get("tanh")
    excess = theory.sphere_moments(tanh, 31).square / theory.sphere_moments(tanh, math.inf).square
    assert excess == pytest.approx(1.014, abs=1e-3)


def test_a_silent_row() -> None:
    assert theory.sphere_moments(activations.get("sigmoid"), 5, 0.0)[:2] == pytest.approx(
        (0.5, 0.25)
    )


def test_what_is_out_of_range() -> None:
    relu = activations.get("relu")
    with pytest.raises(ValueError, match="at least 1 dimension to move in: got d = 0"):
        theory.sphere_moments(relu, 0)
    with pytest.raises(ValueError, match="q is a second moment"):
        theory.sphere_moments(relu, 3, -1.0)
