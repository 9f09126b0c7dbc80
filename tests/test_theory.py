"""Theory against closed forms, thirty digits, and simulations that share no code with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import initstats as ist
from initstats import activations, gaussian, theory
from initstats.sweep import Grid
from initstats.theory.integrals import Integrand, adaptively, by_rule
from initstats.theory.panels import Panels

Array = NDArray[np.float64]

LEAK = 0.3


def propagated(*args: Any, **options: Any) -> pd.DataFrame:
    """A row for each layer: `q` and all else of pre-activations, `mean`, `std`, `square` behind."""
    table = theory.propagate(*args, **options)
    before, behind = (
        table[table["tensor"] == tensor].set_index("layer")
        for tensor in ("preactivation", "activation")
    )
    kept = ["second_moment", "chi_1", "chi_q", "V", "g", *table.columns[10:]]
    names = {"second_moment": "q", "sample_correlation": "c"}
    return (
        before[kept]
        .rename(columns=names)
        .assign(mean=behind["mean"], std=behind["std"], square=behind["second_moment"])
    )


def _gelu_square(q: float) -> float:
    asin = math.asin(q / (1 + q)) / (2 * math.pi)
    return q * (0.25 + asin) + q * q / (math.pi * (1 + q) * math.sqrt(1 + 2 * q))


# E phi^2, written a second time
SQUARES: dict[str, Callable[[float], float]] = {
    "identity": lambda q: q,
    "relu": lambda q: q / 2,
    f"leaky_relu(negative_slope={LEAK})": lambda q: (1 + LEAK**2) * q / 2,
    "shifted_relu": lambda q: q / 2 - math.sqrt(q / (2 * math.pi)) + 0.25,
    "squared_relu": lambda q: 1.5 * q * q,
    "erf": lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),
    "gelu": _gelu_square,
    "sin": lambda q: -math.expm1(-2 * q) / 2,
}


def _arc(c: float) -> float:
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


def _leaky_kernel(slope: float) -> Callable[[float, float], float]:
    """E phi(u) phi(v) at second moment q and correlation c (Cho & Saul 2009)."""
    return lambda q, c: q / 2 * ((1 - slope) ** 2 * _arc(c) + 2 * slope * c)


KERNELS: dict[str, Callable[[float, float], float]] = {
    "relu": _leaky_kernel(0.0),
    f"leaky_relu(negative_slope={LEAK})": _leaky_kernel(LEAK),
    "erf": lambda q, c: 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q)),
}


@pytest.mark.parametrize("name", SQUARES)
def test_length_map_is_the_closed_form(name: str) -> None:
    few, many = np.array([1e-12, 0.3, 1.0, 40.0]), np.exp(np.linspace(-1.5, 1.5, 300))
    for q in (few, many.reshape(20, 15)):  # integrated, and interpolated
        expected = 1.7 * np.vectorize(SQUARES[name])(q) + 0.2
        np.testing.assert_allclose(theory.length_map(name, q, 1.7, 0.2), expected, rtol=1e-9)


def test_responses_derivatives_are_those_of_closed_forms() -> None:
    q = 0.7
    with mp.workdps(30):
        square = lambda q: 2 / mp.pi * mp.asin(2 * q / (1 + 2 * q))  # noqa: E731
        mean = lambda q: q / mp.sqrt(2 * mp.pi * (1 + q))  # noqa: E731
        squares = [float(mp.diff(square, q, n)) for n in range(3)]
        means = [float(mp.diff(mean, q, n)) for n in range(3)]
    erf = theory.response(activations.get("erf"), q)
    np.testing.assert_allclose([erf.square, erf.square_1, erf.square_2], squares, rtol=1e-9)
    assert erf.slope_square == pytest.approx(4 / (math.pi * math.sqrt(1 + 4 * q)), rel=1e-9)
    gelu = theory.response(activations.get("gelu"), q)
    np.testing.assert_allclose([gelu.mean, gelu.mean_1, gelu.mean_2], means, rtol=1e-9)


def test_absolute_moments_and_their_derivatives() -> None:
    """Of h itself in closed form, also under uniform biases; of phi(h) by quadrature."""
    q, bias = 0.7, 0.3
    bound = math.sqrt(3 * bias)
    with mp.workdps(20):

        def normal(w: Any) -> Any:
            return mp.sqrt(2 * w / mp.pi)

        def uniform(w: Any) -> Any:  # over the bias, given which |h| is a folded normal
            s = mp.sqrt(2 * w)
            folded = lambda b: s / mp.sqrt(mp.pi) * mp.exp(-((b / s) ** 2)) + b * mp.erf(b / s)  # noqa: E731
            return mp.quad(folded, [0, bound]) / bound

        pairs = ((normal, q), (uniform, q - bias))
        expected = [[float(mp.diff(f, w, n)) for n in range(3)] for f, w in pairs]
        size = lambda q: 2 / mp.pi * mp.atan(mp.sqrt(2 * q))  # noqa: E731
        sizes = [float(mp.diff(size, q, n)) for n in range(3)]
    found = [theory.absolute_moments(np.array(q)), theory.absolute_moments(np.array(q), bias)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    erf, relu = (theory.response(activations.get(name), q) for name in ("erf", "relu"))
    np.testing.assert_allclose([erf.absolute, erf.absolute_1, erf.absolute_2], sizes, rtol=1e-9)
    np.testing.assert_allclose(relu.absolute, relu.mean, rtol=1e-12)
    shifted = theory.response(activations.get("shifted_relu"), q)  # it bends where it is 0
    x = np.linspace(-12, 12, 200_001)
    y = np.abs(np.maximum(math.sqrt(q) * x, 0) - 0.5) * np.exp(-(x**2) / 2)
    assert shifted.absolute == pytest.approx(np.trapezoid(y, x) / math.sqrt(2 * math.pi), rel=1e-7)
    silent = theory.absolute_moments(np.zeros(1))
    assert silent[0] < 1e-49
    assert np.isfinite(silent).all()
    assert theory.response(activations.get("shifted_relu"), 0.0).absolute == 0.5


def test_uniform_biases_are_not_normal_ones() -> None:
    q, bias = 1.0, 0.6
    s, bound = math.sqrt(q - bias), math.sqrt(3 * bias)
    with mp.workdps(20):
        mean = mp.quad(
            lambda b: (s * mp.npdf(b / s) + b * mp.ncdf(b / s)) / (2 * bound), [-bound, 0, bound]
        )
    found = theory.response(activations.get("relu"), q, bias)
    assert found.mean == pytest.approx(float(mean), rel=1e-10)
    assert found.square == pytest.approx(q / 2, rel=1e-10)
    assert found.square_1 == pytest.approx(0.5, rel=1e-9)
    # the first derivative against differences, for a function without closed forms
    low, high = (theory.response(activations.get("tanh"), q + e, bias) for e in (-1e-3, 1e-3))
    middle = theory.response(activations.get("tanh"), q, bias)
    assert middle.square_1 == pytest.approx(float(high.square - low.square) / 2e-3, rel=1e-5)
    curvature = float(high.square - 2 * middle.square + low.square) / 1e-6
    assert middle.square_2 == pytest.approx(curvature, rel=1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_correlations_over_thirty_layers_are_the_closed_forms(name: str) -> None:
    w2, b2, q0, c0 = 1.3, 0.05, 0.8, -0.4
    q, k, expected = w2 * q0 + b2, w2 * c0 * q0 + b2, []
    for _ in range(30):
        expected.append(k / q)
        k = w2 * KERNELS[name](q, k / q) + b2
        q = w2 * SQUARES[name](q) + b2
    table = propagated(name, w2, b2, 30, q0, c0)
    np.testing.assert_allclose(table["c"], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", KERNELS)
def test_correlation_map_at_the_ends(name: str) -> None:
    c = np.array([-1.0, 0.0, 0.5, 1 - 1e-4, 1 - 1e-12, 1.0])
    kernel = KERNELS[name]
    expected = [(kernel(2.0, each) + 0.1) / (kernel(2.0, 1.0) + 0.1) for each in c]
    found = theory.correlation_map(name, c, 1.0, 0.1, q=2.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("q", [1e-6, 1.0, 100.0, 1e6, 1e10])
@pytest.mark.parametrize("steepness", [1.0, 100.0, 1e4])
def test_product_moments_keep_ten_digits_of_steep_functions(q: float, steepness: float) -> None:
    a2 = 2 * mp.mpf(steepness) ** 2
    for c in (-0.999999, -0.5, 0.0, 1e-3, 0.9, 0.999999, 1 - 1e-12):
        with mp.workdps(40):
            k = mp.mpf(c * q)
            exact = float(2 / mp.pi * mp.asin(a2 * k / (1 + a2 * q)))
            size = float(2 / mp.pi * mp.asin(a2 * q / (1 + a2 * q)))
        found = theory.product_moment(lambda x: torch.erf(steepness * x), q, c * q)
        assert found == pytest.approx(exact, abs=1e-10 * size)


@pytest.mark.parametrize(("q", "c"), [(100.0, -0.9), (1e4, 0.999), (1e4, 0.0), (1e6, 0.999999)])
def test_product_moments_keep_ten_digits_of_what_oscillates(q: float, c: float) -> None:
    exact = (math.exp(c * q - q) - math.exp(-c * q - q)) / 2
    assert theory.product_moment(torch.sin, q, c * q) == pytest.approx(exact, abs=1e-10)


def test_product_moments_of_steep_bends_away_from_zero() -> None:
    # given u, v is normal, and the mean of an erf over a normal variable is an erf
    c, steepness = 0.6, 100
    flatter = steepness / mp.sqrt(1 + 2 * steepness**2 * (1 - c**2))
    with mp.workdps(20):
        exact = mp.quad(
            lambda u: mp.erf(steepness * (u - 1)) * mp.erf(flatter * (c * u - 1)) * mp.npdf(u),
            [-9, -3, 0, 0.8, 0.95, 0.99, 1, 1.01, 1.05, 1.2, 3, 9],
        )
    found = theory.product_moment(lambda x: torch.erf(steepness * (x - 1)), 1.0, c)
    assert found == pytest.approx(float(exact), abs=1e-11)


def test_what_oscillates_beyond_reach_is_refused() -> None:
    for q in (3e7, 1e10):
        with pytest.raises(ValueError, match="oscillate"):
            theory.product_moment(torch.sin, q, 0.5 * q)
    with pytest.raises(ValueError, match="oscillate"):
        theory.correlation_map("sin", 0.5, 1.0, q=1e10)


def test_correlation_map_of_unknown_functions() -> None:
    def step(x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    c = np.array([-0.5, 0.3, 0.999])
    expected = 1 - np.arccos(c) / math.pi
    np.testing.assert_allclose(theory.correlation_map(step, c, 2.0), expected, atol=1e-9)


def test_correlations_under_uniform_biases() -> None:
    q, k, bias, count = 1.0, 0.7, 0.5, 400_000
    generator = torch.Generator().manual_seed(1)
    b, shared, *noise = torch.randn(4, count, generator=generator, dtype=torch.float64)
    b = (torch.special.ndtr(b) * 2 - 1) * math.sqrt(3 * bias)
    u, v = (b + math.sqrt(k - bias) * shared + math.sqrt(q - k) * each for each in noise)
    products = (torch.tanh(u) + 0.2) * (torch.tanh(v) + 0.2)
    error = float(products.std()) / math.sqrt(count)
    found = theory.product_moment(lambda x: torch.tanh(x) + 0.2, q, k, bias)
    assert found == pytest.approx(float(products.mean()), abs=4 * error)
    normal = theory.product_moment(lambda x: torch.tanh(x) + 0.2, q, k)
    assert abs(found - normal) > 4 * error  # the test tells the laws apart


@pytest.mark.parametrize("name", ["relu", "tanh", "general_relu", "hardtanh"])
def test_series_of_pairs_follow_the_exact_kernel(name: str) -> None:
    entry, q = activations.get(name), 1.5
    c = np.array([-0.2, 0.4, 0.9, 0.99])
    found = theory.correlations(entry, np.array([q, q]), np.array([[0] * 4, [1] * 4]), c)
    r = theory.response(entry, q)
    for f, values, mean, square in (
        (entry.function, found.value, r.mean, r.square),
        (lambda x: entry(x).square(), found.square, r.square, r.fourth),
    ):
        exact = [theory.product_moment(f, q, q * each, kinks=entry.kinks) for each in c]
        expected = (np.array(exact) - mean**2) / (square - mean**2)
        np.testing.assert_allclose(values, expected, atol=3e-3)
    of_length = 2 * (q * r.square_1) ** 2 / (r.fourth - r.square**2) * c**2
    np.testing.assert_allclose(found.radial, of_length, atol=1e-3)


COLUMNS = "layer tensor direction mean std second_moment chi_1 chi_q V g"


def test_propagate_keeps_its_promises() -> None:
    table = theory.propagate("relu", depth=3)
    assert list(table) == COLUMNS.split()
    assert table["layer"].tolist() == [1, 1, 2, 2, 3, 3]
    assert table["tensor"].tolist() == ["preactivation", "activation"] * 3
    assert set(table["direction"]) == {"forward"}
    with_pair = theory.propagate("relu", depth=3, c0=0.5)
    assert list(with_pair) == [*COLUMNS.split(), "sample_correlation"]
    before, behind = (
        theory.propagate("relu", sigma_w2=[2.0, 3.0], sigma_b2=[0.5, 0.0], depth=2).iloc[number]
        for number in (0, 1)
    )
    moments = ["mean", "std", "second_moment"]
    np.testing.assert_allclose(before[moments].tolist(), [0, math.sqrt(2.5), 2.5], rtol=1e-10)
    mean = math.sqrt(2.5 / 2 / math.pi)
    expected = [mean, math.sqrt(1.25 - mean**2), 1.25]
    np.testing.assert_allclose(behind[moments].tolist(), expected, rtol=1e-10)
    for row in (before, behind):
        assert row["chi_1"] == pytest.approx(3 / 2)  # with the next layer's weights
        assert row["chi_q"] == pytest.approx(3 / 2)


def test_propagate_merges_with_a_study(toy: ist.Dataset) -> None:
    grid = Grid(inits=["lecun_normal"], activations=["tanh"], widths=[200], depth=3, seeds=4)
    measured = ist.run_sweep(grid, toy)
    q0 = toy.valid.x.double().square().mean(1).numpy()
    merged = measured.merge(
        theory.propagate("tanh", 1.0, depth=3, q0=q0), on=["layer", "tensor", "direction"]
    )
    assert len(merged) == len(measured) == 24
    ratio = merged["second_moment_x"] / merged["second_moment_y"]
    assert ratio.between(0.8, 1.25).all()


def test_correlations_behind_the_activation() -> None:
    table = theory.propagate("relu", 2.0, depth=4, c0=0.3)
    before, behind = (
        table.loc[table["tensor"] == tensor, "sample_correlation"].to_numpy()
        for tensor in ("preactivation", "activation")
    )
    np.testing.assert_allclose(behind, [_arc(c) for c in before], rtol=1e-9)
    np.testing.assert_allclose(before[1:], behind[:-1], rtol=1e-9)  # no biases: weights keep it


def test_propagate_averages_samples_behind_the_activation() -> None:
    q0 = np.array([0.3, 0.9, 1.8])
    table = propagated("tanh", 1.4, 0.1, 4, q0)
    each = [propagated("tanh", 1.4, 0.1, 4, q) for q in q0]
    for name in ("q", "mean", "square", "chi_1", "chi_q", "V", "g"):
        np.testing.assert_allclose(
            table[name], np.mean([one[name] for one in each], axis=0), atol=1e-12
        )
    roots = propagated("relu", 2.0, depth=1, q0=q0)
    assert roots["mean"].item() == pytest.approx(np.sqrt(q0 / math.pi).mean())
    spread = q0.mean() - np.sqrt(q0 / math.pi).mean() ** 2
    assert roots["std"].item() == pytest.approx(math.sqrt(spread))


def test_known_depths() -> None:
    shifted = propagated("shifted_relu", 2.0, depth=40).iloc[-1]
    expected = {"q": math.pi / 8, "mean": -0.25, "std": 0.36585, "chi_1": 1.0}
    for name, value in expected.items():
        assert shifted[name] == pytest.approx(value, abs=5e-6)
    assert shifted["chi_q"] == pytest.approx(1 - 2 / math.pi)
    general = propagated("general_relu", 2 / 1.01, depth=40).iloc[-1]
    assert (general["q"], general["mean"]) == pytest.approx((0.3103, -0.2), abs=5e-5)
    tanh = propagated("tanh", 1.0, depth=80).iloc[-1]
    assert 160 * tanh["q"] == pytest.approx(1, abs=0.06)


def test_torchs_biases_are_uniform() -> None:
    b2 = [1 / (3 * 784), *[1 / 3000] * 9]
    means = [
        propagated("relu", 1 / 3, b2, 10, bias=bias)["mean"].iloc[-1]
        for bias in ("uniform", "normal")
    ]
    # measured at width 1000: 0.00840 with a standard error of 0.00005
    assert means == pytest.approx([0.008433, 0.007979], abs=1e-6)


def test_signals_that_leave_float64() -> None:
    exploding = propagated("relu", 1e6, depth=80)
    assert math.isinf(exploding["q"].iloc[-1])
    vanishing = propagated("relu", 1e-6, depth=60)
    assert vanishing["q"].iloc[-1] == 0
    silent = propagated("sigmoid", 0.0, depth=2)
    assert silent[["q", "mean", "square"]].iloc[-1].tolist() == [0, 0.5, 0.25]


# the integrals behind all this


def _integrand(
    fn: str | activations.Activation | gaussian.Function, w: Array, uniform_bias: float
) -> Integrand:
    entry = activations.get(fn)
    at_zero = float(entry(torch.zeros(1, dtype=torch.float64)))
    # where phi(0) is all that is left of phi, so it is of differences
    which = slice(0, 10 if at_zero == 0 or w.min() > 1e-6 * at_zero**2 else 6)
    return Integrand(entry, torch.from_numpy(w)[:, None], uniform_bias, at_zero, which)


NEAR = np.array([1.0, 1.3, 2.0, 2.7])  # the last stands for all when the error is measured


@pytest.mark.parametrize("uniform_bias", [0.0, 0.02])
@pytest.mark.parametrize("name", list(activations.ACTIVATIONS))
def test_the_rule_agrees_with_the_quadrature(name: str, uniform_bias: float) -> None:
    lengths = [1e-6, 0.05, 1.0, 15.0, 700.0, 1e6]
    integrands = [_integrand(name, w * NEAR, uniform_bias) for w in lengths]
    found = {i: by_rule(integrand) for i, integrand in enumerate(integrands)}
    for i, values in found.items():
        if values is not None:
            np.testing.assert_allclose(values, adaptively(integrands[i]), rtol=1e-10, atol=1e-11)
    done = sum(values is not None for values in found.values())
    # sin oscillates, softplus jumps by 2e-9 at 20, and gelu_tanh ends in noise around zero
    assert done >= (2 if name in ("sin", "softplus", "gelu_tanh") else len(lengths))


def test_the_rule_serves_the_default_study() -> None:
    for entry in Grid().activations:
        for w in np.exp(np.arange(-12.0, 2.0)):
            assert by_rule(_integrand(entry, w * NEAR, 0.0)) is not None


@pytest.mark.parametrize("q", [0.2, 1.0, 40.0])
def test_kinks_that_nobody_tells_of(q: float) -> None:
    kinked = lambda x: (x - 0.3).abs() + 0.1  # noqa: E731
    assert by_rule(_integrand(kinked, q * NEAR, 0.0)) is None
    a = 0.3 / math.sqrt(q)
    density = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    mean = math.sqrt(q) * (2 * density + a * math.erf(a / math.sqrt(2))) + 0.1
    assert theory.response(activations.get(kinked), q).mean == pytest.approx(mean, rel=1e-10)


def test_moments_that_lie_far_out_or_do_not_exist() -> None:
    steep = theory.response(activations.get(lambda x: torch.exp(3 * x)), 1.0)
    assert (steep.square, steep.fourth) == pytest.approx((math.exp(18), math.exp(72)), rel=1e-9)
    explosive = activations.get(lambda x: torch.exp(0.26 * x * x))
    half = theory.response(explosive, 0.5)
    assert half.square == pytest.approx(0.48**-0.5, rel=1e-9)
    assert math.isinf(half.fourth)
    with pytest.raises(ValueError, match="does not exist"):
        theory.response(explosive, 1.0)


def test_many_lengths_are_as_exact_as_few() -> None:
    q = np.exp(np.linspace(-5.3, 5.8, 40))
    for entry in Grid().activations:
        many, few = theory.response(entry, q), theory.response(entry, q[::6])
        for name in ("square", "fourth", "slope_square", "negative", "square_1"):
            np.testing.assert_allclose(
                getattr(many, name)[::6], getattr(few, name), rtol=1e-9, atol=1e-12
            )


def test_panels_are_filled_when_asked_for() -> None:
    asked: list[Array] = []

    def function(q: Array) -> Array:
        asked.append(q)
        return np.stack([np.sqrt(q), 1 / (1 + q)], axis=1)

    panels, q = Panels(function, nodes=24), np.exp(np.linspace(-2.5, 1.5, 70_000))[::-1]
    for _ in range(2):
        np.testing.assert_allclose(panels.at(q).T, [np.sqrt(q), 1 / (1 + q)], rtol=1e-12)
    assert sorted(round(float(np.log(nodes).mean())) for nodes in asked) == [-3, -1, 1]
    assert {len(nodes) for nodes in asked} == {24}


# finite width


@pytest.mark.parametrize(
    ("name", "w2", "weights"),
    [("tanh", 1.5, "independent"), ("tanh", 2.5, "orthogonal")],
)
def test_finite_width_is_simulated(name: str, w2: float, weights: theory.WeightKind) -> None:
    phi, width, depth, nets = activations.get(name), 24, 7, 6000
    generator = torch.Generator().manual_seed(5)
    x, lengths = torch.ones(nets, width, 1, dtype=torch.float64), []
    for _ in range(depth):
        weight = torch.randn(nets, width, width, generator=generator, dtype=torch.float64)
        if weights == "orthogonal":
            q, r = torch.linalg.qr(weight)
            weight = q * r.diagonal(dim1=1, dim2=2).sign()[:, None] * math.sqrt(width)
        lengths.append(w2 * x.square().mean((1, 2)))  # q of the next layer, given this one
        x = phi(math.sqrt(w2 / width) * (weight @ x))
    measured = torch.stack(lengths[1:]).numpy()
    table = propagated(name, w2, depth=depth, weights=weights).iloc[1:]
    error = measured.std(1) / math.sqrt(nets)
    shift = table["g"] / width
    assert abs((measured.mean(1) - table["q"] - shift) / error).max() < 4
    assert abs(shift / error).iloc[-1] > 6  # the test can see g
    # 2 / nets is the relative variance of a variance; the rest is of the next order in 1 / width
    ratios = measured.var(1) * width / table["V"].to_numpy()
    assert ratios == pytest.approx(np.ones(depth - 1), abs=0.12)


def test_relative_variance_of_rectifiers() -> None:
    steps = np.arange(4)
    for name, weights, step in (
        ("relu", "independent", 5),
        ("relu", "orthogonal", 3),
        ("identity", "independent", 2),
        ("identity", "orthogonal", 0),
        ("leaky_relu(negative_slope=0.5)", "independent", 6 * (1 + 0.5**4) / 1.25**2 - 1),
    ):
        gain = activations.gain(name).forward
        table = propagated(name, gain**2, depth=4, weights=weights)
        np.testing.assert_allclose(table["V"] / table["q"] ** 2, step * steps, atol=1e-9)
        np.testing.assert_allclose(table["g"], 0, atol=1e-9)


def test_log_length_of_relu_nets() -> None:
    width, depth, nets = 50, 6, 2000
    generator = torch.Generator().manual_seed(11)
    h = torch.ones(nets, width, 1, dtype=torch.float32)
    logs = []
    for _ in range(depth):
        weight = torch.randn(nets, width, width, generator=generator)
        h = math.sqrt(2 / width) * (weight @ h).relu()
        logs.append(h.square().sum((1, 2)).log().double())
    mean, variance = theory.relu_log_length([width] * (depth - 1))
    grown = logs[-1] - logs[0]
    assert float(grown.var()) == pytest.approx(variance, rel=0.1)
    assert float(grown.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / nets))
    for n, per_layer in ((50, 5.41), (200, 5.09), (1000, 5.02)):
        assert n * theory.relu_log_length([n])[1] == pytest.approx(per_layer, abs=0.006)
    # log-normal: the mean of q is kept, so the mean of log q is minus half its variance
    assert theory.relu_log_length([10_000])[0] == pytest.approx(-2.5e-4, rel=1e-2)


def test_gradients_are_simulated() -> None:
    width, depth, nets, q0 = 100, 6, 600, 1.0
    generator = torch.Generator().manual_seed(3)
    for phi, name, w2 in ((torch.relu, "relu", 2.0), (torch.tanh, "tanh", 1.5)):
        weights = torch.randn(depth, nets, width, width, generator=generator)
        weights *= math.sqrt(w2 / width)
        h, kept = torch.ones(nets, width, 1), []
        for weight in weights:
            h = weight @ h
            h.requires_grad_()
            kept.append(h)
            h = phi(h)
        cotangent = torch.randn(nets, width, 1, generator=generator)
        gradients = torch.autograd.grad(h, kept, cotangent)
        squares = torch.stack([each.square().sum((1, 2)) for each in gradients]).double()
        ratios = (squares.mean(1) / squares[-1].mean()).numpy()
        errors = (squares.std(1) / squares.mean(1)).numpy() / math.sqrt(nets)
        expected = theory.gradient_factors(name, w2, depth=depth, q0=q0)
        # 6 / width: weights of the two directions are the same ones, for tanh
        slack = 0.0 if name == "relu" else 6 / width
        assert (abs(ratios / expected - 1) < 4 * errors * math.sqrt(2) + slack).all()


# convolutions


def test_patches_lose_power_at_the_border() -> None:
    ones = torch.ones(2, 28, 28)
    assert theory.patch_mean(ones, 3, padding=1).mean().item() == pytest.approx((82 / 84) ** 2)
    assert theory.patch_mean(ones, 5).shape == (2, 24, 24)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (5, 2, 2), (3, 2, 0)])
def test_convolutions_are_simulated(kernel: int, stride: int, padding: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(3, 12, 12, generator=generator)
    nets, channels = 400, 16
    first = torch.randn(nets, channels, 3, kernel, kernel, generator=generator)
    second = torch.randn(nets, channels, channels, 3, 3, generator=generator)
    found = []
    for one, two in zip(first, second, strict=True):
        h = torch.conv2d(x[None], one * math.sqrt(2 / one[0].numel()), None, stride, padding)
        h = torch.conv2d(h.relu(), two * math.sqrt(2 / two[0].numel()), None, 1, 1)
        found.append(h[0].square().mean(0))
    maps = torch.stack(found).double()
    power = theory.patch_mean(x.square().mean(0), kernel, stride=stride, padding=padding)
    expected = 2 * theory.patch_mean(power, 3, padding=1)  # a relu of gain 2 halves and doubles
    z = (maps.mean(0) - expected) / (maps.std(0) / math.sqrt(nets))
    assert z.abs().max() < 4.5  # of some dozens of positions
    total = maps.mean((1, 2))
    error = float(total.std()) / math.sqrt(nets)
    assert float(total.mean()) == pytest.approx(float(expected.mean()), abs=4 * error)


# phases


def _tanh_square(q: mp.mpf) -> mp.mpf:
    return mp.quad(lambda z: mp.tanh(mp.sqrt(q) * z) ** 2 * mp.npdf(z), [-12, -3, 0, 3, 12])


def test_fixed_points() -> None:
    with mp.workdps(20):
        root = float(mp.findroot(lambda q: mp.mpf(25) / 9 * _tanh_square(q) - q, 1.2))
    tanh = theory.fixed_point("tanh", 25 / 9)
    assert tanh.q_star == pytest.approx(root, rel=1e-7)
    assert (tanh.chi_1, tanh.c_star) == pytest.approx((1.2098, 0.0), abs=5e-5)
    assert theory.fixed_point("shifted_relu", 2.0).q_star == pytest.approx(math.pi / 8, rel=1e-7)
    assert theory.fixed_point("relu", 1.2, 0.3).q_star == pytest.approx(0.75, rel=1e-7)
    assert theory.fixed_point("relu", 1 / 3, 1 / 150).q_star == pytest.approx(0.4 / 50, rel=1e-7)
    selu = theory.fixed_point("selu", 1.0, q0=3.0)
    assert selu.q_star == pytest.approx(1, rel=1e-7)
    assert selu.chi_1 == pytest.approx(1.0716, abs=5e-5)


def test_fixed_points_that_are_none_or_many() -> None:
    relu = theory.fixed_point("relu", 2.0, q0=0.37)
    assert (relu.q_star, relu.c_star) == (0.37, 1.0)
    assert relu.xi_q == relu.xi_c == math.inf
    assert theory.fixed_point("relu", 2.1).q_star == math.inf
    assert theory.fixed_point("relu", 2.0, 0.1).q_star == math.inf
    assert theory.fixed_point("relu", 1.9).q_star == 0
    marginal = theory.fixed_point("tanh", 1.0)
    assert (marginal.q_star, marginal.chi_1) == pytest.approx((0, 1))
    assert theory.fixed_point("gelu", 2.0).q_star == 0  # though q = 1 is nearly kept
    exploding = theory.fixed_point(lambda x: torch.exp(2 * x), 1.0)
    assert exploding.q_star == exploding.chi_1 == math.inf
    assert math.isnan(theory.fixed_point("identity", 1.0).c_star)
    assert theory.fixed_point("tanh", 0.0, 0.3).q_star == pytest.approx(0.3)


def test_depth_scales_are_those_of_the_maps() -> None:
    w2, b2 = 3.0, 0.1
    point = theory.fixed_point("tanh", w2, b2)
    table = propagated("tanh", w2, b2, 40, q0=0.3, c0=0.1)
    gap = abs(table["q"] - point.q_star)
    assert math.log(gap.loc[6] / gap.loc[7]) == pytest.approx(1 / point.xi_q, rel=1e-2)
    gap = abs(table["c"] - point.c_star)
    assert 0 < point.c_star < 1
    assert math.log(gap.loc[39] / gap.loc[40]) == pytest.approx(1 / point.xi_c, rel=1e-2)
    ordered = theory.fixed_point("tanh", 0.8, 0.1)
    assert ordered.c_star == 1
    assert ordered.xi_c == pytest.approx(theory.depth_scale(ordered.chi_1))
    assert theory.depth_scale(1.0) == math.inf
    assert theory.depth_scale(0.0) == 0


def test_edge_of_chaos() -> None:
    for name, w2 in (("tanh", 1.0), ("erf", math.pi / 4), ("relu", 2.0), ("softsign", 1.0)):
        assert theory.edge_of_chaos(name).sigma_w2 == pytest.approx(w2, rel=1e-7)
    assert theory.edge_of_chaos("erf").q_star == 0
    assert math.isnan(theory.edge_of_chaos("relu").q_star)
    b2 = 0.05
    with mp.workdps(20):
        q_star = mp.findroot(
            lambda q: b2 + mp.asin(2 * q / (1 + 2 * q)) * mp.sqrt(1 + 4 * q) / 2 - q, 0.5
        )
        w2 = float(mp.pi * mp.sqrt(1 + 4 * q_star) / 4)
    edge = theory.edge_of_chaos("erf", b2)
    assert (edge.sigma_w2, edge.q_star) == pytest.approx((w2, float(q_star)), rel=1e-7)
    at_edge = theory.fixed_point("erf", edge.sigma_w2, b2)
    assert (at_edge.q_star, at_edge.chi_1) == pytest.approx((edge.q_star, 1), rel=1e-7)
    assert theory.edge_of_chaos("shifted_relu").q_star == pytest.approx(math.pi / 8, rel=1e-7)
    assert theory.edge_of_chaos("gelu", b2).chi_q > 1  # nothing stays on it


def test_tailored_slopes() -> None:
    published = {30: 0.302694, 50: 0.430523, 100: 0.570440}
    for depth, slope in published.items():
        assert theory.tailored_slope(depth) == pytest.approx(slope, abs=5e-7)
    assert theory.tailored_slope(10) == 0.0
    table = propagated("tailored_relu(depth=30)", 1.0, depth=31, c0=0.0)
    assert table["c"].iloc[-1] == pytest.approx(0.9, abs=1e-9)
    assert table["q"].iloc[-1] == pytest.approx(1.0)
    assert theory.tailored_slope(10, eta=0.5) > 0


# what does not work, and what says so


def test_functions_that_jump_have_no_slope() -> None:
    def step(x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    assert math.isinf(theory.propagate(step, depth=2)["chi_1"].iloc[0])
    with pytest.raises(ValueError, match="step has no edge of chaos: it jumps"):
        theory.edge_of_chaos(step)


def test_no_edge_of_chaos() -> None:
    with pytest.raises(ValueError, match="relu has no edge of chaos at sigma_b2 = 0.1.*larger"):
        theory.edge_of_chaos("relu", 0.1)
    with pytest.raises(ValueError, match="squared_relu has no edge of chaos"):
        theory.edge_of_chaos("squared_relu")
    with pytest.raises(ValueError, match="its slope is 0"):
        theory.edge_of_chaos(torch.ones_like)


def test_bad_arguments() -> None:
    nan, shape = (lambda x: x * math.nan), (lambda x: x.sum())
    for call, message in (
        (lambda: theory.propagate("relu", -1.0), "sigma_w2 is a variance.*got -1"),
        (lambda: theory.propagate("relu", sigma_b2=-0.1), "sigma_b2 is a variance"),
        (lambda: theory.propagate("relu", depth=0), "depth is a number of layers.*got 0"),
        (lambda: theory.propagate("relu", q0=0.0), "q0 is a second moment.*above 0"),
        (lambda: theory.propagate("relu", q0=[1.0, -1.0]), "q0 is a second moment"),
        (lambda: theory.propagate("relu", [2.0, 2.0], depth=3), "sigma_w2 has 2 values for 3"),
        (lambda: theory.propagate("relu", c0=1.5), "c0 is a correlation.*1.5"),
        (lambda: theory.propagate("relu", q0=[1.0, 2.0], c0=0.5), "give one q0"),
        (lambda: theory.propagate("relu", bias="cauchy"), "unknown bias 'cauchy'"),  # type: ignore[arg-type]
        (lambda: theory.propagate("relu", weights="sparse"), "unknown weights 'sparse'"),  # type: ignore[arg-type]
        (lambda: theory.propagate("rely"), "did you mean 'relu'"),
        (lambda: theory.propagate(nan), "NaN"),
        (lambda: theory.propagate(shape), "must keep shape"),
        (lambda: theory.propagate(lambda x: 1.0), "must keep shape|float"),  # type: ignore[arg-type, return-value]
        (lambda: theory.propagate(lambda x: torch.exp(x * x)), "does not exist"),
        (lambda: theory.length_map("relu", 1.0, math.inf), "sigma_w2 is a variance"),
        (lambda: theory.correlation_map("relu", 1.2, 1.0), "between -1 and 1"),
        (lambda: theory.correlation_map("relu", 0.5, 0.0), "no correlation is defined"),
        (lambda: theory.fixed_point("relu", -2.0), "sigma_w2 is a variance"),
        (lambda: theory.fixed_point("relu", 2.0, q0=-1.0), "q0 is a second moment"),
        (lambda: theory.edge_of_chaos("tanh", -1.0), "sigma_b2 is a variance"),
        (lambda: theory.tailored_slope(0), "1 to 10000"),
        (lambda: theory.tailored_slope(10, eta=1.0), "between 0 and 1"),
        (lambda: theory.relu_log_length([]), "at least one layer"),
        (lambda: theory.relu_log_length([50], sigma_w2=0.0), "above 0"),
        (lambda: theory.product_moment(torch.relu, 1.0, 1.1), "at most q"),
        (lambda: theory.product_moment(torch.relu, 1.0, 0.1, 0.5), "share their uniform biases"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_oscillating_lengths_are_refused() -> None:
    bump = lambda x: torch.exp(-8 * x * x)  # noqa: E731
    point = theory.fixed_point(bump, 1.0, q0=0.5)
    assert theory.length_map(bump, point.q_star, 1.0) == pytest.approx(point.q_star, rel=1e-7)
