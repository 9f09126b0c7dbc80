from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import initstats as ist
from initstats.diagnosis import RULES, Finding, Findings, Profile, diagnose, register_rule
from initstats.probe import Probe, measure

DEPTH, WIDTH = 20, 100


def healthy(*kinds: str) -> nn.Sequential:
    """Twenty layers, each at the gain of the activation that it reads.

    By default relu and tanh in turn: relu alone makes samples alike, so that units die of it.
    """
    torch.manual_seed(3)
    model, gain = nn.Sequential(), 1.0
    for index in range(DEPTH + 1):
        layer = nn.Linear(WIDTH, WIDTH if index < DEPTH else 10)
        nn.init.normal_(layer.weight, std=gain / math.sqrt(WIDTH))
        nn.init.zeros_(layer.bias)
        model.append(layer)
        kind = (kinds or ("relu", "tanh"))[index % len(kinds or "12")]
        gain = ist.gain(kind).forward
        if index < DEPTH:
            model.append(nn.ReLU() if kind == "relu" else nn.Tanh())
    return model


def batch(samples: int = 128) -> Tensor:
    return torch.randn(samples, WIDTH, generator=torch.Generator().manual_seed(4))


def judged(model: nn.Module, x: Tensor | None = None) -> pd.DataFrame:
    return diagnose(measure(model, batch() if x is None else x, backward=True))


def of(found: pd.DataFrame, name: str) -> Any:
    """What a rule says, if it is one thing."""
    rows = found[found["rule"] == name]
    assert len(rows) == 1, found.to_string()
    return rows.iloc[0]


def grave(found: pd.DataFrame) -> pd.DataFrame:
    return found[found["severity"] <= "warning"]


def linear(model: nn.Sequential, index: int) -> nn.Linear:
    layer = model[2 * index]
    assert isinstance(layer, nn.Linear)
    return layer


def test_healthy_model_has_nothing_above_a_note() -> None:
    found = judged(healthy())
    assert grave(found).empty, grave(found).to_string()
    assert found["rule"].drop_duplicates().sort_values().tolist() == sorted(RULES)
    assert of(found, "gradient")["severity"] == "healthy"
    assert of(found, "signal")["severity"] == "healthy"
    assert of(found, "signal")["evidence"].startswith("the length of the signal neither grows")


def test_unchecked_says_why() -> None:
    found = diagnose(measure(healthy(), batch(4), weights=False))
    assert of(found, "gradient")["severity"] == "unchecked"
    assert "backward=True" in of(found, "gradient")["evidence"]
    assert "weights=True" in of(found, "default_init")["evidence"]
    assert "16 samples" in of(found, "dead_units")["evidence"]


# defects, one at a time


class LogOfNegative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x - 1)


def large_weights(model: nn.Sequential) -> None:
    with torch.no_grad():
        linear(model, 7).weight.mul_(10)


def dead_layer(model: nn.Sequential) -> None:
    nn.init.constant_(linear(model, 8).bias, -100.0)


def half_dead(model: nn.Sequential) -> None:
    with torch.no_grad():
        linear(model, 8).bias[: WIDTH // 2] = -100.0


def torch_defaults(model: nn.Sequential) -> None:
    for index in range(DEPTH):
        linear(model, index).reset_parameters()


def saturated(model: nn.Sequential) -> None:
    with torch.no_grad():
        linear(model, 11).weight.mul_(3.5)


def broken(model: nn.Sequential) -> None:
    model[15] = LogOfNegative()


def wrong_fan(model: nn.Sequential) -> None:
    """The head's variance by its 10 outputs instead of its 100 inputs."""
    head = model[-1]
    assert isinstance(head, nn.Linear)
    nn.init.kaiming_normal_(head.weight, mode="fan_out")


DEFECTS: list[tuple[Callable[[nn.Sequential], None], str, str, str, str]] = [
    (large_weights, "error", "weight_scale", "14", "std=1.4142 / math.sqrt(100)"),
    (dead_layer, "error", "dead_units", "17 (relu)", "biases"),
    (half_dead, "warning", "dead_units", "17 (relu)", "biases"),
    (torch_defaults, "warning", "default_init", "20 places: 0, 2, 4, ... 38", "std=1 / math"),
    (saturated, "warning", "saturation", "23 (tanh)", "std=1.4142 / math.sqrt(100)"),
    (broken, "error", "nonfinite", "15 (log)", "take the log or root of what is not positive"),
    (wrong_fan, "warning", "fan_mode", "40", "std=1.5925 / math.sqrt(100)"),
]


@pytest.mark.parametrize(
    ("plant", "severity", "name", "where", "remedy"),
    DEFECTS,
    ids=[defect[0].__name__ for defect in DEFECTS],
)
def test_planted_defect_is_found_placed_and_remedied(
    plant: Callable[[nn.Sequential], None], severity: str, name: str, where: str, remedy: str
) -> None:
    model = healthy()
    plant(model)
    found = judged(model)
    hit = found[(found["rule"] == name) & (found["severity"] == severity)]
    assert len(hit) == 1, found.to_string()
    assert hit["where"].item() == where
    assert remedy in hit["remedy"].item()


@pytest.mark.parametrize("plant", [large_weights, wrong_fan])
def test_the_line_in_the_remedy_cures(plant: Callable[[nn.Sequential], None]) -> None:
    model = healthy()
    plant(model)
    found = grave(judged(model))
    line = found.loc[found["rule"].isin(["weight_scale", "fan_mode"]), "remedy"].item()
    torch.manual_seed(0)
    exec(line, {"model": model, "nn": nn, "math": math})
    assert grave(judged(model)).empty


@pytest.mark.parametrize(
    ("factor", "word"), [(0.5, "vanishes"), (2.0, "explodes")], ids=["vanishing", "exploding"]
)
def test_trend_is_found_in_both_directions(factor: float, word: str) -> None:
    model = healthy("relu")
    with torch.no_grad():
        for index in range(1, DEPTH + 1):
            linear(model, index).weight.mul_(factor)
    found = judged(model)
    for name in ("signal", "gradient"):
        row = of(found, name)
        assert row["severity"] == "error"
        assert word in row["evidence"]
        measure = "rms" if name == "signal" else "norm"
        times = float(row["evidence"].partition(f"each layer multiplies the {measure} by ")[2][:5])
        layers, total = row["evidence"].rpartition("), ")[2].split(" layers multiply it by ")
        assert times == pytest.approx(factor, rel=0.1)
        assert times ** int(layers) == pytest.approx(float(total), rel=0.1)
        assert "matched" in row["remedy"]
    assert of(found, "signal")["where"] == "0 (linear) to 40 (linear)"
    assert of(found, "gradient")["where"] == "40 (linear) to 0 (linear)"


def test_trend_needs_an_interval_without_zero() -> None:
    """A single jump of the same size is no trend."""
    model = healthy("relu")
    with torch.no_grad():
        linear(model, 7).weight.mul_(50)
    assert of(judged(model), "signal")["severity"] == "healthy"


class Residual(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(8))
        self.scale = scale
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=1 / math.sqrt(WIDTH))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + self.scale * branch(x)
        return x


@pytest.mark.parametrize(("scale", "severity"), [(1.0, "warning"), (8**-0.5, "healthy")])
def test_residual_growth(scale: float, severity: str) -> None:
    torch.manual_seed(0)
    row = of(judged(Residual(scale)), "residual_growth")
    assert row["severity"] == severity
    if severity == "warning":
        assert row["where"] == "8 places: branches.0, branches.1, branches.2, ... branches.7"
        factor = float(row["remedy"].partition("mul_(")[2].partition(")")[0])
        assert factor == pytest.approx(8**-0.5, rel=0.05)


def test_useless_bias_and_normalized_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False)
    ).append(nn.BatchNorm2d(8))
    with torch.no_grad():
        model[0].weight.mul_(100)  # type: ignore[operator]
    found = judged(model, torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
    assert of(found, "useless_bias")["severity"] == "note"
    assert of(found, "useless_bias")["where"] == "0"
    assert of(found, "weight_scale")["severity"] == "warning"  # what follows undoes it
    assert of(found, "default_init")["severity"] == "note"


class Masked(nn.Module):
    """Attention whose scores go through a function before the softmax."""

    def __init__(self, mask: Callable[[Tensor], Tensor], by_hand: bool = False) -> None:
        super().__init__()
        self.fc, self.mask, self.by_hand = nn.Linear(6, 6), mask, by_hand

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        scores = self.mask(h @ h.mT)
        if self.by_hand:
            shares = (scores - scores.amax(-1, keepdim=True)).exp()
            shares = shares / shares.sum(-1, keepdim=True)
        else:
            shares = scores.softmax(-1)
        out: Tensor = shares @ h
        return out


class Padded(nn.MultiheadAttention):
    """Attention to a padded sample of which nothing is left."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        padding = torch.arange(4)[:, None].expand(4, 5) == 2
        out: Tensor = super().forward(x, x, x, key_padding_mask=padding)[0]
        return out


LATER = torch.ones(5, 5).triu(1).bool()
NOTHING = LATER | (torch.arange(5) == 3)[:, None]
ADDED = torch.zeros(5, 5).masked_fill(NOTHING, -math.inf)


@pytest.mark.parametrize(
    ("build", "severity", "where"),
    [
        (lambda: Masked(lambda s: s.masked_fill(LATER, -math.inf)), "note", "masked_fill"),
        (lambda: Masked(lambda s: s.masked_fill(NOTHING, -math.inf)), "error", "softmax"),
        (lambda: Masked(lambda s: s + ADDED), "error", "softmax"),
        (lambda: Masked(lambda s: torch.where(NOTHING, -math.inf, s)), "error", "softmax"),
        (lambda: Masked(lambda s: s + ADDED, by_hand=True), "error", "sub"),
        (lambda: Padded(6, 2, batch_first=True), "error", "softmax"),
        # what overflows, or divides by zero, is the cause itself
        (lambda: Masked(lambda s: s.mul(1e36).mul(1e4)), "error", "mul"),
        (lambda: Masked(lambda s: s / (~NOTHING)), "error", "div"),
    ],
)
def test_mask_is_no_overflow(build: Callable[[], nn.Module], severity: str, where: str) -> None:
    """NaN of a row that a mask leaves nothing of is told at the softmax, and not at the mask."""
    torch.manual_seed(0)
    row = of(diagnose(measure(build(), torch.randn(4, 5, 6))), "nonfinite")
    assert row["severity"] == severity
    assert row["where"].endswith(f"({where})")
    assert ("-inf in all its entries" in row["evidence"]) == (where in ("softmax", "sub"))


def test_saturation_is_told_at_a_value_that_has_numbers() -> None:
    model = nn.Sequential(nn.Tanh(), LogOfNegative(), nn.Tanh())  # the second reads only NaN
    row = of(diagnose(measure(model, -9 * batch().abs())), "saturation")
    assert row["where"] == "0 (tanh)"
    assert row["evidence"].endswith(
        "% of the entries at 0 (tanh) are within 1% of a bound, where the derivative is near 0"
    )


def test_collapse() -> None:
    model = healthy()
    with torch.no_grad():
        for index in range(DEPTH):
            linear(model, index).weight.mul_(0.5)
            linear(model, index).bias.normal_(generator=torch.Generator().manual_seed(index))
    row = of(judged(model), "collapse")
    assert row["severity"] == "warning"
    assert "40 (linear)" in row["where"]


def test_shifted_input_is_noted() -> None:
    row = of(judged(healthy(), batch() + 20), "input_scale")
    assert row["severity"] == "warning"
    assert row["where"].startswith("0 (input)")


@pytest.mark.parametrize(
    ("dtype", "severity"), [(torch.float32, "note"), (torch.float16, "warning")]
)
def test_low_precision(dtype: torch.dtype, severity: str) -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(x) * 1e-6
            return out

    table = measure(Tiny().to(dtype), batch().to(dtype))
    rows = diagnose(table).query("rule == 'low_precision'")
    assert severity in rows["severity"].tolist()
    assert rows["evidence"].iloc[0].startswith("float16: 1 tensor loses precision")


def test_training_tells_when() -> None:
    """A fault that comes at one step is told with that step."""
    model, x = healthy(), batch()
    with Probe(model) as probe:
        for step in range(5):
            model(x)
            with torch.no_grad():
                linear(model, 0).weight.mul_(1.0)  # an update
                linear(model, 8).bias.fill_(-100.0 if step in (1, 2) else 0.0)
    row = diagnose(probe.table()).query("rule == 'dead_units'").iloc[0]
    assert row["severity"] == "error"
    assert row["evidence"].endswith("(at 2 steps, 2 to 3)")


# what could not be seen


def infinite_weight(model: nn.Sequential) -> None:
    with torch.no_grad():
        linear(model, 8).weight[3, 2] = math.inf


def zero_layer(model: nn.Sequential) -> None:
    nn.init.zeros_(linear(model, 8).weight)


def overflow(model: nn.Sequential) -> None:
    model[15] = nn.Sequential(model[15], LogOfNegative())


UNSEEN: list[tuple[Callable[[nn.Sequential], None], str, str]] = [
    (broken, "nonfinite", "values are NaN or infinite from 15 (log) on"),
    (overflow, "nonfinite", "values are NaN or infinite from 15.1 (log) on"),
    (infinite_weight, "nonfinite_weights", "values are NaN or infinite from 16 (linear) on"),
    (dead_layer, "dead_units", "the signal is exactly 0 from 17 (relu) to 40 (linear)"),
    (zero_layer, "zero_weights", "the signal is exactly 0 from 16 (linear) to 40 (linear)"),
]


@pytest.mark.parametrize(("plant", "rule", "reason"), UNSEEN, ids=[u[0].__name__ for u in UNSEEN])
def test_what_could_not_be_seen_is_not_called_healthy(
    plant: Callable[[nn.Sequential], None], rule: str, reason: str
) -> None:
    """One finding tells the cause; what judges values or gradients holds only as far as it sees."""
    model = healthy("relu") if plant in (zero_layer, infinite_weight) else healthy()
    plant(model)
    found = judged(model)
    faults = found[found["severity"] <= "note"]
    assert faults["rule"].tolist() == [rule], str(found)
    unchecked = found[found["severity"] == "unchecked"].set_index("rule")
    judging = {
        name for name, entry in RULES.items() if {"values", "gradients"} & {*entry.judges}
    } - {rule}
    assert judging <= {*unchecked.index}, str(found)
    values = unchecked.loc[[n for n in judging if "values" in RULES[n].judges], "evidence"]
    assert {*values} == {reason}


def test_gradients_that_did_not_arrive_are_told_apart() -> None:
    """No backward pass, a part without gradients, and a head of zeros that lets none through."""
    model = healthy()
    said = of(diagnose(measure(model, batch())), "gradient")
    assert said["evidence"].startswith("gradients were not measured")
    with Probe(model, backward=True) as probe:
        with torch.no_grad():
            middle = model[:20](batch())
        model[20:](middle).sum().backward()
    said = of(diagnose(probe), "gradient")
    assert (said["severity"], said["evidence"]) == (
        "unchecked",
        "no gradient arrived at 18 (linear)",
    )
    nn.init.zeros_(linear(model, DEPTH).weight)
    said = of(judged(model), "gradient")
    assert (said["severity"], said["where"]) == ("unchecked", "38 (linear)")
    assert said["evidence"] == "the gradient is exactly 0 at 38 (linear)"


def test_a_rule_is_unchecked_from_the_step_on_at_which_it_saw_nothing() -> None:
    model, x = healthy(), batch()
    kept = linear(model, 3).weight.detach().clone()
    with Probe(model) as probe:
        for step in range(4):
            model(x)
            with torch.no_grad():
                linear(model, 3).weight.copy_(kept * (math.nan if step == 1 else 1.0))
    row = of(diagnose(probe), "saturation")
    assert row["severity"] == "unchecked"
    assert row["evidence"] == "values are NaN or infinite from 6 (linear) on (at step 2)"


def test_dead_units_are_counted() -> None:
    model = healthy()
    with torch.no_grad():
        linear(model, 8).bias[:20] = -100.0
    row = of(judged(model), "dead_units")
    assert (row["severity"], row["where"]) == ("note", "17 (relu)")
    assert "of 100 units" in row["evidence"]
    assert 20 <= int(row["evidence"].split()[0]) < 25
    with torch.no_grad():
        linear(model, 8).bias[5:] = 0.0
    row = of(judged(model), "dead_units")
    assert row["severity"] == "healthy"
    assert "of 100 units" in row["evidence"]
    assert int(row["evidence"].split()[0]) >= 5


# studies


def test_study(mnist: ist.Dataset) -> None:
    grid = ist.Grid(
        inits=["kaiming_normal", "normal(std=0.4)"],
        activations=["relu"],
        depth=10,
        seeds=3,
        samples=200,
        backward=True,
    )
    found = diagnose(ist.run_sweep(grid, mnist))
    graves = grave(found)
    assert set(graves["subject"]) == {"mlp of width 50, normal(std=0.4), relu"}
    assert set(graves["rule"]) == {"signal", "gradient"}
    assert graves["where"].tolist() == ["layer 1 to layer 10", "layer 10 to layer 1"]
    assert "matched" in graves["remedy"].iloc[0]
    unchecked = found[found["severity"] == "unchecked"]
    assert "default_init" in unchecked["rule"].tolist()


def test_other_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="neither a study's table .* nor a probed model's"):
        diagnose(pd.DataFrame({"std": [1.0]}))


# findings as a frame


REMEDY = "turn " + "and turn " * 21 + "again."


def planted() -> Findings:
    """Findings of a table in which rules were found to hold, not to hold, and unchecked."""
    model = healthy()
    large_weights(model)
    found = diagnose(measure(model, batch()))
    found.loc[0, "remedy"] = REMEDY
    return found


def words(text: str) -> str:
    return " ".join(text.split())


def test_findings_are_printed_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    found = planted()
    assert len(REMEDY) == 200
    print(found)  # noqa: T201
    printed = capsys.readouterr().out
    assert words(REMEDY) in words(printed)
    first = found.iloc[0]
    assert printed.startswith(f"{first['severity']}: {first['rule']} at {first['where']}\n  ")
    assert words(first["evidence"]) in words(printed)
    assert "\nno fault found by: nonfinite, " in printed
    assert "unchecked: nonfinite_gradients, gradient: gradients were not measured" in printed
    told = [line for line in printed.splitlines() if "get_parameter" not in line]
    assert max(map(len, told)) <= pd.get_option("display.width")
    with pd.option_context("display.width", 300):
        assert f"  remedy: {REMEDY}\n" in repr(found)
    shown = found._repr_html_()
    assert f"<td>{REMEDY}</td>" in shown
    assert "<p>no fault found by: nonfinite, " in shown


def test_findings_are_a_frame(tmp_path: Path) -> None:
    found = planted()
    assert isinstance(found, Findings)
    some = found.query("severity <= 'warning'")
    assert words(REMEDY) in words(str(some))
    assert "healthy" not in str(some)
    assert str(some.head(0)) == "no findings"
    for other in (found[["rule", "remedy"]], found.assign(more=1)):
        assert str(other) == str(pd.DataFrame(other))
        assert other._repr_html_() == pd.DataFrame(other)._repr_html_()  # type: ignore[operator]
    assert found.groupby("severity", observed=True).size()["healthy"] > 5
    assert len(found.groupby("rule").head(1)) == found["rule"].nunique()
    both = pd.concat([found, found])
    assert len(both) == 2 * len(found)
    assert REMEDY in both["remedy"].tolist()
    meanings = pd.DataFrame({"rule": list(RULES), "source": [r.source for r in RULES.values()]})
    assert len(found.merge(meanings, on="rule")) == len(found)
    found.to_csv(tmp_path / "found.csv", index=False)
    again = pd.read_csv(tmp_path / "found.csv", keep_default_na=False)
    assert again.to_numpy().tolist() == found.to_numpy().tolist()
    back = pickle.loads(pickle.dumps(found))
    pd.testing.assert_frame_equal(back, found)
    assert str(back) == str(found)


# the rules


@pytest.mark.parametrize("name", RULES)
def test_rule_says_what_it_is(name: str) -> None:
    entry = RULES[name]
    assert entry.meaning
    assert entry.meaning[0].islower()
    assert entry.source


def test_adding_a_rule() -> None:
    try:

        @register_rule(threshold=3, source="test")
        def narrow(profile: Profile, threshold: float) -> Iterator[Finding]:
            """there are many layers"""
            if len(profile.linear) < threshold:
                yield Finding("note", "here", f"fewer than {threshold}", "more")

        found = judged(nn.Sequential(nn.Linear(WIDTH, 3)))
        assert of(found, "narrow")["evidence"] == "fewer than 3"
        narrow.__module__ = "elsewhere"
        with pytest.raises(ValueError, match="rule 'narrow' is registered already"):
            register_rule(threshold=1, source="test")(narrow)
    finally:
        RULES.remove("narrow")


def test_a_probe_is_judged_as_its_table() -> None:
    probe = Probe(nn.Linear(8, 4)).run(torch.randn(20, 8))
    assert diagnose(probe).equals(diagnose(probe.table()))
    with pytest.raises(ValueError, match="a table or a Probe is expected, not int"):
        diagnose(3)
    with pytest.raises(TypeError, match=r"a torch.nn.Module is expected, not function"):
        Probe(lambda x: x)  # type: ignore[arg-type]
