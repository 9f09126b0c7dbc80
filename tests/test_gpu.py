"""On a GPU, other people's models are measured as on the processor, and stay as they were."""

from __future__ import annotations

import copy
import gc
import os
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint

import initstats as ist
from initstats.probe import Probe, measure

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for products that repeat


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).unbind(-3)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return x + out


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, 16))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True),
        nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.Hardtanh(), nn.ConvTranspose2d(8, 4, 2),
    )  # fmt: skip


def recurrent() -> nn.Module:
    return nn.LSTM(16, 8, num_layers=2, bidirectional=True, batch_first=True)


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mlp": (mlp, (9, 16)),
    "convolutions": (convolutions, (5, 3, 8, 8)),
    "attention": (Attention, (4, 7, 16)),
    "recurrent": (recurrent, (4, 7, 16)),
}


def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    build, shape = MODELS[name]
    torch.manual_seed(0)
    model = build().to(dtype)
    x = torch.randn(shape, dtype=dtype) + torch.arange(float(shape[0])).view(
        -1, *[1] * (len(shape) - 1)
    ).to(dtype)
    return model, x


def agree(found: pd.DataFrame, expected: pd.DataFrame, rel: float) -> None:
    """Rows of the same things hold the same numbers, to a share of the largest entry."""
    keys = ["layer", "name", "tensor", "direction", "call", "op"]
    pair = found.merge(expected, on=keys, suffixes=("", "_cpu"), how="outer", indicator=True)
    assert (pair["_merge"] == "both").all(), pair.loc[pair["_merge"] != "both", keys]
    size = pair[["min_cpu", "max_cpu"]].abs().max(axis=1)
    for name in ("mean", "std", "min", "max", "abs_mean", "unit_std_mean"):
        error = ((pair[name] - pair[f"{name}_cpu"]).abs() / size).fillna(0)
        assert error.max() < rel, name
    for name in ("count", "fan_in", "units", "entries"):
        np.testing.assert_array_equal(pair[name], pair[f"{name}_cpu"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_table_is_the_processors(name: str, dtype: torch.dtype) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, x = built(name, dtype)
    expected = measure(copy.deepcopy(model), x, backward=True)
    found = measure(model.to(DEVICE), x.to(DEVICE), backward=True)
    if name == "recurrent":  # the fused operation of the two devices is named otherwise
        for table in (found, expected):
            table["op"] = table["op"].replace({"_cudnn_rnn": "lstm"})
    agree(found, expected, 1e-4 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_low_precision_is_measured(name: str, dtype: torch.dtype) -> None:
    model, x = built(name, torch.float32)
    model, x = model.to(DEVICE), x.to(DEVICE)
    probe = Probe(model, backward=True)
    with probe, torch.autocast(DEVICE, dtype):
        output = model(x)
        (output[0] if isinstance(output, tuple) else output).float().square().mean().backward()
    missed = probe.missed()
    fused = {"scaled_dot_product_attention", "zeros", "lstm", "lstm[1]", "lstm[2]"}
    assert set(missed["op"]) <= fused, missed.to_string()
    table = probe.table()
    expected = measure(model, x)
    keys = ["name", "op", "tensor", "call"]
    frames = [t[t["direction"] == "forward"].drop_duplicates(keys) for t in (table, expected)]
    both = frames[0].merge(frames[1], on=keys, suffixes=("", "_32"))
    assert len(both) > 3
    size = both[["min_32", "max_32"]].abs().max(axis=1)
    assert ((both["mean"] - both["mean_32"]).abs() / size).max() < 0.05


class Trained:
    """What a training under a loss scaler leaves, watched or not."""

    def __init__(self, watched: bool) -> None:
        model, x = built("mlp", torch.float32)
        model, x = model.to(DEVICE), x.to(DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=True)
        scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0)
        self.probe = Probe(model, backward=True)
        if watched:
            self.probe.__enter__()
        self.gradients = []
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.float16):
                loss = model(x).square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            gradient = model.get_parameter("0.weight").grad
            assert gradient is not None
            self.gradients.append(gradient.double().std().item())
            scaler.step(optimizer)
            scaler.update()
        if watched:
            self.probe.__exit__(None, None, None)
        self.left = [*model.state_dict().values(), torch.cuda.get_rng_state()]


def test_a_scaled_training_is_not_disturbed() -> None:
    alone, watched = Trained(watched=False), Trained(watched=True)
    for ours, theirs in zip(watched.left, alone.left, strict=True):
        assert torch.equal(ours, theirs)
    table = watched.probe.table()
    weights = table[(table["name"] == "0.weight") & (table["direction"] == "backward")]
    assert weights["step"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(weights["std"], alone.gradients, rtol=1e-5)
    updates = table[(table["name"] == "0.weight") & table["update_ratio"].notna()]
    assert updates["update_ratio"].between(1e-3, 1).all()
    assert len(updates) >= 2


def test_random_states_memory_and_weights_stay() -> None:
    model, x = built("mlp", torch.float32)
    model = nn.Sequential(model, nn.Dropout(0.5)).to(DEVICE)
    x = x.to(DEVICE)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before, held = torch.cuda.get_rng_state(), []
    for _ in range(4):
        measure(model, x, backward=True)
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[0], held
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("name", ["mlp", "convolutions", "recurrent"])
def test_a_repair_is_the_processors(name: str) -> None:
    model, x = built(name)
    cpu, gpu = copy.deepcopy(model), copy.deepcopy(model).to(DEVICE)
    before = torch.cuda.get_rng_state()
    for model, inputs in ((cpu, x), (gpu, x.to(DEVICE))):
        ist.reinitialize_(model, "matched", inputs)
        ist.lsuv_(model, inputs)
    for ours, theirs in zip(gpu.parameters(), cpu.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-8, atol=1e-10)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.filterwarnings("default")  # what torch says of its own threads and streams
def test_a_captured_graph_runs_on() -> None:
    model, x = built("mlp", torch.float32)
    model, x = model.to(DEVICE), x.to(DEVICE)
    expected = model(x)
    graphed: Any = torch.cuda.make_graphed_callables(copy.deepcopy(model), (x.clone(),))
    with Probe(graphed) as probe:
        found = graphed(x)
    torch.testing.assert_close(found, expected)
    assert len(probe.table()) + len(probe.missed()) > 0


def test_a_model_on_two_devices() -> None:
    model, x = built("mlp")
    expected = measure(copy.deepcopy(model), x)

    class Split(nn.Module):
        def __init__(self, whole: nn.Module) -> None:
            super().__init__()
            self.low, self.high = (
                nn.Sequential(*whole.children())[:2],
                nn.Sequential(*whole.children())[2:].to(DEVICE),
            )

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.high(self.low(x).to(DEVICE))
            return out

    table = measure(Split(model), x)
    ends = [
        t[t["direction"].eq("forward") & t["tensor"].eq("activation")] for t in (table, expected)
    ]
    np.testing.assert_allclose(ends[0]["std"].iloc[-1], ends[1]["std"].iloc[-1], rtol=1e-10)


class Flexible(nn.Module):
    """Attention whose scores get a learned bias of the distance."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.bias = nn.Parameter(torch.randn(2, 14))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        attend: Any = flex_attention
        mixed: Tensor = attend(q, k, v, lambda s, b, h, i, j: s + self.bias[h, i - j + 7])
        return mixed.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, checkpointed: bool = False) -> Tensor:
        again = partial(checkpoint, self.attend, use_reentrant=True)
        out: Tensor = self.out(again(x) if checkpointed else self.attend(x))
        return x + out


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch 2.11
@pytest.mark.parametrize("checkpointed", [False, True])
def test_flexible_attention_trains_as_it_does_unwatched(checkpointed: bool) -> None:
    """Also where autograd's own threads run it again: what its function captures has gradients."""
    torch.manual_seed(0)
    model = Flexible().to(DEVICE)
    x = torch.randn(3, 7, 32, device=DEVICE, requires_grad=True)
    gradients = []
    for watched in (False, True):
        model.zero_grad()
        with Probe(model, backward=True) if watched else nullcontext() as probe:
            model(x, checkpointed).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert probe is not None
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    table = probe.table()
    assert table["attention_entropy"].notna().sum() == 1
    assert set(table.query("name == 'bias'")["direction"]) == {"forward", "backward"}


def test_where_only_repeatable_operations_are_allowed() -> None:
    model, x = built("convolutions", torch.float32)
    expected = measure(copy.deepcopy(model), x, backward=True)
    torch.use_deterministic_algorithms(True)
    try:
        with Probe(model.to(DEVICE), backward=True) as probe:
            model(x.to(DEVICE)).square().mean().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert probe.missed().empty, probe.missed().to_string()
    assert len(probe.table()) == len(expected)
