from __future__ import annotations

import math
import re
import shutil
import xml.etree.ElementTree as ET
from concurrent.futures import Future
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

import initstats as ist
from initstats.plots import FIGURES, Results, of_page
from initstats.plots.bands import ZERO
from initstats.plots.style import FIT, INK, PALETTE
from initstats.processes import LostError
from initstats.report import answer, drawing, study, write_report
from initstats.report import page as page_module
from initstats.report.answer import agreement, best_by_activation, contrast
from initstats.report.drawing import Drawing, Studio, draw
from initstats.report.page import Shown, names
from initstats.report.printed import factor, significant
from initstats.report.record import public_grid
from initstats.report.study import compose
from initstats.store import load_run, load_sessions

EVIL = "<script>alert('x')</script>&\"'"
OURS = """<meta name="generator" content="initstats 0.0.1">
<figcaption id="gradient_by_depth-caption">"""
FORWARD = [
    picture.name
    for picture in of_page("study")
    if picture.name not in ("gradient_by_depth", "statistic_against_parameter")
]

INLINE = [name for name in FORWARD if FIGURES[name].inline]


class Page(HTMLParser):
    """What a page refers to, its ids, its tags and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.hidden = False
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.hidden = tag in ("style", "script")
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "action", "data", "poster"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.text += data


@pytest.fixture(scope="module")
def run(toy: ist.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run that is finished."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    grid = ist.Grid(
        inits=["torch_default", "xavier_normal", "kaiming_normal"],
        activations=["relu", "shifted_relu", "tanh"],
        widths=[12],
        depth=6,
        seeds=3,
    )
    ist.run_sweep(grid, toy, out=folder)
    return folder


@pytest.fixture(scope="module")
def table(run: Path) -> pd.DataFrame:
    return ist.load_table(run)


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's report, elsewhere."""
    return write_report(run, tmp_path_factory.mktemp("out") / "deep" / "down").parent


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog with little to draw, for tests about something else."""
    names = ("verdicts", "gradient_by_depth", "distribution_by_depth")
    monkeypatch.setattr(
        "initstats.report.page.of_page", lambda page: [FIGURES[name] for name in names]
    )


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# files


def test_a_report_is_complete(folder: Path) -> None:
    figures = {f"figures/{name}.{kind}" for name in FORWARD for kind in ("png", "svg")}
    tables = {"table.csv", "table.parquet", "summary.csv", "grid.toml"}
    assert listing(folder) == figures | tables | {"index.html"}


def test_its_tables_are_the_results(folder: Path, run: Path, table: pd.DataFrame) -> None:
    read = pd.read_csv(folder / "table.csv")
    plain = table.astype({name: read[name].dtype for name in read})
    pd.testing.assert_frame_equal(read, plain, check_exact=True)
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "table.parquet")[list(table)], table, check_exact=True
    )
    summary = pd.read_csv(folder / "summary.csv")
    assert summary["verdict"].to_list() == ist.summarize(table)["verdict"].to_list()
    assert (folder / "grid.toml").read_text() == (run / "grid.toml").read_text()


@pytest.mark.parametrize("name", FORWARD)
def test_figures_are_pictures(name: str, folder: Path) -> None:
    with Image.open(folder / "figures" / f"{name}.png") as picture:
        assert picture.width > 800
        assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
        assert len(picture.convert("RGB").getcolors(2**24) or ()) > 20
    root = ET.parse(folder / "figures" / f"{name}.svg").getroot()
    assert root.tag.endswith("svg")
    assert root.get("width")


@pytest.mark.usefixtures("one_figure")
def test_by_default_a_report_joins_its_run(toy: ist.Dataset, tmp_path: Path) -> None:
    grid = ist.Grid(inits=["matched"], activations=["relu"], widths=[5], depth=2, seeds=1)
    ist.run_sweep(grid, toy, out=tmp_path)
    before = (tmp_path / "run.sqlite").read_bytes()
    assert write_report(tmp_path) == tmp_path / "index.html"
    assert (tmp_path / "run.sqlite").read_bytes() == before
    assert "1 of 1 cell" in Page((tmp_path / "index.html").read_text()).text


@pytest.mark.usefixtures("one_figure")
def test_without_pyarrow_there_is_no_parquet(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "find_spec", lambda name: None)
    write_report(table, tmp_path)
    tables = {path for path in listing(tmp_path) if not path.startswith("figures")}
    assert tables == {"index.html", "table.csv", "summary.csv"}


@pytest.mark.usefixtures("one_figure")
def test_an_earlier_report_is_replaced_and_the_rest_left_alone(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "figures").mkdir()
    stale, mine = tmp_path / "figures" / "gradient_by_depth.png", tmp_path / "figures" / "mine.png"
    stale.write_bytes(b"old")
    mine.write_bytes(b"mine")
    (tmp_path / "index.html").write_text(OURS)
    monkeypatch.setattr(study, "find_spec", lambda name: None)
    write_report(table, tmp_path)
    assert not stale.exists()
    assert mine.read_bytes() == b"mine"
    assert (tmp_path / "index.html").read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("one_figure")
def test_a_failure_leaves_the_earlier_report(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text(OURS)

    def fail(*_: object, **__: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("initstats.report.page.Page.html", fail)
    with pytest.raises(ZeroDivisionError):
        write_report(table, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"index.html"}
    assert (tmp_path / "index.html").read_text() == OURS


@pytest.mark.usefixtures("one_figure")
def test_the_page_is_there_before_its_files(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "LONG", 100)
    write_report(table, tmp_path)
    complete = listing(tmp_path)
    assert complete > {"table.csv", "figures/verdicts.svg"}

    def stop(self: Studio) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Studio, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            write_report(table, tmp_path)
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert {link for link in page.links if not link.startswith("#")} == {"summary.csv"}
    assert "explore" in page.ids
    assert listing(tmp_path) == {name for name in complete if not name.startswith("figures")}
    seen: list[set[str]] = []
    write_report(table, tmp_path, ready=lambda path: seen.append(listing(path.parent)))
    assert seen == [{name for name in complete if not name.startswith("figures")}]
    assert listing(tmp_path) == complete


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize("wanted", [False, [], ["verdicts"], ["mean_by_depth"]])
def test_some_files_of_figures_or_none(
    table: pd.DataFrame, tmp_path: Path, wanted: Literal[False] | list[str]
) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "gradient_by_depth.png").write_bytes(b"old")
    (tmp_path / "index.html").write_text(OURS)
    page = Page(write_report(table, tmp_path, figures=wanted).read_text(encoding="utf-8"))
    files = {f"figures/{name}.{end}" for name in wanted or () for end in ("png", "svg")}
    assert {name for name in listing(tmp_path) if name.startswith("figures")} == files
    linked = {link for link in page.links if link.startswith("figures")}
    assert linked == files
    assert sum(name.endswith("-caption") for name in page.ids) == len(INLINE)


def test_a_figure_that_a_page_has_not(table: pd.DataFrame, tmp_path: Path) -> None:
    for name in ("verdict", "training_loss"):
        with pytest.raises(ValueError, match=rf"figure of a study page '{name}': .* verdicts, "):
            write_report(table, tmp_path, figures=[name])
    assert not [*tmp_path.iterdir()]


def test_a_page_of_another_kind_is_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        OURS.replace("\n", '\n<meta name="initstats-page" content="model 12">')
    )
    with pytest.raises(ValueError, match=r"page of another kind \(model, not study\): choose ano"):
        write_report(table, tmp_path)
    assert listing(tmp_path) == {"index.html"}


def test_a_folder_that_cannot_be_written(table: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write the page into .*file/out: Not a directory"):
        write_report(table, tmp_path / "file" / "out")


def test_a_table_needs_a_folder(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a folder"):
        write_report(table)
    with pytest.raises(ValueError, match="baseline: 'relu' is for training studies"):
        write_report(table, tmp_path, baseline="relu")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run's folder"):
        write_report(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# the page


def test_the_page_stands_alone(page: Page, folder: Path) -> None:
    local = {"summary.csv", "table.csv", "grid.toml"}
    beside = {*FORWARD} - {*INLINE}
    local |= {f"figures/{name}.{end}" for name in beside for end in ("png", "svg")}
    assert {link for link in page.links if not link.startswith(("#", "data:"))} == local
    assert not {"link", "iframe", "object"} & set(page.tags)
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|<script[^>]* src=", html)


def test_ids_are_unique_and_every_reference_is_met(page: Page, folder: Path) -> None:
    assert len(set(page.ids)) == len(page.ids)
    html = (folder / "index.html").read_text(encoding="utf-8")
    html = re.sub("<script.*?</script>", "", html, flags=re.DOTALL)
    references = set(re.findall(r'(?:url\(|href=")#([^")]+)', html))
    references |= {
        name for names in re.findall(r'aria-\w+by="([^"]+)"', html) for name in names.split()
    }
    assert references
    assert references <= set(page.ids)


def test_the_page_tells_nothing_of_the_machine(folder: Path, run: Path) -> None:
    html = (folder / "index.html").read_text(encoding="utf-8")
    for path in (folder, run, Path.cwd(), Path.home(), Path(study.__file__).parent):
        assert f"{path}/" not in html
        assert str(path) not in html or str(path) == "/"


def test_the_grid_on_the_page_names_no_folder(run: Path) -> None:
    recorded = load_run(run)
    secret = {"data": "/home/me/digits", "plugins": ["/home/me/mine.py"]}
    grid = public_grid(replace(recorded, config=recorded.config | secret))
    assert "/home/me" not in grid
    assert 'data = "digits"' in grid
    assert "mine.py" in grid


def test_figures_take_the_ink_of_the_page(page: Page, folder: Path) -> None:
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert page.tags.count("svg") == len(INLINE) < len(FORWARD)
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        assert INK not in svg
        assert "currentColor" in svg
        assert "<style" not in svg
        assert "metadata" not in svg
        ET.fromstring(svg)


def test_every_figure_is_titled_captioned_and_described(page: Page) -> None:
    for name in FORWARD:
        assert FIGURES[name].title.replace("'", "’") in page.text
        assert FIGURES[name].caption.replace("'", "’") in page.text
        assert ({name, f"{name}-caption"} <= set(page.ids)) == (name in INLINE)
    assert page.tags.count("h1") == 1
    assert sum(name.endswith("-caption") for name in page.ids) == len(INLINE)


def test_the_page_says_how_it_was_measured(page: Page, run: Path) -> None:
    sessions = load_sessions(run)
    for fact in (
        "toy, 41 of the valid split",
        "mlp of width 12",
        "6 layers",
        "0 to 2",
        "27 of 27 cells",
        *(f"{name} {value}" for name, value in load_run(run).engine.items()),
        str(sessions["torch"].iloc[0]),
        "initstats sweep --config grid.toml",
        'inits = [ "torch_default", "xavier_normal", "kaiming_normal", ]',
    ):
        assert fact in page.text
    assert "Gradient against depth – gradients were not measured" in page.text


def test_the_page_holds_the_whole_summary(page: Page, table: pd.DataFrame) -> None:
    for _, row in ist.summarize(table).iterrows():
        cells = [row["init"], row["activation"], row["verdict"]]
        assert "".join(cells) in page.text.replace(" ", "")
    assert page.tags.count("tr") == (1 + 3) + (1 + 3) + (1 + 9)  # the map, the best, all


def test_parameters_that_vary_are_columns(table: pd.DataFrame) -> None:
    sigmas = {"torch_default": 0.5, "xavier_normal": 1.0, "kaiming_normal": math.nan}
    spellings = {"torch_default": "field(b=1,sigma=0.5)", "xavier_normal": "field(b=1)"}
    varied = table.assign(
        init_sigma=table["init"].astype(str).map(sigmas),
        init=table["init"].cat.rename_categories(spellings),
    )
    page = compose(Results.of(varied))
    columns, rows = page.values["summary"]
    assert [column.title for column in columns][:4] == [
        "init",
        "activation",
        "sigma (init)",
        "verdict",
    ]
    names = ["field(b=1,sigma=0.5)", "field(b=1)", "kaiming_normal"]  # as they can be typed again
    assert [(row[0], row[2]) for row in rows[::3]] == list(
        zip(names, ["0.5", "1", "—"], strict=True)
    )
    plain = compose(Results.of(table)).values["summary"]
    assert [row[3:] for row in rows] == [row[2:] for row in plain.rows]


@pytest.mark.usefixtures("one_figure")
def test_rows_are_left_out_where_they_are_not_wanted(table: pd.DataFrame, tmp_path: Path) -> None:
    page = Page(write_report(table, tmp_path, rows=False).read_text(encoding="utf-8"))
    assert [link for link in page.links if link.endswith("csv")] == ["summary.csv"]
    assert not list(tmp_path.glob("table.*"))


def test_names_are_escaped(table: pd.DataFrame, tmp_path: Path) -> None:
    evil = table.astype({"activation": str, "init": str, "dataset": str}).replace(
        {"activation": {"tanh": EVIL}, "init": {"kaiming_normal": EVIL}, "dataset": {"toy": EVIL}}
    )
    page = write_report(evil, tmp_path, figures=["verdicts", "std_by_depth"])
    html = page.read_text(encoding="utf-8")
    assert html.count("<script") == 3  # ours: what data mean, data, and what shows them
    assert "alert('x')</script>" not in html
    assert Page(html).text.count(EVIL) >= 4


@pytest.mark.usefixtures("one_figure")
def test_a_bare_table_says_what_needs_a_run(table: pd.DataFrame, tmp_path: Path) -> None:
    page = Page(write_report(table, tmp_path).read_text(encoding="utf-8"))
    assert "Distributions by depth – it needs the histograms that a run’s" in page.text
    assert "Repeat this study" not in page.text
    assert not (tmp_path / "grid.toml").exists()
    assert not (tmp_path / "figures" / "distribution_by_depth.png").exists()


def test_gradients_are_shown_where_measured(toy: ist.Dataset, tmp_path: Path) -> None:
    grid = ist.Grid(
        inits=["matched"], activations=["tanh"], widths=[4, 8], depth=3, seeds=2, backward=True
    )
    written = write_report(ist.run_sweep(grid, toy), tmp_path, figures=["gradient_by_depth"])
    page = Page(written.read_text(encoding="utf-8"))
    assert (tmp_path / "figures" / "gradient_by_depth.png").exists()
    assert "gradient growth" in page.text
    assert "width 8" in page.text


@pytest.mark.usefixtures("one_figure")
def test_an_unfinished_run_says_so(toy: ist.Dataset, tmp_path: Path) -> None:
    grid = ist.Grid(inits=["matched"], activations=["tanh"], widths=[4], depth=2, seeds=5)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ist.run_sweep(grid, toy, out=tmp_path, progress=stop)
    assert "2 of 5 cells" in Page(write_report(tmp_path).read_text()).text


def test_distributions_hold_every_binned_entry_of_the_run(run: Path) -> None:
    bands = Results.of(run).bands
    bins = ist.load_histograms(run, tensors="activation", directions="forward")
    totals = bins.astype({"init": str, "activation": str}).groupby(
        ["network", "init", "activation", "width", "layer"], observed=True
    )
    counts = totals["count"].sum()
    zeros = bins[(bins["low"] == 0) & (bins["high"] == 0)]["count"].sum()
    assert bands is not None
    assert len(bands) == 9
    for key, banded in bands.items():
        assert banded.sum(axis=1).tolist() == counts.loc[key].to_list()
    assert sum(banded[:, ZERO].sum() for banded in bands.values()) == zeros > 0


# drawing


def shown(name: str, table: pd.DataFrame) -> Shown:
    return Shown(name, FIGURES[name], Results.of(table))


def test_other_processes_draw_the_same(table: pd.DataFrame, tmp_path: Path) -> None:
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        tasks = [shown(name, table) for name in ("verdicts", "mean_by_depth")]
        with Studio(tmp_path / str(workers), workers) as studio:
            studio.begin(tasks)
            for _, future in studio._there if workers == 2 else ():
                future.result()  # nothing is taken back
            studio.finish()
        assert ["drawing" in vars(task) for task in tasks] == [workers == 1] * 2
    files = listing(tmp_path / "1")
    assert len(files) == 4
    assert files == listing(tmp_path / "2")
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize("fate", ["never begins", "is killed", "fails"])
def test_this_process_draws_what_another_does_not(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fate: str
) -> None:
    class Processes:
        killed = False

        def submit(self, function: object, *args: object) -> Future[None]:
            future: Future[None] = Future()
            if fate != "never begins":
                failed = LostError if fate == "is killed" else ChildProcessError
                future.set_exception(failed("it was so"))
            return future

        def kill(self) -> None:
            self.killed = True

    processes = Processes()
    monkeypatch.setattr(drawing, "Processes", lambda *_: processes)
    with Studio(tmp_path, 2) as studio:
        studio.begin([shown(name, table) for name in ("verdicts", "dead_units")])
        studio.finish()
    assert processes.killed
    assert listing(tmp_path) == {
        f"{name}.{kind}" for name in ("verdicts", "dead_units") for kind in ("png", "svg")
    }


def test_drawings_are_the_same_every_time(table: pd.DataFrame) -> None:
    results = Results.of(table)
    assert draw("std_by_depth", results).svg == draw("std_by_depth", results).svg


def test_words_dots_and_lines_take_the_colours_of_the_page() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o-", color=PALETTE[3])
    axes.text(0.5, 0.5, "word", color=FIT)
    axes.bar([0.5], [1], color=PALETTE[1])
    root = ET.fromstring(Drawing("colourful", figure).inline)
    styles = dict.fromkeys(("use", "text", "path"), "")
    for element in root.iter():
        kind = element.tag.rpartition("}")[2]
        styles[kind] = styles.get(kind, "") + element.get("style", "")
    assert f"fill: var(--line-3, {PALETTE[3]})" in styles["use"]
    assert f"stroke: var(--line-3, {PALETTE[3]})" in styles["path"]
    assert f"fill: var(--accent, {FIT})" in styles["text"]
    assert f"fill: {PALETTE[1]}" in styles["path"]  # what is written on it keeps its contrast


# words


def made_up(rows: list[tuple[str, str, str, float, float]], depth: int = 20) -> Results:
    """Results with a summary of init, activation, verdict, growth, std."""
    columns = ["init", "activation", "verdict", "growth", "std"]
    summary = pd.DataFrame(rows, columns=columns).assign(
        network="mlp",
        width=50,
        depth=depth,
        seeds=10,
        agreement=1.0,
        mean=0,
        dead=0,
        correlation=0,
        tied="",
        gradient_by="measured",
        gradient_growth=1.0,
    )
    summary = summary.assign(growth_low=summary["growth"] - 0.01, growth_high=summary["growth"])
    names = {name: list(summary[name].unique()) for name in ("init", "activation")}
    summary = summary.astype({name: pd.CategoricalDtype(order) for name, order in names.items()})
    keys = ["network", "init", "activation", "width", "seed", "layer", "tensor", "direction"]
    return Results(pd.DataFrame(columns=keys), summary)


def said(results: Results) -> str:
    """The answer of the page, as text; the first sentence is the lead's."""
    html = compose(results).html()
    return Page(html.partition('<p class="lead">')[2].partition("</section>")[0]).text


def test_the_answer_names_the_best_and_the_worst() -> None:
    results = made_up(
        [
            ("a", "relu", "vanishes", 0.7, 8e-4),
            ("a", "tanh", "vanishes", 0.5, 1e-6),
            ("b", "relu", "healthy", 0.97, 0.6),
            ("b", "tanh", "healthy", 0.99, 0.6),
            ("c", "relu", "healthy", 1.01, 0.8),
            ("c", "tanh", "collapses", 0.9, 0.5),
        ]
    )
    words = said(results)
    for sentence in (
        "3 of 6 combinations of init and activation are healthy through 20 layers: the signal, the "
        "gradient and the differences between inputs survive.",
        "b is healthy with 2 of 2 activations, c with 1; a with none.",
        "With c, each layer of relu multiplies the rms of the pre-activations by 1.010 (95% "
        "interval 1.000 to 1.010): over the 19 steps from the first layer to the last, by 1.2. "
        "With a the factor is 0.700; over 19 steps, 0.0011.",
        "in 1 combination the last layer’s is between 0.1 and 10, and yet different inputs give",
    ):
        assert sentence in words
    assert "PyTorch’s default" not in words
    assert "No init works" not in words
    best = best_by_activation(results).set_index("activation")
    assert best["kept"].to_dict() == {"relu": ["c", "b"], "tanh": ["b"]}
    assert best["lost"].to_dict() == {
        "relu": {"vanishes": 1},
        "tanh": {"vanishes": 1, "collapses": 1},
    }
    assert best[["growth", "std"]].to_numpy().tolist() == [[1.01, 0.8], [0.99, 0.6]]


@pytest.mark.parametrize("by", ["measured", "theory"])
def test_where_norms_take_the_size_away_the_answer_tells_of_the_gradient(by: str) -> None:
    rows = [
        ("a", "relu", "gradient explodes", 1.01, 0.8),
        ("b", "relu", "healthy", 1.5, 0.6),
        ("c", "relu", "healthy", 1.0, 0.6),
        ("d", "relu", "explodes", 1.4, 600.0),
    ]
    results = made_up(rows)
    growth = {"a": 1.4, "b": 1.02, "c": 1.1, "d": 1.0}
    summary = results.summary.assign(
        gradient_by=by, gradient_growth=results.summary["init"].astype(str).map(growth)
    )
    normed = results.table.reindex([0]).assign(
        network="mlp", init="a", activation="relu", tensor="normed", direction="forward"
    )
    facts = contrast(replace(results, summary=summary, table=normed))
    assert facts is not None
    assert (facts["by"], facts["what"]) == ("gradient_growth", "norm of the gradient")
    assert (facts["best"]["init"], facts["other"]["init"]) == ("b", "a")
    words = answered(facts, results)
    told = " (by theory)" if by == "theory" else ""
    assert words == (
        "With b, each layer of relu multiplies the norm of the gradient by 1.020: over the 19 "
        f"steps from the last layer back to the first, by 1.5{told}. With a the factor is 1.400; "
        "over 19 steps, 598."
    )


def test_without_failing_gradients_norms_leave_nothing_to_contrast() -> None:
    rows = [("a", "relu", "vanishes", 0.7, 0.1), ("b", "relu", "healthy", 1.0, 0.6)]
    results = made_up(rows)
    assert contrast(results)
    normed = results.table.reindex([0]).assign(network="mlp", tensor="normed", direction="forward")
    assert contrast(replace(results, table=normed)) is None


def answered(facts: dict[str, Any], results: Results) -> str:
    """The sentence that the page makes of a contrast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer, "contrast", lambda _: facts)
        words = said(results)
    return re.search(r"With \w, each layer.*? over \d+ steps, [\d.]+\.", words)[0]  # type: ignore[index]


def test_families_of_several_are_not_called_by_the_name_of_one() -> None:
    inits = ["mean_field(sigma_w=2)", "mean_field", "normal(std=1)"]
    rows = [(init, "relu", "healthy", 1.0, 0.6) for init in inits]
    found = answer.counted(made_up(rows))
    assert found["init"].tolist() == ["mean_field(…), 2 of them", "normal(std=1)"]
    assert found["combinations"].tolist() == [2, 1]


def test_the_answer_admits_defeat() -> None:
    results = made_up(
        [
            ("a", "relu", "vanishes", 0.7, 0.0),
            ("b", "relu", "overflows", float("inf"), 1.0),
            ("a", "tanh", "dead", 0.7, 0.0),
            ("b", "tanh", "dead", 0.7, 1.0),
        ]
    )
    words = said(results)
    assert "None of 4 combinations of init and activation is healthy" in words
    assert "No init is healthy with any activation." in words
    assert (
        "No init works for relu: it vanishes with 1 of 2; nor for tanh: its units die with all 2."
    ) in words


def test_leaders_share_the_lead() -> None:
    results = made_up([(init, "tanh", "healthy", 1.0, 1.0) for init in ("a", "b", "c")])
    assert "a, b and c are healthy with this activation." in said(results)


def test_what_was_fitted_says_so() -> None:
    results = made_up([("a", "tanh", "shifted", 1.0, 1.0), ("lsuv", "tanh", "healthy", 1.0, 1.0)])
    words = said(results)
    assert "lsuv, which is fitted to data, is healthy with this activation" in words
    assert "lsuv is fitted to data: the drawn weights are changed" in words
    own = replace(results, fitted=["a", "lsuv"])
    assert "a and lsuv are fitted to data" in said(own)
    assert "fitted" not in said(replace(results, fitted=[]))


def test_whose_gradients_were_judged() -> None:
    rows = [("a", name, "healthy", 1.0, 1.0) for name in ("relu", "tanh", "gelu")]
    results = made_up(rows)

    def by(*sources: str) -> str:
        return said(replace(results, summary=results.summary.assign(gradient_by=list(sources))))

    assert "were not measured" not in by("measured", "measured", "measured")
    nothing = by("nothing", "nothing", "nothing")
    assert "Gradients were not measured: what is called healthy here may have a gradient" in nothing
    assert "the signal and the differences between inputs survive" in nothing
    told = by("theory", "theory", "nothing")
    assert (
        "for 2 combinations theory judges them (the product of χ₁ over the layers); for 1" in told
    )
    assert "For 1 combination gradients were neither measured nor" in by(
        "measured", "measured", "nothing"
    )


def test_ties_are_told() -> None:
    rows = [("a", name, "healthy", 1.0, 1.0) for name in ("relu", "tanh", "gelu")]
    results = made_up(rows)
    assert "tie" not in said(results)
    tied = results.summary.assign(tied=["", "vanishes", "dead"], agreement=0.5)
    html = compose(replace(results, summary=tied)).html()
    assert "In 2 combinations the seeds tie between two or more verdicts" in Page(html).text
    assert "5 of 10, tie: vanishes" in Page(html).text


def test_the_count_of_the_healthy_is_told_by_other_limits(table: pd.DataFrame) -> None:
    counts = {
        limit: int(
            (
                ist.summarize(table, factor=limit, gradient_factor=limit)["verdict"] == "healthy"
            ).sum()
        )
        for limit in (3, 10, 30)
    }
    assert counts[3] < counts[30]
    words = said(Results.of(table))
    assert f"{counts[3]} of 9 are healthy; with 30, {counts[30]}." in words
    healthy = table[(table["init"] == "kaiming_normal") & (table["activation"] == "tanh")]
    assert "The count does not depend on the limits" in said(Results.of(healthy))


def test_long_lists_of_names_are_cut() -> None:
    assert names("abc") == "<code>a</code>, <code>b</code> and <code>c</code>"
    assert names("abcdefgh").endswith("<code>e</code> and 3 more")
    assert names("<") == "<code>&lt;</code>"
    assert names([]) == "none"


def test_a_single_configuration_has_little_to_compare() -> None:
    results = made_up([("a", "tanh", "healthy", 1.0, 1.0)], depth=1)
    assert said(results).endswith(
        "1 of 1 combination of init and activation is healthy through one layer: the signal, the "
        "gradient and the differences between inputs survive."
    )


def test_the_lesson_is_told_from_the_table(table: pd.DataFrame) -> None:
    rows = table[
        (table["init"] == "kaiming_normal")
        & (table["tensor"] == "activation")
        & (table["activation"] == "shifted_relu")
    ]
    means = rows.groupby("layer")["mean"].mean()
    first, last = (f"{means[layer]:.2f}".replace("-", "−") for layer in (1, 6))
    words = said(Results.of(table))
    assert f"to {first} with kaiming_normal; at layer 6 it is {last}, " in words
    expected = "farther from" if abs(means[6]) > abs(means[1]) else "nearer to"
    assert f"{expected} zero than at layer 1." in words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1.0"),
        (0.0123, "0.012"),
        (12345.6, "12346"),
        (1.26e5, "1.3×10⁵"),
        (-9.96e-5, "−1.0×10⁻⁴"),
        (float("-inf"), "−∞"),
        (float("nan"), "—"),
    ],
)
def test_numbers_in_print(value: float, text: str) -> None:
    assert significant(value) == text


def test_factors_in_print() -> None:
    assert [factor(x) for x in (1.0, 0.9996, 4.861904, 123.4, 1e-7, float("nan"))] == [
        "1.000",
        "1.000",
        "4.862",
        "123",
        "1.00×10⁻⁷",
        "—",
    ]


# theory


def predicted(table: pd.DataFrame) -> pd.DataFrame:
    """Rows as `predict` gives them, scored: every fourth is far off, every third is in doubt."""
    rows = table[table["seed"] == 0].drop(columns="seed").reset_index(drop=True)
    number = rows.index.to_numpy()
    notes = [f"beta = {1 + n / 100:.2f} is not small: so" if n % 3 == 0 else "" for n in number]
    return rows.assign(
        second_moment_spread=0.1, note=notes, z=np.where(number % 4, 0.5, -7.0), seeds=3
    )


def test_the_page_counts_what_agrees_with_theory(table: pd.DataFrame) -> None:
    rows = predicted(table)
    test = agreement(Results.of(table, predicted=rows))
    assert test is not None
    applies = rows[rows["note"] == ""]
    assert test["rows"] == len(applies)
    assert test["three"] == (applies["z"].abs() < 3).mean()
    last = 1 + (len(rows) - 1) // 3 * 3 / 100
    assert test["doubts"] == [(f"beta = 1.00 to {last:.2f} is not small: so", 36, 9)]
    words = theory_said(Results.of(table, predicted=rows))
    assert f"{test['three']:.1%} of {len(applies):,} second moments lie within three" in words
    exact = 1 - 2 * stats.t(2).sf(3)
    assert f"Student’s t with 3 seeds would leave {exact:.1%} there" in words
    assert "is not small: so (36 rows of 9 combinations)" in words


def theory_said(results: Results) -> str:
    html = compose(results).html()
    return Page(html.partition('<h2 id="theory">')[2].partition("</section>")[0]).text


def test_theory_without_a_row_to_count(table: pd.DataFrame) -> None:
    lost = predicted(table).assign(note="lost", z=np.nan)
    assert "applies to no second moment" in theory_said(Results.of(table, predicted=lost))
    assert theory_said(Results.of(table)) == ""


@pytest.mark.usefixtures("one_figure")
def test_theory_stays_with_its_run(run: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    rows = predicted(table).assign(note=lambda frame: frame["note"] + "<i>")
    ist.store.save_predictions(folder, rows)
    read = ist.store.load_predictions(folder)
    assert read is not None
    plain = rows.astype({name: read[name].dtype for name in read})
    pd.testing.assert_frame_equal(read, plain, check_exact=True)
    write_report(folder)
    html = (folder / "index.html").read_text()
    assert "Measured against theory" in html
    assert "&lt;i&gt;" in html
    assert ist.load_table(folder).equals(table)
    # as `predict` gives them
    ist.store.save_predictions(folder, rows.drop(columns=["z", "seeds"]))
    assert (
        "Predictions are drawn, but they were not compared"
        in Page(write_report(folder).read_text()).text
    )


@pytest.mark.usefixtures("one_figure")
def test_predictions_that_were_not_compared_are_drawn(
    run: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    ist.store.save_predictions(folder, predicted(table).drop(columns=["z", "seeds"]))
    write_report(folder)
    assert "Predictions are drawn" in (folder / "index.html").read_text()


def test_predictions_belong_to_a_run(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run's folder"):
        ist.store.save_predictions(tmp_path, predicted(table))
    assert not list(tmp_path.iterdir())
