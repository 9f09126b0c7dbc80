"""Learning rates: the smallest that is nearly the best, and which ones to try next."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from initstats.outcome import choose_rates, next_rates

LADDER = [0.01, 0.03, 0.1, 0.3, 1.0]
OUT, CHANCE, NAN = np.inf, -1.0, np.nan


def tuning(losses: dict[float, float], activation: str = "relu", **columns: Any) -> pd.DataFrame:
    """Two tuning runs for each rate around its mean loss; one of them diverges or is at chance."""
    rows = []
    for (rate, loss), seed in itertools.product(losses.items(), (7, 8)):
        lost = seed == 8 and loss in (OUT, CHANCE)
        outcome = {OUT: "diverged", CHANCE: "chance"}[loss] if lost else "trained"
        value = {OUT: NAN, CHANCE: 2.3}.get(loss, loss) if lost or np.isfinite(loss) else 0.1
        rows.append(
            {"dataset": "mnist", "network": "mlp", "init": "k", "activation": activation}
            | {"width": 50, "depth": 2, "lr": rate, "seed": seed, "outcome": outcome}
            | {"tuning_loss": value * (0.8 if seed == 7 else 1.2)}
            | columns
        )
    return pd.DataFrame(rows)


def ladder(*losses: float, rates: list[float] = LADDER) -> dict[float, float]:
    return dict(zip(rates, losses, strict=True))


@pytest.mark.parametrize(
    ("losses", "chosen", "best", "out", "edge"),
    [
        ((0.5, 0.4, 0.3, 0.4, 0.5), 0.1, 0.1, 0, False),
        ((0.5, 0.4, 0.305, 0.3, 0.5), 0.1, 0.3, 0, False),  # a tie: the smaller of the two
        ((0.5, 0.4, 0.307, 0.3, 0.5), 0.3, 0.3, 0, False),  # 2.3% is no tie
        ((0.305, 0.5, 0.5, 0.3, 0.5), 0.01, 0.3, 0, False),  # losses that go up and down
        ((0.5, 0.4, 0.3, 0.2, OUT), 0.3, 0.3, 1, False),  # the best has one diverged run
        ((0.5, 0.4, 0.3, 0.2, CHANCE), 0.3, 0.3, 1, False),
        ((0.5, 0.4, 0.3, 0.2, 0.1), 1.0, 1.0, 0, True),
        ((0.5, 0.4, 0.3, 0.2, 0.199), 0.3, 1.0, 0, True),  # the chosen is not at the edge
        ((0.1, 0.4, 0.3, 0.2, 0.2), 0.01, 0.01, 0, True),
        ((OUT, 0.1, 0.3, 0.2, 0.2), 0.03, 0.03, 1, False),
        ((0.5, 0.0, 0.0, 0.2, 0.2), 0.03, 0.03, 0, False),
    ],
)
def test_choice(
    losses: tuple[float, ...], chosen: float, best: float, out: int, edge: bool
) -> None:
    row = choose_rates(tuning(ladder(*losses))).iloc[0]
    assert (row["lr"], row["best_lr"]) == (chosen, best)
    assert (row["rates"], row["diverged"], row["at_edge"]) == (5, out, edge)
    assert row["tuning_loss"] == pytest.approx(ladder(*losses)[chosen])
    assert row["best_loss"] == pytest.approx(ladder(*losses)[best])


def test_nothing_trains() -> None:
    row = choose_rates(tuning(ladder(*[OUT] * 5))).iloc[0]
    assert row[["lr", "best_lr", "tuning_loss", "best_loss"]].isna().all()
    assert (row["diverged"], row["at_edge"]) == (5, True)


def test_each_variant_by_itself_in_the_studys_order() -> None:
    order = pd.CategoricalDtype(["unused", "relu", "elu"])
    both = pd.concat(
        [
            tuning(ladder(0.5, 0.4, 0.3, 0.2, 0.1), "elu"),
            tuning(ladder(0.1, 0.2, 0.3, 0.4, 0.5), "relu"),
            tuning(ladder(0.5, 0.4, 0.1, 0.2, 0.3), "elu", depth=20),
        ]
    ).astype({"activation": order})
    found = choose_rates(both.sample(frac=1, random_state=0))
    assert [*found["activation"]] == ["relu", "elu", "elu"]
    assert [*found["depth"]] == [2, 2, 20]
    assert [*found["lr"]] == [0.01, 1.0, 0.1]
    further = next_rates(both, LADDER)
    assert [*zip(further["activation"], further["depth"], further["lr"], strict=True)] == [
        ("relu", 2, 0.003),
        ("elu", 2, 3.0),
    ]
    assert further.dtypes["activation"] == found.dtypes["activation"]


@pytest.mark.parametrize(
    ("losses", "further"),
    [
        ((0.5, 0.4, 0.3, 0.4, 0.5), []),
        ((0.5, 0.4, 0.3, 0.2, 0.1), [3.0]),
        ((0.1, 0.4, 0.3, 0.2, 0.2), [0.003]),
        ((0.5, 0.4, 0.3, 0.2, OUT), []),  # the edge above has diverged
        ((0.5, OUT, OUT, OUT, OUT), [0.003]),
        ((OUT, OUT, OUT, OUT, OUT), [0.003]),
        ((CHANCE, CHANCE, OUT, OUT, OUT), [0.003]),
        ((CHANCE,) * 5, [0.003, 3.0]),  # too small or too large, nobody knows
    ],
)
def test_next(losses: tuple[float, ...], further: list[float]) -> None:
    assert [*next_rates(tuning(ladder(*losses)), LADDER)["lr"]] == further


@pytest.mark.parametrize(
    ("rates", "below", "above"),
    [
        ([0.1, 0.3], [0.03, 0.01, 0.003, 0.001], [1.0, 3.0, 10.0, 30.0]),
        ([1e-5, 3e-5, 1e-4], [3e-6, 1e-6, 3e-7, 1e-7], [3e-4, 1e-3, 3e-3, 1e-2]),
        ([0.1, 0.2, 0.4], [0.05, 0.025, 0.0125, 0.00625], [0.8, 1.6, 3.2, 6.4]),
        ([0.01, 0.1, 1.0], [1e-3, 1e-4, 1e-5, 1e-6], [10.0, 100.0, 1e3, 1e4]),
        ([0.3, 0.1, 0.1], [0.03, 0.01, 0.003, 0.001], [1.0, 3.0, 10.0, 30.0]),
        ([1.0, 1.5, 2.25], [0.667, 0.445, 0.297, 0.198], [3.38, 5.07, 7.61, 11.4]),
        ([0.01, 0.03, 0.3], [0.00333, 0.00111, 0.00037, 0.000123], [3.0, 30.0, 300.0, 3e3]),
    ],
)
@pytest.mark.parametrize("up", [True, False])
def test_rounds_until_the_end(
    rates: list[float], below: list[float], above: list[float], up: bool
) -> None:
    """The best stays at the edge, round after round, until four rates have been added."""
    tried, added = sorted({*rates}), []
    for _ in range(6):
        losses = {rate: 1 / rate if up else rate for rate in tried}
        further = [*next_rates(tuning(losses), rates)["lr"]]
        added += further
        tried = sorted([*tried, *further])
    assert added == (above if up else below)
    assert bool(choose_rates(tuning(losses))["at_edge"].item())


def test_furthest_and_a_single_rate() -> None:
    falling = tuning(ladder(0.5, 0.4, 0.3, 0.2, 0.1))
    assert next_rates(falling, LADDER, furthest=0).empty
    assert next_rates(tuning({0.1: 0.3}), [0.1]).empty
    with pytest.raises(ValueError, match=r"must be positive numbers, got \[0.0, 0.1\]"):
        next_rates(falling, [0.1, 0.0])


def test_what_cannot_be() -> None:
    whole = tuning(ladder(0.5, 0.4, 0.3, 0.2, 0.1))
    with pytest.raises(ValueError, match="not a tuning table: it lacks the columns lr"):
        choose_rates(whole.drop(columns="lr"))
    with pytest.raises(ValueError, match="tried with different seeds .1 seed and 2 seeds."):
        choose_rates(whole[1:])
    with pytest.raises(ValueError, match="no run is finished yet"):
        next_rates(whole[:0], LADDER)
