"""Remedies are applied to the model that got them, and what they name is measured again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import initstats as ist

Function = Callable[[Tensor], Tensor]


class Chain(nn.Module):
    """Linear layers at torch's default, each with a function behind it but for the last."""

    def __init__(
        self, function: Function, *, depth: int = 4, width: int = 64, inputs: int = 2
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [inputs] + [width] * depth
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.out = nn.Linear(width, 8)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.function(layer(x))
        out: Tensor = self.out(x)
        return out


def inputs(width: int = 2, count: int = 256) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def remedy(model: nn.Module, x: Tensor, rule: str) -> str:
    found = ist.diagnose(ist.measure(model, x, backward=True))
    return str(found.loc[found["rule"] == rule, "remedy"].iloc[0])


def apply(code: str, model: nn.Module, x: Tensor) -> None:
    exec(code, {"model": model, "x": x, "nn": nn, "math": math, "initstats": ist})


@pytest.mark.parametrize(
    ("function", "factor"),
    [
        (lambda z: torch.sin(30 * z), 30),
        (lambda z: (10 * z).cos(), 10),
        (lambda z: torch.sin(F.dropout(30 * z, 0.0)), 30),
        (lambda z: torch.tanh(z / 0.02), 50),
        (torch.sin, 1),
        (lambda z: F.softplus(30 * z) / 30, 1),
        (lambda z: F.relu(4 * z) / 4, 1),
    ],
)
def test_weights_are_drawn_smaller_by_the_factor_behind_them(
    function: Function, factor: float
) -> None:
    """What is multiplied by the factor is then as large as what an activation alone would get."""
    model, x = Chain(function), inputs()
    table = ist.measure(model, x, backward=True)
    assert table["factor"].max() == pytest.approx(factor)
    periodic = factor > 1 and math.isnan(table["high"].max())
    code = remedy(model, x, "default_init")
    # the first weights are the frequencies, of their own size
    assert ("layers.0" in code) == (not periodic)
    apply(code, model, x)
    gain = table["gain"][table["name"].eq("Chain")].iloc[-1]
    for layer in [m for m in model.layers[1:] if isinstance(m, nn.Linear)]:
        wanted = gain / factor / math.sqrt(64)
        assert layer.weight.std().item() == pytest.approx(wanted, rel=0.05)
    assert model.out.weight.std().item() == pytest.approx(gain / math.sqrt(64), rel=0.1)


@pytest.mark.parametrize("factor", [1e-3, 0.05, 1000.0])
@pytest.mark.parametrize(
    ("function", "gain"),
    [
        (lambda z, c: c * F.relu(z), math.sqrt(2)),
        (lambda z, c: F.relu(c * z), math.sqrt(2)),
        (lambda z, c: F.layer_norm(F.relu(z), (64,)) * c, 1.0),
        (lambda z, c: c * (c * F.relu(z)) / c, math.sqrt(2)),
        (lambda z, c: torch.tanh(z) * c, ist.gain("tanh").forward),
    ],
)
def test_no_gain_is_proposed_that_makes_up_for_a_constant(
    function: Callable[[Tensor, float], Tensor], gain: float, factor: float
) -> None:
    model, x = Chain(lambda z: function(z, factor), depth=1, inputs=32), inputs(32)
    code = remedy(model, x, "default_init")
    proposed = [float(number) for number in re.findall(r"std=([\d.e+-]+) / math", code)]
    assert proposed == pytest.approx([1.0, gain], rel=1e-3)


def test_a_gain_of_an_activation_counts_with_its_own_factor() -> None:
    """A factor that no activation is further from than another is part of the function."""
    model, x = Chain(lambda z: 0.5 * F.relu(z), inputs=32), inputs(32)
    assert f"std={2 * math.sqrt(2):.5g} / math" in remedy(model, x, "default_init")


class Gated(nn.Module):
    """A product of a layer's output and some gate of it."""

    def __init__(self, gate: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.out, self.gate = nn.Linear(16, 32), nn.Linear(32, 8), gate

    def forward(self, x: Tensor) -> Tensor:
        z = self.read(x)
        made: Tensor = self.out(z * self.gate(z))
        return made


def test_a_share_of_itself_is_not_called_zero() -> None:
    """The gate of one chosen expert is 1, however large its score is."""

    def chosen(z: Tensor) -> Tensor:
        top = z[:, :4].softmax(-1).topk(1, -1).values
        return top / top.sum(-1, keepdim=True)

    text = remedy(Gated(chosen), inputs(16), "dead_units")
    assert text.startswith("it is 1 whatever it reads")


def test_a_factor_of_zero_is_named() -> None:
    found = remedy(Gated(lambda _: torch.tensor(0.0)), inputs(16), "dead_units")
    assert found == "leave the factor out: it is 0"


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_one_remedy_ends_dead_units_of_default_biases(seed: int, groups: int) -> None:
    """Without the first of these biases the signal behind is smaller, and others outweigh it."""
    torch.manual_seed(seed)
    width = 8 * math.isqrt(groups)
    layers = [nn.Conv2d(width, width, 3, padding=1, groups=groups) for _ in range(8)]
    model = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))
    x = torch.randn(8, width, 10, 10)
    found = ist.diagnose(ist.measure(model, x))
    told = found[(found["rule"] == "dead_units") & (found["severity"] <= "warning")]
    for code in told["remedy"]:
        apply(code, model, x)
    again = ist.diagnose(ist.measure(model, x))
    grave = again["rule"][again["severity"] <= "warning"].eq("dead_units").any()
    assert not grave


class Placed(nn.Module):
    """Embedded tokens to which something much larger is added."""

    def __init__(self, *, learned: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.out = nn.Embedding(50, 32), nn.Linear(32, 8)
        self.mix, pos = nn.Linear(32, 32), 100 * torch.randn(1, 12, 32)
        if learned:
            self.pos = nn.Parameter(pos)
        else:
            self.register_buffer("pos", pos)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.out(self.mix(self.tokens(ids) + self.pos).relu())
        return out


@pytest.mark.parametrize("learned", [True, False])
def test_what_is_added_is_named(learned: bool) -> None:
    model, ids = Placed(learned=learned), torch.arange(96).reshape(8, 12) % 50
    code = remedy(model, ids, "scale_jump")
    assert "factor" not in code
    if learned:
        apply(code, model, ids)
        found = ist.diagnose(ist.measure(model, ids, backward=True))
        assert not found["rule"][found["severity"] <= "warning"].eq("scale_jump").any()
    else:
        assert code.startswith("give both terms")


def deep(activation: type[nn.Module], *, normalized: bool = False) -> nn.Sequential:
    """Ten layers at the gain of what each reads."""
    torch.manual_seed(0)
    model, gain = nn.Sequential(), 1.0
    for _ in range(10):
        layer = nn.Linear(64, 64)
        nn.init.normal_(layer.weight, std=gain / 8)
        nn.init.zeros_(layer.bias)
        model.extend([layer, *([nn.BatchNorm1d(64)] if normalized else []), activation()])
        gain = ist.gain(activation()).forward
    return model.append(nn.Linear(64, 64))


def signal_faults(model: nn.Module) -> dict[str, str]:
    found = ist.diagnose(ist.measure(model, inputs(64), backward=True))
    found = found[(found["severity"] <= "warning") & found["rule"].isin(["gradient", "collapse"])]
    return dict(zip(found["rule"], found["remedy"], strict=True))


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Softplus, nn.Hardsigmoid])
def test_an_activation_far_from_zero_is_replaced(activation: type[nn.Module]) -> None:
    """Either of the two things that the remedy says ends the fault."""
    told = signal_faults(deep(activation))
    assert set(told) == {"gradient", "collapse"}
    name = activation.__name__.lower()
    for text in told.values():
        assert text.startswith(f"replace {name} ")
        assert "BatchNorm" in text
        assert "tanh" in text
    assert not signal_faults(deep(activation, normalized=True))
    assert not signal_faults(deep(nn.Tanh))
