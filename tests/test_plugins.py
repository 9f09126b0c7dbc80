from __future__ import annotations

import colorsys
import pickle
import sys
from pathlib import Path

import pytest

import initstats as ist
from initstats import activations
from initstats.activations import ACTIVATIONS
from initstats.sweep import load_config, load_plugins

PLUGIN = """
import initstats as ist

@ist.register_activation()
def {name}(x, *, factor=1.0):
    return factor * x
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


def write(file: Path, name: str) -> str:
    file.parent.mkdir(exist_ok=True)
    file.write_text(PLUGIN.format(name=name))
    return str(file)


def test_files_of_one_name_are_two_plugins(tmp_path: Path) -> None:
    one = write(tmp_path / "one" / "myacts.py", "acts_one")
    two = write(tmp_path / "two" / "myacts.py", "acts_two")
    first, second = load_plugins([one, two])
    assert {"acts_one", "acts_two"} <= set(ACTIVATIONS)
    assert first is not second
    assert load_plugins([one, f"{tmp_path}/two/../one/myacts.py"]) == [first, first]
    assert activations.get("acts_one(factor=2)").module == one


def test_a_plugin_may_be_called_like_a_module(tmp_path: Path) -> None:
    (own,) = load_plugins([write(tmp_path / "colorsys.py", "colour")])
    assert own is not colorsys
    assert "colour" in ACTIVATIONS
    assert load_plugins(["colorsys"]) == [colorsys]


def test_a_module_that_was_imported_is_not_loaded_again(tmp_path: Path) -> None:
    file = write(tmp_path / "imported_acts.py", "imported")
    sys.path.append(str(tmp_path))
    (module,) = load_plugins(["imported_acts"])
    assert load_plugins([file]) == [module]


def test_a_plugin_imports_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("factor = 3")
    (tmp_path / "mine.py").write_text("from neighbour_of_mine import factor")
    (module,) = load_plugins([str(tmp_path / "mine.py")])
    assert module.factor == 3


def test_entries_of_a_plugin_cross_by_its_path(tmp_path: Path) -> None:
    file = write(tmp_path / "crossing.py", "crossing")
    load_plugins([file])
    entry = activations.get("crossing(factor=2)")
    packed = pickle.dumps(entry)
    assert pickle.loads(packed) is entry
    ACTIVATIONS.remove("crossing")  # as in a fresh process
    del sys.modules[file]
    again = pickle.loads(packed)
    assert (again.name, again.module) == ("crossing(factor=2)", file)


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot import plugin 'no_such': No module named"):
        load_plugins(["no_such"])
    with pytest.raises(ValueError, match=r"cannot import plugin 'no_such.py': No such file"):
        load_plugins(["no_such.py"])
    (tmp_path / "broken.py").write_text("def (\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"cannot import plugin .*broken.py.: invalid syntax"):
            load_plugins([str(tmp_path / "broken.py")])


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*none.toml: No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("depth = \n")
    with pytest.raises(ValueError, match=r"cannot read .*bad.toml: Invalid value .at line 1"):
        load_config(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_text("plugins = 'mine.py'\n")
    with pytest.raises(ValueError, match="bad.toml: plugins: a list of names is expected, not 'm"):
        load_config(tmp_path / "bad.toml")


def test_paths_begin_at_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "study" / "relative.py", "relative")
    (tmp_path / "study" / "grid.toml").write_text(
        'data = "images"\nplugins = ["relative.py", "json"]\nactivations = ["relative"]\n'
    )
    config = load_config("study/grid.toml", trusted=True)
    assert config["data"] == str(tmp_path / "study" / "images")
    assert config["plugins"] == [str(tmp_path / "study" / "relative.py"), "json"]
    assert ist.Grid.from_toml("study/grid.toml", trusted=True).config["activations"] == ["relative"]
    (tmp_path / "study" / "grid.toml").write_text('data = "mnist"\n')
    assert load_config("study/grid.toml") == {"data": "mnist"}


def test_code_of_a_configuration_runs_only_if_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "strange.py", "strange")
    (tmp_path / "grid.toml").write_text('plugins = ["strange.py", "json"]\n')
    message = "names plugins, whose code would run here: {}; if you trust them"
    for load in (load_config, ist.Grid.from_toml):
        with pytest.raises(ValueError, match=message.format(f"{tmp_path}/strange.py, json")):
            load("grid.toml")
    with pytest.raises(ValueError, match=message.format("json")):
        load_config("grid.toml", trusted=["strange.py"])
    assert "strange" not in ACTIVATIONS
    load_config("grid.toml", trusted=["json", "./strange.py"])
    assert "strange" in ACTIVATIONS
