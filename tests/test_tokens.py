"""Branches, tokens and attention in a probe's table: by hand, in float64, and by the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initstats as ist
from initstats import activations, inits, networks
from initstats.moments.notes import NOTES
from initstats.probe import Probe, attention, measure
from initstats.stack import Settings, generator_for, run_stack

TOKENS = ["pair_correlation", "participation_ratio"]
EVEN = ["attention_entropy", "concentration"]
FUSED = "scaled_dot_product_attention"
UNTOLD = "attention"


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def randn(*shape: int) -> Tensor:
    """Tokens with means of their own, so that pairs of them correlate."""
    x = torch.randn(*shape)
    return x + torch.linspace(-1, 1, shape[-1]) * (1 + torch.arange(shape[0])[:, None, None] % 3)


def resemblance(x: Tensor) -> list[float]:
    """Pair correlation and participation ratio of (samples, tokens, units)."""
    x = x.detach().double()
    kernel, tokens = x @ x.mT, x.shape[1]
    own = kernel.diagonal(dim1=-2, dim2=-1).sum(-1)
    pairs = (kernel.sum((-2, -1)) - own).sum() / (tokens - 1) / own.sum()
    return [float(pairs), float((own.square() / kernel.square().sum((-2, -1))).mean())]


def evenness(weights: Tensor, allowed: Tensor | None = None) -> list[float]:
    """Attention entropy and concentration of (..., rows, tokens), of rows that have a choice."""
    weights = weights.detach().double()
    allowed = torch.ones_like(weights) if allowed is None else allowed.expand(weights.shape)
    choices = allowed.double().sum(-1)
    entropy = -torch.special.xlogy(weights, weights).sum(-1) / choices.log()
    squares = weights.square().sum(-1)
    return [float(entropy[choices > 1].mean()), float(squares[choices > 0].mean())]


def noted(table: pd.DataFrame, columns: list[str], op: str = "", **where: Any) -> list[list[float]]:
    """The numbers in some columns of rows that have any, in their order."""
    rows = table[table["direction"] == where.pop("direction", "forward")]
    for name, value in {**where, **({"op": op} if op else {})}.items():
        rows = rows[rows[name] == value]
    missing = [name for name in columns if name not in rows]
    assert not missing, missing
    found: list[list[float]] = rows[columns].dropna().to_numpy().tolist()
    return found


def silent(table: pd.DataFrame, *but: str) -> bool:
    """Whether a table has none of the columns but some."""
    return {*NOTES} & {*table.columns} == {*but}


class Attend(nn.Module):
    """Attention of given queries, keys and values, fused."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **self.options)


def weights_of(q: Tensor, k: Tensor, allowed: Tensor, scale: float | None = None) -> Tensor:
    q, k = q.double(), k.double()
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return logits.masked_fill(~allowed, -math.inf).softmax(-1)


BEFORE = torch.ones(6, 9, dtype=torch.bool).tril()
CHOSEN = torch.rand(2, 1, 6, 9, generator=torch.Generator().manual_seed(1)) > 0.4
PADDED = torch.arange(9) < torch.tensor([9, 4]).view(2, 1, 1, 1)
EMPTY = CHOSEN & (torch.arange(6) != 2)[:, None]  # a row that attends to nothing
EVERY = torch.ones(6, 9, dtype=torch.bool)
MASKS: dict[str, tuple[dict[str, Any], Tensor]] = {
    "none": ({}, EVERY),
    "scale": ({"scale": 0.9}, EVERY),
    "causal": ({"is_causal": True}, BEFORE),
    "boolean": ({"attn_mask": CHOSEN}, CHOSEN),
    "padding": ({"attn_mask": PADDED}, PADDED),
    "a row of nothing": ({"attn_mask": EMPTY}, EMPTY),
    "infinite": ({"attn_mask": torch.zeros(6, 9).masked_fill(~BEFORE, -math.inf)}, BEFORE),
    "lowest": (
        {"attn_mask": torch.zeros(2, 1, 6, 9).masked_fill(~CHOSEN, torch.finfo().min)},
        CHOSEN,
    ),
    "dropped": ({"dropout_p": 0.5}, EVERY),
}


@pytest.mark.parametrize("block", [2**20, 7, 30])
@pytest.mark.parametrize("name", MASKS)
def test_fused_attention_by_hand(name: str, block: int) -> None:
    """Under every mask, with queries and keys of two lengths, in blocks of any size."""
    options, allowed = MASKS[name]
    q, k, v = (torch.randn(2, 3, n, 5) * 2 for n in (6, 9, 9))
    with mock.patch.object(attention, "BLOCK", block):
        table = measure(Attend(**options), (q, k, v))
    weights = weights_of(q, k, allowed, options.get("scale"))
    assert noted(table, EVEN, FUSED) == [pytest.approx(evenness(weights, allowed), rel=1e-5)]


def test_positions_may_bias_fused_attention() -> None:
    """A bias, as of distances, hides nothing however small it makes a weight."""
    bias = -300 * (torch.arange(6)[:, None] - torch.arange(9)).abs().float()
    q, k, v = (torch.randn(2, 3, n, 5) for n in (6, 9, 9))
    table = measure(Attend(attn_mask=bias), (q, k, v))
    weights = (q.double() @ k.double().mT * 5**-0.5 + bias).softmax(-1)
    assert noted(table, EVEN, FUSED) == [pytest.approx(evenness(weights), rel=1e-5, abs=1e-12)]


@pytest.mark.parametrize(("q", "k"), [((2, 4, 6, 5), (2, 2, 9, 5)), ((4, 6, 5), (1, 9, 5))])
def test_queries_that_share_keys(q: tuple[int, ...], k: tuple[int, ...]) -> None:
    x, y, z = torch.randn(q), torch.randn(k), torch.randn(k)
    table = measure(Attend(enable_gqa=True), (x, y, z))
    weights = weights_of(x, y.repeat_interleave(q[-3] // k[-3], -3), EVERY)
    assert noted(table, EVEN, FUSED) == [pytest.approx(evenness(weights), rel=1e-5)]


def test_memory_of_fused_attention_is_a_block() -> None:
    """The weights of all heads are never there at once."""
    largest = 0
    entropy = torch.special.entr

    def watched(weights: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, weights.numel())
        return entropy(weights)

    q = torch.randn(2, 3, 300, 2)
    with mock.patch.object(attention, "BLOCK", 2**12), mock.patch("torch.special.entr", watched):
        table = measure(Attend(is_causal=True), (q, q, q))
    assert 300 <= largest <= 2**12
    allowed = torch.ones(300, 300, dtype=torch.bool).tril()
    expected = evenness(weights_of(q, q, allowed), allowed)
    assert noted(table, EVEN, FUSED) == [pytest.approx(expected, rel=1e-5)]


class OwnMask(Tensor):
    """A mask whose entries are its own business."""


def test_what_is_not_known_has_a_reason() -> None:
    q = torch.randn(2, 3, 6, 5)
    mask = torch.ones(6, 6, dtype=torch.bool).as_subclass(OwnMask)
    probe = Probe(Attend(attn_mask=mask)).run((q, q, q))
    missed = probe.missed()
    assert "of a kind of its own, OwnMask" in missed[missed["kind"] == UNTOLD]["reason"].item()
    assert silent(probe.table())
    assert probe.coverage == "2 of 3 measured"  # what stays inside is missed, and that is all


class Eager(nn.Module):
    """Self-attention that is written out, with a way of its own to hide scores."""

    def __init__(self, hide: Callable[[Tensor], Tensor], heads: int = 2, units: int = 8) -> None:
        super().__init__()
        self.heads, self.hide = heads, hide
        self.q, self.k, self.v, self.out = (nn.Linear(units, units) for _ in range(4))

    def by_head(self, x: Tensor) -> Tensor:
        return x.view(len(x), x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.by_head(project(x)) for project in (self.q, self.k, self.v))
        scores = self.hide(q @ k.transpose(-2, -1) * 3 / math.sqrt(q.shape[-1]))
        mixed = F.dropout(scores.softmax(-1), 0.1) @ v
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y

    def weights(self, x: Tensor, allowed: Tensor) -> Tensor:
        q, k = self.by_head(self.q(x)), self.by_head(self.k(x))
        return weights_of(q, k, allowed, 3 * q.shape[-1] ** -0.5)


HERE = torch.ones(5, 5, dtype=torch.bool).tril()
LEAST = torch.finfo(torch.float32).min


def setitem(scores: Tensor) -> Tensor:
    scores[:, :, ~HERE] = -math.inf
    return scores


def exactly(scores: Tensor) -> Tensor:
    scores[(~HERE).expand(scores.shape)] = -1e9
    return scores


HIDING: dict[str, Callable[[Tensor], Tensor]] = {
    "masked_fill": lambda s: s.masked_fill(~HERE, -math.inf),
    "masked_fill_": lambda s: s.masked_fill_(~HERE, -1e9),
    "low": lambda s: s.masked_fill(~HERE, -1e4),
    "where": lambda s: torch.where(HERE, s, torch.tensor(LEAST)),
    "where, turned": lambda s: torch.where(~HERE, torch.full_like(s, -1e9), s),
    "where of a tensor": lambda s: s.where(HERE, torch.tensor(-1e10)),
    "add": lambda s: s + torch.zeros(5, 5).masked_fill(~HERE, -math.inf),
    "add a little": lambda s: s + (1 - HERE.float()) * -10000.0,
    "sub": lambda s: s - 1e5 * (~HERE).float(),
    "times and minus": lambda s: s * HERE - 1e9 * (1 - HERE.float()),
    "in another shape": lambda s: s.flatten(0, 1).masked_fill(~HERE, -1e9).view(s.shape),
    "and then moved": lambda s: (s + (1 - HERE.float()) * -1e9).flatten(0, 1).view(s.shape),
    "in double": lambda s: s.masked_fill(~HERE, -1e9).double().float(),
    "an index": setitem,
    "an index of all": exactly,
    "twice": lambda s: s.masked_fill(~HERE, -1e9) + torch.zeros(5).fill_(0.0),
    "bounded below": lambda s: torch.max(s.masked_fill(~HERE, LEAST), torch.tensor(LEAST)),
}


@pytest.mark.parametrize("how", HIDING)
def test_written_out_attention_by_hand(how: str) -> None:
    model, x = Eager(HIDING[how]).eval(), randn(3, 5, 8)
    table = measure(model, x)
    expected = evenness(model.weights(x, HERE), HERE)
    assert noted(table, EVEN, "softmax") == [pytest.approx(expected, rel=1e-5)]


def test_large_scores_are_not_masked() -> None:
    """A network that explodes attends to one token, though it may attend to all."""
    model, x = Eager(lambda s: s * 1e6).eval(), randn(3, 5, 8)
    assert noted(measure(model, x), EVEN, "softmax") == [pytest.approx([0, 1], abs=1e-3)]


def test_a_mask_that_comes_from_outside() -> None:
    class Given(Eager):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            assert mask is not None
            self.hide = lambda scores: scores + mask
            return super().forward(x)

    model, x = Given(lambda s: s).eval(), randn(3, 5, 8)
    table = measure(model, (x, torch.zeros(5, 5).masked_fill(~HERE, -1e9)))
    expected = evenness(model.weights(x, HERE), HERE)
    assert noted(table, EVEN, "softmax") == [pytest.approx(expected, rel=1e-5)]


def test_a_mask_that_is_lost_has_a_reason() -> None:
    model = Eager(lambda s: torch.cat([s.masked_fill(~HERE, -1e9)[..., :1], s[..., 1:]], -1))
    probe = Probe(model.eval()).run(randn(3, 5, 8))
    assert silent(probe.table(), *TOKENS)
    assert "could not be followed" in probe.missed().query("kind == @UNTOLD")["reason"].item()


class Experts(nn.Module):
    """A mixture, whose shares weigh what experts make of the same token."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 3), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(-1)
        made = self.experts(x).unflatten(-1, (3, 8))
        return torch.einsum("bte,bteu->btu", shares, made)


class Summaries(nn.Module):
    """Linear attention: a softmax over units of queries, times a context."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        context = self.k(x).softmax(1).mT @ self.v(x)
        y: Tensor = self.q(x).softmax(-1) @ context
        return y


OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "classifier": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1)), (9, 8)),
    "language": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1)), (3, 5, 8)),
    "of logarithms": (lambda: nn.Sequential(nn.Linear(8, 8), nn.LogSoftmax(-1)), (3, 5, 8)),
    "hidden": (lambda: nn.Sequential(nn.Softmax(-1), nn.Linear(8, 8)), (3, 5, 8)),
    "experts": (Experts, (3, 5, 8)),
    "summaries": (Summaries, (3, 5, 8)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_softmaxes_have_no_numbers_of_attention(name: str) -> None:
    build, shape = OTHERS[name]
    table = measure(build(), torch.randn(shape))
    assert not {*EVEN} & {*table.columns}


def multihead(x: Tensor, **options: Any) -> Callable[[nn.Module], Any]:
    return lambda model: model(x, x, x, **options)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("masked", ["none", "causal", "padding"])
def test_multihead_attention(batch_first: bool, wanted: bool, masked: str) -> None:
    """On its two ways the numbers are those of the weights that it returns."""
    model = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    with torch.no_grad():
        model.in_proj_weight.mul_(4)
    x = randn(3, 5, 8)
    own = x if batch_first else x.transpose(0, 1)
    options: dict[str, Any] = {"none": {}, "causal": {"attn_mask": ~HERE}, "padding": {}}[masked]
    allowed = HERE if masked == "causal" else torch.ones(5, 5, dtype=torch.bool)
    if masked == "padding":
        there = torch.arange(5) < torch.tensor([[5], [3], [1]])
        options, allowed = {"key_padding_mask": ~there}, there.view(3, 1, 1, 5)
    _, weights = model(own, own, own, average_attn_weights=False, **options)
    inputs = {"query": own, "key": own, "value": own, "need_weights": wanted, **options}
    table = measure(model, inputs)
    op = "softmax" if wanted else FUSED
    assert noted(table, EVEN, op) == [pytest.approx(evenness(weights, allowed), rel=1e-5)]
    assert noted(table, TOKENS, "input") == [pytest.approx(resemblance(x), rel=1e-5)]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_encoder_layers(batch_first: bool, norm_first: bool, mode: str) -> None:
    """Also where the fast path would be taken, and whichever dimension comes first."""
    model = nn.TransformerEncoderLayer(
        8, 2, 16, 0.0, batch_first=batch_first, norm_first=norm_first
    ).train(mode == "train")
    sent = torch.randn(3, 5, 8)
    x = randn(3, 5, 8)
    own = (x if batch_first else x.transpose(0, 1)).clone().requires_grad_()
    to: Callable[[Tensor], Tensor] = lambda z: z if batch_first else z.transpose(0, 1)  # noqa: E731
    table = measure(model, own, backward=True, loss=lambda y: (to(y) * sent).sum())

    branches, streams = [], []
    u = x.clone().requires_grad_()
    at, then, once = model.self_attn, model.norm1, model.norm2
    first: Callable[[Tensor], Tensor] = lambda z: at(*[to(z)] * 3)[0]  # noqa: E731
    attended: Callable[[Tensor], Tensor] = lambda z: to(first(z))  # noqa: E731
    z = u
    for branch, norm in ((attended, then), (model._ff_block, once)):
        added = branch(norm(z) if norm_first else z)
        total = z + added
        total.retain_grad()
        branches.append([(added.square().sum() / total.square().sum()).item()])
        streams.append(total)
        z = total if norm_first else norm(total)
    (z * sent).sum().backward()
    assert noted(table, ["branch_share"], "add") == pytest.approx(np.array(branches), rel=1e-5)
    for direction, found in (("forward", streams), ("backward", [s.grad for s in streams])):
        expected = [resemblance(y) for y in found if y is not None]
        rows = noted(table, TOKENS, "add", direction=direction)
        assert rows == pytest.approx(np.array(expected), rel=1e-4, abs=1e-6)
