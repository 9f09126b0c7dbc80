"""The survey of architectures: its numbers against the published derivation, and its page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from typer.testing import CliRunner

from initstats.cli import app
from initstats.diagnosis.verdicts import VERDICTS
from initstats.plots import of_page
from initstats.plots.maps import COLOURS
from initstats.plots.survey import PROFILED as DRAWN
from initstats.report.survey import answer, compose
from initstats.survey import STUDIED, Evidence, Studied, measured, theory
from initstats.survey.evidence import NORM_DEPTH, PHASE_DEPTH, Task, Work, gathered
from initstats.survey.studied import PROFILED
from initstats.survival import largest_depth, predict_survival

ONE = 2**0.5
"""The scale of branches at which, with variances of 1, each adds 1 and passes back 1 under relu."""


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize(
    ("network", "init", "gradient", "correlation"),
    [
        ("mlp", "kaiming_normal", 1.0, 0.998),
        ("mlp(norm=layer,place=after)", "kaiming_normal", 2.1e8, 0.0),
        ("mlp(norm=batch)", "kaiming_normal", 9.3e8, 0.30),
        ("mlp(standardized=true)", "matched(gain=variance)", 2.1e8, 0.0),
        (f"resmlp(alpha={ONE})", "lecun_normal", 1.1e15, 0.99),
        (f"resmlp(scale=inverse_sqrt_depth,alpha={ONE})", "lecun_normal", 1.64, 0.45),
        (f"resmlp(scale=inverse_depth,alpha={ONE})", "lecun_normal", 1.005, 0.30),
        ("resmlp(scale=zero)", "lecun_normal", 1.0, 0.30),
        (f"resmlp(norm=layer,alpha={ONE})", "lecun_normal", 10.05, 0.71),
        (f"resmlp(norm=layer,scale=inverse_sqrt_depth,alpha={ONE})", "lecun_normal", 1.41, 0.41),
        (f"resmlp(norm=layer,place=post,alpha={ONE})", "lecun_normal", 1.0, 0.988),
        (f"resmlp(norm=batch,branch=1,alpha={ONE})", "lecun_normal", 28.8, 0.30),
    ],
)
def test_a_hundred_layers_are_what_was_derived(
    network: str, init: str, gradient: float, correlation: float
) -> None:
    """Simulated in float64 with 24 seeds: the derived values of relu at depth 100, width 64."""
    (found,) = predict_survival(network, init, "relu", [101]).to_dict("records")
    assert found["gradient"] == pytest.approx(gradient, rel=0.05)
    assert found["correlation"] == pytest.approx(correlation, abs=0.01)


@pytest.mark.parametrize(
    ("network", "init"), [("mlp(norm=batch)", "kaiming_normal"), ("mlp", "kaiming_normal")]
)
def test_the_greatest_depth_lies_where_theory_puts_it(network: str, init: str) -> None:
    told = theory.by_depth(Studied("mine", network, init), [10, 20, 100])
    assert told["largest"].iloc[0] == pytest.approx(largest_depth(network, init), abs=1)
    assert told["label"].tolist() == ["mine"] * 3


def test_recipes_that_theory_does_not_follow_have_no_greatest_depth() -> None:
    told = theory.by_depth(Studied("mine", "transformer(norm=batch)"), [10, 20])
    assert told["largest"].isna().all()
    assert told["verdict"].tolist() == ["unknown"] * 2


def test_measuring_goes_on_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("initstats.survey.measured.PROFILE", 5)
    recipe = Studied("pre-norm transformer", "transformer(patch=14)")
    first = measured.measured(recipe, 5, 2, tmp_path)
    assert first["summary"].loc[0, "seeds"] == 2
    assert first["summary"].loc[0, "label"] == recipe.label
    profile = first["profile"].set_index(["statistic", "layer"])
    seen = profile[profile["source"] == "measured"]
    assert seen.loc["attention_entropy"].index.tolist() == [2, 4]
    assert seen.loc["rms"].index.tolist() == [1, 2, 3, 4, 5]
    assert (profile["low"] <= profile["value"]).all()
    monkeypatch.setattr("initstats.sweep.work.run_stack", None, raising=False)
    again = measured.measured(recipe, 5, 2, tmp_path)
    pd.testing.assert_frame_equal(first["profile"], again["profile"])


def test_work_is_about_what_there_is(tmp_path: Path) -> None:
    labels = [each.label for each in STUDIED]
    assert len({*labels}) == len(labels)
    assert {*PROFILED} <= {*labels}
    assert DRAWN == PROFILED
    for quick in (True, False):
        tasks = Work(tmp_path, quick).tasks
        assert len({*tasks}) == len(tasks)
        assert {task.label for task in tasks if task.kind == "survival"} == {*labels}
    norms = Work(tmp_path, quick=True)(Task("norms", "no norm", 5))["norms"]
    assert len(norms) == 9
    phases = Work(tmp_path, quick=True)(Task("phases", "pre-norm", 3))["phases"]
    warm = phases[phases["logits"] == 16]
    assert (warm["init"].astype(str) == "mean_field(sigma_w=2)").all()
    assert phases["gradient"].notna().all()


# the page


def told(label: str, depth: int, verdict: str, gradient: float, **more: Any) -> dict[str, Any]:
    row = {"label": label, "depth": depth, "verdict": verdict, "gradient": gradient}
    row |= {"network": "mlp", "init": "he", "activation": "relu", "correlation": 0.5}
    return row | {"share": np.nan, "largest": 1000.0, "note": ""} | more


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Planted tables: what each sentence says is known."""
    survival = [
        *(told("pre-norm", depth, "healthy", 2.0, share=0.5) for depth in (50, 100)),
        *(told("skip, 1/L", depth, "idle", 1.0, share=0.01) for depth in (50, 100)),
        *(told("mup", depth, "front-loaded", 3.0) for depth in (50, 100)),
        *(told("gpt2", depth, "unknown", np.nan, largest=np.nan) for depth in (50, 100)),
        *(
            told(label, depth, "gradient explodes", 1.5 ** (depth / 2), largest=13.0)
            for label in ("layer norm after the activation", "batch norm")
            for depth in (50, 100)
        ),
    ]
    seen = [
        {"label": "pre-norm", "depth": 101, "verdict": "healthy"},
        {"label": "batch norm", "depth": 101, "verdict": "collapses"},
        {"label": "batch norm", "depth": 31, "verdict": "healthy"},
    ]
    profiles = [
        {"label": label, "layer": layer, "statistic": statistic, "value": value}
        for label, end in (("pre-norm transformer", 0.3), ("post-norm transformer", 0.99))
        for layer, value in ((2, 1.0), (31, end))
        for statistic in ("attention_entropy", "participation_ratio", "rms", "similarity")
    ]
    norms = [
        {"label": label, "depth": 50, "init": init, "activation": phi, "verdict": verdict}
        for label, words in (("no norm", "hv"), ("layer norm", "hh"))
        for phi in ("relu", "tanh")
        for init, letter in zip(("a", "b"), words, strict=True)
        for verdict in [{"h": "healthy", "v": "vanishes"}[letter] if phi == "relu" else "dead"]
    ]
    phases = [
        {"label": label, "depth": 21, "logits": logits, "branch": branch, "gradient": gradient}
        | {"verdict": "healthy"}
        for label, warm in (("no norm", 1e5), ("pre-norm", 7.0))
        for branch in (0.5, 1.0)
        for logits, gradient in ((0.5, 2.0), (8.0, warm))
    ]
    table = pd.DataFrame(profiles)
    table = table.assign(source="measured", low=table["value"] - 0.1, high=table["value"] + 0.1)
    rates = theory.rates()
    frame = pd.DataFrame
    return Evidence(frame(survival), frame(seen), table, frame(norms), frame(phases), rates)


def sentences(evidence: Evidence) -> str:
    page = compose(evidence).html()
    (said,) = re.findall(r'(?s)<section class="answer".*?</section>', page)
    return " ".join(re.sub(r"<[^>]*>", "", said).split())


def test_sentences_say_what_the_tables_hold(evidence: Evidence) -> None:
    said = sentences(evidence)
    assert "3 of the 5 recipes that theory follows survive 100 layers" in said
    assert "1 of these work: pre-norm. 1 is idle: skip, 1/L." in said
    assert "Mup survives in this sense, and its verdict is: front-loaded." in said
    assert "Theory does not follow gpt2." in said
    assert "by 1.00 per layer, and after relu by 1.47: over 100 layers" in said
    assert "RMS norm, which subtracts no mean, multiplies it by 1.00 before and by 1.00" in said
    assert "Layer norm after the activation (1.50 per layer) and batch norm (1.50" in said
    assert "for 2 of 2 activations with layer norm, and for 1 without a norm" in said
    assert "grow by 1.0×10⁵ in place of 2.0 times with no norm, and by 7.0 in place of 2.0" in said
    assert "in 1 of 2 transformers. The least even attention is that of pre-norm" in said
    assert "Of 2 small sweeps at depths that theory was asked for too, 1 have its verdict." in said
    assert "batch norm at 101 layers (collapses, where theory says: gradient explodes)" in said


def test_a_recipe_whose_sweep_loses_gradients_does_not_survive(evidence: Evidence) -> None:
    row = {"label": "mup", "depth": 101, "verdict": "gradient explodes"}
    measured = pd.concat([evidence.measured, pd.DataFrame([row])], ignore_index=True)
    said = sentences(replace(evidence, measured=measured))
    assert "2 of the 5 recipes that theory follows survive 100 layers" in said
    assert "Mup is not counted: it survives by theory" in said
    assert "says: gradient explodes." in said
    shallow = measured.assign(depth=31)  # says nothing of a hundred layers
    assert "is not counted" not in sentences(replace(evidence, measured=shallow))


def test_the_page_explains_its_words(evidence: Evidence) -> None:
    page = compose(evidence).html()
    for word in ("L", "plain", "skip", "warm", "front-loaded", "idle", "gradient explodes"):
        assert f"<dt>{word}</dt>" in page
    assert "<dt>shifted</dt>" not in page


def test_theory_has_the_colour_of_its_recipe(evidence: Evidence) -> None:
    profiles = evidence.profiles
    told = profiles[profiles["statistic"] == "rms"].assign(source="theory")
    both = replace(evidence, profiles=pd.concat([profiles, told], ignore_index=True))
    drawn = next(each for each in of_page("architectures") if each.name == "depth_profiles")
    (panel, *_) = drawn.draw(both, 9.0).axes
    lines = [line for line in panel.get_lines() if len(np.asarray(line.get_xdata())) == 2]
    colours = [line.get_color() for line in lines if line.get_zorder() < 4]
    dotted = [line.get_color() for line in lines if line.get_zorder() == 4]
    assert dotted
    assert set(dotted) == set(colours)


def test_what_was_measured_stands_in_the_frame_of_its_recipe(evidence: Evidence) -> None:
    drawn = next(each for each in of_page("architectures") if each.name == "survival_map")
    axes = drawn.draw(evidence, 9.0).axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    frames = [box for box in boxes if box.get_width() > 1]
    assert len(frames) == len(labels)
    dots = [text for text in axes.texts if text.get_text().startswith("•")]
    rows = [int(text.get_position()[1]) for text in dots]
    assert [labels[row] for row in rows] == [*evidence.measured["label"]]
    for text, row in zip(dots, rows, strict=True):
        frame = frames[row]
        below = frame.get_y() + frame.get_height()
        assert frame.get_y() < text.get_position()[1] < below


def test_other_tables_say_other_things(evidence: Evidence) -> None:
    survival, rates = evidence.survival.copy(), evidence.rates.copy()
    survival.loc[survival["label"] == "skip, 1/L", "verdict"] = "healthy"
    survival.loc[survival["label"] == "batch norm", "gradient"] = 1.0
    rates["rate"] = 1.0
    norms = evidence.norms.assign(verdict="healthy")
    phases = evidence.phases.assign(gradient=2.0)
    seen = evidence.measured[evidence.measured["label"] == "pre-norm"]
    attention = evidence.profiles["statistic"] == "rms"
    other = Evidence(survival, seen, evidence.profiles[attention], norms, phases, rates)
    said = sentences(other)
    assert "2 of these work: pre-norm; skip, 1/L." in said
    assert "idle" not in said
    assert "The place of layer norm does not decide" in said
    assert "for one reason" not in said
    assert "No norm makes the choice of the init matter less" in said
    assert "change the gradient of transformers with no norm by less than ten times" in said
    assert "tokens attend" not in said
    assert "1 recipes and depths, 1 have the verdict of theory. The others" not in said


def test_the_survey_has_all_figures_in_every_width(evidence: Evidence) -> None:
    for picture in of_page("architectures"):
        for width in (3.3, 9.0):
            figure = picture.draw(evidence, width)
            assert figure.get_figwidth() == width
            assert figure.axes
    assert {verdict.name for verdict in VERDICTS} == {*COLOURS}


def test_directions_of_tokens_are_drawn_near_the_data(evidence: Evidence) -> None:
    """Values between 0.3 and 1 fill most of their panel, which begins nowhere near 0.1."""
    drawn = next(each for each in of_page("architectures") if each.name == "attention_profiles")
    axes = {part.get_title(loc="left"): part for part in drawn.draw(evidence, 9.0).axes}
    panel = axes["directions that tokens take"]
    low, high = 10.0 ** np.array(panel.get_ylim())
    assert 0.27 < low < 0.3
    assert 1 < high < 1.1


def test_long_names_of_networks_may_be_broken(evidence: Evidence) -> None:
    name = "transformer(norm=none,scale=inverse_sqrt_depth)"
    page = compose(replace(evidence, survival=evidence.survival.assign(network=name))).html()
    broken = "transformer<wbr>(norm=<wbr>none,<wbr>scale=<wbr>inverse_<wbr>sqrt_<wbr>depth)"
    assert f"<td><code>{broken}</code></td>" in page


def test_tables_of_all_tasks_are_in_the_order_of_the_recipes(evidence: Evidence) -> None:
    parts = [
        {
            name: table.iloc[::-1]
            for name, table in vars(evidence).items()
            if name != "rates" and table is not None
        },
    ]
    found = gathered(parts)
    assert found.survival["label"].drop_duplicates().tolist() == [
        *("layer norm after the activation", "batch norm", "skip, 1/L", "pre-norm"),
        *("gpt2", "mup"),
    ]


def test_the_command_writes_the_page(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def survey(folder: Path, **given: Any) -> Evidence:
        asked.update(given, folder=folder)
        return replace(evidence)

    monkeypatch.setattr("initstats.survey.survey", survey)
    options = ["--out", str(tmp_path), "--quick", "--no-figures", "--json", "--workers", "1"]
    said = CliRunner().invoke(app, ["architectures", *options])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert Path(found["page"]) == tmp_path / "index.html"
    assert (asked["quick"], asked["folder"]) == (True, tmp_path)
    assert found["answer"]["survivors"]["working"] == ["pre-norm"]
    assert [row["label"] for row in found["recipes"]][:2] == ["pre-norm", "skip, 1/L"]
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {"survival.csv", "norms.csv", "index.html"}
    assert answer(evidence)["depth"] == 100
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count(">≥ 1,000<") == 3
    assert NORM_DEPTH > PHASE_DEPTH
