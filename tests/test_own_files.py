"""The user's own files: what is in a folder already, and what lies where a command is typed."""

from __future__ import annotations

import colorsys
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import initstats as ist
from initstats import registry
from initstats.drafts import write_whole
from initstats.inits import INITS
from initstats.registry.entry import import_module
from initstats.report import write_report
from initstats.report.folder import claim, drafted
from initstats.store import Run, Store
from initstats.sweep import load_plugins

RUN = Run(
    config={"inits": ["zeros"], "seeds": [0]},
    settings={"dataset": "toy"},
    engine={},
    keys={"init": "text", "seed": "integer"},
    places={"layer": "integer"},
    statistics={"mean": False},
    bins=([], []),
)
LONGER = replace(RUN, config=RUN.config | {"seeds": [0, 1]})
MINE = "# my study\nseeds = 1 # one is enough\n"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry.entry, "_searched", set())
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if "own_" in name:
            del sys.modules[name]


def begin(folder: Path, run: Run = RUN) -> None:
    Store.open(folder, run, {}).close()


# the configuration


def test_a_grid_of_ones_own_stays(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(MINE)
    begin(tmp_path)
    assert (tmp_path / "grid.toml").read_text() == MINE
    assert tomllib.loads((tmp_path / "run.toml").read_text()) == {"inits": ["zeros"], "seeds": 1}
    begin(tmp_path, LONGER)
    assert (tmp_path / "grid.toml").read_text() == MINE
    assert tomllib.loads((tmp_path / "run.toml").read_text())["seeds"] == 2


def test_a_grid_that_was_edited_stays(tmp_path: Path) -> None:
    begin(tmp_path)
    edited = "# why so few\n" + (tmp_path / "grid.toml").read_text()
    (tmp_path / "grid.toml").write_text(edited)
    begin(tmp_path, LONGER)
    assert (tmp_path / "grid.toml").read_text() == edited
    assert tomllib.loads((tmp_path / "run.toml").read_text())["seeds"] == 2


def test_a_grid_of_ours_is_kept_up_to_date(tmp_path: Path) -> None:
    begin(tmp_path)
    begin(tmp_path, LONGER)
    assert tomllib.loads((tmp_path / "grid.toml").read_text())["seeds"] == 2
    assert not (tmp_path / "run.toml").exists()
    assert (tmp_path / "grid.toml").stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    folder, mine = tmp_path / "run", tmp_path / "mine"
    mine.write_text(MINE)
    folder.mkdir()
    for name in ("grid.toml", "grid.new", ".run.toml.draft", ".grid.toml.draft"):
        (folder / name).symlink_to(mine)
    begin(folder)
    assert mine.read_text() == MINE
    assert (folder / "grid.toml").is_symlink()
    assert (folder / "run.toml").exists()


@pytest.mark.parametrize("name", ["grid.toml", "index.html", "figures", "own.py"])
def test_a_pipe_is_never_waited_for(table: pd.DataFrame, tmp_path: Path, name: str) -> None:
    """Nobody writes into these pipes: to open one for reading takes for ever."""
    os.mkfifo(tmp_path / name)
    if name == "grid.toml":
        begin(tmp_path)
        assert (tmp_path / "run.toml").exists()
    elif name == "own.py":
        with pytest.raises(ImportError, match="is no file but"):
            import_module(str(tmp_path / name))
    else:
        with pytest.raises(ValueError, match=rf"{name} is "):
            write_report(table, tmp_path)
    assert (tmp_path / name).is_fifo()


@pytest.mark.parametrize("link", [False, True])
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, link: bool) -> None:
    file, named = tmp_path / "found.json", tmp_path / "link" / "found.json"
    file.write_text("before")
    file.chmod(0o640)
    named.parent.mkdir()
    named.symlink_to(file)
    with pytest.raises(UnicodeEncodeError):  # half of it would be there
        write_whole(named if link else file, "a" * 2**20 + "\ud800")
    assert file.read_text() == "before"
    write_whole(named if link else file, "after")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("after", 0o640)
    assert named.is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["found.json", "found.json", "link"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# the page


@pytest.fixture(scope="module")
def table(toy: ist.Dataset) -> pd.DataFrame:
    grid = ist.Grid(inits=["matched"], activations=["relu"], widths=[5], depth=2, seeds=2)
    return ist.run_sweep(grid, toy)


@pytest.mark.parametrize("name", ["table.csv", "summary.csv", "figures/verdicts.png"])
def test_a_file_of_ones_own_is_not_replaced(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    monkeypatch.setattr("initstats.report.study.compose", None)  # it is not begun
    with pytest.raises(ValueError, match=rf"{name} is of no earlier page .* or move it"):
        write_report(table, tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")] == [name]


def write(folder: Path, *, fail: bool = False) -> None:
    """A page with a table and a picture."""
    with drafted(folder) as draft:
        (draft / "figures").mkdir()
        (draft / "figures" / "one.png").write_text("drawn")
        (draft / "table.csv").write_text("measured")
        page = '<meta name="generator" content="initstats 1"><figcaption id="one-caption">'
        (draft / "index.html").write_text(page + "<!-- beside this page: table.csv -->")
        if fail:
            raise ZeroDivisionError


def test_files_of_an_earlier_page_are_replaced_and_no_others(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path)
    for name in ("table.csv", "figures/one.png"):
        claim(tmp_path, [name])
    (tmp_path / "notes.csv").write_text("mine")
    with pytest.raises(ValueError, match="notes.csv is of no earlier page"):
        claim(tmp_path, ["notes.csv"])
    (tmp_path / "index.html").unlink()
    with pytest.raises(ValueError, match="is of no earlier page"):
        write(tmp_path)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_while_files_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    move = Path.replace

    def stopped(self: Path, target: Path) -> Path:
        if target.name == "index.html":
            raise stop
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises((KeyboardInterrupt, OSError)):
            write(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["figures"]
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, fail=True)
    write(tmp_path)


def test_a_death_while_files_are_moved(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / ".draft-dead").mkdir()
    (tmp_path / "index.html").rename(tmp_path / ".draft-dead" / "index.html")
    write(tmp_path)
    assert (tmp_path / "index.html").exists()


# the folder where a command is typed


def test_the_working_directory_is_searched_for_a_plugin_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_plugin.py").write_text("here = True")
    load_plugins(["json"])
    assert str(tmp_path) not in sys.path
    assert load_plugins(["own_plugin"])[0].here
    assert str(tmp_path) in sys.path


@pytest.mark.parametrize("command", [["-c", "from initstats.cli import main; main()"], ["-m"]])
def test_files_beside_a_command_are_not_run(tmp_path: Path, command: list[str]) -> None:
    for name in ("dill", "tqdm", "typer", "own"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('ran')")
    if command == ["-c", command[-1]]:
        command = [command[0], f"import sys; sys.path.remove(''); {command[1]}"]
    else:
        command = ["-m", "initstats"]
    environment = os.environ | {"PYTHONPATH": str(Path(ist.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, *command, "--version"],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"initstats {ist.__version__}\n", "")


def test_a_plugin_named_like_a_loaded_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "colorsys.py").write_text("mine = True")
    with pytest.raises(ValueError, match=r"'colorsys' is .*, and not the colorsys.py here: name"):
        load_plugins(["colorsys"])
    assert load_plugins(["colorsys.py"])[0].mine
    (tmp_path / "colorsys.py").unlink()
    assert load_plugins(["colorsys"]) == [colorsys]


@pytest.mark.parametrize("way", ["import own_near", "from own_near import factor"])
def test_two_plugins_with_neighbours_of_one_name(tmp_path: Path, way: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own_near.py").write_text(f"def factor(): return {name!r}")
        (tmp_path / name / "own_plugin.py").write_text(way)
    first, second = (str(tmp_path / name / "own_plugin.py") for name in ("one", "two"))
    load_plugins([first])
    with pytest.raises(ValueError, match=r"imports 'own_near', which is .*one/own_near.py already"):
        load_plugins([second])
    (tmp_path / "two" / "own_near.py").unlink()
    load_plugins([second])  # which shares it on purpose


# who goes elsewhere


def test_an_init_that_goes_elsewhere(
    toy: ist.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def wandering(weight: torch.Tensor, *, generator: torch.Generator) -> None:
        """Ones, and a walk."""
        os.chdir("/")
        weight.fill_(1)

    ist.register_init()(wandering)
    try:
        grid = ist.Grid(
            inits=["wandering", "zeros"], activations=["relu"], widths=[5], depth=2, seeds=2
        )
        table = ist.run_sweep(grid, toy, out="here")
    finally:
        INITS.remove("wandering")
    assert Path.cwd() == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == {"here"}
    assert ist.load_table("here").equals(table)


def test_a_plugin_that_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_walk.py").write_text("import os; os.chdir('/')")
    load_plugins(["own_walk.py"])
    assert Path.cwd() == tmp_path
