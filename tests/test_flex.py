"""Models with `flex_attention`: they run as they do unwatched, and their weights are by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from initstats.probe import Probe, attention, flex, measure
from initstats.repair import lsuv_

FLEX, UNTOLD = "flex_attention", "attention"
EVEN = ["attention_entropy", "concentration"]
EAGER = "ignore:flex_attention called without torch.compile"
pytestmark = pytest.mark.filterwarnings(EAGER)
QUERIES, KEYS = torch.arange(6)[:, None], torch.arange(9)
attend: Any = flex_attention
EVERY, BEFORE = torch.ones(6, 9, dtype=torch.bool), QUERIES >= KEYS


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def evenness(scores: Tensor, allowed: Tensor) -> list[float]:
    """Attention entropy and concentration of (..., rows, tokens), of rows that have a choice."""
    allowed = allowed.expand(scores.shape)
    weights = scores.double().masked_fill(~allowed, -math.inf).softmax(-1)
    choices = allowed.double().sum(-1)
    entropy = -torch.special.xlogy(weights, weights).sum(-1) / choices.log()
    squares = weights.square().sum(-1)
    return [float(entropy[choices > 1].mean()), float(squares[choices > 0].mean())]


def noted(table: Any) -> list[list[float]]:
    """The numbers of attention, of values that have any."""
    found: list[list[float]] = table[EVEN].dropna().to_numpy().tolist()
    return found


class Attend(nn.Module):
    """Attention of given queries, keys and values, with a table of biases by distance."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options, self.bias = options, nn.Parameter(torch.randn(2, 20))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        return attend(q, k, v, **self.options)


class Biased(Attend):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        bias: Callable[..., Tensor] = lambda s, b, h, i, j: s + self.bias[h, i - j + 9]  # noqa: E731
        return attend(q, k, v, score_mod=bias, **self.options)


def blocks(function: Callable[..., Tensor], samples: int | None = None) -> BlockMask:
    return create_block_mask(function, samples, None, 6, 9, device="cpu", BLOCK_SIZE=(2, 3))


def causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return i >= j


LENGTHS = torch.tensor([9, 4])
SLOPES = torch.tensor([1, 2]).view(2, 1, 1)
Case = tuple[dict[str, Any], Callable[[Tensor], Tensor], Tensor]
CASES: dict[str, Case] = {
    "plain": ({}, lambda s: s, EVERY),
    "scale": ({"scale": 0.9}, lambda s: s * 0.9 * 5**0.5, EVERY),
    "causal": ({"block_mask": blocks(causal)}, lambda s: s, BEFORE),
    "padding": (
        {"block_mask": blocks(lambda b, h, i, j: j < LENGTHS[b], 2)},
        lambda s: s,
        LENGTHS.view(2, 1, 1, 1) > KEYS,
    ),
    "a row of nothing": (
        {"block_mask": blocks(lambda b, h, i, j: (i != 2) & (i >= j))},
        lambda s: s,
        BEFORE & (QUERIES != 2),
    ),
    "distances": (
        {"score_mod": lambda s, b, h, i, j: s - 300 * (h + 1) * (i - j).abs()},
        lambda s: s - 300 * SLOPES * (QUERIES - KEYS).abs(),
        EVERY,
    ),
    "capped": (
        {"score_mod": lambda s, b, h, i, j: 2 * torch.tanh(s / 2)},
        lambda s: 2 * torch.tanh(s / 2),
        EVERY,
    ),
    "filled in": (
        {"score_mod": lambda s, b, h, i, j: torch.where(i >= j, s, -math.inf)},
        lambda s: s,
        BEFORE,
    ),
    "added": (
        {"score_mod": lambda s, b, h, i, j: s + torch.where(i >= j, 0.0, -1e9)},
        lambda s: s,
        BEFORE,
    ),
    "low, but not hidden": (
        {"score_mod": lambda s, b, h, i, j: -1e7 * s.abs()},
        lambda s: -1e7 * s.abs(),
        EVERY,
    ),
    "both": (
        {"score_mod": lambda s, b, h, i, j: s * 3, "block_mask": blocks(causal)},
        lambda s: s * 3,
        BEFORE,
    ),
}


def inputs(heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 2, 6, 5) * 2, torch.randn(2, heads, 9, 5), torch.randn(2, heads, 9, 5)


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("block", [2**20, 7, 30])
@pytest.mark.parametrize("name", CASES)
def test_weights_by_hand(name: str, block: int) -> None:
    """Whatever the functions do, with queries and keys of two lengths, in blocks of any size."""
    options, change, allowed = CASES[name]
    q, k, v = inputs()
    with mock.patch.object(attention, "BLOCK", block):
        probe = Probe(Attend(**options)).run((q, k, v))
    scores = change(q.double() @ k.double().mT * 5**-0.5)
    assert noted(probe.table()) == [pytest.approx(evenness(scores, allowed), rel=1e-5, abs=1e-12)]
    assert probe.missed().query("kind == @UNTOLD").empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_queries_share_keys_and_biases_are_looked_up(dtype: torch.dtype) -> None:
    """The learned bias is a weight of the operation, whose name it has in the table."""
    q, k, v = (x.to(dtype) for x in inputs(heads=1))
    model = Biased(enable_gqa=True)
    probe = Probe(model).run((q, k, v))
    bias = model.bias.detach()[:, QUERIES - KEYS + 9]
    scores = q.double() @ k.double().mT * 5**-0.5 + bias
    tight = 1e-5 if dtype != torch.float64 else 1e-6
    assert noted(probe.table()) == [pytest.approx(evenness(scores, EVERY), rel=tight)]
    assert probe.table().query("tensor == 'weight'")["name"].tolist() == ["bias"]
    assert probe.missed()["op"].tolist() == [FLEX]  # what stays inside


def test_a_mask_of_the_probe_leaves_rows_out() -> None:
    q, k, v = inputs()
    table = measure(Attend(), (q, k, v), mask=torch.tensor([True, False]))
    scores = q.double() @ k.double().mT * 5**-0.5
    assert noted(table) == [pytest.approx(evenness(scores[:1], EVERY), rel=1e-5)]


def test_what_is_not_known_has_a_reason() -> None:
    """A fused kernel would leave out the blocks that are not listed, and torch here would not."""
    few = BlockMask.from_kv_blocks(
        torch.ones(1, 1, 3, dtype=torch.int32), torch.zeros(1, 1, 3, 3, dtype=torch.int32),
        BLOCK_SIZE=(2, 3), seq_lengths=(6, 9),
    )  # fmt: skip
    probe = Probe(Attend(block_mask=few)).run(inputs())
    reason = "its block mask hides others than the function of its mask"
    assert probe.missed().query("kind == @UNTOLD")["reason"].tolist() == [reason]
    assert not {*EVEN} & {*probe.table().columns}
    with mock.patch.object(flex, "_called", side_effect=RuntimeError("no such function")):
        probe = Probe(Attend()).run(inputs())
    assert "RuntimeError" in probe.missed().query("kind == @UNTOLD")["reason"].item()
    assert not {*EVEN} & {*probe.table().columns}


@pytest.mark.filterwarnings("ignore:return_lse is deprecated")
def test_what_serves_gradients_is_no_value() -> None:
    """A logarithm that a model asks for is made of what attention reads, and torch scales it."""
    table = measure(Attend(return_lse=True), inputs())
    assert table["op"].tolist() == ["input"] * 3 + [FLEX, "mul"]
    assert table["inputs"].tolist()[3:] == ["0"] * 2


def projected(x: Tensor, layer: nn.Linear) -> Tensor:
    by_head: Tensor = layer(x).unflatten(-1, (2, 4))
    return by_head.transpose(1, 2)


def fused(model: Block, x: Tensor) -> Tensor:
    given = (projected(x, layer) for layer in (model.q, model.k, model.v))
    mask = create_block_mask(causal, None, None, 5, 5, device="cpu")
    bias: Callable[..., Tensor] = lambda s, b, h, i, j: s + model.bias[h, i - j]  # noqa: E731
    mixed: Tensor = attend(*given, score_mod=bias, block_mask=mask)
    return mixed


def written_out(model: Block, x: Tensor) -> Tensor:
    q, k, v = (projected(x, layer) for layer in (model.q, model.k, model.v))
    places = torch.arange(5)
    distance = places[:, None] - places
    scores = q @ k.mT / 2 + model.bias[:, distance]
    return scores.masked_fill(distance < 0, -math.inf).softmax(-1) @ v


class Block(nn.Module):
    """A residual block whose biases and last map are learned: torch has no more on a CPU."""

    def __init__(self, attend: Callable[..., Tensor], **held: Any) -> None:
        super().__init__()
        self.attend, self.out = attend, nn.Linear(8, 8)
        self.q, self.k, self.v = (nn.Linear(8, 8).requires_grad_(False) for _ in range(3))
        self.bias = nn.Parameter(torch.randn(2, 5))
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.out(self.attend(self, x).transpose(1, 2).flatten(2))
        return y


COMPILED: dict[str, Callable[[nn.Module], Any]] = {
    "as it is": lambda block: block,
    "compiled": partial(torch.compile, backend="eager"),
    "traced ahead": partial(torch.compile, backend="aot_eager"),
}


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("how", COMPILED)
def test_fused_equals_written_out(how: str) -> None:
    """Output, gradients, and every row that both have; and nothing is changed by watching."""
    x, tables, left = torch.randn(3, 5, 8), [], []
    for attend, watched in ((written_out, True), (fused, True), (fused, False)):
        torch.manual_seed(1)
        block = Block(attend)
        model: Any = COMPILED[how](block)
        probe = Probe(model, backward=True)
        if watched:
            with probe:
                output = model(x)
                output.square().mean().backward()
            tables.append(probe.table())
        else:
            output = model(x)
            output.square().mean().backward()
        grads = [p.grad for p in block.parameters() if p.grad is not None]
        assert len(grads) == 3
        left.append([output.detach(), *grads, torch.get_rng_state()])
    torch.testing.assert_close(left[0], left[1], rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, left[1], left[2]))

    plain, found = tables
    assert noted(plain) == [pytest.approx(noted(found)[0], rel=1e-5)]
    names = {"matmul": FLEX, "getitem": FLEX}  # the product with values, and the bias
    plain["op"] = plain["op"].where(plain["tensor"] == "weight", plain["op"].replace("getitem", ""))
    plain["op"] = plain["op"].replace(names)
    keys, numbers = ["name", "op", "direction"], ["mean", "std", "min", "max", "second_moment"]
    last = plain.drop_duplicates(keys, keep="last")
    both = last.merge(found, on=keys, suffixes=("", "_flex"))
    assert len(both) == len(found) == 22
    for name in [*numbers, "pair_correlation", "branch_share"]:
        pairs = torch.as_tensor(both[[name, f"{name}_flex"]].to_numpy())
        torch.testing.assert_close(*pairs.T, rtol=1e-5, atol=1e-6, equal_nan=True)


class Learned(Attend):
    """Scores that a module changes, which torch compiles with them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        change: Callable[..., Tensor] = lambda s, b, h, i, j: self.net(s[None])[0]  # noqa: E731
        return attend(q, k, v, score_mod=change)


def test_functions_may_call_modules() -> None:
    q, k, v = inputs()
    model = Learned()
    table = measure(model, (q, k, v))
    weight, bias = model.net.weight.double().item(), model.net.bias.double().item()
    scores = q.double() @ k.double().mT * 5**-0.5 * weight + bias
    assert noted(table) == [pytest.approx(evenness(scores, EVERY), rel=1e-5)]
    assert table.query("tensor == 'weight'")["name"].tolist() == ["net.weight", "net.bias"]


def test_probes_in_each_other_see_the_same_and_nothing_is_compiled_again() -> None:
    model, given = Biased(), inputs()
    with torch.no_grad(), Probe(model) as first:
        model(*given)
    counts = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.no_grad(), Probe(model) as outer, Probe(model) as inner:
        model(*given)
    for probe in (outer, inner):
        assert probe.table().equals(first.table())
        assert probe.missed().equals(first.missed())
    with torch.no_grad(), Probe(model):
        model(*given)
    # once more for two modes than for one
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= counts + 1


def test_a_conditional_keeps_the_gradients_of_what_it_captures() -> None:
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Any:
            first: Callable[..., Tensor] = lambda y: self.a(y)  # noqa: E731
            second: Callable[..., Tensor] = lambda y: self.b(y)  # noqa: E731
            return torch.cond(x.sum() > 0, first, second, (x,))

    model, x = Choice(), torch.rand(4, 3)
    model(x).sum().backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    with Probe(model, backward=True) as probe:
        model(x).sum().backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert p.grad is not None
        assert gradient is not None
        assert torch.equal(p.grad, gradient)
    assert probe.missed().empty


def test_a_repair_runs_it() -> None:
    block = Block(fused)
    found = lsuv_(block, torch.randn(200, 5, 8))
    assert found["name"].tolist().count("out.weight") == 1


FIRST = """
import sys, warnings
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from initstats import measure
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "flex_attention called without")

class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
    def forward(self, x):
        if {how!r} == "flex":
            y = self.first(x)[:, None]
            return flex_attention(y, y, y, score_mod=lambda s, b, h, i, j: s * 2)
        return torch.compile(lambda z: self.first(z).relu(), backend="eager", fullgraph=True)(x)

assert "torch._dynamo" not in sys.modules
model, x = Late(), torch.randn(2, 3, 4)
first = measure(model, x)
assert "torch._dynamo" in sys.modules
assert torch._dynamo.eval_frame._stance.stance == "default"
assert first.equals(measure(model, x))
assert not any("initstats" in type(finder).__module__ for finder in sys.meta_path)
print(*first["op"])
"""


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize(("how", "last"), [("flex", FLEX), ("compile", "relu")])
def test_a_first_call_loads_the_compiler(how: str, last: str) -> None:
    """In a process that has compiled nothing before, and in the middle of a pass."""
    code = FIRST.format(how=how)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["input", "linear", "linear", "linear", last]
