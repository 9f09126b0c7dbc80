"""On a GPU, audits, schemes, theory and the coordinate check say what they say of the processor."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.utils._pytree import tree_map
from transformers.pytorch_utils import Conv1D

import initstats as ist
from initstats.audits import Audit
from initstats.coordinates import Coordinates

DEVICE = "cuda"
KINDS = (nn.Linear, nn.Conv2d, Conv1D)
TESTS = Path(__file__).parent
MODELS: dict[str, Any] = runpy.run_path(str(TESTS / "initialized.py"))["MODELS"]
SCALED = runpy.run_path(str(TESTS / "scaled.py"))
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.filterwarnings("default"),  # other people's
]
ARCHITECTURES = [
    "resmlp(norm=layer)", "resmlp(norm=batch)", "rescnn(norm=batch)",
    "transformer(norm=rms, causal=true, patch=2)", "mlp(norm=batch, place=after)",
    "cnn(norm=group)",
]  # fmt: skip


def there(inputs: Any) -> Any:
    return tree_map(lambda x: x.to(DEVICE) if isinstance(x, Tensor) else x, inputs)


def drawn(name: str) -> nn.Module:
    torch.manual_seed(3)
    model: nn.Module = MODELS[name].build()
    return model


def told(found: Audit | Coordinates) -> list[tuple[Any, ...]]:
    faults = found.findings[~found.findings["severity"].isin(["healthy", "unchecked"])]
    return list(faults[["rule", "where", "severity"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_an_audit_is_the_processors(name: str, broken: bool) -> None:
    model = drawn(name)
    if broken:
        second = [m for m in model.modules() if isinstance(m, KINDS)][1]
        units = second.weight.T if isinstance(second, Conv1D) else second.weight
        with torch.no_grad():
            units[1].copy_(units[0])
    on_gpu = copy.deepcopy(model).to(DEVICE)
    state = torch.cuda.get_rng_state()
    expected, found = ist.audit(model), ist.audit(on_gpu)
    assert told(found) == told(expected)
    assert ("equal_units" in [rule for rule, *_ in told(found)]) == broken
    ours, theirs = found.table, expected.table
    for column in ("name", "law", "formula", "count"):
        assert ours[column].tolist() == theirs[column].tolist()
    np.testing.assert_allclose(ours["std"], theirs["std"], rtol=1e-5)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for kept, p in zip(model.parameters(), on_gpu.parameters(), strict=True):
        assert torch.equal(p.cpu(), kept)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].scheme])
def test_a_scheme_draws_the_same_weights(name: str) -> None:
    made = MODELS[name]
    model, x = drawn(name), made.x()
    on_gpu = copy.deepcopy(model).to(DEVICE)
    ist.initialize_(model, made.scheme, x, seed=7)
    ist.initialize_(on_gpu, made.scheme, there(x), seed=7)
    for ours, theirs in zip(on_gpu.parameters(), model.parameters(), strict=True):
        assert ours.device.type == DEVICE
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-7)
    ist.assert_initialized(on_gpu, made.scheme, there(x))


def test_inputs_are_made_up_where_the_model_lies() -> None:
    for name in ("gpt2", "resnet", "mup", "own llama", "bert", "vit"):
        ist.initialize_(drawn(name).to(DEVICE), MODELS[name].scheme)


@pytest.mark.parametrize("name", ["relu", "resnet", "gpt2", "vit", "own llama"])
def test_theory_of_a_model_is_the_processors(name: str) -> None:
    made = MODELS[name]
    x = made.x() if made.x else torch.linspace(-90, 90, 16 * 784).sin().reshape(16, 784)
    model = drawn(name)
    expected = ist.predict_model(copy.deepcopy(model), x, backward=True)
    found = ist.predict_model(model.to(DEVICE), there(x), backward=True)
    keys = ["name", "op", "tensor", "direction"]
    assert found[keys].equals(expected[keys])
    numbers = expected.select_dtypes("float").columns
    assert numbers.size
    for column in numbers:
        np.testing.assert_allclose(
            found[column], expected[column], rtol=2e-3, atol=1e-6, err_msg=column
        )


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["relu", "conv norm", "transformer"])
def test_a_coordinate_check_is_the_processors(name: str, optimizer: str) -> None:
    net = SCALED["NETS"][name]
    factory = SCALED["mup"](net, optimizer, lr=1e-3)  # small: TF32 moves slopes by up to 0.3

    def moved(n: int) -> Any:
        model, made = factory(n)
        return model.to(DEVICE), made  # its parameters stay the same objects

    widths = (32, 64, 128)
    expected = ist.coordinate_check(factory, widths, x=net.x, seeds=2)
    found = ist.coordinate_check(moved, widths, x=there(net.x), seeds=2)
    assert told(found) == told(expected)
    places = ["name", "op", "call", "turn", "tensor", "quantity", "step"]
    both = found.slopes.merge(
        expected.slopes, "outer", places, suffixes=("", "_cpu"), indicator=True
    )
    assert (both["_merge"] == "both").all()
    gaps = (both["slope"] - both["slope_cpu"]).abs()
    most = 1e-3 if optimizer == "sgd" else 5e-3  # Adam makes steps of gradients that are rounding
    assert gaps[both["quantity"] == "change"].max() < most
    assert gaps[~both["name"].str.fullmatch("[037].bias|.*k.bias")].max() < 0.01  # others are zero


@pytest.mark.parametrize("network", ARCHITECTURES)
def test_an_architecture_is_the_processors(toy: ist.Dataset, network: str) -> None:
    grid: dict[str, Any] = {"networks": [network], "widths": [16], "depth": 3, "backward": True}
    grid |= {"inits": ["kaiming_normal"], "activations": ["gelu"], "seeds": 2, "samples": 40}
    gpu, cpu = (
        ist.run_sweep(ist.Grid(**grid, dtype="float64", device=device), toy)
        for device in (DEVICE, "cpu")
    )
    assert len(gpu) == len(cpu)
    for name in ("mean", "std", "min", "max", "unit_std_mean"):
        assert ((gpu[name] - cpu[name]).abs() / cpu["std"]).fillna(0).max() < 1e-9, name
    columns = {"branch_share", "pair_correlation", "participation_ratio", "attention_entropy"}
    for name in columns & set(cpu.columns):
        np.testing.assert_allclose(gpu[name], cpu[name], rtol=1e-6, atol=1e-9, err_msg=name)


class Fused(nn.Module):
    """Causal attention of 4 heads of 32 by a kernel that is given."""

    def __init__(self, kernel: str) -> None:
        super().__init__()
        self.kernel = kernel
        self.qkv, self.out = nn.Linear(128, 384), nn.Linear(128, 128)
        self.flexible: Any = torch.compile(flex_attention) if kernel == "flex" else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 32)).permute(2, 0, 3, 1, 4)
        if self.kernel == "eager":
            scores = q @ k.mT / 32**0.5
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            mixed = scores.masked_fill(future, float("-inf")).softmax(-1) @ v
        elif self.kernel == "flex":
            mixed = self.flexible(
                q, k, v, lambda s, b, h, i, j: torch.where(i >= j, s, float("-inf"))
            )
        else:
            with sdpa_kernel(getattr(SDPBackend, self.kernel)):
                mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return x + out


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        ("MATH", torch.float32),
        ("EFFICIENT_ATTENTION", torch.float32),
        ("FLASH_ATTENTION", torch.bfloat16),
        ("CUDNN_ATTENTION", torch.bfloat16),
        ("flex", torch.float32),
        ("flex", torch.bfloat16),
    ],
)
def test_fused_attention_has_the_columns_of_eager(kernel: str, dtype: torch.dtype) -> None:
    """For real kernels, which keep no scores: they are made again from queries and keys."""
    torch.manual_seed(0)
    eager, fused = Fused("eager").to(DEVICE), Fused(kernel).to(DEVICE)
    fused.load_state_dict(eager.state_dict())
    x = torch.randn(3, 160, 128, device=DEVICE)
    eager, fused, x = eager.to(dtype), fused.to(dtype), x.to(dtype)
    expected = ist.measure(eager.double(), x.double())
    found = ist.measure(fused, x)
    for column in ("attention_entropy", "concentration"):
        ours, theirs = found[column].dropna(), expected[column].dropna()
        assert len(ours) == len(theirs) >= 1
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-5 if dtype == torch.float32 else 2e-3, err_msg=column
        )
