"""Batch norm and other norms: closed forms, figures of the literature, torch's own norm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm

from initstats import activations, theory
from initstats.theory.state import Cotangent, State

BATCHES = (8, 16, 32, 64, math.inf)
RATES = {
    "relu": (1.78819, 1.58995, 1.52195, 1.49306, 1.46694),
    "tanh": (1.35855, 1.24626, 1.20830, 1.19226, 1.17781),
    "gelu": (1.62230, 1.43571, 1.37124, 1.34375, 1.31884),
}


@pytest.mark.parametrize("name", RATES)
def test_figures(name: str) -> None:
    for batch, rate in zip(BATCHES, RATES[name], strict=True):
        found = theory.batch_norm_rate(activations.get(name), batch)
        assert found == pytest.approx(rate, abs=1e-5)


def _arc(c: float) -> tuple[float, float]:
    """The arc-cosine kernel of relu, normalized, and its slope."""
    angle = math.acos(c)
    return (math.sqrt(1 - c * c) + c * (math.pi - angle)) / math.pi, 1 - angle / math.pi


@pytest.mark.parametrize("batch", [5, 6, 8, 33, 1024, 60_000])
def test_relu_in_closed_form(batch: int) -> None:
    kernel, slope = _arc(-1 / (batch - 1))
    relu = activations.get("relu")
    assert theory.batch_norm_moments(relu, batch).correlation == pytest.approx(kernel, abs=1e-10)
    rate = ((batch - 1) + slope) / ((batch - 3) * (1 - kernel)) - 1 / (batch - 3)
    assert theory.batch_norm_rate(relu, batch) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("batch", [4, 5, 16, 512])
def test_linear_networks(batch: int) -> None:
    rate = theory.batch_norm_rate(activations.get("identity"), batch)
    assert rate == pytest.approx((batch - 2) / (batch - 3), rel=1e-12)


def test_small_batches() -> None:
    """Of three samples the mean rate is infinite; two are +-1, and no gradient comes back."""
    relu = activations.get("relu")
    assert theory.batch_norm_rate(relu, 3) == math.inf
    assert theory.batch_norm_rate(relu, 2) == 0
    assert theory.batch_norm_moments(relu, 2)[1:3] == (0.5, 0.0)
    assert theory.batch_norm_rate(relu, 4) == pytest.approx(3.08406, abs=1e-5)


@pytest.mark.parametrize("batch", [7, 16])
@pytest.mark.parametrize("name", ["relu", "tanh", "elu", "hardtanh", "identity"])
@pytest.mark.parametrize("rho", [0.0, 0.6, 1.0])
def test_norm_of_torch(batch: int, name: str, rho: float) -> None:
    """Forward moments and gradients of a layer of many units, by autograd.

    Gradients of samples may be equal, as of a loss that sums outputs: a linear network has none.
    """
    activation = activations.get(name)
    q, k, gamma, units = 1.7, 0.5, 1.3, 6_000
    generator = torch.Generator().manual_seed(0)

    def rows(own: float, shared: float) -> torch.Tensor:
        noise, same = (
            torch.randn(size, units, generator=generator, dtype=torch.float64)
            for size in (batch, 1)
        )
        return math.sqrt(own) * noise + math.sqrt(shared) * same

    h = rows(q - k, k).requires_grad_()
    y = activation(batch_norm(h, None, None, training=True, eps=1e-30))
    (gradient,) = torch.autograd.grad(y, h, rows(gamma * (1 - rho), gamma * rho))
    y = y.detach()
    moments = theory.batch_norm_moments(activation, batch)
    square, product = moments.pull(gamma, rho * gamma, q - k)
    for measured, predicted in (
        ((y**2).mean(0), moments.square),
        ((y.sum(0) ** 2 - (y**2).sum(0)) / (batch * (batch - 1)), moments.product),
        ((gradient**2).mean(0), square),
        (-(gradient**2).mean(0) / (batch - 1), product),
    ):
        error = float(measured.std()) / math.sqrt(units)
        assert abs(float(measured.mean()) - predicted) < 4 * error + 1e-12
    assert float(gradient.sum(0).abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["relu", "tanh", "elu"])
def test_the_limit_of_large_batches(name: str) -> None:
    near, limit = (theory.batch_norm_moments(activations.get(name), b) for b in (10**6, math.inf))
    assert near[1:] == pytest.approx(limit[1:], rel=1e-5, abs=1e-5)


PLACES = (("layer", "pre"), ("rms", "after"), ("layer", "after"), ("batch", "pre"))


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("relu", (1, 1, 1.46694, 1.46694)),
        ("tanh", (1.17781, 1.17781, 1.17781, 1.17781)),
        ("gelu", (1.07203, 1.07203, 1.31884, 1.31884)),
        ("identity", (1, 1, 1, 1)),
    ],
)
def test_the_place_decides(name: str, rates: tuple[float, ...]) -> None:
    activation = activations.get(name)
    for (norm, place), rate in zip(PLACES, rates, strict=True):
        found = theory.gradient_rate(activation, norm, place)  # type: ignore[arg-type]
        assert found == pytest.approx(rate, abs=1e-5)
    assert theory.standardized_rate(activation) == pytest.approx(rates[2], abs=1e-5)
    assert theory.gradient_rate(activation, "group", "pre") == pytest.approx(rates[0], abs=1e-5)
    assert theory.gradient_rate(activation, "group", "after") == pytest.approx(rates[2], abs=1e-5)
    assert theory.gradient_rate(activation, "batch", "after") == pytest.approx(rates[2], abs=1e-5)


def test_scales_of_weights() -> None:
    """They act behind the activation, and not on relu: pi / (pi - 1) whatever they are."""
    relu, gelu, tanh = (activations.get(name) for name in ("relu", "gelu", "tanh"))
    assert theory.gradient_rate(gelu, "layer", "after", 2.0) == pytest.approx(1.37915, abs=1e-5)
    assert theory.gradient_rate(gelu, "rms", "after", 2.0) == pytest.approx(1.06175, abs=1e-5)
    assert theory.gradient_rate(tanh, "rms", "after", 9.0) == pytest.approx(2.10431, abs=1e-5)
    assert theory.gradient_rate(gelu, "rms", "pre", 2.0) == pytest.approx(1.07203, abs=1e-5)
    for sigma_w2 in (0.3, 2.0):
        rate = theory.gradient_rate(relu, "layer", "after", sigma_w2)
        assert rate == pytest.approx(math.pi / (math.pi - 1), rel=1e-10)
    assert theory.gradient_rate(relu, "batch", "pre", batch=16) == pytest.approx(1.58995, abs=1e-5)


def test_skips() -> None:
    """Behind a skip: post-norm is exponential, 1 for relu; pre-norm a power law."""
    relu, tanh = activations.get("relu"), activations.get("tanh")
    assert theory.post_norm_rate(relu, 2.0, 0.7, alpha=0.3, beta=2.5) == pytest.approx(1)
    assert theory.post_norm_rate(tanh) == pytest.approx(1.0503, abs=1e-4)
    assert theory.post_norm_rate(tanh, alpha=0.0) == 1
    r = theory.response(tanh, 2.0)
    small = (1 + 0.09 * 3.0 * 2.0 * r.slope_square) / (1 + 0.09 * 3.0 * r.square)
    assert theory.post_norm_rate(tanh, 2.0, 3.0, alpha=0.3) == pytest.approx(float(small))
    exponent, k0 = theory.gradient_rate(tanh, "rms", "after", 2.0), 1.7
    product = math.prod(1 + exponent / (k0 + layer) for layer in range(60))
    assert theory.pre_norm_growth(exponent, 60, k0) == pytest.approx(product, rel=1e-12)
    assert theory.pre_norm_growth(1.0, 99, 1.0) == pytest.approx(100, rel=1e-12)
    assert theory.pre_norm_growth(exponent, 0, k0) == 1


def test_batch_norm_before_a_skip() -> None:
    """x + W phi(BN x): each layer adds to q - K, and the norm's pull divides by it."""
    relu, sigma_w2, layers = activations.get("relu"), 2.0, 24
    moments = theory.batch_norm_moments(relu, 32)
    added = sigma_w2 * (moments.square - moments.product)
    gamma, variance = 1.0, 0.9
    for _ in range(layers):
        own = moments.pull(sigma_w2 * gamma, -sigma_w2 * gamma / 31, variance)[0]
        gamma, variance = gamma + own, variance + added
    growth = theory.pre_norm_growth(theory.batch_norm_rate(relu, 32), layers, 0.9 / added)
    assert growth == pytest.approx(gamma, rel=1e-10)


def test_what_is_out_of_range() -> None:
    relu = activations.get("relu")
    with pytest.raises(ValueError, match="a batch has at least 2 samples.*got 1"):
        theory.batch_norm_rate(relu, 1)
    with pytest.raises(ValueError, match="a batch has at least 2 samples"):
        theory.batch_norm_moments(relu, 7.5)
    with pytest.raises(ValueError, match="unknown norm 'instance'"):
        theory.gradient_rate(relu, "instance", "pre")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown place 'post'"):
        theory.gradient_rate(relu, "layer", "post")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nearly no spread in some units"):
        theory.gradient_rate(relu, "batch", "after", batch=3)
    with pytest.raises(ValueError, match="a batch has at least 2 samples"):
        theory.gradient_rate(relu, "batch", "after", batch=7.5)
    with pytest.raises(ValueError, match="sigma_w2 is a variance"):
        theory.gradient_rate(relu, "layer", "after", -1.0)
    with pytest.raises(ValueError, match="k0 > 0"):
        theory.pre_norm_growth(1.0, 3, 0.0)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("activated", [True, False])
def test_a_norm_over_a_plane(centred: bool, activated: bool) -> None:
    """Positions of different power share mean and size: map of powers, and gradients, by autograd.

    Errors of order 1 / units are far below what draws leave.
    """
    relu, units = activations.get("relu"), 20_000
    generator = torch.Generator().manual_seed(0)
    power = torch.tensor([[[0.1, 2.0], [0.5, 3.0]], [[1.0, 1.0], [0.2, 7.0]]], dtype=torch.float64)
    state = State(power.numpy(), np.zeros((2, 2, 2)), gaussian=True, width=units)
    noise = torch.randn(2, units, 2, 2, generator=generator, dtype=torch.float64)
    h = power.sqrt()[:, None] * noise
    if activated:
        state, h = state.activated(relu), relu(h)
    h.requires_grad_()
    centre = h.mean((1, 2, 3), keepdim=True) if centred else torch.zeros(2, 1, 1, 1)
    normed = (h - centre) / ((h - centre).square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    cotangent = torch.randn(normed.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(normed, h, cotangent)
    told = state.normed(centred=centred, eps=1e-5, whole=True)
    back = state.unnormed(Cotangent(np.ones((2, 2, 2))), centred=centred, eps=1e-5, whole=True)
    for drawn, predicted in ((normed.detach(), told.square), (gradient, back.square)):
        squares = drawn.square()
        error = squares.std(1).numpy() / math.sqrt(units) + 1e-3 * predicted
        assert (np.abs(squares.mean(1).numpy() - predicted) < 4 * error).all()
    assert np.abs(normed.detach().mean(1).numpy() - told.mean).max() < 4 / math.sqrt(units) * 3
