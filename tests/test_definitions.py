"""A name that has come to mean another thing does not go on with what it meant before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initstats as ist
from initstats import cli
from initstats.activations import ACTIVATIONS, Activation, Facts
from initstats.inits import INITS
from initstats.moments import STATISTICS
from initstats.moments.table import Field, Summary
from initstats.networks import NETWORKS, Activate, Dense, Serial
from initstats.store import StoreError
from initstats.sweep import FailedCellsError

Define = Callable[[Any], dict[str, Any]]
"""Defines a name by a value, and gives the field of a grid that names it."""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    for catalog in (ACTIVATIONS, INITS, NETWORKS, STATISTICS):
        for name in [name for name in catalog if name.startswith("mine")]:
            catalog.remove(name)


def grid(**fields: Any) -> ist.Grid:
    small = {"inits": ["normal"], "activations": ["relu"], "widths": [6], "depth": 2, "seeds": 1}
    return ist.Grid(**small | fields)


def scaled(factor: float) -> dict[str, Any]:
    @ist.register_activation()
    def mine_scaled(x: Tensor) -> Tensor:
        return factor * x.relu()

    return {"activations": ["mine_scaled"]}


def clipped(limit: float) -> dict[str, Any]:
    @ist.register_activation()
    def mine_clipped(x: Tensor) -> Tensor:
        return x.clamp(-limit, limit)

    return {"activations": ["mine_clipped"]}


def cut(limit: float) -> dict[str, Any]:
    """Differs between a tenth of the limits alone."""

    @ist.register_activation()
    def mine_cut(x: Tensor) -> Tensor:
        return torch.where(x.abs() > limit / 10, x, 0)

    return {"activations": ["mine_cut"]}


def sloped(slope: float) -> dict[str, Any]:
    facts = Facts(derivative=lambda x: torch.full_like(x, slope))

    @ist.register_activation(facts)
    def mine_sloped(x: Tensor) -> Tensor:
        return 2 * x

    return {"activations": ["mine_sloped"]}


def default(factor: float) -> dict[str, Any]:
    def mine_default(x: Tensor, *, factor: float) -> Tensor:
        return factor * x

    mine_default.__kwdefaults__ = {"factor": factor}
    ist.register_activation()(mine_default)
    return {"activations": ["mine_default"]}


def named(factor: float) -> dict[str, Any]:
    return {"activations": {"my own": lambda x: factor * x}}


def module(slope: float) -> dict[str, Any]:
    return {"activations": {"my module": nn.PReLU(init=slope)}}


def drawn(std: float) -> dict[str, Any]:
    @ist.register_init()
    def mine_drawn(weight: Tensor, *, generator: torch.Generator) -> None:
        weight.normal_(0, std, generator=generator)

    return {"inits": ["mine_drawn"]}


def wide_drawn(std: float) -> dict[str, Any]:
    """Differs where the fan-in is larger than the fan-out alone, and takes matrices alone."""

    @ist.register_init()
    def mine_wide(weight: Tensor, *, generator: torch.Generator) -> None:
        out, inputs = weight.shape
        weight.normal_(0, std if inputs > out else 1.0, generator=generator)

    return {"inits": ["mine_wide"]}


def biased(std: float) -> dict[str, Any]:
    @ist.register_init()
    def mine_biased(weight: Tensor, bias: Tensor, *, generator: torch.Generator) -> None:
        weight.normal_(generator=generator)
        bias.normal_(0, std, generator=generator)

    return {"inits": ["mine_biased"]}


def following(factor: float) -> dict[str, Any]:
    @ist.register_init()
    def mine_following(
        weight: Tensor, activation: Activation, *, generator: torch.Generator
    ) -> None:
        weight.normal_(0, factor if activation.name != "identity" else 1.0, generator=generator)

    return {"inits": ["mine_following"]}


def narrowed(factor: float) -> dict[str, Any]:
    @ist.register_network()
    def mine_narrowed(width: int, depth: int) -> Serial:
        sizes = (max(1, round(width * factor**number)) for number in range(depth))
        return Serial(*(each for size in sizes for each in (Dense(size), Activate())))

    return {"network": "mine_narrowed"}


def pulled(factor: float) -> dict[str, Any]:
    @dataclass(frozen=True)
    class Scaled(Dense):
        """A layer whose way back alone is scaled."""

        def folded(self, columns: Tensor) -> Tensor:
            return factor * super().folded(columns)

    @ist.register_network()
    def mine_pulled(width: int, depth: int) -> Serial:
        return Serial(*(each for _ in range(depth) for each in (Scaled(width), Activate())))

    return {"network": "mine_pulled", "backward": True}


def counted(limit: float) -> dict[str, Any]:
    field = Field(lambda x: (x.abs() > limit).sum(-1).double())

    @ist.register_statistic(field=field)
    def mine_counted(s: Summary) -> Any:
        return s.total("mine_counted") / s.count

    return {}


def averaged(power: float) -> dict[str, Any]:
    @ist.register_statistic()
    def mine_averaged(s: Summary) -> Any:
        return s.root_mean_square**power

    return {}


KINDS: dict[Define, str] = {
    scaled: "activation 'mine_scaled'",
    clipped: "activation 'mine_clipped'",
    cut: "activation 'mine_cut'",
    sloped: "activation 'mine_sloped'",
    default: "activation 'mine_default'",
    named: "activation 'my own'",
    module: "activation 'my module'",
    drawn: "init 'mine_drawn'",
    wide_drawn: "init 'mine_wide'",
    biased: "init 'mine_biased'",
    following: "init 'mine_following'",
    narrowed: "network 'mine_narrowed'",
    pulled: "network 'mine_pulled'",
    counted: "statistic 'mine_counted'",
    averaged: "statistic 'mine_averaged'",
}


@pytest.mark.parametrize(
    ("define", "what"), KINDS.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_another_definition_is_refused(
    toy: ist.Dataset, tmp_path: Path, define: Define, what: str
) -> None:
    ist.run_sweep(grid(**define(0.5)), toy, out=tmp_path)
    ist.run_sweep(grid(**define(0.5)), toy, out=tmp_path)  # the same one, made anew
    before = (tmp_path / "run.sqlite").read_bytes()
    with pytest.raises(StoreError, match=f"run.sqlite was measured when {what} had another defin"):
        ist.run_sweep(grid(**define(0.75) | {"seeds": 2}), toy, out=tmp_path)
    assert (tmp_path / "run.sqlite").read_bytes() == before
    assert len(ist.run_sweep(grid(**define(0.5) | {"seeds": 2}), toy, out=tmp_path))


def test_what_is_not_asked_for_may_mean_anything(toy: ist.Dataset, tmp_path: Path) -> None:
    ist.run_sweep(grid(**scaled(0.5)), toy, out=tmp_path)
    scaled(0.75)
    table = ist.run_sweep(grid(activations=["tanh"]), toy, out=tmp_path)
    assert set(table["activation"]) == {"tanh"}
    with pytest.raises(StoreError, match="activation 'mine_scaled' had another definition"):
        ist.run_sweep(grid(activations=["tanh", "mine_scaled"]), toy, out=tmp_path)


def test_a_definition_without_cells_may_be_mended(toy: ist.Dataset, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ist.run_sweep(grid(**scaled(0.5)), toy, out=tmp_path, progress=stop)
    table = ist.run_sweep(grid(**scaled(0.75)), toy, out=tmp_path)
    assert list(table["second_moment"]) == list(
        ist.run_sweep(grid(**scaled(0.75)), toy)["second_moment"]
    )
    with pytest.raises(StoreError, match="had another definition"):
        ist.run_sweep(grid(**scaled(0.5)), toy, out=tmp_path)


def test_rounding_is_no_other_definition(toy: ist.Dataset, tmp_path: Path) -> None:
    ist.run_sweep(grid(**scaled(0.5)), toy, out=tmp_path)
    ist.run_sweep(grid(**scaled(0.5 * (1 + 2e-7))), toy, out=tmp_path)


def test_an_activation_without_slopes_is_known_by_its_values(
    toy: ist.Dataset, tmp_path: Path
) -> None:
    def define(factor: float) -> dict[str, Any]:
        def stepped(x: Tensor) -> Tensor:
            return torch.from_numpy(factor * x.detach().numpy())  # nothing for autograd

        return {"activations": {"steps": stepped}}

    ist.run_sweep(grid(**define(0.5)), toy, out=tmp_path)
    ist.run_sweep(grid(**define(0.5)), toy, out=tmp_path)
    with pytest.raises(StoreError, match="activation 'steps' had another definition"):
        ist.run_sweep(grid(**define(2.0)), toy, out=tmp_path)


def test_theory_is_not_told_of_another_function(toy: ist.Dataset, tmp_path: Path) -> None:
    ist.run_sweep(grid(**scaled(0.5)), toy, out=tmp_path)
    averaged(1.0)  # a statistic that theory does not speak of
    assert len(ist.predict_run(tmp_path, toy))
    scaled(0.75)
    with pytest.raises(ValueError, match="activation 'mine_scaled' had another definition: load"):
        ist.predict_run(tmp_path, toy)


PLUGIN = """
import initstats as ist

{helper}

@ist.register_activation()
def mine(x):
    return helped(x.relu())
"""


def test_a_plugin_that_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(helper: str) -> tuple[int, str]:
        (file := tmp_path / "acts.py").write_text(PLUGIN.format(helper=helper))
        sys.modules.pop(str(file), None)
        options = "--inits normal --activations mine --depth 1 --seeds 1 --samples 32 --out run"
        command = f"initstats sweep --plugin acts.py {options} --workers 1 --no-report --no-theory"
        monkeypatch.setattr(sys, "argv", command.split())
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert isinstance(stop.value.code, int)
        return stop.value.code, capsys.readouterr().err

    for same in ("def helped(x):\n    return 0.5 * x", "# Half.\ndef helped(y):\n    return y / 2"):
        assert run(same) == (0, "")
    code, told = run("def helped(x):\n    return x")
    assert (code, told.count("\n")) == (2, 1)
    assert told.startswith("initstats: run/run.sqlite was measured when activation 'mine' had")


def test_a_new_statistic_is_announced(
    toy: ist.Dataset, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    ist.run_sweep(grid(seeds=3), toy, out=tmp_path)
    ist.run_sweep(grid(seeds=4), toy, out=tmp_path)
    assert not recwarn.list
    averaged(1.0)
    with pytest.warns(
        UserWarning, match="mine_averaged will be NaN in 4 cells, measured before"
    ) as told:
        ist.run_sweep(grid(seeds=5), toy, out=tmp_path)
    assert [warning.filename for warning in told] == [__file__]
    STATISTICS.remove("mine_averaged")
    with pytest.warns(
        UserWarning, match="mine_averaged will be NaN in 2 cells, measured now without"
    ):
        ist.run_sweep(grid(seeds=7), toy, out=tmp_path)
    ist.run_sweep(grid(seeds=7), toy, out=tmp_path)
    assert len(recwarn.list) == 0


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda s: s.rms, r"AttributeError: .*'rms'; it is given a Summary, which has units, .*"),
        (lambda s: s.unit("variance"), "ValueError: unknown field 'variance'.* available: count"),
        (lambda s: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda s: 3.0, r"has shape \(\), \(5,\) is expected: a number for each tensor"),
        (lambda s: s.unit("mean"), r"has shape \(5, 8\), \(5,\) is expected"),
        (lambda s: "much", "ValueError: could not convert string to float"),
    ],
)
def test_a_statistic_that_fails_is_named(
    toy: ist.Dataset, tmp_path: Path, read: Callable[..., Any], message: str
) -> None:
    read.__name__ = "mine_broken"
    ist.register_statistic()(read)
    with pytest.raises(
        (ValueError, FailedCellsError), match=f"statistic 'mine_broken' .*{message}"
    ):
        ist.run_sweep(grid(), toy, out=tmp_path)
    with pytest.raises((ValueError, FailedCellsError), match="statistic 'mine_broken'"):
        ist.run_sweep(grid(), toy)


def test_a_field_that_fails_is_named(toy: ist.Dataset) -> None:
    @ist.register_statistic(field=Field(lambda x: x.nothing()))
    def mine_field(s: Summary) -> Any:
        return s.count

    with pytest.raises(
        (ValueError, FailedCellsError),
        match=r"field of statistic 'mine_field' .*'nothing'; it is g",
    ):
        ist.run_sweep(grid(), toy)
