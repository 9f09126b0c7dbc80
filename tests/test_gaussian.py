"""Quadrature against closed forms, and gains against what is known of them."""

from __future__ import annotations

import math
import threading
import time

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from initstats.gaussian import (
    Function,
    bends,
    derivative_of,
    expect,
    expect_rows,
    gain,
    integral,
    one_thread,
)

INF = math.inf
EULER = 0.57721566490153286


def _upper(a: float) -> float:
    return math.erfc(a / math.sqrt(2)) / 2


def _density(a: float) -> float:
    return math.exp(-a * a / 2) / math.sqrt(2 * math.pi)


def _tail_ramp(a: float) -> float:
    """E relu(z - a), whose two terms cancel far out."""
    with mpmath.workdps(30):
        return float(mpmath.npdf(a) - a * mpmath.ncdf(-a))


CASES: dict[str, tuple[Function, float, float]] = {  # f, q, E f(sqrt(q) z)
    "relu": (torch.relu, 4.0, 2 / math.sqrt(2 * math.pi)),
    "kink off centre": (lambda x: torch.relu(x - 0.3), 1.0, _tail_ramp(0.3)),
    "kink in the tail": (lambda x: torch.relu(x - 5), 1.0, _tail_ramp(5)),
    "step": (lambda x: (x > 0.7).double(), 1.0, _upper(0.7)),
    "step as booleans": (lambda x: x > 0.7, 1.0, _upper(0.7)),
    "far step": (lambda x: (x > 9).double(), 1.0, _upper(9)),
    "narrow step": (lambda x: (x > 2).double(), 1e8, _upper(2e-4)),
    "narrow bump": (lambda x: (x > 2) & (x < 3), 1e8, _upper(2e-4) - _upper(3e-4)),
    "sin(5x)^2": (lambda x: torch.sin(5 * x).square(), 1.0, -math.expm1(-50) / 2),
    "sin(100x)^2": (lambda x: torch.sin(100 * x).square(), 1.0, 0.5),
    "exp(2x)": (lambda x: torch.exp(2 * x), 1.0, math.exp(2)),
    "exp(2x)^2": (lambda x: torch.exp(4 * x), 1.0, math.exp(8)),
    "exp(20x)": (lambda x: torch.exp(20 * x), 1.0, math.exp(200)),
    "exp of a square": (lambda x: torch.exp(0.4 * x * x), 1.0, 5**0.5),
    "erf^2, saturated": (
        lambda x: torch.erf(x).square(),
        1e8,
        2 / math.pi * math.asin(2e8 / (1 + 2e8)),
    ),
    "square, vanishing": (torch.square, 1e-30, 1e-30),
    "constant at q = 0": (lambda x: x + 3, 0.0, 3.0),
    "pole": (lambda x: x.abs() ** -0.5, 1.0, 2**-0.25 * math.gamma(0.25) / math.sqrt(math.pi)),
    "logarithm": (lambda x: x.abs().log(), 1.0, -(EULER + math.log(2)) / 2),
    "undefined at zero": (lambda x: (x * x).sin() / (x * x), 1e-9, 1.0),
    "in place": (lambda x: x.clamp_(min=0), 1.0, _density(0)),
}


@pytest.mark.parametrize("name", CASES)
def test_expectations_have_ten_digits(name: str) -> None:
    f, q, expected = CASES[name]
    assert expect(f, q) == pytest.approx(expected, rel=1e-11)


def test_odd_functions_have_no_mean() -> None:
    assert abs(expect(torch.tanh, 3.0)) < 1e-15


@settings(max_examples=60)
@given(st.floats(-4, 4), st.sampled_from([0.01, 1.0, 300.0]))
def test_a_kink_and_a_jump_anywhere(place: float, q: float) -> None:
    a = place  # in z
    x = a * math.sqrt(q)
    assert expect(lambda v: v > x, q) == pytest.approx(_upper(a), rel=1e-10)
    ramp = math.sqrt(q) * _tail_ramp(a)
    assert expect(lambda v: torch.relu(v - x), q) == pytest.approx(ramp, rel=1e-10)


@pytest.mark.parametrize("place", [0.4995, 0.49999999, 1 - 1e-9, -1e-9, 0.2500001])
def test_nothing_hides_between_the_last_node_and_the_next_panel(place: float) -> None:
    assert expect(lambda x: x > place) == pytest.approx(_upper(place), rel=1e-11)


def test_rows_are_expectations_of_one_pass() -> None:
    first, second = expect_rows(lambda x: torch.stack([torch.relu(x), x * x]), 2.0)
    assert first == pytest.approx(1 / math.sqrt(math.pi), rel=1e-14)
    assert second == pytest.approx(2.0, rel=1e-14)


@pytest.mark.parametrize(
    ("f", "q", "message"),
    [
        (lambda x: 1 / x.abs(), 1.0, "does not exist at q = 1"),
        (lambda x: x**-2, 1.0, "does not exist"),
        (lambda x: torch.exp(x * x / 2), 1.0, "does not exist"),
        (lambda x: torch.exp(x * x), 1.0, "does not exist"),
        (lambda x: torch.exp(1 / x.abs()), 1.0, "does not exist"),
        (lambda x: torch.exp(x), 1e4, "out of float64's reach"),
        (torch.log, 1.0, r"NaN, at x = -0\.0"),
        (lambda x: torch.where(x > 1, torch.nan, x), 1.0, r"NaN, at x = 1\.0"),
        (torch.rand_like, 1.0, "too irregular.*random"),
        (lambda x: 1.0, 1.0, "must return a tensor, not float"),
        (lambda x: x[:3], 1.0, r"elementwise: it made \(3,\)"),
        (lambda x: x.sum(), 1.0, r"elementwise: it made \(\)"),
        (torch.tanh, -1.0, "q is a second moment, finite and >= 0: got -1"),
        (torch.tanh, math.nan, "q is a second moment"),
        (torch.tanh, math.inf, "q is a second moment"),
    ],
)
def test_what_cannot_be_integrated_says_why(f: Function, q: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expect(f, q)


def test_gains_of_relu() -> None:
    g = gain(torch.relu)
    root = math.sqrt(2)
    assert (g.forward, g.backward, g.chi_1, g.chi_q) == pytest.approx((root, root, 1, 1), rel=1e-13)
    assert g.variance == pytest.approx(1 / math.sqrt(0.5 - 0.5 / math.pi), rel=1e-13)
    assert g.note == ""


@pytest.mark.parametrize(
    ("f", "chi_1", "chi_q"),  # at the digits that were published with them
    [
        (torch.tanh, 1.178, 0.461),
        (F.selu, 1.072, 0.783),
        (F.elu, 1.036, 0.891),
        (F.gelu, 1.072, 1.144),
        (F.silu, 1.067, 1.173),
        (F.mish, 1.059, 1.076),
        (F.hardswish, 1.081, 1.224),
    ],
)
def test_chi_at_the_forward_gain(f: Function, chi_1: float, chi_q: float) -> None:
    g = gain(f)
    assert (g.chi_1, g.chi_q) == pytest.approx((chi_1, chi_q), abs=6e-4)
    assert ("grows by that factor" in g.advice) == (chi_q > 1)


def test_chi_q_is_the_slope_of_the_length_map() -> None:
    g, step = gain(F.silu), 1e-4

    def length(q: float) -> float:
        return g.forward**2 * expect(lambda x: F.silu(x).square(), q)

    assert g.chi_q == pytest.approx((length(1 + step) - length(1 - step)) / (2 * step), rel=1e-7)


@pytest.mark.parametrize(
    ("f", "forward", "variance", "note"),
    [
        (lambda x: (x > 0).to(x), math.sqrt(2), 2.0, "jumps"),
        (torch.sign, 1.0, 1.0, "jumps"),
        (lambda x: torch.full_like(x, 2.0), 0.5, INF, "constant"),
        (torch.zeros_like, INF, INF, "zero everywhere"),
    ],
)
def test_gains_that_do_not_exist_are_infinite_and_say_why(
    f: Function, forward: float, variance: float, note: str
) -> None:
    g = gain(f)
    assert (g.forward, g.variance) == pytest.approx((forward, variance), rel=1e-12)
    assert g.backward == INF
    assert note in g.note
    assert note in g.advice
    assert "inf" not in g.advice.replace("infinite", "")


def test_chi_of_jumps_constants_and_zero() -> None:
    assert gain(torch.sign).chi_1 == INF
    assert gain(torch.ones_like).chi_1 == 0
    assert math.isnan(gain(torch.zeros_like).chi_1)


def test_jumps_are_seen_beside_a_slope_and_where_they_cancel() -> None:
    assert gain(lambda x: x + 0.1 * torch.sign(x - 0.3)).chi_1 == INF
    assert gain(lambda x: x + ((x > 0.3) & (x < 0.4)).to(x)).chi_1 == INF
    assert gain(torch.round).chi_1 == INF
    for continuous in (torch.abs, F.relu6, F.hardsigmoid, lambda x: (x - 0.3).abs()):
        assert math.isfinite(gain(continuous).chi_1)


def test_an_unbounded_slope_has_no_backward_gain() -> None:
    g = gain(lambda x: x.abs().sqrt())
    assert g.backward == g.chi_1 == INF
    assert "E phi'(z)^2 does not exist" in g.note


def test_a_given_derivative_is_used() -> None:
    g = gain(torch.relu, derivative=lambda x: 2 * (x > 0).to(x))
    assert g.backward == pytest.approx(1 / math.sqrt(2), rel=1e-13)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: torch.exp(x * x), "phi grows too fast"),
        (lambda x: 1 / x, "too strong a pole"),
        (lambda x: torch.where(x > 0, x.sqrt(), 0.0), "the function or its derivative is NaN"),
        (lambda x: 0.0, "must return a tensor, not float"),
        (F.dropout, "irregular"),
    ],
)
def test_functions_without_gains(f: Function, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gain(f)


def test_one_thread_integrates_and_the_others_come_back() -> None:
    seen = set()

    def f(x: Tensor) -> Tensor:
        seen.add(torch.get_num_threads())
        return x * math.nan if len(seen) > 1 else x

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expect(f)
        assert (seen, torch.get_num_threads()) == ({1}, 2)
        seen.add(0)
        with pytest.raises(ValueError, match="NaN"):
            expect(f)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_that_overlap_keep_their_numbers() -> None:
    """Three threads, each inside for a while that begins before another's ends."""
    before, entered, seen = torch.get_num_threads(), threading.Barrier(4), []

    def inside(wait: float) -> None:
        with one_thread():
            entered.wait()
            with one_thread():
                time.sleep(wait)
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    torch.set_num_threads(2)
    try:
        threads = [threading.Thread(target=inside, args=(wait,)) for wait in (0.02, 0.0, 0.04)]
        with one_thread():
            for thread in threads:
                thread.start()
            entered.wait()
        assert torch.get_num_threads() == 2
        for thread in threads:
            thread.join()
        assert sorted(seen) == [1, 1, 1, 2, 2, 2]
        late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        late.start()
        late.join()
        assert seen[-1] == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_bends_are_found() -> None:
    def bent(x: Tensor) -> Tensor:
        return (x - 0.3).abs()

    found = bends(bent)
    assert (found - 0.3).abs().min() < 1e-4
    assert ((found - 0.3).abs() < 1).all()
    assert bends(bent, kinks=[0.3]).tolist() == pytest.approx([0.3], abs=1e-15)
    assert len(bends(torch.relu)) > 0
    assert bends(torch.tanh).tolist() == []
    steep = bends(lambda x: torch.tanh(100 * (x - 2)))
    assert ((steep - 2).abs() < 1).all()
    assert steep.diff().min() < 0.02


def test_an_integral_between_edges() -> None:
    edges = torch.linspace(-1, 2, 3, dtype=torch.float64)
    mass = (math.erf(2 / math.sqrt(2)) + math.erf(1 / math.sqrt(2))) / 2
    assert integral(torch.ones_like, edges) == pytest.approx(mass, rel=1e-13)
    step = integral(lambda z: (z > 0.7).double(), edges)
    assert step == pytest.approx(_upper(0.7) - _upper(2), rel=1e-10)


def test_modules_are_functions_too() -> None:
    assert gain(nn.GELU()) == gain(F.gelu)


def test_derivatives_keep_the_dtype_and_leave_no_graph() -> None:
    x = torch.linspace(-2, 2, 9)
    slope = derivative_of(torch.tanh)(x)
    assert slope.dtype == torch.float32
    assert not slope.requires_grad
    torch.testing.assert_close(slope, 1 - torch.tanh(x) ** 2)


def test_derivatives_where_autograd_is_off() -> None:
    def cube(x: Tensor) -> Tensor:
        return x.pow_(3)  # in place, too

    x = torch.tensor([1.0, -2.0])
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert derivative_of(cube)(x.clone()).tolist() == [3.0, 12.0]
            assert derivative_of(torch.sign)(x).tolist() == [0.0, 0.0]
            assert derivative_of(lambda v: (v > 0).to(v))(x).tolist() == [0.0, 0.0]
    assert x.tolist() == [1.0, -2.0]
