"""Audits of models whose parameters have no numbers yet."""

from __future__ import annotations

import torch
from torch import nn

import initstats as ist


def lazy() -> nn.Sequential:
    return nn.Sequential(
        nn.LazyConv1d(6, 3), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    )


def test_a_lazy_model_stays_lazy() -> None:
    model, x = lazy(), torch.randn(4, 3, 8)
    audited = ist.audit(model, x)
    assert audited.table.set_index("name")["shape"]["4.weight"] == "10x36"
    assert ist.audit(model, expected="mup", x=x).findings["rule"].eq("as_expected").any()
    assert all(map(nn.parameter.is_lazy, model.parameters()))
    assert [type(module).__name__ for module in model][::4] == ["LazyConv1d", "LazyLinear"]
    model(x)  # and can still be run
    assert model[4].weight.shape == (10, 36)


def test_weights_without_numbers_are_weights() -> None:
    kinds = ["weight", "bias", "gain", "bias", "weight", "bias"]
    assert [*ist.audit(lazy()).table["kind"]] == kinds
    words = "weights without numbers; gains without numbers; biases without numbers"
    assert ist.audit(lazy()).words == words
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.Linear(36, 10))
    assert [*ist.audit(model).table["kind"]] == kinds
