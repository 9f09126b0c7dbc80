from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from jinja2 import Environment
from matplotlib.figure import Figure
from torch import nn

import initstats as ist
from initstats.foundations import Evidence, measure, timings, write_lesson
from initstats.plots import FIGURES, Trained, register_figure
from initstats.probe import Probe
from initstats.report.folder import claim
from initstats.report.model import write_model_report
from initstats.report.page import LOADER, edition
from initstats.report.theory import write_theory
from initstats.report.training import write_training_report
from initstats.theory.diagram import diagram

ROOT = Path(__file__).parents[1]
GALLERY = sorted((ROOT / "reports" / "gallery").rglob("index.html"))
KINDS = ["study", "model", "theory", "lesson", "training", "comparison"]
EARLIER = """<!doctype html><head><meta name="generator" content="initstats 0.0.1"></head>
<figcaption id="dropped_relu_a=0.2_-caption">old</figcaption>"""
STALE = ["dropped_relu_a=0.2_.png", "dropped_relu_a=0.2_.svg"]
"""The pictures of that page."""


@pytest.fixture(scope="module")
def writers(
    toy: ist.Dataset, training_study: Callable[..., dict[str, Any]]
) -> dict[str, Callable[[Path], Path]]:
    """What writes a page of each kind into a folder."""
    names: dict[str, Any] = {"activations": ["relu", "elu"], "inits": ["matched"], "seeds": 3}
    trained = Trained(**training_study(**names, statistics=False))
    grid = ist.Grid(inits=["matched"], activations=["relu"], widths=[5], depth=2, seeds=2)
    probe = Probe(nn.Sequential(nn.Linear(4, 4), nn.Tanh())).run(torch.ones(20, 4))
    read = probe.table(), probe.histograms(), probe.missed()
    phases = diagram("identity")
    with pytest.MonkeyPatch.context() as patch:
        quick = partial(timings, samples=500, rounds=2)
        patch.setattr("initstats.foundations.evidence.timings", quick)
        evidence: Evidence = measure(seeds=20, workers=1)
    table = ist.run_sweep(grid, toy)
    return {
        "study": lambda folder: ist.write_report(table, folder),
        "model": lambda folder: write_model_report(folder, *read),
        "theory": lambda folder: write_theory(folder, [phases]),
        "lesson": lambda folder: write_lesson(folder, evidence),
        "training": lambda folder: write_training_report(trained, folder),
        "comparison": lambda folder: ist.write_report(
            [table, table.assign(std=2 * table["std"])], folder
        ),
    }


@pytest.fixture(scope="module")
def pages(
    writers: dict[str, Callable[[Path], Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A page of each kind, in the place of an earlier one."""
    folder = tmp_path_factory.mktemp("pages")
    for kind in writers:
        (figures := folder / kind / "deep" / "figures").mkdir(parents=True)
        (figures.parent / "index.html").write_text(EARLIER)
        for name in (*STALE, "mine.png"):
            (figures / name).write_bytes(b"picture")
    return {kind: write(folder / kind / "deep") for kind, write in writers.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_frame(kind: str, pages: dict[str, Path]) -> None:
    html = pages[kind].read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert f'<meta name="generator" content="initstats {ist.__version__}">' in html
    assert f'<meta name="initstats-page" content="{edition(kind)}">' in html
    assert html.count("<h1>") == html.count("</main>") == html.count("<footer>") == 1
    assert "prefers-color-scheme: dark" in html
    assert "{{" not in html
    assert "{%" not in html
    assert not re.search(r'(?:src|href)="(?:https?:)?//|<script[^>]* src=|<link|@import', html)
    html = re.sub("<script.*?</script>", "", html, flags=re.DOTALL)
    ids = re.findall(r'<\w+[^>]* id="([^"]+)"', html)
    assert len(set(ids)) == len(ids)
    named = {name for text in re.findall(r'aria-\w+by="([^"]+)"', html) for name in text.split()}
    assert named | set(re.findall(r'(?:url\(|href=")#([^")]+)', html)) <= set(ids)
    assert len(re.findall(r"<table>", html)) == len(re.findall(r'role="region"', html))


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_those_of_the_page(kind: str, pages: dict[str, Path]) -> None:
    folder = pages[kind].parent
    files = {path.name for path in (folder / "figures").iterdir()} - {"mine.png"}
    assert files == claim(folder) != set()


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_page_goes_with_its_pictures(kind: str, pages: dict[str, Path]) -> None:
    page = pages[kind]
    assert "dropped_relu" not in page.read_text(encoding="utf-8")
    pictures = {path.name for path in (page.parent / "figures").iterdir()}
    assert pictures & {*STALE, "mine.png"} == {"mine.png"}
    assert not [path for path in page.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", KINDS)
def test_somebody_elses_page_is_refused(
    kind: str, writers: dict[str, Callable[[Path], Path]], tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text('<meta name="generator" content="initstats-fan 1">')
    with pytest.raises(ValueError, match=r"is not a page of initstats: choose another folder"):
        writers[kind](tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_page_that_cannot_be_moved_leaves_the_earlier_one(
    kind: str,
    writers: dict[str, Callable[[Path], Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "index.html").write_text(EARLIER)
    moved: list[str] = []
    move = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "index.html":
            raise OSError(28, "No space left on device")
        moved.append(target.name)
        return move(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match=r"cannot write the page into .*: No space left on device"):
        writers[kind](tmp_path)
    assert moved or kind == "theory"  # which has no tables
    assert (tmp_path / "index.html").read_text() == EARLIER
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_activations_of_one_name_have_pictures_of_their_own(tmp_path: Path) -> None:
    one = diagram("identity")
    page = write_theory(tmp_path, [replace(one, name="<lambda>"), replace(one, name="_lambda_")])
    assert len(list((tmp_path / "figures").iterdir())) == 8
    ids = re.findall(r'<\w+[^>]* id="([^"]+)"', page.read_text())
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_links_lead_to_files_beside_the_page(kind: str, pages: dict[str, Path]) -> None:
    page = pages[kind]
    links = set(re.findall(r'href="([^#":]+)"', page.read_text()))
    assert all((page.parent / link).is_file() for link in links)
    assert kind == "theory" or links


@pytest.mark.parametrize("page", GALLERY, ids=lambda page: page.parent.name)
def test_published_pages_link_to_what_is_published(page: Path) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "."]
    gallery = ROOT / "reports" / "gallery"
    listing = subprocess.run(command, capture_output=True, text=True, cwd=gallery)
    if listing.returncode:
        pytest.skip("not a git checkout: what is published is not known")
    html = re.sub("<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
    links = {unquote(link) for link in re.findall(r'(?:href|src)="([^#":]+)"', html)}
    published = {gallery / name for name in listing.stdout.splitlines()}
    assert {(page.parent / link).resolve() for link in links} <= published


@pytest.mark.parametrize("page", GALLERY, ids=lambda page: page.parent.name)
def test_published_pages_are_what_todays_code_writes(page: Path) -> None:
    """A page that fails here is published anew, from the repository's root.

    foundations: `initstats foundations --out reports/gallery/foundations`;
    mnist: `initstats sweep`, and then in Python
    `initstats.write_report("reports/mnist", "reports/gallery/mnist", rows=False)`;
    bench: `initstats bench --out reports/gallery/bench`;
    architectures: `initstats architectures --out reports/gallery/architectures`;
    training: `initstats train` with the `train.toml` of each, and then as `mnist`;
    gallery: `initstats index reports/gallery`, after the others.
    """
    found = re.search(r'<meta name="initstats-page" content="((\w+) \w+)">', page.read_text())
    assert found
    assert found[1] == edition(found[2])


def test_an_edition_changes_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {kind: edition(kind) for kind in KINDS}
    assert before == {kind: edition(kind) for kind in KINDS}

    @register_figure(title="Mine", page="theory", data=lambda given: given)
    def mine(frame: object) -> Figure:
        """What to see."""
        return Figure()

    try:
        assert {kind for kind in KINDS if edition(kind) != before[kind]} == {"theory"}
    finally:
        FIGURES.remove("mine")
    read = LOADER.get_source

    def changed(environment: Environment, name: str) -> tuple[str, None, None]:
        source = read(environment, name)[0]
        return source + "/**/" if name == "frame.css" else source, None, None

    monkeypatch.setattr(LOADER, "get_source", changed)
    assert all(edition(kind) != before[kind] for kind in KINDS)
