"""The report in the system's Chromium: offline, in light and dark, on a desk, a phone and paper."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch
from torch import nn

import initstats as ist
from initstats import bench
from initstats.plots import Trained
from initstats.probe import Probe
from initstats.report.model import write_model_report
from initstats.report.survey import compose
from initstats.report.theory import write_theory
from initstats.report.training import write_training_report
from initstats.survey import STUDIED, Evidence, theory
from initstats.theory.diagram import diagram

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 780}
LONG = "general_relu(leak=0.2,sub=0.3,maxv=5)"


@pytest.fixture(scope="module")
def report(toy: ist.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    grid = ist.Grid(
        inits=["torch_default", "kaiming_normal(mode=fan_out)", "normal(std=100)", "matched"],
        activations=["relu", "shifted_relu", LONG, "squared_relu", "elu", "gelu", "tanh"],
        widths=[10],
        depth=5,
        seeds=2,
        backward=True,
    )
    ist.run_sweep(grid, toy, out=folder)
    return ist.write_report(folder)


@pytest.fixture(scope="module", params=["study", "model", "theory", "training", "comparison"])
def any_page(
    request: pytest.FixtureRequest,
    report: Path,
    training_study: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A page of each kind, with names as long as they get."""
    folder = tmp_path_factory.mktemp("page")
    if request.param == "model":
        model = nn.Sequential()
        for number in range(6):
            model.add_module(f"transformer_block_{number}_feed_forward", nn.Linear(6, 6))
            model.add_module(f"transformer_block_{number}_activation", nn.ReLU())
        probe = Probe(model, backward=True).run(torch.ones(40, 6))
        return write_model_report(folder, probe.table(), probe.histograms(), probe.missed())
    if request.param == "theory":
        return write_theory(folder, [diagram(LONG)])
    if request.param == "training":
        study = training_study(["relu", LONG], ["kaiming_normal(mode=fan_out)"], seeds=3)
        return write_training_report(Trained(**study), folder)
    if request.param == "comparison":
        table = ist.load_table(report.parent)
        return ist.write_report({LONG: table, "other": exchanged(table, "init")}, folder)
    return report


def exchanged(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """A table in which the names of a column are others."""
    names = table[key].cat.categories
    return table.assign(**{key: table[key].cat.rename_categories([*names[1:], names[0]])})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        # as root there is no sandbox
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "'></text></svg><svg/onload=window.hacked=1>",
    "javascript:window.hacked=1",
    "\u202e{{ 7 * 7 }}$\\frac{",
]


@pytest.fixture(
    scope="module", params=["study", "model", "theory", "bench", "training", "comparison"]
)
def hostile_page(
    request: pytest.FixtureRequest,
    toy: ist.Dataset,
    training_study: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A page of each kind, whose names and words are of somebody who means harm."""
    folder = tmp_path_factory.mktemp("hostile")
    bad = "".join(HOSTILE)
    if request.param in ("study", "comparison"):
        grid = ist.Grid(activations=["relu", "tanh", "elu", "gelu", "selu"], inits=["matched"])
        small = {"widths": (5,), "depth": 2, "seeds": (0, 1)}
        table = ist.run_sweep(grid.model_copy(update=small), toy)
        for name, names in (("activation", HOSTILE), ("init", [bad]), ("dataset", [bad])):
            table[name] = table[name].cat.rename_categories(names)
        if request.param == "comparison":
            table["init"] = table["init"].cat.rename_categories(["matched"])
            return ist.write_report({bad: table, "b": exchanged(table, "activation")}, folder)
        return ist.write_report(table, folder)
    if request.param == "model":
        model = nn.Sequential()
        for name in HOSTILE:
            kind: type[nn.Linear] = type(name, (nn.Linear,), {})
            model.add_module(name.replace(".", ""), kind(4, 4))
        probe = Probe(model, backward=True).run(torch.ones(20, 4))
        missed = pd.DataFrame([dict.fromkeys(probe.missed(), bad)])
        return write_model_report(folder, probe.table(), probe.histograms(), missed)
    if request.param == "theory":
        return write_theory(folder, [replace(diagram("identity"), name=bad[:80])])
    if request.param == "training":
        study = training_study(HOSTILE, [bad], networks=[bad], seeds=2)
        for table in study.values():
            table["dataset"] = table["dataset"].cat.rename_categories([bad])
        return write_training_report(Trained(**study), folder)
    timings = pd.DataFrame(
        [("S", variant, 0, 1.0) for variant in ("engine", "plain", "whole_hooks")],
        columns=["workload", "variant", "round", "seconds"],
    )
    words = {"processor": bad, "cores": bad, "torch": bad}
    return bench.write_benchmark(
        folder, {"machine": words, "timings": timings, "ratios": bench.ratios(timings)}
    )


SCHEMES = ["light", "dark"]


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The report on a desk, for those who only look."""
    page = opened(browser, report, DESK)
    yield page
    page.context.close()


@pytest.fixture(scope="module")
def any_seen(browser: Browser, any_page: Path) -> Iterator[Page]:
    """A page of each kind on a desk, for those who only look."""
    page = opened(browser, any_page, DESK)
    yield page
    page.context.close()


def opened(browser: Browser, report: Path, size: dict[str, int], scheme: str = "light") -> Page:
    """The page, after it has asked for nothing but itself and complained of nothing."""
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    page.wait_for_load_state("load")
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert complaints == []
    return page


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "dark"), (PHONE, "light")], ids=str)
def test_the_page_loads_alone_and_fits(
    browser: Browser, report: Path, size: dict[str, int], scheme: str
) -> None:
    page = opened(browser, report, size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.locator(".drawing svg").count() == 1  # the others are files
    assert page.locator("h1").inner_text() == "Does the signal survive 5 layers?"


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_any_page_fits(any_seen: Page, size: dict[str, int]) -> None:
    any_seen.set_viewport_size(size)  # type: ignore[arg-type]
    assert any_seen.evaluate("innerWidth") == size["width"]
    assert any_seen.evaluate("document.documentElement.scrollWidth") <= size["width"]
    smallest = any_seen.locator("figure svg text").evaluate_all(
        "texts => Math.min(...texts.map(text => text.getBoundingClientRect().height))"
    )
    assert smallest > 6  # pixels, also where the screen is narrow


@pytest.mark.sampled(every=4)
def test_a_page_runs_nothing_of_what_it_is_about(browser: Browser, hostile_page: Path) -> None:
    page = opened(browser, hostile_page, DESK)
    assert page.evaluate("window.hacked") is None
    strange = """elements => elements.filter(element => element.matches("img[src=x]")
        || (element.matches("script:not([type='application/json'])") && /hacked/.test(element.text))
        || [...element.attributes].some(({name, value}) =>
            name.startsWith("on") || /^\\s*javascript:/i.test(value))).length"""
    assert page.locator("*").evaluate_all(strange) == 0
    text = hostile_page.read_text(encoding="utf-8")
    assert "window.hacked" in text


@pytest.mark.parametrize("scheme", SCHEMES)
def test_words_in_figures_stand_out(any_seen: Page, scheme: str) -> None:
    any_seen.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    paper = any_seen.locator("body").evaluate(COLOR.format("backgroundColor"))
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for what, enough in (("text", 4.5), ("use", 2.5)):
        fills = any_seen.locator(f".drawing svg {what}").evaluate_all(
            "all => [...new Set(all.map(each => getComputedStyle(each))"
            ".filter(style => style.fillOpacity == '1').map(style => style.fill))]"
        )
        on_paper = set(fills) - {"rgb(255, 255, 255)", "none"}  # white is for cells of full colour
        assert min(contrast(color, paper) for color in on_paper) > enough, what


def test_what_is_wide_scrolls_within_itself_and_by_keyboard(browser: Browser, report: Path) -> None:
    page = opened(browser, report, PHONE)
    wide = page.locator("figure .scroll").first
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth")
    wide.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("box => box.scrollLeft > 0", arg=wide.element_handle())


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The survey's page with all its recipes, of which planted numbers are told."""
    row = {"depth": 100, "verdict": "gradient explodes", "gradient": 1.5e125, "largest": 1000.0}
    row |= {"correlation": 2.14e-14, "share": 0.0051}
    survival = pd.DataFrame([each._asdict() | row for each in STUDIED])
    of_norms = {"label": "no norm", "depth": 50, "init": "a", "activation": "relu"}
    tables = {
        "measured": pd.DataFrame([{"label": "plain", "depth": 101, "verdict": "healthy"}]),
        "profiles": pd.DataFrame(columns=["label", "layer", "statistic", "source", "value"]),
        "norms": pd.DataFrame([of_norms | {"verdict": "healthy"}]),
        "phases": pd.DataFrame(columns=["label", "depth", "logits", "branch", "gradient"]),
    }
    evidence = Evidence(survival=survival, **tables, rates=theory.rates())
    return compose(evidence).publish(tmp_path_factory.mktemp("architectures"))


def test_names_of_recipes_are_whole(browser: Browser, recipes: Path) -> None:
    """On a desk and on paper the table has its room; on a phone it scrolls."""
    page = opened(browser, recipes, DESK)
    box = page.locator("[aria-labelledby=recipes] .scroll")
    room = "box => box.scrollWidth - box.clientWidth"
    assert "projection=1.224744871391589" in box.inner_text()
    assert box.evaluate(room) <= 0
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 960})
    assert box.evaluate(room) <= 0
    page.emulate_media(media="screen")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert box.evaluate(room) > 0
    box.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())


def luminance(color: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


COLOR = "element => getComputedStyle(element).{}"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_stands_out(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    paper = page.locator("body").evaluate(COLOR.format("backgroundColor"))
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for selector in ("p", "h1", "figcaption", ".note", "td", "dd", "a", "td.is-healthy"):
        ink = page.locator(selector).first.evaluate(COLOR.format("color"))
        assert contrast(ink, paper) >= 4.5, selector


@pytest.mark.parametrize("scheme", SCHEMES)
def test_figures_take_the_ink_of_the_page(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    ink = page.locator("body").evaluate(COLOR.format("color"))
    paper = page.locator("body").evaluate(COLOR.format("backgroundColor"))
    fills = page.locator(".drawing svg text").evaluate_all(
        "texts => [...new Set(texts.map(text => getComputedStyle(text).fill))]"
    )
    assert ink in fills
    for color in set(fills) - {ink}:  # the label of a line
        assert contrast(color, paper) >= 4.5, color
    lines = page.locator(".drawing svg path").evaluate_all(
        "paths => paths.map(path => getComputedStyle(path))"
        ".filter(style => style.stroke != 'none' && style.strokeOpacity == '1')"
        ".map(style => style.stroke)"
    )
    assert len(set(lines)) >= 2
    assert min(contrast(color, paper) for color in set(lines)) > 2.5


def test_every_figure_has_a_name_and_a_description(page: Page) -> None:
    images = page.locator(".scroll[role=img]")
    for image in images.all():
        for attribute in ("aria-labelledby", "aria-describedby"):
            target = image.get_attribute(attribute)
            assert page.locator(f"#{target}").inner_text().strip()
    assert images.count() == 1
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(each => each.tagName)")
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2"}


def test_paper_is_white_and_nothing_is_cut_off(browser: Browser, report: Path) -> None:
    page = opened(browser, report, {"width": 680, "height": 960}, "dark")
    page.emulate_media(media="print")
    body = page.locator("body")
    assert body.evaluate(COLOR.format("backgroundColor")) == "rgb(255, 255, 255)"
    assert body.evaluate(COLOR.format("color")) == "rgb(0, 0, 0)"
    cut = page.locator("figure .scroll").evaluate_all(
        "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth + 1).length"
    )
    assert cut == 0
    assert page.pdf(format="A4").startswith(b"%PDF")
