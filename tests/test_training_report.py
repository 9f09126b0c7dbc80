from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import initstats as ist
from initstats.outcome import choose_rates
from initstats.plots import Trained, of_page
from initstats.plots.style import decimal
from initstats.plots.trained import VARIANT, check_baseline, styles_of
from initstats.report import write_report
from initstats.report.comparison import answers, digits_of, limits, question, sentence, summary
from initstats.report.page import figures_of
from initstats.report.training import comparisons, compose, variants, write_training_report
from initstats.store import Run
from initstats.training import compare_training

Study = Callable[..., dict[str, Any]]

TWO: dict[str, Any] = {"activations": ["relu", "shifted_relu"], "inits": ["kaiming_normal"]}
EVERYONE = [("kaiming_normal", name, seed) for name in TWO["activations"] for seed in range(6)]
LONG = "general_relu(leak=0.1,sub=0.4,maxv=6.0)" * 3
EVIL = "<script>alert('x')</script>&\"'{{ 7 * 7 }}$x_1$"
MANY = ["relu", *(f"general_relu(sub={place})" for place in range(19))]
NETS: dict[str, Any] = {"networks": ["mlp", "cnn"], "depths": [2, 8]}
CASES: dict[str, dict[str, Any]] = {
    "one variant": {"activations": ["relu"], "inits": ["kaiming_normal"], "statistics": True},
    "inits alone": {"activations": ["gelu"], "inits": ["lsuv", "matched", "orthogonal"]},
    "one seed": TWO | {"seeds": 1},
    "one seed that failed": TWO | {"seeds": 1, "diverged": EVERYONE, "statistics": True},
    "one epoch": TWO | {"epochs": 1, "seeds": 3},
    "two epochs": TWO | {"epochs": 2, "seeds": 3},
    "all failed": TWO | {"seeds": 6, "diverged": EVERYONE, "statistics": True},
    "the baseline failed": TWO | {"seeds": 6, "diverged": EVERYONE[:6]},
    "the other failed": TWO | {"seeds": 6, "diverged": EVERYONE[6:]},
    "networks and depths": NETS | {"seeds": 2, "statistics": True},
    "a given rate": TWO | {"seeds": 3, "tuned": False},
    "forty variants": {"activations": MANY, "seeds": 1},
    "many inits": {"activations": MANY[:3], "inits": [f"i{n}" for n in range(15)], "seeds": 1},
    "long names": {"activations": ["relu", LONG, "x" * 90], "inits": [LONG], "seeds": 2},
    "names with HTML": {"activations": ["relu", EVIL], "inits": [EVIL], "seeds": 2},
}
DRAWN = ["one variant", "one seed that failed", "all failed", "forty variants", "long names"]


@pytest.fixture(scope="module")
def default(training_study: Study) -> Trained:
    """The default study, in which one run diverged."""
    return Trained(**training_study())


@pytest.fixture(scope="module")
def words(default: Trained) -> str:
    """What its page says."""
    return text_of(compose(default).html())


def text_of(html: str) -> str:
    """The words of a page."""
    body = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", html, flags=re.DOTALL)
    spaced = re.sub(r"</(?:t[dh]|p|h\d|li|dd|dt)>", " ", body)
    return " ".join(unescape(re.sub(r"<[^>]+>", "", spaced)).split())


def accuracies(trained: Trained, init: str, activation: str) -> pd.Series[float]:
    """The final validation accuracies of a variant in percent, by seed."""
    rows = trained.table[trained.table["epoch"] == trained.table["epoch"].max()]
    rows = rows[(rows["init"] == init) & (rows["activation"] == activation)]
    values: pd.Series[float] = 100 * rows.set_index("seed")["valid_accuracy"]
    return values


# numbers


@pytest.mark.parametrize("init", ["kaiming_normal", "torch_default"])
def test_the_answer_has_the_difference_with_its_interval(default: Trained, init: str) -> None:
    d = accuracies(default, init, "shifted_relu") - accuracies(default, init, "relu")
    low, high = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
    numbers = f"{d.mean():.2f} points higher (95% interval {low:.2f} to {high:.2f}), over 20 seeds"
    told = {str(head): " ".join(map(str, each)) for head, each in answers(default)}
    better = "shifted_relu</code> trains better than <code>relu</code>: its validation accuracy is "
    assert better + numbers in told[f"<code>{init}</code>"]


def test_the_lead_sums_up_all_comparisons(default: Trained) -> None:
    found = default.comparisons
    assert found is not None
    verdicts = found["verdict"].astype(str)
    better = 100 * found.loc[verdicts == "better", "difference"]
    assert [*found.loc[verdicts == "better", "activation"].unique()] == ["shifted_relu"]
    assert text_of(summary(default)) == (
        f"shifted_relu trains better than relu in {len(better)} of 2 comparisons, by "
        f"{better.min():.2f} to {better.max():.2f} points of validation accuracy. "
        f"{(verdicts == 'equivalent').sum()} of 6 comparisons show no difference, within 0.2 "
        f"points. {(verdicts == 'not decided').sum()} of 6 comparisons is not decided."
    )
    assert text_of(question(default)) == "Does it train better than relu?"


def test_what_failed_is_counted(words: str) -> None:
    assert "Of 160 runs, 1 diverged; 159 trained." in words
    assert "1 of its 20 runs failed, and none with relu" in words
    assert "torch_default general_relu 20 1 0 1.0" in words  # McNemar of 1 pair: p = 1


@pytest.mark.parametrize("failed", [0, 1, 7])
def test_the_exact_test_of_failures(training_study: Study, failed: int) -> None:
    lost = [("kaiming_normal", "shifted_relu", seed) for seed in range(failed)]
    trained = Trained(**training_study(**TWO, seeds=12, diverged=lost, statistics=False))
    text = text_of(compose(trained).html())
    if not failed:
        assert "None of the 24 runs failed. Every loss stayed finite" in text
        return
    p = stats.binomtest(failed, failed).pvalue  # all of the discordant pairs on one side
    assert f"kaiming_normal shifted_relu 12 {failed} 0 {p:.{1 if p == 1 else 3}f}" in text
    assert (f"fails more often than relu: {failed} of its 12 runs failed" in text) == (p < 0.05)


def test_variants_are_means_over_the_runs_that_trained(default: Trained) -> None:
    found = variants(default).astype({"init": str, "activation": str})
    rows = found.set_index(["init", "activation"])
    for init, activation in rows.index:
        values = accuracies(default, init, activation)
        values = values.dropna()
        row = rows.loc[(init, activation)]
        assert row["valid_accuracy"] == pytest.approx(values.mean())
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        assert row["high"] - row["valid_accuracy"] == pytest.approx(half)
        assert (row["failed"], row["runs"]) == (20 - len(values), 20)


def test_the_chosen_rates_are_told(default: Trained, words: str) -> None:
    assert default.tuning is not None
    for row in choose_rates(default.tuning).to_dict("records"):
        losses = f"{row['lr']:g} {row['tuning_loss']:.3f} {row['best_lr']:g} {row['best_loss']:.3f}"
        out = f"{row['diverged']} of {row['rates']}"
        assert f"{row['init']} {row['activation']} {losses} {out}" in words
    assert "chosen of 5 from 0.03 to 0.48, with 2 tuning seeds each" in words
    assert "may lie beyond" not in words


def test_a_rate_at_the_edge_is_told(training_study: Study) -> None:
    study = training_study(**TWO, seeds=2)
    tuning = study["tuning"]
    study["tuning"] = tuning[(tuning["activation"] != "relu") | (tuning["lr"] <= 0.12)]
    text = text_of(compose(Trained(**study)).html())
    assert "For relu with kaiming_normal, the best rate is the smallest or largest" in text


def test_correlations_are_those_of_the_analysis(default: Trained, words: str) -> None:
    power = default.power
    assert power is not None
    within = power[power["within"] == "depth"]
    rows = within[within["among"] == "trained"].dropna(subset="rho")
    low, high = (decimal(rows["rho"].agg(end), 2) for end in ("min", "max"))
    head = "among the 159 runs that trained, the rank correlations with the outcome are"
    assert f"{head} {low} to {high}, and each 95% interval includes 0" in words
    assert ((rows["rho_low"] < 0) & (rows["rho_high"] > 0)).all()
    for row in within[within["among"] == "all"].dropna(subset="auc").to_dict("records"):
        assert f"{row['auc']:.2f} ({row['auc_low']:.2f} to {row['auc_high']:.2f})" in words


def test_an_unfinished_run_says_how_much_is_missing(training_study: Study, words: str) -> None:
    study = training_study(**TWO, seeds=3, statistics=False)
    text = text_of(compose(Trained(**study, asked=16)).html())
    assert "Unfinished: 10 of 16 runs are missing." in text
    assert "6 of 16 runs" in text
    assert "Unfinished" not in words


def test_a_run_that_has_just_begun(training_study: Study) -> None:
    study = training_study(["relu", "elu", "tanh"], ["matched", "lsuv"], seeds=4)
    table = study["table"]
    behind = (table["activation"] == "relu") & (table["init"] == "lsuv")  # a baseline is missing
    study["table"] = table[~behind & ((table["seed"] < 2) | (table["activation"] == "relu"))]
    study["curves"] = study["curves"][:0]
    trained = Trained(**study, asked=24)
    text = text_of(compose(trained).html())
    assert "Unfinished: 12 of 24 runs are missing." in text
    assert "elu against relu is not decided: they have no seed in common" in text
    for picture in of_page("training"):
        assert picture.drawing(picture.frame(trained))


def test_limits_name_what_was_trained(training_study: Study) -> None:
    settings = {"optimizer": "momentum", "images": 50_000, "target": 0.97, "data": "ab" * 32}
    config = {"data": "/home/somebody/mnist", "seeds": [0, 1], "activations": ["relu"]}
    run = Run(config, settings, {}, {}, {}, {}, ([], []))
    trained = Trained(**training_study(**TWO, seeds=3, statistics=False), run=run)
    assert text_of(str(limits(trained)[0])).startswith(
        "This holds for cnn on mnist, 50,000 training images, 3 epochs, the optimizer momentum."
    )
    page = compose(trained)
    text = text_of(page.html())
    assert "until the running training accuracy reached 97%" in text
    assert "/home/somebody" not in page.html() + str(page.tables["train.toml"])
    assert "abababababababab…" in text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("better", "a trains better than b: its validation accuracy is 0.40 points higher (95% "),
        ("worse", "a trains worse than b: its validation accuracy is 0.40 points lower (95% "),
        ("equivalent", "a trains as well as b: the difference in validation accuracy, 0.40 ("),
        ("not decided", "a against b is not decided: the difference in validation accuracy is 0.4"),
    ],
)
def test_a_sentence_for_each_verdict(verdict: str, words: str) -> None:
    row = {"activation": "a", "verdict": verdict, "seeds": 9, "failed": 0, "baseline_failed": 0}
    sign = -1 if verdict == "worse" else 1
    row |= {"difference": 0.004 * sign, "low": 0.003 * sign, "high": 0.005 * sign}
    row |= {"margin": 0.002, "seeds_needed": 7.0}
    text = text_of(sentence(row, ("activation", "b")))
    assert text.startswith(words)
    assert ("about 7 more seeds would decide it" in text) == (verdict == "not decided")
    assert "nan" not in text


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        (1, "a trains better than b: in the typical seed b fails and a trains"),
        (-1, "a trains worse than b: in the typical seed a fails and b trains"),
    ],
)
def test_a_difference_without_bound_has_no_number(sign: int, words: str) -> None:
    verdict = "better" if sign > 0 else "worse"
    row = {"activation": "a", "verdict": verdict, "seeds": 9, "failed": 1, "baseline_failed": 6}
    row |= {"difference": sign * math.inf, "low": 0.001, "high": math.inf, "margin": 0.002}
    text = text_of(sentence(row, ("activation", "b")))
    assert words in text
    assert "1 of its 9 runs failed, and 6 with b" in text
    assert "∞" not in text


def test_digits_follow_the_interval() -> None:
    assert [
        digits_of(*ends) for ends in ((1.17, 1.45), (-0.02, 0.03), (-8, 8), (-0.004, 0.003))
    ] == [*(2, 2, 1, 3)]
    assert digits_of(-math.inf, 1) == digits_of(math.nan, math.nan) == digits_of(1, 1) == 2


# pages of any study


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("case", CASES)
def test_any_study_has_words(training_study: Study, case: str) -> None:
    trained = Trained(**training_study(**{"statistics": False} | CASES[case]))
    html = compose(trained).html()
    text = text_of(html)
    assert not re.search(r"\bnan\b|\binf\b|None\b(?! of)|np\.", text.replace(EVIL, ""))
    assert "<script" not in html
    assert len(text) < 60_000
    ids = re.findall(r'<\w+[^>]* id="([^"]+)"', html)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("case", DRAWN)
def test_figures_of_any_study_are_bounded(training_study: Study, case: str) -> None:
    trained = Trained(**training_study(**{"statistics": False} | CASES[case]))
    for picture in of_page("training"):
        if picture.missing(trained):
            continue
        frame = picture.frame(trained)
        assert 0 < len(frame) < 20_000
        variants = frame[[*VARIANT]].drop_duplicates()
        assert len(variants) <= 120
        figure = picture.drawing(frame)  # neither laid out nor saved, which takes most of the time
        assert figure.get_figwidth() <= 9
        assert figure.get_figheight() < 30


def test_what_the_page_leaves_out_is_told(training_study: Study) -> None:
    quick = {"seeds": 1, "statistics": False, "tuned": False}
    many = Trained(**training_study(MANY[:8], [f"i{n}" for n in range(20)], **quick))
    assert many.left_out == (
        "Figures show 12 of 20 inits, 6 of 8 activations, from the best to the worst."
    )
    assert "relu" in many.lines.activations
    fixed = text_of(compose(many).html())
    assert many.left_out in fixed
    assert "No learning rate was tuned: the variants trained at the given rate 0.1." in fixed
    assert "may change where each variant has a rate that suits it" in fixed
    assert "Learning rates – all variants trained at the learning rate that was given." in fixed


def test_differences_are_those_of_the_seeds(default: Trained) -> None:
    (picture,) = (each for each in of_page("training") if each.name == "paired_differences")
    frame = picture.frame(default)
    here = frame[(frame["init"] == "torch_default") & (frame["activation"] == "general_relu")]
    expected = accuracies(default, "torch_default", "general_relu")
    expected -= accuracies(default, "torch_default", "relu")
    dots = here.dropna(subset="seed").set_index("seed")["value"]
    assert dots[3] == -np.inf
    np.testing.assert_allclose(dots.drop(3), expected.drop(3), atol=1e-9)
    found = comparisons(default)
    assert found is not None
    means = frame[frame["seed"].isna()]["value"].to_numpy()
    np.testing.assert_allclose(means, 100 * found["difference"])


@pytest.mark.parametrize(
    ("asked", "versus", "compared"),
    [
        (None, ("activation", "relu"), 6),
        ("general_relu", ("activation", "general_relu"), 6),
        ("torch_default", ("init", "torch_default"), 4),
    ],
)
def test_the_baseline_may_be_chosen(
    training_study: Study, asked: str | None, versus: tuple[str, str], compared: int
) -> None:
    trained = Trained(**training_study(seeds=3, statistics=False), baseline=asked)
    assert trained.versus == versus
    found = comparisons(trained)
    assert found is not None
    assert len(found) == compared
    assert {*found["baseline"]} == {versus[1]}
    assert not (found[versus[0]] == versus[1]).any()
    page = text_of(compose(trained).html())
    assert f"train better than {versus[1]}?" in page
    for picture in of_page("training"):
        if not picture.missing(trained):
            assert picture.drawing(picture.frame(trained))


def test_figures_keep_the_baseline(training_study: Study) -> None:
    quick = {"seeds": 1, "statistics": False, "tuned": False}
    many = training_study(MANY[:3], [f"i{n}" for n in range(20)], **quick)
    for place in range(20):
        shown = Trained(**many, baseline=f"i{place}").few
        assert shown.versus == ("init", f"i{place}")
        assert len(shown.inits) == 12


def test_a_baseline_that_a_study_cannot_have() -> None:
    for name, allowed in (("gelu", "relu, tanh, lsuv, matched"), ("Matched", "'matched'")):
        with pytest.raises(ValueError, match=f"unknown baseline '{name}': .*{allowed}"):
            check_baseline(name, ["relu", "tanh"], ["lsuv", "matched"])
    with pytest.raises(ValueError, match="available: relu, tanh$"):
        check_baseline("lsuv", ["relu", "tanh"], ["lsuv"])
    check_baseline("lsuv", ["relu"], ["lsuv", "matched"])


def test_an_activation_has_one_colour_on_the_page(default: Trained) -> None:
    (picture,) = (each for each in of_page("training") if each.name == "training_loss")
    legend: Any = picture.drawing(picture.frame(default)).legends[0]
    lines = zip(legend.get_texts(), legend.legend_handles, strict=True)
    expected = {text.get_text(): line.get_color() for text, line in lines}
    assert len({*expected.values()}) == 4
    for other in of_page("training"):
        styles = styles_of(other.frame(default))
        assert {name: style.color for name, style in styles.items()}.items() <= expected.items()
    (compared,) = (each for each in of_page("training") if each.name == "paired_differences")
    dots = compared.drawing(compared.frame(default)).axes[0].lines
    assert {*expected.values()} - {expected["relu"]} <= {line.get_color() for line in dots}


def test_a_run_is_reported_with_all_its_files(toy: ist.Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"widths": 5, "depths": 1, "epochs": 1, "batch": 32, "lr": 0.1}
    variants, folder = ["relu", "shifted_relu"], tmp_path / "run"
    compare_training(variants, toy, "mlp", 2, out=folder, inits=["matched"], **options)
    config = (folder / "train.toml").read_text()
    trained = Trained.of(folder)
    assert write_report(folder) == folder / "index.html"
    assert (folder / "train.toml").read_text() == config
    names = [figure.name for figure in figures_of("training", trained)]
    assert names == [picture.name for picture in of_page("training") if "rates" not in picture.name]
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert [*re.findall(r'<figcaption id="(\w+)-caption"', html)] == names
    assert "4 of 4 runs" in text_of(html)
    figures = {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")}
    tables = {"comparisons.csv", "variants.csv", "table.csv"}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert figures | tables | {"index.html"} == files - {"train.toml", "run.sqlite", "run.lock"}
    with pytest.raises(ValueError, match="unknown baseline 'gelu'"):
        write_report(folder, tmp_path / "page", baseline="gelu")
    assert not (tmp_path / "page").exists()
    assert {*compose(trained, rows=False).tables} == tables - {"table.csv"} | {"train.toml"}


def test_nothing_is_reported_of_a_run_that_has_not_begun(default: Trained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run is finished yet"):
        write_training_report(replace(default, table=default.table[:0]), tmp_path)
