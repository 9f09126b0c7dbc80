"""Models of the user's own in a training study: sound ones are trained, others refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import initstats as ist
from initstats.activations import ACTIVATIONS
from initstats.draws import generator_for
from initstats.inits import INITS
from initstats.training import architectures
from initstats.training.autograd import AutogradNet
from initstats.training.batches import training_batches

STUDY: dict[str, Any] = {"inits": ["kaiming_normal"], "epochs": 2, "batch": 20, "lr": 0.1}


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


MODELS = """
import torch
import torch.nn.functional as F
from torch import nn

def noisy(activation, init):
    layers = [nn.Flatten(), nn.Linear(196, 20), nn.BatchNorm1d(20), activation]
    return init(nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(20, 10)))

def plain(activation, init):
    return init(nn.Sequential(nn.Flatten(), nn.Linear(196, 20), activation, nn.Linear(20, 10)))

def nothing(activation, init):
    return None

def seven(activation, init):
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 7))

def two(activation, init):
    class Two(nn.Linear):
        def forward(self, x):
            return x, x
    return Two(3, 3)

def still(activation, init):
    return nn.Flatten()

def faulty(activation, init):
    raise KeyError("mine")

def leaving(activation, init):
    raise SystemExit(3)

def picky(activation, init):
    if "tanh" in repr(activation):
        raise NotImplementedError(repr(activation))
    return plain(activation, init)

def scaled(activation, init):
    return init(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))

def fitting(activation, init):
    return init(nn.Sequential(nn.Flatten(), nn.Linear(196, 10)))

def more(activation, init):
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 1000))

def deep(activation, init):
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 10), nn.Unflatten(1, (10, 1)))

def guessing(activation, init):
    class Guess(nn.Sequential):
        def forward(self, x):
            return F.one_hot(super().forward(x).argmax(-1), 10).float()
    return Guess(nn.Flatten(), nn.Linear(196, 10))

def auxiliary(activation, init):
    class Two(nn.Sequential):
        def forward(self, x):
            y = super().forward(x)
            return {"out": y} if self.training else y
    return Two(nn.Flatten(), nn.Linear(196, 10))

kept = []

def shared(activation, init):
    kept[:] = kept or [plain(activation, init)]
    return kept[0]

def normed(activation, init):
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 10), nn.BatchNorm1d(10))

def double(activation, init):
    class Double(nn.Sequential):
        def forward(self, x):
            return super().forward(x.double())
    return Double(nn.Flatten(), nn.Linear(196, 8), activation, nn.Linear(8, 10)).double()

def layered(activation, init):
    return init(nn.Sequential(nn.Flatten(), nn.Linear(196, 8), nn.LayerNorm(8), activation,
                              nn.Linear(8, 10)))

def lazy(activation, init):
    layers = [nn.LazyConv2d(4, 3, 2), activation, nn.LazyBatchNorm2d(), nn.Flatten()]
    return init(nn.Sequential(*layers, nn.LazyLinear(10)))

def late(activation, init):
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = None
        def forward(self, x):
            if self.head is None:
                self.head = nn.Linear(x[0].numel(), 10)
            return self.head(x.flatten(1))
    return Late()

def resting(activation, init):
    print("made")
    return plain(activation, init).eval().requires_grad_(True)

def frozen(activation, init):
    model = plain(activation, init)
    model[1].requires_grad_(False)
    return model

number = 3
"""


@pytest.fixture
def models(tmp_path: Path) -> str:
    """A file of models; its path."""
    (file := tmp_path / "own_models.py").write_text(MODELS)
    return str(file)


def test_a_model_of_ones_own_is_trained_as_the_same_network_is(
    digits: ist.Dataset, models: str
) -> None:
    """Linear layers and an activation, once of our own blocks, once of torch's modules."""
    grid = STUDY | {"inits": ["xavier_normal"], "seeds": 2}
    ours = ist.compare_training(["tanh"], digits, "mlp", **grid | {"widths": 20, "depths": 1})
    theirs = ist.compare_training(["tanh"], digits, f"{models}:plain", **grid)
    assert set(theirs["network"]) == {f"{models}:plain"}
    for name in ("train_loss", "valid_loss", "valid_accuracy", "test_loss"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4)


def test_chance_in_a_model_comes_from_the_seed_and_goes_nowhere_else(
    digits: ist.Dataset, models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws and running means are those of a loop of torch's own."""
    made: list[nn.Module] = []

    class Kept(AutogradNet):
        def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
            super().__init__(model, *args, **kwargs)
            made.extend([copy.deepcopy(model), model])

    monkeypatch.setattr(architectures, "AutogradNet", Kept)
    grid = STUDY | {"network": f"{models}:noisy", "seeds": 2, "schedule": "constant"}
    before = torch.get_rng_state()
    table = ist.compare_training(["relu", "tanh"], digits, out=tmp_path / "run", **grid)
    assert torch.equal(torch.get_rng_state(), before)
    del made[:6]  # of the rehearsal
    start, end = made[:2]
    assert start.state_dict()["2.num_batches_tracked"] == 0
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator_for(0, "model").get_state())
        optimizer = torch.optim.SGD(start.train().parameters(), 0.1, momentum=0.9)
        for epoch in range(2):
            for x, labels in training_batches(digits.train, 0, epoch, 20):
                loss = F.cross_entropy(start(x.T.reshape(20, 1, 14, 14)), torch.from_numpy(labels))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    for name, value in start.state_dict().items():
        torch.testing.assert_close(end.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    relu, tanh = (made[index].state_dict() for index in (4, 6))  # of the other seed
    assert all(torch.equal(relu[name], tanh[name]) for name in relu)
    assert_same(ist.compare_training(["relu", "tanh"], digits, watch=[], **grid), table)
    alone = ist.compare_training(["tanh"], digits, **grid | {"seeds": [1]})
    same = table.query("activation == 'tanh' and seed == 1").reset_index(drop=True)
    assert_same(alone, same.astype(alone.dtypes))
    found = ist.load_training_statistics(tmp_path / "run")
    assert set(found["step"]) == {0, 40}


OUTPUTS = r"into a tensor of shape \(\d+, 10\), with an output for each class: it gives "


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "must return a torch.nn.Module, and returns NoneType"),
        ("seven", OUTPUTS + r"one of shape \(4, 7\)"),
        ("more", OUTPUTS + r"one of shape \(4, 1000\)"),
        ("deep", OUTPUTS + r"one of shape \(4, 10, 1\)"),
        ("two", OUTPUTS + "a tuple"),
        ("auxiliary", OUTPUTS + "a dict"),
        ("guessing", "no gradient flows back from the model's output"),
        ("still", "no parameters to train"),
        ("faulty", "KeyError: 'mine'"),
        ("leaving", "SystemExit: 3"),
        ("picky", "with kaiming_normal and tanh: NotImplementedError"),
        ("scaled", r"on samples of shape \(1, 14, 14\) with .*: RuntimeError: mat1 and mat2"),
        ("shared", "gives one model twice"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_any_run(
    digits: ist.Dataset, models: str, tmp_path: Path, name: str, message: str
) -> None:
    network, out = f"{models}:{name}", tmp_path / "run"
    with pytest.raises(ValueError, match=message) as error:
        ist.compare_training(["relu", "tanh"], digits, network, 1, out=out, **STUDY)
    assert "\n" not in str(error.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("plain", {"loss": "mse"}, r"shape \(4, 1\), with one output, the number of the class"),
        ("fitting", {"inits": ["matched", "lsuv"]}, "with lsuv and relu: init 'lsuv' is fitted"),
        ("guessing", {"watch": []}, "the model's output does not depend on its parameters"),
        ("normed", {"batch": 1}, "Expected more than 1 value per channel"),
    ],
)
def test_a_model_that_does_not_fit_its_settings_is_refused(
    digits: ist.Dataset, models: str, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ist.compare_training(["relu"], digits, f"{models}:{name}", 1, **STUDY | settings)


@pytest.mark.parametrize(
    "name", ["double", "layered", "lazy", "late", "resting", "frozen", "normed"]
)
def test_a_sound_model_is_trained_and_twice_alike(
    digits: ist.Dataset, models: str, name: str
) -> None:
    first, second = (
        ist.compare_training(["tanh"], digits, f"{models}:{name}", 1, **STUDY | {"epochs": 1})
        for seed in range(2)
        if torch.manual_seed(seed)
    )
    assert_same(first, second)
    assert first["valid_accuracy"].notna().all()


def test_a_layer_that_learns_its_shape_is_drawn_as_one_that_knows_it() -> None:
    def drawn(*layers: nn.Module) -> nn.Module:
        def function(activation: nn.Module, init: Any) -> nn.Module:
            model: nn.Module = init(nn.Sequential(nn.Flatten(), *copy.deepcopy(layers)))
            return model

        images = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
        split = ist.Dataset.from_arrays((images, np.arange(5)), (images, np.arange(5))).train
        factory = architectures.Factory("own:net", function)
        return factory.model(INITS["kaiming_normal"], ACTIVATIONS["relu"], 3, split)[0]

    lazy = drawn(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 2))
    known = drawn(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 2))
    for one, other in zip(lazy.parameters(), known.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_factory_that_is_not_there_or_goes_nowhere_is_refused(
    digits: ist.Dataset, models: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('on import')")
    for network, message in [
        (f"{models}:absent", "has no function 'absent'"),
        (f"{models}:number", "has no function 'number'"),
        (str(tmp_path / "none.py:f"), "none.py"),
        (str(tmp_path / "broken.py:f"), "on import"),
        ("no_such_module:f", "no_such_module"),
    ]:
        with pytest.raises(ValueError, match=message):
            ist.TrainingGrid(network=network)

    def local(activation: nn.Module, init: Any) -> Any:
        return init(nn.Sequential(nn.Flatten(), nn.Linear(196, 10)))

    for own in (local, lambda activation, init: local(activation, init)):
        assert len(ist.compare_training(["relu"], digits, own, 1, **STUDY)) == 2
        with pytest.raises(ValueError, match="is no function of a module .* or use workers=1"):
            ist.compare_training(["relu"], digits, own, 2, workers=2, **STUDY)


@pytest.mark.parametrize(
    "line",
    ["networks = [{0!r}]", "networks = {0!r}", "network = {0!r}", "networks = {{ {0!r} = 1 }}"],
)
def test_a_file_that_names_a_model_must_be_trusted(tmp_path: Path, line: str) -> None:
    (file := tmp_path / "ran.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('it ran').touch()\n"
        "def f(activation, init): ...\n"
    )
    (config := tmp_path / "train.toml").write_text(line.format(f"{file}:f"))
    with pytest.raises(ValueError, match=r"names models, whose code would run here.*trust-plugins"):
        ist.TrainingGrid.from_toml(config)
    assert not (tmp_path / "it ran").exists()
    if "{" not in line.format("x"):
        assert ist.TrainingGrid.from_toml(config, trusted=True).widths == (0,)
        assert (tmp_path / "it ran").exists()
