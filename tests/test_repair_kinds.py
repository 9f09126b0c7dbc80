"""Repairs of weights of every kind: each is judged by the outputs that the model itself notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from initstats import lsuv_, reinitialize_

pytestmark = pytest.mark.filterwarnings("ignore:.*(weight_norm|Lazy|oneDNN).*")

Run = Callable[[Any, Tensor], Tensor]


class Noting(nn.Module):
    """A model that notes what its products make."""

    def __init__(self, run: Run, **parts: Any) -> None:
        super().__init__()
        self.run, self.outputs = run, list[Tensor]()
        for name, part in parts.items():
            setattr(self, name, part)

    def note(self, y: Tensor) -> Tensor:
        self.outputs.append(y.detach().double().clone())
        return y

    def forward(self, x: Tensor) -> Tensor:
        self.outputs = []
        return self.run(self, x)

    def stds(self, x: Tensor) -> list[float]:
        with torch.no_grad():
            self(x)
        return [y.std().item() for y in self.outputs]


def chain(*layers: nn.Module) -> Noting:
    """Layers in a row; the outputs of those with weights are noted."""

    def run(model: Any, x: Tensor) -> Tensor:
        for layer in model.layers:
            x = layer(x)
            if any(True for _ in layer.parameters()):
                model.note(x)
        return x

    return Noting(run, layers=nn.ModuleList(layers))


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.3)


def batch(*shape: int) -> Tensor:
    """Entries whose size and mean differ by feature."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x * torch.linspace(0.5, 2, shape[-1]) + torch.linspace(-1, 1, shape[-1])


class Equalized(nn.Module):
    """A linear layer with the scale of its fan-in at run time."""

    def __init__(self, inputs: int, units: int, kind: str) -> None:
        super().__init__()
        self.weight, self.bias = weight(units, inputs), weight(units)
        self.scale: Any = 0.01 * inputs**-0.5
        if kind == "buffer":
            scale = self.scale
            del self.scale
            self.register_buffer("scale", torch.tensor(scale))
        elif kind == "attribute":
            self.scale = torch.tensor(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * 0.01)


def experts(model: Any, x: Tensor) -> Tensor:
    return torch.cat([model.note(h @ model.w[i]) for i, h in enumerate(x.chunk(4))])


def stacked(x: Tensor) -> Tensor:
    return x.view(4, 16, 16)


def tied(model: Any, x: Tensor) -> Tensor:
    y: Tensor = F.linear(model.note(model.encoder(x)), model.encoder.weight.t())
    return y


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    return layer


def noted(run: Run) -> Run:
    return lambda model, x: model.note(run(model, x))


X = batch(64, 16)
IMAGE = batch(4, 8, 7, 7)
KINDS: dict[str, Callable[[], tuple[Noting, Tensor]]] = {
    "grouped": lambda: (
        chain(nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 16, 3, groups=16)),
        IMAGE,
    ),
    "patches": lambda: (chain(nn.Conv2d(8, 12, 3, stride=3)), IMAGE),
    "left": lambda: (
        Noting(lambda m, x: m.note(m.w @ x) + m.b, w=weight(20, 64), b=weight(20, 1)),
        X,
    ),
    "right": lambda: (
        Noting(lambda m, x: m.note(x @ m.w) + m.b, w=weight(16, 20), b=weight(20)),
        X,
    ),
    "in place": lambda: (
        Noting(lambda m, x: m.note(x @ m.w).add_(m.b), w=weight(16, 20), b=weight(20)),
        X,
    ),
    "einsum": lambda: (
        Noting(noted(lambda m, x: torch.einsum("zq,qr->zr", x, m.w)), w=weight(16, 20)),
        X,
    ),
    "einsum, heads": lambda: (
        Noting(noted(lambda m, x: torch.einsum("bi,hio->bho", x, m.w)), w=weight(4, 16, 5)),
        X,
    ),
    "bmm": lambda: (Noting(noted(lambda m, x: torch.bmm(stacked(x), m.w)), w=weight(4, 16, 12)), X),
    "baddbmm": lambda: (
        Noting(
            noted(lambda m, x: torch.baddbmm(m.b, stacked(x), m.w)),
            w=weight(4, 16, 12),
            b=weight(4, 1, 12),
        ),
        X,
    ),
    "experts in turn": lambda: (Noting(experts, w=weight(4, 16, 12)), X),
    "expanded": lambda: (
        Noting(noted(lambda m, x: torch.bmm(stacked(x), m.w.expand(4, -1, -1))), w=weight(16, 12)),
        X,
    ),
    "functional": lambda: (
        Noting(noted(lambda m, x: F.linear(x, m.fc.weight)), fc=nn.Linear(16, 9)),
        X,
    ),
    "forward": lambda: (Noting(noted(lambda m, x: m.fc.forward(x)), fc=nn.Linear(16, 9)), X),
    "detached": lambda: (Noting(noted(lambda m, x: x @ m.w.data), w=weight(16, 9)), X),
    "bilinear": lambda: (
        Noting(noted(lambda m, x: m.f(x, x.flip(0))), f=nn.Bilinear(16, 16, 7)),
        X,
    ),
    "old weight_norm": lambda: (
        chain(
            nn.utils.weight_norm(nn.Linear(16, 9)),
            nn.Tanh(),
            nn.utils.weight_norm(nn.Linear(9, 9), dim=None),  # type: ignore[arg-type]
        ),
        X,
    ),
    "new weight_norm": lambda: (
        chain(
            parametrizations.weight_norm(nn.Linear(16, 9)),
            nn.Tanh(),
            parametrizations.weight_norm(nn.Linear(9, 9), dim=1),
        ),
        X,
    ),
    "weight_norm of kernels": lambda: (
        chain(
            nn.utils.weight_norm(nn.Conv2d(8, 9, 3)),
            nn.Tanh(),
            parametrizations.weight_norm(nn.ConvTranspose2d(9, 9, 3, 2)),
        ),
        IMAGE,
    ),
    "pruned": lambda: (
        chain(
            pruned(nn.Linear(16, 9)),
            nn.Tanh(),
            pruned(nn.Linear(9, 9)),
        ),
        X,
    ),
    **{
        f"equalized by {kind}": lambda kind=kind: (  # type: ignore[misc]
            chain(Equalized(16, 12, kind), nn.ReLU(), Equalized(12, 12, kind)),
            X,
        )
        for kind in ("number", "buffer", "attribute")
    },
    "equalized, turned": lambda: (
        Noting(noted(lambda m, x: x @ (m.w * 0.02).t()), w=weight(16, 16)),
        X,
    ),
    "bfloat16": lambda: (
        chain(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 9)).to(torch.bfloat16),
        X.to(torch.bfloat16),
    ),
    "float64": lambda: (chain(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 9)).double(), X.double()),
    "lazy": lambda: (chain(nn.LazyLinear(9), nn.ReLU(), nn.LazyConv1d(5, 1)), stacked(X)),
    "tied": lambda: (Noting(tied, encoder=nn.Linear(16, 9)), X),
    "factors": lambda: (
        Noting(
            noted(lambda m, x: F.linear(x, m.f.weight + m.b @ m.a)),
            f=nn.Linear(16, 9),
            a=weight(4, 16),
            b=weight(9, 4),
        ),
        X,
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Noting, Tensor]:
    torch.manual_seed(0)
    if request.param == "lazy":
        return chain(nn.LazyLinear(9), nn.ReLU(), nn.LazyLinear(4)), X
    return KINDS[request.param]()


def test_lsuv_fits_every_kind(kind: tuple[Noting, Tensor]) -> None:
    model, x = kind
    table = lsuv_(model, x)
    stds = model.stds(x)
    assert stds == pytest.approx([1] * len(stds), abs=0.0101)
    done = table[table["outcome"] == "done"]
    assert len(done) >= 1
    assert done["std_after"].to_numpy() == pytest.approx([1] * len(done), abs=0.0101)


def test_lsuv_scales_every_kind(kind: tuple[Noting, Tensor]) -> None:
    model, x = kind
    model.stds(x)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    table = lsuv_(model, x, orthogonal=False, rounds=30, tolerance=0.02).set_index("name")
    stds = model.stds(x)
    assert stds == pytest.approx([1] * len(stds), abs=0.0201)
    for name, parameter in model.named_parameters():
        if table.loc[name, "outcome"] != "done":
            assert torch.equal(parameter, before[name])


TRANSPOSED = [(2, 2, 1), (3, 2, 1), (4, 2, 2), (3, 3, 4)]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "groups"), TRANSPOSED)
def test_transposed_convolutions(rank: int, kernel: int, stride: int, groups: int) -> None:
    """Far from the border a unit sums inputs * kernel / stride entries, on average."""
    torch.manual_seed(0)
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    model = chain(layer(8, 64, kernel, stride, groups=groups))
    size = {1: 60, 2: 16, 3: 7}[rank]
    x = torch.randn(4, 8, *[size] * rank, generator=torch.Generator().manual_seed(2))
    reinitialize_(model, "lecun_normal", x)
    model(x)
    inner = model.outputs[0]
    for axis in range(2, inner.ndim):
        inner = inner.narrow(axis, kernel, inner.shape[axis] - 2 * kernel)
    rms = inner.square().mean().sqrt().item()
    entries = layer(8, 64, kernel, stride, groups=groups).weight.numel()
    assert rms == pytest.approx(1, abs=4 / math.sqrt(2 * entries) + 0.03)
    lsuv_(model, x)
    assert model.stds(x) == pytest.approx([1], abs=0.0101)


def gates(parameter: Tensor, count: int) -> Iterator[Tensor]:
    yield from parameter.detach().double().chunk(count)


def assert_orthogonal(matrix: Tensor) -> None:
    rows = matrix.flatten(1)
    square = rows @ rows.T if len(rows) <= rows[0].numel() else rows.T @ rows
    assert torch.allclose(square, torch.eye(len(square), dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (nn.LSTM(16, 8, 2, bidirectional=True, batch_first=True), 4),
        (nn.LSTM(16, 8, proj_size=3, batch_first=True), 4),
        (nn.GRU(16, 8, batch_first=True, bias=False), 3),
        (nn.RNN(16, 8, nonlinearity="relu"), 1),
        (nn.LSTMCell(16, 8), 4),
        (nn.GRUCell(16, 8), 3),
        (nn.RNNCell(16, 8), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_gates_are_drawn_one_by_one(layer: nn.Module, count: int) -> None:
    model = nn.Sequential(layer)
    x = X if isinstance(layer, nn.RNNCellBase) else stacked(X)
    table = reinitialize_(model, "orthogonal", x).set_index("name")
    assert set(table["outcome"]) == {"done"}
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            assert not parameter.any()
            continue
        for gate in gates(parameter, 1 if "_hr" in name else count):
            assert_orthogonal(gate)


@pytest.mark.parametrize("reads", ["itself", "another", "others"])
def test_attention_is_drawn_by_its_projections(reads: str) -> None:
    sizes = {"kdim": 6, "vdim": 7} if reads == "others" else {}
    layer = nn.MultiheadAttention(16, 4, batch_first=True, **sizes)
    x = stacked(X)
    memory = x + 1
    other = {"itself": (x, x), "another": (memory, memory), "others": (x[..., :6], x[..., :7])}
    table = reinitialize_(layer, "orthogonal", (x, *other[reads]))
    assert set(table["outcome"]) == {"done"}
    for name, parameter in layer.named_parameters():
        if parameter.ndim > 1:
            for matrix in gates(parameter, 3 if name == "in_proj_weight" else 1):
                assert_orthogonal(matrix)
        else:
            assert not parameter.any()


@pytest.mark.parametrize(
    ("name", "count"),
    [("bmm", 4), ("baddbmm", 4), ("experts in turn", 4), ("grouped", 4), ("tied", 1)],
)
def test_every_matrix_of_a_stack_is_drawn_on_its_own(name: str, count: int) -> None:
    model, x = KINDS[name]()
    reinitialize_(model, "orthogonal", x)
    stack = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
    for matrix in stack.detach().double().chunk(count):
        assert_orthogonal(matrix[0] if stack.ndim == 3 else matrix)


def test_every_channel_is_drawn_on_its_own() -> None:
    layer = nn.Conv2d(8, 16, 3, groups=8)
    reinitialize_(layer, "orthogonal", IMAGE)
    for group in layer.weight.detach().double().chunk(8):
        assert_orthogonal(group)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding=2, groups=2),
        nn.ConvTranspose2d(8, 8, 3, padding=1, groups=4),
    ],
)
def test_identity_passes_the_input_on(layer: nn.Module) -> None:
    reinitialize_(layer, "identity", IMAGE)
    assert torch.allclose(layer(IMAGE), IMAGE)


FAN_IN = {
    "left": 64,
    "right": 16,
    "einsum": 16,
    "einsum, heads": 16,
    "bmm": 16,
    "baddbmm": 16,
    "experts in turn": 16,
    "expanded": 16,
    "functional": 16,
    "forward": 16,
    "bilinear": 256,
    "equalized by number": 16,
    "equalized by buffer": 16,
    "equalized by attribute": 16,
    "old weight_norm": 16,
    "new weight_norm": 16,
    "patches": 72,
    "grouped": 18,
    "factors": 16,
}


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("name", FAN_IN)
def test_the_weight_that_is_used_has_the_scale(name: str) -> None:
    """Under random signs, the second moment of an output is fan_in times that of the weights."""
    torch.manual_seed(0)
    model, x = KINDS[name]()
    means = {"normal(std=0.5)": FAN_IN[name] / 4, "lecun_normal": 1.0}
    for init, mean in means.items():
        squares = []
        for seed in range(3):
            reinitialize_(model, init, x, seed=seed)
            signs = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(seed)) * 2.0
            model(signs - 1)
            squares.append(model.outputs[0].square().mean().item())
        spread = torch.tensor(squares).std().item() / 3**0.5
        assert abs(sum(squares) / 3 - mean) < max(6 * spread, 0.1 * mean)
        assert spread < 0.2 * mean


def test_a_multiple_of_a_bias_is_what_the_scheme_draws() -> None:
    torch.manual_seed(0)
    model = chain(Equalized(16, 400, "number"))
    reinitialize_(model, "mean_field(sigma_b=0.5)", X)
    bias = model.layers[0].bias * 0.01  # type: ignore[index, union-attr]
    assert bias.std().item() == pytest.approx(0.5, rel=4 / math.sqrt(800))
