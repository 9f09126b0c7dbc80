"""The coordinate check: slopes over width and depth, kinds, multipliers, attention, remedies."""

from __future__ import annotations

import json
import random
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import initstats as ist
from initstats import cli
from initstats.coordinates.slopes import fit, slopes
from initstats.coordinates.trial import records
from initstats.draws import seed_for
from initstats.plots import figure, of_page

SCALED = runpy.run_path(str(Path(__file__).with_name("scaled.py")))
NETS, Net, mup, normal = (SCALED[name] for name in ("NETS", "Net", "mup", "normal"))
X = normal(16, 8)


def bare(n: int) -> Any:
    """Three maps without biases, of std 1/sqrt(fan_in): the standard parametrization."""
    maps = [nn.Linear(a, b, bias=False) for a, b in ((8, n), (n, n), (n, 4))]
    for each in maps:
        nn.init.normal_(each.weight, std=each.in_features**-0.5)
    return nn.Sequential(maps[0], nn.Tanh(), maps[1], nn.Tanh(), maps[2])


BARE = Net(bare, {"0.weight": "input", "2.weight": "hidden", "4.weight": "output"}, X)
# change after a step at input, hidden and output maps: section 5 of Tensor Programs IV and V
KNOWN = {
    ("standard", "sgd"): (-0.5, 0.5, 1.0),
    ("standard", "adam"): (0.0, 1.0, None),  # a sum of n and n^1.5
    ("mup", "sgd"): (0.0, 0.0, 0.0),
    ("mup", "adam"): (0.0, 0.0, 0.0),
}


def check(factory: Any, widths: Any = (16, 32, 64), **settings: Any) -> Any:
    return ist.coordinate_check(factory, widths, **{"x": X, "seeds": 2} | settings)


def faults(found: Any) -> list[tuple[str, str, str]]:
    severe = found.findings["severity"].isin(["error", "warning", "note"])
    return [(r["severity"], r["rule"], r["where"]) for r in records(found.findings[severe])]


def measured(name: str, optimizer: str, widths: tuple[int, ...], seeds: int) -> Any:
    lr = {"sgd": 1e-2, "adam": 1e-5}[optimizer]
    factory: Any = bare if name == "standard" else mup(BARE, optimizer, lr=lr)
    target = normal(16, 4)
    found = check(
        factory,
        widths,
        loss=lambda y: (y * target).mean(),  # whose gradient depends on no output
        optimizer=optimizer,
        lr=lr,
        seeds=seeds,
    )
    rows = found.slopes[(found.slopes["op"] == "linear") & (found.slopes["tensor"] != "weight")]
    return rows.set_index(["quantity", "step", "name"])[["slope", "low", "high"]]


def assert_known(rows: Any, name: str, optimizer: str, *, by_chance: bool) -> None:
    known = dict(zip(("0", "2", "4"), KNOWN[name, optimizer], strict=True))
    wanted = {("change", 1, at): slope for at, slope in known.items() if slope is not None}
    wanted |= {("value", 0, "0"): 0.0, ("value", 0, "2"): 0.0}
    wanted |= {("value", 0, "4"): {"standard": 0.0, "mup": -0.5}[name]}
    for at, slope in wanted.items():
        row = rows.loc[at]
        chance = (row["high"] - row["low"]) / 2 if by_chance or at[0] == "value" else 0.0
        assert abs(row["slope"] - slope) <= 0.05 + chance, (at, slope, row["slope"])
    assert name == "mup" or optimizer == "sgd" or 1 < rows.loc[("change", 1, "4"), "slope"] < 1.5


@pytest.mark.parametrize(("name", "optimizer"), KNOWN)
def test_slopes_are_those_of_theory(name: str, optimizer: str) -> None:
    rows = measured(name, optimizer, (128, 256, 512), 3)
    assert_known(rows, name, optimizer, by_chance=True)


@pytest.mark.mutations
@pytest.mark.parametrize(("name", "optimizer"), KNOWN)
def test_slopes_where_the_widths_suffice(name: str, optimizer: str) -> None:
    rows = measured(name, optimizer, (256, 512, 1024, 2048), 8)
    assert_known(rows, name, optimizer, by_chance=False)


def test_a_fit_finds_slope_interval_and_curvature() -> None:
    x = np.log([8.0, 16.0, 32.0, 64.0])
    seeds = np.array([[0.3], [-0.1], [0.2]]) + np.array([[1.4], [1.5], [1.6]]) * x
    (slope, low, high, end, bend, *_), note = fit(x, seeds)
    assert (slope, end, bend) == pytest.approx((1.5, 1.5, 0))
    assert high - low == pytest.approx(2 * 4.302653 * 0.1 / np.sqrt(3))  # t of 2 degrees of freedom
    assert note == ""
    (_, _, _, _, bend, *_), _ = fit(x, 0.25 * x[None] ** 2)
    assert bend == pytest.approx(0.5 * (x[-1] - x[0]))
    assert fit(x, np.full((2, 4), -np.inf))[1] == "zero at every size"
    assert fit(x[:1], seeds[:, :1])[1] == "one size only"


def test_slopes_of_one_seed_have_the_interval_of_the_line() -> None:
    rows = [
        {"k": "a", "width": w, "seed": 0, "rms": w**0.5 * f}
        for w, f in ((8, 1), (16, 1.1), (32, 1))
    ]
    (row,) = records(slopes(pd.DataFrame(rows), ["k"], "width"))
    assert row["low"] < row["slope"] < row["high"]
    assert row["slope"] == pytest.approx(0.5)


def test_the_table_is_tidy_and_nothing_else_changes() -> None:
    def factory(n: int) -> Any:
        random.random(), np.random.rand()  # noqa: NPY002 (a user's)
        return nn.Sequential(nn.Linear(8, n), nn.Dropout(0.5), nn.Linear(n, 4))

    def states() -> tuple[str, ...]:
        numpy = np.random.get_state()  # noqa: NPY002 (the global one)
        return str(torch.get_rng_state().sum()), str(random.getstate()), str(numpy)

    before = states()
    found = check(factory, steps=2)
    assert states() == before
    keys = ["width", "seed", "step", "name", "op", "call", "turn", "tensor", "quantity"]
    assert not found.table.duplicated(keys).any()
    assert {*found.table["quantity"]} == {"value", "gradient", "change", "update"}
    weights = found.table.query("width == 16 and name == '0.bias' and quantity == 'value'")
    assert len(weights) == 2 * 3
    assert weights["rms"].between(0, 1 / 8**0.5).all()
    assert len([*factory(16).parameters()]) == found.parameters["parameter"].nunique()


def test_updates_and_gradients_are_the_optimizers() -> None:
    found = check(bare, optimizer="sgd", lr=0.5).table
    sizes = found[found["tensor"] == "weight"].set_index(
        ["width", "seed", "name", "quantity", "step"]
    )
    sizes = sizes["rms"]
    for name in ("0.weight", "2.weight", "4.weight"):
        at = 32, 1, name
        assert sizes[(*at, "update", 1)] == pytest.approx(
            0.5 * sizes[(*at, "gradient", 0)], rel=1e-5
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(1, "coordinates"))
        model = bare(32)
    first = found.query(
        "width == 32 and seed == 1 and name == '0' and quantity == 'value' and step == 0"
    )
    assert first["rms"].item() == pytest.approx(model[0](X).square().mean().sqrt().item(), rel=1e-5)


class Transposed(nn.Module):
    """GPT-2's Conv1D: weights are (inputs, units)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(a, b) * a**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


KINDS: dict[str, tuple[Callable[[int], nn.Module], list[str]]] = {
    "transposed": (
        lambda n: nn.Sequential(
            Transposed(8, n), nn.ReLU(), Transposed(n, n), nn.ReLU(), Transposed(n, 4)
        ),
        ["input", "hidden", "output"],
    ),
    "lazy": (
        lambda n: nn.Sequential(nn.LazyLinear(n), nn.ReLU(), nn.LazyLinear(4)),
        ["input", "vector", "output", "fixed"],
    ),
    "some grow": (
        lambda n: nn.Sequential(
            nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, n), nn.ReLU(), nn.Linear(n, 4)
        ),
        ["fixed", "input", "vector", "output", "fixed"],
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_are_found_from_how_shapes_grow(name: str) -> None:
    factory, kinds = KINDS[name]
    assert check(factory, (16, 32), seeds=1).parameters["kind"].tolist() == kinds


def test_shapes_that_do_not_grow() -> None:
    found = check(lambda n: nn.Linear(8, 4), (16, 32), seeds=1)
    assert faults(found) == []
    assert "no parameter's shape changes" in found.words


class Scaled(nn.Module):
    """Weights of std 1 with a multiplier, before or behind, as a number or on the weights."""

    def __init__(self, a: int, b: int, power: float, place: str) -> None:
        super().__init__()
        self.weight, self.place = nn.Parameter(torch.randn(b, a)), place
        self.multiplier = a**power if a > 8 else 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.place == "weight":
            return nn.functional.linear(x, self.weight * self.multiplier)
        if self.place == "before":
            return nn.functional.linear(x * self.multiplier, self.weight)
        return nn.functional.linear(x, self.weight) * self.multiplier


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize("phi", [nn.Tanh, nn.Identity])
@pytest.mark.parametrize("place", ["before", "weight", "behind"])
def test_multipliers_count_wherever_they_stand(place: str, phi: type[nn.Module]) -> None:
    def ntk(n: int) -> nn.Module:
        maps = [Scaled(a, b, -0.5, place) for a, b in ((8, n), (n, n), (n, 4))]
        return nn.Sequential(maps[0], phi(), maps[1], phi(), maps[2])

    found = check(ntk, parametrization="ntk", seeds=1)
    assert faults(found) == []
    assert found.nearest == "ntk"
    if phi is nn.Identity:
        return
    beside_mup = check(ntk, (16, 64), seeds=1)
    assert beside_mup.nearest == "ntk"
    assert ("error", "init_scale", "4.weight") in faults(beside_mup)


def test_a_readout_that_begins_at_zero_is_sound() -> None:
    def factory(n: int) -> Any:
        model, optimizer = mup(BARE, "sgd")(n)
        nn.init.zeros_(model[4].weight)
        return model, optimizer

    assert faults(check(factory, steps=2)) == []
    once = check(factory, seeds=1)
    assert faults(once) == []
    assert "0.weight, 2.weight" in once.findings["where"].tolist()  # not updated, so not judged


ATTENTION: dict[str, tuple[Any, bool]] = {
    "root": (SCALED["transformer"](power=0.5), True),
    "fused root": (SCALED["transformer"](power=0.5, fused=True), True),
    "sound": (SCALED["transformer"](), False),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_scores_of_attention(name: str) -> None:
    net, bad = ATTENTION[name]
    told = faults(check(mup(net, "adam"), (16, 32), x=net.x, seeds=1))
    assert [rule for _, rule, _ in told] == ["attention_scale"] * 2 * bad


@pytest.mark.parametrize("heads", [2, None])
def test_torchs_attention_is_off_unless_heads_grow(heads: int | None) -> None:
    def factory(n: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(n, heads or n // 8, 2 * n, 0.0, batch_first=True)
        return nn.Sequential(nn.Linear(8, n), layer, nn.Linear(n, 4))

    told = faults(check(factory, (16, 32), x=normal(4, 5, 8), seeds=1, optimizer="adam"))
    assert ("attention_scale" in {rule for _, rule, _ in told}) == (heads == 2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_remedies_repair(optimizer: str) -> None:
    net, base, lr = NETS["gelu"], 16, {"sgd": 0.02, "adam": 1e-3}[optimizer]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    found = check(net.make, x=net.x, optimizer=optimizer, lr=lr, seeds=1)
    severe = records(found.findings[found.findings["severity"].isin(["error", "warning"])])
    assert len(severe) >= 2
    assert found.nearest == "standard"

    def repaired(width: int) -> Any:
        model, rates = net.make(width), dict[str, float]()
        for row in severe:
            names: dict[str, Any] = {"model": model, "width": width, "lr": lr, "torch": torch}
            exec(row["remedy"], names)
            for group in names.get("groups", []):
                for name, p in model.named_parameters():
                    if group["params"][0] is p and group["lr"] != lr:
                        rates[name] = group["lr"]
        groups = [
            {"params": [p], "lr": rates.get(name, lr)} for name, p in model.named_parameters()
        ]
        return model, kind(groups)

    assert repaired(base)[1].param_groups[0]["lr"] == lr
    assert faults(check(repaired, x=net.x)) == []


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_an_optimizer_of_the_users_own(make: Any) -> None:
    found = check(bare, optimizer=lambda model: make(model.parameters(), lr=1e-3), seeds=1)
    assert found.degree == 0
    assert found.nearest == "standard"


def test_momentum_leaves_updates_proportional_to_gradients() -> None:
    momentum = check(bare, optimizer=lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9))
    assert momentum.degree == 1


def test_a_scale_that_is_no_power_is_judged_at_the_largest_widths() -> None:
    def factory(n: int) -> Any:
        model, optimizer = mup(BARE, "adam")(n)
        optimizer.param_groups[1]["lr"] = 1e-3 * 16 / max(n, 64)
        return model, optimizer

    found = check(factory, (16, 32, 64, 128, 256), seeds=1)
    assert found.parameters.set_index("parameter").loc["2.weight", "curved"]
    assert faults(found) == []

    def late(n: int) -> Any:
        model, optimizer = mup(BARE, "adam")(n)
        optimizer.param_groups[1]["lr"] = 1e-3 * 16 / min(n, 64)
        return model, optimizer

    (told,) = records(check(late, (16, 32, 64, 128, 256)).findings.head(1))
    assert told["where"] == "2.weight"
    assert "it is no power of the width" in told["evidence"]


def test_growth_that_no_parameter_explains() -> None:
    class Long(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return out

    def factory(n: int) -> Any:
        model, _ = mup(BARE, "sgd")(n)
        model = nn.Sequential(*model[:2], Long(), *model[2:])
        kinds = {"0.weight": 1, "3.weight": 0, "5.weight": -1}
        groups = [
            {"params": [p], "lr": 0.01 * (n / 16) ** kinds[k]} for k, p in model.named_parameters()
        ]
        return model, torch.optim.SGD(groups)

    told = faults(check(factory, (64, 128, 256), seeds=3))
    assert ("warning", "growth", "2 (mul)") in told


class Residual(nn.Module):
    def __init__(self, n: int, depth: int, power: float) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(8, n), nn.Linear(n, 4), depth**power
        parts = [
            (nn.LayerNorm(n), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, n)) for _ in range(depth)
        ]
        self.blocks = nn.ModuleList(nn.Sequential(*each) for each in parts)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + self.scale * block(x)
        out: Tensor = self.last(x)
        return out


DEEP = "coordinate_depth"


def deep(optimizer: str, power: float, rate: float) -> Callable[[int, int], Any]:
    kinds = {"first.weight": "input", "last.weight": "output", "last.bias": "fixed"}
    kinds |= {"blocks.*.[13].weight": "hidden", "*": "vector"}

    def make(n: int, depth: int) -> Any:
        net = Net(lambda width: Residual(width, depth, power), kinds, X)
        model, made = mup(net, optimizer)(n)
        for (name, _), group in zip(model.named_parameters(), made.param_groups, strict=True):
            group["lr"] *= depth**rate if "blocks" in name else 1
        return model, made

    return make


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize(
    ("optimizer", "power", "rate", "rules"),
    [
        ("sgd", -0.5, 0.0, set()),
        ("adam", -0.5, -0.5, set()),
        ("sgd", 0.0, 0.0, {"branch_scale"}),
        ("adam", 0.0, 0.0, {"branch_scale", "depth_learning_rate"}),
        ("adam", -0.5, 0.0, {"depth_learning_rate"}),
        ("sgd", -0.5, 0.5, {"depth_learning_rate"}),
    ],
)
def test_depth(optimizer: str, power: float, rate: float, rules: set[str]) -> None:
    found = check(deep(optimizer, power, rate), (16, 32), depths=(1, 2, 4), seeds=(2, 3))
    assert {rule for _, rule, _ in faults(found)} == rules
    assert {*found.slopes["over"]} == {"width", "depth"}
    made = found.table[["width", "depth"]].drop_duplicates().itertuples(index=False, name=None)
    assert {*made} == {(16, 1), (32, 1), (32, 2), (32, 4)}
    # a multiplier L^power makes branches fall so, and depth-muP's L^-1/2 is flat
    (lines,) = (each.frame(found) for each in of_page("coordinates") if each.name == DEEP)
    at = lines[lines["what"] == "branches at init"].set_index("depth")["factor"]
    assert at[4] / at[1] == pytest.approx(4 ** (power + 0.5), rel=0.35)
    moved = lines[lines["what"] == "output, moved by step 1"].set_index("depth")["factor"]
    sizes = found.table.query("width == 32 and quantity == 'change' and step == 1")
    ends = sizes[sizes["layer"] == sizes.groupby(["depth", "seed"])["layer"].transform("max")]
    means = np.log(ends.set_index("depth")["rms"]).groupby("depth").mean()
    assert moved[4] == pytest.approx(np.exp(means[4] - means[1]))
    if "depth_learning_rate" in rules and optimizer == "adam":
        assert moved[4] > 1.5


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("seed", range(8))
def test_one_draw_of_the_weights_accuses_nobody_over_depth(seed: int) -> None:
    """Chance makes the scales of a few hundred entries change with the depth."""
    found = check(deep("sgd", -0.5, 0.0), (8, 32), depths=(2, 4, 8), seeds=[seed])
    assert not found.findings["severity"].isin(["error", "warning"]).any()


@pytest.mark.parametrize("seed", [0, 2])
def test_one_draw_of_the_weights_shows_a_wrong_rate_over_depth(seed: int) -> None:
    found = check(deep("sgd", -0.5, 0.8), (8, 32), depths=(2, 4, 8), seeds=[seed])
    assert "depth_learning_rate" in {rule for _, rule, _ in faults(found)}


def test_the_figure_over_depth(faults: Callable[[Figure], list[str]]) -> None:
    found = check(deep("sgd", 0.0, 0.0), (4, 8), depths=(1, 2, 32), seeds=1)
    for width in (3.3, 9.0):
        assert not faults(figure(DEEP, found, width)), width


def test_a_depth_without_branches_is_not_judged() -> None:
    def make(n: int, depth: int) -> nn.Module:
        hidden = [part for _ in range(depth) for part in (nn.Linear(n, n), nn.ReLU())]
        return nn.Sequential(nn.Linear(8, n), *hidden, nn.Linear(n, 4))

    found = check(make, (16, 32), depths=(1, 2))
    assert found.findings["evidence"].str.contains("does not grow with the depth").any()


def test_a_change_that_is_rounding_is_none() -> None:
    rows = check(bare, (16, 32), lr=1e-7, seeds=1).table.query("quantity == 'change'")
    assert rows["rms"].isna().all()
    still = check(bare, (16, 32), optimizer=lambda model: torch.optim.SGD(model.parameters(), 0.0))
    rows = still.table.query("quantity == 'change'")
    assert (rows["rms"] == 0).all()


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"widths": (8,)}, ValueError, "two or more"),
    ({"widths": ()}, ValueError, "two or more"),
    ({"widths": (8, 8)}, ValueError, "two or more"),
    ({"widths": (0, 8)}, ValueError, "widths: at least 1"),
    ({"widths": (8, "a")}, TypeError, "widths: a whole number is expected, not 'a'"),
    ({"widths": (8, 16.5)}, TypeError, "widths: a whole number is expected, not 16.5"),
    ({"widths": (True, 2)}, TypeError, "widths: a whole number is expected, not True"),
    ({"widths": 8}, TypeError, "widths: several whole numbers"),
    ({"widths": "8,16"}, TypeError, "widths: several whole numbers"),
    ({"depths": (2, 4)}, TypeError, "a width and a depth"),
    ({"depths": (2, None)}, TypeError, "depths: a whole number"),
    ({"depths": ()}, ValueError, "depths: two or more"),
    ({"depths": (-2, 4)}, ValueError, "depths: at least 1"),
    ({"seeds": 0}, ValueError, "seeds=0"),
    ({"seeds": -1}, ValueError, "seeds=-1"),
    ({"seeds": []}, ValueError, "seeds: one or more"),
    ({"seeds": [0, -3]}, ValueError, "seeds: one or more, of at least 0"),
    ({"seeds": "ab"}, TypeError, "seeds: several whole numbers"),
    ({"seeds": [0.5]}, TypeError, "seeds: a whole number"),
    ({"seeds": 1.0}, TypeError, "seeds: a whole number"),
    ({"seeds": True}, TypeError, "seeds: a whole number"),
    ({"steps": 0}, ValueError, "1 or more"),
    ({"steps": 1.5}, TypeError, "steps: a whole number"),
    ({"lr": float("nan")}, ValueError, "lr=nan"),
    ({"lr": float("inf")}, ValueError, "lr=inf"),
    ({"lr": -1e-3}, ValueError, "a number above 0"),
    ({"lr": 0}, ValueError, "nothing moves"),
    ({"lr": "1"}, TypeError, "lr: a number"),
    ({"lr": True}, TypeError, "lr: a number"),
    ({"optimizer": "sdg"}, ValueError, "did you mean 'sgd'"),
    ({"optimizer": 3}, TypeError, "a function of the model"),
    ({"optimizer": torch.optim.Adam}, TypeError, "lambda model"),
    ({"optimizer": lambda model: 3}, TypeError, "has no step"),
    ({"parametrization": "mu"}, ValueError, "mup"),
    ({"parametrization": None}, ValueError, "mup"),
    ({"factory": nn.Linear(2, 2)}, TypeError, "a function of the width"),
    ({"factory": lambda n: n}, TypeError, "returns int"),
    ({"loss": 3}, TypeError, "loss: a function"),
    ({"loss": lambda y: y}, ValueError, r"shape \(16, 4\), one is expected"),
    ({"loss": lambda y: y.sum().item()}, TypeError, "loss: it returned float"),
    ({"loss": lambda y: y.sum().detach()}, ValueError, "depends on no parameter"),
    ({"target": torch.zeros(3)}, ValueError, r"shape \(3,\), and the output of \(16, 4\)"),
    ({"target": torch.zeros(16, 1)}, ValueError, "target: it is of shape"),
    ({"target": torch.zeros(3).long()}, ValueError, "one is expected for each sample"),
    ({"target": torch.full((16,), 4)}, ValueError, "class 4 was given"),
    ({"target": torch.zeros(16).bool()}, TypeError, "not torch.bool"),
    ({"target": [0] * 16}, TypeError, "target: a tensor"),
]


@pytest.mark.parametrize(("given", "kind", "message"), WRONG)
def test_what_cannot_be_checked_is_said(
    given: dict[str, Any], kind: type[Exception], message: str
) -> None:
    settings = {"factory": bare, "widths": (8, 16), "seeds": 1} | given
    with pytest.raises(kind, match=message) as told:
        check(settings.pop("factory"), settings.pop("widths"), **settings)
    assert "\n" not in str(told.value)


def test_targets_of_every_right_shape() -> None:
    def per_pixel(n: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, n, 1), nn.Conv2d(n, 5, 1))

    classes = torch.randint(5, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    found = check(per_pixel, (4, 8), x=normal(2, 3, 4, 4), target=classes, seeds=np.arange(1))
    assert found.parameters["rate"].notna().all()
    single = check(
        lambda n: nn.Sequential(nn.Linear(8, n), nn.Linear(n, 4)),
        np.array([4, 8]),
        x=normal(8),
        target=torch.tensor(3),
        seeds=(0, 0),
    )
    assert single.table["seed"].unique().tolist() == [0]


OWN = """
import torch
from torch import nn
def net(n):
    ends = (8, n), (n, n), (n, n)
    hidden = [part for a, b in ends for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(n, 4))
def seeing(n): return nn.Sequential(nn.Flatten(), nn.Linear(784, n), nn.ReLU(), nn.Linear(n, 10))
def same(n): return nn.Linear(8, 4)
def fails(n): raise KeyError("no such width")
class Wordy(nn.Module):
    def __init__(self, n, rows, least):
        super().__init__()
        self.words, self.last, self.least = nn.Embedding(rows, n), nn.Linear(n, 4), least
    def forward(self, ids):
        assert ids.max() >= self.least
        return self.last(self.words(ids).mean(1))
def few(n): return Wordy(n, 7, 0)
def many(n): return Wordy(n, 3000, 2000)
def sgd(model): return torch.optim.SGD(model.parameters(), 0.1)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    (tmp_path / "own_wide.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        argv = mock.patch.object(sys, "argv", ["initstats", "coords", *arguments])
        with argv, pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    return call


QUICK = ("--widths", "16,32", "--seeds", "1", "--input", "6,8")


def test_the_command(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("own_wide.py:net", *QUICK, "--out", "page", "--no-figures", "--json", "found.json") == 1
    )
    out, err = capsys.readouterr()
    assert "Sequential does not scale as muP has it" in out
    assert err == ""
    page = Path("page/index.html").read_text()
    assert "Sizes over width" in page
    assert {p.name for p in Path("page").glob("*.csv")} == {
        *("table.csv", "slopes.csv", "parameters.csv", "findings.csv", "missed.csv")
    }
    known = json.loads(Path("found.json").read_text())
    assert known["nearest"] == "standard"
    assert known["findings"][0]["severity"] == "error"
    assert run("own_wide.py:net", *QUICK, "--parametrization", "standard") == 0
    assert (
        run("own_wide.py:net", *QUICK, "--fail-on", "never", "--optimizer", "own_wide.py:sgd") == 0
    )


def test_the_command_takes_data(run: Callable[..., int], mnist: ist.Dataset) -> None:
    given = "--data", "mnist", "--widths", "8,16,32", "--seeds", "1", "--json", "found.json"
    run("own_wide.py:seeing", *given)

    def seeing(n: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, n), nn.ReLU(), nn.Linear(n, 10))

    images, labels = mnist.train.images[:256], mnist.train.y[:256]
    same = ist.coordinate_check(seeing, (8, 16, 32), x=images, target=labels, seeds=1)
    rows = json.loads(Path("found.json").read_text())["slopes"]
    assert [row["slope"] for row in rows] == pytest.approx([*same.slopes["slope"]], nan_ok=True)
    assert run("own_wide.py:seeing", "--input", "6,784", "--size", "9") == 2


def test_exit_codes_of_the_command(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("own_wide.py:same", *QUICK) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run("own_wide.py:fails", *QUICK) == 1
    assert "own_wide.py:fails raised KeyError: 'no such width'" in capsys.readouterr().err
    assert run("own_wide.py:net", "--widths", "16", "--input", "6,8") == 2
    assert "two or more" in capsys.readouterr().err
    assert run("own_wide.py:net") == 2
    assert run("own_wide.py:net", "--input", "6,8", "--widths", "0,8") == 2
    capsys.readouterr()
    for given in ("nosuch", "adm"):
        assert run("own_wide.py:net", *QUICK, "--optimizer", given) == 2
        assert "available: sgd, adam, MODULE:FUNCTION" in capsys.readouterr().err
    assert run("own_wide.py:net", *QUICK[:4], "--input", "6,5") == 1
    told = capsys.readouterr().err
    assert "the model raised RuntimeError on (6, 5): mat1 and mat2" in told
    assert "linear of 0, at width 16" in told


def test_the_command_draws_ids_that_the_model_knows(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    given = *QUICK[:4], "--tokens", "40,3", "--fail-on", "never"
    assert run("own_wide.py:few", *given) == 0
    assert run("own_wide.py:many", *given) == 0
    capsys.readouterr()
    assert run("own_wide.py:few", *given, "--vocabulary", "50") == 1
    assert "--vocabulary" in capsys.readouterr().err
    assert run("own_wide.py:net", *QUICK, "--vocabulary", "50") == 2


def test_figures_and_their_frames(faults: Callable[[Figure], list[str]]) -> None:
    net = NETS["transformer"]
    found = check(net.make, x=net.x, optimizer="adam", seeds=1)
    assert [each.name for each in of_page("coordinates")] == [
        "coordinate_lines",
        DEEP,
        "parameter_powers",
    ]
    assert of_page("coordinates")[1].missing(found)
    for each in of_page("coordinates")[::2]:
        for width in (3.3, 9.0):
            assert not faults(figure(each.name, found, width)), each.name
    lines = of_page("coordinates")[0].frame(found)
    smallest = lines[lines["width"] == 16]
    assert smallest["factor"].to_numpy() == pytest.approx(1)
    head = lines.query("name == 'head' and quantity == 'value' and width == 64")
    sizes = found.table.query("name == 'head' and quantity == 'value' and step == 0")
    means = np.log(sizes.set_index("width")["rms"]).groupby("width").mean()
    factor = np.exp(means[64] - means[16]) * 4**0.5  # muP's output falls as n^-1/2
    assert head["factor"].item() == pytest.approx(factor)
