"""`initstats measure`: a check-up that a continuous integration can rely on."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import initstats as ist
from initstats import cli
from initstats.cli.model import batches
from initstats.draws import generator_for
from initstats.probe.objective import loss_of

OWN = """
import torch
from torch import nn

def seeded(make):
    def factory():
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(0)
            return make()
    return factory

def he(*sizes):
    net = nn.Sequential()
    for a, b in zip(sizes, sizes[1:]):
        net.extend([nn.Linear(a, b), nn.ReLU()])
        nn.init.kaiming_normal_(net[-2].weight)
        nn.init.zeros_(net[-2].bias)
    return net[:-1]

def zeros():
    net = he(8, 8, 8)
    for layer in net[::2]:
        nn.init.zeros_(layer.weight)
    return net

def wide():
    return he(64, 256, 256)

def flat():
    return nn.Sequential(nn.Flatten(), *he(784, 32, 10))

class Three(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.time = nn.Conv2d(3, 4, 3), nn.Linear(1, 4)
        self.embedding = nn.Embedding(100, 4)

    def forward(self, x, t, ids):
        told = self.time(t[:, None]) + self.embedding(ids).mean(1)
        return self.conv(x) + told[:, :, None, None]

class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = he(8, 16, 1)

    def forward(self, x):
        return (self.net(x) - x[:, :1]).square().mean()

class Fails(nn.Module):
    def forward(self, x):
        return self.help(x)

    def help(self, x):
        raise KeyError("no such head")

sound, zero, images, three = map(seeded, (lambda: he(8, 8, 8), zeros, flat, Three))
words = seeded(lambda: nn.Sequential(nn.Embedding(10, 8), *he(8, 8)))
loss, frozen = seeded(Loss), lambda: he(8, 8).requires_grad_(False)
instance, drawn = he(8, 8, 8), lambda: he(8, 8, 8)

def divides():
    return 1 / 0

def asks(size):
    return nn.Linear(size, size)
"""


class Said(NamedTuple):
    code: int
    out: str
    err: str


Measure = Callable[..., Said]


@pytest.fixture
def measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Measure:
    """Type `initstats measure` in a folder that holds models of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_models.py").write_text(OWN)

    def typed(factory: str, *arguments: str) -> Said:
        path = factory if ":" in factory else f"own_models.py:{factory}"
        monkeypatch.setattr(sys, "argv", ["initstats", "measure", path, *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        code = stop.value.code
        assert isinstance(code, int)
        return Said(code, *capsys.readouterr())

    return typed


@pytest.fixture
def severities(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The exit code where the rules find faults of some severities."""

    def found(*severities: str, fail_on: str | None) -> int:
        rows = ist.diagnose(ist.measure(nn.Linear(4, 4), torch.randn(8, 4)))
        rows = rows[rows["severity"] == "healthy"].head(len(severities)).copy()
        rows["severity"] = list(severities)
        monkeypatch.setattr("initstats.diagnosis.diagnose", lambda table: rows)
        option = ["--fail-on", fail_on] if fail_on else []
        return measure("sound", "--input", "16,8", *option).code

    return found


@pytest.mark.parametrize(
    ("found", "fail_on", "code"),
    [
        (("error", "note"), None, 1),
        (("warning", "note"), None, 0),
        (("note", "healthy"), None, 0),
        (("warning",), "warning", 1),
        (("error",), "warning", 1),
        (("note",), "warning", 0),
        (("error", "warning"), "never", 0),
    ],
)
def test_the_exit_code_is_the_severest_finding(
    severities: Callable[..., int], found: tuple[str, ...], fail_on: str | None, code: int
) -> None:
    assert severities(*found, fail_on=fail_on) == code


def test_ids_that_are_too_large_are_named(measure: Measure) -> None:
    said = measure("words", "--tokens", "4,16", "--vocabulary", "200")
    assert said.code == 1
    assert "--vocabulary" in said.err.splitlines()[0]
    assert "ids up to 1" in said.err.splitlines()[0]
    assert measure("words", "--tokens", "4,16", "--vocabulary", "7").code == 0
    assert measure("words", "--tokens", "4,64").code == 0  # as many as there are rows
    assert "--tokens" in measure("sound", "--input", "4,8", "--vocabulary", "7").err


def test_spectra_are_shown(measure: Measure) -> None:
    heading = measure("sound", "--input", "32,8", "--spectra").out.splitlines()[0]
    assert "participation_ratio" in heading
    assert "stable_rank" in heading
    assert "rank" not in measure("sound", "--input", "32,8").out


def test_theory_is_laid_beside_what_was_measured(measure: Measure, tmp_path: Path) -> None:
    files = ("--json", "found.json", "--out", "page", "--no-figures")
    said = measure("wide", "--input", "32,64", "--backward", "--theory", *files)
    assert "theory: 7 of 7 second moments predicted; measured / predicted is 0.9" in said.out
    lines = [line.split("\t") for line in said.out.splitlines()]
    start = lines.index(
        ["layer", "name", "op", "direction", "measured", "predicted", "ratio", "claim"]
    )
    ratios = [float(line[6]) for line in lines[start + 1 : start + 8]]
    off = [abs(math.log(ratio)) for ratio in ratios]
    assert off == sorted(off, reverse=True)
    model, x = wide(), next(batches([("input", "32,64")], None, training=False))[0]
    found = json.loads((tmp_path / "found.json").read_text())["theory"]
    table = ist.measure(model, x, backward=True, weights=False)
    told = ist.predict_model(model, x, backward=True)
    measured, predicted = (
        each.astype({"direction": str}).set_index(["layer", "direction"])["second_moment"]
        for each in (table, told)
    )
    assert len(found) == len(table) == len(told)
    for row in found:
        key = row["layer"], row["direction"]
        assert row["measured"] == pytest.approx(measured[key])
        assert row["predicted"] == pytest.approx(predicted[key])
        assert row["ratio"] == pytest.approx(measured[key] / predicted[key])
    csv = pd.read_csv(tmp_path / "page" / "theory.csv")
    assert csv["ratio"].tolist() == pytest.approx([row["ratio"] for row in found])
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "Beside theory" in page
    assert 'href="theory.csv"' in page


def test_without_theory_nothing_is_said_of_it(measure: Measure, tmp_path: Path) -> None:
    said = measure("wide", "--input", "8,64", "--json", "found.json", "--out", "page")
    assert "theory" not in said.out
    assert "theory" not in json.loads((tmp_path / "found.json").read_text())
    assert not (tmp_path / "page" / "theory.csv").exists()
    assert "Beside theory" not in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    said = measure("wide", "--input", "8,64", "--steps", "2", "--theory")
    assert said.code == 2
    assert "--theory is for a model before its training: leave out --steps" in said.err


def wide() -> nn.Module:
    """The model that the factory of that name makes, drawn in the same order."""
    net = nn.Sequential()
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        for size in (64, 256):
            layer = nn.Linear(size, 256)
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
            net.extend([layer, nn.ReLU()])
    return net[:-1]


def test_a_run_without_faults_says_so(measure: Measure) -> None:
    assert "no error and no warning was found" in measure("sound", "--input", "32,8").out
    assert "no error and no warning" not in measure("zero", "--input", "32,8").out


def test_a_dead_model_fails_and_a_sound_one_does_not(measure: Measure) -> None:
    said = measure("zero", "--input", "32,8", "--backward")
    assert (said.code, said.err) == (1, "")
    assert "error: " in said.out
    assert measure("zero", "--input", "32,8", "--fail-on", "never").code == 0
    assert measure("sound", "--input", "64,8").code == 0
    assert measure("instance", "--input", "64,8").code == 0


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_several_inputs_of_any_float(measure: Measure, dtype: str) -> None:
    inputs = ("--input", "8,3,16,16", "--input", "8", "--tokens", "8,5")
    said = measure("three", *inputs, "--dtype", dtype, "--json", "-")
    assert said.code == 0, said.err
    rows = json.loads(said.out)["table"]
    given = {row["name"]: row for row in rows if row["op"] == "input"}
    assert given["conv"]["shape"] == "8x3x16x16"
    assert {row["dtype"] for row in rows} == {dtype}
    # all of one option stand where its first one does: here the ids come first
    said = measure("three", *inputs[4:], *inputs[:4])
    assert said.code == 1
    assert "the model raised" in said.err
    assert "on (8, 5) and (8, 3, 16, 16) and (8,):" in said.err


def test_inputs_are_independent_and_the_same_each_time() -> None:
    given = [("input", "50,4"), ("tokens", "50,4"), ("input", "50,4")]
    source = batches(given, None, training=True)
    (x, ids, y), labels = next(source)
    (again, *_), _ = next(source)
    assert labels is None
    assert torch.equal(x, again)
    assert abs(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]) < 0.25
    assert ids.dtype == torch.int64
    assert 0 <= int(ids.min()) <= int(ids.max()) < 100


def test_images_come_from_the_split_that_is_asked_for() -> None:
    data = ist.load_data("mnist")
    x, y = next(batches([("data", "mnist")], None, training=False))
    assert x.shape == (256, 1, 28, 28)
    assert torch.equal(x.flatten(1), data.valid.x[:256])
    assert y is not None
    assert torch.equal(y, data.valid.y[:256])
    source = batches([("data", "mnist"), ("input", "3")], "float64", training=True)
    (first, _), _ = next(source)
    (second, extra), labels = next(source)
    assert torch.equal(second.flatten(1), data.train.x[256:512].double())
    assert not torch.equal(first, second)
    assert extra.dtype == torch.float64
    assert labels is not None
    assert torch.equal(labels, data.train.y[256:512])


def test_a_factory_that_draws_gives_the_same_model_each_time(measure: Measure) -> None:
    first, again = (measure("drawn", "--input", "32,8").out for _ in range(2))
    assert first == again != measure("drawn", "--input", "32,8", "--seed", "1").out


def test_json_holds_what_python_measures(measure: Measure, tmp_path: Path) -> None:
    said = measure("zero", "--input", "32,8", "--json", "found.json")
    assert said.code == 1
    assert "measured" in said.out
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["network"] == "Sequential"
    assert {row["severity"] for row in found["findings"]} >= {"error"}
    for row in found["findings"]:
        assert {"severity", "rule", "where", "evidence", "remedy"} <= set(row)
    last = found["table"][-1]
    assert (last["name"], last["op"], last["count"]) == ("2.bias", "linear", 8)
    assert any(value is None for row in found["table"] for value in row.values())  # NaN is null
    said = measure("zero", "--input", "32,8", "--json", "new/er/found.json", "--out", "new")
    assert (said.code, said.out.splitlines()[-1]) == (1, "page: new/index.html")
    assert json.loads((tmp_path / "new/er/found.json").read_text(encoding="utf-8")) == found
    quiet = measure("zero", "--input", "32,8", "--json", "-", "--out", "page")
    assert json.loads(quiet.out) == found | {"page": "page/index.html"}
    assert quiet.err == "page: page/index.html\n"


@pytest.mark.parametrize("options", [("--backward",), ("--steps", "2")])
def test_spectra_on_request(measure: Measure, options: tuple[str, ...]) -> None:
    said = measure("sound", "--input", "16,8", *options, "--spectra", "--json", "-")
    rows = json.loads(said.out)["table"]
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), torch.randn(16, 8)
    spectra = ("participation_ratio", "stable_rank")
    assert [*rows[0]][-2:] == [*ist.measure(model, x, spectra=True)][-2:] == [*spectra]
    assert any(row["participation_ratio"] for row in rows)
    assert any(row["stable_rank"] for row in rows)
    assert not measure("sound", "--input", "16,8", "--json", "-").out.count("stable_rank")


@pytest.mark.parametrize("arguments", [(), ("--json", "-"), ("--json", "f.json", "--out", "page")])
def test_a_reader_that_leaves_is_no_error(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with (
        suppress(BrokenPipeError),
        os.fdopen(writing, "w") as closed,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", closed)
        assert measure("zero", "--input", "4,8", *arguments) == (141, "", "")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_on_images_learns(measure: Measure, optimizer: str) -> None:
    said = measure("images", "--data", "mnist", "--steps", "8", "--optimizer", optimizer)
    assert said.code == 0, said.err
    ((first, last),) = re.findall(r"loss: (\S+) at first, (\S+) in step 8", said.out)
    assert float(last) < float(first)


def test_steps_watch_a_training(measure: Measure, tmp_path: Path) -> None:
    said = measure("loss", "--input", "64,8", "--steps", "3", "--json", "-", "--out", "page")
    found = json.loads(said.out)
    assert len(found["losses"]) == 3
    assert found["losses"][-1] < found["losses"][0]
    assert {row["step"] for row in found["table"]} == {0, 1, 2}
    assert {row["direction"] for row in found["table"]} == {"forward", "backward"}
    html = (tmp_path / "page" / "index.html").read_text()
    assert "Through training" in html
    assert "The colourful dimension" in html


def test_a_rate_that_is_too_large_diverges_and_fails(measure: Measure) -> None:
    said = measure("images", "--data", "mnist", "--steps", "8", "--lr", "1e9")
    assert said.code == 1
    assert "nan in step 8" in said.out or "inf in step 8" in said.out


def test_of_a_long_training_some_steps_are_measured(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("initstats.cli.model.MEASURED", 4)
    found = json.loads(measure("loss", "--input", "4,8", "--steps", "10", "--json", "-").out)
    assert len(found["losses"]) == 10
    assert sorted({row["step"] for row in found["table"]}) == [0, 3, 6, 9]


def test_what_is_minimized() -> None:
    scores = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 1])
    entropy = nn.functional.cross_entropy(scores, labels)
    assert torch.equal(loss_of(scores, labels), entropy)
    assert torch.equal(loss_of((scores, scores), labels), entropy)
    number = scores.sum()
    assert loss_of(number, labels) is number
    assert torch.equal(loss_of({"loss": number, "logits": scores}, labels), number)
    few = scores[:, :2]  # too few scores for three classes
    for output, classes in ((few, labels), (scores, None)):
        assert torch.equal(loss_of(output, classes), loss_of(output, classes))  # targets stay
    expected: list[Tensor] = []
    generator = generator_for(1, "targets")
    expected.append((scores - torch.randn(4, 3, generator=generator)).square().mean())
    assert torch.allclose(loss_of(scores, None), expected[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nofile.py:make", "--input", "3"), "there is no file nofile.py"),
        (("no_module:make", "--input", "3"), "no module 'no_module', neither installed nor"),
        (("none", "--input", "3"), "module 'own_models.py' has no function 'none'"),
        (("sound", "--data", "nowhere"), "nowhere: expected 'mnist', a folder"),
        (("sound", "--input", "3,x"), "--input: 'x' is not a whole number"),
        (("sound", "--tokens", "0"), "'0' is no shape"),
        (("sound",), "say what goes into the model: --input, --tokens, --data"),
        (("sound", "--input", "4,8", "--lr", "1"), "say how long with --steps"),
        (("sound", "--input", "4,8", "--optimizer", "adam"), "say how long with --steps"),
        (("sound", "--input", "4,8", "--steps", "0"), "--steps"),
        (("sound", "--input", "4,8", "--dtype", "int8"), "--dtype"),
        (("sound", "--input", "4,8", "--fail-on", "note"), "--fail-on"),
        (("sound", "--input", "4,8", "--json", "."), "cannot write .: it is a folder"),
        (
            ("sound", "--input", "4,8", "--json", "own_models.py/a/b.json"),
            "cannot write own_models.py/a/b.json: own_models.py is a file, no folder",
        ),
        (("sound", "--input", "4,8", "--out", "own_models.py"), "own_models.py is a file"),
        (("torch.nn:Identity", "--input", "3"), "nothing was measured: the model ran no operation"),
        (("torch:nn", "--input", "3"), "torch:nn is of type module: name a torch.nn.Module"),
        (("sound", "--input", f"{10**13}"), f"--input {10**13}: the memory does not hold"),
        (("sound", "--tokens", f"{10**30}"), f"--tokens {10**30}: the memory does not hold"),
        (("sound", "--input", "3", "--seed", f"{2**63}"), "--seed"),
        (("sound", "--tokens", "3", "--vocabulary", f"{2**63}"), "--vocabulary"),
        (("frozen", "--input", "4,8", "--steps", "2"), "the model has no parameters to train"),
        (("frozen", "--input", "4,8", "--backward"), "no gradient flows back"),
    ],
)
def test_bad_input_is_one_line(measure: Measure, arguments: tuple[str, ...], words: str) -> None:
    said = measure(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == 1
    assert "plugin" not in said.err


@pytest.mark.parametrize(
    ("arguments", "line", "last"),
    [
        (
            ("divides", "--input", "3"),
            "own_models.py:divides raised ZeroDivisionError: division by zero",
            "ZeroDivisionError: division by zero",
        ),
        (
            ("asks", "--input", "3"),
            "own_models.py:asks raised TypeError: ",
            "missing 1 required positional argument: 'size'",
        ),
        (
            ("Fails", "--input", "3,4"),
            "the model raised KeyError on (3, 4): 'no such head' (raised in Fails)",
            "KeyError: 'no such head'",
        ),
        (
            ("sound", "--input", "3,5"),
            "the model raised RuntimeError on (3, 5): mat1 and mat2 shapes",
            "cannot be multiplied (3x5 and 8x8) (raised in linear of 0)",
        ),
        (
            ("sound", "--input", "3,5", "--steps", "2"),
            "the model raised RuntimeError on (3, 5): mat1 and mat2 shapes",
            "cannot be multiplied (3x5 and 8x8)",
        ),
    ],
)
def test_an_error_of_the_model_comes_with_its_own_traceback(
    measure: Measure, arguments: tuple[str, ...], line: str, last: str
) -> None:
    said = measure(*arguments)
    assert (said.code, said.out) == (1, "")
    lines = said.err.splitlines()
    assert lines[0].startswith(f"initstats: {line}")
    assert lines[-1].endswith(last)
    foreign = [str(Path(str(package.__file__)).parent) for package in (ist, torch)]
    assert not [text for text in lines if any(package in text for package in foreign)]
    assert ("Traceback" in said.err) == ("own_models.py" in "".join(lines[1:]))
    if "Fails" in arguments:
        assert [text.rpartition("in ")[2] for text in lines if "own_models.py" in text] == [
            "forward",
            "help",
        ]


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import nothing_here", "importing own_broken.py failed: No module named 'nothing_here'"),
        ("def f(:", "importing own_broken.py raised SyntaxError: invalid syntax"),
        ("1 / 0", "importing own_broken.py raised ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "importing own_broken.py raised SystemExit: 0"),
    ],
)
def test_a_file_that_cannot_be_imported(
    measure: Measure, tmp_path: Path, source: str, line: str
) -> None:
    (tmp_path / "own_broken.py").write_text(f"{source}\n")
    said = measure("own_broken.py:make", "--input", "3")
    assert said.code == 1
    lines = said.err.splitlines()
    assert lines[0].startswith(f"initstats: {line}")
    assert any("own_broken.py" in text for text in lines[1:])


def test_an_error_of_ours_is_no_finding(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    fail = mock.Mock(side_effect=TypeError("a mistake of ours"))
    monkeypatch.setattr("initstats.diagnosis.diagnose", fail)
    said = measure("sound", "--input", "4,8")
    assert said.code == 2
    assert said.err.startswith("initstats: TypeError: a mistake of ours (initstats --traceback")
