"""Gradients are those that the optimizer gets, whatever stands between it and backward."""

from __future__ import annotations

import copy
import multiprocessing
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import _global_optimizer_pre_hooks as hooks
from torch.utils.checkpoint import checkpoint

import initstats as ist
from initstats.moments import STATISTICS
from initstats.probe import Probe, measure
from initstats.probe.spectra import SPECTRA

KEYS = ["step", "mode", "layer", "name", "op", "call", "tensor", "direction"]


def batch(seed: int = 0, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 4, generator=generator, dtype=torch.float64)
    return x + torch.arange(float(size), dtype=torch.float64)[:, None]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def gradient(model: nn.Module) -> Tensor:
    found = model.get_parameter("0.weight").grad
    assert found is not None
    return found


def agree(found: pd.DataFrame, expected: pd.DataFrame, rel: float = 1e-12) -> None:
    """Two tables are the same, to the precision of what they measured."""
    pd.testing.assert_frame_equal(
        found[KEYS].reset_index(drop=True), expected[KEYS].reset_index(drop=True)
    )
    size = expected[["min", "max"]].abs().max(axis=1).to_numpy()
    scales = {"skewness": 1, "kurtosis": 1, "second_moment": size**2, "sample_correlation": 1}
    for name in STATISTICS:
        ours, theirs = found[name].to_numpy(float), expected[name].to_numpy(float)
        assert np.array_equal(np.isnan(ours), np.isnan(theirs)), name
        error = np.nan_to_num(np.abs(ours - theirs) / scales.get(name, size))
        assert (error <= rel * 100 if name in ("skewness", "kurtosis") else error <= rel).all(), (
            name
        )


def row_of(probe: Probe, name: str, **keys: Any) -> pd.Series[Any]:
    table = probe.table()
    chosen = (table["name"] == name) & (table["direction"] == "backward")
    for key, value in keys.items():
        chosen &= table[key] == value
    found = table[chosen]
    assert len(found) == 1, f"{len(found)} rows of {name}"
    return found.iloc[0]


def is_of(row: pd.Series[Any], gradient: Tensor) -> None:
    """A row is of a gradient, and of nothing else."""
    g = gradient.detach().double()
    g = g.to_dense() if g.is_sparse else g
    assert row["count"] == g.numel()
    assert row["mean"] == pytest.approx(g.mean().item(), rel=1e-6, abs=1e-9)
    assert row["std"] == pytest.approx(g.std().item(), rel=1e-6)


# what stands between backward and the optimizer


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_a_scaled_loss(unscale: bool, fused: bool, listed: bool) -> None:
    """The table is that of the training without a scaler, at every step."""
    tables = []
    for scale in (1.0, 1024.0):
        model = small().float()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
        with Probe(model, backward=True) as probe:
            for step in range(3):
                loss = model(batch(step).float()).square().mean()
                (scaler.scale([loss])[0] if listed else scaler.scale(loss)).backward()
                if unscale:
                    scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        tables.append(probe.table())
    agree(tables[1], tables[0], rel=1e-6)


def test_a_scaled_loss_without_an_optimizer() -> None:
    model = small().half().float()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    with Probe(model, backward=True) as probe:
        loss = model(batch().float()).square().mean()
        scaler.scale(loss).backward(retain_graph=True)
        scaled = gradient(model).clone()
        row = row_of(probe, "0.weight")
        is_of(row, scaled / 2**16)
        model.zero_grad()
        loss.backward()  # the same graph, without the scaler
        is_of(row_of(probe, "0.weight"), gradient(model))
        assert row_of(probe, "0", op="linear", tensor="preactivation")["count"] == 2 * 48


def test_a_step_that_the_scaler_skips() -> None:
    model, x = small().float(), batch().float()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with Probe(model, backward=True) as probe:
        for _ in range(2):
            loss = model(x * 100).square().sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update(new_scale=4.0)
            optimizer.zero_grad()
        model(x)
    table = probe.table()
    assert table["step"].unique().tolist() == [0, 1]
    assert row_of(probe, "0.weight", step=0)["nonfinite"] == 0  # of the step that was made


def test_the_optimizer_sees_the_sum() -> None:
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    sums = []
    with Probe(model, backward=True) as probe:
        for step in range(3):
            for i in range(4):
                (model(batch(10 * step + i)).square().mean() / 4).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            sums.append(gradient(model).clone())
            optimizer.step()
            optimizer.zero_grad()
    for step, expected in enumerate(sums):
        is_of(row_of(probe, "0.weight", step=step), expected)


def test_an_optimizer_inside_of_backward() -> None:
    model, gradients = small(), []
    optimizers = {p: torch.optim.SGD([p], 0.01) for p in model.parameters()}

    def step(p: Tensor) -> None:
        if p is model[0].weight:
            gradients.append(gradient(model).clone())
        optimizers[p].step()  # type: ignore[index]
        optimizers[p].zero_grad()  # type: ignore[index]

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)  # type: ignore[no-untyped-call]
    with Probe(model, backward=True) as probe:
        for i in range(3):
            model(batch(i)).square().mean().backward()
    for i, expected in enumerate(gradients):
        is_of(row_of(probe, "0.weight", step=i), expected)


def test_updates_by_hand() -> None:
    """Without an optimizer the gradient is what the last backward left, or was computed apart."""
    model = small()
    expected = []
    with Probe(model, backward=True) as probe:
        for i in range(4):
            loss = model(batch(i)).square().mean()
            if i % 2:
                loss.backward()
                gradients = [p.grad for p in model.parameters()]
            else:
                gradients = list(torch.autograd.grad(loss, list(model.parameters())))
            expected.append(gradients[0].clone())  # type: ignore[union-attr]
            for p, g in zip(model.parameters(), gradients, strict=True):
                p.data -= 0.01 * g  # type: ignore[operator]
                p.grad = None
    for i, one in enumerate(expected):
        is_of(row_of(probe, "0.weight", step=i), one)


def test_the_last_gradient_needs_no_step() -> None:
    """A backward that no optimizer follows is read when the table is asked for."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Probe(model, backward=True) as probe:
        for i in range(2):
            optimizer.zero_grad()
            model(batch(i)).square().mean().backward()
            if not i:
                optimizer.step()
    is_of(row_of(probe, "0.weight", step=1), gradient(model))


# gradients that come in parts


class Twice(nn.Module):
    """One weight in two layers, of which one may be computed anew during backward."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
        self.b.weight = self.a.weight
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            h = self.a(x)
        else:
            h = checkpoint(self.a, x, use_reentrant=self.reentrant)
        out: Tensor = self.b(torch.tanh(h))
        return out


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_a_tied_weight_is_whole(reentrant: bool | None, steps: bool) -> None:
    model = Twice(reentrant)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with Probe(model, backward=True) as probe:
        for _ in range(2):
            model.zero_grad()
            model(batch()[:, :3].clone().requires_grad_()).square().sum().backward()
            if steps:
                optimizer.step()
    for step in (0, 1) if steps else (0,):
        is_of(row_of(probe, "a.weight", step=step), model.a.weight.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [False, True])
def test_a_reentrant_checkpoint_is_measured_in_one_call(held: bool) -> None:
    tables = []
    for reentrant in (False, True):
        model, x = Twice(reentrant), batch()[:, :3].clone().requires_grad_()
        before = torch.full((3, 3), 5.0, dtype=torch.float64) if held else None
        model.a.weight.grad = before
        tables.append(measure(model, x, backward=True))
        assert model.a.weight.grad is before
        assert before is None or before.eq(5).all()
        assert x.grad is None
        assert model.a.bias.grad is None
    agree(tables[1], tables[0])


@pytest.mark.parametrize("bag", [False, True])
@pytest.mark.parametrize("steps", [False, True])
def test_sparse_gradients_are_as_dense_ones(bag: bool, steps: bool) -> None:
    tables = []
    for sparse in (False, True):
        torch.manual_seed(0)
        kind: Any = nn.EmbeddingBag if bag else nn.Embedding
        model = nn.Sequential(kind(10, 6, sparse=sparse), nn.Linear(6, 3)).double()
        index = torch.tensor([[0, 3, 3], [9, 0, 1]])
        if not steps:
            tables.append(measure(model, index, backward=True))
            continue
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with Probe(model, backward=True) as probe:
            for _ in range(2):
                model(index).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        tables.append(probe.table())
    agree(tables[1], tables[0])
    back = (tables[1]["name"] == "0.weight") & (tables[1]["direction"] == "backward")
    assert tables[1].loc[back, "count"].tolist() == [60] * (2 if steps else 1)


def test_what_a_model_derives_itself_is_no_gradient_of_the_loss() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Linear(4, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            total = torch.tanh(self.energy(x)).sum()
            return torch.autograd.grad(total, x, create_graph=True)[0]

    torch.manual_seed(0)
    model = Force()
    with Probe(model, backward=True) as probe:
        model(batch()).square().sum().backward()
    is_of(row_of(probe, "energy.weight"), model.energy.weight.grad)  # type: ignore[arg-type]
    assert row_of(probe, "energy", op="linear")["count"] == 8


# several processes


def train(rank: int, size: int, folder: str) -> None:
    """Train a rank of a model, and keep the table that it ends with."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/{size}", rank=rank, world_size=size
    )
    try:
        ways: Any = {1: {}, 2: {"find_unused_parameters": True}, 4: {"static_graph": True}}
        probe = trained(DistributedDataParallel(small(), **ways[size]), rank, size)
        probe.gather().gather()
        probe.table().to_pickle(f"{folder}/{size}-{rank}.pickle")
        probe.histograms().to_pickle(f"{folder}/{size}-{rank}-histograms.pickle")
    finally:
        torch.distributed.destroy_process_group()


def trained(model: Any, rank: int = 0, size: int = 1) -> Probe:
    """Three steps of two micro-batches each; two ranks exchange gradients after the second one."""
    waits = [model.no_sync, nullcontext] if size == 2 else [nullcontext] * 2
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Probe(model, backward=True, spectra=True) as probe:
        for step in range(3):
            for x, wait in zip(batch(step).chunk(2), waits, strict=True):
                part = x.chunk(size)[rank]
                with wait():
                    ((model(part) - 1).square().mean() / 2).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 1:
                probe.gather()  # what comes later is gathered later
    return probe


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_ranks_give_the_table_of_one_process(tmp_path: Path, size: int) -> None:
    if size == 1:
        train(0, 1, str(tmp_path))
    else:  # one server imports all, and is copied for each rank
        multiprocessing.set_forkserver_preload(["torch._dynamo", __name__])
        arguments = train, (size, str(tmp_path)), size
        start_processes(*arguments, start_method="forkserver")  # type: ignore[no-untyped-call]
    alone = trained(nn.ModuleDict({"module": small()})["module"])
    expected = alone.table()
    names = expected["name"].str.fullmatch(r"\d.*")
    expected["name"] = ("module." + expected["name"]).where(names, expected["name"])
    for rank in range(size):
        found = pd.read_pickle(tmp_path / f"{size}-{rank}.pickle")
        agree(found, expected)
        for column in ("update_ratio", *SPECTRA):
            own, whole = found[column].tolist(), expected[column].tolist()
            assert own == pytest.approx(whole, rel=1e-12, nan_ok=True), column
        histograms = pd.read_pickle(tmp_path / f"{size}-{rank}-histograms.pickle")
        assert histograms["count"].tolist() == alone.histograms()["count"].tolist()


@pytest.mark.filterwarnings("ignore:FSDP is switching")
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_a_sharded_model_is_refused(tmp_path: Path) -> None:
    """Its weights are freed in between, which fails where they have been read."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        inner, wrapped = (
            nn.Sequential(small()),
            FullyShardedDataParallel(small(), device_id=torch.device("cpu")),
        )
        fully_shard(inner[0], mesh=init_device_mesh("cpu", (1,)))
        for model, name in ((inner, "0"), (wrapped, "FullyShardedDataParallel")):
            for refused in (lambda m=model: Probe(m), lambda m=model: ist.lsuv_(m, batch())):
                with pytest.raises(ValueError, match=f"^{name} is sharded over processes"):
                    refused()
    finally:
        torch.distributed.destroy_process_group()


def test_gathering_alone_changes_nothing() -> None:
    probe = trained(small())
    before = probe.table()
    assert probe.gather() is probe
    pd.testing.assert_frame_equal(probe.table(), before)


# it changes nothing


def test_no_hook_and_no_gradient_stays() -> None:
    model = small()
    twin = copy.deepcopy(model)
    before = len(hooks)
    for net, watched in ((model, True), (twin, False)):
        optimizer = torch.optim.Adam(net.parameters(), 0.1)
        with Probe(net if watched else small(), backward=True):
            for i in range(2):
                net(batch(i)).square().mean().backward()
                optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
        assert p._post_accumulate_grad_hooks is None
        assert p._backward_hooks is None
    assert len(hooks) == before
