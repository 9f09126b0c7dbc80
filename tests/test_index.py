"""The index of pages, and pages in notebooks."""

from __future__ import annotations

import os
import shutil
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

import initstats as ist
from initstats.probe import Probe
from initstats.report import Report, write_index
from initstats.report.folder import index_above
from initstats.report.index import entries


@pytest.fixture(scope="module")
def table(toy: ist.Dataset) -> pd.DataFrame:
    grid = ist.Grid(inits=["matched"], activations=["relu", "tanh"], depth=2, seeds=2, samples=20)
    return ist.run_sweep(grid, toy)


@pytest.fixture(scope="module")
def written(
    table: pd.DataFrame, toy: ist.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The pages of a study and of a model."""
    folder = tmp_path_factory.mktemp("written")
    ist.write_report(table, folder / "study", figures=["verdicts"])
    Probe(nn.Sequential(nn.Linear(toy.shape[-1] ** 2, 3))).run(toy.train.x[:8]).report(
        folder / "model"
    )
    return folder


@pytest.fixture
def reports(written: Path, tmp_path: Path) -> Path:
    """A folder with a study, a model's page deeper, and pages that are not listed."""
    shutil.copytree(written / "study", tmp_path / "a study & more")
    for folder in ("models/net", ".cache/page", "a/b/c/d/e"):
        shutil.copytree(written / "model", tmp_path / folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text("<h1>mine</h1>")
    return tmp_path


def test_an_index_links_every_page_of_ours(reports: Path, table: pd.DataFrame) -> None:
    html = write_index(reports).read_text()
    assert [entry.kind for entry in entries(reports)] == ["study", "model"]
    links = [part.partition('"')[0] for part in html.split('<a href="')[1:]]
    assert links == ["a%20study%20%26%20more/index.html", "models/net/index.html"]
    assert 'src="a%20study%20%26%20more/figures/verdicts.png"' in html
    assert "Does the signal survive 2 layers?" in html
    assert "Sequential" in html
    assert "2 pages" in html
    # those below link back, also after they are written anew
    assert "All reports" not in (reports / "models" / "net" / "index.html").read_text()
    again = ist.write_report(table, reports / "a study & more", figures=False)
    assert '<a href="../index.html">All reports</a>' in again.read_text()
    assert write_index(reports).read_text().count("All reports") == 0


def test_an_index_stays_away_from_the_pages_of_others(
    reports: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="holds no page of initstats"):
        write_index(tmp_path / "other")
    (reports / "index.html").write_text("mine")
    with pytest.raises(ValueError, match="is not a page of initstats"):
        write_index(reports)
    assert index_above(reports / "a") == ""
    (reports / "index.html").unlink()
    ist.write_report(table, reports, figures=False)
    with pytest.raises(ValueError, match="is a page of another kind"):
        write_index(reports)


def test_a_page_is_a_path_that_a_notebook_shows(reports: Path) -> None:
    page = Report(reports / "a study & more" / "index.html")
    assert os.fspath(page).endswith("index.html")
    shown = page._repr_html_()
    assert shown is not None
    assert shown.startswith('<iframe title="')
    assert 'sandbox="allow-scripts allow-downloads"' in shown
    source = shown.partition(' srcdoc="')[2].partition('"')[0]
    assert unescape(source) == page.read_text()
    assert Report(page.parent)._repr_html_() is None
    assert Report(reports / "none")._repr_html_() is None
