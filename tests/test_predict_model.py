"""Theory through a model's graph: closed forms, redraws, and silence about what is unknown."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import initstats as ist
from initstats import activations, inits
from initstats.prediction.model import beside, farthest, tables
from initstats.prediction.model.kernels import Response
from initstats.theory import product_moment

KEYS = ["layer", "name", "op", "tensor", "direction"]
N = 64
GAIN, BIAS = 1.4, 0.3
Forward = Callable[..., Any]


class Net(nn.Module):
    """A model of some parts and the function that uses them."""

    def __init__(self, parts: dict[str, nn.Module], run: Forward) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.run = run

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self.parts, *inputs)


def drawn(model: nn.Module, seed: int, *, exact: bool = False) -> nn.Module:
    """The model with new weights; with exactly their law's mean square, if wanted."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "norm" in name:
            continue
        std = GAIN / math.sqrt(p[0].numel()) if p.ndim > 1 else BIAS
        with torch.no_grad():
            p.normal_(0, std, generator=generator)
            if exact:
                p.mul_(std / p.square().mean().sqrt())
    return model


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def linears(*widths: tuple[int, int]) -> dict[str, nn.Module]:
    return {letter: nn.Linear(*ends) for letter, ends in zip("abcdefg", widths, strict=False)}


def convolutions(norm: nn.Module | None = None) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {
        "a": nn.Conv2d(3, N, 3, padding=1),
        "b": nn.Conv2d(N, N, 3, stride=2, padding=1, groups=2),
        "c": nn.Conv2d(N, N, 1, bias=False),
        "d": nn.Linear(N, 10),
    }
    return parts if norm is None else parts | {"norm": norm, "norm_b": type(norm)(N)}


def residual(m: Any, x: Tensor) -> Any:
    x = m["norm"](m["a"](x)).relu()
    x = F.relu(m["norm_b"](m["b"](x)) + 0.5 * m["c"](F.avg_pool2d(x, 2)), inplace=True)
    return m["d"](F.adaptive_avg_pool2d(x, 1).flatten(1))


def heads(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-1], 4, x.shape[-1] // 4).transpose(1, 2)


def eager(m: Any, x: Tensor) -> Any:
    x = m["a"](x)
    q, k, v = heads(m["b"](x)), heads(m["c"](x)), heads(m["d"](x))
    shares = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return m["e"]((shares @ v).transpose(1, 2).flatten(2)) + x


def fused(m: Any, x: Tensor) -> Any:
    x = m["a"](x)
    q, k, v = m["b"](x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return m["e"](y.transpose(1, 2).flatten(2)) + x


def tokens(m: Any, x: Tensor) -> Any:
    x = torch.cat([m["a"](x), m["a_first"].weight.expand(len(x), 1, -1)], 1) + m["a_places"].weight
    return m["norm"](x + m["c"](F.gelu(m["b"](m["norm"](x)))))[:, -1]


def turned(m: Any, x: Tensor) -> Any:
    y = torch.addmm(m["a"].bias, x, m["a"].weight.T).view(-1, 2, N // 2)
    first, second = y.chunk(2, -1)
    turns = torch.linspace(0, 1, N // 2)
    z = y * turns.cos() + torch.cat([-second, first], -1) * turns.sin()
    return m["b"](z.flatten(1).tanh())


def chain(*names: str, phi: Callable[[Tensor], Tensor]) -> Forward:
    def run(m: Any, x: Tensor) -> Any:
        for name in names:
            x = phi(m[name](x))
        return x

    return run


THREE = ((20, N), (N, N), (N, N))
QKV = ((12, N), (N, N), (N, N), (N, N), (N, N))
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "relu": (lambda: Net(linears(*THREE), chain("a", "b", "c", phi=F.relu)), data(12, 20)),
    "tanh": (lambda: Net(linears(*THREE), chain("a", "b", "c", phi=torch.tanh)), data(12, 20)),
    "sum with its own function": (
        lambda: Net(linears(*THREE), lambda m, x: m["c"](F.silu(y := m["a"](x)) - 0.5 * y)),
        data(12, 20),
    ),
    "gate": (
        lambda: Net(
            linears((20, N), (N, 2 * N), (N, N)), lambda m, x: m["c"](F.glu(m["b"](m["a"](x))))
        ),
        data(12, 20),
    ),
    "turned halves": (lambda: Net(linears((20, N), (N, N)), turned), data(12, 20)),
    "scaled branch": (
        lambda: Net(
            linears(*THREE), lambda m, x: (y := m["a"](x)) + 0.5 * m["c"](m["b"](y).relu())
        ),
        data(12, 20),
    ),
    "norm behind a function": (
        lambda: Net(
            linears(*THREE) | {"norm": nn.LayerNorm(N)},
            lambda m, x: m["c"](m["norm"](m["b"](m["a"](x)).relu()) * 2 + 1),
        ),
        data(12, 20),
    ),
    "dropout": (
        lambda: Net(linears(*THREE), lambda m, x: m["c"](F.dropout(m["b"](m["a"](x)).relu(), 0.3))),
        data(12, 20),
    ),
    "mean over positions": (
        lambda: Net(linears((12, N), (N, N)), lambda m, x: m["b"](m["a"](x).relu().mean(1))),
        data(4, 6, 12),
    ),
    "max pool and flatten": (
        lambda: Net(
            {"a": nn.Conv2d(3, N, 3), "b": nn.Linear(9 * N, N)},
            lambda m, x: m["b"](F.max_pool2d(m["a"](x), 2).tanh().flatten(1)),
        ),
        data(4, 3, 8, 8),
    ),
    "residual, batch norm": (
        lambda: Net(convolutions(nn.BatchNorm2d(N)), residual).train(),
        data(4, 3, 6, 6),
    ),
    "residual, running statistics": (
        lambda: Net(convolutions(nn.BatchNorm2d(N)), residual).eval(),
        data(4, 3, 6, 6),
    ),
    "attention": (lambda: Net(linears(*QKV), eager), data(4, 6, 12)),
    "fused causal attention": (
        lambda: Net(linears((12, N), (N, 3 * N)) | {"e": nn.Linear(N, N)}, fused),
        data(4, 6, 12),
    ),
    "tokens": (
        lambda: Net(
            linears((12, N), (N, 2 * N), (2 * N, N))
            | {"a_first": nn.Embedding(1, N), "a_places": nn.Embedding(7, N)}
            | {"norm": nn.LayerNorm(N)},
            tokens,
        ),
        data(4, 6, 12),
    ),
}


def compared(make: Callable[[], nn.Module], x: Any, redraws: int) -> pd.DataFrame:
    """The prediction beside the mean over redraws and its standard error."""
    predicted = ist.predict_model(drawn(make(), 1000, exact=True), x, backward=True)
    redrawn = [
        ist.measure(drawn(make(), seed), x, backward=True, weights=False) for seed in range(redraws)
    ]
    places = [["second_moment", "sample_correlation"]] * redraws
    found = np.stack([t[p].to_numpy() for t, p in zip(redrawn, places, strict=True)])
    measured = redrawn[0][KEYS].assign(
        square=found[..., 0].mean(0),
        error=found[..., 0].std(0) / math.sqrt(redraws),
        # the mean product over the mean square, not the mean of their ratio
        correlation=found.prod(-1).mean(0) / found[..., 0].mean(0),
    )
    return measured.merge(predicted, on=KEYS, how="left", validate="one_to_one")


@pytest.fixture
def few_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few columns, which is fast, and good to some three percent."""
    monkeypatch.setattr(tables, "_ENTRIES", 2**19)


@pytest.mark.usefixtures("few_columns")
@pytest.mark.parametrize("name", CASES)
def test_a_prediction_is_the_mean_over_redraws(name: str) -> None:
    make, x = CASES[name]
    table = compared(make, x, redraws=5)
    assert table["note"].eq("").all(), table["note"].unique()
    off = (table["second_moment"] - table["square"]).abs()
    allowed = 5 * table["error"] + table["square"] * 6 / N
    assert (off <= allowed).all(), table[off > allowed]
    apart = (table["sample_correlation"] - table["correlation"]).abs()
    assert (apart.dropna() < 0.06).all(), table[apart >= 0.06]


@pytest.mark.parametrize("phi", ["relu", "leaky_relu", "gelu", "tanh", "sin"])
def test_kernels_of_functions_are_those_of_theory(phi: str) -> None:
    function = activations.get(phi)
    q, k = 0.7, torch.tensor([-0.5, 0.0, 0.2, 0.6], dtype=torch.float64)
    step = 1e-3
    for each in k:
        kernel = torch.tensor([[q, each], [each, q]], dtype=torch.float64)
        found = Response(function, kernel)
        expected = product_moment(function, q, float(each))
        assert float(found.kernel[0, 1]) == pytest.approx(expected, abs=1e-4)
        sides = [product_moment(function, q, float(each) + s) for s in (-step, step)]
        slope = (sides[1] - sides[0]) / (2 * step)
        assert float(found.slopes[0, 1]) == pytest.approx(slope, abs=2e-2)
        assert float(found.kernel[0, 0]) == pytest.approx(product_moment(function, q, q), rel=1e-4)


def test_products_of_data_and_the_last_gradient_are_exact() -> None:
    x = data(5, 20)
    model = drawn(nn.Linear(20, 30), 0, exact=True)
    (row, gradient) = ist.predict_model(model, x, backward=True).iloc[1:].itertuples()
    kernel = GAIN**2 * (x @ x.T).double() / 20 + BIAS**2
    q = float(kernel.diagonal().mean())
    off = float((kernel.sum() - kernel.trace()) / 20)
    assert row.second_moment == pytest.approx(q, rel=1e-5)
    assert row.sample_correlation == pytest.approx(off / q, rel=1e-5)
    assert (row.claim, gradient.claim) == ("exact", "exact")
    measured = ist.measure(model, x, backward=True)
    measured = measured[(measured["direction"] == "backward") & (measured["tensor"] != "weight")]
    assert gradient.second_moment == pytest.approx(float(measured["second_moment"].iloc[0]))


def test_attention_without_queries_is_the_mean_of_the_values() -> None:
    model = Net(linears(*QKV), eager)
    drawn(model, 0, exact=True)
    with torch.no_grad():
        for name in "bc":
            for p in model.parts[name].parameters():
                p.zero_()
    x = data(4, 6, 12)
    table = ist.predict_model(model, x).set_index("op")
    first = GAIN**2 * torch.einsum("btd,bsd->bts", x, x).double() / 12 + BIAS**2
    values = GAIN**2 * first.mean((1, 2)).mean() + BIAS**2
    shared = table.loc["matmul"].iloc[-1]["second_moment"]
    assert shared == pytest.approx(float(values), rel=0.03)


def weights_twice(m: Any, x: Tensor) -> Any:
    return m["b"](m["b"](m["a"](x)).tanh())


def written_to(m: Any, x: Tensor) -> Any:
    y = m["a"](x)
    y[:, :3] = 0
    return m["b"](y)


def half_written_to(m: Any, x: Tensor) -> Any:
    y = m["a"](x)
    y[:, :3].mul_(2)
    return m["b"](y)


UNKNOWN: dict[str, tuple[Forward, str]] = {
    "weights twice": (weights_twice, "used more than once"),
    "written to": (written_to, "writes to a tensor"),
    "a part written to": (half_written_to, "same memory was written to"),
    "computed weights": (
        lambda m, x: F.linear(m["a"](x), m["b"].weight * 2),
        "computed from other weights",
    ),
    "random numbers": (lambda m, x: m["b"](m["a"](x) + torch.randn(6, N)), "random numbers"),
    "chosen by a signal": (lambda m, x: m["b"](m["a"](x).sort(1).values), "not known"),
    "other units": (lambda m, x: m["b"](m["a"](x) + m["a"](x).flip(1)), "more than once"),
    "units of another order": (
        lambda m, x: m["b"]((y := m["a"](x)) + y.flip(1)),
        "different units",
    ),
    "a copy": (lambda m, x: m["copy"](m["b"](m["a"](x)).tanh()), "is a copy of"),
    "no draw": (lambda m, x: m["same"](m["a"](x)), "is no draw"),
    "recurrent": (lambda m, x: m["b"](m["lstm"](m["a"](x))[0]), "lstm"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown_is_said_and_nothing_is_guessed_behind_it(name: str) -> None:
    run, why = UNKNOWN[name]
    parts = linears((20, N), (N, N)) | {"lstm": nn.LSTM(N, N), "same": (same := nn.Linear(N, N))}
    nn.init.eye_(same.weight)
    model = Net(parts | {"copy": copy.deepcopy(parts["b"])}, run)
    table = ist.predict_model(model, data(6, 20), backward=True)
    last = table[table["layer"] == table["layer"].max()]
    assert last["second_moment"].isna().all()
    assert last["sample_correlation"].isna().all()
    assert last["note"].str.contains(why).all(), last["note"].tolist()
    unknown = table["second_moment"].isna()
    assert (table.loc[unknown, "note"] != "").all()
    assert (table.loc[unknown, "claim"] == "").all()
    assert unknown[table["direction"] == "backward"].all()  # none comes back through it


def test_gradients_of_statistics_are_unknown_and_those_beside_them_known() -> None:
    def run(m: Any, x: Tensor) -> Any:
        y = m["a"](x)
        return m["b"](y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt())

    table = ist.predict_model(Net(linears((20, N), (N, N)), run), data(6, 20), backward=True)
    assert table.loc[table["direction"] == "forward", "second_moment"].notna().all()
    back = table[table["direction"] == "backward"].set_index("op")
    known = back["second_moment"].notna()
    assert known.loc[["linear", "mul"]].all()
    assert not known.drop(["linear", "mul"]).any()
    assert "a number that all units share" in str(back.loc["rsqrt", "note"])


def test_what_leads_nowhere_takes_no_gradient_away() -> None:
    def run(m: Any, x: Tensor) -> Any:
        y = m["a"](x)
        y.sort(1)
        return m["b"](y) + m["c"](y.detach())

    model = Net(linears(*THREE), run)
    back = ist.predict_model(model, data(6, 20), backward=True).query("direction == 'backward'")
    known = back[back["op"] != "sort"]
    assert known["second_moment"].notna().all()
    plain = Net({name: model.parts[name] for name in "ab"}, lambda m, x: m["b"](m["a"](x)))
    alone = ist.predict_model(plain, data(6, 20), backward=True).query("direction == 'backward'")
    assert known["second_moment"].iloc[0] == pytest.approx(alone["second_moment"].iloc[0])


class Doubled(torch.autograd.Function):
    """An operation with a way back of its own."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient


def test_ways_back_that_are_not_seen_are_unknown() -> None:
    def run(m: Any, x: Tensor) -> Any:
        doubled: Tensor = Doubled.apply(m["b"](y := m["a"](x)))  # type: ignore[no-untyped-call]
        return m["c"](doubled + y)

    table = ist.predict_model(Net(linears(*THREE), run), data(6, 20), backward=True)
    assert table.loc[table["direction"] == "forward", "second_moment"].notna().all()
    before = table[(table["direction"] == "backward") & (table["op"] == "linear")]
    assert before["second_moment"].isna().tolist() == [True, True, False]
    assert before["note"].iloc[1] == "a gradient comes back to it on a way that is not seen"


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.Linear(3, 2), torch.zeros(0, 3)),
        (nn.Linear(3, 2), torch.full((4, 3), math.nan)),
        (nn.Linear(3, 2), torch.ones(3)),
        (nn.Linear(3, 2).bfloat16(), torch.ones(4, 3, dtype=torch.bfloat16)),
        (nn.Linear(3, 2, dtype=torch.complex64), torch.ones(4, 3, dtype=torch.complex64)),
        (nn.Identity(), torch.ones(4, 3)),
        (nn.Linear(3, 2).requires_grad_(False), torch.ones(4, 3)),
        (nn.Conv2d(1, 2, 3), torch.ones(2, 1, 64, 64)),
        (nn.Sequential(nn.Flatten(0), nn.Linear(12, 1)), torch.ones(4, 3)),
    ],
)
def test_odd_models_are_no_trouble(model: nn.Module, x: Tensor) -> None:
    table = ist.predict_model(model, x, backward=True)
    assert (table.loc[table["second_moment"].isna(), "note"] != "").all()


def test_a_deep_model_is_followed() -> None:
    layers = [part for _ in range(60) for part in (nn.Linear(8, 8), nn.Tanh())]
    table = ist.predict_model(nn.Sequential(*layers), data(3, 8), backward=True)
    assert table["second_moment"].notna().all()


def test_a_prediction_leaves_no_trace_and_is_the_same_again() -> None:
    model = CASES["residual, batch norm"][0]()
    x = CASES["residual, batch norm"][1]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    one, other = (ist.predict_model(model, x, backward=True) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    pd.testing.assert_frame_equal(one, other)


def test_an_init_gives_the_law() -> None:
    x = data(6, 20)
    model = Net(linears(*THREE), chain("a", "b", phi=F.relu))
    table = ist.predict_model(model, x, "matched")
    squares = table.query("op == 'linear'")["second_moment"].tolist()
    q = float(x.square().mean())
    assert squares == pytest.approx([q, q])  # the gain of what a layer reads
    xavier = ist.predict_model(model, x, inits.get("xavier_normal"))
    first = xavier.query("op == 'linear'")["second_moment"].iloc[0]
    assert first == pytest.approx(2 * 20 / (20 + N) * q)
    with pytest.raises(ValueError, match="fitted to data"):
        ist.predict_model(model, x, "lsuv")
    with pytest.raises(ValueError, match="unknown init"):
        ist.predict_model(model, x, "kaiming")


def test_rows_that_measure_has_not_are_none() -> None:
    make, x = CASES["fused causal attention"]
    predicted = ist.predict_model(make(), x, backward=True)
    measured = ist.measure(make(), x, backward=True, weights=False)
    pairs = [set(t[KEYS].astype(str).itertuples(index=False)) for t in (predicted, measured)]
    assert pairs[0] == pairs[1]


def test_what_is_laid_beside_theory_is_a_ratio() -> None:
    keys = {"name": "a", "tensor": "activation", "direction": "forward", "sample_correlation": 0.5}
    table = pd.DataFrame(
        [
            {**keys, "layer": layer, "op": "relu", "second_moment": moment}
            for layer, moment in ((1, 3.0), (2, 0.0), (3, 0.1), (5, 1.0))
        ]
    )
    predicted = pd.DataFrame(
        [
            {**keys, "layer": layer, "op": "relu", "second_moment": moment, "claim": "", "note": ""}
            for layer, moment in ((1, 2.0), (2, 0.0), (3, 1.0), (4, 1.0), (5, math.nan))
        ]
    )
    rows = beside(table, predicted)
    assert rows["layer"].tolist() == [1, 2, 3, 4, 5]
    assert rows["ratio"].tolist() == pytest.approx([1.5, 1.0, 0.1, math.nan, math.nan], nan_ok=True)
    assert rows["measured"].tolist() == pytest.approx([3, 0, 0.1, math.nan, 1], nan_ok=True)
    assert farthest(rows, 2)["layer"].tolist() == [3, 1]


@pytest.mark.parametrize(
    "norm",
    [
        *(nn.LayerNorm(32), nn.LayerNorm(32, elementwise_affine=False), nn.RMSNorm(32)),
        *(nn.BatchNorm1d(32), nn.BatchNorm1d(32).eval(), nn.GroupNorm(4, 32)),
    ],
    ids=repr,
)
def test_a_model_that_begins_with_a_norm(norm: nn.Module) -> None:
    """What it makes of data is known as exactly as the data."""
    parts = {"norm": norm, "a": nn.Linear(32, 64), "b": nn.Linear(64, 32)}
    net = Net(parts, lambda p, x: x + p["b"](p["a"](p["norm"](x)).relu()))
    x = data(N, 32) * torch.linspace(0.2, 3, N)[:, None] + 0.5
    predicted = ist.predict_model(net, x)
    seeds = range(10, 18)  # 3 would draw the data
    drawn_anew = [ist.measure(drawn(copy.deepcopy(net), seed, exact=True), x) for seed in seeds]
    init = ist.predict_model(drawn(copy.deepcopy(net), 0, exact=True), x)
    assert predicted["second_moment"].notna().all(), predicted.to_string()
    forward = init[init["direction"] == "forward"]
    means = pd.concat(drawn_anew).groupby(KEYS)["second_moment"].mean()
    ratio = means.reindex(pd.MultiIndex.from_frame(forward[KEYS])).to_numpy()
    ratio = ratio / forward["second_moment"].to_numpy()
    assert np.abs(ratio - 1).max() < 0.1, forward.assign(ratio=ratio).to_string()
    first = forward[forward["op"].str.contains("norm")]["second_moment"].item()
    with torch.no_grad():
        assert first == pytest.approx(norm(x).square().mean().item(), rel=1e-5)


def test_a_norm_of_data_with_drawn_gains_is_not_taken_for_data() -> None:
    norm = nn.LayerNorm(32)
    nn.init.normal_(norm.weight)
    table = ist.predict_model(nn.Sequential(norm, nn.Linear(32, 32)), data(N, 32))
    assert table[table["op"] == "layer_norm"]["second_moment"].isna().all()
