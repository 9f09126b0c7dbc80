"""Faults of single weights: the other fan, zeros that stay, two blocks, experts, memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initstats as ist

SIZES = [(784, 256), (256, 256), (256, 128), (128, 10)]


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def faults(model: nn.Module, x: Any = None, *severities: str) -> list[tuple[str, str]]:
    found = ist.audit(model, x).findings
    kept = found[found["severity"].isin(severities or ("error", "warning"))]
    return [(str(row.rule), str(row.where)) for row in kept.itertuples()]


def dense(mode: Any = "fan_in") -> nn.ModuleList:
    layers = [nn.Linear(*sizes) for sizes in SIZES]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(layers)


class Chain(nn.Module):
    """A chain of layers with an activation between them, of names that say nothing."""

    def __init__(self, layers: nn.ModuleList, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.layers, self.act = layers, act

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.act(layer(x))
        return last(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_one_layer_of_a_chain_with_the_other_fan(mode: str) -> None:
    other = {"fan_in": "fan_out", "fan_out": "fan_in"}[mode]
    for at in (0, 2):
        model = Chain(dense(mode))
        assert not faults(model)
        layer: Any = model.layers[at]
        nn.init.kaiming_normal_(layer.weight, mode=other, nonlinearity="relu")  # type: ignore[arg-type]
        assert faults(model) == [("wrong_fan", f"layers.{at}.weight")]
        (evidence,) = ist.audit(model).findings.query("rule == 'wrong_fan'")["evidence"]
        ratio = (SIZES[at][0] / SIZES[at][1]) ** (0.5 if mode == "fan_in" else -0.5)
        assert f"{ratio:.3g} times" in evidence


def test_one_scale_for_all_is_no_wrong_fan() -> None:
    """1/sqrt(width) is one fan or the other, from layer to layer."""
    sizes = [(64, 192), (64, 64), (64, 256), (256, 64), (64, 1000)]
    layers = nn.ModuleList(nn.Linear(*each) for each in sizes)
    for layer in layers:
        nn.init.normal_(layer.weight, std=64**-0.5)  # type: ignore[arg-type]
    assert not faults(layers)


def test_one_rule_for_all_is_no_wrong_fan() -> None:
    """torch's fan_out knows no groups: with two of them, sqrt(2/fan_out) is 1/sqrt(fan_out)."""
    sizes = [(8, 16, 1), (16, 32, 1), (24, 48, 1), (10, 30, 1), (30, 10, 1), (32, 16, 2)]
    layers = nn.ModuleList(nn.Conv2d(i, o, 1, groups=groups) for i, o, groups in sizes)
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")  # type: ignore[arg-type]
    assert not faults(layers)


def test_a_block_with_the_other_fan_is_told_why() -> None:
    blocks = [nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)) for _ in range(5)]
    model = nn.Sequential(*blocks)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    left = copy.deepcopy(model)
    second: Any = model.get_submodule("3.2")
    nn.init.kaiming_normal_(second.weight, mode="fan_out", nonlinearity="relu")
    assert faults(model) == [("out_of_line", "3.2.weight")]
    assert "fan_out for fan_in" in str(ist.audit(model).findings["evidence"].iloc[0])
    first: Any = left.get_submodule("1.0")
    first.reset_parameters()
    assert "as torch leaves a Linear" in str(ist.audit(left).findings["evidence"].iloc[0])


def test_a_block_that_was_left_at_torchs_default_is_one_finding() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64)
    model = nn.ModuleList([nn.Linear(9, 32), *(copy.deepcopy(layer) for _ in range(5))])
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
        elif "norm" not in name:
            nn.init.zeros_(parameter)
    assert not faults(model)
    block = model.get_submodule("3")
    for module in block.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    ((rule, where),) = faults(model)
    assert rule == "out_of_line"
    linear = ["self_attn.out_proj", "linear1", "linear2"]
    names = [f"3.{layer}.{which}" for layer in linear for which in ("weight", "bias")]
    assert where == ", ".join(names)
    found = ist.audit(model)
    assert found.named(where) == names
    assert found.findings["remedy"].iloc[0] == "initialize 3 as 1"


class Residual(nn.Module):
    """Branches that end in zeros, before a head of zeros."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), act, nn.Linear(32, 16)) for _ in range(3)
        )
        for block in self.blocks:
            nn.init.zeros_(block[2].weight)  # type: ignore[index]
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Adapted(nn.Module):
    """A layer that does not learn, with LoRA's two beside it (Hu et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down = nn.Linear(8, 8), nn.Linear(8, 2, bias=False)
        self.up, self.unused = nn.Linear(2, 8, bias=False), nn.Linear(4, 4)
        self.base.requires_grad_(False)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.unused.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.base(x) + self.up(self.down(x)))


@pytest.mark.parametrize("act", [nn.GELU(), nn.ReLU(), None])
def test_zeros_that_learn_are_no_fault(act: nn.Module | None) -> None:
    model, x = Residual(act) if act else Adapted(), torch.randn(5, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seed = torch.get_rng_state()
    assert not faults(model, x, "error", "warning", "note")
    assert [rule for rule, _ in faults(model, None, "error", "warning", "note")] == ["zeros"]
    assert torch.equal(seed, torch.get_rng_state())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.requires_grad_(False)  # without a gradient an input tells no more
    assert faults(model, x, "note") == faults(model, None, "note")


@pytest.mark.parametrize("at", [0, 1, 2])
def test_zeros_behind_which_nothing_learns_are_an_error(at: int) -> None:
    layers = dense()
    nn.init.zeros_(layers[at].weight)  # type: ignore[arg-type]
    x = torch.randn(8, 784)
    assert faults(Chain(layers), x) == [("zeros", f"layers.{at}.weight")]
    # tanh has a derivative at 0: the weight moves, and all others after it
    assert not faults(Chain(layers, torch.tanh), x)
    nn.init.zeros_(layers[3].weight)  # type: ignore[arg-type]
    both = f"layers.{at}.weight, layers.3.weight"  # the last one reads zeros
    assert faults(Chain(layers), x) == [("zeros", both)]


def test_two_blocks_that_differ() -> None:
    def blocks(ratio: float) -> nn.Module:
        made = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
        for layer, factor in zip(made, (1, ratio), strict=True):
            nn.init.normal_(layer.weight, std=0.013 * factor)  # type: ignore[arg-type]
        return made

    assert faults(blocks(3)) == [("out_of_line", "0.weight, 1.weight")]
    assert not faults(blocks(1.02))
    assert not faults(blocks(2**-0.5))  # one over the root of the block's number


class Experts(nn.Module):
    """Matrices in one parameter, as mixtures of experts have them."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(8, 12, 16) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 12, 16) * 0.02)
        self.gain = nn.Parameter(torch.ones(5, 1, 1, 1))
        self.mixing = nn.Parameter(torch.ones(3, 4, 4))


def test_experts_that_are_equal_or_empty() -> None:
    model = Experts()
    assert not faults(model)
    with torch.no_grad():
        model.up[3] = model.up[2]
    assert faults(model) == [("equal_units", "up")]
    with torch.no_grad():
        model.up[3] = 0
    assert faults(model) == [("zeros", "up")]


class Scaled(nn.Conv2d):
    """A convolution with a gain for each unit (Brock et al. 2021)."""

    def __init__(self) -> None:
        super().__init__(8, 16, 3)
        self.gain = nn.Parameter(torch.ones(16, 1, 1, 1))


def test_gains_of_units_are_no_equal_weights() -> None:
    assert not faults(Scaled())


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm2d, nn.InstanceNorm1d])
def test_gains_around_0_are_an_error(norm: Any) -> None:
    given = {"affine": True} if norm is nn.InstanceNorm1d else {}
    model = nn.ModuleList(norm(64, **given) for _ in range(3))
    for each in model[1:]:
        nn.init.normal_(each.get_parameter("weight"), 1, 0.02)
    assert not [rule for rule, _ in faults(model) if rule == "gains"]
    assert "undecided, mean 1, std 0.02" in str(ist.audit(model)).replace("normal,", "undecided,")
    for each in model:
        nn.init.normal_(each.get_parameter("weight"), 0, 0.02)
    assert ("gains", "0.weight, 1.weight, 2.weight") in faults(model)
    nn.init.ones_(model[0].get_parameter("weight"))  # so are others, trained, that began at zero
    assert "gains" not in dict(faults(model))


@pytest.mark.parametrize("width", [16, 64, 128])
def test_zeros_are_out_of_line_however_few_entries_the_others_have(width: int) -> None:
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(4)))
    assert not faults(model)
    nn.init.zeros_(model[2].bias)  # type: ignore[arg-type]
    assert faults(model) == [("out_of_line", "2.bias")]
    roles = ist.audit(model).roles.set_index("role")["drawn"]
    assert {*roles["*.bias"].split(" or ")} == {"zeros", *roles["*.bias"].split(" or ")}
    assert "1/sqrt(3 fan_in)" in roles["*.bias"]


class WithTable(nn.Module):
    """A block, which may have a table of its own."""

    def __init__(self, table: bool, std: float = 0.03) -> None:
        super().__init__()
        self.q, self.table = nn.Linear(64, 64), nn.Embedding(32, 4) if table else None
        nn.init.normal_(self.q.weight, std=std)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_block_with_a_parameter_more_is_compared_with_the_others(at: int) -> None:
    table = [index == 0 for index in range(5)]
    assert not faults(nn.ModuleList(WithTable(each) for each in table))
    model = nn.ModuleList(WithTable(one, 0.03 + 0.09 * (n == at)) for n, one in enumerate(table))
    assert faults(model) == [("out_of_line", f"{at}.q.weight")]


def test_memory_of_any_law_is_told_by_its_size() -> None:
    model = nn.LayerNorm(64)
    with torch.no_grad():
        model.weight[::2] = 1e20
    assert faults(model) == [("uninitialized", "weight")]


def test_recurrent_layers_have_scales_of_their_hidden_units() -> None:
    model = nn.ModuleList(
        [nn.LSTM(48, 64, 2, bidirectional=True), nn.GRU(7, 50), nn.RNN(9, 40), nn.LSTMCell(30, 60)]
    )
    table = ist.audit(model).table
    weights = table[table["name"].str.contains("weight")]
    assert len(weights) == 14
    assert {*weights["formula"]} == {"1/sqrt(3 hidden)"}


def test_a_head_left_at_torchs_default_is_a_note() -> None:
    layers = nn.ModuleList([*(nn.Linear(32, 32) for _ in range(5)), nn.Linear(32, 9)])
    for layer in layers[:5]:
        nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
    assert not faults(layers)
    assert faults(layers, None, "note") == [("left_at_default", "5.weight")]
