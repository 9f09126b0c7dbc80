"""Theory of attention against attention itself, with random weights and autograd, in float64."""

from __future__ import annotations

import math
from typing import NamedTuple, TypedDict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from initstats import theory
from initstats.prediction.sequences import resembling
from initstats.theory.attention import Tokens

Array = NDArray[np.float64]

NAMES = ("forward", "values", "queries", "keys")


class Gains(TypedDict):
    logit_gain: float
    value_gain: float


class Measured(NamedTuple):
    """Means over draws of the weights, and their standard errors, (rows, rows) each."""

    means: dict[str, Array]
    errors: dict[str, Array]


def equicorrelated(
    sequences: int, tokens: int, square: float, inside: float, across: float
) -> Array:
    """Product moments of exchangeable tokens of several sequences."""
    same = np.kron(np.eye(sequences), np.ones((tokens, tokens)))
    kernel = across + (inside - across) * same
    np.fill_diagonal(kernel, square)
    return np.asarray(kernel, dtype=np.float64)


def of_kernel(kernel: Array, units: int) -> Array:
    """Rows whose products over units are the kernel, exactly."""
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(units, len(kernel))))[0].T
    rows: Array = np.linalg.cholesky(kernel) @ basis * math.sqrt(units)
    return rows


def simulated(
    kernel: Array,
    gradient: Array,
    tokens: int,
    *,
    variances: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    heads: int = 1,
    causal: bool = False,
    power: float = 0.5,
    units: int = 64,
    draws: int = 250,
) -> Measured:
    """Attention of fixed tokens over draws of weights, each path from tokens of its own."""
    generator = torch.Generator().manual_seed(0)
    size = units // heads
    inputs = torch.from_numpy(of_kernel(kernel, units)).expand(draws, -1, -1)
    by_path = [inputs.clone().requires_grad_() for _ in range(3)]  # keys, queries, values
    roots = [math.sqrt(variance / units) for variance in variances]
    w_q, w_k, w_v, w_o = (
        root * torch.randn(draws, units, units, generator=generator, dtype=torch.float64)
        for root in roots
    )

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.view(draws, -1, tokens, heads, size).transpose(2, 3)

    keys, queries, values = (split(x @ w) for x, w in zip(by_path, (w_k, w_q, w_v), strict=True))
    logits = queries @ keys.transpose(-1, -2) / size**power
    if causal:
        logits = logits.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -math.inf)
    mixed = (logits.softmax(-1) @ values).transpose(2, 3).reshape(draws, len(kernel), units)
    out = mixed @ w_o
    noise = torch.randn(draws, len(kernel), units, generator=generator, dtype=torch.float64)
    cotangent = torch.from_numpy(np.linalg.cholesky(gradient)) @ noise
    (out * cotangent).sum().backward()
    k, q, v = (x.grad for x in by_path)
    assert k is not None
    assert q is not None
    assert v is not None
    products = {
        name: (x.detach() @ x.detach().transpose(1, 2) / units).numpy()
        for name, x in zip(NAMES, (out, v, q, k), strict=True)
    }
    return Measured(
        {name: x.mean(0) for name, x in products.items()},
        {name: x.std(0) / math.sqrt(draws) for name, x in products.items()},
    )


def summary(kernel: Array, tokens: int) -> tuple[float, float]:
    """Mean square, and mean product of two tokens of a sequence."""
    blocks = kernel.reshape(-1, tokens, len(kernel) // tokens, tokens)
    inside = np.stack([block[:, number] for number, block in enumerate(blocks)])
    diagonal = float(np.trace(inside, axis1=1, axis2=2).mean() / tokens)
    pairs = (float(inside.sum((1, 2)).mean()) - tokens * diagonal) / (tokens * (tokens - 1))
    return diagonal, pairs


@pytest.mark.parametrize(
    ("variances", "heads", "causal"),
    [
        ((1.0, 1.0, 1.0, 1.0), 1, False),
        ((2.0, 1.5, 0.7, 1.2), 1, False),
        ((1.0, 1.0, 1.0, 0.5), 2, True),
    ],
)
def test_simulation(variances: tuple[float, ...], heads: int, causal: bool) -> None:
    """Two sequences of tokens of different lengths and products, all entries of all kernels.

    The error of order 1 / d_head is allowed for.
    """
    tokens = 4
    rng = np.random.default_rng(2)
    root = rng.normal(size=(8, 8)) * np.linspace(0.5, 1.2, 8)[:, None]
    kernel = 0.1 + root @ root.T / 8
    root = rng.normal(size=(8, 8))
    gradient = 0.2 + root @ root.T / 8
    s_q, s_k, s_v, s_o = variances
    measured = simulated(
        *(kernel, gradient, tokens),
        variances=(s_q, s_k, s_v, s_o),
        heads=heads,
        causal=causal,
        units=48,
        draws=600,
    )
    gains = Gains(logit_gain=s_q * s_k, value_gain=s_v * s_o)
    attended = theory.attend_kernel(kernel, tokens, causal=causal, draws=1000, **gains)
    pulled = theory.pull_kernel(kernel, gradient, tokens, causal=causal, draws=1000, **gains)
    for name, predicted in zip(NAMES, (attended.kernel, *pulled), strict=True):
        mean, size = measured.means[name], np.sqrt(np.diag(predicted))
        tolerance = 4 * measured.errors[name] + 0.1 * np.outer(size, size) + 1e-12
        off = np.abs(predicted - mean) / tolerance
        assert off.max() < 1, (name, off)
        assert np.trace(predicted) == pytest.approx(np.trace(mean), rel=0.08)


@pytest.mark.parametrize(("s2", "c"), [(0.25, 0.3), (1.0, 0.3), (4.0, 0.3), (1.0, 0.8)])
def test_exchangeable_tokens(s2: float, c: float) -> None:
    """Formulas in four numbers against the kernels of the general case, and real attention."""
    tokens, q = 6, 1.4
    gains = Gains(logit_gain=s2 / q**2, value_gain=0.7)
    kernel = equicorrelated(2, tokens, q, c * q, 0.1)
    gradient = equicorrelated(2, tokens, 0.9, 0.35, 0.2)
    attended = theory.attend_kernel(kernel, tokens, draws=500, **gains)
    pulled = theory.pull_kernel(kernel, gradient, tokens, draws=500, **gains)
    forward = theory.attend(q, c * q, tokens, **gains)
    backward = theory.pull_attention(q, c * q, 0.9, 0.35, tokens, **gains)
    assert summary(attended.kernel, tokens) == pytest.approx(forward, rel=0.02)
    for one, kernels in zip(backward, pulled, strict=True):
        assert summary(kernels, tokens) == pytest.approx(one, rel=0.04, abs=2e-3)
    moments = theory.softmax_moments(s2, c, tokens)
    assert attended.concentration == pytest.approx(moments.concentration, rel=0.02)
    assert attended.relative_entropy == pytest.approx(moments.entropy / math.log(tokens), rel=0.01)
    # two sequences whose tokens all have one product keep it
    assert attended.kernel[:tokens, tokens:] == pytest.approx(np.full((6, 6), 0.07), rel=1e-9)
    measured = simulated(
        kernel, gradient, tokens, variances=(s2 / q**2, 1.0, 0.7, 1.0), units=96, draws=60
    )
    for name, one in zip(NAMES, (forward, *backward), strict=True):
        mean, error = (summary(each[name], tokens)[0] for each in measured)
        assert abs(mean - one.square) < 4 * error + 3 / 96 * one.square


def test_queries_and_keys_are_not_small() -> None:
    """The figures of a simulated gradient: three paths over that of the values alone, c = 0.3."""
    for s2, tokens, factor in ((1.0, 16, 1.92), (1.0, 256, 2.16)):
        pulled = theory.pull_attention(1.0, 0.3, 1.0, 0.0, tokens, logit_gain=s2)
        assert pulled.total.square / pulled.values.square == pytest.approx(factor, rel=0.01)
    warm = theory.pull_attention(1.0, 0.3, 1.0, 0.0, 16, logit_gain=4.0)
    assert 3 < warm.total.square / warm.values.square < 4.6


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_uniform_attention_is_exact(causal: bool, power: float) -> None:
    """No logits: every width, to rounding; q (c + (1-c) / T), causal q (c + (1-c) / max(s, t))."""
    tokens, q, c = 5, 1.3, 0.4
    kernel = equicorrelated(1, tokens, q, c * q, 0.0)
    attended = theory.attend_kernel(kernel, tokens, logit_gain=0.0, value_gain=0.5, causal=causal)
    seen = np.maximum.outer(np.arange(1, tokens + 1), np.arange(1, tokens + 1))
    expected = 0.5 * q * (c + (1 - c) / (seen if causal else tokens)) * np.ones((tokens, tokens))
    assert attended.kernel == pytest.approx(expected, rel=1e-12)
    if not causal:
        same = theory.attend(q, c * q, tokens, logit_gain=0.0, value_gain=0.5)
        assert same == pytest.approx((expected[0, 0],) * 2, rel=1e-12)
        assert attended[1:] == pytest.approx((1 / tokens, 1.0), rel=1e-12)
    measured = simulated(
        *(kernel, np.eye(tokens), tokens),
        variances=(0.0, 1.0, 1.0, 0.5),
        causal=causal,
        power=power,
        units=8,
        draws=1500,
    )
    z = (measured.means["forward"] - expected) / measured.errors["forward"]
    assert np.abs(z).max() < 4.5
    pulled = theory.pull_kernel(kernel, np.eye(tokens), tokens, logit_gain=0.0, causal=causal)
    assert not pulled.queries.any()
    assert not pulled.keys.any()
    rows = np.tri(tokens) / np.arange(1, tokens + 1)[:, None] if causal else np.full((5, 5), 0.2)
    assert pulled.total == pytest.approx(rows.T @ rows, rel=1e-12)


def test_gradients_keep_their_sums() -> None:
    """Over tokens, values keep the sum of gradients, and keys have none."""
    pulled = theory.pull_attention(1.2, 0.3, 0.8, 0.1, 7, logit_gain=2.0, value_gain=0.6)
    whole = [path.square + 6 * path.product for path in pulled]
    assert whole[0] == pytest.approx(0.6 * (0.8 + 6 * 0.1), rel=1e-12)
    assert whole[2] == pytest.approx(0, abs=1e-12)
    kernel, gradient = equicorrelated(2, 3, 1.2, 0.3, 0.1), equicorrelated(2, 3, 0.8, 0.1, 0.05)
    kernels = theory.pull_kernel(kernel, gradient, 3, logit_gain=2.0, causal=True, draws=4)
    assert kernels.keys.sum() == pytest.approx(0, abs=1e-12)
    assert kernels.values.sum() == pytest.approx(gradient.sum(), rel=1e-12)
    assert np.allclose(kernels.total, kernels.total.T)


class Stack(NamedTuple):
    """Attention and a feed-forward part of relu, each behind beta x + alpha f, 50 times."""

    place: str
    alpha: float = 1.0
    beta: float = 1.0

    def sizes(self, tokens: int, c: float) -> tuple[float, float, float]:
        """Root mean squares of the stream at the end and the gradient at the start, and c."""
        q, p, seen = 1.0, c, []
        for number in range(100):
            u = Tokens(1.0, p / q) if self.place == "pre" else Tokens(q, p)
            angle = math.acos(min(u.product / u.square, 1.0))
            kernel = (math.sin(angle) + math.cos(angle) * (math.pi - angle)) / math.pi
            f = Tokens(u.square, u.square * kernel)
            if number % 2 == 0:
                f = theory.attend(*u, tokens, logit_gain=1.0)
            before = q if self.place == "pre" else 1.0
            q, p = (self.beta**2 * x + self.alpha**2 * y for x, y in zip((q, p), f, strict=True))
            after = q if self.place == "post" else 1.0
            q, p = q / after, p / after
            seen.append((number, u, angle, before, after))
        gamma, rho = 1.0, 0.0
        for number, u, angle, before, after in reversed(seen):
            gamma, rho = gamma / after, rho / after
            back = Tokens(gamma, rho * (1 - angle / math.pi))
            if number % 2 == 0:
                back = theory.pull_attention(*u, gamma, rho, tokens).total
            gamma, rho = (
                self.beta**2 * x + self.alpha**2 * y / before
                for x, y in zip((gamma, rho), back, strict=True)
            )
        return math.sqrt(q), math.sqrt(gamma), p / q


@pytest.mark.parametrize(
    ("stack", "figures"),
    [
        (Stack("pre"), (9.7, 5.5, 0.93)),
        (Stack("pre", alpha=0.1), (1.31, 1.26, 0.45)),
        (Stack("post"), (1, 0.39, 1)),
        (Stack("post", beta=0.0), (1, 0.49, 1)),
        (Stack("none", alpha=0.1), (1.45, 1.41, 0.50)),
    ],
)
def test_fifty_blocks(stack: Stack, figures: tuple[float, float, float]) -> None:
    """Figures of an independent recursion over tables that were simulated, of 16 tokens."""
    for found, figure in zip(stack.sizes(16, 0.3), figures, strict=True):
        assert found == pytest.approx(figure, abs=0.05 if figure > 2 else 0.006)


def test_collapse_is_doubly_exponential() -> None:
    """Without a skip 1 - c' ~ s_a^2 (1-c)^3 / T: the exponent triples a layer."""
    tokens, q, p = 16, 1.0, 0.5
    for _ in range(2):
        apart = 1 - p / q
        q, p = theory.attend(q, p, tokens)
        q, p = 1.0, p / q
    assert 1 - p == pytest.approx(apart**3 / tokens, rel=0.1)
    dead = theory.pull_attention(q, p, 1.0, 0.0, tokens)
    assert dead.queries.square + dead.keys.square < 1e-3 * dead.values.square


@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_equal_tokens_and_single_tokens(tokens: int) -> None:
    """Tokens that agree, or none to choose from: attention is linear, however warm."""
    assert theory.attend(2.0, 2.0, tokens, logit_gain=9.0) == Tokens(2.0, 2.0)
    pulled = theory.pull_attention(2.0, 2.0, 0.5, 0.0, tokens, logit_gain=9.0)
    assert pulled.total.square == pytest.approx(0.5 / tokens)
    kernel = np.full((tokens, tokens), 2.0)
    found = theory.attend_kernel(kernel, tokens, logit_gain=9.0, draws=3)
    assert found.kernel == pytest.approx(kernel)
    assert found.relative_entropy == pytest.approx(1)
    keys = theory.pull_kernel(kernel, np.eye(tokens), tokens, logit_gain=9.0, draws=3).keys
    assert keys == pytest.approx(0, abs=1e-9)
    assert theory.attend(0.0, 0.0, tokens) == Tokens(0.0, 0.0)


def test_draws_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    one, other = (theory.attend_kernel(np.eye(4), 2, draws=6).kernel for _ in range(2))
    assert np.array_equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("kernel", "tokens", "gain", "message"),
    [
        (np.ones((4, 3)), 2, 1.0, r"shape \(4, 3\) for T = 2"),
        (np.ones((4, 4)), 3, 1.0, "whole sequences"),
        (np.ones((0, 0)), 3, 1.0, "whole sequences"),
        (np.full((4, 4), math.nan), 2, 1.0, "finite"),
        (np.ones((4, 4)), 2, -1.0, "logit_gain is a product of variances"),
    ],
)
def test_what_is_no_kernel(kernel: Array, tokens: int, gain: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        theory.attend_kernel(kernel, tokens, logit_gain=gain)


def test_what_is_out_of_range() -> None:
    with pytest.raises(ValueError, match="products p between"):
        theory.attend(1.0, 1.2, 4)
    with pytest.raises(ValueError, match="value_gain"):
        theory.pull_attention(1.0, 0.2, 1.0, 0.0, 4, value_gain=math.nan)
    with pytest.raises(ValueError, match="the kernel's shape"):
        theory.pull_kernel(np.eye(4), np.eye(2), 2)


@pytest.mark.parametrize("tokens", [4, 16])
@pytest.mark.parametrize("width", [16, 64])
def test_equal_tokens_take_one_direction_at_every_width(tokens: int, width: int) -> None:
    assert resembling(np.ones((3, tokens, tokens)), width) == pytest.approx((1, 1), rel=1e-12)


@pytest.mark.parametrize("c", [0.0, 0.9, 0.99])
def test_tokens_of_gaussian_units_take_so_many_directions(c: float) -> None:
    tokens, width, draws = 16, 64, 4000
    kernel = np.full((tokens, tokens), c) + (1 - c) * np.eye(tokens)
    units = np.random.default_rng(0).standard_normal((draws, tokens, width))
    x = np.linalg.cholesky(kernel) @ units
    found = x @ x.swapaxes(1, 2) / width
    one, several = found.trace(axis1=1, axis2=2) ** 2, (found**2).sum((1, 2))
    # the ratio of means: its error is that of what each draw is off by
    expected = one.mean() / several.mean()
    error = (one - expected * several).std() / several.mean() / math.sqrt(draws)
    _, ratio = resembling(kernel[None], width)
    assert abs(ratio - expected) < 4 * error
    assert ratio == pytest.approx((one / several).mean(), rel=0.02)
