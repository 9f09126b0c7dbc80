from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import initstats as ist
from initstats import activations, inits
from initstats.data import Split
from initstats.draws import generator_for
from initstats.moments import STATISTICS, Kernels
from initstats.networks import Conv, Dense, Linear, Signal, Weights, get
from initstats.stack import DType, Settings, exact_numerics, run_stack
from initstats.stack.numerics import flushes_denormals
from initstats.stack.passes import Passes

SETTINGS = Settings(depth=4, samples=41, backward=True, tile=300, histogram_every=1)


def run(
    split: Split,
    *names: str,
    init: str = "kaiming_normal",
    network: str = "mlp",
    width: int = 6,
    seeds: Sequence[int] = (3,),
    settings: Settings = SETTINGS,
    fit: Split | None = None,
) -> list[dict[tuple[int, str, str], dict[str, float]]]:
    """The rows of each seed and activation as dictionaries of statistics."""
    entries = [activations.get(name) for name in names]
    placed = get(network).on(split.shape, width, settings.depth)
    places = placed.places(backward=settings.backward)
    results = run_stack(placed, inits.get(init), entries, seeds, split, fit, settings)
    return [
        {
            key: dict(zip(STATISTICS, row, strict=True))
            for key, row in zip(places, result.statistics, strict=True)
        }
        for result in results
    ]


def reference(
    split: Split, name: str, init: str, network: str, width: int = 6, seed: int = 3
) -> dict[tuple[int, str, str], Tensor]:
    """Every tensor of the same stack, (units, entries), by torch's layers and autograd, float64."""
    activation, read = activations.get(name), activations.get("identity")
    layers = get(network).on(split.shape, width, SETTINGS.depth).layers
    a = split.x.double().reshape(len(split), *(split.shape if network == "cnn" else (-1,)))
    tensors: dict[tuple[int, str, str], Tensor] = {}
    for number, layer in enumerate(layers, 1):
        generator = generator_for(seed, number)
        weight, bias = inits.get(init).sample(layer.weight, generator, read)
        read = activation
        if isinstance(layer, Conv):
            h = F.conv2d(a, weight.double(), bias.double(), layer.stride, layer.padding)
        else:
            h = F.linear(a, weight.double(), bias.double())
        h.requires_grad_()
        h.retain_grad()
        a = activation(h)
        a.retain_grad()
        tensors[number, "preactivation", "forward"] = h
        tensors[number, "activation", "forward"] = a
    drawn = torch.randn(48, layers[-1].outputs.size, generator=generator_for(seed, "cotangent"))
    torch.autograd.backward(a, drawn[: len(split)].reshape(a.shape).double())
    for (number, tensor, _), value in list(tensors.items()):
        assert value.grad is not None
        tensors[number, tensor, "backward"] = value.grad
    return {key: value.detach().transpose(0, 1).flatten(1) for key, value in tensors.items()}


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize(
    ("init", "name"),
    [
        ("kaiming_normal", "relu"),
        ("torch_default", "tanh"),
        ("orthogonal", "general_relu(leak=0.2,sub=0.3)"),
        ("matched", "gelu"),
        ("normal(std=0.3)", "identity"),
    ],
)
def test_every_row_agrees_with_torch_layers_and_autograd(
    toy: ist.Dataset, network: str, init: str, name: str
) -> None:
    (rows,) = run(toy.valid, name, init=init, network=network)
    tensors = reference(toy.valid, name, init, network)
    assert rows.keys() == tensors.keys()
    for key, x in tensors.items():
        row, scale = rows[key], float(x.std())
        assert row["count"] == x.numel(), key
        assert row["mean"] == pytest.approx(float(x.mean()), abs=2e-6 * scale), key
        assert row["std"] == pytest.approx(scale, rel=2e-6), key
        assert row["second_moment"] == pytest.approx(float((x**2).mean()), rel=4e-6), key
        assert row["max"] == pytest.approx(float(x.max()), abs=1e-5 * scale), key
        units, n = x.mean(1), x.shape[1]
        assert row["unit_mean_std"] == pytest.approx(
            float(units.std(correction=0)), abs=2e-6 * scale
        ), key
        assert row["sample_correlation"] == pytest.approx(
            (n * float((units**2).mean() / (x**2).mean()) - 1) / (n - 1), abs=1e-5
        ), key


@pytest.mark.parametrize("init", ["kaiming_normal", "matched", "lsuv"])
def test_a_result_does_not_depend_on_its_company(toy: ist.Dataset, init: str) -> None:
    names = ("relu", "tanh", "identity", "gelu")
    together = run(toy.valid, *names, init=init, fit=toy.train)
    backwards = run(toy.valid, *names[::-1], init=init, fit=toy.train)[::-1]
    alone = [run(toy.valid, name, init=init, fit=toy.train)[0] for name in names]
    for one, two, three in zip(together, backwards, alone, strict=True):
        np.testing.assert_equal(one, two)
        np.testing.assert_equal(one, three)


def test_a_shallow_stack_is_the_beginning_of_a_deep_one(toy: ist.Dataset) -> None:
    forward = replace(SETTINGS, backward=False)
    (deep,) = run(toy.valid, "relu", settings=replace(forward, depth=7))
    (shallow,) = run(toy.valid, "relu", settings=forward)
    np.testing.assert_equal({key: deep[key] for key in shallow}, shallow)


def test_tiles_change_rounding_only(toy: ist.Dataset) -> None:
    forward = replace(SETTINGS, backward=False)
    (small,) = run(toy.valid, "gelu", settings=replace(forward, tile=16))
    (large,) = run(toy.valid, "gelu", settings=replace(forward, tile=2**20))
    for key, row in large.items():
        for name in ("mean", "std", "second_moment", "q50", "sample_correlation"):
            assert small[key][name] == pytest.approx(row[name], rel=3e-6, abs=1e-6), (key, name)
        assert small[key]["count"] == row["count"]


def test_lsuv_gives_unit_std_to_the_samples_it_was_fitted_on(toy: ist.Dataset) -> None:
    for network in ("mlp", "cnn"):
        rows = run(toy.train, "relu", "gelu", init="lsuv", network=network, fit=toy.train)
        for row in rows:
            for (_, tensor, direction), values in row.items():
                if (tensor, direction) == ("preactivation", "forward"):
                    assert values["std"] == pytest.approx(1, abs=1e-3)


def test_lsuv_leaves_a_dead_layer_as_it_is(toy: ist.Dataset) -> None:
    @activations.activation()
    def never(x: Tensor) -> Tensor:
        """Always 0."""
        return torch.zeros_like(x)

    (rows,) = run(toy.valid, "never", init="lsuv", fit=toy.train)
    assert rows[1, "preactivation", "forward"]["std"] == pytest.approx(1, abs=0.5)
    assert rows[2, "preactivation", "forward"]["std"] == 0
    assert rows[2, "preactivation", "forward"]["dead_fraction"] == 1


def test_lsuv_needs_data(toy: ist.Dataset) -> None:
    with pytest.raises(ValueError, match="init 'lsuv' is fitted on training samples"):
        run(toy.valid, "relu", init="lsuv")


def test_overflow_is_data(toy: ist.Dataset) -> None:
    settings = replace(SETTINGS, depth=12, backward=False)
    (rows,) = run(toy.valid, "relu", init="normal(std=1e6)", settings=settings)
    last = rows[12, "preactivation", "forward"]
    assert 0 < last["nonfinite"] < last["count"]
    assert last["std"] == 0  # what a rectifier leaves of minus infinity
    first_bad = next(row for row in rows.values() if row["nonfinite"])
    assert first_bad["infinite"] > 0


def test_threads_that_overlap_compute_exactly() -> None:
    together, first_left = threading.Barrier(3), threading.Event()

    def settings() -> tuple[int, str, bool, bool]:
        precision = torch.get_float32_matmul_precision()
        return torch.get_num_threads(), precision, flushes_denormals(), torch.is_grad_enabled()

    def inside(number: int) -> list[tuple[int, str, bool, bool]]:
        seen = []
        with exact_numerics():
            together.wait()
            seen.append(settings())
            with exact_numerics():
                pass
            if number:
                first_left.wait()
            seen.append(settings())
        first_left.set()
        return [*seen, settings()]

    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    try:
        before = settings()
        with ThreadPoolExecutor(3) as executor:
            found = list(executor.map(inside, range(3)))
        with ThreadPoolExecutor(1) as executor:  # a thread that begins afterwards
            assert executor.submit(settings).result() == before == settings()
    finally:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
    exact = (1, "highest", True, False)
    assert [seen[:2] for seen in found] == [[exact, exact]] * 3
    assert {seen[2][:1] + seen[2][2:] for seen in found} == {(2, False, True)}


def test_the_callers_state_changes_nothing_and_is_restored(toy: ist.Dataset) -> None:
    (expected,) = run(toy.valid, "relu", init="torch_default")
    before = torch.random.get_rng_state()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    try:
        for flush in (True, False):
            torch.set_flush_denormal(flush)
            (rows,) = run(toy.valid, "relu", init="torch_default")
            np.testing.assert_equal(rows, expected)
            with pytest.raises(RuntimeError, match="half-way"), exact_numerics():
                raise RuntimeError("half-way")
            assert flushes_denormals() is flush
            assert torch.get_num_threads() == 2
            assert torch.get_float32_matmul_precision() == "medium"
            assert torch.is_grad_enabled()
    finally:
        torch.set_flush_denormal(False)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_of_a_layer_depend_on_seed_and_layer_alone() -> None:
    activation = activations.get("relu")
    one, again, lecun, other = (
        get("mlp")
        .on((7,), 5, depth)
        .draw(inits.get(init), activation, partial(generator_for, seed))
        for init, depth, seed in (
            ("kaiming_normal", 3, 0),
            ("kaiming_normal", 2, 0),
            ("lecun_normal", 3, 0),
            ("kaiming_normal", 3, 1),
        )
    )
    assert (list(one), list(again)) == ([1, 2, 3], [1, 2])
    for layer, weights in again.items():
        assert torch.equal(one[layer].matrix, weights.matrix)
    for layer, weights in one.items():
        torch.testing.assert_close(weights.matrix, lecun[layer].matrix * 2**0.5)
        assert not torch.equal(weights.matrix, other[layer].matrix)
    assert not torch.equal(one[2].matrix, one[3].matrix)


def test_an_activation_that_works_in_place_is_refused(toy: ist.Dataset) -> None:
    activation = activations.get(torch.relu_)
    placed = get("mlp").on(toy.shape, 6, SETTINGS.depth)
    with pytest.raises(ValueError, match=r"activation 'relu_' changed its input in place"):
        run_stack(placed, inits.get("lsuv"), [activation], [0], toy.valid, toy.train, SETTINGS)


LAYERS = [
    Conv(4, 3).on(Signal(3, (5, 6))),
    Conv(4, 3, 2).on(Signal(3, (7, 6))),
    Conv(4, 5, 2).on(Signal(3, (8, 8))),
    Conv(4, 3).on(Signal(3, (1, 1))),
    Conv(4, 5, 2).on(Signal(3, (2, 3))),
    Conv(4, 1).on(Signal(3, (2, 3))),
    Conv(4, 2).on(Signal(3, (4, 3))),
]


def padding(layer: Conv) -> int:
    return layer.kernel // 2


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_patches_are_those_of_unfold_and_folding_is_their_transpose(layer: Conv) -> None:
    generator = torch.Generator().manual_seed(1)
    channels, (height, width), samples = layer.weight[1], layer.reads.plane or (0, 0), 3
    x = torch.randn(channels * height * width, samples, generator=generator, dtype=torch.float64)
    images = x.view(channels, height, width, samples).permute(3, 0, 1, 2)
    unfolded = F.unfold(images, layer.kernel, padding=padding(layer), stride=layer.stride)
    patches = layer.gather(x)
    torch.testing.assert_close(patches, unfolded.permute(1, 2, 0).flatten(1), rtol=0, atol=0)
    y = torch.randn(patches.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((patches * y).sum(), (x.flatten() * layer.folded(y).flatten()).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", [*LAYERS, Dense(4).on(Signal(3, (5, 2)))], ids=str)
def test_patches_of_seeds_are_those_of_each(layer: Linear, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    channels, positions = layer.reads.units, layer.reads.positions
    x = torch.randn(3, channels, positions * 2, generator=generator).to(dtype)
    patches = layer.gather(x, torch.full((3 * layer.copied * 2 + 5,), math.nan, dtype=dtype))
    folded = layer.folded(patches)
    for seed in range(3):
        alone = layer.gather(x[seed])
        assert torch.equal(patches[seed], alone)  # NaN, where nothing was written, equals nothing
        assert torch.equal(folded[seed], layer.folded(alone))


# several seeds at once, other types, other devices


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("kernels", ["numba", "torch"])
@pytest.mark.parametrize("init", ["kaiming_normal", "torch_default", "matched", "lsuv"])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_seeds_that_share_a_pass_get_what_is_theirs(
    toy: ist.Dataset, network: str, init: str, kernels: Kernels
) -> None:
    names, seeds = ("relu", "tanh"), (4, 3, 5)
    settings = replace(SETTINGS, kernels=kernels)
    shared = replace(settings, batch=3)
    options: dict[str, Any] = {"init": init, "network": network, "fit": toy.train}
    together = run(toy.valid, *names, seeds=seeds, settings=shared, **options)
    alone = [run(toy.valid, *names, seeds=(seed,), settings=settings, **options) for seed in seeds]
    for one, other in zip(together, chain(*alone), strict=True):
        assert one.keys() == other.keys()
        for key, row in one.items():
            for name, value in row.items():
                tolerance = 2e-3 if name.startswith("q") else 2e-5
                size = tolerance * (other[key]["std"] or 1)
                expected = pytest.approx(other[key][name], rel=tolerance, abs=size, nan_ok=True)
                assert value == expected, (key, name)


@pytest.mark.parametrize("init", ["torch_default", "matched"])
def test_who_else_shares_a_pass_leaves_no_trace(toy: ist.Dataset, init: str) -> None:
    settings = replace(SETTINGS, kernels="torch", batch=3)
    full = run(toy.valid, "relu", "gelu", init=init, seeds=(6, 7, 8), settings=settings)
    fewer = run(toy.valid, "gelu", init=init, seeds=(8, 6), settings=settings)
    np.testing.assert_equal([full[5], full[1]], fewer)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (1, 2), ()])
def test_seeds_that_do_not_share_a_pass_are_refused(
    toy: ist.Dataset, seeds: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"seeds \(.*\) do not share a pass of 2"):
        run(toy.valid, "relu", seeds=seeds, settings=replace(SETTINGS, batch=2))


def test_types_are_of_one_network(toy: ist.Dataset) -> None:
    """What rounding leaves: 2^-24 of float32 and 2^-9 of bfloat16 a step."""
    exact, single, half = (
        run(toy.valid, "tanh", init="torch_default", settings=replace(SETTINGS, dtype=dtype))[0]
        for dtype in ("float64", "float32", "bfloat16")
    )
    for rows, unit in ((single, 2.0**-24), (half, 2.0**-9)):
        gaps = [abs(rows[key]["std"] / exact[key]["std"] - 1) for key in exact]
        assert 0 < max(gaps) < 10 * unit
    reference_std = {
        key: float(x.std())
        for key, x in reference(toy.valid, "tanh", "torch_default", "mlp").items()
    }
    found = {key: row["std"] for key, row in exact.items()}
    assert found == pytest.approx(reference_std, rel=1e-12)


def test_float64_reaches_where_float32_overflows(toy: ist.Dataset) -> None:
    settings = replace(SETTINGS, depth=12, backward=False)
    for wide, bad in ((settings, True), (replace(settings, dtype="float64"), False)):
        (rows,) = run(toy.valid, "relu", init="normal(std=1e6)", settings=wide)
        assert bool(rows[12, "preactivation", "forward"]["nonfinite"]) is bad


@pytest.mark.parametrize(
    ("network", "names"), [("mlp", list(activations.ACTIVATIONS)), ("cnn", ["relu", "gelu"])]
)
def test_passes_never_wait_for_the_device(toy: ist.Dataset, network: str, names: list[str]) -> None:
    """Tensors on `meta` have no values: whoever looks at one raises."""
    entries = [activations.get(name) for name in names]
    settings = replace(SETTINGS, depth=2, device="meta", kernels="torch", batch=2, tile=2**20)
    placed = get(network).on(toy.shape, 6, settings.depth)
    weights = {
        layer.layer: Weights(
            torch.empty(2, layer.weight[0], math.prod(layer.weight[1:]), device="meta"),
            torch.empty(2, layer.weight[0], 1, device="meta"),
        )
        for layer in placed.layers
    }
    passes = Passes(placed, entries, [weights] * len(entries), (0, 1), settings)
    passes.run(toy.valid)
    slots = sum(len(moments.histogram) for moments in passes.moments.values())
    assert slots == len(placed.layers) * 4 * 2 * len(entries)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_a_gpu_gives_the_processors_numbers(toy: ist.Dataset, network: str, dtype: DType) -> None:
    grid: dict[str, Any] = {"network": network, "widths": [8], "depth": 4, "backward": True}
    grid |= {"inits": ["kaiming_normal", "lsuv"], "activations": ["relu", "gelu"], "seeds": 3}
    gpu, cpu = (
        ist.run_sweep(ist.Grid(**grid, dtype=dtype, device=device), toy)
        for device in ("cuda", "cpu")
    )
    tolerance = {"float32": 1e-5, "float64": 1e-11, "bfloat16": 3e-2}[dtype]
    for name in ("mean", "std", "min", "max", "unit_std_mean"):
        gap = (gpu[name] - cpu[name]).abs() / cpu["std"]
        assert gap.max() < tolerance, name
    assert (gpu["count"] == cpu["count"]).all()
