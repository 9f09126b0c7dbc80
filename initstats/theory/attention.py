"""Attention at initialization: what it makes of second moments and products of tokens, and back.

A row of attention is A = softmax(a), of Gaussian logits a_st = tau Q_s . K_t with
Cov(a_st, a_s't') = g K_ss' K_tt', where K_st is the product moment of tokens s and t over units and
the logit gain g is sigma_Q^2 sigma_K^2 for tau = 1 / sqrt(d_head), and d_head times less for
tau = 1 / d_head: none at large width, so that attention is uniform. What comes out has the kernel
sigma_V^2 sigma_O^2 E A K A^T. A gradient comes back through the values, the queries and the keys;
where logits are warm the last two are as large as the first. The number of heads changes no
expectation. Everything holds for d_head -> infinity; uniform attention, forward, holds at every
width. Derived here; published recursions keep only the values (Kedia et al. 2024, arXiv:2403.09635)
or assume uniform attention (Noci et al. 2022, arXiv:2206.03126).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from initstats.theory.panels import one_blas_thread
from initstats.theory.softmax import softmax_moments

Array = NDArray[np.float64]

_DRAWS = 64  # of the logits, where tokens are not exchangeable
_AT_ONCE = 2**16  # most entries of two draws that are made together


class Tokens(NamedTuple):
    """Exchangeable tokens, or gradients with respect to them, of one sequence.

    Attributes:
        square: mean square of an entry: q of tokens, gamma of gradients.
        product: mean over pairs of tokens of the product of their entries: p, and rho.
    """

    square: float
    product: float


class TokenGradient(NamedTuple):
    """Gradients with respect to exchangeable tokens, by the path on which they came back."""

    values: Tokens
    queries: Tokens
    keys: Tokens

    @property
    def total(self) -> Tokens:
        """Their sum: gradients of different paths are not correlated."""
        return Tokens(*map(sum, zip(*self, strict=True)))


class Attended(NamedTuple):
    """What attention makes of tokens that are not exchangeable.

    Attributes:
        kernel: product moments of the rows that come out, (rows, rows).
        concentration: mean over rows of E sum A^2.
        relative_entropy: mean over rows of E [-sum A log A] / log T: 1 is uniform (and T = 1),
            0 one token; causal rows see fewer than T tokens, and so have less than 1.
    """

    kernel: Array
    concentration: float
    relative_entropy: float


class KernelGradient(NamedTuple):
    """Product moments of gradients with respect to tokens, (rows, rows), by the path."""

    values: Array
    queries: Array
    keys: Array

    @property
    def total(self) -> Array:
        """Their sum: gradients of different paths are not correlated."""
        return self.values + self.queries + self.keys


def attend(
    q: float, p: float, tokens: int, *, logit_gain: float = 1.0, value_gain: float = 1.0
) -> Tokens:
    """Second moment and product of exchangeable tokens behind attention.

    q' = value_gain (p + (q - p) S) and p' = value_gain (p + (q - p) S'), with the overlaps S and S'
    of `softmax_moments`. Two sequences all of whose tokens have one product p keep it, times
    value_gain, and so do their gradients.

    Products of real tokens of d units scatter around p by 1 / sqrt(d). That adds up to
    value_gain q s_a^2 (1 - p/q)^2 / d to q', less where tokens are normalized and correlated, and
    to the gradient by the queries: small for T well below d; `attend_kernel` contains it.

    Args:
        q: second moment of a token, over units.
        p: mean product of two tokens.
        tokens: T.
        logit_gain: sigma_Q^2 sigma_K^2 tau^2 d_head; the logits' variance is that times q^2.
        value_gain: sigma_V^2 sigma_O^2.

    >>> attend(1.0, 0.2, 4, logit_gain=0.0)  # all rows become the mean of the tokens
    Tokens(square=0.4, product=0.4)

    Raises:
        ValueError: no such q, p, gain or number of tokens.
    """
    c = _correlation(q, p, tokens, logit_gain, value_gain)
    found = softmax_moments(logit_gain * q * q, c, tokens)
    return Tokens(
        value_gain * (p + (q - p) * found.concentration),
        value_gain * (p + (q - p) * found.overlap),
    )


def pull_attention(
    q: float,
    p: float,
    gamma: float,
    rho: float,
    tokens: int,
    *,
    logit_gain: float = 1.0,
    value_gain: float = 1.0,
) -> TokenGradient:
    """Gradients with respect to exchangeable tokens, from those at the output of attention.

    With F, F' of `softmax_moments` and s_a^2 = logit_gain q^2, in units of value_gain, the squares
    are gamma S + rho (T-1) S' by the values, s_a^2 (1-c)^2 F gamma by the queries and
    s_a^2 (1-c) [F gamma + (T-1) rho c F'] by the keys. Values keep the sum over tokens, keys have a
    sum of 0, and queries of two tokens agree by s_a^2 (1-c)^2 F' rho.

    Args:
        q, p, tokens, logit_gain, value_gain: as of `attend`, tokens being those that came in.
        gamma: mean square of the gradient with respect to an entry of the output.
        rho: mean product of the gradients of two tokens' outputs.

    Raises:
        ValueError: as `attend`.
    """
    c = _correlation(q, p, tokens, logit_gain, value_gain)
    s2, others = logit_gain * q * q, tokens - 1
    found = softmax_moments(s2, c, tokens)
    back = value_gain * (gamma * found.concentration + rho * others * found.overlap)
    whole = value_gain * (gamma + others * rho)
    values = Tokens(back, (whole - back) / max(others, 1))
    warm = value_gain * s2 * (1 - c) if c < 1 else 0.0
    queries = Tokens(
        warm * (1 - c) * found.slope * gamma, warm * (1 - c) * found.slope_overlap * rho
    )
    square = warm * (found.slope * gamma + others * rho * c * found.slope_overlap)
    return TokenGradient(values, queries, Tokens(square, -square / max(others, 1)))


def attend_kernel(
    kernel: ArrayLike,
    tokens: int,
    *,
    logit_gain: float = 1.0,
    value_gain: float = 1.0,
    causal: bool = False,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Attended:
    """Attention on tokens of any product moments, several sequences that share weights at once.

    value_gain E A K A^T over draws of the logits, which come in pairs of opposite sign; without
    logits (logit_gain = 0) one is exact. Means over rows are good to about 1 / sqrt(draws rows).

    Args:
        kernel: K, product moments of tokens over units, (rows, rows); rows are the tokens of the
            first sequence, then those of the second, ...
        tokens: T, tokens of a sequence.
        logit_gain, value_gain: as of `attend`.
        causal: whether a token sees only those up to itself.
        draws: number of draws of the logits.
        seed: of the draws; the same draws as of `pull_kernel`.

    Raises:
        ValueError: the kernel is not one of whole sequences; a gain is negative.
    """
    k = _kernel(kernel, tokens, logit_gain, value_gain)
    pairs = _blocks(k, tokens)
    total, squares, entropies, number = np.zeros_like(pairs), 0.0, 0.0, 0
    with one_blas_thread():
        for a in _rows_of_attention(k, tokens, logit_gain, causal, draws, seed):
            number += len(a)
            total += (a[:, :, None] @ pairs @ _turned(a)[:, None]).sum(0)
            squares += float((a * a).sum(-1).mean((1, 2)).sum())
            entropies -= float((a * np.log(np.where(a > 0, a, 1.0))).sum(-1).mean((1, 2)).sum())
    nats = math.log(tokens)
    relative = entropies / number / nats if tokens > 1 else 1.0
    return Attended(value_gain * _joined(total / number), squares / number, relative)


def pull_kernel(
    kernel: ArrayLike,
    gradient: ArrayLike,
    tokens: int,
    *,
    logit_gain: float = 1.0,
    value_gain: float = 1.0,
    causal: bool = False,
    draws: int = _DRAWS,
    seed: int = 0,
) -> KernelGradient:
    """Gradients with respect to tokens of any product moments, from those at attention's output.

    With the gradient's product moments Gamma and P_s = diag(A_s) - A_s A_s^T, in units of
    value_gain: E A^T Gamma A by the values; logit_gain Gamma_ss' E tr(P_s K P_s' K) by the queries;
    logit_gain E sum_ss' Gamma_ss' K_ss' P_s K P_s' by the keys. All hold between sequences, too.

    Args:
        kernel, tokens, logit_gain, value_gain, causal, draws, seed: as of `attend_kernel`, K being
            that of the tokens that came in.
        gradient: Gamma, product moments of the gradient with respect to the output, (rows, rows).

    Raises:
        ValueError: as `attend_kernel`; the gradient is not of the kernel's shape.
    """
    k = _kernel(kernel, tokens, logit_gain, value_gain)
    whole = np.asarray(gradient, dtype=np.float64)
    if whole.shape != k.shape:
        raise ValueError(f"the gradient is of the kernel's shape {k.shape}: got {whole.shape}")
    x, g = _blocks(k, tokens), _blocks(whole, tokens)
    values, queries, keys = np.zeros((3, *x.shape))
    number = 0
    with one_blas_thread():
        for a in _rows_of_attention(k, tokens, logit_gain, causal, draws, seed):
            number += len(a)
            values += (_turned(a)[:, :, None] @ g @ a[:, None]).sum(0)
            if logit_gain:
                of_queries, of_keys = _through_logits(a[:, :, None], a[:, None], x, g)
                queries += of_queries.sum(0)
                keys += of_keys.sum(0)
    scale, warm = value_gain / number, value_gain * logit_gain / number
    return KernelGradient(
        _joined(scale * values), _joined(warm * g * queries), _joined(warm * keys)
    )


def _through_logits(a: Array, b: Array, x: Array, g: Array) -> tuple[Array, Array]:
    """tr(P_s X P_s' X^T), and sum_ss' w_ss' P_s X P_s' with w = Gamma K, for each two sequences.

    All are (sequences, sequences, tokens, tokens), for each of some draws of a and b.
    P = diag(a) - a a^T makes four terms of each.
    """
    a_t, b_t, w = _turned(a), _turned(b), g * x
    ax, xb = a @ x, x @ b_t  # (s, t') and (t, s')
    axb, aw, wb = ax @ b_t, a_t @ w, w @ b  # (s, s'), (t, s'), (s, t')
    traces = a @ (x * x) @ b_t - a @ (xb * xb) - (ax * ax) @ b_t + axb * axb
    sums = x * (aw @ b) - (aw * xb) @ b - a_t @ (ax * wb) + a_t @ (w * axb) @ b
    return traces, sums


def _rows_of_attention(
    kernel: Array, tokens: int, logit_gain: float, causal: bool, draws: int, seed: int
) -> Iterator[Array]:
    """Draws of A, (some draws, sequences, tokens, tokens); one where it is certain."""
    hidden = np.where(np.tri(tokens, dtype=bool) | (not causal), 0.0, -np.inf)
    if logit_gain == 0:
        certain = np.exp(hidden) / np.exp(hidden).sum(1, keepdims=True)
        yield np.broadcast_to(certain, (1, len(kernel) // tokens, tokens, tokens))
        return
    values, vectors = np.linalg.eigh(kernel)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T  # whatever the vectors' signs
    of_sequences = root.reshape(-1, tokens, len(kernel))
    normal = np.random.default_rng(seed).standard_normal
    pairs, most = (draws + 1) // 2, max(1, _AT_ONCE // kernel.size)
    for first in range(0, pairs, most):
        noise = math.sqrt(logit_gain) * normal((min(most, pairs - first), *kernel.shape))
        logits = of_sequences @ noise[:, None] @ _turned(of_sequences)
        both = np.stack([logits, -logits], 1).reshape(-1, *logits.shape[1:])
        a = both[: draws - 2 * first] + hidden
        a = np.exp(a - a.max(-1, keepdims=True))
        yield a / a.sum(-1, keepdims=True)


def _blocks(kernel: Array, tokens: int) -> Array:
    """(rows, rows) as (sequences, sequences, tokens, tokens)."""
    sequences = len(kernel) // tokens
    return kernel.reshape(sequences, tokens, sequences, tokens).swapaxes(1, 2)


def _joined(blocks: Array) -> Array:
    """The inverse of `_blocks`."""
    rows = blocks.shape[0] * blocks.shape[2]
    return blocks.swapaxes(1, 2).reshape(rows, rows)


def _turned(a: Array) -> Array:
    return a.swapaxes(-1, -2)


def _correlation(q: float, p: float, tokens: int, logit_gain: float, value_gain: float) -> float:
    """c of tokens of which moments and gains are such; tokens of no size count alike."""
    _check_gains(logit_gain, value_gain)
    lowest = -q / max(tokens - 1, 1)
    if not 0 <= q < math.inf or not lowest - 1e-9 * q <= p <= q * (1 + 1e-9):
        raise ValueError(
            f"tokens have a second moment q of at least 0, and products p between -q / (T - 1) and "
            f"q: got q = {q}, p = {p} for T = {tokens}"
        )
    return min(p / q, 1.0) if q else 1.0


def _kernel(kernel: ArrayLike, tokens: int, logit_gain: float, value_gain: float) -> Array:
    _check_gains(logit_gain, value_gain)
    k = np.asarray(kernel, dtype=np.float64)
    if k.ndim != 2 or k.shape[0] != k.shape[1] or tokens < 1 or len(k) % tokens or not len(k):
        raise ValueError(
            "a kernel is square, with a row for each token of whole sequences of T tokens: got "
            f"the shape {k.shape} for T = {tokens}"
        )
    if not np.isfinite(k).all():
        raise ValueError("a kernel is finite: tokens of infinite or unknown products were given")
    return k


def _check_gains(logit_gain: float, value_gain: float) -> None:
    for name, gain in (("logit_gain", logit_gain), ("value_gain", value_gain)):
        if not 0 <= gain < math.inf:
            raise ValueError(f"{name} is a product of variances, finite and at least 0: got {gain}")
