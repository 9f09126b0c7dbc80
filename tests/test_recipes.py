"""Recipes in a sweep: networks that are measured with their own init alone."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import initstats as ist
from initstats.prediction import predict_run
from initstats.recipes import RECIPES, recipe
from initstats.store import load_histograms, load_predictions, load_run, to_toml

SMALL: dict[str, Any] = {
    "activations": ["relu", "tanh"],
    "widths": [8],
    "depth": 4,
    "seeds": 2,
    "samples": 24,
}
ROWS = ["activation", "width", "seed", "layer", "tensor", "direction"]
CELLS = ["network", "init", *ROWS]
GPT2 = "gpt2(heads=2,patch=4)"  # the images of `toy` are 8 x 8
"""A recipe with other parameters."""


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The statistics of a table by the keys of its rows, bit for bit."""
    named = table.astype(dict.fromkeys(("network", "init", "activation", "tensor"), str))
    kept = named.drop(columns=[name for name in named if str(name).startswith("init_")])
    return kept.set_index(CELLS).drop(columns=["dataset"]).sort_index()


@pytest.fixture(scope="module")
def run(toy: ist.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network under two inits, and of two recipes."""
    folder = tmp_path_factory.mktemp("runs") / "recipes"
    grid = ist.Grid(inits=["orthogonal", "normal"], recipes=["fixup", GPT2], **SMALL)
    ist.run_sweep(grid, toy, out=folder)
    return folder


def test_a_recipe_is_measured_with_its_own_init_alone(run: Path) -> None:
    table = ist.load_table(run)
    pairs = table[["network", "init"]].drop_duplicates().astype(str).to_numpy().tolist()
    assert pairs == [
        ["mlp", "orthogonal"],
        ["mlp", "normal"],
        ["fixup", "kaiming_normal"],
        [GPT2, "normal(std=0.02)"],
    ]
    cells = table.groupby(["network", "init", "activation", "width", "seed"], observed=True)
    assert cells.ngroups == 4 * 2 * 2 == load_run(run).count == len(load_run(run).cells)


@pytest.mark.parametrize("name", ["fixup", GPT2])
def test_its_rows_are_those_of_its_parts(name: str, run: Path, toy: ist.Dataset) -> None:
    table = ist.load_table(run)
    family, _, inside = name.partition("(")
    parts = recipe(family)
    network = parts.network
    if inside:
        network = network.removesuffix(")") + "," + inside
    alone = ist.run_sweep(ist.Grid(networks=[network], inits=[parts.init], **SMALL), toy)
    columns = [column for column in alone if column in table][4:]
    ours = table[table["network"] == name].reset_index(drop=True)
    assert len(ours) == len(alone)
    for column in columns:
        np.testing.assert_array_equal(
            ours[column].astype(str) if column in ROWS else ours[column],
            alone[column].astype(str) if column in ROWS else alone[column],
        )


def test_without_networks_and_inits_nothing_else_is_measured() -> None:
    grid = ist.Grid(recipes=["fixup", "nfnet"], **SMALL)
    assert (grid.networks, grid.inits) == ((), ())
    assert [cell[:2] for cell in grid][::4] == [
        ("fixup", "kaiming_normal"),
        ("nfnet", "matched(gain=variance)"),
    ]
    assert len(grid) == len([*grid]) == 8
    assert "recipes: fixup, nfnet" in repr(grid)
    assert "inits" not in repr(grid)
    assert len(ist.Grid(recipes=["fixup"], inits=["orthogonal"], **SMALL)) == 2 * 2 * 2
    assert len(ist.Grid(recipes=["fixup"], networks=["mlp"], **SMALL)) == (11 + 1) * 2 * 2


def test_a_grid_of_recipes_is_read_again(tmp_path: Path) -> None:
    for grid in (
        ist.Grid(recipes=["fixup", GPT2], **SMALL),
        ist.Grid(recipes=["fixup"], inits=["orthogonal"], **SMALL),
        ist.Grid(**SMALL),
    ):
        (tmp_path / "grid.toml").write_text(grid.to_toml(), encoding="utf-8")
        assert [*ist.Grid.from_toml(tmp_path / "grid.toml")] == [*grid]
        assert [*ist.Grid(**grid.config)] == [*ist.Grid(**vars(grid))] == [*grid]
    assert "recipes" not in to_toml(grid.config)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_crosses_to_other_processes(name: str) -> None:
    grid = ist.Grid(recipes=[RECIPES[name]], **SMALL)
    network, init, *_ = pickle.loads(pickle.dumps(grid.entries))
    assert (network.name, init.name) == (name, RECIPES[name].init)
    (here,) = grid.every_network
    shape = (1, 28, 28)
    assert network.on(shape, 8, 3) == here.on(shape, 8, 3)


def test_a_run_is_extended_by_recipes_and_goes_on(toy: ist.Dataset, tmp_path: Path) -> None:
    plain = ist.Grid(inits=["orthogonal", "normal(std=0.02)"], **SMALL)
    before = ist.run_sweep(plain, toy, out=tmp_path)
    told: list[tuple[int, int]] = []
    grid = ist.Grid(recipes=[GPT2], **SMALL)
    table = ist.run_sweep(grid, toy, out=tmp_path, progress=lambda *at: told.append(at))
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    # the init of the recipe is in the folder with another network, which is not asked for now
    assert {*table["network"].astype(str)} == {GPT2}
    whole = ist.load_table(tmp_path)
    assert len(whole) == len(before) + len(table)
    kept = numbers(whole[whole["network"] == "mlp"])
    pd.testing.assert_frame_equal(kept[numbers(before).columns], numbers(before))
    longer = ist.Grid(recipes=["fixup", GPT2], **SMALL | {"seeds": 3})
    plan = ist.plan_sweep(longer, toy, out=tmp_path)
    assert (plan.cells, plan.done) == (12, 4)
    told.clear()
    ist.run_sweep(longer, toy, out=tmp_path, progress=lambda *at: told.append(at))
    assert told[0] == (4, 12)
    run = load_run(tmp_path)
    assert run.config["recipes"] == [GPT2, "fixup"]
    assert run.paired == {GPT2: "normal(std=0.02)", "fixup": "kaiming_normal"}
    assert run.count == len(run.cells) == (2 + 2) * 2 * 3
    asked = ist.run_sweep(longer, toy, out=tmp_path)
    pd.testing.assert_frame_equal(numbers(asked), numbers(ist.run_sweep(longer, toy)))


def test_a_part_of_such_a_run_is_read(run: Path) -> None:
    found = load_histograms(run, networks=[GPT2, "mlp"], seeds=0, layers=2)
    assert {*found["network"].astype(str)} == {"mlp", GPT2}
    assert {*load_histograms(run, inits="orthogonal", seeds=0)["network"].astype(str)} == {"mlp"}


def test_theory_and_the_page_know_recipes(run: Path, toy: ist.Dataset) -> None:
    predicted = predict_run(run, toy)
    summary = ist.summarize(ist.load_table(run), load_predictions(run))
    assert len(summary) == 4 * 2
    pairs = predicted[["network", "init"]].drop_duplicates()
    assert len(pairs) == 4
    again = predict_run(run, toy)
    assert len(again) == len(predicted)
    page = ist.write_report(run, figures=False).read_text(encoding="utf-8")
    assert "16 of 16 cells" in page
    text = " ".join(re.sub(r"<[^>]+>", "", page.partition("<body")[2]).split())
    verdicts = summary.astype({"network": str}).groupby("network")["verdict"]
    healthy = verdicts.apply(lambda words: int((words == "healthy").sum()))
    assert (
        f"fixup with kaiming_normal is healthy with {healthy['fixup']} of 2 activations; {GPT2} "
        f"with normal(std=0.02) with {healthy[GPT2]} of 2."
    ) in text
    # a recipe's init is in no contest of inits that were measured with the other networks
    lead = re.search(r"[\w, ]+ (is|are) healthy with \d of 2 \w+", text)
    assert lead is None or "kaiming_normal" not in lead[0].partition("fixup")[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipes": ["gpt3"]}, "recipes: unknown recipe 'gpt3': did you mean 'gpt2'"),
        ({"recipes": ["gpt2(head=2)"]}, "unknown parameter of recipe 'gpt2' 'head': .*'heads'"),
        ({"recipes": ["gpt2(heads=0)"]}, "heads is a whole number, at least 1: got 0"),
        ({"recipes": ["gpt2", "gpt2"]}, "recipes: named twice: gpt2"),
        ({"recipes": "gpt2"}, "recipes: a list is expected, not 'gpt2'"),
        ({"recipes": [3]}, "recipes: a recipe is named by a word, not 3"),
        ({"networks": ["gpt2"]}, r"a sweep takes it by recipes=\['gpt2'\] .--recipes gpt2."),
        ({"networks": []}, "networks: the list is empty"),
        ({"networks": [], "inits": [], "recipes": []}, "networks: the list is empty"),
    ],
)
def test_what_is_no_recipe_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ist.Grid(**given)


def test_parameters_are_those_of_the_network() -> None:
    grid = ist.Grid(recipes=["gpt2(heads=2:8:2)", "fixup(hidden=1)"], **SMALL)
    assert [each.name for each in grid.every_network] == ["gpt2(heads=2)", "gpt2(heads=8)", "fixup"]
