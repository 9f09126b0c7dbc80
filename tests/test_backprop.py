from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import partial

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initstats as ist
from initstats import activations, inits
from initstats.backprop import (
    MSE,
    WEIGHT_GRADIENTS,
    CrossEntropy,
    Gradients,
    Linear,
    Model,
    Module,
    Nonlinearity,
    ReLU,
    assert_near_zero,
    gradient_check,
    normalize,
)
from initstats.draws import generator_for
from initstats.moments import STATISTICS, Moments
from initstats.networks import get
from initstats.probe import measure
from initstats.stack import Settings, run_stack

LOSSES: dict[str, tuple[Callable[[], Module], int]] = {
    "mse": (MSE, 1),
    "mse of several outputs": (MSE, 4),
    "cross-entropy": (CrossEntropy, 4),
}
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-12}


def batch(
    loss: str, samples: int = 11, inputs: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Samples that differ in size and have a mean, and targets for a loss."""
    generator = torch.Generator().manual_seed(1)
    outputs = LOSSES[loss][1]
    x = torch.randn(samples, inputs, generator=generator, dtype=dtype)
    x = x * torch.linspace(0.3, 3, samples, dtype=dtype)[:, None] + 0.2
    if loss == "cross-entropy":
        return x, torch.randint(0, outputs, (samples,), generator=generator)
    shape = (samples,) if outputs == 1 else (samples, outputs)
    return x, torch.randn(shape, generator=generator, dtype=dtype)


def network(
    loss: str = "mse",
    activation: str = "relu",
    sizes: tuple[int, ...] = (7, 5, 3),
    weight_gradient: str = "matmul",
    dtype: torch.dtype = torch.float64,
) -> Model:
    generator = torch.Generator().manual_seed(2)
    make, outputs = LOSSES[loss]
    layers: list[Module] = []
    for n_in, n_out in itertools.pairwise((*sizes, outputs)):
        weight = torch.randn(n_in, n_out, generator=generator, dtype=dtype) * (2 / n_in) ** 0.5
        bias = torch.randn(n_out, generator=generator, dtype=dtype) / 3
        layers += [Linear(weight, bias, weight_gradient=weight_gradient), Nonlinearity(activation)]
    return Model(layers[:-1], make())


def agrees(checked: pd.DataFrame, dtype: torch.dtype = torch.float64) -> None:
    assert (checked["norm"] > 0).all(), checked
    assert (checked["autograd"] <= ROUNDING[dtype]).all(), checked
    assert (checked["differences"] <= 1e-7).all(), checked
    assert (checked["compared"] > 0).all(), checked


def test_normalize(mnist: ist.Dataset) -> None:
    raw = torch.from_numpy(mnist.valid.raw[:100]) / 256
    torch.testing.assert_close(normalize(raw, mnist.mean, mnist.std), mnist.valid.x[:100])


def test_assert_near_zero() -> None:
    assert_near_zero(torch.tensor([1e-3, -1e-3], dtype=torch.float64))
    assert_near_zero(0.2, tol=0.3)
    for bad, told in ((torch.tensor([0.0, -0.0125]), "0.0125"), (float("nan"), "nan"), (1, "1")):
        with pytest.raises(AssertionError, match=rf"near zero, within 0\.001: got {told}$"):
            assert_near_zero(bad)


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("activation", list(activations.ACTIVATIONS))
def test_every_activation(activation: str, dtype: torch.dtype) -> None:
    x, y = batch("mse", dtype=dtype)
    agrees(gradient_check(network(activation=activation, dtype=dtype), x, y), dtype)


@pytest.mark.parametrize("weight_gradient", WEIGHT_GRADIENTS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("samples", "sizes"), [(1, (7, 5, 3)), (11, (7, 1, 3)), (6, (1, 4)), (4, (9,))], ids=str
)
def test_every_loss_and_strategy_at_odd_shapes(
    loss: str, weight_gradient: str, samples: int, sizes: tuple[int, ...]
) -> None:
    model = network(loss, "gelu", sizes, weight_gradient)
    agrees(gradient_check(model, *batch(loss, samples, sizes[0]), entries=8))


def test_a_callable_and_parameters() -> None:
    x, y = batch("mse")
    agrees(gradient_check(network(activation="general_relu(leak=0.2,sub=0.3,maxv=1)"), x, y))
    layers = network().layers
    layers[1] = Nonlinearity(lambda z: z.exp() - 1)
    agrees(gradient_check(Model(layers, MSE()), x, y))


@pytest.mark.parametrize("weight_gradient", WEIGHT_GRADIENTS)
def test_gradients_against_sums_written_out(weight_gradient: str) -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.5, 0.0]])
    gradient = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 1.0, 0.5], [2.0, 2.0, 2.0]])
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    layer = Linear(weight, torch.tensor([0.0, 10.0, 20.0]), weight_gradient=weight_gradient)
    assert layer(x)[1].tolist() == [3 - 16, 6 - 20 + 10, 9 - 24 + 20]
    assert layer.backward(gradient).tolist() == [[7.0, 16.0], [2.5, 4.0], [12.0, 30.0]]
    for i, j in itertools.product(range(2), range(3)):
        expected = sum(float(x[b, i] * gradient[b, j]) for b in range(3))
        assert layer.gradients["weight"][i, j] == expected
    assert layer.gradients["bias"].tolist() == [2.0, 3.0, 4.5]


def test_relu_is_the_registered_relu() -> None:
    x = torch.tensor([[-1.0, -0.0, 0.0, 1e-30, 2.0]])
    gradient = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    by_hand, registered = ReLU(), Nonlinearity("relu")
    assert torch.equal(by_hand(x), registered(x))
    assert torch.equal(by_hand.backward(gradient), registered.backward(gradient))
    assert by_hand.backward(gradient).tolist() == [[0, 0, 0, 4, 5]]
    assert by_hand.kinks == registered.kinks


def test_input_that_is_not_contiguous_and_bytes_as_targets() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 2, 11, generator=generator)[:, 1].T
    y = torch.randint(0, 10, (22,), generator=generator, dtype=torch.uint8)[::2]
    weight = torch.randn(5, 7, generator=generator).T
    for weight_gradient in WEIGHT_GRADIENTS:
        first = Linear(weight, torch.zeros(5), weight_gradient=weight_gradient)
        last = Linear(torch.ones(5, 1), torch.zeros(1), weight_gradient=weight_gradient)
        agrees(gradient_check(Model([first, ReLU(), last], MSE()), x, y), torch.float32)


def test_a_batch_of_one_keeps_its_sample() -> None:
    output, target = torch.tensor([[3.0]]), torch.tensor([1.0])
    loss = MSE()
    assert loss(output, target) == 4
    assert loss.backward().tolist() == [[4.0]]
    assert loss(output, target[None]) == 4


def test_losses_against_torch_s_own() -> None:
    generator = torch.Generator().manual_seed(4)
    output, target = (torch.randn(9, 4, generator=generator) for _ in range(2))
    torch.testing.assert_close(MSE()(output, target), F.mse_loss(output, target))
    classes = torch.randint(0, 4, (9,), generator=generator)
    torch.testing.assert_close(CrossEntropy()(output, classes), F.cross_entropy(output, classes))


def test_cross_entropy_of_large_logits() -> None:
    loss = CrossEntropy()
    assert loss(torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), torch.tensor([0, 0])) == 1e4
    assert loss.backward().tolist() == [[0, 0], [-0.5, 0.5]]


def test_a_mean_that_broadcasting_would_falsify_is_refused() -> None:
    shapes = r"the output \(3, 3\), a last 1 aside: got \(3,\)"
    with pytest.raises(ValueError, match=shapes):
        MSE()(torch.ones(3, 3), torch.ones(3))
    with pytest.raises(ValueError, match=r"\(3, 1\), a last 1 aside: got \(1, 3\)"):
        MSE()(torch.ones(3, 1), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"class numbers \(samples,\): got \(3, 2\) and \(1,\)"):
        CrossEntropy()(torch.ones(3, 2), torch.tensor([1]))


def test_what_a_subclass_has_to_write() -> None:
    class Scale(Module):
        pass

    class Halve(Scale):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    with pytest.raises(NotImplementedError, match=re.escape("Scale needs a method: def forward")):
        Scale()(torch.ones(1))
    halve = Halve()
    with pytest.raises(RuntimeError, match="Halve has nothing to go back from: call it first"):
        halve.backward(torch.ones(1))
    halve(torch.ones(1))
    with pytest.raises(NotImplementedError, match=re.escape("def bwd(self, gradient, x)")):
        halve.backward(torch.ones(1))


def test_what_a_linear_layer_refuses() -> None:
    with pytest.raises(ValueError, match=r"unknown weight gradient 'einsm': did you mean 'einsum'"):
        Linear(torch.ones(2, 3), torch.ones(3), weight_gradient="einsm")
    layer = Linear(torch.ones(2, 3), torch.ones(3))
    for shape in ((2,), (4, 3), (4, 2, 2)):
        with pytest.raises(ValueError, match=r"weight \(2, 3\) takes \(samples, 2\): got \("):
            layer(torch.ones(shape))


def test_a_layer_has_one_place() -> None:
    layer = Nonlinearity("tanh")
    with pytest.raises(ValueError, match="make one for each place"):
        Model([layer, layer], MSE())


def test_gradients_are_kept_by_the_layer_and_nothing_else_changes() -> None:
    model, (x, y) = network(), batch("mse")
    first = model.layers[0]
    assert isinstance(first, Linear)
    tensors = [x, y, first.weight, first.bias]
    before = [(tensor.clone(), set(vars(tensor))) for tensor in tensors]
    loss = model(x, y)
    returned = model.backward()
    assert model.out is loss
    assert first.args[0] is x
    assert set(first.gradients) == {"input", "weight", "bias"}
    assert returned is first.gradients["input"] is model.gradients["input"]
    kept = dict(first.gradients)
    gradient_check(model, x, y)
    assert model.out is loss
    assert all(first.gradients[name] is kept[name] for name in kept)
    for tensor, (values, attributes) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, values)
        assert set(vars(tensor)) == attributes
        assert not tensor.requires_grad


class LeakyByMistake(ReLU):
    def bwd(self, gradient: Tensor, x: Tensor) -> Gradients:
        return {"input": torch.where(x > 0, 1.0, 1e-3) * gradient}


class AverageBias(Linear):
    def bwd(self, gradient: Tensor, x: Tensor) -> Gradients:
        return super().bwd(gradient, x) | {"bias": gradient.mean(0)}


def test_the_check_finds_what_is_wrong_and_where() -> None:
    model, (x, y) = network(), batch("mse")
    checked = gradient_check(
        Model([model.layers[0], LeakyByMistake(), *model.layers[2:]], MSE()), x, y
    )
    wrong = checked["layer"] <= 1
    assert (checked[wrong][["autograd", "differences"]].to_numpy() > 1e-5).all()
    agrees(checked[~wrong])
    weight, bias = torch.ones(7, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    checked = gradient_check(Model([AverageBias(weight, bias)], MSE()), x, y)
    wrong = checked["tensor"] == "bias"
    assert (checked[wrong][["autograd", "differences"]].to_numpy() > 0.5).all()
    agrees(checked[~wrong])


def test_entries_whose_step_leads_across_a_kink_are_counted_and_left_out() -> None:
    x = torch.tensor([[0.0, 1.0], [2.0, -3.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    model = Model([ReLU(), Linear(weight, torch.zeros(1, dtype=torch.float64))], MSE())
    checked = gradient_check(model, x, torch.tensor([5.0, 5.0]))
    assert checked["tensor"].tolist() == ["input", "weight", "bias"]
    assert checked["compared"].tolist() == [3, 2, 1]
    assert checked["straddled"].tolist() == [1, 0, 0]
    assert checked["differences"].max() < 1e-9


def test_a_network_in_which_nothing_passes_has_equal_gradients() -> None:
    weight, bias = torch.ones(7, 5), torch.full((5,), -100.0)
    model = Model([Linear(weight, bias), ReLU(), Linear(torch.ones(5, 1), torch.ones(1))], MSE())
    checked = gradient_check(model, *batch("mse", dtype=torch.float32))
    front = checked[checked["layer"] < 2]
    assert not front[["norm", "autograd", "differences"]].to_numpy().any()


class Against(Module):
    """The product with a given gradient: a loss whose gradient is just that."""

    def forward(self, output: Tensor, cotangent: Tensor) -> Tensor:
        return (output * cotangent).sum()

    def bwd(self, gradient: Tensor, output: Tensor, cotangent: Tensor) -> Gradients:
        return {"input": gradient * cotangent}


Tensors = dict[tuple[int, str, str], Tensor]


def tensors_by_hand(layers: list[Linear], name: str, x: Tensor, cotangent: Tensor) -> Tensors:
    """Every tensor of the stack, (samples, units), by the key of its row."""
    steps: list[Module] = [step for layer in layers for step in (layer, Nonlinearity(name))]
    model = Model(steps, Against())
    model(x, cotangent)
    model.backward()
    tensors = {}
    for number in range(1, len(layers) + 1):
        linear, phi, behind = [*steps, model.loss][2 * number - 2 : 2 * number + 1]
        tensors[number, "preactivation", "forward"] = linear.out
        tensors[number, "activation", "forward"] = phi.out
        tensors[number, "preactivation", "backward"] = phi.gradients["input"]
        tensors[number, "activation", "backward"] = behind.gradients["input"]
    return tensors


def tensors_by_autograd(layers: list[Linear], name: str, x: Tensor, cotangent: Tensor) -> Tensors:
    forward: Tensors = {}
    for number, layer in enumerate(layers, 1):
        h = F.linear(x, layer.weight.T, layer.bias).requires_grad_()
        x = activations.get(name)(h)
        forward[number, "preactivation", "forward"] = h
        forward[number, "activation", "forward"] = x
    gradients = torch.autograd.grad(x, list(forward.values()), cotangent)
    backward = zip([(*key[:2], "backward") for key in forward], gradients, strict=True)
    return {key: tensor.detach() for key, tensor in forward.items()} | dict(backward)


@pytest.mark.parametrize("init", ["kaiming_normal", "torch_default"])
@pytest.mark.parametrize("name", ["relu", "general_relu(leak=0.2,sub=0.3)", "tanh"])
def test_stack_hand_and_autograd_agree_on_all_statistics(
    toy: ist.Dataset, init: str, name: str
) -> None:
    depth, width, seed, split = 4, 6, 3, toy.valid
    activation, scheme = activations.get(name), inits.get(init)
    settings = Settings(depth, len(split), backward=True, histogram_every=1)
    network = get("mlp").on(split.shape, width, depth)
    (result,) = run_stack(network, scheme, [activation], [seed], split, None, settings)
    drawn = network.draw(scheme, activation, partial(generator_for, seed))
    layers = [
        Linear(matrix.T, torch.zeros(width) if bias is None else bias[:, 0])
        for matrix, bias in drawn.values()
    ]
    places = network.places(backward=True)
    gradient = torch.randn(64, width, generator=generator_for(seed, "cotangent"))
    cotangent = gradient[: len(split)]
    for tensors_by in (tensors_by_hand, tensors_by_autograd):
        tensors = tensors_by(layers, name, split.x, cotangent)
        assert tensors.keys() == set(places)
        for key, row in zip(places, result.statistics, strict=True):
            moments = Moments(1, width)
            moments.add(0, tensors[key].T)
            size = float(tensors[key].square().mean()) ** 0.5
            for statistic, given, expected in zip(
                STATISTICS, row, moments.statistics()[0], strict=True
            ):
                # an entry that rounds into the next bin moves a quantile
                tolerance = 1e-3 if statistic.startswith("q") else 1e-5
                bound = pytest.approx(expected, rel=tolerance, abs=tolerance * size, nan_ok=True)
                assert given == bound, (tensors_by.__name__, key, statistic)


class Phi(nn.Module):
    """An activation of ours as a module, for the probe to look into."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.phi = activations.get(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.phi(x)


@pytest.mark.parametrize("name", ["relu", "general_relu(leak=0.2,sub=0.3)", "tanh"])
def test_the_probe_reads_the_same_statistics_off_the_same_stack(
    toy: ist.Dataset, name: str
) -> None:
    depth, width, seed, split = 4, 6, 3, toy.valid
    activation, scheme = activations.get(name), inits.get("torch_default")
    settings = Settings(depth, len(split), backward=True, histogram_every=1)
    network = get("mlp").on(split.shape, width, depth)
    (result,) = run_stack(network, scheme, [activation], [seed], split, None, settings)
    model = nn.Sequential()
    drawn = network.draw(scheme, activation, partial(generator_for, seed))
    for matrix, bias in drawn.values():
        linear = nn.Linear(matrix.shape[1], width)
        linear.weight.data, linear.bias.data = matrix, torch.as_tensor(bias)[:, 0]
        model.extend([linear, Phi(name)])
    gradient = torch.randn(64, width, generator=generator_for(seed, "cotangent"))
    cotangent = gradient[: len(split)]
    table = measure(model, split.x, backward=True, loss=lambda out: (out * cotangent).sum())
    rows = table[table["tensor"] != "weight"].to_dict("records")
    seen = {(row["name"], row["direction"]): row for row in rows}  # of several, the last
    places = network.places(backward=True)
    for (layer, tensor, direction), row in zip(places, result.statistics, strict=True):
        module = str(2 * layer - 2 + (tensor == "activation"))
        found, size = seen[module, direction], float(row[list(STATISTICS).index("max")])
        for statistic, expected in zip(STATISTICS, row, strict=True):
            tolerance = 1e-3 if statistic.startswith("q") else 1e-5
            bound = pytest.approx(expected, rel=tolerance, abs=tolerance * abs(size), nan_ok=True)
            assert found[statistic] == bound, (module, direction, statistic)
