"""Learning rates by one rule for all variants: the smallest that is nearly as good as the best.

The best rate is often the largest that still trains, and diverges under another seed. The smallest
rate within 2% of the best loss is safe from that, and the rule favours no variant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pandas as pd

from initstats.outcome.runs import KEYS, in_order, require
from initstats.plural import counted

NEARLY = 1.02
"""A rate is as good as the best if its mean loss is no more than this many times the best one."""

_NEEDED = [*KEYS, "lr", "seed", "tuning_loss", "outcome"]


def choose_rates(tuning: pd.DataFrame) -> pd.DataFrame:
    """Choose the learning rate of each variant from its tuning runs.

    A rate is out if any of its runs failed, at whatever loss. Of the others, the chosen one is the
    smallest whose mean tuning loss over seeds is at most 1.02 times the best mean. Losses are
    positive; if the best is exactly 0, only rates with a loss of 0 are as good.

    Args:
        tuning: one row for each tuning run, with `lr`, `seed`, `tuning_loss` and `outcome`.

    Returns:
        One row for each variant (`dataset network init activation width depth`): `lr`, the chosen
        rate; `best_lr`; `tuning_loss` and `best_loss`, their mean losses; `rates`, how many were
        tried; `diverged`, how many are out; `at_edge`, whether the best rate is the smallest or
        largest that was tried, so that a better one may lie beyond. Where all rates are out, the
        rates and losses are NaN, and `at_edge` is True.

    Raises:
        ValueError: not a tuning table, or one whose rates were not all tried with the same seeds.
    """
    rows = []
    for keys, rates in _by_variant(tuning):
        means = rates.loc[~rates["out"], "tuning_loss"]
        best = means.idxmin() if len(means) else np.nan
        chosen = means.index[means <= NEARLY * means.min()].min() if len(means) else np.nan
        row = dict(zip(KEYS, keys, strict=True)) | {
            "lr": chosen,
            "best_lr": best,
            "tuning_loss": means.get(chosen, np.nan),
            "best_loss": means.get(best, np.nan),
            "rates": len(rates),
            "diverged": int(rates["out"].sum()),
            "at_edge": len(means) == 0 or best in (rates.index[0], rates.index[-1]),
        }
        rows.append(row)
    chosen_rates = pd.DataFrame(rows)
    kinds = in_order(tuning).dtypes
    return chosen_rates.astype({name: kinds[name] for name in KEYS})


def next_rates(tuning: pd.DataFrame, rates: Iterable[float], *, furthest: int = 4) -> pd.DataFrame:
    """The further rates that variants need, because their best rate is at an edge.

    A rate is the next one outward on the ladder: 3 above 0.1, 0.3, 1, and 0.03 below. On a ladder
    of another kind, the ratio of its two outermost rates is repeated, rounded to 3 digits. A
    variant whose rates are all out goes down, and, if none of the runs at its largest rate
    diverged, up as well. Call it after each round of tuning until it gives nothing.

    Args:
        tuning: all tuning runs so far, as for `choose_rates`.
        rates: the ladder that tuning began with. A single rate has no neighbours: nothing follows.
        furthest: the largest number of rates to add at each end.

    Returns:
        `dataset network init activation width depth lr`, one row for each rate to try.

    Raises:
        ValueError: not a tuning table, or rates that are not positive numbers.
    """
    ladder = sorted({*rates})
    if not all(0 < rate < math.inf for rate in ladder):
        raise ValueError(f"learning rates must be positive numbers, got {[*ladder]}")
    rows = [
        (*keys, rate)
        for keys, tried in _by_variant(tuning)
        for rate in _beyond(tried, ladder, furthest)
    ]
    kinds = in_order(tuning).dtypes
    wanted = pd.DataFrame(rows, columns=[*KEYS, "lr"])
    return wanted.astype({name: kinds[name] for name in KEYS} | {"lr": float})


def _by_variant(tuning: pd.DataFrame) -> list[tuple[tuple[object, ...], pd.DataFrame]]:
    """The rates that each variant tried, ascending: `tuning_loss` (mean), `out`, `diverged`."""
    require(tuning, _NEEDED, "tuning table")
    runs = in_order(tuning)
    trained = (runs["outcome"] == "trained") & np.isfinite(runs["tuning_loss"].astype(float))
    runs = runs.assign(out=~trained, diverged=runs["outcome"] == "diverged")
    found = []
    for keys, rows in runs.groupby(KEYS, observed=True, sort=True):
        tried = rows.groupby("lr")
        seeds = {tuple(sorted(group["seed"])) for _, group in tried}
        if len(seeds) > 1:
            counts = " and ".join(sorted({counted(len(some), "seed") for some in seeds}))
            raise ValueError(
                f"the rates of {', '.join(map(str, keys))} were tried with different seeds "
                f"({counts}): finish the tuning runs of this round first"
            )
        rates = tried.agg({"tuning_loss": "mean", "out": "any", "diverged": "any"})
        found.append((keys, rates))
    return found


def _beyond(tried: pd.DataFrame, ladder: list[float], furthest: int) -> list[float]:
    """The rates to try next, at most one at each end."""
    if len(ladder) < 2:
        return []
    smallest, largest = tried.index[0], tried.index[-1]
    means = tried.loc[~tried["out"], "tuning_loss"]
    if len(means):
        down, up = means.idxmin() == smallest, means.idxmin() == largest
    else:
        down, up = True, not tried.loc[largest, "diverged"]
    added_below, added_above = (tried.index < ladder[0]).sum(), (tried.index > ladder[-1]).sum()
    wanted = []
    if down and added_below < furthest:
        wanted.append(_outward(smallest, ladder[0] / ladder[1], _is_neat(ladder)))
    if up and added_above < furthest:
        wanted.append(_outward(largest, ladder[-1] / ladder[-2], _is_neat(ladder)))
    return wanted


def _is_neat(ladder: list[float]) -> bool:
    """Whether rates are neighbours among ... 0.1, 0.3, 1, 3, 10 ..."""
    return all(
        math.isclose(_outward(low, 3.0, True), high, rel_tol=1e-9) for low, high in pairwise(ladder)
    ) and all(f"{rate:.9e}"[0] in "13" for rate in ladder)


def _outward(rate: float, ratio: float, neat: bool) -> float:
    """The rate's neighbour on a ladder with this ratio."""
    if neat:
        leading, exponent = f"{rate:.0e}".split("e")
        power = int(exponent)
        if ratio > 1:
            return float(f"3e{power}" if leading == "1" else f"1e{power + 1}")
        return float(f"3e{power - 1}" if leading == "1" else f"1e{power}")
    return float(f"{rate * ratio:.3g}")
