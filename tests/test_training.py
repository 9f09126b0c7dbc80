"""Training is what plain autograd gives, on batches and draws that all variants of a seed share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initstats as ist
from initstats.activations import ACTIVATIONS
from initstats.data import Split
from initstats.draws import generator_for
from initstats.inits import INITS
from initstats.moments import STATISTICS
from initstats.networks import get as get_network
from initstats.stack import Settings, run_stack
from initstats.training import architectures, byhand
from initstats.training.architectures import classifier
from initstats.training.batches import training_batches
from initstats.training.byhand import HandNet, Workspace


def images(shape: tuple[int, ...], classes: int = 5, count: int = 60) -> ist.Dataset:
    """Images whose class moves their mean, so that there is something to learn."""
    generator = np.random.default_rng(len(shape))
    labels = generator.integers(0, classes, 3 * count)
    towards = generator.normal(size=(classes, *shape))
    pixels = (generator.normal(size=(3 * count, *shape)) + 0.7 * towards[labels]).astype(np.float32)
    parts = (slice(start, start + count) for start in (0, count, 2 * count))
    return ist.Dataset.from_arrays(*((pixels[part], labels[part]) for part in parts), name="own")


DATA: dict[tuple[int, ...], ist.Dataset] = {
    shape: images(shape) for shape in ((1, 8, 8), (3, 12, 9), (7,))
}


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every network that is trained by hand, in order; `drawn` are its weights before that."""
    found: list[Any] = []

    class Kept(HandNet):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.drawn, self.seen = weights_of(self), list[float]()
            found.append(self)

        def train(self, batch: Any, rate: float) -> tuple[float, int]:
            self.seen.append(sum(float(tile.x.double().sum()) for tile in batch))
            return super().train(batch, rate)

    monkeypatch.setattr(architectures, "HandNet", Kept)
    return found


def weights_of(net: HandNet) -> list[tuple[Tensor, Tensor]]:
    return [(own.matrix.clone(), own.bias.clone()) for own in net.weights.values()]


class Oracle(nn.Module):
    """A registered network with its last layer, of torch's own functions."""

    def __init__(self, network: str, drawn: list[tuple[Tensor, Tensor]], activation: Any) -> None:
        super().__init__()
        self.network, self.activation = network, activation
        self.matrices = nn.ParameterList(matrix.clone() for matrix, _ in drawn)
        self.biases = nn.ParameterList(bias.clone() for _, bias in drawn)
        self.made: list[Tensor] = []

    def conv(self, index: int, x: Tensor, stride: int) -> Tensor:
        matrix, bias = self.matrices[index], self.biases[index]
        side = math.isqrt(matrix.shape[1] // x.shape[1])
        weight = matrix.view(len(matrix), x.shape[1], side, side)
        self.made.append(F.conv2d(x, weight, bias[:, 0], stride, side // 2))
        return self.made[-1]

    def linear(self, index: int, x: Tensor) -> Tensor:
        self.made.append(F.linear(x, self.matrices[index], self.biases[index][:, 0]))
        return self.made[-1]

    def forward(self, x: Tensor) -> Tensor:
        self.made, last = [], len(self.matrices) - 1
        if self.network == "mlp":
            x = x.flatten(1)
            for index in range(last):
                x = self.activation(self.linear(index, x))
            return self.linear(last, x)
        strided = {"cnn": 4, "resnet": 2}[self.network]
        plain = last if self.network == "cnn" else 2 + last % 2
        for index in range(plain):
            x = self.activation(self.conv(index, x, 2 if index < strided else 1))
        for index in range(plain, last, 2):
            branch = self.conv(index + 1, self.activation(self.conv(index, x, 1)), 1)
            x = self.activation(x + branch)
        return self.linear(last, x.mean((2, 3)))


def own_loss(loss: str, outputs: Tensor, labels: Tensor) -> Tensor:
    if loss == "mse":
        return ((outputs[:, 0] - labels) ** 2).mean()
    return -F.log_softmax(outputs, 1)[torch.arange(len(labels)), labels].mean()


def own_correct(loss: str, outputs: Tensor, labels: Tensor) -> float:
    """The share of the outputs whose largest, or nearest whole number, is the class."""
    best = outputs[:, 0].round() if loss == "mse" else outputs.max(1).indices
    return float((best == labels).double().mean())


def by_autograd(model: Oracle, data: ist.Dataset, seed: int, recipe: dict[str, Any]) -> Any:
    """Each epoch's means of loss and accuracy, and those of validation and of the test."""
    loss, lr, decay = recipe["loss"], recipe["lr"], recipe["weight_decay"]
    if recipe["optimizer"] == "adamw":
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr, weight_decay=decay)
    else:
        momentum = {"sgd": 0.0, "momentum": 0.9}[recipe["optimizer"]]
        optimizer = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=decay)
    epochs, batch = recipe["epochs"], recipe["batch"]
    steps, done, rows = len(data.train) // batch * epochs, 0, []
    for epoch in range(epochs):
        means = []
        for x, labels in training_batches(data.train, seed, epoch, batch):
            faded = 1 - done / steps if recipe["schedule"] == "linear" else 1.0
            optimizer.param_groups[0]["lr"] = lr * faded
            y, outputs = torch.from_numpy(labels), model(x.T.reshape(-1, *data.shape))
            value = own_loss(loss, outputs, y)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            means.append((value.item(), own_correct(loss, outputs, y)))
            done += 1
        with torch.no_grad():
            found = [(model(each.images), each.y) for each in (data.valid, data.test) if each]
        judged = [f(loss, *each) for each in found for f in (own_loss, own_correct)]
        rows.append([*np.mean(means, axis=0), *map(float, judged)])
    return np.array(rows)


RECIPE: dict[str, Any] = {
    "epochs": 10,
    "batch": 20,
    "optimizer": "momentum",
    "schedule": "linear",
    "weight_decay": 0.0,
    "loss": "cross_entropy",
    "lr": 0.02,
}
COLUMNS = [f"{part}_{what}" for part in ("train", "valid", "test") for what in ("loss", "accuracy")]
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "schedule": "constant"}
ADAMW: dict[str, Any] = {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.1}
MSE: dict[str, Any] = {"loss": "mse", "lr": 0.003}


@ist.register_activation()
def curved_by_test(x: Tensor, *, at: float = 0.2) -> Tensor:
    """One of a user's own."""
    return torch.where(x > at, x - at, 0.3 * (x - at))


CASES: list[tuple[str, int, int, tuple[int, ...], Any, dict[str, Any]]] = [
    ("cnn", 4, 4, (1, 8, 8), "relu", {}),
    ("cnn", 3, 5, (3, 12, 9), "shifted_relu", SGD),
    ("cnn", 4, 6, (3, 12, 9), "gelu", ADAMW),
    ("cnn", 4, 4, (1, 8, 8), "general_relu", MSE),
    ("mlp", 10, 1, (7,), "relu", {"batch": 7}),
    ("mlp", 9, 5, (3, 12, 9), "leaky_relu(negative_slope=0.1)", {"weight_decay": 0.05}),
    ("mlp", 9, 5, (7,), "tanh", ADAMW | {"schedule": "constant"}),
    ("mlp", 10, 1, (1, 8, 8), lambda x: x / (1 + x.abs()), SGD | {"weight_decay": 0.02}),
    ("mlp", 6, 2, (7,), "curved_by_test(at=0.1)", MSE | ADAMW | {"lr": 0.01}),
    ("resnet", 3, 6, (1, 8, 8), "relu", {"lr": 0.005}),
    ("resnet", 4, 5, (3, 12, 9), "curved_by_test", SGD | {"lr": 0.01}),
]


@pytest.mark.parametrize("parts", ["whole", "in parts"])
@pytest.mark.parametrize(("network", "width", "depth", "shape", "activation", "more"), CASES)
def test_thirty_steps_are_those_of_autograd(
    network: str,
    width: int,
    depth: int,
    shape: tuple[int, ...],
    activation: Any,
    more: dict[str, Any],
    parts: str,
    nets: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, recipe = DATA[shape], RECIPE | more
    if parts == "in parts":
        whole = Workspace(
            classifier(
                get_network(network), shape, width, depth, 1 if recipe["loss"] == "mse" else 5
            )
        )
        monkeypatch.setattr(byhand, "CACHED", 8 * whole.entries)
    sizes: dict[str, Any] = {"widths": width, "depths": depth, "inits": ["torch_default"]}
    table = ist.compare_training([activation], data, network, [3], watch=[], **sizes, **recipe)
    (net,) = nets
    assert (len(net.workspace.parts(20)) > 1) == (parts == "in parts")
    curved = ist.activations.get(activation)
    model = Oracle(network, net.drawn, curved)
    expected = by_autograd(model, data, 3, recipe)
    assert net.steps == len(data.train) // recipe["batch"] * recipe["epochs"] >= 30
    expected[:-1, 4:] = np.nan
    np.testing.assert_allclose(table[COLUMNS], expected, rtol=1e-4, atol=1e-4)
    trained = zip(weights_of(net), model.matrices, model.biases, net.drawn, strict=True)
    for (matrix, bias), own_matrix, own_bias, (drawn, _) in trained:
        torch.testing.assert_close(matrix, own_matrix.data, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(bias, own_bias.data, rtol=1e-4, atol=1e-4)
        assert (matrix - drawn).abs().max() > 30 * (matrix - own_matrix).abs().max()
    assert table["step"].tolist() == [net.steps // 10 * epoch for epoch in range(1, 11)]
    assert set(table["lr"]) == {recipe["lr"]}


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_step_goes_down_the_finite_differences(loss: str, nets: list[Any]) -> None:
    """One step of rate 1 is minus the gradient, here by differences in float64."""
    data = DATA[1, 8, 8]
    sizes: dict[str, Any] = {"widths": 3, "depths": 2, "inits": ["torch_default"], "watch": []}
    how: dict[str, Any] = {"epochs": 1, "batch": 60, "optimizer": "sgd", "lr": 1.0, "loss": loss}
    ist.compare_training(["gelu"], data, "cnn", [0], **sizes, **how)
    (net,) = nets
    double = [(matrix.double(), bias.double()) for matrix, bias in net.drawn]
    model = Oracle("cnn", double, F.gelu).requires_grad_(requires_grad=False)
    x, y, epsilon = data.train.images.double(), data.train.y, 1e-6
    for layer, (matrix, _) in enumerate(weights_of(net)):
        for entry in [(0, 0), (len(matrix) - 1, matrix.shape[1] // 2)]:
            weight, values = model.matrices[layer].data, []
            for change in (epsilon, -2 * epsilon):
                weight[entry] += change
                values.append(own_loss(loss, model(x), y).item())
            weight[entry] += epsilon
            slope = (values[0] - values[1]) / (2 * epsilon)
            assert float(net.drawn[layer][0][entry] - matrix[entry]) == pytest.approx(
                slope, rel=2e-3, abs=2e-6
            )


# statistics


def test_statistics_are_those_of_a_sweep_and_of_the_trained_weights(
    nets: list[Any], tmp_path: Path
) -> None:
    data, study = DATA[3, 12, 9], ["relu", "curved_by_test"]
    sizes: dict[str, Any] = {"widths": 4, "depths": 3, "inits": ["kaiming_normal"]}
    steps: dict[str, Any] = {"watch": [0, 2, -1], "epochs": 2, "batch": 20, "lr": 0.05}
    ist.compare_training(study, data, "cnn", [5], out=tmp_path, **sizes, **steps)
    found = ist.load_training_statistics(tmp_path)
    assert set(found["step"]) == {0, 2, 6}
    network = classifier(get_network("cnn"), data.shape, 4, 3, 5)
    relu, own = ACTIVATIONS["relu"], ACTIVATIONS["curved_by_test"]
    settings = Settings(4, 60, backward=True).thorough
    stack = run_stack(
        network, INITS["kaiming_normal"], [relu, own], [5], data.valid, None, settings
    )
    for name, result, net in zip(study, stack, nets, strict=True):
        mine = found[found["activation"] == name]
        start = mine[mine["step"] == 0]
        places = start[["layer", "tensor", "direction"]].itertuples(index=False, name=None)
        assert [*places] == network.places(backward=True)
        np.testing.assert_array_equal(start[list(STATISTICS)].to_numpy(float), result.statistics)
        model = Oracle("cnn", weights_of(net), ACTIVATIONS[name])
        with torch.no_grad():
            model(data.valid.images)
        end = mine[(mine["step"] == 6) & (mine["tensor"] == "preactivation")]
        end = end[end["direction"] == "forward"]
        for tensor, row in zip(model.made, end.to_dict("records"), strict=True):
            assert row["mean"] == pytest.approx(float(tensor.mean()), rel=1e-3, abs=1e-4)
            assert row["std"] == pytest.approx(float(tensor.std()), rel=1e-3)
    swept = ist.run_sweep(
        ist.Grid(inits=["kaiming_normal"], activations=study, network="cnn", widths=[4], depth=3,
                 seeds=[5]),
        data,
    )  # fmt: skip
    start = found[(found["step"] == 0) & (found["layer"] < 4) & (found["direction"] == "forward")]
    for name in ("count", "mean", "std", "min", "max"):  # others count a part of the entries
        np.testing.assert_array_equal(start[name], swept[name])


# what is paired


def test_variants_of_a_seed_share_batches_and_draws(nets: list[Any]) -> None:
    data = DATA[1, 8, 8]
    ist.compare_training(
        ["relu", "tanh", "gelu"], data, "mlp", [0, 1], inits=["kaiming_normal", "xavier_normal"],
        depths=2, epochs=2, batch=20, augment="shift", lr=0.01, watch=[],
    )  # fmt: skip
    assert len(nets) == 12
    first, second = nets[:6], nets[6:]
    for some in (first, second):
        assert len({tuple(net.seen) for net in some}) == 1
        for net in some[1:]:
            for (one, _), (other, _) in zip(some[0].drawn, net.drawn, strict=True):
                factor = (one * other).sum() / (other * other).sum()
                torch.testing.assert_close(one, factor * other, rtol=1e-5, atol=1e-7)
    assert len(set(first[0].seen)) == 6  # other batches in the second epoch
    assert not {*first[0].seen} & {*second[0].seen}
    assert not torch.equal(first[0].drawn[0][0], second[0].drawn[0][0])


def test_a_batch_is_a_part_of_a_permutation(toy: ist.Dataset) -> None:
    for epoch in (0, 1):
        order = torch.randperm(96, generator=generator_for(7, "order", epoch)).numpy()
        batches = [*training_batches(toy.train, 7, epoch, 40)]
        assert len(batches) == 2
        for number, (x, labels) in enumerate(batches):
            chosen = order[40 * number :][:40]
            torch.testing.assert_close(x, toy.train.x[chosen].T)
            assert (labels == toy.train.labels[chosen]).all()


def seen(split: Split, augment: list[str], seed: int = 0) -> Iterator[tuple[Any, Any]]:
    """Pairs of an image and what augmentation makes of it, as arrays where black is 0."""
    black = -split.mean / split.std
    plain = torch.cat([x for x, _ in training_batches(split, seed, 0, 40)], 1)
    changed = torch.cat([x for x, _ in training_batches(split, seed, 0, 40, augment)], 1)
    for one, other in zip(plain.T, changed.T, strict=True):
        yield tuple((x.reshape(split.shape) - black).double().numpy() for x in (one, other))


def moved(image: Any, down: int, across: int) -> Any:
    """An image moved by whole pixels, with 0 beside it."""
    height, width = image.shape[-2:]
    wide = np.zeros((len(image), 3 * height, 3 * width))
    wide[:, height + down : 2 * height + down, width + across : 2 * width + across] = image
    return wide[:, height : 2 * height, width : 2 * width]


PIXELS = np.random.default_rng(3).integers(1, 256, (80, 3, 28, 14)).astype(np.uint8)
BYTES = ist.Dataset.from_arrays((PIXELS, [0] * 80), (PIXELS, [0] * 80)).train


def test_shifts_are_by_whole_pixels_and_beside_them_is_black() -> None:
    found = set()
    for image, changed in seen(BYTES, ["shift"]):
        steps = [(down, across) for down in range(-2, 3) for across in range(-1, 2)]
        gaps = [np.abs(moved(image, *step) - changed).max() for step in steps]
        assert min(gaps) < 1e-4
        found.add(steps[int(np.argmin(gaps))])
    assert len(found) >= 12


def test_half_of_the_images_are_flipped() -> None:
    flipped = 0
    for image, changed in seen(BYTES, ["flip"]):
        same, other = (np.abs(each - changed).max() for each in (image, image[..., ::-1]))
        assert min(same, other) < 1e-4
        flipped += other < same
    assert 25 < flipped < 55


def cropped(image: Any, top: float, left: float, height: float, width: float) -> Any:
    """A part of an image, in pixels, resized to the whole: linear between the pixels' middles."""
    rows, across = image.shape[-2:]
    y = np.clip(top + (np.arange(rows) + 0.5) * height / rows - 0.5, 0, rows - 1)
    x = np.clip(left + (np.arange(across) + 0.5) * width / across - 0.5, 0, across - 1)
    by_row = [[np.interp(y, range(rows), column) for column in channel.T] for channel in image]
    lines = np.array(by_row).swapaxes(1, 2)
    return np.array([[np.interp(x, range(across), line) for line in c] for c in lines])


def test_a_crop_is_a_part_of_the_image_resized() -> None:
    chance = generator_for(0, "augment", 0)
    areas, pairs = [], [*seen(BYTES, ["crop"])]
    for start in (0, 40):
        draws = [torch.empty(40).uniform_(*of, generator=chance).numpy() for of in
                 ((0.35, 1), (math.log(3 / 4), math.log(4 / 3)), (-1, 1), (-1, 1))]  # fmt: skip
        for (image, changed), area, ratio, right, low in zip(
            pairs[start : start + 40], *draws, strict=True
        ):
            wide, high = (min(1.0, math.sqrt(area * math.exp(ratio * s))) for s in (1, -1))
            part = (14 * (1 - high) * (1 + low), 7 * (1 - wide) * (1 + right), 28 * high, 14 * wide)
            np.testing.assert_allclose(changed, cropped(image, *part), atol=2e-4)
            areas.append(wide * high)
    assert min(areas) < 0.45
    assert max(areas) > 0.9


def test_a_grey_image_stays_grey_where_it_is_cropped() -> None:
    grey = np.full((40, 1, 9, 9), 100, np.uint8)
    grey[0] = 200  # a data set must vary
    split = ist.Dataset.from_arrays((grey, [0] * 40), (grey, [0] * 40)).train
    for image, changed in seen(split, ["crop", "flip"]):
        np.testing.assert_allclose(changed, image, rtol=1e-4)


def test_augmentation_is_off_by_default_and_hangs_on_the_seed() -> None:
    assert ist.TrainingGrid().augment == ()
    every = ["shift", "flip", "crop"]
    one, again, other = ([each for _, each in seen(BYTES, every, seed)] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
