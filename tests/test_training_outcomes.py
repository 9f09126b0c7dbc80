"""What a training study tells: outcomes, settings, and its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

import initstats as ist
from initstats.sweep import FailedCellsError

STUDY: dict[str, Any] = {"inits": ["kaiming_normal"], "epochs": 2, "batch": 20, "lr": 0.1}


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# outcomes


def test_a_diverged_run_is_a_result_and_disturbs_no_other(
    digits: ist.Dataset, tmp_path: Path
) -> None:
    grid = STUDY | {"network": "mlp", "widths": 20, "depths": 3, "seeds": 2, "lr": 30.0}
    with np.errstate(all="raise"):
        both = ist.compare_training(["squared_relu", "sigmoid"], digits, out=tmp_path, **grid)
    alone = ist.compare_training(["sigmoid"], digits, **grid)
    kept = both[both["activation"] == "sigmoid"].reset_index(drop=True)
    assert_same(kept.astype({"activation": alone["activation"].dtype}), alone)
    lost = both[both["activation"] == "squared_relu"]
    assert lost["outcome"].tolist() == ["diverged"] * 4
    measured = [name for name in map(str, lost) if name.endswith(("_loss", "_accuracy", "_target"))]
    assert lost[measured].isna().to_numpy().all()
    assert lost["step"].tolist() == [20, 40] * 2
    assert set(alone["outcome"]) == {"chance"}
    curves = ist.load_training_curves(tmp_path)
    steps = curves[curves["activation"] == "squared_relu"].groupby("seed")["step"].max()
    assert (steps.reindex([0, 1]).fillna(0) < 40).all()
    statistics = ist.load_training_statistics(tmp_path)
    assert set(statistics[statistics["activation"] == "squared_relu"]["step"]) == {0}


def test_chance_is_the_share_of_the_largest_class(digits: ist.Dataset) -> None:
    """Of classes that no image tells, the largest is all that can be learned."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(300, 5)), (generator.uniform(size=300) < 0.3).astype(int)
    data = ist.Dataset.from_arrays((x, y), (x[:100] + 9, y[:100]))
    table = ist.compare_training(["relu"], data, "mlp", 2, **STUDY | {"lr": 0.003})
    assert table["outcome"].tolist() == ["chance"] * 4
    assert table["valid_accuracy"].between(0, 1).all()
    assert table["test_accuracy"].isna().all()  # there are no such images
    learned = ist.compare_training(["relu"], digits, "mlp", 1, **STUDY)
    assert learned["outcome"].tolist() == ["trained"] * 2


def test_steps_to_the_target_are_read_off_the_curve(digits: ist.Dataset, tmp_path: Path) -> None:
    grid = STUDY | {"network": "mlp", "widths": 20, "seeds": 2, "target": 0.6}
    table = ist.compare_training(["relu"], digits, out=tmp_path, **grid)
    curves = ist.load_training_curves(tmp_path)
    assert curves["step"].tolist() == [*range(1, 41)] * 2
    for seed, own in curves.groupby("seed"):
        first = own["step"][own["train_accuracy"] >= 0.6].min()
        rows = table[table["seed"] == seed]
        assert rows["steps_to_target"].tolist()[1] == first
        assert rows["steps_to_target"].isna().tolist() == [True, False]
        for epoch, mean in enumerate(rows["train_loss"]):
            part = own["train_loss"].iloc[20 * epoch : 20 * epoch + 20]
            assert mean == pytest.approx(part.mean(), rel=1e-12)
    never = ist.compare_training(["relu"], digits, **grid | {"lr": 1e-6})
    assert never["steps_to_target"].isna().all()


def test_a_variant_against_itself_and_a_handicap_of_known_size(digits: ist.Dataset) -> None:
    grid = STUDY | {"network": "mlp", "widths": 20, "seeds": 8}
    table = ist.compare_training(["relu", "leaky_relu(negative_slope=0)"], digits, **grid)
    (told,) = ist.summarize_training(table).to_dict("records")
    assert told["verdict"] == "same in every seed"
    one, other = (rows.drop(columns="activation") for _, rows in table.groupby("activation"))
    assert_same(one.reset_index(drop=True), other.reset_index(drop=True))
    fewer = ist.compare_training(["relu"], digits, **grid | {"images": 120})
    full = table[table["activation"] == "relu"].assign(activation="relu")
    (told,) = ist.summarize_training(
        pd.concat([full, fewer.assign(activation="lamed")], ignore_index=True)
    ).to_dict("records")
    ends = (each[each["epoch"] == 2]["valid_accuracy"].to_numpy() for each in (fewer, full))
    handicap = np.subtract(*ends)
    assert told["verdict"] == "worse"
    assert told["difference"] == pytest.approx(handicap.mean(), rel=1e-9)
    assert told["low"] < handicap.mean() < told["high"] < 0


# settings


def test_a_grid_names_every_fault_at_once() -> None:
    with pytest.raises(ValueError, match="networks: ") as error:
        ist.TrainingGrid(
            networks=["cnnn"], inits=["kaiming"], activations=["reluu"], seeds=-1, images=True,
            epochs=0, batch="x", optimizer="adam", schedule="cosine", weight_decay="a", loss="ce",
            augment=["flop"], rates=[0.1], lr=-1, tuning_seeds=0, target=2, watch=["a"], epoch=3,
        )  # fmt: skip
    told = str(error.value)
    assert "\n" not in told
    for message in (
        "unknown network 'cnnn': did you mean 'cnn'?",
        "unknown init 'kaiming': did you mean 'kaiming_normal'?",
        "unknown activation 'reluu': did you mean 'relu'?",
        "seeds: -1 is not between 1",
        "images: True is not a whole number",
        "epochs: 0 is not between 1",
        "batch: 'x' is not a whole number",
        "unknown optimizer 'adam': did you mean 'adamw'?",
        "unknown schedule 'cosine'",
        "weight_decay: 'a' is not a number",
        "unknown loss 'ce': available: cross_entropy, mse",
        "unknown augmentation 'flop': did you mean 'flip'?",
        "rates: 1 rate cannot show where the best one is: give 3",
        "lr: -1 is not between",
        "tuning_seeds: 0 is not between 1",
        "target: 2 is not between",
        "watch: 'a' is not a whole number",
        "unknown field 'epoch': did you mean 'epochs'?",
    ):
        assert message in told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr = 0.1\nrates = [0.1, 0.2, 0.3]", "lr and rates are both given"),
        ('rates = "0.1"', "rates: a list is expected, not '0.1'"),
        ("augment = 3", "augment: a list is expected, not 3"),
        ('augment = ["flip", "flip"]', "augment: named twice: flip"),
        ("lr = nan", "lr: nan is not between"),
        ('lr = "0.1"', "lr: '0.1' is not a number"),
        ("epochs = 2.5", "epochs: 2.5 is not a whole number"),
        ('networks = ["mlp", "cnn"]', "widths: these networks have different ones: name them"),
        ("networks = 3", "networks: a network is a name or a callable, not 3"),
        ('widths = ["a"]', "widths: .*'a' is not a whole number"),
        ('data = 3\nnetwork = "cnn"', "data: text is expected, not 3"),
        ("activations = []", "activations: the list is empty"),
    ],
)
def test_a_file_of_settings_may_be_wrong(tmp_path: Path, line: str, message: str) -> None:
    (file := tmp_path / "train.toml").write_text(line)
    with pytest.raises(ValueError, match=message) as error:
        ist.TrainingGrid.from_toml(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "grid",
    [
        ist.TrainingGrid(),
        ist.TrainingGrid(activations=["leaky_relu(negative_slope=0:0.4:3)"], seeds=[3, 5], lr=0.1),
        ist.TrainingGrid(
            networks=["mlp", "cnn(kernel=3:5:2)"], widths=[4, 8], depths=2, augment="flip",
            watch=-1, optimizer="adamw", weight_decay=np.float32(0.5), rates=np.array([1, 2, 3]),
        ),
    ],
)  # fmt: skip
def test_a_grid_survives_its_file(tmp_path: Path, grid: ist.TrainingGrid) -> None:
    (file := tmp_path / "train.toml").write_text(grid.to_toml())
    assert ist.TrainingGrid.from_toml(file) == grid
    names = [each.name for each in grid.activations]
    if len(grid.seeds) == 2:
        assert names == [f"leaky_relu(negative_slope={slope})" for slope in ("0", "0.2", "0.4")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 401}, "images: 401 are asked for, and there are 400 to train on"),
        ({"batch": 401}, "images: 400 to train on do not fill a batch of 401"),
        ({"lr": None, "tuning_images": 20}, "tuning_images: 16 to train on do not fill a batch"),
        ({"lr": None, "tuning_images": 401}, "tuning_images: 401 are asked for"),
        ({"watch": [41]}, "watch: a run has 40 steps, and no step 41"),
        ({"watch": [-42]}, "watch: a run has 40 steps, and no step -42"),
        ({"workers": 0}, "workers: at least one is needed, not 0"),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(
    digits: ist.Dataset, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ist.compare_training(["relu"], digits, "mlp", 1, out=tmp_path / "run", **STUDY | change)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("labels", "network", "augment", "message"),
    [
        ([-1, 0], "mlp", [], "classes are numbered from 0; these labels go from -1 to 0"),
        ([0, 10**9], "mlp", [], "these labels go from 0 to 1000000000"),
        ([0, 1], "cnn", [], "a convolution needs images"),
        ([0, 1], "mlp", ["crop"], r"augment: samples of shape \(5,\) are no images"),
    ],
)
def test_data_that_cannot_be_trained_on(
    labels: list[int], network: str, augment: list[str], message: str
) -> None:
    flat = np.random.default_rng(0).normal(size=(40, 5)), np.array(labels * 20)
    data = ist.Dataset.from_arrays(flat, flat)
    with pytest.raises(ValueError, match=message):
        ist.compare_training(["relu"], data, network, 1, augment=augment, **STUDY)


def test_an_activation_that_changes_its_input_is_refused(digits: ist.Dataset) -> None:
    def sloppy(x: Tensor) -> Tensor:
        return x.mul_(0.5)

    with pytest.raises(FailedCellsError, match="activation 'sloppy' changed its input in place"):
        ist.compare_training([sloppy], digits, "mlp", 1, watch=[], **STUDY)
