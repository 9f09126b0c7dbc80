from __future__ import annotations

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

import initstats as ist
from initstats import cli
from initstats.activations import ACTIVATIONS
from initstats.cli import completion, options
from initstats.cli.meanings import PARAMETERS
from initstats.cli.output import as_json
from initstats.diagnosis import RULES
from initstats.inits import INITS
from initstats.networks import NETWORKS
from initstats.plots import FIGURES
from initstats.registry import Catalog
from initstats.registry.catalog import forget_modules
from initstats.schemes.initializing import MATCHED
from initstats.schemes.published import SCHEMES
from initstats.sweep import FailedCellsError


class Said(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Type a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def typed(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["initstats", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        code = stop.value.code
        assert isinstance(code, int)
        return Said(code, *capsys.readouterr())

    return typed


SMALL = ("sweep", "--inits", "zeros,matched", "--depth", "3")
RELU = (*SMALL, "--activations", "relu", "--samples", "50", "--workers", "1")
TINY = (*RELU, "--seeds", "2")


def test_a_sweep_leaves_a_run_and_its_report(run: Run, tmp_path: Path) -> None:
    said = run(*TINY)
    assert said.code == 0, said.err
    assert "training mean 0.1304 and std 0.3073" in said.out
    assert "4 cells (4 new)" in said.out
    assert re.search(r"[\d.]+ s in all", said.out)
    assert said.err == ""  # not a terminal: no bar
    folder = tmp_path / "reports" / "mnist"
    assert (folder / "index.html").exists()
    assert len(ist.load_table(folder)) == 4 * 3 * 4
    assert ist.store.load_predictions(folder) is not None
    again = run(*TINY, "--no-figures")
    assert "4 cells (0 new)" in again.out
    longer = run(*RELU, "--seeds", "3", "--no-figures")
    assert "6 cells (2 new)" in longer.out


def test_a_plan_does_nothing(run: Run, tmp_path: Path) -> None:
    said = run(*TINY, "--plan")
    assert said.code == 0, said.err
    assert "4 to measure, 0 of 4 done" in said.out
    assert re.search(r"time +[\d.]+ \w+ on 1 worker; ", said.out)
    assert re.search(r"store +[\d.]+ [kMG]B on the disk\nmemory ", said.out)
    assert not list(tmp_path.iterdir())


def test_theory_is_kept_with_the_run_and_goes_with_it(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "mnist"
    assert run(*TINY, "--no-theory", "--no-figures").code == 0
    assert ist.store.load_predictions(folder) is None
    assert "Measured against theory" not in (folder / "index.html").read_text()
    assert run(*TINY, "--theory", "--no-figures").code == 0
    kept = ist.store.load_predictions(folder)
    assert kept is not None
    assert len(kept) == 2 * 3 * 4
    matched = kept[(kept["init"] == "matched") & (kept["direction"] == "forward")]
    assert (matched["z"].abs() < 6).all()
    assert (matched["seeds"] == 2).all()
    assert "Measured against theory" in (folder / "index.html").read_text()
    # more seeds: the same predictions, scored anew
    assert run(*RELU, "--seeds", "3", "--no-figures").code == 0
    again = ist.store.load_predictions(folder)
    assert again is not None
    assert (again["seeds"] == 3).all()
    assert again["second_moment"].equals(kept["second_moment"])


def test_a_run_is_configured_by_a_file_and_options_win(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(
        'inits = ["kaiming_normal(mode=fan_out)"]\nactivations = ["relu"]\nwidths = [5, 7]\n'
        'depth = 2\nseeds = [4]\nsamples = 30\ndata = "mnist"\n'
    )
    alone = ("--workers", "1", "--no-report")
    said = run("sweep", "--config", config, "--out", "here", "--depth", "3", *alone)
    assert said.code == 0, said.err
    table = ist.load_table(tmp_path / "here")
    assert set(table["width"]) == {5, 7}
    assert set(table["layer"]) == {1, 2, 3}
    assert list(table["init"].cat.categories) == ["kaiming_normal(mode=fan_out)"]
    reproduced = run("sweep", "--config", "here/grid.toml", "--out", "there", *alone)
    assert reproduced.code == 0, reproduced.err
    assert ist.load_table(tmp_path / "there").equals(table)


def test_names_with_commas_inside_parentheses(run: Run, tmp_path: Path) -> None:
    names = "relu,general_relu(leak=0.2,sub=0.3)"
    few = ("--seeds", "1", "--samples", "20", "--workers", "1", "--no-report")
    said = run(*SMALL, "--activations", names, "--activations", "tanh", *few, "--out", "x")
    assert said.code == 0, said.err
    categories = list(ist.load_table(tmp_path / "x")["activation"].cat.categories)
    assert categories == ["relu", "general_relu(leak=0.2,sub=0.3)", "tanh"]


def test_a_plugin_registers_what_the_grid_names(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine_to_try.py").write_text(
        "import torch\nimport initstats as ist\n\n"
        "@ist.activation()\ndef cubed(x, *, scale=0.1):\n    return scale * x**3\n\n"
        "@ist.init()\ndef ones(weight, *, generator):\n    weight.fill_(1.0)\n"
    )
    said = run(
        *("sweep", "--plugin", "mine_to_try.py", "--inits", "ones", "--activations"),
        *("cubed(scale=0.2)", "--depth", "2", "--seeds", "2", "--samples", "20", "--workers", "1"),
        "--no-report",
    )
    assert said.code == 0, said.err
    assert (
        f'plugins = [\n    "{tmp_path}/mine_to_try.py",\n]'
        in (tmp_path / "reports/mnist/grid.toml").read_text()
    )
    assert re.search(
        r"^activations\tcubed\tscale=0.1",
        run("list", "--plugin", "mine_to_try.py").out,
        re.MULTILINE,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--inits", "kaiming"), "unknown init 'kaiming': did you mean 'kaiming_normal'?"),
        (("--activations", "rellu"), "unknown activation 'rellu': did you mean 'relu'?"),
        (("--activations", "relu6(top=3)"), "parameter of activation 'relu6'"),
        (("--inits", ""), "inits"),
        (("--network", "rnn"), "unknown network 'rnn'"),
        (("--split", "dev"), "unknown split 'dev'"),
        (("--widths", "-3"), "widths: -3 is not between 1 and"),
        (("--widths", "a"), "widths: 'a' is not a whole number"),
        (("--widths", "900000"), "GB of memory"),
        (("--depth", "0"), "depth: 0 is not between 1 and"),
        (("--seeds", "0"), "seeds: 0 is not between 1 and"),
        (("--samples", "20000"), "the valid split of 'mnist' holds 10000"),
        (("--data", "nowhere"), "nowhere"),
        (("--config", "nowhere.toml"), "cannot read nowhere.toml"),
        (("--plugin", "no_such_module"), "cannot import plugin 'no_such_module'"),
        (("--dept", "3"), "No such option: --dept"),
        (("--depth", "deep"), "--depth"),
        (("--workers", "0"), "'--workers'"),
        (("--data", ""), ".: expected IDX files"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    said = run("sweep", "--workers", "1", *arguments)
    assert said.code == 2
    assert words in said.err
    assert said.err.startswith("initstats: ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "reports").exists()


def test_every_fault_is_named_at_once(run: Run) -> None:
    said = run("sweep", "--inits", "kaiming", "--depth", "0", "--widths", "-1")
    assert all(word in said.err for word in ("kaiming_normal", "depth: 0", "widths: -1"))


def test_other_settings_in_the_same_folder_are_refused(run: Run, tmp_path: Path) -> None:
    assert run(*TINY, "--no-report").code == 0
    before = ist.load_table(tmp_path / "reports/mnist")
    said = run(*TINY, "--depth", "2")
    assert said.code == 2
    assert "depth: 3 there, 2 asked" in said.err
    assert ist.load_table(tmp_path / "reports/mnist").equals(before)


def test_report_of_something_else(run: Run, tmp_path: Path) -> None:
    for folder in ("nowhere", "."):
        said = run("report", folder)
        assert said.code == 2
        assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_drawn_again_elsewhere(run: Run, tmp_path: Path) -> None:
    assert run(*TINY, "--no-figures").code == 0
    said = run("report", "reports/mnist", "--out", "elsewhere", "--figures", "std_by_depth")
    assert said.code == 0, said.err
    assert (tmp_path / "elsewhere" / "index.html").exists()
    assert (tmp_path / "elsewhere" / "figures" / "std_by_depth.png").exists()
    said = run("report", "reports/mnist", "reports/mnist", "--no-figures")
    assert said.code == 0, said.err
    assert "No difference" in (tmp_path / "reports/mnist-and-mnist/index.html").read_text()
    said = run("report", "reports/mnist", "elsewhere", "reports/mnist", "--out", "three")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "two runs are compared side by side, not 3" in said.err
    said = run("report", "elsewhere", "nowhere", "--out", "lost")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "nowhere is neither a run's folder nor" in said.err
    assert not (tmp_path / "lost").exists()


def test_list_shows_names_as_the_table_has_them(run: Run) -> None:
    head, *lines = (line.split("\t") for line in run("list").out.splitlines())
    assert head == ["kind", "name", "parameters", "meaning"]
    named = {(kind, name): parameters for kind, name, parameters, _ in lines}
    for kind, name, parameters in (
        ("inits", "normal", "std=0.01"),
        ("activations", "general_relu", "leak=0.1,sub=0.4,maxv=6"),
        ("statistics", "dead_fraction", ""),
        ("networks", "resnet", "kernel=3,first_kernel=5"),
        (
            "recipes",
            "deepnorm",
            "network=transformer(place=post,scale=deepnorm),init=xavier_normal,activation=relu",
        ),
        ("columns", "branch_share", ""),
        ("rules", "saturation", ""),
        ("figures", "verdicts", ""),
    ):
        assert named[kind, name] == parameters
    assert [*dict.fromkeys(kind for kind, *_ in lines)] == [
        *("inits", "schemes", "activations", "networks", "network parameters", "recipes"),
        *("statistics", "columns", "rules", "audit rules", "figures"),
    ]
    said = json.loads(run("list", "--json").out)
    found = {kind.replace("_", " "): entries for kind, entries in said.items()}
    assert {(kind, each["name"]) for kind in found for each in found[kind]} == {*named}
    # each parameter of our networks has a meaning, and nothing else has one
    ours = {name for each in found["networks"] for name in each["parameters"]}
    assert {each["name"] for each in found["network parameters"]} == ours == {*PARAMETERS}
    grid = ist.Grid(inits=["normal(std=0.01)"], activations=["general_relu(sub=0.4)"])
    assert [grid.inits[0].name, grid.activations[0].name] == ["normal", "general_relu"]


def test_list_says_what_may_be_typed_of_some_kinds(run: Run) -> None:
    lines = [line.split("\t") for line in run("list", "recipes", "networks").out.splitlines()]
    assert [*dict.fromkeys(kind for kind, *_ in lines)] == ["kind", "networks", "recipes"]
    for kind, name, parameters, _ in lines:
        if kind == "networks":
            assert ist.networks.get(f"{name}({parameters})").name == name
    assert {*json.loads(run("list", "rules", "--json").out)} == {"rules"}
    said = run("list", "recipe")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "unknown kind 'recipe': did you mean 'recipes'?" in said.err


def test_list_says_which_place_of_a_norm_fits_which_network(run: Run) -> None:
    lines = [line.split("\t") for line in run("list", "network_parameters").out.splitlines()]
    meaning = next(line[3] for line in lines if line[1] == "place")
    for place, networks in re.findall(r"(\w+), [^(]*\(([^)]*)\)", meaning):
        for name in ("mlp", "cnn", "resmlp", "transformer"):
            try:
                ist.networks.get(f"{name}(norm=layer,place={place})")
            except ValueError:
                assert name not in networks.split(", ")
            else:
                assert name in networks.split(", ")
    assert "after the sum (resmlp, transformer)" in meaning


def test_what_a_shell_completes_is_what_there_is() -> None:
    import_module("initstats.foundations.figures")  # those of the lesson
    catalogs: list[tuple[Callable[[], list[str]], Catalog[Any]]] = [
        (completion.inits, INITS),
        (completion.activations, ACTIVATIONS),
        (completion.networks, NETWORKS),
        (completion.figures, FIGURES),
    ]
    for names, catalog in catalogs:
        shipped = [name for name in catalog if catalog.family(name).module.startswith("initstats.")]
        assert sorted(names()) == sorted(shipped)
    assert completion.schemes() == [*SCHEMES, MATCHED]
    complete = completion.listed(lambda: ["relu", "relu6", "tanh"])
    assert list(complete("gelu,rel")) == ["gelu,relu", "gelu,relu6"]


def test_a_shell_is_answered_without_torch(tmp_path: Path) -> None:
    asked = {"_INITSTATS_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    asked |= {"COMP_WORDS": "initstats sweep --inits lec"}
    code = "import sys; from initstats.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, *modules = said.stdout.split()
    assert (first, second) == ("lecun_normal", "lecun_uniform")
    assert not {"torch", "pandas", "matplotlib"} & {*modules}


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (("gain", "relu"), {"activations"}),
        (("theory", "relu", "--no-figures"), {"page", "activations"}),
        (("report", "run", "--no-figures"), {"page", "figures", "seconds"}),
        (
            (*TINY, "--out", "run", "--no-report", "--no-theory"),
            {"folder", "page", "cells", "new", "failed", "seconds", "verdicts", "summary"},
        ),
        ((*TINY, "--out", "run", "--plan"), {"folder", "plan"}),
    ],
    ids=lambda part: part[0] if isinstance(part, tuple) else None,
)
def test_for_programs_and_in_silence(
    run: Run, tmp_path: Path, command: tuple[str, ...], fields: set[str]
) -> None:
    if command[:2] == ("report", "run"):
        assert run(*TINY, "--out", "run", "--no-theory", "--no-report", "--quiet") == (0, "", "")
        assert not (tmp_path / "run" / "index.html").exists()
    found = json.loads(run(*command, "--json").out)
    assert {*found} == fields
    said = run(*command, "--quiet")
    page = found.get("page")
    assert said == (0, f"{page}\n" if page else "", "")
    assert not page or (tmp_path / page).is_file()


def test_json_has_null_for_what_is_no_number() -> None:
    frame = pd.DataFrame({"a": [1.0, math.nan], "b": [np.inf, 2]})
    text = as_json({"table": frame, "count": np.int64(3), "path": Path("a"), "none": None})
    rows = [{"a": 1.0, "b": None}, {"a": None, "b": 2.0}]
    assert json.loads(text) == {"table": rows, "count": 3, "path": "a", "none": None}


@pytest.mark.parametrize(
    ("command", "work"),
    [
        ((*TINY, "--out", "."), "initstats.sweep.run_sweep"),
        (("train", "--out", "."), "initstats.training.compare_training"),
        (("foundations", "--out", "."), "initstats.foundations.measure"),
        (("theory", "relu", "--out", "."), "initstats.theory.diagram.diagram"),
        (("bench", "--out", "."), "initstats.bench.run"),
        (
            ("measure", "torch.nn:Identity", "--input", "2", "--out", "."),
            "initstats.cli.model.own_model",
        ),
        (("report", "run", "--out", "."), "initstats.plots.Results.of"),
    ],
    ids=lambda part: part[0] if isinstance(part, tuple) else None,
)
def test_a_page_of_another_kind_and_a_wrong_figure_are_refused_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], work: str
) -> None:
    if command[0] == "report":
        assert run(*TINY, "--out", "run", "--no-theory", "--no-report").code == 0
    monkeypatch.setattr(work, None)
    head = '<meta name="generator" content="initstats 1">'
    (tmp_path / "index.html").write_text(f'{head}<meta name="initstats-page" content="own 1">')
    said = run(*command)
    assert (said.code, said.out) == (2, "")
    assert "index.html is a page of another kind (own, not " in said.err
    (tmp_path / "index.html").unlink()
    said = run(*command, "--figures", "no_such")
    assert (said.code, said.out) == (2, "")
    assert re.match(r"initstats: unknown figure of a \w+ page 'no_such': .*: \w+", said.err)
    assert run(*command, "--figures", "no_such", "--no-figures").code == 2
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("sweep", "--no-report", "--open"),
        ("train", "--no-report", "--no-figures"),
        ("bench", "--open"),
        ("measure", "torch.nn:Identity", "--input", "2", "--figures", "spread_by_depth"),
    ],
    ids=lambda command: command[0],
)
def test_options_of_a_page_without_a_page(run: Run, command: tuple[str, ...]) -> None:
    said = run(*command)
    assert said.code == 2
    assert "--figures, --no-figures and --open are for a page: " in said.err


def test_the_browser_opens_the_page(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_page(address: str) -> bool:
        assert not (tmp_path / "page" / "figures").exists()  # it need not wait for them
        opened.append(address)
        raise webbrowser.Error

    monkeypatch.setattr(webbrowser, "open", open_page)
    said = run("theory", "relu", "--out", "page", "--figures", "phases", "--open")
    assert said.code == 0, said.err
    assert said.err == ""
    assert opened == [(tmp_path / "page" / "index.html").as_uri()]
    assert {path.name for path in (tmp_path / "page" / "figures").iterdir()} == {
        "phases_relu.png",
        "phases_relu.svg",
    }


def test_gain_says_which_to_use_and_what_torch_says(run: Run, tmp_path: Path) -> None:
    said = run("gain", "relu", "tanh")
    assert "std = 1.4142 / sqrt(fan_in)" in said.out
    assert "calculate_gain says 1.6667: none of the three: 4.7% above forward" in said.out
    rows = run("gain", "relu", "gelu", "--table").out.splitlines()
    assert any("torch has" in row for row in rows)
    numbers = ["1.53353", "1.70093", "1.48111", "1.07203", "1.14406"]
    assert ["gelu", *numbers] in [row.split()[:6] for row in rows]
    (tmp_path / "own_gain.py").write_text("def halved(x):\n    return x / 2\n")
    assert "std = 2 / sqrt(fan_in)" in run("gain", "own_gain.py:halved").out
    said = run("gain", "own_gain:doubled")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "has no function 'doubled'" in said.err


def test_theory_draws_and_says_where_the_edge_is(run: Run, tmp_path: Path) -> None:
    said = run("theory", "relu", "--sigma-b2", "0.1", "--out", "here")
    assert said.code == 0, said.err
    assert "relu has no edge of chaos at sigma_b2 = 0.1" in said.out
    assert (tmp_path / "here" / "index.html").exists()
    said = run("theory", "rellu")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "did you mean 'relu'?" in said.err


def test_every_field_of_a_grid_is_an_option() -> None:
    """The help cannot ask `Grid`, which takes torch."""
    assert {*options.GRID} == {*ist.Grid.model_fields}
    assert {*options.TRAINING} == {*ist.TrainingGrid.model_fields}


def test_options_become_the_fields_of_a_grid(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(
        "initstats.cli.study._sweep", lambda fields, *_: (seen.update(fields), None, {})
    )
    monkeypatch.setattr("initstats.report.write_report", lambda *_, **__: "page")
    names = ("--inits", "zeros, mean_field(sigma_w=0.5:4:8log,sigma_b=0:1:2)", "--inits", "lsuv")
    numbers = ("--widths", "5,7", "--widths", "9", "--seeds", "4", "--depth", "0")
    assert run("sweep", *names, *numbers, "--no-backward", "--network", "cnn").code == 0
    assert seen == {
        "inits": ["zeros", "mean_field(sigma_w=0.5:4:8log,sigma_b=0:1:2)", "lsuv"],
        "networks": ["cnn"],
        "widths": [5, 7, 9],
        "depth": 0,
        "seeds": 4,
        "backward": False,
        "plugins": [],
    }
    seen.clear()
    assert run("sweep", "--widths", "50", "--seeds", "3,5", "--networks", "mlp,cnn").code == 0
    assert seen == {
        "widths": [50],
        "seeds": [3, 5],
        "networks": ["mlp", "cnn"],
        "plugins": [],
    }


def test_code_that_a_config_names_runs_when_it_is_trusted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "theirs.py").write_text(
        "import initstats as ist\nfrom pathlib import Path\nPath('ran').touch()\n\n"
        "@ist.register_activation()\ndef doubled(x):\n    return 2 * x\n"
    )
    (tmp_path / "theirs" / "grid.toml").write_text(
        'inits = ["zeros"]\nactivations = ["doubled"]\ndepth = 2\nseeds = 1\nsamples = 20\n'
        'plugins = ["theirs.py"]\n'
    )
    sweep = ("sweep", "--config", "theirs/grid.toml", "--out", "run", "--workers", "1")
    refused = run(*sweep, "--no-report")
    assert refused.code == 2
    assert "--trust-plugins" in refused.err
    assert not (tmp_path / "ran").exists()
    assert run(*sweep, "--no-report", "--plugin", "theirs/theirs.py").code == 0
    assert (tmp_path / "ran").exists()
    assert run(*sweep, "--no-report", "--trust-plugins").code == 0
    assert (tmp_path / "run/grid.toml").read_text().count("theirs.py") == 1


def test_a_config_holds_what_the_help_says(run: Run, tmp_path: Path) -> None:
    for key in ("out", "theory", "workers"):
        (tmp_path / "mine.toml").write_text(f"{key} = 1\n")
        said = run("sweep", "--config", "mine.toml")
        assert said.code == 2
        assert f"unknown field '{key}'" in said.err


def test_a_mistake_of_ours_can_be_traced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are no format for a mean: nobody wrote a message for that."""
    valid = type("Valid", (list,), {"first": lambda images, count: images[:count]})([0] * 50)
    broken = SimpleNamespace(name="broken", mean="dark", std=1.0, valid=valid)
    monkeypatch.setattr("initstats.data.load_data", lambda source, **options: broken)
    said = run(*TINY)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "format code 'f'" in said.err
    assert "initstats --traceback" in said.err
    said = run("--traceback", *TINY)
    assert said.code == 2
    assert said.err.splitlines()[1].startswith("Traceback")
    assert "format code 'f'" in said.err.splitlines()[-1]


def test_an_error_that_says_what_to_do_needs_no_trace(run: Run) -> None:
    for arguments in (
        (*TINY, "--depth", "0"),
        ("report", "nowhere"),
        ("bench", "--from", "no.json"),
    ):
        assert "--traceback" not in run(*arguments).err


def test_version_and_help(run: Run) -> None:
    assert run("--version").out == f"initstats {ist.__version__}\n"
    for command in ("sweep", "report", "list"):
        assert run(command, "--help").code == 0


def test_threads_wait_in_any_language(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP compares a word in small letters, which I is not one of in Turkish."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    run("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


def test_of_pythons_own_processes_nothing_is_told(run: Run) -> None:
    """A terminal that is closed ends the one that a worker is started with, too."""
    run("--version")
    os.kill(_pid_of_tracker(), signal.SIGKILL)
    time.sleep(0.05)
    resource_tracker.ensure_running()  # whose warning would be an error


def _pid_of_tracker() -> int:
    resource_tracker.ensure_running()
    return int(resource_tracker._resource_tracker._pid)  # type: ignore[attr-defined]


FAILING = """
from pathlib import Path
import initstats as ist

@ist.register_activation()
def sometimes(x, *, fails="never"):
    "A failure for the width 5."
    if 5 in x.shape and not Path("mended").exists():
        if fails == "exit":
            raise SystemExit(0)
        if fails == "key":
            raise KeyError("k")
    return x * 1
"""
OWN_ODD = """
from initstats import register_activation

@register_activation()
def own_odd(x):
    "Odd."
    raise ValueError("odd")
"""
OWN_ERRORS = """
from torch import nn

class Odd(BaseException):
    pass

def fail(*_):
    raise KeyError("k")

def factory():
    raise SystemExit(0)

class Model(nn.Linear):
    def forward(self, x):
        raise Odd("odd")

def model():
    return Model(2, 2)
"""


def test_cells_that_fail_are_told_of_and_the_rest_goes_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own_failing.py").write_text(FAILING)
    names = "relu,sometimes,sometimes(fails=exit),sometimes(fails=key)"
    study = ("sweep", "--inits", "zeros,matched", "--depth", "2", "--samples", "50", "--out", "run")
    few = ("--seeds", "2", "--widths", "5,6", "--workers", "1", "--plugin", "own_failing.py")
    few_files = (*few, "--no-figures")
    said = run(*study, *few_files, "--activations", names)
    assert said.code == 1
    line, *traceback = said.err.splitlines()
    assert line.startswith("initstats: 8 of 32 cells failed: SystemExit: 0 (mlp zeros sometimes(")
    assert "KeyError: 'k' (mlp zeros sometimes(fails=key) 5 0, " in line
    assert sum("own_failing.py" in each for each in traceback) == 2
    assert not any("initstats/" in each for each in traceback)
    page = (tmp_path / "run" / "index.html").read_text()
    assert "24 of 32 cells are measured, and 8 failed" in page
    failures = ist.load_failures(tmp_path / "run")
    assert list(failures["error"]) == [*["SystemExit: 0"] * 2, *["KeyError: 'k'"] * 2] * 2
    assert failures["width"].eq(5).all()
    assert len(ist.load_table(tmp_path / "run")) == 24 * 8
    (tmp_path / "mended").touch()
    said = run(*study, *few_files, "--activations", names)
    assert said.code == 0, said.err
    assert "32 cells (8 new)" in said.out
    assert ist.load_failures(tmp_path / "run").empty
    assert "failed" not in (tmp_path / "run" / "index.html").read_text()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("list", "--plugin", "own_exit.py"), "cannot import plugin 'own_exit.py': SystemExit: 0"),
        (("gain", "own_errors.py:fail"), "your code raised KeyError: "),
        (
            ("sweep", "--plugin", "own_odd.py", "--activations", "own_odd", "--out", "new"),
            "activations: activation 'own_odd' cannot be evaluated: odd",
        ),
        (("measure", "own_errors.py:factory", "--input", "2,2"), "own_errors.py:factory raised S"),
        (("measure", "own_errors.py:model", "--input", "2,2"), "the model raised Odd on (2, 2): o"),
    ],
)
def test_an_error_of_the_users_code_is_shown_to_them(
    run: Run, tmp_path: Path, command: tuple[str, ...], line: str
) -> None:
    (tmp_path / "own_exit.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "own_errors.py").write_text(OWN_ERRORS)
    (tmp_path / "own_odd.py").write_text(OWN_ODD)
    said = run(*command)
    forget_modules([str(tmp_path / "own_odd.py")])  # other tests look at all activations
    assert said.code == 1
    first, second, *frames = said.err.splitlines()
    assert first.startswith(f"initstats: {line}")
    assert second == "Traceback (most recent call last):"
    files = [frame.split('"')[1] for frame in frames if frame.startswith("  File ")]
    assert files
    assert {Path(file).parent for file in files} == {tmp_path}


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("sweep", "--device", "cuda:99999999999999"), "device: 'cuda:99999999999999' is not a d"),
        (
            ("gain", "shifted_relu(shift=1e999)"),
            "activation 'shifted_relu(shift=inf)': shift must be finite in float32: got inf",
        ),
        (("gain", "tailored_relu(depth=1e7)"), "activation 'tailored_relu(depth=10000000)': a s"),
        (("sweep", "--config", "number.toml"), "number.toml: data: text is expected, not 5"),
        (("sweep", "--config", "word.toml"), "word.toml: plugins: a list of names is expected"),
        (("sweep", "--config", "deep.toml"), "cannot read deep.toml: it nests too deeply"),
        (("list", "--plugin", "no_such"), "cannot import plugin 'no_such': No module named"),
        (("bench", "--workloads", ""), "workloads: the list is empty: name at least one"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, tmp_path: Path, command: tuple[str, ...], line: str
) -> None:
    (tmp_path / "number.toml").write_text("data = 5")
    (tmp_path / "word.toml").write_text("plugins = 'mine.py'")
    (tmp_path / "deep.toml").write_text(f"inits = {'[' * 5000}{']' * 5000}")
    said = run(*command)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert said.err.startswith(f"initstats: {line.format(folder=tmp_path)}")


def test_an_output_that_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        suppress(BrokenPipeError),  # of closing it with what it still holds
        os.fdopen(writer, "w", encoding="latin-1") as nobody_reads,
    ):
        monkeypatch.setattr(sys, "stdout", nobody_reads)
        said = run("list")
        assert (said.code, said.err) == (141, "")
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            said = run("list")
        assert said.code == 2
        assert said.err.startswith("initstats: [Errno 28] No space left on device")
        assert said.err.count("\n") == 1


def test_a_model_of_ones_own_is_examined(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own_model.py").write_text(
        "from torch import nn\n\n"
        "def make():\n"
        "    linears = [nn.Linear(784, 784) for _ in range(8)]\n"
        "    return nn.Sequential(nn.Flatten(), *[x for y in linears for x in (y, nn.ReLU())])\n"
    )
    said = run("measure", "own_model.py:make", "--data", "mnist", "--backward", "--out", "page")
    assert said.code == 0, said.err
    assert "default_init" in said.out
    assert "measured" in said.out
    assert (tmp_path / "page" / "index.html").exists()
    assert run("measure", "own_model:make", "--input", "4,784").code == 0


OWN_PARTS = """
from matplotlib.figure import Figure
import initstats as ist
from initstats.diagnosis import Finding

@ist.register_figure(title="Largest", data=lambda results: results.table.query("layer == 1"))
def own_largest(frame, width=9.0):
    drawing = Figure(figsize=(width, 2))
    drawing.subplots().plot(frame["max"])
    return drawing

@ist.register_rule(threshold=0.01, source="a rule of our own")
def own_limit(profile, threshold):
    "no value above 0.01"
    for row in profile.signal.query("max > @threshold").itertuples():
        yield Finding("warning", row.place, f"it reaches {row.max:.3g}", "add a LayerNorm")
"""


def test_a_plugin_adds_figures_and_rules(run: Run, tmp_path: Path) -> None:
    assert run(*TINY, "--no-report", "--out", "run").code == 0
    (tmp_path / "own_parts.py").write_text(OWN_PARTS)
    (tmp_path / "own_net.py").write_text("from torch import nn\nmake = lambda: nn.Linear(4, 2)\n")
    try:
        assert (
            run("report", "run", "--plugin", "own_parts.py", "--figures", "own_largest").code == 0
        )
        assert (tmp_path / "run" / "figures" / "own_largest.png").exists()
        said = run("measure", "own_net.py:make", "--input", "20,4", "--plugin", "own_parts.py")
        assert "warning: own_limit at Linear (linear): it reaches" in said.out
    finally:
        FIGURES.remove("own_largest")
        RULES.remove("own_limit")


@pytest.mark.skipif(sys.platform != "linux", reason="the size is read from /proc")
def test_cells_that_the_memory_does_not_hold_fail_alone(mnist: ist.Dataset, tmp_path: Path) -> None:
    fields = {"inits": ["kaiming_normal"], "activations": ["relu"], "seeds": 1, "samples": 50}
    grid = ist.Grid(**fields, depth=2, widths=[3, 16_000])  # 1 GB of weights
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (800 << 20), before[1]))
    try:
        with pytest.raises(FailedCellsError, match="1 of 2 cells failed: .* allocate"):
            ist.run_sweep(grid, mnist, out=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert ist.load_failures(tmp_path)["width"].tolist() == [16_000]
    assert set(ist.load_table(tmp_path)["width"]) == {3}


def test_no_command_warns(tmp_path: Path) -> None:
    (tmp_path / "own_turned.py").write_text(
        "import torch\n\nclass Turned(torch.nn.Linear):\n    def forward(self, x):\n"
        "        return torch.fft.ifft(torch.fft.fft(super().forward(x)) * 2).real\n\n"
        "def make():\n    return Turned(4, 4)\n"
    )
    code = (
        "import sys\nfrom initstats.cli import app\n"
        "for line in sys.argv[1:]:\n    app(line.split(), standalone_mode=False)\n"
    )
    commands = ["list", "measure own_turned.py:make --input 8,4"]
    ended = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, *commands],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "note: default_init" in ended.stdout


def test_a_file_is_no_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    for command in (TINY, ("theory", "relu")):
        said = run(*command, "--out", "notes")
        assert said.code == 2
        assert "initstats: notes is a file: name a folder for the " in said.err


@pytest.mark.parametrize("arguments", ["(3, layers=2)", "(width=3,layers=2)", "(*[3])", "(**{})"])
def test_a_model_with_arguments(run: Run, arguments: str) -> None:
    Path("own_deep.py").write_text(
        "from torch import nn\ndef deep(width, layers=1):\n"
        "    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))\n"
    )
    said = run("audit", f"own_deep.py:deep{arguments}", "--json", "--fail-on", "never")
    if "*" in arguments:
        assert said.code == 2
        assert f"{arguments} are no arguments: write numbers, strings" in said.err
    else:
        shapes = [row["shape"] for row in json.loads(said.out)["parameters"]]
        assert shapes == ["3x3", "3"] * 2


@pytest.mark.parametrize("path", ["own_model.py", "own_model", "own_model.py:", ":make"])
def test_a_model_without_its_function(run: Run, path: str) -> None:
    said = run("measure", path, "--input", "4,784")
    assert said.code == 2
    assert f"'{path}' names no function: write module:function" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def make():\n    return 3\n", "own_three.py:make returns int, no torch.nn.Module"),
        ("make = 3\n", "own_three.py:make is of type int: name a torch.nn.Module, or a function"),
        ("make = {}\n", "own_three.py:make is of type dict: name a torch.nn.Module"),
        ("make = 0\n", "own_three.py:make is of type int"),
    ],
)
def test_a_factory_that_makes_no_model(run: Run, tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "own_three.py").write_text(code)
    said = run("measure", "own_three.py:make", "--input", "4,784")
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say what goes into the model: --input, --tokens, --data"),
        (("--input", "4,a"), "'a' is not a whole number"),
        (("--input", "4,0"), "sizes of at least 1"),
    ],
)
def test_a_model_without_proper_input(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "own_linear.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Linear(4, 2)\n"
    )
    said = run("measure", "own_linear.py:make", *arguments)
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1


def test_markup_of_names_and_docstrings_is_text(run: Run, tmp_path: Path) -> None:
    meaning = "[red]stop[/red] [/] [link=http://a.b]there[/link] [bold"
    (tmp_path / "marked.py").write_text(
        f"import initstats as ist\n\n@ist.activation()\ndef marked(x):\n"
        f'    """{meaning}"""\n    return x\n'
    )
    said = run("list", "--plugin", "marked.py")
    assert said.code == 0
    for word in meaning.split():
        assert word in said.out
    for text in ("[red]x[/red]", "[/]", "[link=a]x"):
        said = run("gain", text)
        assert said.code == 2
        assert text in said.err
        assert said.err.count("\n") == 1
