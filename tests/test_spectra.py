"""Spectra against closed forms and singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import initstats as ist
from initstats.probe import Probe
from initstats.probe.spectra import LARGEST, Covariance, stable_rank


def ratio_of(*tiles: Tensor) -> float:
    covariance = Covariance(len(tiles[0]))
    for tile in tiles:
        covariance.add(tile)
    return covariance.participation_ratio()


def by_hand(x: Tensor) -> float:
    """From the eigenvalues of numpy's covariance of (units, entries)."""
    values = np.linalg.eigvalsh(np.cov(x.double().numpy()))
    return float(values.sum() ** 2 / (values**2).sum())


@pytest.mark.parametrize("units", [2, 10, 40])
@pytest.mark.parametrize("c", [0.0, 0.3, 0.9])
def test_equally_correlated_units(units: int, c: float) -> None:
    # eigenvalues 1 + (units - 1) c once, 1 - c for all others
    expected = units / (1 + (units - 1) * c**2)
    generator = torch.Generator().manual_seed(units)
    found = []
    for _ in range(12):
        shared = torch.randn(1, 20_000, generator=generator)
        own = torch.randn(units, 20_000, generator=generator)
        found.append(ratio_of(3 + 1e-3 * (c**0.5 * shared + (1 - c) ** 0.5 * own)))
    error = np.std(found) / len(found) ** 0.5
    # n entries scatter the eigenvalues, which costs a share of units / n
    assert np.mean(found) == pytest.approx(expected, abs=4 * error + 2 * expected * units / 20_000)


def test_batches_are_streamed() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(rng.normal(scale=100, size=(7, 1)), 1, (7, 90)))
    x[3:5] += x[1]
    drift = x + torch.linspace(0, 50, 90)
    for whole in (x, drift, 1e30 * x, 1e-30 * x):
        for cuts in ([], [1], [5, 6, 60]):
            found = ratio_of(*whole.tensor_split(cuts, dim=1))
            assert found == pytest.approx(by_hand(whole), rel=1e-9)


@pytest.mark.parametrize("cuts", [[30], [0], [90], [1, 2, 60]])
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
def test_parts_merge_to_the_whole(cuts: list[int], size: float) -> None:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(rng.normal(scale=100, size=(7, 1)), 1, (7, 90)) * size)
    x[3:5] += x[1] + torch.linspace(0, 50, 90) * size
    whole = Covariance(7)
    for tile in x.tensor_split(cuts, dim=1):
        part = Covariance(7)
        part.add(tile)
        whole.merge(part)
    assert whole.participation_ratio() == pytest.approx(by_hand(x), rel=1e-9)


def test_entries_that_are_not_finite_take_their_sample_along() -> None:
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    spoiled = x.clone()
    spoiled[2, 7], spoiled[0, 30] = torch.nan, torch.inf
    kept = [i for i in range(40) if i not in (7, 30)]
    assert ratio_of(spoiled) == pytest.approx(by_hand(x[:, kept]), rel=1e-9)


def test_directions_of_simple_values() -> None:
    line = torch.outer(torch.tensor([1.0, -2.0, 5.0]), torch.arange(9.0))
    assert ratio_of(line) == pytest.approx(1)
    assert ratio_of(torch.eye(4)) == pytest.approx(3)  # four points span three directions
    for tile in (torch.ones(3, 8), torch.ones(3, 1), torch.full((3, 8), torch.nan)):
        assert np.isnan(ratio_of(tile))


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (64, 27), (2000, 3)])
def test_stable_rank_by_singular_values(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape) * rng.lognormal(size=(shape[0], 1))
    values = np.linalg.svd(x, compute_uv=False)
    expected = (values**2).sum() / values[0] ** 2
    for scale in (1.0, 1e30, 1e-200):
        found = stable_rank(torch.from_numpy(x * scale))
        assert found == pytest.approx(expected, rel=1e-9)
    q, _ = np.linalg.qr(rng.normal(size=(max(shape), min(shape))))
    assert stable_rank(torch.from_numpy(q)) == pytest.approx(min(shape), rel=1e-9)
    assert stable_rank(torch.from_numpy(x[:1])) == pytest.approx(1)


def test_no_stable_rank() -> None:
    broken = torch.ones(3, 3)
    broken[1, 1] = torch.nan
    for matrix in (
        torch.zeros(3, 3),
        broken,
        torch.ones(3, 1),
        torch.ones(0, 3),
        torch.ones(LARGEST + 1, LARGEST + 1),
    ):
        assert np.isnan(stable_rank(matrix))


def test_a_probe_measures_spectra_on_request() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
        batches = [torch.randn(n, 3, 6, 6) for n in (9, 4)]
    with Probe(model, backward=True, spectra=True) as probe:
        for x in batches:
            model(x).sum().backward()
    table = probe.table()
    whole = torch.cat(batches)
    with torch.no_grad():
        maps = model[:2](whole).movedim(1, 0).flatten(1)
        logits = model(whole).T
    for op, value in (("relu", maps), ("linear", logits)):
        row = table[(table["op"] == op) & (table["direction"] == "forward")].iloc[0]
        assert row["participation_ratio"] == pytest.approx(by_hand(value), rel=1e-5)
        assert np.isnan(row["stable_rank"])
    weights = table[(table["tensor"] == "weight") & (table["direction"] == "forward")]
    ranks = dict(zip(weights["name"], weights["stable_rank"], strict=True))
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert np.isnan(ranks[name])
            continue
        matrix = parameter.detach().flatten(1).double().numpy()
        norms = np.linalg.norm(matrix), np.linalg.norm(matrix, 2)
        assert ranks[name] == pytest.approx((norms[0] / norms[1]) ** 2, rel=1e-5)
    backward = table[table["direction"] == "backward"]
    assert backward[["participation_ratio", "stable_rank"]].isna().all(axis=None)
    plain = ist.measure(model, batches[0])
    assert "stable_rank" not in plain
    asked = ist.measure(model, batches[0], spectra=True)
    assert list(asked)[-2:] == ["participation_ratio", "stable_rank"]
    assert asked[list(plain)].equals(plain)


def test_each_step_has_its_spectrum() -> None:
    layer = nn.Linear(4, 3)
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    with Probe(layer, spectra=True) as probe:
        for rank in (1, 3):
            with torch.no_grad():
                layer.weight.copy_(torch.eye(3, 4) if rank == 3 else torch.ones(3, 4))
            layer(x)
    table = probe.table()
    ranks = table[table["name"].str.endswith("weight")]["stable_rank"]
    assert ranks.tolist() == pytest.approx([1, 3])
    made = table[table["tensor"] == "preactivation"]["participation_ratio"]
    assert made.iloc[0] == pytest.approx(1)
    assert made.iloc[1] > 2.9


def test_what_is_too_wide_is_said() -> None:
    model = nn.Linear(2, LARGEST + 1)
    probe = Probe(model, spectra=True).run(torch.ones(3, 2))
    missed = probe.missed()
    assert missed["kind"].tolist() == ["spectrum"]  # the weight's shorter side is 2
    assert f"more than {LARGEST}" in missed["reason"].iloc[0]
    made = probe.table().query("tensor == 'preactivation'").iloc[0]
    assert np.isnan(made["participation_ratio"])
    assert made["count"] == 3 * (LARGEST + 1)
    assert Probe(model).run(torch.ones(3, 2)).missed().empty
