"""Blocks against torch's own modules and autograd, and networks as entries."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import initstats as ist
from initstats import activations, inits, networks
from initstats.draws import generator_for
from initstats.networks import Activate, Block, Conv, Dense, Residual, Serial, Signal
from initstats.stack import Settings, run_stack

Place = tuple[int, str, str]
SETTINGS = Settings(depth=3, samples=41, backward=True, dtype="float64", histogram_every=1)


def second_moments(
    placed: Serial, toy: ist.Dataset, name: str, *, init: str = "torch_default", **changes: Any
) -> dict[Place, float]:
    """The engine's second moment at every place."""
    settings = replace(SETTINGS, **changes)
    (result,) = run_stack(
        placed, inits.get(init), [activations.get(name)], [2], toy.valid, toy.train, settings
    )
    column = list(ist.moments.STATISTICS).index("second_moment")
    places = placed.places(backward=settings.backward)
    return dict(zip(places, result.statistics[:, column].tolist(), strict=True))


class Reference:
    """The same network by torch's functions and autograd, block by block, samples first."""

    def __init__(self, placed: Serial, name: str, init: str = "torch_default") -> None:
        self.phi = activations.get(name)
        self.weights = placed.draw(inits.get(init), self.phi, partial(generator_for, 2))
        self.tensors: dict[Place, Tensor] = {}

    def run(self, block: Block, x: Tensor) -> Tensor:
        """(samples, units[, height, width])."""
        if isinstance(block, Serial):
            for part in block.blocks:
                x = self.run(part, x)
            return x
        if isinstance(block, Residual):
            return x + block.scale * self.run(block.branch, x)
        if isinstance(block, Activate):
            x = self.phi(x)
        elif isinstance(block, Dense | Conv):
            matrix, bias = self.weights[block.layer]
            weight = matrix.view(block.weight).double()
            b = None if bias is None else bias[:, 0].double()
            if isinstance(block, Conv):
                x = F.conv2d(x, weight, b, block.stride, block.kernel // 2)
            else:
                x = F.linear(x.flatten(1), weight, b)
        x.requires_grad_()
        x.retain_grad()
        self.tensors[block.outputs.layer, next(block.leaves()).tensor, "forward"] = x
        return x


def expected(placed: Serial, toy: ist.Dataset, name: str, init: str) -> dict[Place, float]:
    reference = Reference(placed, name, init)
    end = reference.run(placed, toy.valid.images.double())
    drawn = torch.randn(48, placed.outputs.size, generator=generator_for(2, "cotangent"))
    torch.autograd.backward(end, drawn[:41].view(end.shape).double())
    moments = {}
    for (layer, tensor, _), x in reference.tensors.items():
        assert x.grad is not None
        moments[layer, tensor, "forward"] = float(x.detach().square().mean())
        moments[layer, tensor, "backward"] = float(x.grad.square().mean())
    return moments


PLANS = {
    "dense behind convolutions": Serial(Conv(4, 3, 2), Activate(), Dense(6), Activate(), Dense(3)),
    "residual of dense layers": Serial(
        Dense(5),
        Residual(Serial(Dense(7), Activate(), Dense(5)), 0.5),
        Residual(Serial(Activate(), Dense(5))),
        Activate(),
    ),
    "residual behind an activation": Serial(
        Dense(5), Activate(), Residual(Serial(Dense(5), Activate()), 2.0), Dense(4)
    ),
    "residual of convolutions": Serial(
        Conv(3), Residual(Serial(Activate(), Conv(3, 5)), 0.7), Activate(), Dense(2)
    ),
    "nested": Serial(
        Serial(Dense(5), Activate()),
        Residual(Residual(Serial(Dense(5), Activate(), Dense(5)), 0.3), 0.9),
    ),
    "linear layers alone": Serial(Dense(6), Dense(4), Activate()),
}


@pytest.mark.parametrize("init", ["torch_default", "matched"])
@pytest.mark.parametrize("name", ["tanh", "relu"])
@pytest.mark.parametrize("plan", PLANS)
def test_blocks_agree_with_torch_and_autograd(
    toy: ist.Dataset, plan: str, name: str, init: str
) -> None:
    placed = PLANS[plan].on(Signal(1, (8, 8)))
    found = second_moments(placed, toy, name, init=init)
    assert found == pytest.approx(expected(placed, toy, name, init), rel=1e-11)


@pytest.mark.parametrize("plan", PLANS)
def test_seeds_and_tiles_leave_no_trace(toy: ist.Dataset, plan: str) -> None:
    placed = PLANS[plan].on(Signal(1, (8, 8)))
    whole = second_moments(placed, toy, "tanh")
    assert second_moments(placed, toy, "tanh", tile=100) == pytest.approx(whole, rel=1e-12)
    assert second_moments(placed, toy, "tanh", batch=3) == pytest.approx(whole, rel=1e-12)


def test_lsuv_fits_any_network(toy: ist.Dataset) -> None:
    placed = PLANS["residual of dense layers"].on(Signal(1, (8, 8)))
    (result,) = run_stack(
        placed,
        inits.get("lsuv"),
        [activations.get("relu")],
        [2],
        toy.train,
        toy.train,
        replace(SETTINGS, samples=96, backward=False),
    )
    stds = dict(zip(placed.places(backward=False), result.statistics[:, 4], strict=True))
    fitted = [std for (_, tensor, _), std in stds.items() if tensor == "preactivation"]
    assert len(fitted) == 4
    assert fitted == pytest.approx([1] * 4, abs=1e-3)


def test_a_layer_knows_what_it_reads() -> None:
    placed = Serial(Dense(4), Dense(4), Activate(), Dense(4)).on(Signal(9))
    relu = activations.get("relu")
    assert [layer.read(relu).name for layer in placed.layers] == ["identity", "identity", "relu"]
    laws = [layer.law(inits.get("matched"), relu) for layer in placed.layers]
    assert [law.sigma_w2 for law in laws if law] == pytest.approx([1, 1, 2])
    behind_sum = Serial(Dense(4), Activate(), Residual(Dense(4)), Dense(4)).on(Signal(9))
    assert [layer.reads.activated for layer in behind_sum.layers] == [False, True, False]


@pytest.mark.parametrize("name", ["gelu", "silu", "relu"])
def test_matched_starts_at_the_fixed_point(mnist: ist.Dataset, name: str) -> None:
    """Ten layers keep rms 1: the gain belongs to what a layer reads, not to what follows it.

    The other way round, q starts at gain^2, where gelu and silu run away: they ended at rms 2.8.
    """
    grid = ist.Grid(
        inits=["matched"], activations=[name], widths=[400], depth=10, seeds=4, samples=500
    )
    rows = ist.run_sweep(grid, mnist).query("tensor == 'preactivation'")
    rms = rows.groupby("layer")["second_moment"].mean() ** 0.5
    assert rms[1] == pytest.approx(1, abs=0.06)
    assert rms[10] == pytest.approx(1, abs=0.2)


def test_places_are_layer_by_layer_and_forward_first() -> None:
    placed = Serial(Dense(4), Activate(), Dense(3)).on(Signal(9))
    assert placed.places(backward=True) == [
        (1, "preactivation", "forward"),
        (1, "activation", "forward"),
        (1, "preactivation", "backward"),
        (1, "activation", "backward"),
        (2, "preactivation", "forward"),
        (2, "preactivation", "backward"),
    ]


def test_the_conv_net_is_the_lessons() -> None:
    layers = networks.get("cnn").on((1, 28, 28), 8, 5).layers
    assert [layer.weight for layer in layers] == [
        (8, 1, 5, 5),
        (16, 8, 3, 3),
        (32, 16, 3, 3),
        (32, 32, 3, 3),
        (32, 32, 3, 3),
    ]
    assert [layer.outputs.plane for layer in layers] == [(14, 14), (7, 7), (4, 4), (2, 2), (2, 2)]
    other = networks.get("cnn(kernel=5,first_kernel=3,strided=1)").on((28, 28), 8, 3).layers
    assert [layer.weight[-1] for layer in other] == [3, 5, 5]
    assert [layer.outputs.plane for layer in other] == [(14, 14)] * 3


# theory


def test_theory_follows_dense_layers_behind_convolutions(toy: ist.Dataset) -> None:
    @networks.register_network()
    def lenet(width: int, depth: int) -> Block:
        """Convolutions, then dense layers."""
        return Serial(Conv(width, 3, 2), Activate(), Dense(2 * width), Activate(), Dense(width))

    try:
        grid = ist.Grid(
            network="lenet",
            inits=["kaiming_normal", "torch_default"],
            activations=["relu"],
            widths=[12],
            seeds=120,
            backward=True,
        )
        predicted = ist.predict(grid, toy)
        scored = ist.compare_with_theory(ist.run_sweep(grid, toy), predicted)
    finally:
        networks.NETWORKS.remove("lenet")
    scored = scored[scored["statistic"] == "second_moment"]
    assert len(scored) == 2 * 10
    assert (scored["note"] == "").all()
    assert scored["z"].abs().max() < 4


def test_theory_says_that_it_does_not_follow_sums(toy: ist.Dataset) -> None:
    def skip(width: int, depth: int) -> Block:
        return PLANS["residual of dense layers"]

    grid = ist.Grid(
        network=skip, inits=["lecun_normal"], activations=["tanh"], widths=[3], backward=True
    )
    predicted = ist.predict(grid, toy)
    assert predicted["second_moment"].notna().tolist() == [True] + [False] * 13
    assert predicted["note"].iloc[1:].eq("theory does not follow residual sums yet").all()


# entries


def test_a_network_of_ones_own_in_three_lines(toy: ist.Dataset) -> None:
    @ist.register_network()
    def funnel(width: int, depth: int, *, factor: float = 0.5) -> Block:
        """Layers that get narrower."""
        sizes = [max(1, round(width * factor**n)) for n in range(depth)]
        return Serial(*(block for size in sizes for block in (Dense(size), Activate())))

    try:
        entry = networks.get("funnel(factor=0.25)")
        assert (entry.name, entry.meaning) == ("funnel(factor=0.25)", "Layers that get narrower.")
        grid = ist.Grid(
            networks=["mlp", "funnel", "funnel(factor=0.25)"],
            inits=["kaiming_normal"],
            activations=["relu"],
            widths=16,
            depth=3,
            seeds=1,
        )
        table = ist.run_sweep(grid, toy)
        counts = table.query("tensor == 'activation'").groupby("network", observed=True)["count"]
        assert [list(group // 41) for _, group in counts] == [[16] * 3, [16, 8, 4], [16, 4, 1]]
        assert list(table["network"].cat.categories) == ["mlp", "funnel", "funnel(factor=0.25)"]
        factors = table.groupby("network", observed=True)["network_factor"].first()
        assert factors.fillna(-1).tolist() == [-1, 0.5, 0.25]
    finally:
        networks.NETWORKS.remove("funnel")


def test_callables_are_networks_too(toy: ist.Dataset) -> None:
    def wide(width: int, depth: int) -> Block:
        return Serial(Dense(2 * width), Activate())

    grid = ist.Grid(
        networks=[wide, {"my own": wide}],
        inits=["zeros"],
        activations=["relu"],
        widths=[3],
        seeds=1,
    )
    assert grid.config["networks"] == ["wide", "my own"]
    assert ist.run_sweep(grid, toy)["count"].tolist() == [6 * 41] * 4


def test_a_block_alone_is_a_network() -> None:
    def one(width: int, depth: int) -> Block:
        return Dense(width)

    assert networks.get(one).on((5,), 4, 1).outputs == Signal(4, None, 1, products=1)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("rnn", "unknown network 'rnn': .*available: mlp, cnn"),
        ("conv", "unknown network 'conv': did you mean 'cnn'"),
        ("cnn(kernal=3)", "unknown parameter of network 'cnn' 'kernal': did you mean 'kernel'"),
        ("cnn(kernel=0)", "cannot be built: kernel is a whole number, at least 1: got 0"),
        ("cnn(kernel=2.5)", "kernel is a whole number, at least 1: got 2.5"),
        ("cnn(strided=nan)", "strided must be a number"),
        (3, "a network is a name or a callable, not 3"),
        (lambda width, depth: [Dense(3)], "must return blocks, .* it returned list"),
        (lambda size: Dense(3), "must take width and depth: def name"),
        (lambda width, depth: Dense(width / 8), "units is a whole number, at least 1: got 0.5"),
    ],
)
def test_what_is_no_network_is_refused(network: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        networks.get(network)


WRONG = {
    int: ["-1", "2.5", "inf", "-inf", "1e300", "1e400", "nan", "true", "word"],
    float: ["inf", "-inf", "1e300", "1e400", "nan", "true", "word"],
    str: ["2.5", "-1e400", "inf", "1e400", "nan", "true", "1e300", "words"],
    bool: ["1", "0", "nan", "inf", "2.5", "word"],
}
"""Values that no parameter of such a default means anything by."""
BESIDE = {"groups": ",norm=group", "batch": ",norm=batch"}


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        (name, parameter, value)
        for name in networks.NETWORKS
        for parameter, default in networks.NETWORKS.family(name).defaults.items()
        for value in WRONG[type(default)]
        if (parameter, value) != ("scale", "2.5")  # a rule, or a number
    ],
)
def test_a_parameter_that_means_nothing_is_refused_in_the_words_that_were_typed(
    name: str, parameter: str, value: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        networks.get(f"{name}({parameter}={value}{BESIDE.get(parameter, '')})")
    message = str(caught.value)
    assert parameter in message.partition(": ")[2], message
    assert "\n" not in message
    assert not re.search(r"[A-Z]\w+: ", message), message  # no name of a class


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("cnn(strided=-1)", "strided is a whole number, at least 0: got -1"),
        ("cnn(first_kernel=0)", "first_kernel is a whole number, at least 1: got 0"),
        ("cnn(kernel=1e300)", "kernel is at most 1,000,000,000: got 1e.300"),
        ("mlp(norm=batch,batch=1)", "batch is a whole number, at least 2: got 1"),
        ("mlp(norm=2)", "unknown norm '2': .*available: none, layer"),
        ("resmlp(hidden=0.01)", "hidden=0.01 makes no unit of a width of 4"),
        ("resmlp(hidden=1e9)", "hidden=1e.09 makes more than 1,000,000,000 units"),
        ("resmlp(scale=1e300,alpha=1e300)", "alpha is a factor, finite in float32: got 1e.300"),
        ("resmlp(scale=1e30,alpha=1e30)", "scale times alpha is a factor, finite in float32"),
        ("resmlp(scale=1e400)", "scale is a factor, finite in float32: got inf"),
        ("resmlp(scale=half)", "unknown scale 'half': .*available: one, .*deepnorm, or a number"),
        ("resmlp(dropout=1)", "dropout is a share, at least 0 and below 1: got 1"),
        ("transformer(heads=0)", "heads is a whole number, at least 1: got 0"),
        ("transformer(projection=inf)", "projection is a factor, finite in float32: got inf"),
    ],
)
def test_what_a_parameter_may_be_is_said(spelling: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be built: .*{message}"):
        networks.get(spelling)


@pytest.mark.parametrize("name", ["resnet", "rescnn"])
def test_even_kernels_are_refused_where_branches_add(name: str) -> None:
    with pytest.raises(ValueError, match="kernel is odd where branches add .* got 2"):
        networks.get(f"{name}(kernel=2)").on((1, 28, 28), 4, 6)


@pytest.mark.parametrize("size", [-1, 0, 2.5, math.nan, math.inf, "8", True, None])
def test_sizes_that_are_no_whole_numbers_are_refused(size: Any) -> None:
    network = networks.get("mlp")
    for given, noun in (
        (((1, 28, 28), size, 3), "width"),
        (((1, 28, 28), 8, size), "depth"),
        (((1, size, 28), 8, 3), "shape: side"),
    ):
        with pytest.raises(ValueError, match=f"{noun} is a whole number, at least 1: got"):
            network.on(*given)


def test_a_whole_number_written_with_a_point_is_one() -> None:
    assert networks.get("cnn(kernel=5.0,first_kernel=1.0)").name == "cnn(kernel=5,first_kernel=1)"
    assert networks.get("cnn(kernel=7.0)").parameters["kernel"] == 7
    layers = networks.get("cnn(kernel=7.0)").on((1, 28, 28), 2, 2).layers
    assert layers[1].weight == (4, 2, 7, 7)
    assert all(isinstance(side, int) for side in layers[1].weight)


@pytest.mark.parametrize(
    ("plan", "shape", "message"),
    [
        (Conv(4), (784,), r"network 'own': a convolution needs images .* has shape \(784,\)"),
        (Serial(Dense(3), Conv(4)), (1, 8, 8), r"needs images of shape .* has shape \(3,\)"),
        (Activate(), (9,), "an activation needs a layer with weights before it, such as Dense"),
        (Serial(), (9,), "network 'own' has no layer with weights at depth 2"),
        (Serial(Dense(3), Activate(), Activate()), (9,), "two activations behind layer 1, .* one"),
        (Serial(Dense(9), Residual(Activate()), Activate()), (9,), "two activations behind layer"),
        (Residual(Dense(4)), (9,), "a residual branch must give what it reads, 9 units"),
        (Residual(Conv(4)), (1, 8, 8), "1 unit over .8, 8.: it gives 4 over .8, 8."),
    ],
)
def test_blocks_that_do_not_fit_are_refused(
    plan: Block, shape: tuple[int, ...], message: str
) -> None:
    def own(width: int, depth: int) -> Block:
        return plan

    with pytest.raises(ValueError, match=message):
        networks.get(own).on(shape, 4, 2)


def test_a_plan_is_not_placed() -> None:
    with pytest.raises(ValueError, match="is a plan: put it behind a signal with on"):
        Dense(3).outputs  # noqa: B018


def test_an_unknown_network_is_refused_everywhere(toy: ist.Dataset) -> None:
    for call in (
        lambda: ist.Grid(network="densenet"),
        lambda: ist.Grid(networks=["mlp", "densenet"]),
        lambda: networks.get("densenet"),
    ):
        with pytest.raises(ValueError, match="unknown network 'densenet'.* available: mlp, cnn"):
            call()
    with pytest.raises(ValueError, match="network and networks are both given"):
        ist.Grid(network="mlp", networks=["cnn"])


def test_a_convolution_keeps_power_as_theory_says() -> None:
    placed = networks.get("cnn").on((1, 28, 28), 4, 1)
    state = ist.theory.State.of_data(np.ones((1, 28, 28)))
    layer = placed.layers[0]
    seen = layer.seen(state).square
    assert seen.shape == (1, 14, 14)
    inside = math.prod([14 * 5 - 3] * 2) / math.prod([14 * 5] * 2)  # taps that see the image
    assert seen.mean() == pytest.approx(inside)
