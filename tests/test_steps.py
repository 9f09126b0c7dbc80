"""A step is an update of the weights, whoever makes it; the two modes of a model are kept apart."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from initstats.probe import Probe
from initstats.probe.updates import bits, differ, follow, mark, numbers


def batch(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 4, generator=generator) + torch.arange(6.0)[:, None]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4, bias=False))


def weight(model: nn.Module) -> nn.Parameter:
    return model.get_parameter("0.weight")


# what begins a step


def write_one_entry(model: nn.Module) -> None:
    weight(model).data[2, 1] += 1e-6


def replace_data(model: nn.Module) -> None:
    weight(model).data = weight(model).data * 2


def through_a_vector(model: nn.Module) -> None:
    with torch.no_grad():
        vector_to_parameters(parameters_to_vector(model.parameters()) * 2, model.parameters())


def load(model: nn.Module) -> None:
    model.load_state_dict({name: 2 * x for name, x in model.state_dict().items()})


def load_assigned(model: nn.Module) -> None:
    state = {name: 2 * x for name, x in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def replace_parameter(model: nn.Module) -> None:
    model[0].weight = nn.Parameter(2 * weight(model).detach())  # type: ignore[index]


def swap_averages(model: nn.Module) -> None:
    for p in model.parameters():
        p.data, kept = p.data.lerp(torch.zeros_like(p), 0.1), p.data
        del kept


def through_numpy(model: nn.Module) -> None:
    weight(model).detach().numpy()[:] *= 2


def through_an_old_alias(model: nn.Module) -> None:
    model.flat.mul_(2)  # type: ignore[operator]


def write_the_same(model: nn.Module) -> None:
    with torch.no_grad():
        weight(model).mul_(1.0)


def change_signs(model: nn.Module) -> None:
    weight(model).data.neg_()


def swap_units(model: nn.Module) -> None:
    weight(model).data = weight(model).data.flip(0)


def parametrize(model: nn.Module) -> None:
    orthogonal(model[0])  # type: ignore[index]


def normalize(model: nn.Module) -> None:
    weight_norm(model[0])  # type: ignore[index]


def prune_half(model: nn.Module) -> None:
    prune.random_unstructured(model[0], "weight", 0.5)  # type: ignore[index, no-untyped-call]


UPDATES = [
    write_one_entry,
    replace_data,
    through_a_vector,
    load,
    load_assigned,
    replace_parameter,
    swap_averages,
    through_numpy,
    through_an_old_alias,
    change_signs,
    write_the_same,
    swap_units,
    parametrize,
    normalize,
    prune_half,
]


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.__name__)
def test_an_update_begins_a_step(
    update: Callable[[nn.Module], None], weights: bool, grad: bool
) -> None:
    model, x = small(), batch()
    model.flat = weight(model).data.view(-1)
    expected = []
    with Probe(model, weights=weights) as probe, torch.set_grad_enabled(grad):
        for passes in (1, 2):
            for _ in range(passes):
                y = model(x)
            expected.append((passes * y.numel(), y.double().mean().item()))
            if passes == 1:
                update(model)
    rows = probe.table().query("layer == 3 and tensor == 'preactivation'")
    assert rows["step"].tolist() == [0, 1]
    assert rows["count"].tolist() == [count for count, _ in expected]
    assert rows["mean"].tolist() == pytest.approx([mean for _, mean in expected], rel=1e-6)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "fused sgd": lambda p: torch.optim.SGD(p, 0.1, fused=True),
    "foreach adam": lambda p: torch.optim.Adam(p, 0.1, foreach=True),
    "fused adam": lambda p: torch.optim.Adam(p, 0.1, fused=True),
    "fused adamw": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, foreach=True),
    "at rate 0": lambda p: torch.optim.SGD(p, 0.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("batches", [1, 3])
def test_every_optimizer_makes_steps(name: str, batches: int) -> None:
    model = small()
    optimizer = OPTIMIZERS[name](model.parameters())
    with Probe(model, backward=True) as probe:
        for step in range(3):
            for i in range(batches):
                model(batch(10 * step + i)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    rows = probe.table().query("layer == 3 and tensor == 'preactivation'")
    for _, direction in rows.groupby("direction", observed=True):
        assert direction["step"].tolist() == [0, 1, 2]
        assert set(direction["count"]) == {24 * batches}


def test_two_optimizers_make_one_step() -> None:
    model = small()
    parts = [torch.optim.SGD(model[i].parameters(), 0.1) for i in (0, 2)]
    with Probe(model) as probe:
        for _ in range(3):
            model(batch()).sum().backward()
            for optimizer in parts:
                optimizer.step()
    assert probe.table()["step"].unique().tolist() == [0, 1, 2]


def test_another_models_optimizer_makes_none() -> None:
    model, other = small(), small()
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    with Probe(model) as probe:
        for _ in range(3):
            model(batch())
            other(batch()).sum().backward()
            optimizer.step()
    assert probe.table()["step"].unique().tolist() == [0]


def test_an_optimizer_that_evaluates_by_itself() -> None:
    """A closure runs the model inside the step; each line search has other weights."""
    model, weights = small(), []
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    gradients = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(batch()).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        weights.append(weight(model).detach().clone())
        gradients.append(weight(model).grad.clone())  # type: ignore[union-attr]
        return loss

    with Probe(model, backward=True) as probe:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    rows = probe.table().query("name == '0.weight'")
    for direction, values in (("forward", weights), ("backward", gradients)):
        found = rows[rows["direction"] == direction]
        assert found["step"].tolist() == list(range(len(values)))
        assert found["mean"].tolist() == pytest.approx([x.mean().item() for x in values], rel=1e-5)


def test_nothing_begins_a_step() -> None:
    """Buffers, gradients and modes are not weights, and equal values are no others."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    with Probe(model, backward=True) as probe:
        model(batch()).sum().backward()
        model.zero_grad()
        weight(model).data = weight(model).data.clone()
        weight(model).requires_grad_(False)
        model(batch())
    assert probe.table()["step"].unique().tolist() == [0]


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_what_a_pass_does_to_the_weights_is_no_update(max_norm: float | None) -> None:
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=max_norm), nn.Linear(4, 4))
    with Probe(model) as probe:
        for _ in range(3):
            model(torch.arange(9))
    assert probe.table()["step"].unique().tolist() == [0]


def test_a_lazy_module_makes_its_weights_in_its_first_step() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with Probe(model, backward=True) as probe:
        for _ in range(2):
            model(batch()).sum().backward()
    assert probe.table()["step"].unique().tolist() == [0]


def test_parts_that_are_called_by_themselves() -> None:
    """An update of all parts is one step; one of a part begins a step where that is called."""
    model = small()
    with Probe(model, weights=False) as probe:
        for factor in (1, 2, 3):
            model[2](model[0](batch()))
            for p in model.parameters():
                p.data.mul_(factor + 1)
        model[0](batch())
        model.get_parameter("2.weight").data.mul_(2)
        model[2](batch())
    rows = probe.table().query("tensor == 'preactivation'")
    assert rows[["step", "name"]].to_numpy().tolist() == [
        *[[step, name] for step in range(3) for name in ("0", "2")],
        [3, "0"],
        [3, "2"],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4, 5)])
def test_a_mark_sees_every_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    marks = {mark(x)}
    changes = [x.clone() for _ in range(x.numel())]
    for i, y in enumerate(changes):
        real = torch.view_as_real(y) if dtype.is_complex else y
        words = real.view(-1).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[real.itemsize])
        words[i] ^= 1
    changes += [-x, x * 2, x.flip(0), torch.zeros_like(x), torch.ones_like(x)] if x.ndim else []
    changes = [y for y in changes if not torch.equal(y, x)]
    marks |= {mark(y) for y in changes}
    assert len(marks) == len(changes) + 1
    assert mark(x.clone()) in marks
    assert all(differ(numbers(x), numbers(y)) for y in changes)  # type: ignore[arg-type]
    assert not differ(numbers(x), numbers(x.clone()))  # type: ignore[arg-type]


def test_marks_of_numbers_that_do_not_lie_in_order() -> None:
    x = torch.randn(9, 5)
    assert mark(x[1:, 1:]) == mark(x[1:, 1:])
    before = mark(x.t())
    x[8, 3] += 1
    assert mark(x.t()) != before
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert numbers(images).data_ptr() == images.data_ptr()  # type: ignore[union-attr]
    assert bits(torch.randn(9)[1:]).dtype in (torch.int32, torch.int64)


# how large an update is


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_update_ratio_by_hand(dtype: torch.dtype) -> None:
    model = small().to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    values = []
    with Probe(model, backward=True) as probe:
        for step in range(4):
            model(batch(step).to(dtype)).float().square().mean().backward()
            values.append({n: p.detach().double().clone() for n, p in model.named_parameters()})
            optimizer.step()
            optimizer.zero_grad()
    table = probe.table()
    assert table.loc[table["tensor"] != "weight", "update_ratio"].isna().all()
    for name in values[0]:
        for _, rows in table[table["name"] == name].groupby("direction", observed=True):
            expected = [math.nan] + [
                ((new[name] - old[name]).norm() / old[name].norm()).item()
                for old, new in pairwise(values)
            ]
            rel = 1e-12 if dtype == torch.float64 else 1e-6
            assert rows["update_ratio"].tolist() == pytest.approx(expected, rel=rel, nan_ok=True)


def test_update_ratio_of_every_other_step() -> None:
    """It is that of one update, also where not every step is measured."""
    model, ratios = small(), {}
    for every in (1, 2):
        torch.manual_seed(0)
        twin = copy.deepcopy(model)
        optimizer = torch.optim.SGD(twin.parameters(), 0.1)
        with Probe(twin, every=every) as probe:
            for step in range(5):
                twin(batch(step)).square().mean().backward()
                optimizer.step()
        rows = probe.table().query("name == '0.weight'")
        ratios[every] = dict(zip(rows["step"], rows["update_ratio"], strict=True))
    assert {step: ratios[1][step] for step in (2, 4)} == {s: ratios[2][s] for s in (2, 4)}


def test_update_ratio_of_what_stays_and_of_what_was_zero() -> None:
    model = small()
    nn.init.zeros_(model[0].bias)  # type: ignore[arg-type]
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1)
    with Probe(model) as probe:
        for _ in range(2):
            model(batch()).sum().backward()
            optimizer.step()
    ratios = probe.table().query("step == 1 and tensor == 'weight'").set_index("name")
    assert ratios["update_ratio"]["2.weight"] == 0
    assert ratios["update_ratio"]["0.bias"] == math.inf
    assert 0 < ratios["update_ratio"]["0.weight"] < math.inf


def test_copies_are_kept_only_for_training() -> None:
    model = small()
    with Probe(model) as probe:
        seen = probe._recorder.updates._seen
        with torch.no_grad():
            model(batch())
        assert all(entry.copy is None for entry in seen.values())
        model(batch())
        assert all(entry.copy is not None for entry in seen.values())
    assert not probe._recorder.updates._seen
    with Probe(model, weights=False) as probe:
        model(batch())
        assert all(entry.copy is None for entry in probe._recorder.updates._seen.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_following_copies(dtype: torch.dtype) -> None:
    old, new = torch.randn(7).to(dtype), torch.randn(7).to(dtype)
    before = old.double()
    update, rms = follow(old, new)
    assert torch.equal(old, new)
    assert rms == pytest.approx(before.square().mean().sqrt().item(), rel=1e-6)
    assert update == pytest.approx((new - before).square().mean().sqrt().item(), rel=1e-6)


# modes


def test_modes_are_kept_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Softplus())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Probe(model, backward=True) as probe:
        for step in range(2):
            model.train()(batch(step)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                y = model.eval()(batch(9))
    table = probe.table()
    last = table[(table["layer"] == 3) & (table["direction"] == "forward")]
    assert last[["step", "mode"]].to_numpy().tolist() == [
        [0, "train"],
        [1, "train"],
        [1, "eval"],
        [2, "eval"],
    ]
    assert last["mean"].iloc[-1] == pytest.approx(y.mean().item(), rel=1e-6)
    back = table[table["direction"] == "backward"]
    assert set(back["mode"]) == {"train"}
    # each mode has the weights that it used
    weights = table[(table["name"] == "0.weight") & (table["direction"] == "forward")]
    assert weights["mode"].tolist() == ["train", "train", "eval", "eval"]
    assert weights["count"].tolist() == [16] * 4
    assert weights["std"].iloc[1] == weights["std"].iloc[2]
    assert table.duplicated(["step", "mode", "layer", "name", "tensor", "direction"]).sum() == 0


def test_the_mode_of_a_part() -> None:
    model = small()
    model[0].eval()
    with Probe(model) as probe:
        model(batch())  # the model is in training, whatever its parts are
        model[0](batch())
    assert probe.table()["mode"].unique().tolist() == ["train", "eval"]


def test_the_modes_of_functions_of_weights() -> None:
    """A step that only evaluated has no gradient, and no copy of the rows of another."""
    model = small().eval()
    with Probe(model, backward=True) as probe:
        model(batch()).square().mean().backward()
    table = probe.table()
    assert set(table["mode"]) == {"eval"}
    assert (table["direction"] == "backward").sum() == np.sum(table["direction"] == "forward") - 1
