"""Roles that are easily taken for others: biases of scores, adapters, maps side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initstats as ist
from initstats.schemes.inputs import candidates

WIDTH, HEADS, HEAD = 64, 4, 16
Mix = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def by_matmul(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2)
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k)
    weights = (scores if bias is None else bias + scores).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def by_one_call(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


def folded(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Heads are samples; the bias is an argument of the product."""
    shape, tokens = q.shape, q.shape[2]
    q, k, v = (x.reshape(-1, tokens, HEAD) for x in (q, k, v))
    added = q.new_zeros(1) if bias is None else bias.expand(shape[0], HEADS, tokens, tokens)
    scores = torch.baddbmm(
        added.reshape(-1, *added.shape[-2:]) if bias is not None else added, q, k.mT
    )
    return torch.bmm(scores.softmax(-1), v).view(shape)


MIXES: dict[str, Mix] = {
    "matmul": by_matmul,
    "einsum": by_einsum,
    "one call": by_one_call,
    "baddbmm": folded,
}


class Block(nn.Module):
    """Attention of few keys and values for many queries, and two maps."""

    def __init__(self, mix: Mix, groups: int) -> None:
        super().__init__()
        self.mix, self.groups = mix, groups
        self.q, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(WIDTH, groups * HEAD, bias=False) for _ in range(2))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.n, self.m = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        y = self.n(x)
        q, k, v = (
            f(y).view(*y.shape[:2], -1, HEAD).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        k, v = (each.repeat_interleave(HEADS // self.groups, 1) for each in (k, v))
        x = x + self.o(self.mix(q, k, v, bias).transpose(1, 2).reshape(x.shape))
        return x + self.down(self.up(self.m(x)).relu())  # type: ignore[no-any-return]


class Net(nn.Module):
    """Two blocks that share a bias of their scores."""

    def __init__(self, mix: Mix, bias: str = "", groups: int = HEADS) -> None:
        super().__init__()
        self.bias = bias
        self.far: Any = None
        self.words = nn.Embedding(50, WIDTH)
        self.blocks = nn.ModuleList(Block(mix, groups) for _ in range(2))
        self.head = nn.Linear(WIDTH, 50)
        if bias == "embedding":
            self.far = nn.Embedding(15, HEADS)
        elif bias == "table":
            self.far = nn.Parameter(torch.randn(15, HEADS))
        elif bias == "maps":
            self.one, self.two = nn.Linear(1, 32), nn.Linear(32, HEADS, bias=False)

    def added(self, x: Tensor) -> Tensor | None:
        places = torch.arange(x.shape[1])
        apart = places[:, None] - places + 7
        if self.bias == "embedding":
            return self.far(apart).permute(2, 0, 1)[None]  # type: ignore[no-any-return]
        if self.bias == "table":
            return self.far[apart.flatten()].view(*apart.shape, -1).permute(2, 0, 1)[None]  # type: ignore[no-any-return]
        if self.bias == "maps":
            return self.two(self.one(apart[..., None].float()).relu()).permute(2, 0, 1)[None]  # type: ignore[no-any-return]
        if self.bias == "mask":
            return torch.where(x[..., 0] > 0, 0.0, -1e4)[:, None, None, :] + x.sum() * 0
        return None

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        bias = self.added(x)
        for block in self.blocks:
            x = block(x, bias)
        return self.head(x)  # type: ignore[no-any-return]


IDS = torch.randint(50, (2, 8), generator=torch.Generator().manual_seed(0))
LAST = {"q": "query", "k": "key", "v": "value", "o": "last", "up": "", "down": "last"}


@pytest.mark.parametrize("bias", ["", "embedding", "table", "maps", "mask"])
@pytest.mark.parametrize("mix", MIXES)
def test_what_is_added_to_scores_is_no_stream(mix: str, bias: str) -> None:
    model = Net(MIXES[mix], bias, groups=2)
    table: Any = ist.prescribe(model, "t5", IDS).table.set_index("name")
    for block in (0, 1):
        for name, role in LAST.items():
            row = table.loc[f"blocks.{block}.{name}.weight"]
            assert (row["role"], row["branches"]) == (role, 4), name
        # Raffel et al. 2020: (d_model d_kv)^-0.5, whatever the tokens
        std = table.loc[f"blocks.{block}.q.weight", "std"]
        assert std == pytest.approx((WIDTH * HEAD) ** -0.5)
    if bias in ("embedding", "table"):
        name = "far.weight" if bias == "embedding" else "far"
        assert table.loc[name, "role"] == "relative"
        assert table.loc[name, "std"] == pytest.approx(WIDTH**-0.5)
    ist.prescribe(model, "deepnorm", IDS)
    drawn: Any = ist.prescribe(model, "fixup", IDS).table.set_index("name")["drawn"]
    blank = [name for name in drawn.index if name.endswith("weight") and drawn[name] == "zeros"]
    assert blank == [f"blocks.{n}.{w}.weight" for n in (0, 1) for w in ("o", "down")] + [
        "head.weight"
    ]


class Realformer(Net):
    """Scores are added to those of the block before (He et al. 2021, arXiv:2012.11747)."""

    def forward(self, ids: Tensor) -> Tensor:
        x, kept = self.words(ids), list[Tensor]()

        def mix(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
            kept.append(q @ k.mT + (kept[-1] if kept else 0.0))
            return kept[-1].softmax(-1) @ v

        for block in self.blocks:
            block.mix = mix  # type: ignore[assignment]
            x = block(x, None)
        return self.head(x)  # type: ignore[no-any-return]


def test_scores_that_are_added_up_are_no_stream_of_units() -> None:
    table: Any = ist.prescribe(Realformer(by_matmul), "gpt2", IDS).table.set_index("name")
    assert table.loc["blocks.1.q.weight", "role"] == "query"
    assert table.loc["blocks.1.k.weight", "std"] == 0.02
    assert set(table.loc[table["branches"] > 0, "branches"]) == {4}
    ist.prescribe(Realformer(by_matmul), "deepnorm", IDS)


class Adapted(nn.Module):
    """A map, and a low-rank pair beside it."""

    def __init__(self, base: nn.Linear, form: str) -> None:
        super().__init__()
        self.base, self.form = base, form
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "normed":  # as DoRA's (Liu et al. 2024, arXiv:2402.09353)
            whole = self.base.weight + self.up.weight @ self.down.weight
            return (self.base(x) + self.up(self.down(x))) / whole.norm()  # type: ignore[no-any-return]
        low = self.down(x)
        return self.base(x) + 2 * self.up(low.relu() if self.form == "curved" else low)  # type: ignore[no-any-return]


def adapted(form: str, *, frozen: bool) -> Net:
    torch.manual_seed(3)
    model = Net(by_matmul)
    model.requires_grad_(not frozen)
    for block in model.blocks:
        for name in LAST:
            setattr(block, name, Adapted(getattr(block, name), form))
    return model


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("form", ["straight", "curved", "normed"])
def test_an_adapter_that_adds_nothing_stays_and_is_no_branch(form: str, frozen: bool) -> None:
    model = adapted(form, frozen=frozen)
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = ist.initialize_(model, "gpt2", IDS)
    table: Any = found.table.set_index("name")
    row = table.loc["blocks.1.down.base.weight"]
    assert (row["role"], row["branches"]) == ("last", 4)
    assert table.loc["blocks.1.down.up.weight", "role"] == "last"
    for name, p in model.named_parameters():
        if frozen or (name.count(".") == 4 and ".base." not in name):
            assert torch.equal(p, before[name]), name
            assert not table.loc[name, "drawn"]
    if not frozen:
        assert row["std"] == pytest.approx(0.02 / math.sqrt(4))
    ist.assert_initialized(model, "gpt2", IDS)
    notes: Any = ist.audit(model, IDS, expected="gpt2").findings
    told = " ".join(notes["evidence"])
    assert "low-rank pairs that add nothing yet: not compared with gpt2" in told
    assert ("not trained (requires_grad is False)" in told) == frozen


def test_a_model_that_trains_nothing_is_drawn_all_the_same() -> None:
    model = Net(by_matmul).requires_grad_(False)
    table = ist.initialize_(model, "gpt2", IDS).table
    assert (table["drawn"] != "").all()
    ist.assert_initialized(model, "gpt2", IDS)


class Beside(nn.Module):
    """A map, or nothing, beside two maps."""

    def __init__(self, inputs: int, width: int, *, mapped: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(inputs, width, 1) if mapped else nn.Identity()
        self.b, self.c = nn.Conv2d(inputs, width, 1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) + self.c(self.b(x).relu())).relu()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("mapped", "branches"),
    [
        ([True, True, True], 0),  # as in an inception: no stream
        ([True, False, True, False], 4),  # a stream is mapped where it becomes wider
        ([True, False, True], 3),
        ([True, True, False], 3),
    ],
)
def test_a_mapped_stream_is_one_where_something_is_added_to_it(
    mapped: list[bool], branches: int
) -> None:
    widths = [3, *(8 + 8 * sum(mapped[1 : n + 1]) for n in range(len(mapped)))]
    steps = [Beside(i, o, mapped=m) for i, o, m in zip(widths, widths[1:], mapped, strict=False)]
    table: Any = ist.prescribe(nn.Sequential(*steps), "gpt2", torch.randn(2, 3, 8, 8)).table
    ends = table[table["name"].str.endswith("c.weight")]
    assert set(ends["branches"]) == {branches}
    assert not table.loc[table["name"].str.contains(r"\.a\."), "branches"].any()


class Parallel(nn.Module):
    """Two branches of one norm (Chowdhery et al. 2022, arXiv:2204.02311)."""

    def __init__(self, *, nested: bool) -> None:
        super().__init__()
        self.nested, self.n = nested, nn.LayerNorm(8)
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.n(x)
        one, two = self.b(self.a(y).relu()), self.d(self.c(y).relu())
        return x + (one + two) if self.nested else x + one + two  # type: ignore[no-any-return]


@pytest.mark.parametrize(("nested", "branches"), [(True, 2), (False, 4)])
def test_parallel_branches_end_in_each_of_their_last_maps(nested: bool, branches: int) -> None:
    model = nn.Sequential(nn.Linear(3, 8), *(Parallel(nested=nested) for _ in range(2)))
    table: Any = ist.prescribe(model, "gpt2").table.set_index("name")
    for name, role in {"a": "", "b": "last", "c": "", "d": "last"}.items():
        row = table.loc[f"2.{name}.weight"]
        assert (row["role"], row["branches"]) == (role, branches), name


class Gated(nn.Module):
    """A branch times a gate of its own (Peebles & Xie 2023, arXiv:2212.09748)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gate = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(x) * self.b(self.a(x).relu())  # type: ignore[no-any-return]


def test_a_gate_ends_no_branch_beside_its_last_map() -> None:
    model, x = nn.Sequential(nn.Linear(3, 8), Gated(), Gated(), nn.Linear(8, 2)), torch.randn(4, 3)
    table: Any = ist.initialize_(model, "fixup", x).table.set_index("name")
    assert table.loc["2.b.weight", "drawn"] == "zeros"
    assert table.loc["2.gate.weight", "drawn"] != "zeros"
    ist.assert_initialized(model, "fixup", x, fail_on="error")


class Skipping(nn.Module):
    """A branch with a skip of its own, as a state space model has (Gu & Dao 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.skip = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return x + self.c(y * self.skip + self.b(y).tanh())  # type: ignore[no-any-return]


def test_a_skip_within_a_branch_is_no_stream() -> None:
    model = nn.Sequential(nn.Linear(3, 8), *(Skipping() for _ in range(3)), nn.Linear(8, 2))
    table: Any = ist.prescribe(model, "gpt2").table.set_index("name")
    for name, role in {"a": "", "b": "", "c": "last"}.items():
        row = table.loc[f"2.{name}.weight"]
        assert (row["role"], row["branches"]) == (role, 3), name
    ist.prescribe(model, "deepnorm")


def test_no_rule_accuses_a_scale_that_the_scheme_prescribes() -> None:
    """The fans of a head of one unit are mixed up easily, and there are none to be mixed up."""
    torch.manual_seed(0)
    sizes = [3, 16, 64, 32, 16]
    convolutions = [nn.Conv2d(i, o, 3) for i, o in pairwise(sizes)]
    model = nn.Sequential(*convolutions, nn.Conv2d(16, 1, 1))
    x = torch.randn(2, 3, 16, 16)
    ist.initialize_(model, "t5", x)
    assert "wrong_fan" in _told(model, x, None)
    assert "wrong_fan" not in _told(model, x, "t5")
    nn.init.normal_(model.get_parameter("3.weight"), std=0.02)
    assert "as_expected" in _told(model, x, "t5")


def _told(model: nn.Module, x: Tensor, expected: str | None) -> set[str]:
    found: Any = ist.audit(model, x, expected=expected).findings
    return {*found.loc[found["severity"].isin(["error", "warning"]), "rule"]}


@pytest.mark.parametrize(
    "model",
    [nn.Linear(4, 3), nn.Embedding(5, 3), nn.Conv2d(3, 4, 3), nn.LSTM(4, 3)],
    ids=lambda model: type(model).__name__,
)
def test_inputs_are_made_up_where_the_model_lies(model: nn.Module) -> None:
    for inputs in candidates(model.to("meta")):
        assert all(x.is_meta for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
