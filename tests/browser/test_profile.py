"""The explorable profile of a model in the system's Chromium: the data shown, keys and switches."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from initstats.probe import Probe
from initstats.report.model import write_model_report
from initstats.report.page import Files
from initstats.report.printed import significant
from initstats.report.profile import KEYS, STATISTICS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

HOSTILE = "</script><b>&"
STEPS = [0, 2, 4]


class Faulty(nn.Module):
    """Weights far too large, a module with a hostile name, a constant, values not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Sigmoid())
        self.odd = nn.ModuleDict({HOSTILE: nn.Linear(8, 3)})
        nn.init.normal_(self.body[2].weight, std=50.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.odd[HOSTILE](self.body(x))
        (out.detach() * 0) / 0
        return out


@pytest.fixture(scope="module")
def probe() -> Probe:
    torch.manual_seed(0)
    model = Faulty()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Probe(model, backward=True, every=2) as probe:
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(40, 6)).square().mean().backward()
            optimizer.step()
    return probe


@pytest.fixture(scope="module")
def index(probe: Probe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = probe.table(), probe.histograms(), probe.missed()
    folder = tmp_path_factory.mktemp("page")
    return Path(write_model_report(folder, *tables, name=probe.network, files=Files(False)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        # as root there is no sandbox
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, index: Path) -> Iterator[Page]:
    """The page, which asks for nothing but itself and complains of nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    asked, complaints = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url.partition("#")[0]))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(index.as_uri())
    page.wait_for_selector(".profile[data-ready]")
    yield page
    assert set(asked) == {index.as_uri()}
    assert complaints == []
    context.close()


def part(page: Page, name: str) -> Any:
    return page.locator(f'[data-part="{name}"]')


def field(page: Page, name: str) -> Any:
    return page.locator(f'.controls [name="{name}"]')


def status(page: Page) -> str:
    return str(part(page, "status").inner_text())


def to_step(page: Page, step: int) -> None:
    field(page, "step").fill(str(STEPS.index(step)))


def downloaded(page: Page) -> pd.DataFrame:
    with page.expect_download() as waited:
        part(page, "csv").click()
    text = Path(waited.value.path()).read_text(encoding="utf-8")
    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])


def measured(probe: Probe, step: int) -> pd.DataFrame:
    """What the probe's table says of a step, in the order of the page."""
    table = probe.table()
    rows = table[(table["tensor"] != "weight") & (table["step"] == step)]
    rows = rows.assign(
        rms=rows["second_moment"] ** 0.5,
        mean_over_std=rows["mean"] / rows["std"],
        largest=rows[["min", "max"]].abs().max(axis=1),
        way=rows["direction"].astype(str),
    )
    return rows.sort_values(["way", "layer"], ascending=[False, True], kind="stable")


@pytest.mark.parametrize("step", STEPS)
def test_numbers_are_those_of_the_table(page: Page, probe: Probe, step: int) -> None:
    to_step(page, step)
    shown, expected = downloaded(page), measured(probe, step)
    assert len(expected) > 12
    shown = shown[shown["nonfinite"].notna()]
    assert shown[KEYS].to_numpy().tolist() == expected[KEYS].to_numpy().tolist()
    assert shown["direction"].tolist() == expected["way"].tolist()
    assert (expected["nonfinite"] > 0).any()
    for statistic in STATISTICS:
        values = expected[statistic.name].to_numpy(float)
        there = shown[statistic.name].to_numpy(float)
        assert np.allclose(there, values, rtol=2e-5, atol=1e-45, equal_nan=True), statistic


def test_every_statistic_is_drawn_where_it_is(page: Page, probe: Probe) -> None:
    rows = measured(probe, STEPS[-1])
    rows = rows[rows["direction"] == "forward"].reset_index(drop=True)
    for number, statistic in enumerate(STATISTICS):
        if not statistic.axis:
            continue
        field(page, "statistic").select_option(label=statistic.label)
        assert f"values: {statistic.label}" in part(page, "picture").inner_text()
        part(page, "picture").focus()
        page.keyboard.press("Home")
        heights = list[tuple[float, float]]()
        for place, value in enumerate(rows[statistic.name]):
            said = significant(float(np.float32(value)))
            assert status(page).startswith(f"{place + 1} of {len(rows)}: "), number
            assert f": {statistic.label} {said};" in status(page)
            ring = page.locator(".current circle")
            height = math.log10(value) if statistic.axis == "logarithmic" and value > 0 else value
            if ring.count() == 2 and 0 < abs(height) < 4.9:
                heights.append((height, -float(ring.first.get_attribute("cy") or "nan")))
            page.keyboard.press("ArrowRight")
        known, drawn = np.array(heights or [(0, 0), (1, 1)]).T
        if len(known) > 2:  # on a straight axis
            assert np.corrcoef(known, drawn)[0, 1] > 0.9999, statistic


def test_keys_and_the_pointer_name_operations(page: Page) -> None:
    picture = part(page, "picture")
    picture.focus()
    last = int(picture.get_attribute("aria-valuemax"))
    for key, place in (
        *(("Home", 1), ("ArrowRight", 2), ("ArrowUp", 3), ("ArrowLeft", 2), ("ArrowDown", 1)),
        *(("ArrowLeft", 1), ("PageDown", last), ("PageUp", 1), ("End", last), ("ArrowRight", last)),
    ):
        page.keyboard.press(key)
        assert int(picture.get_attribute("aria-valuenow")) == place, key
        assert picture.get_attribute("aria-valuetext") == status(page)
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 100)
    page.wait_for_function("document.querySelector('[data-part=status]').innerText[0] == '1'")
    page.mouse.move(box["x"] + 60, box["y"] - 60)
    assert status(page).startswith(f"{last} of")
    page.mouse.click(box["x"] + 60, box["y"] + 100)
    assert status(page).startswith("1 of")
    cells = part(page, "readout").locator("tbody th").all_inner_texts()
    assert cells == ["value", "gradient"]


def test_filters_restrict_the_profile(page: Page) -> None:
    field(page, "module").fill("body")
    assert part(page, "count").inner_text() == "5 of 8 operations at step 4."
    assert set(downloaded(page)["name"]) == {f"body.{n}" for n in range(4)}
    field(page, "kind").select_option("with weights")
    assert set(downloaded(page)["name"]) == {"body.0", "body.2"}
    field(page, "show").select_option("backward")
    assert set(downloaded(page)["direction"]) == {"backward"}
    field(page, "kind").select_option("sigmoid")
    assert status(page).startswith("1 of 1: body.3 (sigmoid)")
    field(page, "module").fill("no such module")
    assert "No operation is named so" in part(page, "count").inner_text()
    assert part(page, "readout").is_hidden()
    part(page, "picture").focus()
    page.keyboard.press("ArrowRight")
    part(page, "reset").click()
    assert part(page, "count").inner_text() == "All 8 operations at step 4."
    names = part(page, "modules").locator("option").evaluate_all("all => all.map(o => o.value)")
    assert "body" in names


def test_findings_lead_to_their_places_and_back(page: Page, probe: Probe) -> None:
    field(page, "module").fill("odd")
    finding = page.locator("#fault-0")
    rule, button = finding.get_attribute("data-rule"), finding.locator("button")
    button.click()
    assert "named in finding 1" in status(page)
    assert field(page, "module").input_value() == ""
    assert page.evaluate("document.activeElement.dataset.part") == "picture"
    assert page.locator(".fault .number").first.text_content() is not None
    part(page, "found").get_by_role("button", name=f"1: {rule}").click()
    assert page.evaluate("document.activeElement.id") == "fault-0"


def test_a_view_can_be_sent(page: Page, browser: Browser, index: Path) -> None:
    field(page, "statistic").select_option(label="root mean square")
    to_step(page, 2)
    field(page, "module").fill("body")
    field(page, "kind").select_option("linear")
    field(page, "show").select_option("forward")
    part(page, "picture").focus()
    page.keyboard.press("End")
    page.wait_for_function("location.hash.includes('at=body.2')")
    other = browser.new_page()
    other.goto(page.url)
    other.wait_for_selector(".profile[data-ready]")
    assert status(other) == status(page)
    assert part(other, "count").inner_text() == "2 of 8 operations at step 2."
    other.goto(f"{index.as_uri()}#step=77&at=nobody&statistic=mean&show=x&kind=y&module=")
    other.wait_for_function("document.querySelector('[data-part=count]').innerText[0] == 'A'")
    assert part(other, "count").inner_text() == "All 8 operations at step 4."
    other.close()


@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_fits_and_prints_what_is_shown(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    field(page, "module").fill("body")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.emulate_media(media="print")
    assert (
        part(page, "printed")
        .inner_text()
        .startswith("Operations named “body”. In the table below, ")
    )
    assert part(page, "controls").is_hidden()
    assert page.locator(".profile svg").is_visible()


def test_without_scripts_the_figure_is_seen(browser: Browser, index: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(index.as_uri())
    assert page.locator("#depth_profile").is_visible()
    assert page.locator("noscript figure svg").count() == 1
    assert part(page, "controls").is_hidden()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, index: Path, scheme: Any) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(index.as_uri())
    page.wait_for_selector(".profile[data-ready]")
    assert axe.Axe().run(page).response["violations"] == []
    context.close()
