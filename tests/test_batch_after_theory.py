"""Batch norm behind an activation: torch's own norm by autograd, closed forms, and refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm

import initstats as ist
from initstats import activations, inits, networks, theory
from initstats.networks import Block, Serial
from initstats.networks.activate import Activate
from initstats.networks.attention import Attention
from initstats.networks.batch_norm import BatchNorm
from initstats.networks.dense import Dense
from initstats.networks.dropout import Dropout
from initstats.networks.embedding import Patches
from initstats.networks.pointwise import Pointwise
from initstats.networks.stem import Stem
from initstats.networks.stream import Stream
from initstats.prediction.batches import Batches
from initstats.prediction.behind import through
from initstats.survival import followed, largest_depth, predict_survival
from initstats.theory.batch_after import batch_after_moments
from initstats.theory.exchangeable import Exchangeable
from initstats.theory.state import Law, State, Unpredicted

AFTER = "mlp(norm=batch,place=after)"


@pytest.mark.parametrize("batch", [8, 16])
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize(("rho", "bias"), [(0.0, 0.0), (0.6, 0.3)])
def test_moments_are_those_of_torchs_norm(batch: int, name: str, rho: float, bias: float) -> None:
    """A layer of many units, by autograd; a uniform bias is part of what samples share."""
    activation, (q, k), gamma, units = activations.get(name), (1.7, bias), 1.3, 100_000
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, units, generator=generator, dtype=torch.float64)

    shared = math.sqrt(3 * bias) * (2 * torch.rand(1, units, generator=generator).double() - 1)
    h = (math.sqrt(q - k) * normal(batch) + shared).requires_grad_()
    y = activation(h)
    z = batch_norm(y, None, None, training=True)
    cotangent = math.sqrt(gamma * (1 - rho)) * normal(batch) + math.sqrt(gamma * rho) * normal(1)
    plain, sloped = torch.autograd.grad(z, [y, h], cotangent)
    moments = batch_after_moments(activation, batch, q, k, bias)
    left = gamma * (1 - rho)
    z = z.detach()
    for measured, told, off in (
        ((z**2).mean(0), moments.square, 1e-4),
        (_product(z), moments.product, 1e-4),
        ((sloped**2).mean(0), left * moments.own, moments.error),
        (_product(sloped), left * moments.other, 4 * moments.error),
        ((plain**2).mean(0), left * moments.plain, moments.plain_error),
    ):
        error = float(measured.std()) / math.sqrt(units)
        assert abs(float(measured.mean()) - told) < 4 * math.hypot(error, off * told) + 1e-12


def _product(rows: Tensor) -> Tensor:
    """The mean product of two samples, for each unit."""
    batch = len(rows)
    return (rows.sum(0) ** 2 - (rows**2).sum(0)) / (batch * (batch - 1))


@pytest.mark.parametrize("batch", [6, 16, 128])
def test_without_an_activation_the_place_does_not_matter(batch: int) -> None:
    rate = theory.gradient_rate(activations.get("identity"), "batch", "after", 1.7, batch)
    assert rate == pytest.approx((batch - 2) / (batch - 3), rel=0.01)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_the_limit_of_large_batches(name: str) -> None:
    near, limit = (
        theory.gradient_rate(activations.get(name), "batch", "after", 2.0, batch)
        for batch in (2000, math.inf)
    )
    assert near == pytest.approx(limit, rel=0.015)


@pytest.mark.parametrize(("name", "batch"), [("relu", 32), ("tanh", 32), ("gelu", 12)])
def test_a_deep_stack_of_torch(name: str, batch: int) -> None:
    """Squares forward and back, layer by layer, without a line of this program's networks."""
    depth, width, seeds, sigma_w2 = 6, 256, 16, 2.0
    activation, found = getattr(torch.nn.functional, name, torch.tanh), []
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for _ in range(seeds):
        tensors = [(math.sqrt(sigma_w2) * normal(batch, width)).requires_grad_()]
        for layer in range(depth):
            z = batch_norm(activation(tensors[-1]), None, None, training=True)
            if layer < depth - 1:
                tensors.append(z @ normal(width, width) * math.sqrt(sigma_w2 / width))
        gradients = torch.autograd.grad(z, tensors, normal(batch, width))
        found.append([float(x.detach().square().mean()) for x in (*tensors, *gradients)])
    ends = followed(
        networks.get(f"mlp(norm=batch,place=after,batch={batch})"),
        inits.get("kaiming_normal"),
        activations.get(name),
        depth,
        correlation_of_inputs=0.0,
    )
    assert ends.why == ""
    assert ends.last
    told = [sigma_w2] * depth + [float(slope.square[0]) for slope in reversed(ends.slopes)]
    assert float(ends.last.square[0]) == pytest.approx(sigma_w2, rel=1e-3)
    drawn = np.array(found)
    error = drawn.std(0, ddof=1) / math.sqrt(seeds) / told
    off = np.abs(drawn.mean(0) / told - 1)
    # a finite width adds to gradients, and the rate of each layer is known to 0.2%
    layers = np.concatenate([np.zeros(depth), np.arange(depth, 0, -1)])
    assert (off < 4 * error + (1 / width + 0.002) * layers).all()


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_gradients_of_samples_that_differ(name: str) -> None:
    """Two batches of any covariance, and a gradient of any, number by number, by autograd."""
    activation, batch, units, bias = activations.get(name), 10, 200_000, 0.2
    generator = torch.Generator().manual_seed(2)
    rows = 2 * batch

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    data, slopes = normal(rows, 30) / math.sqrt(30), normal(rows, 25) / 5
    data *= torch.linspace(0.7, 1.5, rows, dtype=torch.float64)[:, None]
    noise = math.sqrt(3 * bias) * (2 * torch.rand(units, 1, generator=generator).double() - 1)
    h = (normal(units, 30) @ data.T + noise).requires_grad_()
    y = activation(h)
    z = torch.cat([batch_norm(x.T, None, None, training=True) for x in torch.split(y, batch, 1)])
    gradients = torch.autograd.grad(z.T, [y, h], normal(units, 25) @ slopes.T)
    k = (data @ data.T + bias).numpy()[None]
    law = Law(1.0, bias, bias)
    state = State(np.diagonal(k[0]), np.zeros(rows), k=k, law=law, gaussian=True)
    found = through(activation, state, (slopes @ slopes.T).numpy()[None], batch, 4096)
    assert found.told
    assert found.plain_told
    for gradient, told in zip(gradients, (found.plain, found.before), strict=True):
        measured = (gradient.T @ gradient / units).numpy()
        squares = gradient.square()
        error = (squares.T @ squares / units).sqrt().numpy() / math.sqrt(units)
        size = math.sqrt(np.diagonal(measured).mean() * np.diagonal(measured).max())
        assert (np.abs(measured - told[0]) < 6 * error + 0.03 * size).all()
        sizes = squares.sum(1)
        spread = math.hypot(float(sizes.std()) / math.sqrt(units), 0.03 * np.trace(told[0]) / 3)
        assert abs(np.trace(told[0]) - np.trace(measured)) < 3 * spread


def test_means_and_products_of_samples_that_differ(toy: ist.Dataset) -> None:
    """A long sample has a mean over units: relu makes more of it than of the others."""
    batch, units, relu = 16, 100_000, activations.get("relu")
    batches = Batches(toy.valid, batch)
    state = batches.state.through(Law(2.0), 64).activated(relu)
    normed = batches.batch_normed(state, batch)
    generator = torch.Generator().manual_seed(4)
    values, vectors = np.linalg.eigh(state.before.k[0])
    root = torch.from_numpy(vectors * np.sqrt(values.clip(0)))
    h = root @ torch.randn(2 * batch, units, generator=generator, dtype=torch.float64)
    z = torch.cat([batch_norm(x, None, None, training=True) for x in torch.split(relu(h), batch)])
    assert float(z.mean(1).abs().max()) > 0.3
    error = 5 / math.sqrt(512)  # of the units that theory draws
    assert np.abs(z.mean(1).numpy() - normed.mean[: 2 * batch]).max() < error
    assert np.abs((z @ z.T / units).numpy() - normed.k[0]).max() < 2 * error


def tokens_behind(width: int, depth: int) -> Block:
    """A transformer whose second branch normalizes what its activation gives, over a batch."""
    attention = Serial(Attention(2), Pointwise(width, tensor="branch"))
    first, last = Pointwise(width), Pointwise(width, tensor="branch")
    feedforward = Serial(first, Activate(), BatchNorm(4), last)
    layers = [Stream(block, tokens=True) for block in (attention, feedforward)]
    return Serial(Stem(Patches(width, 4, tensor="stream")), *layers)


def test_tokens_of_a_batch(toy: ist.Dataset) -> None:
    grid = ist.Grid(
        networks=[tokens_behind],
        inits=["lecun_normal"],
        activations=["tanh"],
        widths=[64],
        depth=3,
        seeds=30,
        samples=32,
        backward=True,
    )
    place = ["layer", "tensor", "direction"]
    drawn = ist.run_sweep(grid, toy).groupby(place, observed=True)["second_moment"]
    told = ist.predict(grid, toy).set_index(place)["second_moment"]
    inside = [at for at in told.index if at[1] in ("stream", "normed", "activation")]
    assert ("activation", "backward") in {at[1:] for at in inside}
    off = (drawn.mean() / told)[inside] - 1
    assert (off.abs() < 4 * (drawn.sem() / told)[inside] + 4 / 64).all()


def test_survival_is_told_at_any_depth() -> None:
    found = predict_survival(AFTER, "lecun_normal", "tanh", [10, 1000])
    assert found["note"].tolist() == ["", ""]
    assert found["correlation"].tolist() == pytest.approx([-1 / 31] * 2)
    rate = theory.gradient_rate(activations.get("tanh"), "batch", "after", 1.0, 32)
    grown = found["gradient"] ** 2
    assert math.log(grown[1] / grown[0]) == pytest.approx(990 * math.log(rate), rel=1e-3)
    assert 10 < largest_depth(AFTER, "lecun_normal", "tanh") < 30


@pytest.mark.parametrize(
    ("network", "init", "words"),
    [
        (AFTER, "zeros", "no spread to be divided by"),
        ("mlp(norm=batch,place=after,batch=3)", "kaiming_normal", "nearly no spread in some units"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_has_no_mean_is_unknown(network: str, init: str, words: str) -> None:
    (row,) = predict_survival(network, init, depths=[20]).to_dict("records")
    assert (row["verdict"], words in row["note"]) == ("unknown", True)


def dropped(width: int, depth: int) -> Block:
    """A batch norm that reads what dropout leaves of activations."""
    layer = Dense(width), Activate(), Dropout(0.1), BatchNorm(16)
    return Serial(*(block for _ in range(depth) for block in layer))


def forked(width: int, depth: int) -> Block:
    """Activations that a batch norm reads, and a sum, too."""
    layer = Dense(width), Activate(), Stream(Serial(BatchNorm(16), Dense(width, tensor="branch")))
    return Serial(*(block for _ in range(depth) for block in layer))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (dropped, "of what an activation makes of them"),
        (forked, "an activation that a batch norm reads, and a sum"),
    ],
)
def test_what_theory_does_not_follow_is_a_note(toy: ist.Dataset, network: Any, words: str) -> None:
    settings: Any = {"inits": ["lecun_normal"], "activations": ["tanh"], "widths": [16], "depth": 2}
    predicted = ist.predict(ist.Grid(networks=[network], backward=True, **settings), toy)
    unknown = predicted[predicted["second_moment"].isna()]
    assert unknown["note"].str.contains(words).any()


def test_one_batch_norm_of_an_activation_is_followed() -> None:
    rows = Exchangeable()
    before = rows.batch_normed(rows.state(1.0, 0.3).through(Law(1.0), 8), 16)
    with pytest.raises(Unpredicted, match="one batch norm of an activation"):
        rows.batch_normed(before.activated(activations.get("relu")), 16)


def test_rows_that_few_units_carry_say_so(toy: ist.Dataset) -> None:
    """A unit of relu whose batch is silent but for one sample weighs as much as all others."""
    grid = ist.Grid(
        networks=["mlp(norm=batch,place=after,batch=16)"],
        inits=["lecun_normal"],
        activations=["relu"],
        widths=[32],
        depth=3,
        backward=True,
    )
    rows = ist.predict(grid, toy)
    back = rows[(rows["direction"] == "backward") & (rows["tensor"] == "preactivation")]
    assert back["second_moment"].notna().all()
    assert back["note"].str.contains("few units").tolist() == [True, False, False]
