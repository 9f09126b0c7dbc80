"""`initstats train`: what it prints, keeps and refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import initstats as ist
from initstats import cli
from initstats.store import committed_cells

SMALL = {
    "network": "mlp",
    "inits": "kaiming_normal",
    "images": "1000",
    "tuning-images": "1000",
    "epochs": "1",
    "batch": "100",
}
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Typed:
    """Type `initstats train` in an empty folder: exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str, **fields: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["initstats", "train", *words, *options(fields)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert isinstance(stop.value.code, int)
        return (stop.value.code, *capsys.readouterr())

    return command


def options(fields: dict[str, str]) -> list[str]:
    return [word for name, value in fields.items() for word in (f"--{name}", value)]


def test_a_study_is_trained_told_of_and_extended(typed: Typed) -> None:
    fields = SMALL | {"activations": "relu,leaky_relu(negative_slope=0)", "workers": "1"}
    code, out, err = typed("--out", "study", "--no-figures", **fields, seeds="2")
    assert (code, err) == (0, "")
    assert "mnist: 1,000 images to train on, 10,000 to validate with; 4 runs" in out
    assert "4 of 4 runs (4 new) in study" in out
    assert "report: study/index.html" in out
    assert "leaky_relu(negative_slope=0)" in (told := out.split("init kaiming_normal:\n")[1])
    assert "same" in told.splitlines()[0]
    other = ("--baseline", "leaky_relu(negative_slope=0.00)", "--no-figures")
    code, out, _ = typed("--config", "study/train.toml", "--seeds", "1,2", "--out", "study", *other)
    assert (code, "4 of 4 runs (2 new) in study" in out) == (0, True)
    words, about, *_ = out.split("init kaiming_normal:\n")[1].splitlines()
    assert "relu has the same validation accuracy as leaky_relu(negative_slope=0)" in words
    assert "in each of 2 seeds" in words
    assert about == "the report is about all 6 runs that study keeps"
    page = Path("study/index.html").read_text()
    again = "train.toml --baseline &#39;leaky_relu(negative_slope=0)&#39; --out FOLDER"
    assert "train better than <code>leaky_relu(negative_slope=0)</code>" in page
    assert again in page
    table = ist.load_training("study")
    assert table.groupby("activation", observed=True)["valid_accuracy"].count().tolist() == [3, 3]
    assert set(ist.load_tuning("study")["seed"]) == {0, 1}  # type: ignore[index]
    config = Path("study/train.toml").read_text()
    assert ist.TrainingGrid.from_toml("study/train.toml").seeds == (0, 1, 2), config
    for file in ("comparisons.csv", "variants.csv", "table.csv"):
        assert Path("study", file).is_file()


def test_one_rate_for_all_is_said_to_be_that(typed: Typed) -> None:
    fields = SMALL | {"activations": "relu,tanh", "seeds": "2", "workers": "1"}
    code, out, _ = typed("--out", "study", "--lr", "0.1", "--no-figures", **fields)
    assert (code, "at one learning rate for all: another may rank them otherwise" in out) == (
        0,
        True,
    )
    assert ist.load_tuning("study") is None
    assert set(ist.load_training("study")["lr"]) == {0.1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--activations", "rellu"), "did you mean 'relu'?"),
        (("--optimizer", "adam"), "did you mean 'adamw'?"),
        (("--rates", "0.1,x"), "rates: 'x' is not a number"),
        (("--rates", "0.1"), "cannot show where the best one is"),
        (("--lr", "0.1", "--rates", "1,2,3"), "lr and rates are both given"),
        (("--images", "70000"), "images: 70000 are asked for, and there are 50000"),
        (("--network", "nowhere:net"), "network 'nowhere:net' cannot be imported"),
        (("--network", "cnn,mlp"), "widths: these networks have different ones"),
        (("--augment", "flop"), "did you mean 'flip'?"),
        (("--data", "nowhere"), "nowhere"),
        (("--config", "none.toml"), "none.toml"),
        (("--baseline", "rellu"), "unknown baseline 'rellu': did you mean 'relu'? available: relu"),
        (("--baseline", "gelu"), "general_relu, kaiming_normal, torch_default"),
        (("--baseline", "relu(leak=1)"), "unknown parameter"),
        (("--baseline", "relu", "--activations", "relu"), "kaiming_normal, torch_default"),
    ],
)
def test_what_is_wrong_is_a_line(typed: Typed, words: tuple[str, str], said: str) -> None:
    code, _, err = typed(*words, "--out", "study")
    assert (code, err.count("\n")) == (2, 1), err
    assert said in err
    assert not Path("study").exists()


def test_models_of_a_file_need_trust(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "from torch import nn\n"
        "def net(activation, init):\n"
        "    return init(nn.Sequential(nn.Flatten(), nn.Linear(784, 8), activation,"
        " nn.Linear(8, 10)))\n"
    )
    fields = SMALL | {"network": "models.py:net", "activations": "relu", "seeds": "1"}
    small = ("--lr", "0.1", "--workers", "1", "--no-report")
    code, out, err = typed("--out", "study", *small, **fields)
    assert (code, err) == (0, ""), out
    code, _, err = typed("--config", "study/train.toml", "--out", "study")
    assert (code, "names models, whose code would run here: models.py:net" in err) == (2, True)
    again = ("--config", "study/train.toml", "--out", "study", "--no-report")
    code, out, _ = typed(*again, "--trust-plugins")
    assert (code, "1 of 1 run (0 new)" in out) == (0, True)


def test_ctrl_c_keeps_what_is_trained(tmp_path: Path) -> None:
    fields = SMALL | {"activations": "relu,tanh", "seeds": "400", "workers": "1", "lr": "0.1"}
    command = [sys.executable, "-m", "initstats", "train", *options(fields), "--out", "study"]
    where = os.pathsep.join([str(Path(ist.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": where},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "study" / "run.sqlite").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    while not _kept(tmp_path / "study") and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (130, 1), err
    kept = _kept(tmp_path / "study")
    assert f"{kept:,} of 800 run" in err
    assert 0 < kept < 800
    assert len(ist.load_training(tmp_path / "study")) == kept


def _kept(folder: Path) -> int:
    try:
        return len(committed_cells(folder)[1])
    except ValueError:  # not begun yet
        return 0
