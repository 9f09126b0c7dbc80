"""The derivation's figures made again: that engine and theory make them, and a fault is seen."""

from __future__ import annotations

import inspect
import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import initstats as ist
from initstats import activations, inits, theory
from initstats.cli import app
from initstats.draws import generator_for
from initstats.report.survey import compose, write_survey
from initstats.report.verification import by_recipe
from initstats.survey import Evidence
from initstats.survey.evidence import Task, Work, gathered
from initstats.survey.theory import rates
from initstats.survey.verification import compared, depth_100, inputs
from initstats.survey.verification.altered import altered
from initstats.survey.verification.claims import NOTES, pieces
from initstats.survey.verification.compared import Deviation, Sweep, deviation
from initstats.survey.verification.depth_100 import DEEP, Deep, hundred, near, rounds
from initstats.survey.verification.found import Found, Rated, Swept, agrees, claimed, rows_of
from initstats.survey.verification.published import CLAIMS, HUNDRED, QUANTITIES, Printed
from initstats.survival import followed
from initstats.theory.exchangeable import ValuesAlone

# what is read


def test_inputs_are_what_they_are_said_to_be() -> None:
    x = inputs.rows(32, 2.0, 0.1).valid.x.double().numpy()
    kernel = x @ x.T / x.shape[1]
    np.testing.assert_allclose(kernel, 0.2 + 1.8 * np.eye(32), atol=1e-5)
    np.testing.assert_allclose(x.mean(1), 0, atol=1e-6)
    images = inputs.patches(2, 3.0).valid.images[:, 0].double().numpy()
    patches = [
        images[n, 7 * i : 7 * i + 7, 7 * j : 7 * j + 7].ravel()
        for n in range(2)
        for i in range(4)
        for j in range(4)
    ]
    kernel = np.array(patches) @ np.array(patches).T / 49
    for n in (slice(0, 16), slice(16, 32)):
        np.testing.assert_allclose(kernel[n, n], 0.9 + 2.1 * np.eye(16), atol=1e-5)
    tokens = inputs.tokens(1, 24, 0.8).valid.images[0].flatten(1).double().numpy()
    np.testing.assert_allclose(tokens.T @ tokens / 24, 0.8 + 0.2 * np.eye(16), atol=1e-5)


def test_directions_are_cosines() -> None:
    """Of the last activations, of rows that differ in length, against torch's own cosine."""
    entry, data = altered("mlp", directed=True), inputs.rows(8)
    grid = ist.Grid(
        networks=[entry], inits=["lecun_normal"], activations=["relu"], widths=[5], depth=2, seeds=1
    )
    table = ist.run_sweep(grid, data)
    placed = entry.on(inputs.SHAPE, 5, 2)
    relu = activations.get("relu")
    x = data.valid.x.double()
    for weights in placed.draw(inits.get("lecun_normal"), relu, partial(generator_for, 0)).values():
        x = (x @ weights.matrix.double().mT).relu()
    cosines = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
    expected = float((cosines.sum() - 8) / (8 * 7))
    seen = compared.at(table, 2, "direction")["sample_correlation"]
    assert float(seen.iloc[0]) == pytest.approx(expected, abs=1e-5)
    plain = float(compared.at(table, 2, "activation")["sample_correlation"].iloc[0])
    assert plain != pytest.approx(expected, abs=1e-3)


def test_values_alone_are_one_path_of_three() -> None:
    """A layer of attention: what comes back by the values is what theory of attention says."""
    entry, he = altered("transformer(norm=none)"), inits.get("kaiming_normal")
    given: dict[str, Any] = {"shape": inputs.SHAPE, "correlation_of_inputs": 0.3}
    ends = followed(entry, he, activations.get("relu"), 2, rows=ValuesAlone, **given)
    pulled = theory.pull_attention(2.0, 0.6, 1.0, 0.0, 16, logit_gain=4.0, value_gain=4.0)
    first = float(ends.slopes[-1].square[0])
    assert first == pytest.approx(1 + pulled.values.square, rel=1e-9)
    whole = followed(entry, he, activations.get("relu"), 2, **given)
    assert float(whole.slopes[-1].square[0]) == pytest.approx(1 + pulled.total.square, rel=1e-9)


# a hundred layers


def test_every_printed_recipe_is_made() -> None:
    assert [*DEEP] == [*HUNDRED]
    assert all([*each.text] == [*QUANTITIES] for each in HUNDRED.values())


@pytest.mark.parametrize(
    ("digits", "low", "high"),
    [
        ("1.64", 1.635, 1.645),
        ("1", 0.95, 1.05),
        ("10", 9.5, 10.5),
        ("0.30", 0.295, 0.305),
        ("1.5e8", 1.45e8, 1.55e8),
        ("2e8", 1.5e8, 2.5e8),
        ("1e15", 0.95e15, 1.5e15),
    ],
)
def test_digits_as_printed(digits: str, low: float, high: float) -> None:
    assert Printed(digits).ends == pytest.approx((low, high), rel=1e-12)
    assert rounds(low * 1.0001, Printed(digits), "forward")
    assert not rounds(high * 1.01, Printed(digits), "forward")
    assert rounds(5.0, Printed(""), "forward")


@pytest.mark.parametrize("recipe", [name for name in DEEP if "transformer" not in name])
def test_theory_of_a_hundred_layers_rounds_to_what_was_printed(recipe: str) -> None:
    """Where it does not, the reason is said."""
    told = depth_100.theory(DEEP[recipe])
    for quantity, printed in HUNDRED[recipe].theory.items():
        assert rounds(told[quantity], printed, quantity) or DEEP[recipe].why
        assert told[quantity] == pytest.approx(printed.value, rel=0.35, abs=0.01)


@pytest.mark.parametrize("recipe", ["skip, 1/√L", "transformer, DeepNorm"])
def test_measured_and_predicted_are_what_was_printed(recipe: str) -> None:
    row = hundred(recipe, 3).set_index("quantity")
    assert row["agrees"].all()
    assert row["near"].all()
    np.testing.assert_allclose(row["measured"], row["theory"], rtol=0.25)


def test_another_scale_is_not_what_was_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = "skip, 1/√L"
    other = Deep(DEEP[recipe].network.replace("inverse_sqrt_depth", "inverse_depth"))
    monkeypatch.setitem(DEEP, recipe, other)
    broken = hundred(recipe, 3).set_index("quantity")
    assert not broken.loc[["forward", "backward"], "agrees"].any()
    assert not broken.loc[["forward", "backward"], "near"].any()


def test_medians_are_near_within_three_errors() -> None:
    values = pd.Series(np.exp(np.linspace(-1, 1, 25)))
    error = 1.2533 * np.linspace(-1, 1, 25).std(ddof=1) * math.sqrt(1 / 25 + 1 / 24)
    for errors, expected in ((2.9, True), (3.1, False)):
        printed = Printed(f"{math.exp(errors * error):.6f}")
        assert near(values, printed, logarithmic=True) is expected


# claims


def keys(name: str) -> set[str]:
    """The claims that a piece makes, or that its code names."""
    piece = pieces()[name]
    if isinstance(piece, Swept):
        return {*piece.reads}
    if isinstance(piece, Rated):
        return {piece.key}
    assert isinstance(piece, FunctionType)
    source = inspect.getsource(piece)
    return {claim.key for claim in CLAIMS if f'"{claim.key}"' in source}


def test_every_printed_claim_is_made_or_has_a_reason() -> None:
    made = [key for name in pieces() for key in keys(name)]
    printed = [claim.key for claim in CLAIMS]
    assert len({*made}) == len(made)
    assert len({*printed}) == len(printed)
    assert {*made} <= {*printed}
    assert {*printed} - {*made} == {"paths", "ends in relu", "v1", "scatter"}
    assert {*printed} - {*made} <= {*NOTES} <= {*printed}


def test_closed_forms_agree_and_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def verdicts() -> list[str]:
        table = claimed(rows_of(pieces()["closed forms"](quick=True)), NOTES)
        return table.set_index("key").loc[["closed form", "theorem 8"], "verdict"].tolist()

    assert verdicts() == ["agrees", "agrees"]
    rate = theory.batch_norm_rate
    monkeypatch.setattr(theory, "batch_norm_rate", lambda phi, batch: rate(phi, batch + 1))
    assert verdicts() == ["agrees", "differs"]


def test_a_sweep_agrees_with_theory_and_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    (claim,) = (each for each in CLAIMS if each.key == "pre-norm q")
    case = (("resmlp(norm=layer)", "lecun_normal"),)
    sweep = Sweep(case, ("tanh",), 9, 32, 30, inputs.rows(16))
    swept = Swept(sweep, {"pre-norm q": (("second_moment", "forward", "stream"),)})
    made = swept(quick=False)["pre-norm q"]
    assert agrees(claim, made)
    assert (made.width, made.seeds) == (32, 30)
    predict = compared.predict  # type: ignore[attr-defined]

    def wrong(*given: Any) -> pd.DataFrame:
        told = predict(*given)
        return told.assign(second_moment=told["second_moment"] * 1.25)

    monkeypatch.setattr(compared, "predict", wrong)
    assert not agrees(claim, swept(quick=False)["pre-norm q"])


def test_a_rate_is_the_factor_per_layer() -> None:
    relu = activations.get("relu")
    rated = Rated(
        "rate LN after 32",
        "mlp(norm=layer,place=after)",
        "relu",
        32,
        20,
        theory.gradient_rate(relu, "layer", "after"),
    )
    made = rated(quick=False)["rate LN after 32"]
    (claim,) = (each for each in CLAIMS if each.key == "rate LN after 32")
    assert agrees(claim, made)
    assert made.error < 0.03
    assert made.theory == pytest.approx(math.pi / (math.pi - 1), rel=1e-6)


def test_deviations_are_arithmetic() -> None:
    rows = pd.DataFrame(
        [
            *(("a", 1, 1.1, 0.05, 1.0), ("a", 2, 0.9, 0.02, 1.0)),
            *(("b", 1, 2.0, 0.1, 2.0), ("b", 2, 2.4, 0.2, 2.0)),
        ],
        columns=["network", "layer", "measured", "error", "told"],
    ).assign(init="i", activation="r", statistic="s", tensor="t")
    forward = deviation(rows.assign(direction="forward"), "s", "forward", "t")
    assert forward == pytest.approx(Deviation(5.0, -0.1, 0.2, 0.1, 0.2), rel=1e-6)
    backward = deviation(rows.assign(direction="backward"), "s", "backward", "t")
    assert backward == pytest.approx(Deviation(5.0, 0.0, 0.1, 0.05, 0.2), rel=1e-6)


def test_figures_agree_within_three_errors_and_z_if_it_is_chance() -> None:
    claim = CLAIMS[0]._replace(z="2.0", low=-0.01, high=0.02)
    slack = 3 * math.sqrt(2) * 0.1
    assert agrees(claim, Found(2.0, -0.01 - 0.99 * slack, 0.02 + 0.99 * slack, 0.1))
    assert not agrees(claim, Found(2.0, -0.01 - 1.01 * slack, 0.02, 0.1))
    assert not agrees(claim, Found(2.0, 0.0, 0.02 + 1.01 * slack, 0.1))
    assert not agrees(claim, Found(4.1, 0.0, 0.0, 0.1))
    assert agrees(claim._replace(z="8.7"), Found(4.1, 0.0, 0.0, 0.1))
    assert agrees(claim._replace(low=math.nan, high=math.nan), Found(1.0, 9.0, 9.0, 0.1))


# the survey, and its page

ABSENT: Any = {"depth_100": None, "verification": None}


def test_work_is_more_if_it_is_to_verify(tmp_path: Path) -> None:
    more = {*Work(tmp_path, quick=True, verify=True).tasks} - {*Work(tmp_path, quick=True).tasks}
    assert {task.label for task in more if task.kind == "depth_100"} == {*DEEP}
    assert {task.label for task in more if task.kind == "claims"} == {*pieces()}
    assert len(more) == len(DEEP) + len(pieces())


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """One recipe of a hundred layers, and the closed forms; the rest of the page is planted."""
    work = Work(tmp_path_factory.mktemp("sweeps"), quick=True, verify=True)
    tasks = [Task("depth_100", "skip, 1/√L"), Task("depth_100", "plain, He")]
    parts = [work(task) for task in (*tasks, Task("claims", "closed forms"))]
    row = {"label": "pre-norm", "depth": 100, "verdict": "healthy", "gradient": 2.0}
    row |= {"network": "resmlp", "init": "he", "activation": "relu", "correlation": 0.5}
    row |= {"share": np.nan, "largest": 1000.0, "note": "", "layer": 2, "statistic": "rms"}
    row |= {"source": "theory", "value": 1.0, "low": 1.0, "high": 1.0, "logits": 1, "branch": 1}
    names = ("survival", "measured", "profiles", "norms", "phases")
    planted = {name: pd.DataFrame([row]) for name in names}
    return gathered([planted, *parts])


def test_tables_are_in_the_printed_order(evidence: Evidence) -> None:
    claims, deep = evidence.verification, evidence.depth_100
    assert claims is not None
    assert deep is not None
    assert claims["key"].tolist() == [claim.key for claim in CLAIMS]
    made = claims[claims["verdict"] != "not made"]
    assert made["key"].tolist() == ["closed form", "theorem 8"]
    assert deep["recipe"].drop_duplicates().tolist() == ["plain, He", "skip, 1/√L"]
    shown = by_recipe(deep).set_index("recipe")
    assert shown.loc["plain, He", "forward_printed"] == "0.18 (1)"
    assert shown.loc["skip, 1/√L", "differs"] == ""
    assert evidence.rates.equals(rates())


def test_the_page_has_a_section_more_and_is_otherwise_the_same(
    evidence: Evidence, tmp_path: Path
) -> None:
    plain = replace(evidence, **ABSENT)
    without, whole = (compose(each) for each in (plain, evidence))
    assert set(whole.tables) - set(without.tables) == {"verification.csv", "depth_100.csv"}
    page = whole.html(tables=without.tables)
    section = r'\n(?s:<section aria-labelledby="verification">.*?</section>)'
    assert len(re.findall(section, page)) == 1
    assert re.sub(r"<!--.*?-->", "", re.sub(section, "", page)) == re.sub(
        r"<!--.*?-->", "", without.html()
    )
    (said,) = re.findall(section, page)
    text = " ".join(re.sub(r"<[^>]*>", " ", said).split())
    assert f"agree with 2 of the 2 claims that they make; 0 differ, and {len(CLAIMS) - 2}" in text
    assert "4×10¹⁴" not in text
    assert "<details>" in said
    path = write_survey(tmp_path, evidence, ist.report.page.Files(figures=False))
    files = {each.name for each in path.parent.iterdir()}
    assert {"verification.csv", "depth_100.csv", "rates.csv"} <= files
    assert evidence.depth_100 is not None
    again = pd.read_csv(tmp_path / "depth_100.csv")
    assert again["theory"].tolist() == pytest.approx(evidence.depth_100["theory"].tolist())
    write_survey(tmp_path / "plain", plain, ist.report.page.Files(figures=False))
    files = {each.name for each in (tmp_path / "plain").iterdir()}
    assert not {"verification.csv", "depth_100.csv"} & files


@pytest.mark.parametrize("verify", [False, True])
def test_the_command_verifies_only_if_asked(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    asked: dict[str, Any] = {}

    def survey(folder: Path, **given: Any) -> Evidence:
        asked.update(given)
        return evidence if given["verify"] else replace(evidence, **ABSENT)

    monkeypatch.setattr("initstats.survey.survey", survey)
    options = ["--out", str(tmp_path), "--no-figures", "--json", *["--verify"] * verify]
    said = CliRunner().invoke(app, ["architectures", *options])
    assert said.exit_code == 0, said.output
    assert asked["verify"] is verify
    assert Path(json.loads(said.stdout)["page"]).exists()
    assert (tmp_path / "verification.csv").exists() is verify
    assert ("The derivation" in (tmp_path / "index.html").read_text(encoding="utf-8")) is verify
