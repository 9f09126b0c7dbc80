from __future__ import annotations

import copy
import math
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initstats as ist
from initstats import lsuv_, reinitialize_


def uneven(*shape: int) -> Tensor:
    """Entries whose mean and size differ by feature: nothing is unit normal here."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return 3 * x * torch.linspace(0.2, 2, shape[-1]) + torch.linspace(-1, 2, shape[-1])


class Net(nn.Module):
    """A shared layer, functions, activations in place, batch norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.wide = nn.Linear(16, 60)
        self.act = nn.LeakyReLU(0.3, inplace=True)
        self.shared = nn.Linear(60, 60)
        self.head = nn.Linear(60, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = F.relu(self.norm(self.conv(x))).mean([2, 3])
        h = self.act(self.wide(h))
        h = torch.tanh(self.shared(h))
        h = torch.tanh(self.shared(h))
        return {"y": self.head(h)}


def preactivations(model: nn.Module, x: Any) -> dict[tuple[str, int], Tensor]:
    """The outputs of modules with a weight matrix, by plain hooks."""
    seen: dict[tuple[str, int], Tensor] = {}
    calls: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim > 1:

            def keep(_: nn.Module, __: Any, y: Tensor, name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1
                seen[name, calls[name]] = y.detach().double().clone()

            handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


def test_lsuv_gives_every_layer_unit_std() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), uneven(64, 3, 8, 8)
    before = preactivations(model, x)
    table = lsuv_(model, x, rounds=1)  # without biases a layer is linear: once is enough
    after = preactivations(model, x)
    for (name, call), y in after.items():
        if call == 1:
            assert y.std().item() == pytest.approx(1, abs=0.01), name
    assert abs(after["shared", 2].std().item() - 1) > 0.02  # one weight cannot fit both calls
    rows = table.set_index("name")
    for (name, call), y in after.items():
        if call == 1:
            row = rows.loc[f"{name}.weight"]
            assert row["std_before"] == pytest.approx(before[name, 1].std().item(), rel=1e-5)
            assert row["std_after"] == pytest.approx(y.std().item(), rel=1e-5)
    wide = model.wide.weight.detach().double()
    scale = (wide.T @ wide).diagonal()
    assert torch.allclose(
        wide.T @ wide, scale.mean() * torch.eye(16, dtype=torch.float64), atol=1e-4
    )
    assert rows.loc["wide.weight", "weight_std_after"] == pytest.approx(wide.std().item(), rel=1e-5)
    said = rows["outcome"].to_dict()
    assert {name for name in said if said[name] != "done"} == {"norm.weight", "norm.bias"}
    assert said["norm.weight"] == "left because batch_norm, which uses it, sums over no inputs"


def test_lsuv_leaves_the_rest_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Net(), nn.Identity())
    model[0].norm.eval()  # type: ignore[union-attr]
    model.forward = lambda x: model[0](x)["y"]  # type: ignore[method-assign]
    hooks = [len(m._forward_hooks) for m in model.modules()]
    modes = [m.training for m in model.modules()]
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    norm = copy.deepcopy(model[0].norm)
    random = torch.get_rng_state()
    lsuv_(model, uneven(32, 3, 8, 8))
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert repr(model[0].norm.state_dict()) == repr(norm.state_dict())  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_lsuv_is_reproducible() -> None:
    x = uneven(16, 3, 8, 8)
    models = [Net().eval() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        lsuv_(model, x, seed=seed)
    first, same, other = (model.conv.weight for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_lsuv_can_keep_the_draw() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7))
    before = [p.detach().clone() for p in model.parameters()]
    table = lsuv_(model, uneven(50, 5), orthogonal=False, std=2.0, tolerance=1e-3)
    assert table["std_after"].tolist() == pytest.approx([2] * 4, rel=1e-3)
    assert table["outcome"].tolist() == ["done", "left because only weights are scaled"] * 2
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    ratio = weight / before[0]
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio))
    assert torch.equal(model[0].bias, before[1])  # type: ignore[arg-type]


def test_lsuv_fits_parametrized_layers() -> None:
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(5, 7))
    model, x = nn.Sequential(layer, nn.ReLU(), nn.Linear(7, 7)), uneven(50, 5)
    lsuv_(model, x)
    y = layer(x)
    assert y.std().item() == pytest.approx(1, abs=0.01)
    assert [name for name, _ in layer.named_parameters()][1:] == [
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    ]


@pytest.mark.parametrize("fault", ["dead", "capped"])
def test_lsuv_refuses_and_restores(fault: str) -> None:
    torch.manual_seed(0)
    last: nn.Module = nn.Linear(6, 4)
    if fault == "capped":
        last = nn.utils.parametrizations.spectral_norm(last)

    class Off(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (fault != "dead")

    model = nn.Sequential(nn.Linear(5, 6), Off(), last)
    x = uneven(20, 5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    message = {
        "dead": "layer '2' gives an output of std 0 on this batch.*dead.*Nothing was changed",
        "capped": "layer '2' does not use the weight that is written.*exclude='2'.*Nothing was",
    }[fault]
    with pytest.raises(ValueError, match=message):
        lsuv_(model, x)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(m._forward_hooks for m in model.modules())


def read_by(table: pd.DataFrame) -> dict[str, str]:
    """The activation that each weight reads."""
    return {row["name"]: row["activation"] for _, row in table.iterrows() if row["activation"]}


def spread(weight: Tensor) -> float:
    return weight.detach().double().square().mean().item()


def assert_gain(weight: Tensor, gain: float, fan_in: int) -> None:
    """The second moment is gain^2 / fan_in, within four standard errors."""
    ratio = spread(weight) * fan_in / gain**2
    assert abs(ratio - 1) < 4 * math.sqrt(2 / weight.numel())


def test_matched_takes_the_gain_of_what_a_layer_reads() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), uneven(8, 3, 8, 8)
    table = reinitialize_(model, "matched", x)
    assert_gain(model.conv.weight, 1.0, 27)  # the input
    assert_gain(model.wide.weight, 1.0, 16)  # a mean over positions
    assert_gain(model.shared.weight, math.sqrt(2 / (1 + 0.3**2)), 60)
    assert_gain(model.head.weight, ist.gain("tanh").forward, 60)
    assert read_by(table) == {
        **{"conv.weight": "identity", "wide.weight": "identity"},
        **{"shared.weight": "LeakyReLU", "head.weight": "tanh"},
    }
    assert not model.wide.bias.any()
    assert table.columns.tolist() == [
        *("layer", "name", "op", "call", "mean_before", "std_before", "weight_std_before"),
        *("mean_after", "std_after", "weight_std_after", "outcome", "activation"),
    ]


def test_matched_looks_through_pooling_and_dropout() -> None:
    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 20, 3), nn.Conv2d(20, 20, 3), nn.Conv2d(20, 8, 3)
            self.drop, self.head = nn.Dropout2d(), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.drop(F.max_pool2d(F.silu(self.a(x)), 2))
            x = F.adaptive_avg_pool2d(self.c(F.elu(self.b(x))), 1).flatten(1)
            y: Tensor = self.head(x)
            return y

    torch.manual_seed(0)
    model = Convolutional()
    table = reinitialize_(model, "matched", uneven(4, 3, 16, 16))
    assert [*read_by(table).values()] == ["identity", "silu", "elu", "identity"]
    assert_gain(model.b.weight, ist.gain("silu").forward, 180)
    assert_gain(model.c.weight, ist.gain("elu").forward, 180)


def test_matched_has_gain_one_behind_norms_embeddings_and_sums() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(9, 16), nn.LayerNorm(16)
            self.q, self.up, self.down, self.head = (nn.Linear(16, 16) for _ in range(4))

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            x = x + self.q(x)
            x = x + self.down(F.gelu(self.up(self.norm(x))))
            y: Tensor = self.head(x)
            return y

    table = reinitialize_(Block(), "matched", torch.arange(9).view(3, 3))
    assert read_by(table) == {
        **{"q.weight": "identity", "up.weight": "identity"},
        **{"down.weight": "gelu", "head.weight": "identity"},
    }


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU])
def test_matched_keeps_the_input_s_length(activation: type[nn.Module]) -> None:
    """A unit input is at the fixed point q = 1 of the length map, and stays there."""
    x = torch.randn(128, 512, generator=torch.Generator().manual_seed(99))
    logs = []
    for seed in range(4):
        model = nn.Sequential()
        for _ in range(10):
            model.append(nn.Linear(512, 512)).append(activation())
        reinitialize_(model, "matched", x, seed=seed)
        last = preactivations(model, x)["18", 1]
        logs.append(last.square().mean().sqrt().log().item())
    error = torch.tensor(logs).std().item() / 2
    assert abs(sum(logs) / 4) < 4 * error < math.log(2)  # an rms of 2.7 and more before


def test_matched_takes_any_function() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.clamp_min(0) - 0.5) * 2

    class Sized(nn.Module):
        """Cannot be tried on a tensor of another size; its operation has a name."""

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 100
            return torch.tanh(x)

    model = nn.Sequential(nn.Linear(100, 100), Own(), nn.Dropout(0.1), nn.Linear(100, 100))
    model.extend([Sized(), nn.Linear(100, 100)])
    reinitialize_(model, "matched", uneven(20, 100))
    own = ist.gain(lambda x: (x.clamp_min(0) - 0.5) * 2).forward
    assert_gain(model[3].weight, own, 100)  # type: ignore[arg-type]
    assert_gain(model[5].weight, ist.gain("tanh").forward, 100)  # type: ignore[arg-type]


def test_reinitialize_knows_which_side_is_the_input() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = (
                nn.Parameter(torch.ones(20, 300)),
                nn.Parameter(torch.ones(300)),
            )

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x, self.weight)

    model = nn.Sequential(Transposed(), nn.ReLU(), nn.Linear(300, 30))
    reinitialize_(model, "kaiming_normal", uneven(9, 20))
    assert_gain(model[0].weight, math.sqrt(2), 20)  # type: ignore[arg-type]
    assert_gain(model[2].weight, math.sqrt(2), 300)  # type: ignore[arg-type]
    assert not model[0].bias.any()  # type: ignore[operator]


def test_reinitialize_cures_torch_s_default() -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    for _ in range(20):
        model.append(nn.Linear(100, 100))
        model.append(nn.ReLU())
    x = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))

    def default(found: pd.DataFrame) -> str:
        return str(found.loc[found["rule"] == "default_init", "severity"].iloc[0])

    assert default(ist.diagnose(ist.measure(model, x))) == "warning"
    table = reinitialize_(model, "matched", x)
    assert default(ist.diagnose(ist.measure(model, x))) == "healthy"
    assert table["std_before"].iloc[-1] < 0.1 < table["std_after"].iloc[-1]


def test_reinitialize_refuses() -> None:
    model = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"'lsuv' is fitted to data: use lsuv_\(model, inputs\)"):
        reinitialize_(model, "lsuv", uneven(4, 3))
    with pytest.raises(ValueError, match="unknown init 'kaiming': did you mean"):
        reinitialize_(model, "kaiming", uneven(4, 3))
