"""Every init: torch's bits, the declared variance, and nothing touched that is not its own."""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from initstats import activations, inits
from initstats.inits import INITS, fans

RELU = activations.get("relu")
NAMES = list(INITS)
MEMBERS = [
    *NAMES,
    "normal(std=0.3)",
    "xavier_normal(gain=2)",
    "xavier_uniform(gain=0.5)",
    "kaiming_normal(mode=fan_out)",
    "kaiming_normal(gain=1)",
    "kaiming_uniform(mode=fan_out,gain=3)",
    "trunc_normal(std=1)",
    "orthogonal(gain=3)",
    "sparse(sparsity=0.35,std=1)",
    "matched(gain=backward)",
    "matched(gain=variance)",
]
SHAPES = [(50, 784), (784, 50), (50, 50), (16, 8, 3, 3), (8, 16, 5, 3), (32, 4, 3, 3), (8, 1, 5, 5)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
members = pytest.mark.parametrize("name", MEMBERS)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(INITS, "_families", dict(INITS._families))
    monkeypatch.setattr(INITS, "_made", dict(INITS._made))


def _seeded(seed: int = 5) -> Generator:
    return Generator().manual_seed(seed)


def _draw(name: str, shape: tuple[int, ...], seed: int = 5) -> tuple[Tensor, Tensor]:
    return inits.get(name).sample(shape, _seeded(seed), RELU)


def test_the_promised_names_are_there() -> None:
    promised = (
        "normal simplified lecun_normal lecun_uniform xavier_normal xavier_uniform kaiming_normal "
        "kaiming_uniform trunc_normal orthogonal sparse identity torch_default zeros matched "
        "mean_field mean_field_orthogonal lsuv"
    )
    assert promised.split() == NAMES


LEAKY_GAIN = math.sqrt(2 / (1 + 0.3**2))
TORCH: dict[str, Callable[..., object]] = {
    "normal": functools.partial(nn.init.normal_, std=0.01),
    "normal(std=0.3)": functools.partial(nn.init.normal_, std=0.3),
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_normal(gain=2)": functools.partial(nn.init.xavier_normal_, gain=2.0),
    "xavier_uniform": nn.init.xavier_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
    "kaiming_normal(mode=fan_out)": functools.partial(nn.init.kaiming_normal_, mode="fan_out"),
    "kaiming_normal(gain=1)": functools.partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    f"kaiming_normal(gain={LEAKY_GAIN!r})": functools.partial(nn.init.kaiming_normal_, a=0.3),
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_uniform(mode=fan_out)": functools.partial(nn.init.kaiming_uniform_, mode="fan_out"),
    "lecun_normal": functools.partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "lecun_uniform": functools.partial(nn.init.kaiming_uniform_, nonlinearity="linear"),
    "trunc_normal": functools.partial(nn.init.trunc_normal_, std=0.02, a=-0.04, b=0.04),
    "orthogonal": nn.init.orthogonal_,
    "orthogonal(gain=3)": functools.partial(nn.init.orthogonal_, gain=3),
    "lsuv": nn.init.orthogonal_,
}


@shapes
@pytest.mark.parametrize("name", TORCH)
def test_draws_are_torchs_bit_for_bit(name: str, shape: tuple[int, ...]) -> None:
    expected = torch.empty(shape)
    TORCH[name](expected, generator=_seeded())
    weight, bias = _draw(name, shape)
    assert torch.equal(weight, expected)
    assert torch.equal(bias, torch.zeros(shape[0]))


@pytest.fixture
def global_seed() -> Iterator[None]:
    """The global generator in the state of `_seeded()`, for schemes that torch ties to it."""
    with torch.random.fork_rng():
        torch.set_rng_state(_seeded().get_state())
        yield


@pytest.mark.usefixtures("global_seed")
@pytest.mark.parametrize("shape", [(50, 784), (784, 50)], ids=str)
def test_torch_default_is_what_a_linear_layer_starts_with(shape: tuple[int, int]) -> None:
    layer = nn.Linear(shape[1], shape[0])
    weight, bias = _draw("torch_default", shape)
    assert torch.equal(weight, layer.weight)
    assert torch.equal(bias, dict(layer.named_parameters())["bias"])


@pytest.mark.usefixtures("global_seed")
def test_torch_default_is_what_a_grouped_convolution_starts_with() -> None:
    layer = nn.Conv2d(8, 16, 3, groups=2)
    weight, bias = _draw("torch_default", (16, 4, 3, 3))
    assert torch.equal(weight, layer.weight)
    assert torch.equal(bias, dict(layer.named_parameters())["bias"])


@pytest.mark.usefixtures("global_seed")
@pytest.mark.parametrize("shape", [(50, 784), (784, 50)], ids=str)
def test_sparse_is_torchs_with_one_generator_for_all(shape: tuple[int, int]) -> None:
    expected = nn.init.sparse_(torch.empty(shape), 0.9)
    assert torch.equal(_draw("sparse", shape)[0], expected)


def test_simplified_is_the_lessons_expression() -> None:
    expected = torch.randn(50, 784, generator=_seeded()) / math.sqrt(784)
    assert torch.equal(_draw("simplified", (50, 784))[0], expected)


@shapes
@members
def test_sampled_variance_is_the_declared_one(name: str, shape: tuple[int, ...]) -> None:
    """Within standard errors, of weights and of biases."""
    entry = inits.get(name)
    draws = [entry.sample(shape, _seeded(seed), RELU) for seed in range(8)]
    for sampled, declared in (
        (torch.stack([w for w, _ in draws]) ** 2 * fans(shape)[0], entry.sigma_w2(shape, RELU)),
        (torch.stack([b for _, b in draws]) ** 2, entry.sigma_b2(shape, RELU)),
    ):
        if math.isnan(declared):
            assert name == "lsuv" or (name == "identity" and shape[0] == shape[1])
            continue
        sampled = sampled.double()
        error = float(sampled.std()) / math.sqrt(sampled.numel())
        assert abs(float(sampled.mean()) - declared) <= 4.5 * error + 1e-6 * declared


@pytest.mark.parametrize(
    ("name", "shape", "sigma_w2", "sigma_b2"),
    [
        ("simplified", (50, 784), 1, 0),
        ("lecun_uniform", (16, 8, 3, 3), 1, 0),
        ("kaiming_normal", (50, 784), 2, 0),
        ("kaiming_normal(mode=fan_out)", (50, 784), 2 * 784 / 50, 0),
        ("kaiming_uniform(mode=fan_out)", (16, 8, 3, 3), 2 * 8 / 16, 0),
        ("xavier_normal", (50, 784), 2 * 784 / 834, 0),
        ("torch_default", (50, 784), 1 / 3, 1 / (3 * 784)),
        ("torch_default", (16, 4, 3, 3), 1 / 3, 1 / (3 * 36)),
        ("orthogonal", (50, 784), 1, 0),
        ("orthogonal(gain=2)", (784, 50), 4 * 50 / 784, 0),
        ("orthogonal", (16, 8, 3, 3), 1, 0),
        ("orthogonal", (64, 1, 5, 5), 25 / 64, 0),
        ("trunc_normal", (50, 784), 0.7737413 * 784 * 0.02**2, 0),
        ("normal", (50, 784), 784e-4, 0),
        ("sparse", (50, 784), 784e-4 * 5 / 50, 0),
        ("zeros", (50, 784), 0, 0),
        ("identity", (50, 784), 1, 0),
        ("identity", (50, 50), math.nan, 0),
        ("lsuv", (50, 784), math.nan, 0),
    ],
)
def test_declared_variances(
    name: str, shape: tuple[int, ...], sigma_w2: float, sigma_b2: float
) -> None:
    entry = inits.get(name)
    assert entry.sigma_w2(shape, RELU) == pytest.approx(sigma_w2, rel=1e-7, nan_ok=True)
    assert entry.sigma_b2(shape, RELU) == pytest.approx(sigma_b2, rel=1e-12)


@pytest.mark.parametrize("name", ["orthogonal", "identity", "lsuv"])
@pytest.mark.parametrize("shape", [(50, 784), (784, 50), (8, 16, 5, 3), (64, 1, 5, 5)], ids=str)
def test_the_fewer_of_rows_and_columns_are_orthonormal(name: str, shape: tuple[int, ...]) -> None:
    matrix = _draw(name, shape)[0].flatten(1)
    gram = matrix @ matrix.T if shape[0] <= matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(len(gram)), atol=2e-6, rtol=0)


def test_identity_passes_square_layers_on() -> None:
    x = torch.randn(7, 50, generator=_seeded())
    assert torch.equal(x @ _draw("identity", (50, 50))[0].T, x)
    images = torch.randn(2, 8, 9, 9, generator=_seeded())
    kernel = _draw("identity", (8, 8, 3, 3))[0]
    assert torch.equal(nn.functional.conv2d(images, kernel, padding=1), images)


def test_matched_follows_the_activation_and_the_others_do_not() -> None:
    assert [name for name in NAMES if inits.get(name).follows_activation] == ["matched"]
    assert [name for name in NAMES if inits.get(name).fitted] == ["lsuv"]
    gelu, shape = activations.get("gelu"), (50, 784)
    for gain in ("forward", "backward", "variance"):
        entry, size = inits.get(f"matched(gain={gain})"), getattr(gelu.gain, gain)
        assert entry.sigma_w2(shape, gelu) == pytest.approx(size**2, rel=1e-14)
        same = inits.get(f"kaiming_normal(gain={size!r})")
        for one, other in zip(
            entry.sample(shape, _seeded(), gelu), same.sample(shape, _seeded(), RELU), strict=True
        ):
            assert torch.equal(one, other)


def test_matched_says_when_there_is_no_gain() -> None:
    step = activations.get(lambda x: (x > 0).to(x))
    with pytest.raises(ValueError, match="lambda has no backward gain: the derivative is zero"):
        inits.get("matched(gain=backward)").sample((5, 4), _seeded(), step)


@members
def test_a_draw_touches_nothing_else(name: str) -> None:
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        weight, bias = _draw(name, (6, 9))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert weight.dtype == bias.dtype == torch.float32
    assert (weight.shape, bias.shape) == ((6, 9), (6,))
    assert not weight.requires_grad


@members
def test_draws_depend_on_the_seed_alone(name: str) -> None:
    first, again = _draw(name, (20, 30)), _draw(name, (20, 30))
    assert torch.equal(first[0], again[0])
    if name != "zeros":
        assert not torch.equal(first[0], _draw(name, (20, 30), seed=6)[0])


@members
def test_entries_travel_by_name(name: str) -> None:
    entry = inits.get(name)
    assert pickle.loads(pickle.dumps(entry)) is entry


def constant(weight: Tensor, *, generator: Generator) -> None:
    """All alike."""
    weight.fill_(0.25)


def test_callables_are_inits() -> None:
    entry = inits.get(constant)
    assert (entry.name, entry.meaning) == ("constant", "All alike.")
    assert entry.sample((2, 3), _seeded(), RELU)[0].tolist() == [[0.25] * 3] * 2
    assert math.isnan(entry.sigma_w2((2, 3), RELU))
    assert pickle.loads(pickle.dumps(entry)) == entry
    assert inits.get(entry) is entry
    theirs = inits.get(nn.init.xavier_normal_)
    assert theirs.name == "xavier_normal_"
    drawn = theirs.sample((5, 4), _seeded(), RELU)[0]
    assert torch.equal(drawn, _draw("xavier_normal", (5, 4))[0])


def test_lambdas_do_not_travel() -> None:
    entry = inits.get(lambda weight, generator: weight.fill_(1))
    remedy = "init 'lambda' cannot be sent.*@register_init.*workers"
    with pytest.raises(pickle.PicklingError, match=remedy):
        pickle.dumps(entry)


@pytest.mark.usefixtures("registry")
def test_three_lines_register_a_scheme() -> None:
    @inits.init(lambda shape, std: std)
    def flat(weight: Tensor, *, generator: Generator, std: float = 0.1) -> None:
        """Uniform with a standard deviation."""
        weight.uniform_(-(3**0.5) * std, 3**0.5 * std, generator=generator)

    entry = inits.get("flat(std=0.2)")
    assert (entry.name, entry.meaning) == ("flat(std=0.2)", "Uniform with a standard deviation.")
    assert entry.sigma_w2((50, 784), RELU) == pytest.approx(784 * 0.04)
    assert float(entry.sample((50, 784), _seeded(), RELU)[0].abs().max()) <= 0.2 * 3**0.5
    flat.__module__ = "elsewhere"
    with pytest.raises(ValueError, match="init 'flat' is registered already"):
        inits.register_init()(flat)


@members
def test_what_is_declared_of_a_scheme_holds(name: str) -> None:
    entry = inits.get(name)
    for shape in ((6, 9), (9, 6)):
        weight = _draw(name, shape)[0].double()
        fewer = weight if shape == (6, 9) else weight.T
        gram = fewer @ fewer.T / fewer.square().sum(1).mean()
        orthogonal = torch.allclose(gram, torch.eye(6, dtype=torch.float64), atol=1e-5)
        assert orthogonal == (entry.orthogonal or entry.fitted)  # lsuv only starts so
    bias = _draw(name, (5000, 3))[1].double()
    uniform = float(bias.abs().max()) <= 1.01 * math.sqrt(3) * float(bias.std())
    assert entry.uniform_bias == (uniform and bool(bias.any()))


@pytest.mark.usefixtures("registry")
def test_a_scheme_may_ask_for_biases_and_the_activation() -> None:
    @inits.init(lambda shape, activation: 0.5, lambda shape, activation: 2.0)
    def shifted(
        weight: Tensor, *, generator: Generator, bias: Tensor, activation: activations.Activation
    ) -> None:
        bias.fill_(2.0)
        weight.normal_(0, 0.5, generator=generator)

    entry = inits.get("shifted")
    assert entry.follows_activation
    assert entry.sample((2, 3), _seeded(), RELU)[1].tolist() == [2.0, 2.0]
    assert entry.sigma_b2((2, 3), RELU) == 4


def kaiming_normal(weight: Tensor, *, generator: Generator) -> None:
    """Has a registered name."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("kaiming", "^unknown init 'kaiming': did you mean 'kaiming_.*available: normal, simpl"),
        ("kaiming_normal(mode=fan)", "unknown mode 'fan': did you mean 'fan_in'"),
        ("matched(gain=torch)", "unknown gain 'torch': available: forward, backward, variance"),
        ("normal(std=-1)", r"init 'normal\(std=-1\)' cannot draw"),
        ("normal(std=inf)", "draws values that are not finite"),
        ("kaiming_uniform(gain=-1)", "cannot draw"),
        ("sparse(sparsity=2)", "sparsity is a share between 0 and 1, got 2"),
        ("sparse(std=1e400)", "std is at least 0, and finite in float32, got inf"),
        ("kaiming_normal(mode=2)", "unknown mode '2': .*available: fan_in, fan_out"),
        ("trunc_normal(std=0)", "cannot draw: .*zero"),
        (kaiming_normal, "'kaiming_normal' is the name of a registered init"),
        (lambda weight: weight.normal_(), "init 'lambda' must take a `generator`"),
        (lambda weight, generator: weight + 1, "must fill `weight` in place"),
        (lambda weight, generator: weight.view(5), "init 'lambda' cannot draw: shape"),
        (7, "an init is a name or a callable, not 7"),
    ],
)
def test_what_is_no_init_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inits.get(given)


@pytest.mark.parametrize("shape", [(5,), (0, 5), ()], ids=str)
def test_what_is_no_weight_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a weight is \(out, in\[, kh, kw\]\)"):
        fans(shape)


def test_an_init_that_draws_elsewhere_is_refused() -> None:
    def elsewhere(weight: torch.Tensor, *, generator: torch.Generator) -> None:
        torch.nn.init.normal_(weight)

    with pytest.raises(ValueError, match="does not draw from the `generator` it is given"):
        inits.get(elsewhere)
