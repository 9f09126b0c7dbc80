"""Branches, tokens and attention in a probe's table: by hand, in float64, and by the engine."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Any, cast
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initstats as ist
from initstats import activations, inits, networks
from initstats.draws import generator_for
from initstats.moments.notes import NOTES
from initstats.moments.tokens import evenness_of_scores
from initstats.probe import Probe, attention, measure, streams
from initstats.stack import Settings, run_stack

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
    even = evenness_of_scores

    def watched(scores: Tensor, choices: Tensor) -> Any:
        nonlocal largest
        largest = max(largest, scores.numel())
        return even(scores, choices)

    q = torch.randn(2, 3, 300, 2)
    watch = mock.patch.object(attention, "evenness_of_scores", watched)
    with mock.patch.object(attention, "BLOCK", 2**12), watch:
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


def bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    weights = torch.bmm(q, k.transpose(1, 2)).div(2).softmax(-1)
    return torch.bmm(weights, v).view(-1, 2, *v.shape[1:]).transpose(1, 2)


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.softmax(torch.einsum("bthe,bshe->bhts", q, k) / 2, -1, dtype=torch.float64)
    return torch.einsum("bhts,bshe->bthe", weights.to(v.dtype), v)


def keys_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bthe,bshe->bsth", q / 2, k).softmax(1)
    return torch.einsum("bsth,bshe->bthe", weights, v)


def exponentials(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bthe,bshe->bhts", q, k) / 2
    shares = (scores - scores.amax(-1, keepdim=True)).exp()
    return torch.einsum("bhts,bshe->bthe", shares / shares.sum(-1, keepdim=True), v)


def tokens_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.permute(2, 1, 0, 3) for x in (q, k, v))  # heads, tokens, samples, units
    weights = torch.einsum("htbe,hsbe->hbts", q, k).mul(0.5).softmax(dim=-1)
    return torch.einsum("hbts,hsbe->bthe", weights, v)


SPELLINGS = [bmm, einsum, keys_first, exponentials, tokens_first]


@pytest.mark.parametrize("attend", SPELLINGS)
def test_spellings_of_attention(attend: Callable[..., Tensor]) -> None:
    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            given = (y.unflatten(2, (2, 4)) for y in self.qkv(x).chunk(3, 2))
            y: Tensor = x + self.out(attend(*given).flatten(2))
            return y

    model, x = Spelled(), randn(3, 5, 8)
    q, k, _ = (y.unflatten(2, (2, 4)).transpose(1, 2) for y in model.qkv(x).chunk(3, 2))
    table = measure(model, x)
    expected = evenness(weights_of(q, k, torch.ones(5, 5, dtype=torch.bool)))
    assert noted(table, EVEN) == [pytest.approx(expected, rel=1e-5)]
    assert noted(table, TOKENS, "add") == [pytest.approx(resemblance(model(x)), rel=1e-5)]
    assert len(noted(table, ["branch_share"])) == 1


def test_large_scores_are_not_masked() -> None:
    """A network that explodes attends to one token, though it may attend to all."""
    model, x = Eager(lambda s: s * 1e6).eval(), randn(3, 5, 8)
    assert noted(measure(model, x), EVEN, "softmax") == [pytest.approx([0, 1], abs=1e-3)]


SHIFTS = -3e4 * torch.arange(5.0)[:, None]


@pytest.mark.parametrize("shift", [lambda s: s * 0 - 2e4, lambda s: s.mean() * 0 + SHIFTS - 1])
def test_signals_that_are_low_mask_nothing(shift: Callable[[Tensor], Tensor]) -> None:
    model, x = Eager(lambda s: s + shift(s)).eval(), randn(3, 5, 8)
    expected = evenness(model.weights(x, torch.ones(5, 5, dtype=torch.bool)))
    assert noted(measure(model, x), EVEN, "softmax") == [pytest.approx(expected, rel=1e-2)]


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
    torch.autograd.backward((z * sent).sum())
    assert noted(table, ["branch_share"], "add") == pytest.approx(np.array(branches), rel=1e-5)
    for direction, found in (("forward", streams), ("backward", [s.grad for s in streams])):
        expected = [resemblance(y) for y in found if y is not None]
        rows = noted(table, TOKENS, "add", direction=direction)
        assert rows == pytest.approx(np.array(expected), rel=1e-4, abs=1e-6)


class Blocks(nn.Module):
    """The engine's transformer of its own weights, attention fused or written out."""

    def __init__(self, name: str, width: int, depth: int, fused: bool) -> None:
        super().__init__()
        entry = networks.get(name)
        self.options: dict[str, Any] = {**entry.parameters}
        self.fused = fused
        self.placed: Any = entry.on((1, 8, 8), width, depth)
        tanh = activations.get("tanh")
        drawn = self.placed.draw(inits.get("torch_default"), tanh, partial(generator_for, 2))
        self.maps = nn.ModuleList()
        for matrix, bias in drawn.values():
            units, inputs = matrix.shape
            linear = nn.Linear(inputs, units, bias is not None, dtype=torch.float64)
            with torch.no_grad():
                linear.weight.copy_(matrix)
                if bias is not None:
                    linear.bias.copy_(bias[:, 0])
            self.maps.append(linear)
        self.norms = nn.ModuleList(nn.LayerNorm(width, dtype=torch.float64) for _ in range(depth))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        causal = self.options["causal"]
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if causal:
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        mixed: Tensor = scores.softmax(-1) @ v
        return mixed

    def forward(self, images: Tensor) -> Tensor:
        maps, side = iter(self.maps), self.options["patch"]
        x: Tensor = next(maps)(F.unfold(images, side, stride=side).mT)
        for number, norm in enumerate(self.norms[1:]):
            u = norm(x) if self.options["place"] == "pre" else x
            if number % 2:
                u = torch.tanh(next(maps)(u))
            else:
                heads = [next(maps)(u).unflatten(2, (self.options["heads"], -1)) for _ in range(3)]
                u = (
                    self.attend(*(head.transpose(1, 2) for head in heads))
                    .transpose(1, 2)
                    .flatten(2)
                )
            stream = self.placed.blocks[1 + number]
            x = stream.skip * x + stream.scale * next(maps)(u)
            x = norm(x) if self.options["place"] == "post" else x
        return x


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "transformer(patch=2,heads=2)",
        "transformer(patch=4,causal=true,place=post,scale=deepnorm)",
        "transformer(patch=2,causal=true,scale=inverse_sqrt_depth)",
    ],
)
def test_the_engine_measures_the_same(name: str, fused: bool, toy: ist.Dataset) -> None:
    depth = 5
    model = Blocks(name, 8, depth, fused)
    settings = Settings(depth=depth, samples=41, backward=True, dtype="float64")
    chosen = inits.get("torch_default"), [activations.get("tanh")], [2]
    (result,) = run_stack(model.placed, *chosen, toy.valid, None, settings)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for (_, tensor, direction), row in zip(
        model.placed.places(backward=True), result.numbers, strict=True
    ):
        found.setdefault((tensor, direction), []).append(row.tolist())
    images = toy.valid.images[:41].double()
    # the engine begins with a gradient of its own, units first
    sent = torch.randn(48, model.placed.outputs.size, generator=generator_for(2, "cotangent"))
    shape = 41, 8, model.placed.outputs.positions
    sent = sent[:41].double().view(shape).mT
    table = measure(model, images, backward=True, loss=lambda y: (y * sent).sum())

    def engine(tensor: str, direction: str, names: list[str]) -> Any:
        columns = [list(model.placed.numbers).index(n) for n in names]
        rows = np.array(found[tensor, direction])[:, columns]
        return pytest.approx(rows[~np.isnan(rows).any(1)], rel=1e-10)

    post = model.options["place"] == "post"
    shares = noted(table, ["branch_share"], "add")
    assert np.array(shares) == engine("stream", "forward", ["branch_share"])
    for direction in ("forward", "backward"):
        rows = noted(table, TOKENS, "layer_norm" if post else "add", direction=direction)
        assert np.array(rows) == engine("stream", direction, TOKENS)
    rows = noted(table, EVEN, FUSED if fused else "softmax")
    assert np.array(rows) == engine("attention", "forward", EVEN)


transformers: Any = import_module("transformers")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
IDS = torch.arange(2 * 7).view(2, 7) * 5 % 23
PADDING = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])


def gpt2(how: str) -> tuple[nn.Module, dict[str, Tensor]]:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 23, "n_positions": 8}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": how}
    config = transformers.GPT2Config(**sizes, **ends)
    return transformers.GPT2Model(config), {"input_ids": IDS, "attention_mask": PADDING}


def bert(how: str) -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.BertConfig(vocab_size=23, attn_implementation=how, **SMALL)
    return transformers.BertModel(config), {"input_ids": IDS, "attention_mask": PADDING}


def vit(how: str) -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, attn_implementation=how, **SMALL, initializer_range=0.3
    )
    return transformers.ViTModel(config), {"pixel_values": torch.randn(2, 3, 8, 8)}


def t5(how: str) -> tuple[nn.Module, dict[str, Tensor]]:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(vocab_size=23, attn_implementation=how, **sizes)
    given = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5], "attention_mask": PADDING}
    return transformers.T5Model(config), given


BUILDS = {"gpt2": gpt2, "bert": bert, "vit": vit, "t5": t5}


@pytest.mark.filterwarnings("default")  # other people's
@pytest.mark.parametrize("name", BUILDS)
def test_models_of_others_fused_and_not(name: str) -> None:
    tables = []
    for how in ("sdpa", "eager"):
        torch.manual_seed(0)
        model, inputs = BUILDS[name](how)
        tables.append(measure(model.eval(), inputs))
    fused, eager = tables
    even = [noted(fused, EVEN, FUSED), noted(eager, EVEN, "softmax")]
    assert len(even[0]) == (6 if name == "t5" else 2)
    assert np.array(even[0]) == pytest.approx(np.array(even[1]), rel=1e-5)
    shares = [noted(table, ["branch_share"]) for table in tables]
    assert len(shares[0]) == (10 if name == "t5" else 4)
    assert np.array(shares[0]) == pytest.approx(np.array(shares[1]), rel=1e-5)
    streams = [noted(table, TOKENS, "add") for table in tables]
    assert np.array(streams[0]) == pytest.approx(np.array(streams[1]), rel=1e-5, abs=1e-5)


class Sum(nn.Module):
    """A sum of what two functions of linear maps make of the input."""

    def __init__(self, function: Callable[..., Tensor], maps: int, units: int = 6) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(units, units) for _ in range(maps))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.maps)


def added_in_place(x: Tensor, f: nn.Module) -> Tensor:
    y: Tensor = f(x)
    y += x
    return y


def stream_in_place(x: Tensor, f: nn.Module) -> Tensor:
    y = x * 2
    y += f(y * 1.0)  # autograd needs what f reads as it was
    return y


SHARES: dict[str, tuple[int, Callable[..., Tensor], Callable[..., list[Tensor]]]] = {
    "x + f": (1, lambda x, f: x + f(x), lambda x, f: [f(x), x + f(x)]),
    "f + x": (1, lambda x, f: f(x) + x, lambda x, f: [f(x), x + f(x)]),
    "x - f": (1, lambda x, f: x - f(x), lambda x, f: [f(x), x - f(x)]),
    "add": (1, lambda x, f: torch.add(x, f(x)), lambda x, f: [f(x), x + f(x)]),
    "alpha": (
        1,
        lambda x, f: torch.add(x, f(x), alpha=0.3),
        lambda x, f: [0.3 * f(x), x + 0.3 * f(x)],
    ),
    "alpha of the stream": (
        1,
        lambda x, f: f(x).add(x, alpha=3),
        lambda x, f: [f(x), f(x) + 3 * x],
    ),
    "scaled": (1, lambda x, f: x + 0.1 * f(x), lambda x, f: [0.1 * f(x), x + 0.1 * f(x)]),
    "both scaled": (1, lambda x, f: 2 * x + f(x) / 3, lambda x, f: [f(x) / 3, 2 * x + f(x) / 3]),
    "branch +=": (1, added_in_place, lambda x, f: [f(x), x + f(x)]),
    "stream +=": (1, stream_in_place, lambda x, f: [f(2 * x), 2 * x + f(2 * x)]),
    "gated": (
        2,
        lambda x, f, g: x + g(x).sigmoid() * f(x),
        lambda x, f, g: [g(x).sigmoid() * f(x), x + g(x).sigmoid() * f(x)],
    ),
    "parallel": (
        2,
        lambda x, f, g: x + (f(x) + g(x).relu()),
        lambda x, f, g: [f(x) + g(x).relu(), x + f(x) + g(x).relu()],
    ),
    "x + a + b": (
        2,
        lambda x, f, g: x + f(x) + g(x),
        lambda x, f, g: [f(x), x + f(x), g(x), x + f(x) + g(x)],
    ),
    "a + b + x": (
        2,
        lambda x, f, g: f(x) + g(x) + x,
        lambda x, f, g: [f(x) + g(x), x + f(x) + g(x)],
    ),
    "sum": (2, lambda x, f, g: cast(Tensor, sum([x, f(x)])), lambda x, f, g: [f(x), x + f(x)]),
    "in two": (
        2,
        lambda x, f, g: (y := x + f(x)) + g(y),
        lambda x, f, g: [f(x), x + f(x), g(x + f(x)), x + f(x) + g(x + f(x))],
    ),
    "nested": (
        3,
        lambda x, f, g, h: x + ((y := f(x)) + g(y)),
        lambda x, f, g, h: [g(f(x)), f(x) + g(f(x)), f(x) + g(f(x)), x + f(x) + g(f(x))],
    ),
    "first units": (
        1,
        lambda x, f: x[..., :3] + f(x)[..., :3],
        lambda x, f: [f(x)[..., :3], (x + f(x))[..., :3]],
    ),
    "coupled": (
        1,
        lambda x, f: (c := x.chunk(2))[0] + f(c[1]),
        lambda x, f: [f(x[2:]), x[:2] + f(x[2:])],
    ),
    "two sequences": (2, lambda x, f, g: f(x) + g(x), lambda x, f, g: []),
    "highway": (
        2,
        lambda x, f, g: (t := g(x).sigmoid()) * f(x) + (1 - t) * x,
        lambda x, f, g: [],
    ),
    "a function": (1, lambda x, f: (y := f(x)) + 0.1 * y**3, lambda x, f: []),
    "doubled": (1, lambda x, f: (y := f(x)) + y, lambda x, f: []),
    "dropped": (1, lambda x, f: (y := f(x)) + F.dropout(y, 0.5), lambda x, f: []),
    "rotated": (
        1,
        lambda x, f: (y := f(x)) * 0.6 + torch.cat([-y[..., 3:], y[..., :3]], -1) * 0.8,
        lambda x, f: [],
    ),
    "with a bias": (1, lambda x, f: x @ f.weight.T + f.bias, lambda x, f: []),
    "one number": (1, lambda x, f: f(x) + 1, lambda x, f: []),
    "a mean": (1, lambda x, f: (y := f(x)) - y.mean(0, keepdim=True), lambda x, f: []),
}


@pytest.mark.parametrize("name", SHARES)
def test_shares_of_branches(name: str) -> None:
    maps, function, by_hand = SHARES[name]
    model, x = Sum(function, maps), torch.randn(4, 6) + 0.5
    table = measure(model, x, backward=True)
    squares = [y.detach().double().square().sum().item() for y in by_hand(x, *model.maps)]
    expected = [[a / b] for a, b in zip(squares[::2], squares[1::2], strict=True)]
    if not expected:
        assert silent(table)
        return
    assert silent(table, "branch_share")
    assert np.array(noted(table, ["branch_share"])) == pytest.approx(np.array(expected), rel=1e-6)
    assert table["branch_share"].notna().sum() == len(expected)


def test_a_branch_that_is_not_always_added_has_no_share() -> None:
    model = Sum(lambda x, f: x + y if (y := f(x)).shape[0] > 3 else y, 1)
    with Probe(model) as probe:
        model(torch.randn(4, 6))
        shares = noted(probe.table(), ["branch_share"])
        model(torch.randn(2, 6))
    assert len(shares) == 1
    assert silent(probe.table())


def test_long_passes_forget_what_is_far_behind() -> None:
    def deep(x: Tensor, f: nn.Module) -> Tensor:
        for _ in range(30):
            x = x + f(x).relu() / 30
        return x

    model, x = Sum(deep, 1), torch.randn(4, 6)
    whole = measure(model, x)["branch_share"]
    assert whole.notna().sum() == 30
    with mock.patch.object(streams, "_WINDOW", 4):
        assert measure(model, x)["branch_share"].equals(whole)


def test_two_inputs_are_no_stream_and_branch() -> None:
    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Linear(6, 6)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            y: Tensor = x + self.time(t)
            return y

    assert silent(measure(Timed(), (torch.randn(4, 6), torch.randn(4, 6))))


class ResNet(nn.Module):
    """Basic blocks of images, sums in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.maps = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))
        self.head = nn.Linear(4, 5)
        self.shares: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        x, self.shares = self.stem(x).relu_(), []
        for n in (0, 2):
            y = self.norms[n](self.maps[n](x)).relu_()
            y = self.norms[n + 1](self.maps[n + 1](y))
            square = y.detach().double().square().sum()
            y += x
            self.shares.append(float(square / y.detach().double().square().sum()))
            x = y.relu_()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Joined(nn.Module):
    """Values side by side, as in a U-Net and in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(n, 3, 3, padding=1) for n in (3, 6, 9))

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.maps:
            x = torch.cat([x, convolution(x).relu()], 1)
        low: Tensor = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)
        return torch.cat([x, low], 1)


def test_images() -> None:
    model, x = ResNet(), torch.randn(4, 3, 8, 8)
    with Probe(model, backward=True) as probe:
        model(x).square().sum().backward()
    table = probe.table()
    assert silent(table, "branch_share")
    rows = np.array(noted(table, ["branch_share"], "add_"))
    assert rows == pytest.approx(np.array([model.shares]).T, rel=1e-6)
    assert silent(measure(Joined(), x, backward=True))


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)),
    "with softmax": lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Softmax(-1)),
    "selu": lambda: nn.Sequential(nn.Linear(6, 6), nn.SELU(), nn.AlphaDropout(0.1)),
    "images": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    ),
    "signals": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten()
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_silence(name: str) -> None:
    model = PLAIN[name]()
    table = measure(model, torch.randn(5, 6), backward=True)
    assert silent(table)
    assert list(table)[-1] == list(ist.moments.STATISTICS)[-1]


class Block(nn.Module):
    """A pre-norm block of one head; what its sums and its attention are, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        y: Tensor = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return y

    def by_hand(self, x: Tensor) -> tuple[list[float], list[float], list[float]]:
        q, k, _ = self.qkv(self.norm(x)).chunk(3, -1)
        allowed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        y = self(x)
        share = ((y - x).square().sum() / y.square().sum()).item()
        return [share], resemblance(y), evenness(weights_of(q, k, allowed), allowed)


def numbers(table: pd.DataFrame) -> tuple[list[float], list[float], list[float]]:
    (share,), (alike,) = noted(table, ["branch_share"]), noted(table, TOKENS, "add")
    (even,) = noted(table, EVEN, FUSED)
    return share, alike, even


def test_batches_add_up() -> None:
    """Batches of other sizes are as one; an update begins anew, and keeps what was."""
    model, x = Block(), randn(7, 5, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    before = model.by_hand(x)
    with Probe(model, backward=True) as probe:
        for part in torch.split(x, 3):
            model(part).square().sum().backward()
        optimizer.step()
        after = model.by_hand(x[:3])
        model(x[:3])
    table = probe.table()
    for step, expected in ((0, before), (1, after)):
        for found, own in zip(numbers(table[table["step"] == step]), expected, strict=True):
            assert found == pytest.approx(own, rel=1e-4)
    with torch.no_grad():
        y = model(x)
    assert torch.isfinite(y).all()


def test_parts_of_several_processes_add_up() -> None:
    model, x = Block(), randn(7, 5, 8)
    parts, rows = [], []
    for part in (x[:3], x[3:], x):
        probe = Probe(model, backward=True).run(part)
        slots = probe._recorder.slots.values()
        parts.append([slot.facts["train"].portable() for slot in slots if slot.is_value])
        rows.append(numbers(probe.table()))
    for own, other, both in zip(*pickle.loads(pickle.dumps(parts)), strict=True):
        own.merge(other)
        assert own.noted.branch == both.noted.branch
        for name in (*TOKENS, *EVEN):
            expected = pytest.approx(both.noted.number("forward", name), rel=1e-5, nan_ok=True)
            assert own.noted.number("forward", name) == expected
    assert parts[2][-1].noted.number("forward", TOKENS[1]) == rows[2][1][1]


def test_padding_does_not_count() -> None:
    model, x = Block(), randn(3, 5, 8)
    lengths = [5, 3, 1]
    x[torch.arange(5) >= torch.tensor(lengths)[:, None]] = 1e3
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    table = measure(model, x, mask=mask)
    model.requires_grad_(False)
    y = [model(part[None, :n]).double() for part, n in zip(x, lengths, strict=True)]
    kernels = [z[0] @ z[0].mT for z in y]
    ratio = [float(k.trace() ** 2 / k.square().sum()) for k in kernels]
    pairs = [
        (k.sum() - k.trace()) / n / (n - 1) for k, n in zip(kernels[:2], lengths, strict=False)
    ]
    own = [k.trace() / n for k, n in zip(kernels[:2], lengths, strict=False)]
    expected = [float(sum(pairs) / sum(own)), sum(ratio) / 3]
    assert noted(table, TOKENS, "add") == [pytest.approx(expected, rel=1e-5)]
    share = sum((z - x[n, None, : z.shape[1]]).square().sum() for n, z in enumerate(y))
    square = sum(z.square().sum() for z in y)
    assert noted(table, ["branch_share"]) == [[pytest.approx(float(share / square), rel=1e-4)]]
    entropies, squares = [], []
    for part, n in zip(x, lengths, strict=True):
        q, k, _ = model.qkv(model.norm(part[None, :n])).chunk(3, -1)
        weights = weights_of(q, k, torch.ones(n, n, dtype=torch.bool).tril())[0]
        squares += weights.square().sum(-1).tolist()
        for row, w in enumerate(weights[1:], 2):
            entropies.append(float(-torch.special.xlogy(w, w).sum() / math.log(row)))
    expected = [sum(entropies) / len(entropies), sum(squares) / len(squares)]
    assert noted(table, EVEN, FUSED) == [pytest.approx(expected, rel=1e-5)]


MODES: dict[str, tuple[Callable[[], Any], Callable[[nn.Module], Any], float]] = {
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), lambda m: m, 0.05),
    "bfloat16": (nullcontext, lambda m: m.bfloat16(), 0.05),
    "float64": (nullcontext, lambda m: m.double(), 1e-9),
    "inference": (torch.inference_mode, lambda m: m, 1e-5),
    "no gradients": (torch.no_grad, lambda m: m, 1e-5),
    "compiled": (nullcontext, partial(torch.compile, backend="eager"), 1e-5),
}


@pytest.mark.parametrize("name", MODES)
def test_ways_to_run(name: str) -> None:
    mode, changed, tolerance = MODES[name]
    model, x = Block(), randn(3, 5, 8)
    expected = copy.deepcopy(model).double().by_hand(x.double())
    model = changed(model)
    x = x.to(next(model.parameters()).dtype)
    before = torch.get_rng_state()
    with mode(), Probe(model) as probe:
        y = model(x)
    with mode():
        assert torch.equal(model(x), y)
    assert torch.equal(before, torch.get_rng_state())
    for found, own in zip(numbers(probe.table()), expected, strict=True):
        assert found == pytest.approx(own, rel=tolerance, abs=tolerance / 10)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_transforms_and_scripts_are_silent() -> None:
    """What holds no numbers of its own, and what runs out of sight, has none; nothing raises."""
    model, x = Block(), randn(3, 5, 8)

    class Each(nn.Module):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part = part

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = torch.vmap(self.part)(x)
            return y

    assert silent(measure(Each(model), x[:, None]), *())
    scripted = torch.jit.script(model)
    probe = Probe(nn.Sequential(nn.Linear(8, 8), scripted)).run(x)
    assert silent(probe.table(), *TOKENS)
    assert not probe.missed()["reason"].str.contains("failed").any()


def test_overflow_is_left_out() -> None:
    """A sample with an entry that is not finite is none, and so is a row of attention."""
    x = randn(3, 5, 8)
    x[1, 2, 3] = math.inf
    table = measure(nn.Sequential(nn.Identity(), nn.Hardtanh(-9, math.inf)), x)
    kept = resemblance(x[[0, 2]])
    assert noted(table, TOKENS) == [pytest.approx(kept, rel=1e-5)] * 2
    q = torch.randn(2, 5, 4)
    q[1, 2] = math.nan
    table = measure(Attend(), (q, q[:1].expand(2, -1, -1), q))
    weights = weights_of(q, q[:1], torch.ones(5, 5, dtype=torch.bool)).flatten(0, 1)
    assert noted(table, EVEN) == [pytest.approx(evenness(weights[weights.isfinite().all(1)]))]


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_sizes_do_not_matter(size: float) -> None:
    x = randn(3, 5, 8)
    table = measure(nn.Sequential(nn.Identity(), nn.ReLU()), x * size)
    assert noted(table, TOKENS, "relu") == [pytest.approx(resemblance(x.relu()), rel=1e-5)]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_tell_the_order(kind: Any, batch_first: bool) -> None:
    model, x = kind(8, 6, batch_first=batch_first), randn(3, 5, 8)
    own = x if batch_first else x.transpose(0, 1)
    table = measure(model, own)
    y = model(own)[0]
    expected = [resemblance(x), resemblance(y if batch_first else y.transpose(0, 1))]
    assert np.array(noted(table, TOKENS)) == pytest.approx(np.array(expected), rel=1e-5)


class Mixer(nn.Module):
    """Maps along tokens and along units in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.units = nn.Linear(5, 5), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(x.mT).relu().mT
        y: Tensor = x + self.units(x)
        return y


class Axial(nn.Module):
    """Attention along both dimensions in turn, so that none is that of samples."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.scaled_dot_product_attention(x, x, x).transpose(0, 1) * 2
        return F.scaled_dot_product_attention(x, x, x) * 2


def test_which_values_have_tokens() -> None:
    x = randn(3, 5, 8)
    table = measure(Mixer(), x)
    values = table[table["tensor"] != "weight"]
    seen = values[values[TOKENS[0]].notna()]
    assert seen["op"].tolist() == ["input", "add", "linear", "add"]
    assert values[values[TOKENS[0]].isna()]["op"].tolist() == ["linear", "relu"]
    assert silent(measure(Axial(), x), *EVEN)
    heads = nn.Sequential(nn.Unflatten(2, (2, 4)), nn.ReLU())
    assert noted(measure(heads, x), TOKENS, "relu") == []
    signal = nn.Sequential(nn.Conv1d(5, 6, 3), nn.ReLU())
    assert silent(measure(signal, x))


def test_spectra_keep_their_column() -> None:
    """`participation_ratio` is that of units where spectra are asked for."""
    x = randn(3, 5, 8)
    table = measure(nn.ReLU(), x, spectra=True)
    assert list(table).count("participation_ratio") == 1
    flat = x.relu().flatten(0, 1).double()
    covariance = (flat - flat.mean(0)).T @ (flat - flat.mean(0))
    ratio = covariance.trace() ** 2 / covariance.square().sum()
    row = table[table["op"] == "relu"].iloc[0]
    assert row["participation_ratio"] == pytest.approx(float(ratio), rel=1e-5)
    assert row["pair_correlation"] == pytest.approx(resemblance(x.relu())[0], rel=1e-5)


def test_a_glance_at_tokens() -> None:
    """A summary shows spectra where they were asked for, and no ratio of tokens as one."""
    probe = Probe(Block()).run(randn(3, 5, 8))
    assert "participation_ratio" in probe.table()
    assert not {"participation_ratio", "stable_rank"} & {*probe.summary().columns}
    assert "measured" in str(probe)
