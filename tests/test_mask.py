"""Padding that is left out: statistics are those of the entries that count, selected by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initstats as ist

LENGTHS = torch.tensor([7, 2, 3, 1, 5])
VALID = torch.arange(7)[None] < LENGTHS[:, None]  # (samples, positions)
ROWS = torch.tensor([True, False, True, True, False])  # (samples,)


class ByPosition(nn.Module):
    """A dense layer on (samples, positions, units)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x))

    def by_hand(self, y: Tensor, mask: Tensor) -> Tensor:
        return y[mask]


class ChannelsFirst(ByPosition):
    """A convolution on (samples, channels, positions)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv1d(4, 6, 3, padding=1)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x.transpose(1, 2)))

    def by_hand(self, y: Tensor, mask: Tensor) -> Tensor:
        return y.transpose(1, 2)[mask]


class Flat(ByPosition):
    """A dense layer on (samples x positions, units)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x.reshape(-1, 4)))

    def by_hand(self, y: Tensor, mask: Tensor) -> Tensor:
        return y[mask.flatten()]


class Heads(ByPosition):
    """Units in heads: (samples, positions, heads, units)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x).unflatten(-1, (2, 3)))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("mask", [VALID, ROWS], ids=["positions", "samples"])
@pytest.mark.parametrize("model", [ByPosition, ChannelsFirst, Flat, Heads])
def test_statistics_are_those_of_what_counts(
    model: type[ByPosition], mask: Tensor, backward: bool
) -> None:
    if model is Flat and mask is ROWS:
        return  # samples cannot be told from positions there
    torch.manual_seed(0)
    net = model().double()
    x = torch.randn(5, 7, 4, dtype=torch.float64)
    table = ist.measure(net, x, mask=mask, backward=backward, loss=lambda y: (y**3).sum())
    y = net(x)
    right = {"forward": net.by_hand(y, mask), "backward": net.by_hand(3 * y**2, mask)}
    rows = table[table["op"] == "tanh"]
    assert len(rows) == 1 + backward
    for row in rows.to_dict("records"):
        values = right[row["direction"]].detach()
        units = values.movedim(-1, 0).flatten(1)  # (units, entries)
        assert row["count"] == values.numel()
        assert row["mean"] == pytest.approx(values.mean().item(), rel=1e-9)
        assert row["std"] == pytest.approx(values.std().item(), rel=1e-9)
        assert row["min"] == values.min()
        spread = units.mean(1).std(correction=0).item()
        assert row["unit_mean_std"] == pytest.approx(spread, rel=1e-6)
    weights = table[(table["name"] == "linear.weight") & (table["direction"] == "forward")]
    assert weights["count"].item() == net.linear.weight.numel()


def test_a_unit_that_only_padding_moves_is_dead() -> None:
    x = torch.zeros(5, 7, 4)
    x[~VALID] = torch.randn(int((~VALID).sum()), 4)
    relu = ist.measure(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), x, mask=VALID).iloc[-1]
    assert relu["op"] == "relu"
    assert relu["dead_fraction"] == 1


def test_what_the_mask_does_not_fit_is_whole_and_listed() -> None:
    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(1, 2)).softmax(-1) @ x

    x = torch.randn(5, 7, 4)
    probe = ist.Probe(nn.Sequential(Scores()), mask=VALID).run(x)
    table = probe.table().set_index("op")
    assert table.loc["softmax", "count"] == 7 * int(VALID.sum())  # rows that count, all columns
    pooled = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(21, 2))
    probe = ist.Probe(pooled, mask=VALID).run(x)
    table, missed = probe.table(), probe.missed()
    last = table[(table["name"] == "2") & (table["tensor"] == "preactivation")]
    assert last["count"].tolist() == [10]
    assert missed["kind"].tolist() == ["mask"]
    assert missed["name"].tolist() == ["2"]
    assert "measured whole: the mask of 5x7 does not fit" in missed["reason"].item()
    counts = probe.coverage.split()
    assert counts[0] == counts[2]  # it is measured


def test_each_batch_has_its_mask() -> None:
    model = ByPosition()
    batches = [(torch.randn(5, 7, 4), VALID), (torch.randn(2, 3, 4), torch.eye(2, 3).bool())]
    with ist.Probe(model) as probe:
        for x, mask in batches:
            probe.mask = mask
            model(x)
    row = probe.table().iloc[-1]
    right = torch.cat([model(x)[mask] for x, mask in batches])
    assert row["count"] == right.numel()
    assert row["std"] == pytest.approx(right.std().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(5, 7), r"booleans, .* not torch.float32 of shape \(5, 7\)"),
        (torch.zeros(5, 7, dtype=torch.bool), "some of them true"),
        (VALID.T, r"mask of shape \(7, 5\) fits no value of the model"),
    ],
)
def test_a_mask_that_cannot_be(mask: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ist.measure(ByPosition(), torch.randn(5, 7, 4), mask=mask)
