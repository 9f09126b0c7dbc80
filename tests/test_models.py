"""Models that others wrote, drawn at random from their configuration: nothing is downloaded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from initstats import lsuv_, reinitialize_
from initstats.diagnosis import diagnose
from initstats.moments import warm_up
from initstats.probe import Probe, measure
from initstats.probe.objective import sent_back

transformers: Any = import_module("transformers")  # a type checker would read all of it
pytestmark = pytest.mark.filterwarnings("default")  # other people's

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
IDS = torch.arange(2 * 12).view(2, 12) * 7 % 100


def image(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x + torch.arange(shape[0], dtype=torch.float32).view(-1, 1, 1, 1)


def gpt2() -> tuple[nn.Module, dict[str, Tensor]]:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=100, n_positions=32, **ends
    )
    return transformers.GPT2LMHeadModel(config), {"input_ids": IDS}


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.BertConfig(vocab_size=100, attn_implementation="eager", **SMALL)
    mask = torch.ones_like(IDS)
    mask[1, 8:] = 0
    return transformers.BertModel(config), {"input_ids": IDS, "attention_mask": mask}


def vit() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.ViTConfig(image_size=16, patch_size=4, **SMALL)
    return transformers.ViTModel(config), {"pixel_values": image(2, 3, 16, 16)}


def resnet() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic"
    )
    return transformers.ResNetForImageClassification(config), {"pixel_values": image(4, 3, 32, 32)}


def convnext() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32
    )
    return transformers.ConvNextModel(config), {"pixel_values": image(2, 3, 32, 32)}


def t5() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.T5Config(
        vocab_size=100, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2
    )
    return transformers.T5Model(config), {"input_ids": IDS, "decoder_input_ids": IDS[:, :7]}


def llama() -> tuple[nn.Module, dict[str, Tensor]]:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.LlamaConfig(vocab_size=100, num_key_value_heads=1, **ends, **SMALL)
    return transformers.LlamaModel(config), {"input_ids": IDS}


def transformer() -> tuple[nn.Module, dict[str, Tensor]]:
    model = nn.Transformer(16, 2, 2, 2, 32, batch_first=True)
    x = image(3, 1, 5, 16)[:, 0]
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    return model, {"src": x, "tgt": x[:, :4] * 2, "tgt_mask": mask}


MODELS: list[Callable[[], tuple[nn.Module, dict[str, Tensor]]]] = [
    gpt2,
    bert,
    vit,
    resnet,
    convnext,
    t5,
    llama,
    transformer,
]
HIDDEN = {"never executed", "a constant: neither input nor weights reach it"}


@pytest.fixture(params=MODELS, ids=lambda build: build.__name__)
def built(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model, inputs = request.param()
    return model.eval(), inputs


def ends(output: Any) -> Iterator[Tensor]:
    """Tensors of floats in an output, in the order of its fields."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from ends(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from ends(value)
    elif dataclasses.is_dataclass(output):
        for entry in dataclasses.fields(output):
            yield from ends(getattr(output, entry.name))


Seen = dict[tuple[str, int], tuple[Tensor, list[Tensor]]]


def seen_by_hooks(model: nn.Module, inputs: dict[str, Tensor]) -> Seen:
    """What modules without children give, and its gradient, in float64: the independent way."""
    seen: Seen = {}
    calls: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if any(True for _ in module.children()):
            continue

        def keep(_: nn.Module, given: Any, y: Any, name: str = name) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(y, Tensor) and all(y is not x for x in given):
                gradients: list[Tensor] = []
                seen[name, calls[name]] = (y.detach().double().clone(), gradients)
                if y.requires_grad:
                    y.register_hook(lambda g: gradients.append(g.double().clone()))  # type: ignore[no-untyped-call]

        handles.append(module.register_forward_hook(keep))
    output = list(ends(model(**inputs)))
    generator = sent_back()
    torch.autograd.backward(output, [torch.randn(y.shape, generator=generator) for y in output])
    for handle in handles:
        handle.remove()
    model.zero_grad()
    return seen


def check(row: Any, x: Tensor) -> None:
    """A row holds the statistics of a float64 tensor."""
    centred = x - x.mean()
    spread = centred.square().mean()
    size = x.abs().max().item()
    assert row["count"] == x.numel()
    assert row["mean"] == pytest.approx(x.mean().item(), rel=1e-5, abs=3e-6 * size)
    assert row["std"] == pytest.approx(x.std().item(), rel=1e-5, abs=1e-6 * size)
    assert row["second_moment"] == pytest.approx(x.square().mean().item(), rel=2e-5)
    if spread > 1e-10 * size**2:
        kurtosis = (centred.pow(4).mean() / spread**2 - 3).item()
        assert row["kurtosis"] == pytest.approx(kurtosis, rel=1e-4, abs=1e-4)
    assert row["max"] == pytest.approx(x.max().item(), rel=1e-5, abs=1e-6 * size)
    assert row["negative_fraction"] == pytest.approx((x < 0).double().mean().item(), abs=2e-3)


@pytest.mark.sampled(every=2)
def test_agrees_with_hooks_in_float64(built: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, inputs = built
    table = measure(model, inputs, backward=True)
    values = table[table["tensor"] != "weight"]
    seen = seen_by_hooks(model, inputs)
    checked = 0
    for (name, call), (y, gradients) in seen.items():
        rows = values[(values["name"] == name) & (values["call"] == call)]
        rows = rows[rows["op"] != "input"]
        forward = rows[rows["direction"] == "forward"]
        if forward.empty:
            continue  # a dropout at rest
        check(forward.iloc[-1], y)
        if gradients:
            same = (rows["direction"] == "backward") & (rows["layer"] == forward["layer"].iloc[-1])
            check(rows[same].iloc[0], gradients[0])
        checked += 1
    assert checked > 10
    for name, parameter in model.named_parameters():
        row = table[(table["name"] == name) & (table["direction"] == "forward")]
        check(row.iloc[0], parameter.detach().double())


def test_coverage(built: tuple[nn.Module, dict[str, Tensor]]) -> None:
    """All that is missed is known by its reason, and nearly nothing is."""
    model, inputs = built
    probe = Probe(model, backward=True).run(inputs)
    missed = probe.missed()
    fused = missed["reason"].str.contains("fused kernel")
    assert set(missed.loc[~fused, "reason"]) <= HIDDEN
    assert set(missed.loc[missed["reason"] == "never executed", "kind"]) <= {"module"}
    measured, total = (int(word) for word in probe.coverage.split() if word.isdigit())
    assert measured / total > 0.85, probe.coverage
    table = probe.table()
    sums = table[table["op"].isin(["add", "add_"]) & (table["direction"] == "forward")]
    assert len(sums) > 1  # residual sums are no module


def test_nothing_is_left(built: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, inputs = built
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    attributes = [sorted(vars(m)) for m in model.modules()]
    state = torch.get_rng_state()
    measure(model, inputs, backward=True)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None and p._backward_hooks is None for p in model.parameters())
    assert [sorted(vars(m)) for m in model.modules()] == attributes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_random_models_of_others_are_healthy(built: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, inputs = built
    found = diagnose(measure(model, inputs, backward=True))
    assert found[found["severity"] <= "warning"].empty, found.to_string()


@pytest.mark.sampled(every=2)
def test_repairs(built: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, inputs = built
    table = reinitialize_(model, "matched", inputs)
    assert len(table) > 2
    assert set(table["activation"]) & {"identity"}
    table = lsuv_(model, inputs)
    assert len(table) == len([*model.named_parameters(remove_duplicate=False)])
    done = table[table["outcome"].str.startswith("done")]
    assert len(done) > 2
    assert done["std_after"].to_numpy() == pytest.approx(np.ones(len(done)), abs=0.01)
    matrices = {name for name, p in model.named_parameters() if p.ndim > 1}
    left = table[table["outcome"].str.startswith("left") & table["name"].isin(matrices)]
    known = "embedding|add|cat|expand|no operation|relu|attention"
    assert left["outcome"].str.contains(known).all(), left["outcome"].tolist()


def test_gpt2_reads_its_activation() -> None:
    """GPT-2 keeps weights as (in, out), and its gelu is eight operations."""
    torch.manual_seed(0)
    model, inputs = gpt2()
    table = reinitialize_(model, "matched", inputs).set_index("name")
    assert table.loc["transformer.h.0.mlp.c_fc.weight", "activation"] == "identity"  # a layer norm
    assert table.loc["transformer.h.0.mlp.c_proj.weight", "activation"] == "NewGELUActivation"
    weight = model.get_parameter("transformer.h.0.mlp.c_proj.weight").detach().double()
    expected = 1.5335**2 / 128
    assert weight.square().mean().item() == pytest.approx(expected, rel=4 * (2 / 4096) ** 0.5)


def test_under_compile_autocast_and_checkpointing() -> None:
    torch.manual_seed(0)
    model, inputs = gpt2()
    model.eval()
    plain = measure(model, inputs, backward=True)
    compiled: Any = torch.compile(model, backend="eager")
    pd.testing.assert_frame_equal(measure(compiled, inputs, backward=True), plain)

    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected = measure(model, inputs, backward=True, loss=lambda y: y.logits.square().sum())
    model.gradient_checkpointing_enable()  # type: ignore[operator]
    with Probe(model, backward=True) as probe:
        model(**inputs).logits.square().sum().backward()
    table = probe.table()
    for name in ("layer", "name", "op", "tensor", "direction", "count"):
        assert table[name].tolist() == expected[name].tolist()
    moments = ["mean", "std", "second_moment", "dead_fraction", "q25", "q75"]
    size = table["std"].to_numpy()[:, None]
    difference = table[moments].to_numpy() - expected[moments].to_numpy()
    assert np.nanmax(np.abs(difference) / np.maximum(size, 1e-6)) < 1e-3

    with torch.autocast("cpu", torch.bfloat16):
        table = measure(gpt2()[0].eval(), inputs)
    linear = table[(table["op"] == "addmm") & (table["tensor"] == "preactivation")]
    assert set(linear["dtype"]) == {"bfloat16"}


def seconds(function: Callable[[], object]) -> float:
    """Seconds of the processor's time, the better of two."""
    times = []
    for _ in range(2):
        began = time.thread_time()
        function()
        times.append(time.thread_time() - began)
    return min(times)


def resnet18() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.ResNetConfig(depths=[2, 2, 2, 2], layer_type="basic")
    config.hidden_sizes = [64, 128, 256, 512]
    return transformers.ResNetForImageClassification(config), {
        "pixel_values": image(4, 3, 224, 224)
    }


def wide_gpt2() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.GPT2Config(n_layer=3, vocab_size=1000, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2Model(config), {"input_ids": torch.arange(512).view(2, 256)}


@pytest.mark.parametrize("build", [resnet18, wide_gpt2])
def test_cost(build: Callable[[], tuple[nn.Module, dict[str, Tensor]]]) -> None:
    """Measuring costs two to three forward passes, the pass itself included.

    Neighbours of the processor change the ratio by a fifth: the bound is for what would double it.
    """
    warm_up()
    model, inputs = build()
    model.eval()
    with torch.no_grad():
        alone = seconds(lambda: model(**inputs))
    assert seconds(lambda: measure(model, inputs)) < 4 * alone
