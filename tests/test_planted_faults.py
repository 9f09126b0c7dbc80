"""Faults that were planted at a known place: each is found there, and its remedy is applied."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import initstats
from initstats.diagnosis import diagnose
from initstats.probe import Probe, measure

WIDTH = 64


class Planted(NamedTuple):
    """A model with a fault, what it reads, and what is to be said about it, and where."""

    model: nn.Module
    x: Any
    rule: str
    where: str
    said: str = ""


FAULTS: dict[str, Callable[[], Planted]] = {}


def fault(build: Callable[[], Planted]) -> Callable[[], Planted]:
    FAULTS[build.__name__] = build
    return build


def batch(samples: int = 128, size: int = WIDTH) -> Tensor:
    return torch.randn(samples, size)


def layer_of(i: int, o: int, gain: float = math.sqrt(2)) -> nn.Linear:
    layer = nn.Linear(i, o)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(i))
    nn.init.zeros_(layer.bias)
    return layer


def dense(
    depth: int = 8, act: type[nn.Module] = nn.ReLU, gain: float = math.sqrt(2)
) -> nn.Sequential:
    model = nn.Sequential(layer_of(WIDTH, WIDTH, 1.0), act())
    for _ in range(depth - 2):
        model.extend([layer_of(WIDTH, WIDTH, gain), act()])
    return model.append(layer_of(WIDTH, 10, gain))


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Residual(nn.Module):
    def __init__(self, branch: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.after = branch, after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(x + self.branch(x))
        return out


@torch.no_grad()
def scale(model: nn.Module, name: str, factor: float) -> None:
    model.get_parameter(name).mul_(factor)


@fault
def factor_after_a_layer() -> Planted:
    model = dense()
    model[6] = nn.Sequential(model[6], Times(100.0))
    return Planted(model, batch(), "scale_jump", "6.1 (mul)", "by 100")


@fault
def divisor_after_a_layer() -> Planted:
    class Divided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 500

    model = dense()
    model[6] = nn.Sequential(model[6], Divided())
    return Planted(model, batch(), "scale_jump", "6.1 (div)", "by 0.002")


@fault
def weights_far_too_small() -> Planted:
    model = dense()
    scale(model, "6.weight", 1e-3)
    return Planted(model, batch(), "scale_jump", "6 (linear)")


@fault
def convolution_far_too_small() -> Planted:
    layers = [m for _ in range(5) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
    model = nn.Sequential(*layers, nn.Conv2d(8, 4, 1))
    scale(model, "4.weight", 1e-3)
    scale(model, "4.bias", 0.0)
    return Planted(model, torch.randn(16, 8, 8, 8), "scale_jump", "4 (conv2d)")


@fault
def weights_far_too_large() -> Planted:
    model = dense()
    scale(model, "8.weight", 10)
    return Planted(model, batch(), "weight_scale", "8", "multiply the rms by 14")


@fault
def several_weights_too_large() -> Planted:
    model = dense(10)
    for index in (4, 6, 8, 14):
        scale(model, f"{index}.weight", 10)
    return Planted(model, batch(), "weight_scale", "4, 6, 8, 14")


@fault
def packed_attention_too_large() -> Planted:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
            self.out = layer_of(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.attend(x, x, x)[0])
            return out

    model = Net()
    scale(model, "attend.in_proj_weight", 20)
    return Planted(model, torch.randn(16, 8, WIDTH), "weight_scale", "attend")


@fault
def experts_too_large() -> Planted:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, 32, WIDTH))
            self.down = nn.Parameter(torch.randn(4, WIDTH, 32) / WIDTH**0.5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.bmm(torch.relu(torch.bmm(x, self.up)), self.down)

    model = nn.Sequential(Experts(), nn.Identity())
    return Planted(model, torch.randn(4, 40, 32), "weight_scale", "0", "multiply the rms by 5.6")


@fault
def weight_norm_too_large() -> Planted:
    model = dense()
    parametrizations.weight_norm(model[6])
    scale(model, "6.parametrizations.weight.original0", 12)
    return Planted(model, batch(), "weight_scale", "6")


@fault
def equalized_too_large() -> Planted:
    class Equalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(20 * torch.randn(WIDTH, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight * WIDTH**-0.5)

    model = nn.Sequential(layer_of(WIDTH, WIDTH, 1), nn.ReLU(), Equalized())
    return Planted(model, batch(), "weight_scale", "2", "multiply the rms by 20")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(300, 256, padding_idx=0), nn.LayerNorm(256)
        self.body, self.head = layer_of(256, 256), nn.Linear(256, 300, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.body(self.embedding(ids))))
        return out


@fault
def tied_embedding_of_unit_std() -> Planted:
    ids = torch.randint(1, 300, (8, 16))
    return Planted(Tied(), ids, "weight_scale", "head", "multiply the rms by 16")


class Denoise(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=1)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(nn.functional.silu(self.norm(x)))
        out: Tensor = x + h * self.factor
        return out


@fault
def factor_in_a_diffusion_block() -> Planted:
    blocks = [Denoise(100.0 if index == 2 else 1.0) for index in range(4)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks, nn.GroupNorm(4, 16))
    return Planted(model, torch.randn(8, 3, 8, 8), "scale_jump", "3 (mul)", "by 100")


@fault
def weights_of_a_block_too_large() -> Planted:
    blocks = [Denoise(1.0) for _ in range(4)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks, nn.GroupNorm(4, 16))
    scale(model, "3.conv.weight", 100)
    return Planted(model, torch.randn(8, 3, 8, 8), "weight_scale", "3.conv")


@fault
def dead_by_bias() -> Planted:
    model = dense()
    nn.init.constant_(model[8].bias, -100.0)  # type: ignore[arg-type]
    return Planted(model, batch(), "dead_units", "9 (relu)", "64 of 64 units (100%)")


@fault
def half_dead_convolution() -> Planted:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU())
    nn.init.constant_(model.get_parameter("0.bias")[:8], -100.0)
    return Planted(model, torch.randn(8, 3, 8, 8), "dead_units", "1 (relu)", "8 of 16 units (50%)")


@fault
def a_layer_of_zeros() -> Planted:
    model = dense()
    nn.init.zeros_(model.get_parameter("6.weight"))
    return Planted(model, batch(), "zero_weights", "6.weight", "back through 7 (relu), 9 (relu)")


@fault
def two_layers_of_zeros() -> Planted:
    model = dense()
    for name in ("6.weight", "8.weight"):
        nn.init.zeros_(model.get_parameter(name))
    return Planted(model, batch(), "zero_weights", "6.weight, 8.weight", "relu has slope 0 there")


@fault
def a_convolution_of_zeros() -> Planted:
    layers = [m for _ in range(4) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    nn.init.zeros_(layers[2].weight)  # type: ignore[arg-type]
    model = nn.Sequential(*layers)
    return Planted(model, torch.randn(16, 8, 8, 8), "zero_weights", "2.weight", "3 (relu)")


@fault
def an_embedding_of_zeros() -> Planted:
    model = nn.Sequential(nn.Embedding(50, WIDTH), layer_of(WIDTH, WIDTH), nn.ReLU())
    model.append(layer_of(WIDTH, 10))
    nn.init.zeros_(model.get_parameter("0.weight"))
    return Planted(model, torch.randint(0, 50, (16, 8)), "zero_weights", "0.weight", "2 (relu)")


@fault
def a_norm_of_zeros() -> Planted:
    parts = [(layer_of(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU()) for _ in range(3)]
    model = nn.Sequential(*[m for part in parts for m in part], layer_of(WIDTH, 4))
    nn.init.zeros_(model.get_parameter("4.weight"))
    return Planted(model, batch(), "zero_weights", "4.weight", "5 (relu)")


@fault
def a_branch_of_zeros() -> Planted:
    blocks = [
        Residual(nn.Sequential(layer_of(WIDTH, WIDTH), nn.ReLU(), layer_of(WIDTH, WIDTH, 0.3)))
        for _ in range(3)
    ]
    nn.init.zeros_(blocks[1].get_parameter("branch.0.weight"))
    model = nn.Sequential(*blocks, layer_of(WIDTH, 4))
    return Planted(model, batch(), "zero_weights", "1.branch.0.weight", "1.branch.1 (relu)")


@fault
def a_factor_of_zero() -> Planted:
    model = dense()
    model[6] = nn.Sequential(model[6], Times(0.0))
    return Planted(model, batch(), "dead_units", "6.1 (mul)", "64 of 64 units (100%)")


@fault
def the_same_input_every_time() -> Planted:
    return Planted(dense(), torch.zeros(64, WIDTH), "dead_units", "0 (input)")


class Unrolled(nn.Module):
    """A cell, step by step; the last state is read."""

    def __init__(self, cell: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.cell, self.head = cell, layer_of(32, 4)
        for parameter in cell.parameters():
            parameter.data.mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        out: Tensor = self.head(state[0] if isinstance(state, tuple) else state)
        return out


class Written(nn.Module):
    """A gated cell that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(32, 64), nn.Linear(32, 64, bias=False)

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        h = torch.zeros(len(x), 32) if h is None else h
        z, n = (self.w(x) + self.u(h)).chunk(2, -1)
        out: Tensor = z.sigmoid() * h + (1 - z.sigmoid()) * n.tanh()
        return out


class Fused(nn.Module):
    def __init__(self, body: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.body, self.head = body, nn.LazyLinear(4)
        for parameter in body.parameters():
            parameter.data.mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x)[0])
        return out


SENTENCES = (16, 6, 32)
RECURRENT: dict[str, Callable[[float], nn.Module]] = {
    "gru_cell": lambda f: Unrolled(nn.GRUCell(32, 32), f),
    "lstm_cell": lambda f: Unrolled(nn.LSTMCell(32, 32, bias=False), f),
    "rnn_tanh_cell": lambda f: Unrolled(nn.RNNCell(32, 32), f),
    "tanh": lambda f: Unrolled(Written(), f),
    "gru": lambda f: Fused(nn.GRU(32, 32, batch_first=True, bidirectional=True), f),
    "lstm": lambda f: Fused(nn.LSTM(32, 32, 2, batch_first=True), f),
    "rnn_tanh": lambda f: Fused(nn.RNN(32, 32, batch_first=True), f),
}


def pressed(op: str) -> Callable[[], Planted]:
    where = "cell" if op.endswith(("cell", "tanh")) and op != "rnn_tanh" else "body"
    return lambda: Planted(
        RECURRENT[op](30.0), torch.randn(SENTENCES), "saturation", f"{where} ({op})", "of the"
    )


FAULTS |= {f"pressed_{op}": pressed(op) for op in RECURRENT}


@pytest.mark.parametrize("op", RECURRENT)
def test_recurrent_nets_are_sound_before_and_after_some_training(op: str) -> None:
    for seed in range(3 if os.environ.get("INITSTATS_ALL_SEEDS") else 1):
        torch.manual_seed(seed)
        model, x = RECURRENT[op](1.0), torch.randn(SENTENCES)
        for steps in (0, 8):
            model(x)
            optimizer = torch.optim.Adam(model.parameters(), 0.01)
            for _ in range(steps):
                optimizer.zero_grad()
                (model(x) - x[..., :4].mean(1).sign().unsqueeze(1)).square().mean().backward()
                optimizer.step()
            found = look(model, x)
            assert found[found["severity"] <= "warning"].empty, str(found)


@fault
def weights_of_nan() -> Planted:
    model = dense()
    nn.init.constant_(model.get_parameter("6.weight")[3], math.nan)
    return Planted(model, batch(), "nonfinite_weights", "6.weight", "1 of 16 parameters")


@fault
def division_by_zero() -> Planted:
    class Shares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(x)
            return h / torch.relu(x - 9).sum(-1, keepdim=True)

    model = nn.Sequential(layer_of(WIDTH, WIDTH), Shares(), layer_of(WIDTH, 4))
    return Planted(model, batch(), "nonfinite", "1 (div)", "all that it reads is finite")


@fault
def derivative_of_a_root_at_zero() -> Planted:
    class Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).sqrt()

    model = nn.Sequential(layer_of(WIDTH, WIDTH), Norm(), layer_of(WIDTH, 4))
    return Planted(model, batch(), "nonfinite_gradients", "1 (relu)", "1 (sqrt) makes them")


@fault
def saturated_tanh() -> Planted:
    model = dense(6, nn.Tanh, 1.3)
    scale(model, "4.weight", 4)
    return Planted(model, batch(), "saturation", "5 (tanh)")


@fault
def saturated_by_hand() -> Planted:
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1 / (1 + torch.exp(-x)) - 0.5

    model = nn.Sequential(layer_of(WIDTH, WIDTH, 9.0), Gate(), layer_of(WIDTH, 4))
    return Planted(model, batch(), "saturation", "1 (reciprocal)")


@fault
def saturated_relu6() -> Planted:
    model = dense(4, nn.ReLU6)
    nn.init.constant_(model[2].bias, 12.0)  # type: ignore[arg-type]
    return Planted(model, batch(), "saturation", "3 (hardtanh)")


@fault
def attention_of_one() -> Planted:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = layer_of(WIDTH, WIDTH, 3.0), layer_of(WIDTH, WIDTH, 3.0)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = (self.q(x) @ self.k(x).mT).softmax(-1) @ x
            return out

    return Planted(Attend(), torch.randn(8, 16, WIDTH), "saturation", "Attend (softmax)")


@fault
def defaults_of_torch() -> Planted:
    layers = [m for _ in range(10) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return Planted(nn.Sequential(*layers), batch(), "default_init", "10 places: 0, 2, 4, ... 18")


@fault
def fan_out() -> Planted:
    model = nn.Sequential(nn.Linear(200, 800), nn.ReLU(), nn.Linear(800, 100), nn.ReLU())
    model.append(nn.Linear(100, 10))
    for layer in [*model][::2]:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return Planted(model, batch(128, 200), "fan_mode", "0, 2, 4", "with fan_out, 800")


@fault
def fan_out_of_convolutions() -> Planted:
    model = nn.Sequential(nn.Conv2d(4, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3), nn.ReLU())
    for layer in [*model][::2]:
        nn.init.kaiming_uniform_(layer.weight, mode="fan_out", nonlinearity="relu")
    return Planted(model, torch.randn(8, 4, 9, 9), "fan_mode", "0, 2")


@fault
def constant_weights() -> Planted:
    model = dense(4)
    for layer in [*model][::2]:
        nn.init.constant_(layer.weight, 1 / WIDTH)
    return Planted(model, batch(), "equal_units", "0, 2, 4, 6", "copies of each other")


@fault
def one_unit_repeated() -> Planted:
    model = dense(4, nn.Tanh)
    with torch.no_grad():
        weight = model.get_parameter("2.weight")
        weight.copy_(weight[:1].expand_as(weight).clone())
    return Planted(model, batch(), "equal_units", "2")


@fault
def cloned_encoder() -> Planted:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    places = "layers.0, layers.1, layers.2"
    return Planted(model, torch.randn(8, 6, 32), "equal_layers", places, "copies of each other")


@fault
def copied_layers() -> Planted:
    first = layer_of(WIDTH, WIDTH, 1.3)
    layers = [m for _ in range(3) for m in (copy.deepcopy(first), nn.Tanh())]
    return Planted(nn.Sequential(*layers), batch(), "equal_layers", "0, 2, 4")


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = layer_of(WIDTH, WIDTH, 1.0).requires_grad_(False)
        self.a, self.b = nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, WIDTH, bias=False)
        nn.init.zeros_(self.a.weight)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.b(self.a(x))
        return out


@fault
def lora_of_two_zeros() -> Planted:
    places = "4 places: 0.a.weight, 0.b.weight, 1.a.weight, 1.b.weight"
    return Planted(nn.Sequential(Lora(), Lora()), batch(), "zero_weights", places[10:])


@fault
def everything_zero() -> Planted:
    model = dense(4)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return Planted(model, batch(), "zero_weights", "0.weight")


@fault
def zero_gate_before_a_zero_layer() -> Planted:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.gate = layer_of(WIDTH, WIDTH), nn.Parameter(torch.zeros(()))
            nn.init.zeros_(self.layer.weight)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.gate * self.layer(x)
            return out

    return Planted(nn.Sequential(Gated()), batch(), "zero_weights", "0.layer.weight")


@fault
def exploding_relu() -> Planted:
    return Planted(dense(16, nn.ReLU, 2.5), batch(), "signal", "0 (linear) to 30 (linear)")


@fault
def vanishing_relu() -> Planted:
    return Planted(dense(16, nn.ReLU, 0.8), batch(), "signal", "0 (linear) to 30 (linear)")


@fault
def vanishing_tanh() -> Planted:
    return Planted(dense(16, nn.Tanh, 0.5), batch(), "signal", "0 (linear) to 30 (linear)")


@fault
def exploding_gradient_under_tanh() -> Planted:
    model = dense(40, nn.Tanh, 1.5925)
    return Planted(model, batch(), "gradient", "78 (linear) to 0 (linear)", "explodes")


@fault
def vanishing_gradient_under_sigmoid() -> Planted:
    model = dense(10, nn.Sigmoid, 1.0)
    return Planted(model, batch(), "gradient", "18 (linear) to 0 (linear)", "vanishes")


@fault
def unscaled_branches() -> Planted:
    layers = [Residual(layer_of(WIDTH, WIDTH, 1.0)) for _ in range(8)]
    return Planted(nn.Sequential(*layers), batch(), "residual_growth", "0.branch, 1.branch")


@fault
def one_strong_branch() -> Planted:
    layers = [Residual(layer_of(WIDTH, WIDTH, 0.2)) for _ in range(8)]
    scale(layers[5], "branch.weight", 20)
    return Planted(nn.Sequential(*layers), batch(), "residual_growth", "5.branch")


@fault
def growth_behind_activations() -> Planted:
    """A stream that goes through a rectifier after each sum, and through projections."""

    def block() -> nn.Module:
        first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        branch = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False))
        for layer in [*branch][::2]:
            nn.init.kaiming_normal_(layer.weight)
        return Residual(branch, nn.ReLU())

    model = nn.Sequential(*[block() for _ in range(10)])
    return Planted(model, torch.randn(16, 8, 8, 8), "residual_growth", "branch.2")


@fault
def uncentred_input() -> Planted:
    return Planted(dense(4), 255 * torch.rand(64, WIDTH) + 500, "input_scale", "0 (input)")


@fault
def uncentred_values() -> Planted:
    model = dense(4)
    nn.init.constant_(model[2].bias, 30.0)  # type: ignore[arg-type]
    return Planted(model, batch(), "mean_shift", "3 (relu)", "mostly sees a constant")


@fault
def images_of_bytes() -> Planted:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    x = torch.randint(0, 256, (16, 3, 8, 8)).float()
    return Planted(model, x, "input_scale", "0 (input)", "a std of 7")


@fault
def nearly_all_dropped() -> Planted:
    model = dense(6)
    for place in (3, 5):
        model[place] = nn.Sequential(nn.ReLU(), nn.Dropout(0.95))
    return Planted(model, batch(), "dropped", "3.1 (dropout), 5.1 (dropout)", "random operation")


@fault
def softmax_over_the_samples() -> Planted:
    model = dense(4).append(nn.Softmax(dim=0))
    return Planted(model, batch(), "softmax_axis", "7 (softmax)", "over dimension 0, the samples")


@fault
def activation_forgotten() -> Planted:
    model = dense(5)
    model[3] = nn.Identity()
    return Planted(model, batch(), "linear_chain", "2 to 4", "(64, 64 units)")


@fault
def softmax_before_the_loss() -> Planted:
    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = dense(4)

        def forward(self, x: Tensor) -> Tensor:
            shares = self.body(x).softmax(-1)
            return nn.functional.cross_entropy(shares, torch.arange(len(x)) % 10)

    return Planted(Trained(), batch(), "cut_output", "Trained (softmax)", "cannot come near 0 or 1")


@fault
def collapsed_samples() -> Planted:
    model = dense(12, nn.Tanh, 0.6)
    for layer in [*model][::2]:
        nn.init.normal_(layer.bias)
    return Planted(model, batch(), "collapse", "22 (linear)", "nearly the same output")


@fault
def too_small_for_float16() -> Planted:
    model = nn.Sequential(layer_of(WIDTH, WIDTH), Times(1e-6)).half()
    return Planted(model, batch().half(), "low_precision", "1 (mul)", "float16: 1 tensor loses")


@fault
def missing_data() -> Planted:
    x = batch()
    x[3, 5] = math.nan
    return Planted(dense(4), x, "nonfinite", "0 (input)", "it is an input of the model")


def look(model: nn.Module, x: Any) -> Any:
    return diagnose(measure(model, x, backward=True))


def as_code(remedy: str) -> Any:
    """A remedy that is lines of code, compiled; None for advice in words."""
    try:
        return compile(remedy, "remedy", "exec")
    except SyntaxError:
        return None


WORDS = {
    "nonfinite",
    "nonfinite_weights",
    "nonfinite_gradients",
    "low_precision",
    "collapse",
    "mean_shift",
    "softmax_axis",
    "linear_chain",
    "cut_output",
}
"""Rules whose remedies are decisions of those who make the model or the data."""
DECISIONS = {
    "factor_after_a_layer",
    "divisor_after_a_layer",
    "factor_in_a_diffusion_block",
    "attention_of_one",
    "vanishing_gradient_under_sigmoid",
    "a_factor_of_zero",
    "the_same_input_every_time",
}


NOUNS = "tensors|units|entries|layers|parameters|weights|steps|updates|operations|others|sums"


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_at_its_place_and_cured(name: str) -> None:
    """Every remedy that is code is applied to the model that got it; then the finding is gone."""
    torch.manual_seed(0)
    planted = FAULTS[name]()
    found = look(planted.model, planted.x)
    texts = " ".join([*found["evidence"], *found["remedy"]])
    assert not re.findall(rf"(?<![\d.,])1 (?:{NOUNS})\b", texts)
    grave = found[found["severity"] <= "warning"]
    hits = grave[grave["rule"] == planted.rule]
    assert len(hits), str(found)
    assert any(planted.where in row.where for row in hits.itertuples()), str(hits)
    assert any(planted.said in row.evidence for row in hits.itertuples()), str(hits)
    expected = planted.rule not in WORDS and name not in DECISIONS
    assert (as_code(hits["remedy"].iloc[0]) is not None) == expected, hits["remedy"].iloc[0]
    for row in grave.itertuples():
        if code := as_code(row.remedy):
            model = copy.deepcopy(planted.model)
            given = {"model": model, "x": planted.x, "nn": nn, "math": math, "torch": torch}
            given["initstats"] = initstats
            exec(code, given)
            again = look(model, given["x"])
            worse = again[again["severity"] <= "warning"]
            left = worse[(worse["rule"] == row.rule) | ~worse["rule"].isin(grave["rule"])]
            assert left.empty, f"{row.rule}: {row.remedy}\n{left}"


def test_weights_that_become_nan_are_told_with_their_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer_of(WIDTH, WIDTH), nn.ReLU(), layer_of(WIDTH, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Probe(model, backward=True) as probe:
        for step in range(6):
            optimizer.zero_grad()
            loss = model(batch()).square().mean() * (math.nan if step == 2 else 1.0)
            loss.backward()
            optimizer.step()
    rows = diagnose(probe.table()).query("rule == 'nonfinite_weights' and severity == 'error'")
    told = rows.iloc[0]
    assert told["where"] == "0.weight, 0.bias, 2.weight, 2.bias"
    assert "at step 3 and every step after it" in told["evidence"]
    assert "learning rate" in told["remedy"]
    assert "clip_grad_norm_" in told["remedy"]


def test_enough_faults() -> None:
    assert len(FAULTS) >= 25
