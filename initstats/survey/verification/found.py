"""What comes of a claim, and the ways in which sweeps make claims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from initstats.survey.verification import inputs
from initstats.survey.verification.compared import (
    Deviation,
    Sweep,
    compared,
    deviation,
    gradient,
)
from initstats.survey.verification.published import CLAIMS, Claim

LARGEST = 4.0
"""The most standard errors, over all layers, that count as chance."""
FEWER = 3
"""Seeds where little is computed."""
Reading = tuple[str, str, str]
"""A statistic, a direction, and a tensor."""
Q: Reading = ("second_moment", "forward", "stream")
K: Reading = ("product", "forward", "stream")
GAMMA: Reading = ("second_moment", "backward", "stream")


class Found(NamedTuple):
    """What came of a claim.

    Attributes:
        z: the worst over layers, in standard errors; NaN where it is no question of chance.
        low, high: the least and the largest figure over networks, as `published.Claim` has it.
        error: the standard error of these.
        theory: what theory says of a rate or a growth; NaN where the figure is relative to it.
        width, seeds: of the simulation; 0 where there was none.
    """

    z: float = math.nan
    low: float = math.nan
    high: float = math.nan
    error: float = 0.0
    theory: float = math.nan
    width: int = 0
    seeds: int = 0

    @classmethod
    def figure(
        cls,
        value: float,
        error: float = 0.0,
        *,
        z: float = math.nan,
        theory: float = math.nan,
        width: int = 0,
        seeds: int = 0,
    ) -> Found:
        """A single figure, and its error."""
        return cls(z, value, value, error, theory, width, seeds)


class Swept(NamedTuple):
    """Claims of a sweep: how far its means are from theory.

    Attributes:
        sweep: what is measured.
        reads: by the claim, what is read; of several, the worst counts.
        worst: the claims whose figures are those of the worst layer, and not of the last one.
    """

    sweep: Sweep
    reads: Mapping[str, tuple[Reading, ...]]
    worst: tuple[str, ...] = ()

    def __call__(self, *, quick: bool) -> dict[str, Found]:
        """The claims."""
        sweep = self.sweep._replace(seeds=FEWER) if quick else self.sweep
        rows = compared(sweep)
        found = {}
        for key, reads in self.reads.items():
            far = [deviation(rows, *read) for read in reads]
            found[key] = _of(far, sweep, worst=key in self.worst)
        return found


def _of(far: list[Deviation], sweep: Sweep, *, worst: bool) -> Found:
    return Found(
        z=max(each.z for each in far),
        low=max(each.most for each in far) if worst else min(each.low for each in far),
        high=max(each.most for each in far) if worst else max(each.high for each in far),
        error=max(each.error for each in far),
        width=sweep.width,
        seeds=sweep.seeds,
    )


class Rated(NamedTuple):
    """The factor per layer of a gradient's mean square, in plain networks of twenty layers.

    Attributes:
        key: the claim.
        network, activation, width, seeds, init: what is measured.
        rate: what theory says.
    """

    key: str
    network: str
    activation: str
    width: int
    seeds: int
    rate: float
    init: str = "kaiming_normal"

    def __call__(self, *, quick: bool) -> dict[str, Found]:
        """The claim; the first layer, which reads data, does not count."""
        seeds = FEWER if quick else self.seeds
        case = ((self.network, self.init),)
        sweep = Sweep(case, (self.activation,), 21, self.width, seeds, inputs.rows(64))
        rows = compared(sweep)
        growth, error = gradient(rows, 2, 21, "preactivation")
        rate = growth ** (1 / 19)
        size = {"width": self.width, "seeds": seeds}
        return {self.key: Found.figure(rate, rate * error / growth / 19, theory=self.rate, **size)}


def rows_of(found: Mapping[str, Found]) -> pd.DataFrame:
    """What came of claims, a row each, their keys being the index."""
    return pd.DataFrame(found.values(), index=pd.Index([*found]))


def claimed(rows: pd.DataFrame, notes: Mapping[str, str]) -> pd.DataFrame:
    """A row for each printed claim, in their order.

    Args:
        rows: of `rows_of`, of all claims that were made.
        notes: why others are not made, and what is to be said of some, likewise.

    Returns:
        `claim`, `key`; `width`, `seeds`, `z`, `low`, `high`, `error`, `theory`, as `Found` has
        them; `published_width`, `published_seeds`, `published_z`, `published`, as printed;
        `verdict`: `agrees`, `differs` or `not made`; `note`.
    """
    found = {key: Found(*values) for key, *values in rows.itertuples()}
    table = []
    for claim in CLAIMS:
        made = found.get(claim.key)
        verdict = "not made" if made is None else "agrees" if agrees(claim, made) else "differs"
        table.append(
            {
                "claim": claim.claim,
                "key": claim.key,
                **(made or Found())._asdict(),
                "published_width": claim.width,
                "published_seeds": claim.seeds,
                "published_z": claim.z,
                "published": claim.figure,
                "verdict": verdict,
                "note": notes.get(claim.key, ""),
            }
        )
    return pd.DataFrame(table)


def agrees(claim: Claim, found: Found) -> bool:
    """Whether figures lie where the printed ones do, to within three errors of both.

    The printed ones count as if they had as many seeds. Where the printed z is one of chance, at
    most 4, ours is to be, too.
    """
    slack = 3 * math.sqrt(2) * found.error
    inside = found.low >= claim.low - slack and found.high <= claim.high + slack
    by_chance = not claim.z or float(claim.z) > LARGEST or found.z <= LARGEST
    return by_chance and (inside or math.isnan(claim.low))
