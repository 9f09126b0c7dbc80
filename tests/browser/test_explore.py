"""The explorable figure in the system's Chromium: every key, every control, and the data shown."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import initstats as ist
from initstats.diagnosis import CONFIGURATION, Limits, judge, seed_interval
from initstats.diagnosis.verdicts import ASPECTS, WORDS
from initstats.plots import Results
from initstats.report import explore
from initstats.report.study import compose

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
INITS = ["torch_default", "kaiming_normal", "normal(std=1000000000)", "lsuv"]
ACTIVATIONS = ["relu", "squared_relu", "tanh", "general_relu(leak=0.2,sub=0.3)", "sigmoid"]
DEPTH, SEEDS, WIDTHS = 5, 4, [6, 9]


@pytest.fixture(scope="module")
def results(toy: ist.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("run")
    grid = ist.Grid(
        inits=INITS,
        activations=ACTIVATIONS,
        widths=WIDTHS,
        depth=DEPTH,
        seeds=SEEDS,
        backward=True,
    )
    ist.run_sweep(grid, toy, out=folder)
    return replace(Results.of(folder), predicted=ist.predict(grid, toy))


@pytest.fixture(scope="module")
def index(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, which is as large as it may be: the second width lies beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "MOST", 10)
        page = compose(results)
        patch.setattr(explore, "MOST", len(page.values["explore"].beside["explore-1.js"]))
        return compose(results).publish(tmp_path_factory.mktemp("page"))


TRANSFORMER = "transformer(heads=2,patch=4)"


@pytest.fixture(scope="module")
def mixed(toy: ist.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two networks, of which one has attention and a stream."""
    folder = tmp_path_factory.mktemp("mixed")
    grid = ist.Grid(
        networks=["mlp", TRANSFORMER],
        inits=INITS[:2],
        activations=ACTIVATIONS[:2],
        widths=[6],
        depth=DEPTH,
        seeds=2,
        backward=True,
    )
    ist.run_sweep(grid, toy, out=folder)
    return compose(Results.of(folder)).publish(tmp_path_factory.mktemp("mixed page"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        # as root there is no sandbox
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Reader:
    """Somebody who reads the page, and hears what it asks for and complains of."""

    def __init__(self, browser: Browser, index: Path, address: str = "", **context: Any) -> None:
        given: dict[str, Any] = {"viewport": DESK, "offline": True} | context
        self.context = browser.new_context(**given)
        self.page: Page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(index.as_uri() + address)
        if context.get("java_script_enabled", True):
            self.page.wait_for_selector(".explore[data-ready]")

    def part(self, name: str) -> Any:
        return self.page.locator(f'[data-part="{name}"]')

    def cell(self, init: str, activation: str) -> Any:
        row, column = INITS.index(init) + 1, ACTIVATIONS.index(activation) + 2
        return self.page.locator(
            f'[data-part="map"] tbody tr:nth-child({row}) > :nth-child({column})'
        )

    def pinned(self) -> list[str]:
        heads = self.part("readout").locator("tbody th")
        return [re.sub(r"^\d+ ", "", text) for text in heads.all_inner_texts()]

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.textContent.trim()"))

    def choose(self, name: str, label: str) -> None:
        self.page.locator(f'.controls [name="{name}"]').select_option(label=label)
        self.page.wait_for_selector(".explore:not([aria-busy])")

    def at_layer(self, layer: int) -> None:
        self.page.locator('.controls [name="layer"]').fill(str(layer))
        self.page.wait_for_selector(".explore:not([aria-busy])")

    def hears(self, words: str) -> None:
        status = "document.querySelector('[data-part=status]').innerText"
        self.page.wait_for_function(f"words => {status}.startsWith(words)", arg=words)

    def downloaded(self, part: str) -> str:
        with self.page.expect_download() as waited:
            self.part(part).click()
        return Path(waited.value.path()).read_text(encoding="utf-8")


@pytest.fixture
def reader(browser: Browser, index: Path) -> Iterator[Reader]:
    reader = Reader(browser, index)
    yield reader
    assert [url.partition("#")[0] for url in reader.asked] == [index.as_uri()]
    assert reader.complaints == []
    reader.context.close()


MAPS = """async ({layers, limits, aside}) => {
  const form = document.querySelector(".controls");
  const set = async (name, value) => {
    const field = form.elements.namedItem(name);
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise((done) => setTimeout(done));
  };
  const read = () => [...document.querySelectorAll('[data-part="map"] tbody tr')].map((row) =>
    [...row.querySelectorAll("td")].map((cell) => [
      cell.firstChild.textContent, cell.querySelector("small")?.textContent ?? ""]));
  const found = [];
  for (const chosen of limits) {
    for (const [name, value] of Object.entries(chosen)) await set(name, value);
    for (const layer of layers) { await set("layer", layer); found.push(read()); }
  }
  return found;
}"""


def test_the_browsers_verdicts_are_pythons(reader: Reader, results: Results) -> None:
    limits = [Limits(), Limits(2, 0.9, 3), Limits(100, 0.999, 1000), Limits(3, 0.95, 100)]
    layers = [*range(1, DEPTH + 1)]
    asked = {"layers": layers, "limits": [vars(each) for each in limits]}
    maps = iter(reader.page.evaluate(MAPS, asked))
    words, ties = set(), 0
    block = results.blocks[0]
    for each in limits:
        judged = judge(results.table, results.predicted, each)["verdict"].astype(str)
        for layer in layers:
            shown = next(maps)
            for init, row in zip(INITS, shown, strict=True):
                expected = [
                    voted(judged.loc[block.network, init, activation, block.width, :, layer])
                    for activation in ACTIVATIONS
                ]
                assert [tuple(cell) for cell in row[:-1]] == expected, (each, layer, init)
                healthy = sum(word == "healthy" for word, _ in expected)
                assert row[-1] == [str(healthy), ""]
                words |= {word for word, _ in expected}
                ties += sum(note == "tie" for _, note in expected)
    assert len(words) > 5
    assert ties


def voted(words: pd.Series) -> tuple[str, str]:
    """The vote of some seeds, as a cell of the map shows it."""
    counts = words.value_counts().reindex(WORDS, fill_value=0)
    most = counts.max()
    split = "tie" if (counts == most).sum() > 1 else f"{most} of {len(words)}"
    return str(counts.idxmax()), "" if most == len(words) else split


def test_the_readout_tells_each_aspect_and_what_becomes_of_it(
    reader: Reader, results: Results
) -> None:
    reader.page.locator('[data-part="map"] tbody tr:nth-child(2) th').click()
    assert reader.pinned() == [f"kaiming_normal, {name}" for name in ACTIVATIONS]
    judged = judge(results.table, results.predicted)
    own: Any = judged.loc[results.blocks[0].network, "kaiming_normal"]
    for layer in (DEPTH, 3):
        reader.at_layer(layer)
        rows = (
            reader.part("readout")
            .locator("tbody tr")
            .evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.innerText))")
        )
        for activation, row in zip(ACTIVATIONS, rows, strict=True):
            here = own.loc[activation, 6, :, layer]
            assert row[1].startswith(voted(here["verdict"].astype(str))[0])
            for aspect, word in zip(ASPECTS, row[2:5], strict=True):
                kinds = here[f"{aspect}_verdict"].cat.categories
                counts = here[f"{aspect}_verdict"].value_counts().reindex(kinds)
                assert word == counts.idxmax()
            healthy = {
                deep: voted(own.loc[activation, 6, :, deep]["verdict"].astype(str))[0] == "healthy"
                for deep in range(1, DEPTH + 1)
            }
            if all(healthy.values()):
                assert row[5] == "healthy at every depth"
            elif not healthy[DEPTH]:
                from_layer = max((n for n, well in healthy.items() if well), default=0) + 1
                where = "the first layer" if from_layer == 1 else f"layer {from_layer}"
                assert f"from {where}" in row[5]


@pytest.mark.parametrize(
    ("statistic", "label", "view", "of"),
    [
        ("std", "standard deviation", ("activation", "forward"), "activations"),
        (
            "mean",
            "mean",
            ("preactivation", "backward"),
            "gradients of the pre-activations",
        ),
    ],
)
def test_the_curves_numbers_are_means_over_seeds(
    reader: Reader, results: Results, statistic: str, label: str, view: tuple[str, str], of: str
) -> None:
    reader.choose("statistic", label)
    reader.choose("view", of)
    reader.page.locator('.controls [name="seeds"]').check()
    reader.part("clear").click()
    pairs = [("lsuv", "tanh"), ("normal(std=1000000000)", ACTIVATIONS[3])]
    for pair in pairs:
        reader.cell(*pair).click()
    told = pd.read_csv(io.StringIO(reader.downloaded("csv")))
    rows = results.measured(*view)
    rows = rows[rows["width"] == 6]
    logarithmic = statistic == "std"
    with np.errstate(divide="ignore"):
        heights = np.log10(rows[statistic]) if logarithmic else rows[statistic]
    lost = np.inf if logarithmic else np.nan
    rows = rows.assign(height=heights.where(rows["nonfinite"] == 0, lost))
    expected = seed_interval(rows, "height", [*CONFIGURATION, "layer"])
    means: Any = 10**expected if logarithmic else expected
    for init, activation in pairs:
        shown = told[(told["init"] == init) & (told["activation"] == activation)]
        own = means.loc[results.blocks[0].network, init, activation, 6]
        for name, column in (("mean", statistic), ("low", "low"), ("high", "high")):
            np.testing.assert_allclose(shown[column], own[name], rtol=1e-4, atol=1e-12)
        one: Any = rows[(rows["init"] == init) & (rows["activation"] == activation)]
        one = one[one["seed"] == 2].set_index("layer")["height"].to_numpy()
        drawn = np.log10(shown["seed_2"]) if logarithmic else shown["seed_2"]
        mean = np.log10(shown[statistic]) if logarithmic else shown[statistic]
        known = np.isfinite(one)
        assert (np.abs(drawn - one)[known] <= 1e-6 + 0.04 * np.abs(one - mean)[known]).all()
        np.testing.assert_array_equal(drawn[~known], one[~known])
        assert [*shown["layer"]] == [*range(1, DEPTH + 1)]
    assert {*told["tensor"], *told["direction"]} == {*view}


def test_the_picture_is_whole(reader: Reader) -> None:
    drawing = reader.downloaded("svg")
    root = ET.fromstring(drawing)
    texts = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Standard deviation of the activations by layer" in texts
    assert {"torch_default, relu", "kaiming_normal, relu"} <= {*texts}
    assert not re.search(r"var\(|currentColor", drawing)


def test_the_address_holds_what_is_shown(browser: Browser, index: Path, reader: Reader) -> None:
    reader.choose("statistic", "mean")
    reader.choose("show", "values of the statistic")
    reader.choose("factor", "3")
    reader.at_layer(2)
    for name in ("seeds", "whole"):
        reader.page.locator(f'.controls [name="{name}"]').check()
    reader.page.locator('.controls [name="theory"]').uncheck()
    reader.cell("lsuv", ACTIVATIONS[3]).click()
    reader.cell("torch_default", "relu").click()
    reader.page.wait_for_function("location.hash.includes('theory') && /lsuv/.test(location.hash)")
    reader.page.mouse.move(5, 5)
    reader.page.wait_for_timeout(600)  # until the address is that of the last click
    state = """() => ["count", "status", "curves-title", "readout", "map"].map(name =>
        document.querySelector(`[data-part="${name}"]`).innerText).concat(
        [...document.querySelectorAll(".controls :is(input, select)")].map(field =>
            field.type == "checkbox" ? field.checked : field.value))"""
    shown = reader.page.evaluate(state)
    address = reader.page.evaluate("location.hash")
    again = Reader(browser, index, address)
    restored = again.page.evaluate(state)
    numbered = re.compile(r"(?m)^\d+(?= ?\n?)")  # numbers are given anew
    assert [str(each) for each in restored[5:]] == [str(each) for each in shown[5:]]
    assert restored[:3] == shown[:3]
    assert again.pinned() == reader.pinned()
    assert numbered.sub("", restored[3]).split() == numbered.sub("", shown[3]).split()
    # of what this page does not have, what is shown at first
    again.page.evaluate("location.hash = '#statistic=nothing&layer=99&pair=lsuv, tanh&pair=a, b'")
    again.page.wait_for_function("document.querySelector('.controls output').value == '5 of 5'")
    assert again.pinned() == ["lsuv, tanh"]
    assert again.page.locator('.controls [name="statistic"]').input_value() == "0"
    again.page.evaluate("location.hash = '#pairs=none'")
    again.page.wait_for_function("document.querySelector('[data-part=readout]').hidden")
    again.context.close()


def test_the_map_is_worked_by_keys(reader: Reader) -> None:
    press = reader.page.keyboard.press
    assert reader.page.locator('[data-part="map"] [tabindex="0"]').count() == 1
    reader.part("map").locator('[tabindex="0"]').focus()
    press("ArrowRight")
    press("ArrowDown")
    reader.hears("kaiming_normal, squared_relu: ")
    assert reader.page.locator(".explore .panels path[stroke='currentColor']").count() >= 1
    press("Enter")
    assert "kaiming_normal, squared_relu" in reader.pinned()
    assert reader.cell("kaiming_normal", "squared_relu").get_attribute("aria-selected") == "true"
    press(" ")
    assert "kaiming_normal, squared_relu" not in reader.pinned()
    for key, expected in (
        ("Home", reader.cell("kaiming_normal", "relu")),
        ("End", reader.cell("kaiming_normal", "sigmoid")),
        ("PageDown", reader.cell("lsuv", "sigmoid")),
        ("Control+Home", reader.cell("torch_default", "relu")),
        ("Control+End", reader.cell("lsuv", "sigmoid")),
        ("ArrowUp", reader.cell("normal(std=1000000000)", "sigmoid")),
        ("ArrowLeft", reader.cell("normal(std=1000000000)", ACTIVATIONS[3])),
    ):
        press(key)
        assert expected.evaluate("cell => cell == document.activeElement"), key
    press("PageUp")
    press("ArrowUp")
    assert reader.focused() == ACTIVATIONS[3]
    press("Enter")
    assert reader.pinned() == [f"{init}, {ACTIVATIONS[3]}" for init in INITS]
    press("Home")
    press("ArrowDown")
    press("ArrowLeft")
    assert reader.focused() == "torch_default"
    press("ArrowUp")  # the corner is nothing to stand on
    assert reader.focused() == "torch_default"
    press("Escape")
    assert reader.pinned() == []
    assert not reader.part("readout").is_visible()
    press("Enter")
    assert len(reader.pinned()) == len(ACTIVATIONS)
    assert reader.page.locator('[data-part="map"] [tabindex="0"]').count() == 1


def test_the_layer_is_moved_by_keys_and_by_dragging(reader: Reader) -> None:
    dial, press = reader.part("curves"), reader.page.keyboard.press
    layer = reader.page.locator('.controls [name="layer"]')
    dial.focus()
    for key, expected in (
        ("ArrowLeft", DEPTH - 1),
        ("ArrowDown", DEPTH - 2),
        ("Home", 1),
        ("ArrowUp", 2),
        ("ArrowRight", 3),
        ("PageUp", DEPTH),
        ("End", DEPTH),
        ("PageDown", 1),
    ):
        press(key)
        reader.page.wait_for_function(f"document.querySelector('[name=layer]').value == {expected}")
        assert dial.get_attribute("aria-valuenow") == str(expected)
    box = dial.bounding_box()
    reader.page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + 40)
    reader.page.mouse.down()
    reader.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 50, steps=3)
    reader.page.mouse.up()
    reader.page.wait_for_function(f"document.querySelector('[name=layer]').value >= {DEPTH - 1}")
    reader.page.mouse.move(box["x"] + 60, box["y"] + 50)  # without a button it stays
    assert int(layer.input_value()) >= DEPTH - 1
    assert "After" in reader.part("count").inner_text()


def test_pairs_are_picked_and_let_go(reader: Reader) -> None:
    reader.part("clear").click()
    assert reader.part("status").inner_text().startswith("0 pairs drawn")
    pairs = list(itertools.product(INITS, ACTIVATIONS))[:9]
    for pair in pairs:
        reader.cell(*pair).click()
    assert {*reader.pinned()} == {", ".join(pair) for pair in pairs[1:]}  # the first gave way
    badges = reader.page.locator("[data-badge]").evaluate_all(
        "all => all.map(e => e.dataset.badge)"
    )
    assert sorted(badges) == [*"12345678"]
    assert reader.page.locator(".distributions figure").count() == 8
    for name in ("stroke", "stroke-dasharray"):
        lines = reader.page.locator(".explore .mean").evaluate_all(
            f"lines => lines.map(line => line.getAttribute('{name}'))"
        )
        assert len({*lines}) == 8
    buttons = reader.part("readout").locator("button")
    name = buttons.first.get_attribute("aria-label")
    buttons.first.focus()
    reader.page.keyboard.press("Enter")
    assert name.removeprefix("remove ") not in reader.pinned()
    assert reader.page.evaluate("document.activeElement.tagName") == "BUTTON"
    for _ in range(7):
        buttons.first.click()
    assert reader.page.evaluate("document.activeElement.closest('[data-part=map]') != null")


def test_a_pair_is_previewed_where_the_pointer_is(reader: Reader) -> None:
    before = reader.page.locator(".explore .mean").count()
    reader.cell("lsuv", "tanh").hover()
    reader.hears("lsuv, tanh: ")
    assert reader.page.locator(".explore .mean").count() == before + 1
    assert "lsuv, tanh" not in reader.pinned()
    assert reader.page.locator(".distributions figcaption").first.inner_text() == "lsuv, tanh"
    reader.page.mouse.move(5, 5)
    reader.page.wait_for_function(f"document.querySelectorAll('.explore .mean').length == {before}")


def test_a_further_width_is_loaded_when_asked_for(
    browser: Browser, index: Path, results: Results
) -> None:
    reader = Reader(browser, index)
    reader.choose("network", "9")
    judged = judge(results.table, results.predicted)["verdict"].astype(str)
    expected = [
        voted(judged.loc[results.blocks[1].network, "kaiming_normal", name, 9, :, DEPTH])[0]
        for name in ACTIVATIONS
    ]
    reader.page.wait_for_function("location.hash.includes('network=')")
    row = reader.page.locator('[data-part="map"] tbody tr:nth-child(2) td').evaluate_all(
        "cells => cells.map(cell => cell.firstChild.textContent)"
    )
    assert row[:-1] == expected
    assert [Path(url).name for url in reader.asked] == ["index.html", "explore-2.js"]
    reader.choose("network", "6")
    reader.choose("network", "9")
    assert len(reader.asked) == 2
    assert reader.complaints == []
    reader.context.close()


OFFERED = """name => [...document.querySelector(`.controls [name="${name}"]`).options].map(
  option => [option.label, option.disabled, option.title])"""


def test_what_a_network_lacks_cannot_be_chosen(browser: Browser, mixed: Path) -> None:
    reader = Reader(browser, mixed)
    mlp, transformer = "mlp, width 6", f"{TRANSFORMER}, width 6"

    def offered(name: str) -> dict[str, str | None]:
        """The reason why an option cannot be chosen, by its name; None where it can."""
        found = reader.page.evaluate(OFFERED, name)
        assert all(disabled == bool(title) for _, disabled, title in found)
        return {label: title or None for label, _, title in found}

    def chosen(name: str) -> str:
        field = reader.page.locator(f'.controls [name="{name}"]')
        return str(field.evaluate("field => field.selectedOptions[0].label"))

    assert None not in [offered("view")["stream"], offered("statistic")["branch’s share"]]
    reader.choose("network", transformer)
    reader.page.wait_for_function("!document.querySelector('.controls option:disabled')")
    assert {*offered("view").values(), *offered("statistic").values()} == {None}
    reader.choose("view", "attention weights")
    reader.choose("statistic", "normalized entropy")
    reader.choose("network", mlp)
    reader.hears(
        "mlp has no attention weights: the standard deviation of the activations is shown. 2 pairs"
    )
    assert (chosen("view"), chosen("statistic")) == ("activations", "standard deviation")
    views, statistics = offered("view"), offered("statistic")
    assert views["activations"] is statistics["standard deviation"] is None
    assert views["gradients of the stream"] == "mlp has no gradients of the stream"
    assert statistics["branch’s share"] == "mlp has no branch’s share"
    assert views["pre-activations"] is views["gradients of the pre-activations"] is None

    # a key goes over what cannot be chosen, and a screen reader is told that it cannot, and why
    reader.page.locator('.controls [name="view"]').focus()
    for _ in range(len(views)):
        reader.page.keyboard.press("ArrowDown")
    assert views[chosen("view")] is None
    assert chosen("view").startswith("gradients of the ")
    reader.hears("2 pairs drawn")
    told = reader.page.context.new_cdp_session(reader.page).send("Accessibility.getFullAXTree")
    (option,) = [
        node
        for node in told["nodes"]
        if node["role"]["value"] == "option" and node["name"]["value"] == "attention weights"
    ]
    assert option["description"]["value"] == "mlp has no attention weights"
    assert option["properties"] == [
        {"name": "disabled", "value": {"type": "boolean", "value": True}}
    ]

    # a view whose statistic is elsewhere, and statistics that are elsewhere, or nowhere
    for statistic in ("mean", "branch’s share"):
        reader.choose("network", transformer)
        reader.page.wait_for_function("!document.querySelector('.controls option:disabled')")
        reader.choose("view", "stream")
        reader.choose("statistic", statistic)
        reader.choose("network", mlp)
        instead = "mean" if statistic == "mean" else "standard deviation"
        reader.hears(f"mlp has no stream: the {instead} of the activations is shown.")
    asked = "statistic=branch_share&of=preactivation forward&network=mlp 6"
    reader.page.evaluate(f"location.hash = '#{asked}'")
    reader.hears(
        "mlp has no branch’s share: the standard deviation of the pre-activations is shown."
    )
    reader.cell("kaiming_normal", "relu").hover()
    reader.hears("kaiming_normal, relu: ")
    reader.page.mouse.move(5, 5)
    reader.hears("mlp has no branch’s share")
    reader.choose("view", "activations")
    reader.hears("2 pairs drawn")
    assert reader.complaints == []
    reader.context.close()


def test_a_statistic_that_a_view_lacks_gives_way(
    browser: Browser, mixed: Path, tmp_path: Path
) -> None:
    """A page is made for it: of the networks here, each has the same statistics of such views."""
    html = mixed.read_text(encoding="utf-8")
    begin = html.index("{", html.index("explore-manifest"))
    manifest, length = json.JSONDecoder().raw_decode(html[begin:])
    labels = [view["label"] for view in manifest["views"]]
    names = [each["name"] for each in manifest["statistics"]]
    mlp = manifest["networks"][0]["known"]
    mlp[labels.index("pre-activations")].remove(names.index("mean"))
    page = tmp_path / "index.html"
    made = html[:begin] + json.dumps(manifest) + html[begin + length :]
    page.write_text(made, encoding="utf-8")
    reader = Reader(browser, page)
    reader.choose("network", f"{TRANSFORMER}, width 6")
    reader.choose("view", "pre-activations")
    reader.choose("statistic", "mean")
    reader.choose("network", "mlp, width 6")
    reader.hears(
        "mlp has no mean of the pre-activations: the standard deviation of the pre-activations is"
    )
    reader.choose("statistic", "mean")
    reader.hears("2 pairs drawn")
    reader.choose("view", "pre-activations")
    reader.hears("2 pairs drawn")
    assert reader.complaints == []
    reader.context.close()


def test_a_file_that_is_missing_is_named(browser: Browser, index: Path, tmp_path: Path) -> None:
    alone = tmp_path / "index.html"
    alone.write_bytes(index.read_bytes())
    reader = Reader(browser, alone)
    reader.choose("network", "9")
    reader.hears("explore-2.js is not beside this page")
    reader.context.close()


def test_it_is_touched(browser: Browser, index: Path) -> None:
    reader = Reader(browser, index, viewport=PHONE, has_touch=True, is_mobile=True)
    reader.cell("lsuv", "relu").tap()
    assert "lsuv, relu" in reader.pinned()
    curves = reader.part("curves")
    curves.scroll_into_view_if_needed()
    box = curves.bounding_box()
    reader.page.touchscreen.tap(box["x"] + 62, box["y"] + 60)
    reader.page.wait_for_function("document.querySelector('[name=layer]').value == 1")
    sizes = reader.page.locator(
        ".explore :is(button, select, input, td[data-verdict], table[role=grid] th)"
    ).evaluate_all(
        """all => all.filter(each => each.offsetParent).map(each => {
            const {width, height} = (each.closest("label") ?? each).getBoundingClientRect();
            return Math.min(width, height);
        })"""
    )
    assert min(sizes) >= 24
    reader.context.close()


def test_without_scripts_all_verdicts_are_readable(
    browser: Browser, index: Path, results: Results
) -> None:
    reader = Reader(browser, index, java_script_enabled=False)
    tables = reader.page.locator(".explore table[style]")
    assert tables.count() == len(WIDTHS)
    for number, block in enumerate(results.blocks):
        texts = (
            tables.nth(number)
            .locator("tbody td")
            .evaluate_all("cells => cells.map(cell => cell.firstChild.textContent)")
        )
        rows = np.array(texts).reshape(len(INITS), -1)[:, :-1]
        expected = block.rows(results.summary)["verdict"].to_numpy().reshape(len(INITS), -1)
        np.testing.assert_array_equal(rows, expected)
    assert reader.page.locator(".explore :is(select, input, button):visible").count() == 0
    reader.context.close()


@pytest.mark.parametrize("width", [320, 390, 1920, 3840])
def test_it_fits(browser: Browser, index: Path, width: int) -> None:
    reader = Reader(browser, index, viewport={"width": width, "height": 900})
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width
    box = reader.page.locator(".explore .scroll").first
    head = reader.part("map").locator("tbody th").first
    left = head.bounding_box()["x"]
    box.evaluate("box => { box.scrollLeft = 150 }")
    assert abs(head.bounding_box()["x"] - left) < 2  # the first column stays
    reader.context.close()


CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const pixel = (...colours) => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  };
  const light = ([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b;
  const paper = getComputedStyle(document.body).backgroundColor;
  return [...document.querySelectorAll('[data-part="map"] td, .explore .badge')].map((cell) => {
    const style = getComputedStyle(cell);
    const [one, other] = [[paper, style.backgroundColor], [paper, style.color]].map(
      (colours) => light(pixel(...colours)));
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_values_stand_out(browser: Browser, index: Path, scheme: str) -> None:
    pairs = "&".join(
        f"pair={init}, {name}" for init, name in itertools.product(INITS[:2], ACTIVATIONS)
    )
    reader = Reader(browser, index, f"#{pairs}", color_scheme=scheme)
    assert min(reader.page.evaluate(CONTRASTS)) >= 4.5
    reader.choose("show", "values of the statistic")
    for label in ("standard deviation", "mean", "correlation of two inputs"):
        reader.choose("statistic", label)
        assert min(reader.page.evaluate(CONTRASTS)) >= 4.5, label
    reader.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, index: Path, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )
    reader = Reader(browser, index, color_scheme=scheme)
    reader.cell("lsuv", "tanh").click()
    reader.choose("show", "values of the statistic")
    found = axe.Axe().run(reader.page, context=".explore").response
    assert [each["id"] for each in found["violations"]] == []
    assert len(found["passes"]) > 10
    reader.context.close()


def test_paper_shows_the_state_on_two_pages(browser: Browser, index: Path) -> None:
    pairs = "&".join(
        f"pair={init}, {name}" for init, name in itertools.product(INITS, ACTIVATIONS[:2])
    )
    reader = Reader(browser, index, f"#{pairs}&factor=3", viewport={"width": 680, "height": 960})
    reader.page.emulate_media(media="print")
    assert reader.page.locator(".explore :is(select, input, button):visible").count() == 0
    assert "a factor of 3 of the input" in reader.part("printed").inner_text()
    section = reader.page.locator(".explore")
    box = section.bounding_box()
    assert box
    assert box["height"] < 2 * 1000  # CSS pixels of a page of A4
    wide = section.locator(".scroll").evaluate_all(
        "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth + 1).length"
    )
    assert wide == 0
    reader.context.close()


def test_verdicts_are_about_all_layers_where_scales_depend_on_depth(
    browser: Browser, toy: ist.Dataset, tmp_path: Path
) -> None:
    grid = ist.Grid(
        networks=["resmlp", "resmlp(scale=inverse_depth)"],
        inits=INITS[:2],
        activations=ACTIVATIONS[:2],
        widths=[6],
        depth=DEPTH,
        seeds=2,
        backward=True,
    )
    ist.run_sweep(grid, toy, out=tmp_path / "run")
    index = compose(Results.of(tmp_path / "run")).publish(tmp_path / "page")
    reader = Reader(browser, index)
    label = reader.page.locator(".controls label:has([name=layer]) span")
    reader.at_layer(2)
    assert reader.part("count").inner_text().startswith("After 2 layers")
    assert label.inner_text() == "depth"
    reader.choose("network", "resmlp(scale=inverse_depth), width 6")
    assert reader.part("count").inner_text().startswith(f"After {DEPTH} layers")
    assert label.inner_text() == "layer"
    assert reader.page.locator(".controls output").inner_text() == f"2 of {DEPTH}"
    head = reader.part("readout").locator("thead th:nth-child(2)").inner_text()
    assert head == f"verdict at layer {DEPTH}"
    assert f"judged at {DEPTH} layers only" in reader.part("readout").inner_text()
    assert reader.complaints == []
    reader.context.close()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_row_that_a_network_has_not_counts_nothing(
    browser: Browser, toy: ist.Dataset, tmp_path: Path, scripts: bool
) -> None:
    """A recipe brings an init that the other networks are not measured with."""
    grid = ist.Grid(
        networks=["mlp"],
        inits=["lecun_normal"],
        recipes=["fixup"],
        activations=ACTIVATIONS[:2],
        widths=[6],
        depth=3,
        seeds=1,
    )
    ist.run_sweep(grid, toy, out=tmp_path / "run")
    index = compose(Results.of(tmp_path / "run")).publish(tmp_path / "page")
    reader = Reader(browser, index, java_script_enabled=scripts)
    rows = reader.page.locator('[data-part="map"] tbody tr')
    last = {
        row.locator("th").first.inner_text(): row.locator("td").last.inner_text()
        for row in rows.all()
    }
    assert last["lecun_normal"].isdigit()
    assert last["kaiming_normal"] == "—"
    reader.context.close()
