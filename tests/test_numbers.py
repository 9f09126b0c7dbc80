"""Numbers that no change of the house may change: checksums of small studies, kept in a file.

They were written by version 0.1.0 as it was before networks became blocks. All of it is in float64,
so that another processor gives the same digits but for the last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import initstats as ist

KEPT: dict[str, dict[str, dict[str, dict[str, float]]]] = json.loads(
    Path(__file__).with_name("numbers.json").read_text()
)
STUDIES: dict[str, dict[str, Any]] = {
    "mlp": {
        "inits": ["kaiming_normal", "torch_default", "orthogonal", "lsuv"],
        "activations": ["relu", "tanh", "general_relu"],
        "widths": [12],
        "samples": 300,
    },
    "cnn": {
        "network": "cnn",
        "inits": ["kaiming_normal", "torch_default", "lsuv"],
        "activations": ["relu", "gelu"],
        "widths": [4],
        "samples": 100,
    },
}


@pytest.mark.parametrize("study", STUDIES)
def test_measured_and_predicted_numbers_are_what_they_were(mnist: ist.Dataset, study: str) -> None:
    grid = ist.Grid(**STUDIES[study], depth=5, seeds=2, backward=True, dtype="float64")
    for part, table in (
        ("measured", ist.run_sweep(grid, mnist)),
        ("predicted", ist.predict(grid, mnist)),
    ):
        groups = table.groupby(["init", "activation"], observed=True, sort=False)
        assert len(groups) == len(KEPT[study][part])
        for (init, activation), rows in groups:
            assert_kept(rows, KEPT[study][part][f"{init} {activation}"])


def assert_kept(rows: pd.DataFrame, kept: dict[str, float]) -> None:
    """Compare the sum of every statistic, each row with another weight; what is not kept is 0."""
    weights = np.cos(np.arange(len(rows)))
    for name in rows.columns[rows.columns.get_loc("count") :].drop(
        ["claim", "note"], errors="ignore"
    ):
        values = np.nan_to_num(rows[name].to_numpy(np.float64))
        # an entry that rounding carries over the edge of a bin moves a quantile
        tolerance = 1e-4 if name[0] == "q" and name[1:].isdigit() else 1e-10
        size = float(np.abs(weights * values).sum())
        assert float(weights @ values) == pytest.approx(kept.get(name, 0.0), abs=tolerance * size)


def test_a_change_in_the_tenth_digit_is_seen(mnist: ist.Dataset) -> None:
    grid = ist.Grid(**STUDIES["mlp"], depth=5, seeds=2, backward=True, dtype="float64")
    table = ist.run_sweep(grid.model_copy(update={"activations": grid.activations[:1]}), mnist)
    rows = table[table["init"] == "lsuv"]
    kept = KEPT["mlp"]["measured"]["lsuv relu"]
    assert_kept(rows, kept)
    for name in ("std", "skewness", "unit_mean_std"):
        with pytest.raises(AssertionError):
            assert_kept(rows.assign(**{name: rows[name] * (1 + 1e-8)}), kept)
