from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import initstats as ist
from initstats.plots import FIGURES, figure
from initstats.report.page import Files
from initstats.report.theory import write_theory
from initstats.theory.diagram import Diagram, diagram


@pytest.fixture(scope="module")
def tanh() -> Diagram:
    return diagram("tanh", sigma_b2=0.04)


@pytest.fixture(scope="module")
def relu() -> Diagram:
    return diagram("relu", sigma_b2=0.1)


def test_the_diagram_is_what_fixed_points_say(tanh: Diagram) -> None:
    for row, column in ((3, 70), (40, 90), (60, 20), (90, 50)):
        w2, b2 = float(tanh.sigma_w[column] ** 2), float(tanh.sigma_b[row] ** 2)
        point = ist.theory.fixed_point("tanh", w2, b2)
        assert tanh.q_star[row, column] == pytest.approx(point.q_star, rel=1e-3)
        assert tanh.chi_1[row, column] == pytest.approx(point.chi_1, rel=1e-3)
        assert tanh.xi_c[row, column] == pytest.approx(point.xi_c, rel=0.01)


def test_the_edge_is_where_it_is(tanh: Diagram) -> None:
    for sigma_b in (0.1, 0.5):
        edge = ist.theory.edge_of_chaos("tanh", sigma_b**2)
        drawn = np.interp(sigma_b, tanh.edge["sigma_b"], tanh.edge["sigma_w"])
        assert drawn == pytest.approx(math.sqrt(edge.sigma_w2), rel=1e-4)
    assert "the edge of chaos at sigma_b2 = 0.04 is sigma_w2 = " in tanh.words


def test_the_edge_goes_down_to_no_biases() -> None:
    edge = diagram("sigmoid").edge
    assert edge["sigma_b"].min() < 0.05
    found = ist.theory.edge_of_chaos("sigmoid").sigma_w2
    assert edge["sigma_w"].min() == pytest.approx(math.sqrt(found), rel=1e-3)


def test_a_rectifier_has_an_edge_without_biases_only(relu: Diagram) -> None:
    assert "relu has no edge of chaos at sigma_b2 = 0.1" in relu.words
    assert relu.edge["sigma_b"].max() == 0
    np.testing.assert_allclose(relu.edge["sigma_w"], math.sqrt(2))
    w2, b2 = np.meshgrid(relu.sigma_w**2, relu.sigma_b**2)
    np.testing.assert_array_equal(np.isinf(relu.q_star[b2 > 0.01]), w2[b2 > 0.01] >= 2)
    some = (b2 > 0.01) & (w2 < 1.8)
    np.testing.assert_allclose(relu.q_star[some], (b2 / (1 - w2 / 2))[some], rtol=0.002)
    c = relu.correlations["c"].to_numpy()
    angle = (np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / np.pi
    q = 0.1 / (1 - 0.5)  # where sigma_w2 is 1
    np.testing.assert_allclose(relu.correlations["lecun"], (angle * q / 2 + 0.1) / q, atol=5e-4)


def test_every_init_lies_where_it_says(relu: Diagram) -> None:
    placed = relu.inits.set_index("init")
    assert len(placed) == len(list(ist.inits.INITS))
    default = placed.loc["torch_default"]
    assert (default["sigma_w2"], default["sigma_b2"]) == pytest.approx((1 / 3, 1 / 150))
    assert default["q_star"] == pytest.approx(0.4 / 50)
    assert placed.loc["kaiming_normal", "sigma_w2"] == pytest.approx(2)
    assert placed.loc["lsuv", "note"] == "fitted to data"


def test_a_frame_holds_the_diagram_and_the_maps(tanh: Diagram) -> None:
    frame = FIGURES["phases"].frame(tanh)
    cells = frame[frame["kind"] == "cell"].set_index(["sigma_b", "sigma_w"])
    for row, column in ((3, 70), (60, 20)):
        cell = cells.loc[(tanh.sigma_b[row], tanh.sigma_w[column])]
        assert cell["xi_c"] == tanh.xi_c[row, column]
        assert cell["chi_1"] == tanh.chi_1[row, column]
    assert set(frame.loc[frame["kind"] == "init", "init"]) == set(tanh.inits["init"])
    maps = FIGURES["maps"].frame(tanh)
    kaiming = maps[(maps["weights"] == "kaiming") & (maps["quantity"] == "q")]
    fixed = kaiming[kaiming["fixed"]]
    assert fixed["before"].tolist() == fixed["after"].tolist()
    expected = ist.theory.fixed_point("tanh", 2.0, 0.04).q_star
    assert fixed["before"].iloc[0] == pytest.approx(expected, rel=1e-6)
    curve = kaiming[~kaiming["fixed"]]
    np.testing.assert_array_equal(curve["after"], tanh.lengths["kaiming"])


@pytest.mark.parametrize("width", [3.3, 5, 9])
@pytest.mark.parametrize("name", ["phases", "maps"])
def test_no_text_is_cut_or_overlaps(
    name: str, width: float, tanh: Diagram, faults: Callable[[Figure], list[str]]
) -> None:
    drawn = figure(name, tanh, width)
    assert drawn.get_figwidth() == pytest.approx(width)
    assert faults(drawn) == []


def test_the_page_is_whole(tanh: Diagram, relu: Diagram, tmp_path: Path) -> None:
    page = write_theory(tmp_path / "deep" / "down", [tanh, relu])
    files = {path.name for path in page.parent.rglob("*") if path.is_file()}
    pictures = {
        f"{name}_{activation}.{kind}"
        for name in ("phases", "maps")
        for activation in ("tanh", "relu")
        for kind in ("png", "svg")
    }
    assert files == pictures | {"index.html"}
    html = page.read_text()
    assert html.count("<svg") == 4
    assert "relu has no edge of chaos at σ<sub>b</sub>² = 0.1" in html
    # of relu without biases, and of no other
    assert html.count("slower than exponentially") == 1
    walk = ist.theory.propagate("relu", sigma_w2=1.0, depth=400, c0=0.2)
    apart = 1 - walk[walk["tensor"] == "preactivation"]["sample_correlation"].to_numpy()
    assert apart[399] / apart[199] == pytest.approx(1 / 4, rel=0.1)  # a power of the depth
    assert "<code>kaiming_normal</code>" in html


@pytest.mark.parametrize("name", ["identity", "squared_relu", "sigmoid"])
def test_any_activation_is_drawn(name: str, tmp_path: Path) -> None:
    assert write_theory(tmp_path, [diagram(name)], Files(False)).exists()


def test_a_step_has_no_edge_and_is_drawn(tmp_path: Path) -> None:
    step = diagram(torch.sign)
    assert "it jumps" in step.words
    assert write_theory(tmp_path, [step], Files(False)).exists()


def test_a_negative_variance() -> None:
    with pytest.raises(ValueError, match="sigma_b2 is a variance"):
        diagram("relu", sigma_b2=-1.0)
