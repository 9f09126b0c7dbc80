"""The training of a coordinate check: what blows up, what is uncertain, orthogonal updates."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import initstats as ist
from initstats.coordinates.factory import Maker
from initstats.coordinates.response import response_of
from initstats.coordinates.settings import objective_of
from initstats.coordinates.slopes import verdict_of
from initstats.coordinates.trial import Size, records

SCALED = runpy.run_path(str(Path(__file__).with_name("scaled.py")))
NETS, mup, kind_of, normal = (SCALED[name] for name in ("NETS", "mup", "kind_of", "normal"))
RELU, CONV = NETS["relu"], NETS["conv"]
WIDTHS = (16, 32, 64)


def check(factory: Any, **settings: Any) -> Any:
    return ist.coordinate_check(factory, **{"widths": WIDTHS, "x": RELU.x, "seeds": 2} | settings)


def faults(found: Any) -> set[tuple[str, str]]:
    severe = found.findings["severity"].isin(["error", "warning", "note"])
    return {(r["rule"], r["where"]) for r in records(found.findings[severe])}


def training(found: Any) -> list[str]:
    return [*found.findings["evidence"][found.findings["rule"] == "training"]]


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 1e9), ("sgd", 1e3), ("adam", 1e9)])
def test_a_training_that_blows_up_is_told(optimizer: str, lr: float, tmp_path: Path) -> None:
    found = check(RELU.make, optimizer=optimizer, lr=lr, steps=3, seeds=1)
    (told,) = training(found)
    assert "diverged by step 1 at the widths 16, 32, 64" in told
    assert "take a smaller learning rate" in found.words
    assert "take a smaller learning rate" in found.lead
    assert not found.slopes.query("step > 0 and verdict != ''").size
    # of what was before, the verdict stays
    calm = check(RELU.make, optimizer=optimizer, seeds=1)
    assert faults(found) == faults(calm)
    assert "diverged" in found.report(tmp_path / "page").read_text()


def test_the_size_of_what_blew_up() -> None:
    def late(n: int) -> Any:
        model, optimizer = mup(RELU, "sgd")(n)
        if n == 64:
            optimizer.param_groups[0]["lr"] *= 1e5
        return model, optimizer

    found = check(late, seeds=1, steps=2)
    (told,) = training(found)
    values = found.table.query("width == 64 and quantity == 'value' and tensor != 'weight'")
    largest = values.groupby("step")["rms"].max()
    step = int((largest / largest[0] > 100).idxmax())
    grown = f"{largest[step] / largest[0]:,.0f}"
    assert f"by step {step} at the width 64: values grew to {grown} times" in told


def test_a_loss_that_is_not_finite_at_init() -> None:
    found = check(RELU.make, x=RELU.x * math.inf, seeds=1)
    assert training(found) == ["the loss is not finite at init, at the widths 16, 32, 64"]
    assert "0 of 0" not in found.words
    assert found.slopes["verdict"].eq("").all()


@pytest.mark.parametrize("name", ["transformer", "fused"])
def test_a_sound_training_has_not_blown_up(name: str) -> None:
    net = NETS[name]  # whose masks may be infinite
    assert training(check(mup(net, "adam"), x=net.x, widths=(16, 32), seeds=1, steps=2)) == []


def test_a_mask_of_infinities_is_no_divergence() -> None:
    def factory(n: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(n, 2, n, 0.0, batch_first=True)

        class Causal(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.layer, self.last = nn.Linear(8, n), layer, nn.Linear(n, 4)

            def forward(self, x: Tensor) -> Tensor:
                scores = self.first(x) @ self.first(x).transpose(1, 2)
                seen = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf).softmax(-1)
                out: Tensor = self.last(self.layer(seen @ self.first(x)))
                return out

        return Causal()

    assert training(check(factory, x=normal(4, 5, 8), widths=(16, 32), seeds=1, steps=2)) == []


@pytest.mark.parametrize(
    ("slope", "low", "high", "expected", "verdict"),
    [
        (-0.14, -1.49, 1.21, -0.5, "too uncertain"),
        (0.97, -0.13, 2.07, 0.0, "too uncertain"),
        (0.0, -0.6, 0.6, 0.0, "too uncertain"),
        (0.1, -0.2, 0.4, 0.0, "as expected"),
        (0.97, 0.8, 1.14, 0.0, "grows"),
        (-0.97, -1.2, -0.7, 0.0, "vanishes"),
        (0.97, math.nan, math.nan, 0.0, "grows"),
        (0.1, math.nan, math.nan, 0.0, "as expected"),
        (0.3, 0.28, 0.32, math.nan, ""),
    ],
)
def test_a_verdict_is_what_its_interval_bears_out(
    slope: float, low: float, high: float, expected: float, verdict: str
) -> None:
    assert verdict_of(slope, slope, expected, low, high) == verdict


def test_a_slope_that_the_largest_widths_belie_is_curved() -> None:
    assert verdict_of(0.5, 0.05, 0.0, 0.4, 0.6) == "curved"
    assert verdict_of(0.5, -0.5, 0.0, 0.4, 0.6) == "curved"


@pytest.mark.parametrize(("seeds", "widths"), [(1, (16, 32)), (1, WIDTHS), (6, WIDTHS)])
def test_no_verdict_is_against_its_interval(seeds: int, widths: tuple[int, ...]) -> None:
    rows = check(RELU.make, seeds=seeds, widths=widths).slopes.query("verdict != ''")
    off = rows[rows["verdict"].isin(["grows", "vanishes", "curved"])]
    assert len(off) > 3
    holds = (off["low"] <= off["expected"]) & (off["expected"] <= off["high"])
    assert not holds.any()
    assert rows["low"].isna().all() == (len(widths) == 2)


class Polar(torch.optim.Optimizer):
    """Steps along the orthogonal factor of the gradient, of rate and spectral norm `lr`."""

    def __init__(self, groups: Any) -> None:
        super().__init__(groups, {"lr": 0.02})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim > 1:
                    left, _, right = torch.linalg.svd(p.grad.flatten(1), full_matrices=False)
                    p.sub_(group["lr"] * (left @ right).view(p.shape))
                else:
                    p.sub_(group["lr"] * p.grad.sign())


def polar(net: Any, power: Callable[[str], float]) -> Callable[[int], Any]:
    """A model with the initial values of muP, and rates n^power by kind."""

    def make(n: int) -> Any:
        model, _ = mup(net, "adam")(n)
        groups = [
            {"params": [p], "lr": 0.02 * (n / 16) ** power(kind_of(net, name))}
            for name, p in model.named_parameters()
        ]
        return model, Polar(groups)

    return make


@pytest.mark.parametrize("name", ["relu", "conv"])
def test_orthogonal_updates_are_judged_by_their_spectral_norm(name: str) -> None:
    net = NETS[name]
    # sqrt(fan_out / fan_in), Yang, Simon and Bernstein 2023
    right = {"input": 0.5, "output": -0.5}
    sound = check(polar(net, lambda kind: right.get(kind, 0.0)), x=net.x)
    assert faults(sound) == set()
    assert sound.nearest == "mup"
    found = check(polar(net, lambda kind: 0.0), x=net.x)
    rates = found.parameters.query("orthogonal").set_index("parameter")
    assert rates["rate"].to_numpy() == pytest.approx(0, abs=1e-3)
    first, last = rates.index[0], rates.index[-1]
    assert faults(found) == {("learning_rate", first), ("learning_rate", last)}
    assert found.parameters.set_index("parameter").loc[first, "rate_off"] == pytest.approx(
        -0.5, abs=1e-3
    )


def muon(make: Callable[[int], nn.Module], power: float = 0.0) -> Callable[[int], Any]:
    """Hidden weights by Muon, the others by Adam, as its authors have it."""

    class Both:
        def __init__(self, *parts: torch.optim.Optimizer) -> None:
            self.parts = parts

        def zero_grad(self) -> None:
            [part.zero_grad() for part in self.parts]

        def step(self) -> None:
            [part.step() for part in self.parts]

    def made(n: int) -> Any:
        model, _ = mup(RELU, "adam")(n)
        hidden = [p for p in model.parameters() if p.ndim == 2 and min(p.shape) == n]
        rest = [p for p in model.parameters() if not (p.ndim == 2 and min(p.shape) == n)]
        last = [p for p in rest if p.shape == (4, n)]
        other = [{"params": [p], "lr": 1e-3 * (16 / n if p in set(last) else 1)} for p in rest]
        return model, Both(
            torch.optim.Muon(hidden, lr=0.02 * (n / 16) ** power), torch.optim.Adam(other)
        )

    return made


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_torchs_muon(power: float) -> None:
    found = check(muon(RELU.make, power))
    assert faults(found) == ({("learning_rate", "2.weight, 4.weight")} if power else set())
    assert found.parameters.query("orthogonal")["parameter"].tolist() == ["2.weight", "4.weight"]


@pytest.mark.parametrize("rows", [2, 3, 4, 10])
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Adafactor"])
def test_no_other_optimizer_is_taken_for_one_of_orthogonal_updates(kind: str, rows: int) -> None:
    def make(n: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, rows))

    def optimizer(model: nn.Module) -> Any:
        return getattr(torch.optim, kind)(model.parameters(), lr=0.01)

    objective = objective_of(None, None)
    for each, orthogonal in ((optimizer, 0), (lambda m: Polar(m.parameters()), 2)):
        found = response_of(Maker(make, each, None, RELU.x), Size(16, None, 0), objective)
        assert len(found.orthogonal) == orthogonal
        assert found.degree == (1 if kind == "SGD" and not orthogonal else 0)


def test_a_model_that_fails_says_where() -> None:
    with pytest.raises(RuntimeError) as raised:
        check(RELU.make, x=normal(6, 5))
    assert "at width 16" in raised.value.__notes__
    assert any("linear of 0" in note for note in raised.value.__notes__)


def test_rows_of_the_page_can_be_told_apart() -> None:
    from initstats.report.coordinates import told_apart

    class Shared(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.first, self.hidden, self.last = nn.Linear(8, n), nn.Linear(n, n), nn.Linear(n, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.hidden(self.hidden(self.first(x)).relu().relu()).tanh()
            out: Tensor = self.last(x + x.exp().exp() * 0.1)
            return out

    rows = told_apart(check(Shared, widths=(8, 16), seeds=1).slopes.query("verdict != ''"))
    assert not rows.duplicated(["name", "place", "quantity", "when"]).any()
    assert {"linear, call 1", "linear, call 2"} <= {*rows["place"][rows["name"] == "hidden"]}
    assert {"relu, no. 1", "relu, no. 2"} <= {*rows["place"]}
    assert {*rows["place"][rows["name"] == "first"]} == {"linear"}
    assert {*rows["when"]} == {"at init", "after step 1"}
    assert np.isin(["value", "change", "gradient"], rows["quantity"]).all()
