"""What a model has on purpose is left, and why it says so; what is a mistake is repaired."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initstats import lsuv_, reinitialize_
from initstats.repair import reasons
from initstats.repair.keeping import Kept

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Run = Callable[[Any, Tensor], Any]


class Model(nn.Module):
    """Parts by name, and a function of them."""

    def __init__(self, run: Run, **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def linear(inputs: int = 16, units: int = 16) -> nn.Linear:
    return nn.Linear(inputs, units)


def zero(layer: Any) -> Any:
    """A layer of zeros."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def adapted(model: Any, x: Tensor) -> Tensor:
    y: Tensor = model.head(F.relu(model.fc(x) + x @ model.a @ model.b))
    return y


def modulated(model: Any, x: Tensor) -> Tensor:
    shift, scale, gate = model.zero(F.silu(x)).chunk(3, -1)
    h = model.fc(x)
    y: Tensor = model.head(h + gate * model.mlp(F.layer_norm(h, (16,)) * (1 + scale) + shift))
    return y


def flow(model: Any, x: Tensor) -> Any:
    total: Any = []
    for net in model.nets:
        a, b = x.chunk(2, -1)
        scale, shift = net(a).chunk(2, -1)
        x = torch.cat([b * torch.exp(torch.tanh(scale)) + shift, a], -1)
        total.append(torch.tanh(scale).sum(-1))
    return x, total


def attends(model: Any, x: Tensor) -> Tensor:
    x = x.view(4, 16, 16)
    y: Tensor = model.fc(F.scaled_dot_product_attention(model.zero(x), model.k(x), model.v(x)))
    return y


def control(model: Any, x: Tensor) -> Tensor:
    h = model.conv(x)
    y: Tensor = model.head(h + model.after(model.zero(h)))
    return y


def coupling(zeros: bool) -> nn.Module:
    last = linear(32, 16)
    return nn.Sequential(linear(8, 32), nn.ReLU(), zero(last) if zeros else last)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.3)


DELIBERATE: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, str]]] = {
    "block": (
        lambda: Model(
            lambda m, x: m.head(m.fc(x) + m.zero(F.relu(m.fc(x)))),
            fc=linear(),
            zero=zero(linear()),
            head=linear(),
        ),
        X,
        {"zero.weight": reasons.ZERO_BRANCH},
    ),
    "head": (
        lambda: nn.Sequential(linear(), nn.ReLU(), zero(linear(16, 3)), nn.Softmax(-1)),
        X,
        {"2.weight": reasons.ZERO_OUTPUT},
    ),
    "low rank": (
        lambda: Model(
            adapted,
            fc=linear(),
            head=linear(),
            a=weight(16, 4),
            b=nn.Parameter(torch.zeros(4, 16)),
        ),
        X,
        {"b": reasons.ZERO_BRANCH},
    ),
    "modulation": (
        lambda: Model(
            modulated, zero=zero(linear(16, 48)), fc=linear(), mlp=linear(), head=linear()
        ),
        X,
        {"zero.weight": reasons.ZERO_BRANCH},
    ),
    "flow": (
        lambda: Model(flow, nets=nn.ModuleList([coupling(True), coupling(True)])),
        X,
        {"nets.0.2.weight": reasons.ZERO_BRANCH, "nets.1.2.weight": reasons.ZERO_OUTPUT},
    ),
    "queries": (
        lambda: Model(attends, zero=zero(linear()), k=linear(), v=linear(), fc=linear()),
        X,
        {"zero.weight": reasons.ZERO_BRANCH},
    ),
    "control": (
        lambda: Model(
            control,
            conv=nn.Conv2d(3, 8, 3),
            zero=zero(nn.Conv2d(8, 8, 1)),
            after=nn.Conv2d(8, 8, 3, padding=1),
            head=nn.Conv2d(8, 3, 1),
        ),
        IMAGE,
        {"zero.weight": reasons.ZERO_BRANCH},
    ),
    "attention": (
        lambda: zero_projection(nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)),
        X.view(4, 16, 16),
        {"self_attn.out_proj.weight": reasons.ZERO_BRANCH, "linear2.weight": reasons.ZERO_OUTPUT},
    ),
}


def zero_projection(layer: Any) -> nn.Module:
    zero(layer.self_attn.out_proj)
    zero(layer.linear2)
    return layer  # type: ignore[no-any-return]


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize("repair", ["lsuv", "matched"])
@pytest.mark.parametrize("name", DELIBERATE)
def test_deliberate_zeros_stay(name: str, repair: str) -> None:
    torch.manual_seed(0)
    build, x, expected = DELIBERATE[name]
    model = build()
    parameters = dict(model.named_parameters())
    table = lsuv_(model, x) if repair == "lsuv" else reinitialize_(model, repair, x)
    said = table.set_index("name")["outcome"]
    for weight_name, reason in expected.items():
        assert said[weight_name] == f"left because {reason}"
        assert not parameters[weight_name].any()
        if (bias := weight_name.replace("weight", "bias")) != weight_name:
            assert said[bias].startswith("left because so is the weight that ")
            assert not parameters[bias].any()
    others = [p for key, p in parameters.items() if p.ndim > 1 and key not in expected]
    assert all(p.any() for p in others)
    if (repair, name) == ("lsuv", "control"):
        assert said["after.weight"] == f"drawn, not scaled because {reasons.FED_ZEROS}"
    if repair == "matched":
        included = reinitialize_(model, repair, x, include=[*expected])
        assert all(p.any() for key, p in parameters.items() if key in expected)
        assert not included["outcome"].str.contains("deliberate").any()


def two_towers(model: Any, x: Tensor) -> Any:
    return model.a(F.relu(model.fc(x))), model.b(F.relu(model.zero(x)))


MISTAKEN: dict[str, Callable[[], nn.Module]] = {
    "middle": lambda: nn.Sequential(linear(), nn.ReLU(), zero(linear()), nn.ReLU(), linear()),
    "first": lambda: nn.Sequential(zero(linear()), nn.Tanh(), linear()),
    "a bias remains": lambda: nn.Sequential(linear(), weightless(linear()), nn.ReLU(), linear()),
    "several": lambda: nn.Sequential(zero(linear()), nn.ReLU(), zero(linear()), linear()),
    "gate": lambda: Model(
        lambda m, x: m.head(m.fc(x) * m.zero(x)), fc=linear(), zero=zero(linear()), head=linear()
    ),
    "tower": lambda: Model(two_towers, fc=linear(), zero=zero(linear()), a=linear(), b=linear()),
}


def weightless(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    return layer


@pytest.mark.parametrize("name", MISTAKEN)
def test_zeros_that_let_nothing_pass_are_repaired(name: str) -> None:
    for repair in (lsuv_, lambda model, x: reinitialize_(model, "matched", x)):
        torch.manual_seed(0)
        model = MISTAKEN[name]()
        table = repair(model, X)
        assert set(table["outcome"]) == {"done"}
        assert all(p.any() for p in model.parameters() if p.ndim > 1)


def test_two_zeros_that_wait_for_each_other_are_parted() -> None:
    a, b = (nn.Parameter(torch.zeros(shape)) for shape in ((16, 4), (4, 16)))
    model = Model(adapted, fc=linear(), head=linear(), a=a, b=b)
    reinitialize_(model, "matched", X)
    assert not a.any()
    assert b.any()


def siren(layers: int = 3, factor: float = 30.0) -> nn.Sequential:
    """Layers as Sitzmann et al. draw them."""
    model, inputs = nn.Sequential(), 2
    for number in range(layers):
        layer = nn.Linear(inputs, 256)
        bound = 1 / inputs if number == 0 else math.sqrt(6 / inputs) / factor
        nn.init.uniform_(layer.weight, -bound, bound)
        model.append(layer).append(Applied(lambda z: torch.sin(factor * z)))
        inputs = 256
    return model.append(nn.Linear(inputs, 1))


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


PLACES = torch.rand(512, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize("repair", ["lsuv", "matched"])
def test_a_siren_stays_one(repair: str) -> None:
    torch.manual_seed(0)
    model = siren()
    first = model[0].weight.detach().clone()  # type: ignore[operator]
    table = lsuv_(model, PLACES) if repair == "lsuv" else reinitialize_(model, "matched", PLACES)
    said = table.set_index("name")["outcome"]
    assert torch.equal(model[0].weight, first)  # type: ignore[arg-type]
    assert said["0.weight"].startswith("left because a periodic function, after a factor of 30,")
    for name in ("2.weight", "4.weight"):
        assert said[name] == "done, as what follows multiplies it by 30 first"
        row = table.set_index("name").loc[name]
        assert row["std_after"] * 30 == pytest.approx(1, abs=0.15)
        # their own bound sqrt(6 / n) / 30 has the gain sqrt(2) of a sine of a wide normal
        own = math.sqrt(2 / 256) / 30
        assert row["weight_std_after"] == pytest.approx(own, rel=0.15)
    table = lsuv_(model, PLACES, include="0")
    assert model[0](PLACES).std().item() * 30 == pytest.approx(1, abs=0.01)


FACTORS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "sin": (lambda z: torch.sin(30 * z), 30),
    "phase": (lambda z: torch.cos((20 * z).add(0.3)), 20),
    "cold tanh": (lambda z: torch.tanh(z / 0.1), 10),
    "warm tanh": (lambda z: torch.tanh(z / 5), 1),
    "soft cap": (lambda z: 30 * torch.tanh(z / 30), 1),
    "sigmoid": (lambda z: torch.sigmoid(-8 * z), 8),
    "hard": (lambda z: F.hardtanh(z * 10), 10),
    "by channel": (lambda z: torch.tanh(z * torch.full((64,), 6.0)), 6),
    "relu": (lambda z: F.relu(3 * z), 1),
    "gelu": (lambda z: F.gelu(30 * z), 1),
    "softplus": (lambda z: F.softplus(30 * z) / 30, 1),
    "beta": (lambda z: F.softplus(z, beta=30), 1),
    "swish": (lambda z: z * torch.sigmoid(30 * z), 1),
    "general relu": (lambda z: (F.leaky_relu(z, 0.1) - 0.4).clamp_max(6), 1),
    "far off": (lambda z: torch.sigmoid((z - 2) / 0.1), 1),
    "linear": (lambda z: 30 * z, 1),
    "normed": (lambda z: torch.tanh(F.layer_norm(10 * z, (64,))), 1),
    "logits": (lambda z: torch.softmax(z / 0.07, -1), 1),
}


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("name", FACTORS)
def test_a_factor_counts_where_it_makes_a_function_steep(name: str) -> None:
    function, factor = FACTORS[name]
    torch.manual_seed(0)
    model = nn.Sequential(linear(), linear(16, 64), Applied(function), linear(64, 64))
    table = lsuv_(model, X).set_index("name")
    assert model[:2](X).std().item() == pytest.approx(1 / factor, rel=0.01)
    counted = f"done, as what follows multiplies it by {factor:g} first"
    assert table.loc["1.weight", "outcome"] == (counted if factor > 1 else "done")
    table = reinitialize_(model, "matched", X).set_index("name")
    assert table.loc["1.weight", "weight_std_after"] == pytest.approx(0.25 / factor, rel=0.1)
    square = function(torch.randn(2000, 64) / factor).square().mean().item()
    gain = 1.0 if name == "logits" else square**-0.5
    assert table.loc["3.weight", "gain"] == pytest.approx(gain, rel=0.02)
    if name == "sin":
        table = reinitialize_(model, "normal(std=0.2)", X).set_index("name")  # as it is asked for
        assert table.loc["1.weight", "weight_std_after"] == pytest.approx(0.2, rel=0.1)


def test_what_multiplies_queries_is_no_factor() -> None:
    def run(model: Any, x: Tensor) -> Tensor:
        x = x.view(4, 16, 16)
        scores = (model.q(x) * 8) @ model.k(x).transpose(1, 2)
        y: Tensor = torch.softmax(scores / 4, -1) @ x
        return y

    model = Model(run, q=linear(), k=linear())
    lsuv_(model, X)
    assert model.get_submodule("q")(X.view(4, 16, 16)).std().item() == pytest.approx(1, abs=0.01)


def test_frequencies_are_left_only_before_the_first_layer_and_where_they_are_high() -> None:
    torch.manual_seed(0)

    def run(model: Any, x: Tensor) -> Tensor:
        phases = 2 * math.pi * (x @ model.features)
        y: Tensor = model.fc(torch.cat([torch.sin(phases), torch.cos(phases)], -1))
        return y

    learned = Model(run, features=nn.Parameter(torch.randn(2, 32) * 5), fc=linear(64))
    said = lsuv_(learned, PLACES).set_index("name")["outcome"]
    assert said["features"].startswith("left because a periodic function, after a factor of 6.28")
    sines = nn.Sequential(linear(), Applied(torch.sin), linear(), Applied(torch.sin), linear())
    assert set(lsuv_(sines, X)["outcome"]) == {"done"}  # torch's own scale says nothing


@pytest.mark.parametrize("bias", [True, False])
def test_a_tied_weight_is_fitted_where_it_is_read_and_where_it_is_used(bias: bool) -> None:
    """Half of a correction in the logarithm is all of it, where a weight is met twice."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 60, (16, 10))
    embed = nn.Embedding(60, 32, padding_idx=3)
    head = nn.Linear(32, 60, bias=bias)
    head.weight = embed.weight
    model = Model(lambda m, x: m.head(m.embed(x)), embed=embed, head=head)
    table = lsuv_(model, tokens).set_index("name")
    assert table.loc["embed.weight", "outcome"] == "done, tied to head.weight"
    assert model(tokens).std().item() == pytest.approx(1, abs=0.01)
    assert not embed.weight[3].any()


@pytest.mark.parametrize(
    "layer", [nn.LSTM(16, 8, 2), nn.GRU(16, 8), nn.RNN(16, 8), nn.GRUCell(16, 8)]
)
def test_a_recurrent_layer_is_not_called_scaled(layer: nn.Module) -> None:
    said = lsuv_(layer, X).set_index("name")["outcome"]
    for name, outcome in said.items():
        drawn = f"drawn, not scaled because {reasons.curved(type(layer).__name__.lower())[:3]}"
        assert outcome.startswith(drawn) if "weight" in str(name) else outcome == "done"
    before = [p.detach().clone() for p in layer.parameters()]
    said = lsuv_(layer, X, orthogonal=False)["outcome"]
    assert said.str.startswith("left because ").all()
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), before, strict=True))


def test_every_bias_of_a_shared_weight_is_set() -> None:
    a, b = linear(), linear()
    b.weight = a.weight
    said = lsuv_(nn.Sequential(a, nn.ReLU(), b), X).set_index("name")["outcome"]
    assert said["2.bias"] == "done"
    assert not b.bias.any()


def test_reasons_name_the_operation() -> None:
    bag = nn.Sequential(nn.EmbeddingBag(50, 16), linear())
    said = lsuv_(bag, torch.randint(0, 50, (16, 10))).set_index("name")["outcome"]
    assert said["0.weight"] == f"left because {reasons.looks_up('embedding_bag')}"
    Kept(nn.Linear(4, 4, device="meta")).put_back()  # there is nothing to compare


def film(model: Any, x: Tensor) -> Tensor:
    scale, shift = F.linear(x, model.w, model.b).chunk(2, -1)
    return model.head(x * scale + shift)  # type: ignore[no-any-return]


def packed(model: Any, x: Tensor) -> Tensor:
    q, k, v = F.linear(x, model.w).chunk(3, -1)
    return model.head(x + (q @ k.mT).softmax(-1) @ v)  # type: ignore[no-any-return]


def sparse_row(p: nn.Parameter, part: Any) -> nn.Parameter:
    p.data[part] = 0
    return p


PARTLY: dict[str, tuple[Callable[[], nn.Module], Tensor, str, Any, str]] = {
    "values": (
        lambda: Model(packed, w=sparse_row(weight(48, 16), slice(32, 48)), head=linear()),
        X.view(4, 16, 16),
        "w",
        slice(32, 48),
        "16 of 48 units",
    ),
    "scale": (
        lambda: Model(
            film,
            w=sparse_row(weight(32, 16), slice(16)),
            b=nn.Parameter(torch.ones(32)),
            head=linear(),
        ),
        X,
        "w",
        slice(16),
        "16 of 32 units",
    ),
    "gate": (
        lambda: Model(lambda m, x: m.head(m.r(x)[0]), r=nn.LSTM(16, 8), head=linear(8)),
        X.view(4, 16, 16),
        "r.weight_hh_l0",
        slice(8, 16),
        "8 of 32 units",
    ),
    "expert": (
        lambda: Model(
            lambda m, x: torch.einsum("bi,eio->beo", x, m.w), w=sparse_row(weight(4, 16, 9), 2)
        ),
        X,
        "w",
        2,
        "9 of 36 units",
    ),
    "channels": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 4, 2, groups=1), nn.ReLU()),
        IMAGE,
        "0.weight",
        (slice(None), slice(2, 5)),
        "3 of 8 units",
    ),
    "added inputs": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        IMAGE,
        "0.weight",
        (slice(None), 1),
        "1 of 3 inputs",
    ),
}


@pytest.mark.parametrize("repair", ["lsuv", "torch_default"])
@pytest.mark.parametrize("name", PARTLY)
def test_the_part_of_a_weight_that_is_zero_stays(name: str, repair: str) -> None:
    torch.manual_seed(0)
    build, x, key, part, words = PARTLY[name]
    model = build()
    w = model.get_parameter(key)
    w.data[part] = 0
    others = w.data != 0
    biases = [p.detach().clone() for p in model.parameters() if p.shape == (32,)]
    said = (lsuv_(model, x) if repair == "lsuv" else reinitialize_(model, repair, x)).set_index(
        "name"
    )["outcome"]
    assert f", but for {words} of zeros, which look deliberate" in said[key]
    assert torch.equal(w != 0, others)
    if name == "scale":  # and so do their biases
        after = [p for p in model.parameters() if p.shape == (32,)]
        assert torch.equal(after[0][part], biases[0][part])
        assert not torch.equal(after[0], biases[0])
    reinitialize_(model, "normal(std=0.1)", x, include=key)
    assert w.all()


@pytest.mark.parametrize("spoil", ["identity", "sparse"])
def test_zeros_that_are_no_part_are_drawn(spoil: str) -> None:
    layer = linear(16, 8)
    if spoil == "identity":
        nn.init.eye_(layer.weight)
    else:
        nn.init.sparse_(layer.weight, 0.5)
        layer.weight.data[3] = 0
    table = lsuv_(nn.Sequential(layer, nn.ReLU()), X)
    assert set(table["outcome"]) == {"done"}
    assert layer.weight.all()


def test_a_part_of_zeros_that_lets_nothing_pass_is_drawn() -> None:
    torch.manual_seed(0)
    model = Model(
        lambda m, x: m.head(F.linear(x, m.w).chunk(2, -1)[1]),
        w=sparse_row(weight(32, 16), slice(16, 32)),
        head=linear(),
    )
    assert set(lsuv_(model, X)["outcome"]) == {"done"}
    assert model.get_parameter("w").all()
