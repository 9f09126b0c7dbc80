"""`initstats audit`, its annotations, its page and its figures."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from initstats import audit, cli
from initstats.audits import Audit
from initstats.cli.annotations import Place, annotation
from initstats.plots import figure, of_page

OWN = '''
import torch
from torch import nn


class Block(nn.Module):
    """A residual branch."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)
        for layer, std in ((self.up, 0.02), (self.down, 0.02 / 12**0.5)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


def sound():
    return nn.Sequential(*(Block() for _ in range(6)))


def forgotten():
    model = sound()
    nn.init.normal_(model[3].down.weight, std=0.02)
    return model


def broken():
    model = sound()
    model[1].up.weight.data[0] = float("nan")
    return model


def plain():
    return nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 1))


def lazy():
    return nn.LazyLinear(4)


def meta():
    return nn.Linear(4, 4, device="meta")


def cloned():
    one = nn.Linear(30, 40)
    return nn.Sequential(one, nn.Linear(40, 30), type(one)(30, 40), clone(one))


def clone(one):
    import copy

    return copy.deepcopy(one)


def nothing():
    return nn.Identity()


def fails():
    raise KeyError("no such width")


made = plain()
'''
BLOCK = OWN.split("\n").index("class Block(nn.Module):") + 1
CLONED = OWN.split("\n").index("def cloned():") + 1


class Said(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    (tmp_path / "own_drawn.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)

    def call(factory: str, *arguments: str) -> Said:
        words = ["initstats", "audit", f"own_drawn.py:{factory}", *arguments]
        with mock.patch.object(sys, "argv", words), pytest.raises(SystemExit) as end:
            cli.main()
        return Said(int(end.value.code or 0), *capsys.readouterr())

    return call


def test_a_sound_model_passes_and_a_forgotten_block_does_not(run: Run) -> None:
    said = run("sound")
    assert (said.code, said.err) == (0, "")
    assert "*.down.weight Linear 64x256" in said.out
    assert "normal, std 0.02 / sqrt(2 blocks)" in said.out
    said = run("forgotten")
    assert said.code == 1
    assert "warning: out_of_line at 3.down.weight" in said.out
    assert "remedy: initialize it as 0.down.weight" in said.out
    assert run("forgotten", "--fail-on", "error").code == 0
    assert run("broken", "--fail-on", "error").code == 1
    assert run("broken", "--fail-on", "never").code == 0


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (("nothing",), 2, "Identity has no parameters to audit"),
        (("meta",), 2, "Linear is on the meta device"),
        (("lazy",), 2, "LazyLinear is lazy, and holds no numbers until it runs: give it an --inp"),
        (("no_such",), 2, "has no function 'no_such'"),
        (("plain", "--level", "3"), 2, "level is a probability between 0 and 1"),
        (("plain", "--vocabulary", "3"), 2, "--vocabulary is for --tokens"),
        (("plain", "--no-figures"), 2, "say where with --out"),
        (("plain", "--expected", "gtp2"), 2, "did you mean 'gpt2'"),
        (("plain", "--expected", "no.toml"), 2, "no.toml cannot be read"),
        (("plain", "--lock", "own_drawn.py/x"), 2, "own_drawn.py is a file, no folder"),
        (("plain", "--format", "github", "--json"), 2, "--format github and --json"),
    ],
)
def test_what_cannot_be_audited_is_one_line(
    run: Run, given: tuple[str, ...], code: int, message: str
) -> None:
    said = run(*given)
    assert (said.code, said.out) == (code, "")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_errors_of_the_users_own(run: Run) -> None:
    said = run("fails")
    assert said.code == 1
    assert said.err.startswith("initstats: own_drawn.py:fails raised KeyError: 'no such width'")
    said = run("plain", "--input", "2,9")
    assert said.code == 1
    assert said.err.startswith("initstats: the model raised RuntimeError on (2, 9)")


def test_a_lazy_model_runs_and_a_seed_draws_the_same(run: Run) -> None:
    first, again = (run("lazy", "--input", "3,30", "--json", "-").out for _ in range(2))
    assert first == again
    assert json.loads(first)["parameters"][0]["shape"] == "4x30"
    assert run("lazy", "--input", "3,30", "--json", "-", "--seed", "1").out != first
    assert run("made").code == 0


def test_json_and_the_page_have_what_the_audit_has(run: Run) -> None:
    said = run("forgotten", "--out", "page", "--json", "found.json")
    assert said.code == 1
    known = json.loads(Path("found.json").read_text())
    assert {*known} == {"network", "words", "findings", "roles", "parameters"}
    assert known["findings"][0]["where"] == "3.down.weight"
    assert known["words"].startswith(
        "weights normal with std 0.02 (6 of 12), normal with std 0.02 / sqrt(2 blocks) (5)"
    )
    page = Path("page/index.html").read_text()
    assert "The audit found 1 warning." in page
    assert page.index("out_of_line") < page.index('id="scales_over_blocks"')
    for name, rows in {"parameters": 24, "roles": 4, "findings": len(known["findings"])}.items():
        assert len(pd.read_csv(f"page/{name}.csv")) == rows
    assert Path("page/figures/scales_by_fan.svg").is_file()
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert run("sound", "--out", "page", "--quiet").out == "page/index.html\n"


def test_a_lock_file_is_written_and_compared_with(run: Run) -> None:
    assert run("sound", "--lock", "kept/lock.toml").code == 0
    assert run("sound", "--seed", "3", "--expected", "kept/lock.toml").code == 0
    said = run("forgotten", "--expected", "kept/lock.toml", "--fail-on", "error")
    assert said.code == 1
    assert "error: as_expected at 3.down.weight" in said.out


def test_json_has_the_names_of_all_parameters_of_a_finding(run: Run) -> None:
    said = run("sound", "--expected", "mup", "--json", "-", "--fail-on", "error")
    rows = [row for row in json.loads(said.out)["findings"] if row["rule"] == "as_expected"]
    names = [name for row in rows for name in row["names"]]
    assert {f"{number}.up.weight" for number in range(6)} <= {*names}
    assert "..." not in "".join(row["where"] for row in rows)


UNESCAPED = {"%0A": "\n", "%0D": "\r", "%3A": ":", "%2C": ",", "%25": "%"}


def read(line: str) -> dict[str, str]:
    """An annotation as GitHub's runner reads it: up to the second ::, then unescaped."""
    command, _, message = line.removeprefix("::").partition("::")
    level, _, given = command.partition(" ")
    fields = dict(each.split("=", 1) for each in given.split(","))
    fields |= {"level": level, "message": message}
    for name, text in fields.items():
        for code, letter in UNESCAPED.items():
            text = text.replace(code, letter)
        fields[name] = text
    return fields


def test_annotations_are_escaped() -> None:
    place = Place("odd, 100%: name.py", 7)
    line = annotation("error", "a:: b, 5%", "50%: of, it\r\nand %0A", place)
    assert "\n" not in line
    assert read(line) == {
        "level": "error",
        "file": "odd, 100%: name.py",
        "line": "7",
        "title": "a:: b, 5%",
        "message": "50%: of, it\r\nand %0A",
    }
    assert annotation("notice", "a", "b", None) == "::notice title=a::b"


def test_annotations_stand_at_the_users_class_or_factory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run("forgotten", "--format", "github")
    assert said.code == 1
    head, line = said.out.splitlines()
    assert head == "Sequential: 24 parameters, 198,528 entries"
    found = read(line)
    assert (found["level"], found["title"]) == ("warning", "initstats: out_of_line")
    assert (found["file"], found["line"]) == ("own_drawn.py", str(BLOCK))
    assert found["message"].startswith("3.down.weight: its std, 0.0")
    assert found["message"].endswith("\nremedy: initialize it as 0.down.weight")
    # torch's classes alone: the factory's line, from the root of the workflow's checkout
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path.parent))
    found = read(run("cloned", "--format", "github").out.splitlines()[1])
    assert (found["file"], found["line"]) == (f"{tmp_path.name}/own_drawn.py", str(CLONED))
    assert run("sound", "--format", "github", "--quiet").out == ""


def faulty() -> Audit:
    pairs = [(nn.Linear(64, 256), nn.Linear(256, 64)) for _ in range(12)]
    for up, down in pairs:
        nn.init.normal_(up.weight, std=0.02)
        nn.init.normal_(down.weight, std=0.02 / math.sqrt(24))
    nn.init.normal_(pairs[3][1].weight, std=0.02)
    nn.init.zeros_(pairs[7][0].weight)
    return audit(nn.Sequential(*(nn.Sequential(*pair) for pair in pairs)))


class Deep(nn.Module):
    """Of 600 roles."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(600):
            self.add_module(
                f"part_{'abcdefghijklmnopqrstuvwxyz'[number % 26]}{number}x",
                nn.Linear(4, 4, bias=False),
            )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "one layer": lambda: nn.Linear(5, 3),
    "600 roles": Deep,
    "no weight": lambda: nn.LayerNorm(4),
    "embedding": lambda: nn.Embedding(7, 5),
    "recurrent": lambda: nn.LSTM(4, 8, 3),
    "parameters in a list": lambda: nn.ParameterList(torch.randn(9, 9) for _ in range(4)),
    "convolutions": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)),
    "half of it without numbers": lambda: nn.Sequential(
        nn.Linear(4, 4), nn.Linear(4, 4, device="meta")
    ),
}


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("name", MODELS)
def test_the_page_of_any_model(
    name: str, tmp_path: Path, faults: Callable[[Figure], list[str]]
) -> None:
    torch.manual_seed(0)
    found = audit(MODELS[name]())
    page = found.report(tmp_path / "page").read_text(encoding="utf-8")
    assert found.network in page
    for each in of_page("audit"):
        if not each.missing(found):
            for width in (3.3, 9.0):
                assert not faults(figure(each.name, found, width)), each.name


def test_figures_show_what_was_drawn(faults: Callable[[Figure], list[str]]) -> None:
    torch.manual_seed(0)
    found = faulty()
    over, fans = of_page("audit")
    assert (over.name, fans.name) == ("scales_over_blocks", "scales_by_fan")
    frame = over.frame(found)
    own = found.table.set_index("name")
    row = frame.set_index("parameter").loc["3.1.weight"]
    assert (row["at"], row["fault"]) == (4, "out_of_line")
    assert row["std"] == own["std"]["3.1.weight"]
    zeros = frame.set_index("parameter").loc["7.0.weight"]
    assert (zeros["std"], zeros["fault"]) == (0, "out_of_line")
    scaled = fans.frame(found).set_index("parameter")["scaled"]
    assert scaled["0.1.weight"] == pytest.approx(own["std"]["0.1.weight"] * 256**0.5)
    expected = fans.frame(found).set_index("parameter")["expected"]
    assert expected["0.1.weight"] == pytest.approx(0.02 / 24**0.5 * 16)
    for each in (over, fans):
        for width in (3.3, 9.0):
            assert not faults(figure(each.name, found, width)), each.name
