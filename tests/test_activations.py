"""Derivative = autograd; gains = exact arithmetic; what is no activation is refused."""

from __future__ import annotations

import functools
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initstats import activations, gain
from initstats.activations import ACTIVATIONS, Activation, Facts
from initstats.activations.tailoring import tailored_slope
from initstats.gaussian import derivative_of

NAMES = list(ACTIVATIONS)
MEMBERS = [
    *NAMES,
    "shifted_relu(shift=-1.5)",
    "leaky_relu(negative_slope=0.3)",
    "general_relu(leak=0.2,sub=0.3,maxv=1.5)",
    "general_relu(leak=-0.5,maxv=2)",
    "general_relu(maxv=inf)",
    "prelu(slope=-1)",
    "rrelu(upper=1)",
    "tailored_relu(depth=100)",
    "elu(alpha=0.5)",
    "celu(alpha=2)",
    "softplus(beta=3)",
    "hardtanh(min_val=-0.5,max_val=3)",
]
ENTRIES = [pytest.param(activations.get(name), id=name) for name in MEMBERS]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(ACTIVATIONS, "_families", dict(ACTIVATIONS._families))
    monkeypatch.setattr(ACTIVATIONS, "_made", dict(ACTIVATIONS._made))


def test_the_promised_names_are_there() -> None:
    promised = (
        "identity relu shifted_relu leaky_relu general_relu prelu rrelu tailored_relu relu6 "
        "elu celu selu gelu gelu_tanh silu mish softplus hardswish squared_relu tanh sigmoid "
        "hardtanh softsign erf sin"
    )
    assert promised.split() == NAMES


SLOPE = 0.430522948502402686  # by bisection in thirty digits: a relu tailored to 50 layers

TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": nn.Identity(),
    "relu": F.relu,
    "shifted_relu": lambda x: F.relu(x) - 0.5,
    "leaky_relu": F.leaky_relu,
    "general_relu": lambda x: torch.minimum(F.leaky_relu(x, 0.1) - 0.4, torch.tensor(6.0).to(x)),
    "prelu": nn.PReLU(),
    "rrelu": functools.partial(F.rrelu, training=False),
    "tailored_relu": lambda x: F.leaky_relu(x, tailored_slope(50)) * _tailored_gain(),
    "relu6": F.relu6,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "squared_relu": lambda x: F.relu(x) ** 2,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardtanh": F.hardtanh,
    "softsign": F.softsign,
    "erf": torch.erf,
    "sin": torch.sin,
}


def _tailored_gain() -> float:
    return math.sqrt(2 / (1 + tailored_slope(50) ** 2))


def _inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    """Ordinary, tiny, huge and special values; the length leaves a remainder after vectors."""
    special = [0.0, -0.0, 1e-40, -1e-40, 1e30, -1e30, math.inf, -math.inf, math.nan]
    random = 4 * torch.randn(1001, generator=torch.Generator().manual_seed(3))
    return torch.cat([random, torch.tensor(special)]).to(dtype)


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_torchs_bit_for_bit(name: str) -> None:
    """But for mish: a quicker way to the same numbers, each as near to the truth as torch's."""
    x, rounding = _inputs(), 6 * 2.0**-24 if name == "mish" else 0.0
    with torch.no_grad():
        torch.testing.assert_close(
            activations.get(name)(x), TORCH[name](x), rtol=rounding, atol=0, equal_nan=True
        )


@pytest.mark.parametrize(
    ("name", "exact"),
    [("mish", lambda x: x * mp.tanh(mp.log1p(mp.exp(x)))), ("tanh", mp.tanh)],
)
@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 2.0**-24), (torch.float64, 2.0**-53)])
def test_what_is_not_torchs_is_right_to_the_last_digits(
    name: str, exact: Callable[[float], float], dtype: torch.dtype, unit: float
) -> None:
    x = torch.cat([torch.linspace(-80, 80, 6401), torch.tensor([1e-30, -1e-30, 1e30])]).to(dtype)
    result = torch.empty_like(x)
    write = activations.get(name).out_function
    assert write is not None
    write(x, result)
    for value, found in zip(x.tolist(), result.tolist(), strict=True):
        assert abs(found - exact(value)) <= 5 * unit * abs(exact(value))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_writing_into_a_tensor_gives_the_same(entry: Activation, dtype: torch.dtype) -> None:
    x, integer = _inputs(dtype), torch.int32 if dtype == torch.float32 else torch.int64
    kept, result = x.clone(), torch.full_like(x, 7)
    assert entry.out_function is not None
    entry.out_function(x, result)
    expected = entry(x)
    units = 2 if entry.name == "tanh" else 0  # in the last place, numpy's being another way to it
    apart = (expected.view(integer).long() - result.view(integer)).abs()
    assert ((apart <= units) | (expected.isnan() & result.isnan())).all()
    assert torch.equal(x.view(integer), kept.view(integer))


@pytest.mark.parametrize("name", [name for name in MEMBERS if activations.get(name).out_backward])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_come_back_as_autograd_brings_them(name: str, dtype: torch.dtype) -> None:
    entry = activations.get(name)
    assert entry.out_backward is not None
    x = _inputs(dtype)[:-5].requires_grad_()  # but for 1e30 and beyond, where torch's own are NaN
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=dtype)
    kept, result = gradient.clone(), torch.full_like(gradient, 7)
    entry.out_backward(gradient, x.detach(), result)
    (expected,) = torch.autograd.grad(entry(x), x, gradient)
    rounding = 4e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(result, expected, rtol=rounding, atol=rounding)
    assert torch.equal(gradient, kept)


@pytest.mark.parametrize("entry", ENTRIES)
def test_derivatives_are_autograds_away_from_kinks(entry: Activation) -> None:
    x = torch.linspace(-9, 9, 2001, dtype=torch.float64) + 1e-4
    for kink in entry.kinks:
        x = x[(x - kink).abs() > 1e-9]
    expected = derivative_of(entry.function)(x)
    straightened = 3e-9 if entry.name.startswith("softplus") else 1e-14  # torch's threshold of 20
    torch.testing.assert_close(entry.derivative(x), expected, rtol=1e-11, atol=straightened)
    single = entry.derivative(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("entry", ENTRIES)
def test_derivatives_are_differences_away_from_kinks(entry: Activation) -> None:
    x, step = torch.linspace(-9, 9, 2001, dtype=torch.float64) + 1e-4, 1e-5
    for kink in entry.kinks:
        x = x[(x - kink).abs() > 2 * step]
    differences = (entry(x + step) - entry(x - step)) / (2 * step)
    straightened = 3e-9 if entry.name.startswith("softplus") else 0.0
    torch.testing.assert_close(
        entry.derivative(x), differences, rtol=1e-9, atol=1e-9 + straightened
    )


def test_derivatives_stay_finite_where_slopes_are() -> None:
    ends = torch.tensor([-math.inf, math.inf])
    for name in ("relu", "leaky_relu", "general_relu", "relu6", "hardswish", "elu", "selu"):
        assert activations.get(name).derivative(ends).isfinite().all()


@pytest.mark.parametrize("entry", ENTRIES)
def test_kinks_are_where_the_derivative_jumps(entry: Activation) -> None:
    """Each stated kink is one, and between them the derivative is continuous."""
    for kink in entry.kinks:
        sides = torch.tensor([kink - 1e-9, kink + 1e-9], dtype=torch.float64)
        below, above = derivative_of(entry.function)(sides).tolist()
        assert abs(above - below) > 1e-3 or entry.name == "squared_relu"
    x = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    steps = entry.derivative(x).diff().abs()
    jumps = x[:-1][steps > 2e-3]
    assert all(any(abs(float(x) - kink) < 2e-4 for kink in entry.kinks) for x in jumps)


def _leaky(slope: float) -> Callable[[Any], Any]:
    return lambda x: x if x > 0 else slope * x


def _elu(x: Any) -> Any:
    return x if x > 0 else mp.expm1(x)


# Written a second time, in arbitrary precision.
EXACT: dict[str, tuple[Callable[[Any], Any], tuple[float, ...]]] = {
    "identity": (lambda x: x, ()),
    "relu": (_leaky(0), (0,)),
    "shifted_relu": (lambda x: max(x, 0) - mp.mpf(1) / 2, (0,)),
    "leaky_relu": (_leaky(0.01), (0,)),
    "general_relu": (lambda x: min(_leaky(0.1)(x) - 0.4, 6), (0, 6.4)),
    "prelu": (_leaky(0.25), (0,)),
    "rrelu": (_leaky(11 / 48), (0,)),
    "tailored_relu": (lambda x: _leaky(SLOPE)(x) * mp.sqrt(2 / (1 + SLOPE**2)), (0,)),
    "relu6": (lambda x: min(max(x, 0), 6), (0, 6)),
    "elu": (_elu, (0,)),
    "celu": (_elu, (0,)),
    "selu": (
        lambda x: (
            mp.mpf("1.0507009873554804934")
            * (x if x > 0 else mp.mpf("1.6732632423543772848") * mp.expm1(x))
        ),
        (0,),
    ),
    "gelu": (lambda x: x * mp.ncdf(x), ()),
    "gelu_tanh": (
        lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))),
        (),
    ),
    "silu": (lambda x: x / (1 + mp.exp(-x)), ()),
    "mish": (lambda x: x * mp.tanh(mp.log1p(mp.exp(x))), ()),
    "softplus": (lambda x: mp.log1p(mp.exp(x)), ()),
    "hardswish": (lambda x: x * min(max(x + 3, 0), 6) / 6, (-3, 3)),
    "squared_relu": (lambda x: max(x, 0) ** 2, (0,)),
    "tanh": (mp.tanh, ()),
    "sigmoid": (lambda x: 1 / (1 + mp.exp(-x)), ()),
    "hardtanh": (lambda x: min(max(x, -1), 1), (-1, 1)),
    "softsign": (lambda x: x / (1 + abs(x)), (0,)),
    "erf": (mp.erf, ()),
    "sin": (mp.sin, ()),
}


@pytest.mark.parametrize("name", NAMES)
def test_gains_are_those_of_exact_arithmetic(name: str) -> None:
    f, kinks = EXACT[name]
    with mp.workdps(20):
        edges = sorted({-13, -6, -2, 2, 6, 13, *kinks})

        def moment(g: Callable[[Any], Any]) -> Any:
            return mp.quad(lambda z: g(z) * mp.npdf(z), edges, maxdegree=7)

        mean, square = moment(f), moment(lambda z: f(z) ** 2)
        slope_square = moment(lambda z: mp.diff(f, z) ** 2)
        radial = moment(lambda z: (z * z - 1) * f(z) ** 2) / 2
        expected = [
            1 / mp.sqrt(square),
            1 / mp.sqrt(square - mean**2),
            1 / mp.sqrt(slope_square),
            slope_square / square,
            radial / square,
        ]
    g = activations.gain(name)
    got = (g.forward, g.variance, g.backward, g.chi_1, g.chi_q)
    assert got == pytest.approx([float(value) for value in expected], rel=1e-9)
    assert g.note == ""


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("identity", "forward and variance and backward"),
        ("relu", "forward and backward"),
        ("leaky_relu(negative_slope=0.3)", "forward and backward"),
        ("tanh", "none of the three: 4.7% above forward"),
        ("selu", "none of the three: 25.0% below forward"),
        ("sigmoid", "none of the three: 45.8% below forward"),
    ],
)
def test_torchs_number_is_told_apart(name: str, verdict: str) -> None:
    compared = activations.torch_gain(name)
    assert compared is not None
    assert compared.verdict == verdict


def test_torch_has_no_number_for_the_others() -> None:
    assert activations.torch_gain("gelu") is None
    assert activations.torch_gain(lambda x: x) is None


def test_a_callable_is_an_activation() -> None:
    def bent(x: Tensor) -> Tensor:
        """Bent at one."""
        return torch.maximum(x, 2 * x - 1)

    entry = activations.get(bent)
    assert (entry.name, entry.meaning) == ("bent", "Bent at one.")
    assert entry(torch.tensor([0.0, 3.0])).tolist() == [0.0, 5.0]
    assert entry.derivative(torch.tensor([0.0, 3.0])).tolist() == [1.0, 2.0]
    assert activations.get(entry) is entry
    assert activations.get(nn.GELU()).name == "GELU"
    assert activations.get(lambda x: x).name == "lambda"


def test_torchs_own_functions_are_the_registered_ones() -> None:
    for function in (torch.relu, F.gelu, F.leaky_relu, torch.tanh, activations.families.erf):
        assert activations.get(function) is activations.get(function.__name__)


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gleu", "unknown activation 'gleu': did you mean 'gelu'"),
        ("relu(slope=1)", "unknown parameter of activation 'relu' 'slope'"),
        ("celu(alpha=0)", "activation 'celu.alpha=0.'.*zero"),
        ("general_relu(maxv=-1)", "maxv must be above -sub"),
        (functools.partial(F.leaky_relu, negative_slope=0.3), "give its parameters as in leaky_r"),
        (softmax, "activation 'softmax' must be elementwise"),
        (F.dropout, "activation 'dropout' must be elementwise and not random"),
        (lambda x: 1.0, "activation 'lambda' must keep shape and dtype: it made float of torch.fl"),
        (lambda x: x > 0, "it made torch.bool"),
        (lambda x: x.double(), "it made torch.float64"),
        (lambda x: x[:, :2], r"it made torch.float32 \(8, 2\)"),
        (lambda x, y: x, "activation 'lambda' cannot be evaluated: .*missing 1 required"),
        (3, "an activation is a name or a callable, not 3"),
    ],
)
def test_what_is_no_activation_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        activations.get(given)


@pytest.mark.usefixtures("registry")
def test_three_lines_register_a_family() -> None:
    @activations.activation()
    def cube(x: Tensor, *, scale: float = 1.0) -> Tensor:
        """scale * x^3."""
        return scale * x**3

    entry = activations.get("cube(scale=2)")
    assert (entry.name, entry.meaning) == ("cube(scale=2)", "scale * x^3.")
    assert entry(torch.tensor([3.0])).item() == 54
    assert entry.derivative(torch.tensor([3.0])).item() == 54
    assert entry.gain.forward == pytest.approx(1 / math.sqrt(4 * 15), rel=1e-12)
    assert entry.out_function is None
    cube.__module__ = "elsewhere"
    with pytest.raises(ValueError, match="activation 'cube' is registered already"):
        activations.register_activation()(cube)


@pytest.mark.usefixtures("registry")
def test_facts_may_depend_on_the_parameters() -> None:
    @activations.activation(lambda width: Facts(kinks=(-width, width)))
    def deadzone(x: Tensor, *, width: float = 1.0) -> Tensor:
        return F.softshrink(x, width)

    assert activations.get("deadzone(width=2)").kinks == (-2.0, 2.0)


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_travel_by_name(entry: Activation) -> None:
    assert pickle.loads(pickle.dumps(entry)) is entry


def test_functions_of_a_module_travel_and_lambdas_do_not() -> None:
    entry = activations.get(_elementwise)
    copy = pickle.loads(pickle.dumps(entry))
    assert copy == entry or copy.function is _elementwise
    assert copy.derivative(torch.tensor([3.0])).item() == 6
    with pytest.raises(
        pickle.PicklingError,
        match="activation 'lambda' cannot be sent.*@register_activation.*workers=1",
    ):
        pickle.dumps(activations.get(lambda x: x + 1))


def _elementwise(x: Tensor) -> Tensor:
    return x * x


def test_a_registered_family_is_found_in_a_fresh_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from initstats.activations import activation\n"
        "@activation()\n"
        "def doubled(x, *, times=2.0):\n"
        "    return times * x\n"
    )
    send = "import mine, pickle, sys; from initstats import activations as a\n"
    send += "sys.stdout.buffer.write(pickle.dumps(a.get('doubled(times=3)')))"
    receive = "import pickle, sys; print(pickle.load(sys.stdin.buffer).name)"
    paths = f"import sys; sys.path[:0] = {[str(tmp_path), str(Path.cwd())]}\n"
    sent = subprocess.run([sys.executable, "-c", paths + send], capture_output=True, check=True)
    received = subprocess.run(
        [sys.executable, "-c", paths + receive], input=sent.stdout, capture_output=True, check=True
    )
    assert received.stdout.decode().strip() == "doubled(times=3)"


@pytest.mark.parametrize(
    "spelling",
    [
        "leaky_relu(negative_slope=inf)",
        "shifted_relu(shift=1e300)",
        "general_relu(sub=inf)",
        "prelu(slope=-1e400)",
        "rrelu(upper=inf)",
        "elu(alpha=inf)",
        "celu(alpha=-inf)",
        "softplus(beta=inf)",
    ],
)
def test_a_parameter_that_leaves_no_finite_value_is_refused(spelling: str) -> None:
    parameter = spelling.partition("(")[2].partition("=")[0]
    with pytest.raises(ValueError, match=f"{parameter} must be finite in float32: got"):
        activations.get(spelling)


def test_a_function_without_finite_values_has_no_gain() -> None:
    with pytest.raises(ValueError, match="the function has no finite value"):
        gain(lambda x: x + math.inf)


def test_an_infinite_limit_is_none() -> None:
    x = torch.linspace(-9, 9, 7)
    assert torch.equal(activations.get("hardtanh(min_val=-inf,max_val=inf)")(x), x)
    assert activations.get("general_relu(maxv=inf)")(x).max() > 6
