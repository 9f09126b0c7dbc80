from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

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


class Off(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def test_lsuv_refuses_all_at_once_and_restores() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), Off(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4))
    x = uneven(20, 5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(
        ValueError, match=r"'2' gives an output of std 0 .*with '4'.*dead"
    ) as raised:
        lsuv_(model, x)
    assert "exclude=['2', '4']. Nothing was changed" in str(raised.value)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(m._forward_hooks for m in model.modules())
    lsuv_(model, x, exclude=["2", "4"])  # what the message offers


def test_a_bias_is_taken_into_account() -> None:
    """One scale solves the quadratic equation; where none does, the message says what is added."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32)), uneven(40, 8)
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.bias, std=0.6)  # type: ignore[arg-type]
    lsuv_(model, x, orthogonal=False, rounds=1)
    assert [y.std().item() for y in preactivations(model, x).values()] == pytest.approx(
        [1, 1], abs=0.01
    )
    model[2].bias.data.mul_(4)  # type: ignore[operator]
    with pytest.raises(ValueError, match="layer '2' .*what is added to its output has std 2"):
        lsuv_(model, x, orthogonal=False)


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
    assert_gain(model.wide.weight, math.sqrt(2), 16)  # through a mean over positions
    assert_gain(model.shared.weight, math.sqrt(2 / (1 + 0.3**2)), 60)
    assert_gain(model.head.weight, ist.gain("tanh").forward, 60)
    assert read_by(table) == {
        "conv.weight": "identity",
        "wide.weight": "relu",
        "shared.weight": "LeakyReLU",
        "head.weight": "tanh",
    }
    assert not model.wide.bias.any()
    assert table.columns.tolist() == [
        *("layer", "name", "op", "call", "mean_before", "std_before", "weight_std_before"),
        *("mean_after", "std_after", "weight_std_after", "outcome", "activation"),
        "gain",
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
        "q.weight": "identity",
        "up.weight": "identity",
        "down.weight": "gelu",
        "head.weight": "identity",
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


def test_a_model_without_parameters_has_no_rows() -> None:
    table = reinitialize_(nn.ReLU(), "matched", uneven(4, 3))
    assert table.empty
    assert {"name", "std_after", "outcome", "activation", "gain"} <= {*table.columns}


def test_reinitialize_refuses() -> None:
    model = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"'lsuv' is fitted to data: use lsuv_\(model, inputs\)"):
        reinitialize_(model, "lsuv", uneven(4, 3))
    with pytest.raises(ValueError, match="unknown init 'kaiming': did you mean"):
        reinitialize_(model, "kaiming", uneven(4, 3))


def state_of(model: nn.Module, x: Any) -> dict[str, Any]:
    """All that a repair could move."""
    return {
        "tensors": {name: t.clone() for name, t in model.state_dict().items()},
        "attributes": {
            (name, key): value.detach().clone() if isinstance(value, Tensor) else id(value)
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if key in ("training", "weight") or key.startswith("_forward")
        },
        "identities": {name: id(p) for name, p in model.named_parameters()},
        "trained": {name: p.requires_grad for name, p in model.named_parameters()},
        "random": torch.get_rng_state(),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


class Standardized(nn.Linear):
    """A layer that normalizes its weight itself."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean(1, keepdim=True)
        return F.linear(x, (self.weight - mean) / self.weight.std(1, keepdim=True), self.bias)


class Interrupted(nn.Module):
    """Raises at its third pass, when repairs are under way."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error, self.passes = error, itertools.count(1)

    def forward(self, x: Tensor) -> Tensor:
        if next(self.passes) > 2:
            raise self.error
        return x


REFUSED: dict[str, tuple[Callable[[], nn.Module], type[BaseException]]] = {
    "interrupted": (lambda: Interrupted(KeyboardInterrupt), KeyboardInterrupt),
    "failing": (lambda: Interrupted(RuntimeError), RuntimeError),
    "dead": (lambda: nn.Sequential(Off(), nn.Linear(16, 3)), ValueError),
}
NORMED: dict[str, Callable[[], nn.Module]] = {
    "old spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(16, 9)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(16, 9)),
    "square spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(16, 16)),
    "evaluated": lambda: parametrizations.spectral_norm(nn.Linear(16, 9)).eval(),
    "old and evaluated": lambda: nn.utils.spectral_norm(nn.Linear(16, 9)).eval(),
    "two norms": lambda: parametrizations.spectral_norm(
        parametrizations.weight_norm(nn.Linear(16, 9))
    ),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(16, 9)),
    "standardized": lambda: Standardized(16, 9),
}


def chained(last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), last)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_leaves_the_model_bit_for_bit(name: str, norm: Any) -> None:
    build, error = REFUSED[name]
    model = chained(nn.Sequential(norm(nn.Linear(16, 16)), build()))
    model[0].bias.requires_grad_(False)
    x = uneven(50, 5)
    if name == "dead":
        model(x)
    before = state_of(model, x)
    repairs: list[Callable[..., pd.DataFrame]] = [lsuv_]
    repairs += [] if name == "dead" else [functools.partial(reinitialize_, init="kaiming_normal")]
    for repair in repairs:
        with pytest.raises(error):
            repair(model, inputs=x)
        assert same(state_of(model, x), before)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
@pytest.mark.parametrize("repair", ["matched", "normal(std=0.1)"])
@pytest.mark.parametrize("name", NORMED)
def test_what_a_norm_scales_is_drawn_and_says_so(name: str, repair: str) -> None:
    model, x = chained(NORMED[name]()), uneven(50, 5)
    layer: Any = model[3]
    modes = [m.training for m in model.modules()]
    with torch.no_grad():
        old = layer.weight.clone()
    vectors = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    table = reinitialize_(model, repair, x)
    fixed = table[table["weight_std_after"].notna() & table["name"].str.match("3.*weight")]
    for outcome in fixed["outcome"]:
        assert outcome.startswith("drawn, not scaled because the scale of the weight")
    moved = [name for name, x in layer.named_buffers() if not torch.equal(x, vectors[name])]
    assert bool(moved) == (name != "standardized")
    assert all(f"3.{name}" in fixed["outcome"].iloc[-1] for name in moved)
    assert [m.training for m in model.modules()] == modes
    seen: list[Tensor] = []
    given = [F.linear]

    def see(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        seen.append(weight.detach().double())
        return given[0](x, weight, bias)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(F, "linear", see)
        for mode in (layer.training, True, False):  # the vectors of the norm went along
            layer.train(mode)(x @ torch.ones(5, 16))
    assert not torch.allclose(seen[0].float(), old, atol=0.05)
    for weight in seen:
        assert torch.allclose(weight, seen[0], atol=1e-5)
        assert weight.std().item() == pytest.approx(fixed["weight_std_after"].iloc[-1], rel=1e-4)
        if "spectral" in name or "evaluated" in name or name == "two norms":
            assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
@pytest.mark.parametrize("name", NORMED)
def test_what_a_norm_scales_cannot_be_fitted(name: str) -> None:
    """All such layers are named at once, and excluding them is a way on."""
    model = nn.Sequential(chained(NORMED[name]()), nn.Tanh(), NORMED["spectral_norm"]())
    model[2] = parametrizations.spectral_norm(nn.Linear(model[0](uneven(50, 5)).shape[1], 4))
    x = uneven(50, 5)
    before = state_of(model, x)
    with pytest.raises(
        ValueError, match="'0.3' cannot be scaled, and so it is with '2': the scale"
    ):
        lsuv_(model, x)
    assert same(state_of(model, x), before)
    table = lsuv_(model, x, exclude=["0.3", "2"])
    assert table.set_index("name")["outcome"]["0.0.weight"] == "done"
    assert model.get_submodule("0.0")(x).std().item() == pytest.approx(1, abs=0.01)


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).T


def test_a_weight_is_drawn_as_near_as_its_parametrization_allows() -> None:
    torch.manual_seed(0)
    layer: Any = nn.Linear(16, 16)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    model, x = nn.Sequential(layer, nn.ReLU(), nn.Linear(16, 4)), uneven(50, 16)
    near = "done, as near as the model's own computation of it allows"
    for table in (reinitialize_(model, "normal(std=0.3)", x), lsuv_(model, x)):
        said = table.set_index("name")["outcome"]
        assert said["0.parametrizations.weight.original"] == near
        assert torch.equal(layer.weight, layer.weight.T)
    assert layer(x).std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("parametrize", ["spectral_norm", "orthogonal"])
def test_an_orthogonal_draw_passes_norms(parametrize: str) -> None:
    """The largest singular value of an orthogonal matrix is 1: dividing by it changes nothing."""
    torch.manual_seed(0)
    layer: Any = getattr(parametrizations, parametrize)(nn.Linear(16, 16))
    old = layer.weight.detach().clone()
    table = reinitialize_(layer, "orthogonal", uneven(50, 16))
    assert {outcome.partition(";")[0] for outcome in table["outcome"]} == {"done"}
    assert not torch.allclose(layer.weight, old, atol=0.1)
    for _ in (layer.train(), layer.eval()):  # the vectors went along
        weight = layer.weight.detach().double()
        assert torch.allclose(weight @ weight.T, torch.eye(16, dtype=torch.float64), atol=1e-4)


def test_masks_stay() -> None:
    torch.manual_seed(10)
    layer: Any = nn.Linear(64, 64)
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    model, x = nn.Sequential(layer, nn.ReLU()), uneven(50, 64)
    mask = layer.weight_mask.bool().clone()
    reinitialize_(model, "normal(std=3)", x)
    assert torch.equal(layer.weight != 0, mask)  # without another pass, too
    assert layer.weight[mask].std().item() == pytest.approx(3, rel=4 / 64)
    lsuv_(model, x)
    assert not layer.weight[~mask].any()
    assert layer(x).std().item() == pytest.approx(1, abs=0.01)


class Language(nn.Module):
    """An embedding with a row for padding that is the head's weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 32, padding_idx=5)
        self.body, self.norm = nn.Linear(32, 32), nn.LayerNorm(32)
        self.head = nn.Linear(32, 60, bias=False)
        self.head.weight = self.embed.weight
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.body(self.embed(x))))
        return y


def test_tied_weights_are_treated_once_and_padding_stays() -> None:
    torch.manual_seed(0)
    model, tokens = Language(), torch.randint(0, 60, (16, 20))
    table = reinitialize_(model, "lecun_normal", tokens).set_index("name")
    assert not model.embed.weight[5].any()
    assert model.embed.weight is model.head.weight
    rows = model.embed.weight.detach()[torch.arange(60) != 5]
    assert rows.std().item() == pytest.approx(1 / math.sqrt(32), rel=0.08)
    assert table.loc["embed.weight", "outcome"] == "done, tied to head.weight"
    assert table.loc["head.weight", "outcome"] == "done, tied to embed.weight"
    assert table.loc["idle", "outcome"] == "left because no operation that uses it was seen"
    table = lsuv_(model, tokens).set_index("name")
    assert not model.embed.weight[5].any()
    measured = ist.measure(model, tokens)
    heads = (measured["name"] == "head") & (measured["tensor"] == "preactivation")
    use: Any = measured[heads].iloc[0]
    for name in ("embed.weight", "head.weight"):  # the use that was fitted, not the look-up
        row: Any = table.loc[name]
        assert [row["layer"], row["op"], row["call"]] == [use["layer"], "linear", 1]
        assert table.loc[name, "std_after"] == pytest.approx(use["std"], rel=1e-5)
    for y in preactivations(model, tokens).values():
        assert y.std().item() == pytest.approx(1, abs=0.0101) or y.shape[-1] == 32
    assert preactivations(model, tokens)["head", 1].std().item() == pytest.approx(1, abs=0.0101)


@pytest.mark.parametrize(
    ("exclude", "kept"),
    [
        ("body", {"body.weight", "body.bias"}),
        (["head.*", "bod?"], {"embed.weight", "head.weight", "body.weight", "body.bias"}),
        ("body.bias", {"body.bias"}),
    ],
)
def test_what_is_excluded_stays(exclude: Any, kept: set[str]) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 60, (16, 20))
    repairs: list[Callable[[nn.Module], pd.DataFrame]] = [
        lambda model: lsuv_(model, tokens, exclude=exclude, tolerance=0.05, rounds=30),
        lambda model: reinitialize_(model, "xavier_uniform", tokens, exclude=exclude),
    ]
    for repair in repairs:
        model = Language()
        model.body.bias.data.mul_(0.01)
        before = {name: p.clone() for name, p in model.named_parameters(remove_duplicate=False)}
        said = repair(model).set_index("name")["outcome"]
        for name, parameter in model.named_parameters(remove_duplicate=False):
            layer = name.split(".")[0] in ("embed", "body", "head")
            assert torch.equal(parameter, before[name]) == (name in kept or not layer), name
            assert said[name].startswith("left because it is excluded") == (name in kept)


def test_unknown_patterns_are_refused() -> None:
    hint = "='haed' matches no module and no parameter: did you mean 'head'.*there are: .*body"
    for argument in ("include", "exclude"):
        with pytest.raises(ValueError, match=argument + hint):
            lsuv_(Language(), torch.arange(9), **{argument: "haed"})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"exclude=ReLU\(\): patterns of names are expected"):
        lsuv_(Language(), torch.arange(9), exclude=[nn.ReLU()])  # type: ignore[list-item]
    deep_model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(40)])
    with pytest.raises(ValueError, match="did you mean '17.weight'.*the nearest are: ") as raised:
        lsuv_(deep_model, torch.ones(3, 2), exclude="17.wieght")
    assert len(str(raised.value)) < 600


def test_what_is_frozen_stays_unless_asked() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), uneven(40, 8)
    model[0].requires_grad_(False)
    before = model[0].weight.clone()  # type: ignore[operator]
    table = lsuv_(model, x)
    assert torch.equal(model[0].weight, before)  # type: ignore[arg-type]
    reason = "left because it is frozen (requires_grad is False)"
    assert table["outcome"].tolist() == [reason, reason, "done", "done"]
    assert set(lsuv_(model, x, frozen=True)["outcome"]) == {"done"}
    assert not model[0].weight.requires_grad
    assert model[0](x).std().item() == pytest.approx(1, abs=0.01)


def test_what_is_computed_with_a_frozen_weight_stays() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.up = nn.Linear(8, 8), nn.Linear(8, 8)
            self.a, self.b = nn.Parameter(torch.ones(2, 8)), nn.Parameter(torch.zeros(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.up(F.linear(x, self.fc.weight + self.b @ self.a))
            return y

    model = Adapted()
    model.fc.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    said = lsuv_(model, uneven(40, 8)).set_index("name")["outcome"]
    assert {name for name in said.index if said[name] == "done"} == {"up.weight", "up.bias"}
    assert said["fc.weight"] == "left because it is frozen (requires_grad is False)"
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (said[name] != "done")


def test_an_expert_that_no_sample_reaches_is_left() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            chosen = (x[:, 0] > 0).long()
            return torch.cat([e(x[chosen == i]) for i, e in enumerate(self.experts)])

    said = lsuv_(Routed(), uneven(40, 8)).set_index("name")["outcome"]
    assert said["experts.1.weight"] == "done"
    assert said["experts.2.weight"] == "left because no entry of the batch reaches it"


def test_what_a_pass_moves_is_put_back() -> None:
    """An embedding with a largest norm shrinks its rows whenever they are looked up."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 8, max_norm=0.5), nn.Linear(8, 4))
    before = model[0].weight.detach().clone()  # type: ignore[operator]
    lsuv_(model, torch.arange(9))
    assert torch.equal(model[0].weight, before)  # type: ignore[arg-type]


def test_gain_of_functions_of_any_parameters() -> None:
    class Two(nn.Module):
        def __init__(self, phi: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.phi, self.a, self.b = phi, nn.Linear(64, 256), nn.Linear(256, 256)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.b(self.phi(self.a(x)))
            return y

    functions: list[tuple[Callable[[Tensor], Tensor], float]] = [
        (lambda x: F.leaky_relu(x, 1 / 3), math.sqrt(2 / (1 + 1 / 9))),
        (nn.PReLU(init=0.5), math.sqrt(2 / (1 + 0.25))),
        (nn.PReLU(256, init=0.5), math.sqrt(2 / (1 + 0.25))),
        (lambda x: F.relu(x) * 3, math.sqrt(2) / 3),
        (lambda x: x * torch.sigmoid(x), ist.gain("silu").forward),
        (lambda x: F.dropout(F.relu(x), 0.1, training=False), math.sqrt(2)),
    ]
    for phi, gain in functions:
        model = Two(phi)
        reinitialize_(model, "matched", uneven(9, 64))
        assert_gain(model.a.weight, 1.0, 64)
        assert_gain(model.b.weight, gain, 256)


def deep(layers: int, width: int = 64) -> nn.Module:
    model = nn.Sequential()
    for _ in range(layers):
        model.append(nn.Linear(width, width)).append(nn.Tanh())
    return model


class Applied(nn.Module):
    """A function of the input and of two weights."""

    def __init__(self, run: Callable[[Tensor, Tensor, Tensor], Tensor], *shapes: Any) -> None:
        super().__init__()
        self.run = run
        self.a, self.b = (nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.a, self.b)


def summed(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("bh,ho->bo", torch.einsum("bi,ih->bh", x, a).relu(), b)


def residual(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return x * 3 + (x * 3 @ a).relu() @ b


def attending(width: int, units: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True)
    return nn.Sequential(nn.Linear(10, width), layer, nn.Linear(width, units))


AFTER: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "deep": (lambda units: nn.Sequential(deep(20), nn.Linear(64, units)), (64, 64)),
    "one input": (
        lambda units: nn.Sequential(nn.Linear(1, 32), nn.Tanh(), deep(1, 32), nn.Linear(32, units)),
        (64, 1),
    ),
    "sigmoid": (
        lambda units: nn.Sequential(nn.Linear(50, 20), nn.Sigmoid(), nn.Linear(20, units)),
        (64, 50),
    ),
    "raw": (
        lambda units: nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, units)),
        (64, 10),
    ),
    "vision": (
        lambda units: nn.Sequential(
            *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.LeakyReLU(0.3)),
            *(nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, units, 1)),
        ),
        (16, 3, 8, 8),
    ),
    "pooled": (
        lambda units: nn.Sequential(
            *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(16, units),
        ),
        (16, 3, 9, 9),
    ),
    "transformer": (lambda units: attending(32, units), (8, 12, 10)),
    "einsum": (lambda units: Applied(summed, (30, 120), (120, units)), (64, 30)),
    "residual": (
        lambda units: nn.Sequential(
            Applied(residual, (64, 512), (512, 64)), nn.ReLU(), nn.Linear(64, units)
        ),
        (64, 64),
    ),
}


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("units", [1, 2, 3, 10])
@pytest.mark.parametrize("name", AFTER)
def test_after_lsuv_diagnose_has_nothing_to_say(name: str, units: int) -> None:
    torch.manual_seed(units)
    build, shape = AFTER[name]
    model = build(units)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    lsuv_(model, x, orthogonal=units != 3)
    found = ist.diagnose(ist.measure(model, x))
    assert found[found["severity"] <= "warning"].empty, found.to_string()


def test_one_number_has_no_std() -> None:
    """Torch warns of it; the warning would be an error here."""
    model, x = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)), uneven(32, 1)
    for table in (lsuv_(model, x), reinitialize_(model, "matched", x)):
        assert table["weight_std_after"].isna().all()
        assert (table["std_after"] > 0).all()
    assert reinitialize_(model, "matched", x[:1])["std_after"].isna().all()
    with pytest.raises(ValueError, match="std nan on this batch, and .* a single number"):
        lsuv_(model, x[:1])


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.states = nn.LSTM(8, 16, 2, dropout=0.4, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.dropout(self.states(x)[0][:, -1], 0.5, self.training))
        return out


def test_dropout_that_moves_what_is_fitted_is_named() -> None:
    torch.manual_seed(0)
    model, x = Classifier(), torch.randn(32, 10, 8)
    with pytest.raises(ValueError, match=r"'head' has std .* dropout, .* model.eval\(\) before"):
        lsuv_(model, x)
    lsuv_(model.eval(), x)
