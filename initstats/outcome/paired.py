"""Paired comparison: intervals, tests and sample sizes of differences, one for each seed.

Where every difference is finite: Student's t. Where some run is worse than any number: signed
ranks (Wilcoxon 1945; Hodges & Lehmann 1963), whose exact distribution is computed here for ranks
with ties too, since failed runs are tied with each other. Equivalence is shown by two one-sided
tests (Schuirmann 1987), and several comparisons are adjusted as in Holm (1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, nctdtr, ndtri, stdtr, stdtrit

Array = NDArray[np.float64]

FEWEST_RANKS = 6
"""The pairs below which the exact test of signed ranks cannot reach p = 0.05."""
POWER = 0.8
"""The chance to find what is there with which numbers of seeds are computed."""
_MOST_SEEDS = 1_000_000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A difference, its interval, and the p of no difference: numbers, or arrays of them."""

    difference: Any
    low: Any
    high: Any
    p: Any


def paired_t(differences: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of finite differences, its Student-t interval and two-sided test.

    Args:
        differences: (..., seeds), of two seeds or more. Where all seeds have the same one, the
            interval is a point, and p is 1 if that is 0, else 0.
    """
    mean, error, freedom = _mean_and_error(differences)
    half = stdtrit(freedom, (1 + confidence) / 2) * error
    p = np.minimum(1.0, 2 * stdtr(freedom, -np.abs(_ratio(mean, error))))
    return Estimate(mean, mean - half, mean + half, p)


def t_equivalence(differences: ArrayLike, margin: float) -> Any:
    """p of two one-sided t tests: small where the mean is surely nearer to 0 than the margin.

    Args:
        differences: (..., seeds), finite, of two seeds or more.
    """
    mean, error, freedom = _mean_and_error(differences)
    return stdtr(freedom, -_ratio(margin - np.abs(mean), error))


def signed_ranks(differences: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Hodges-Lehmann estimate, its interval from the exact law of signed ranks, Wilcoxon's test.

    The estimate is the median of the means of all pairs of differences, each with itself too. The
    interval's ends are two of these means, so that both may be infinite: then more runs failed
    than it can leave out. The mean of two opposite infinities says nothing and counts half on each
    side. Ties and differences of 0 make the interval wider than the test.

    Args:
        differences: (seeds,), infinite where one of a pair of runs failed.
    """
    d = np.asarray(differences, np.float64)
    first, second = np.triu_indices(len(d))
    with np.errstate(invalid="ignore"):
        means = (d[first] + d[second]) / 2
    below, above = (np.where(np.isnan(means), end, means) for end in (-np.inf, np.inf))
    twice = np.sort(np.concatenate([below, above]))
    left, right = twice[len(means) - 1], twice[len(means)]
    middle = 0.0 if np.isinf(left) and left == -right else (left + right) / 2
    outside = np.cumsum(_law(np.arange(1, len(d) + 1))) <= (1 - confidence) / 2
    steps = int(outside.sum())
    low, high = (twice[2 * steps - 2], twice[1 - 2 * steps]) if steps else (-np.inf, np.inf)
    return Estimate(float(middle), float(low), float(high), _wilcoxon(d))


def rank_equivalence(differences: ArrayLike, margin: float) -> float:
    """p of two one-sided tests of signed ranks against the margin on either side."""
    d = np.asarray(differences, np.float64)
    return max(_tails(d + margin)[1], _tails(d - margin)[0])


def discordant(only_first: int, only_second: int) -> float:
    """Exact p of McNemar (1947): as many pairs in which only the first failed as only the second.

    It is 1 where there is no such pair.
    """
    pairs = only_first + only_second
    fewer = min(only_first, only_second)
    return min(1.0, 2 * float(bdtr(fewer, pairs, 0.5))) if pairs else 1.0


def holm(p: ArrayLike) -> Array:
    """p adjusted for all comparisons of a family, as in Holm (1979); NaN is no comparison.

    Args:
        p: (..., comparisons).
    """
    given = np.asarray(p, np.float64)
    order = np.argsort(given, axis=-1, kind="stable")
    steps = np.take_along_axis(_comparisons_left(given), order, axis=-1)
    raised = np.maximum.accumulate(np.take_along_axis(given, order, axis=-1) * steps, axis=-1)
    adjusted = np.empty_like(given)
    np.put_along_axis(adjusted, order, np.minimum(raised, 1.0), axis=-1)
    return adjusted


def holm_levels(p: ArrayLike, level: float) -> Array:
    """The level at which each comparison of a family is tested, (..., comparisons)."""
    return level / np.maximum(_comparisons_left(np.asarray(p, np.float64)), 1.0)


def seeds_for_difference(difference: float, spread: float, level: float) -> float:
    """Pairs with which a t test finds a true difference with a probability of 80%.

    Args:
        spread: the standard deviation of differences over seeds, above 0.
        level: of the test, two-sided.

    Returns:
        inf where a million pairs do not suffice.
    """
    effect = abs(difference) / spread

    def power(pairs: int) -> float:
        critical, shift = stdtrit(pairs - 1, 1 - level / 2), effect * math.sqrt(pairs)
        return float(1 - nctdtr(pairs - 1, shift, critical) + nctdtr(pairs - 1, shift, -critical))

    return _fewest(power)


def seeds_for_equivalence(difference: float, spread: float, margin: float, level: float) -> float:
    """Pairs with which two one-sided t tests show equivalence with a probability of 80%.

    The two tests are taken as if they never failed together, which is nearly exact at this power.
    """
    if not abs(difference) < margin:
        return math.inf

    def power(pairs: int) -> float:
        critical, root = stdtrit(pairs - 1, 1 - level), math.sqrt(pairs) / spread
        missed = (
            nctdtr(pairs - 1, (margin + side * difference) * root, critical) for side in (1, -1)
        )
        return float(1 - sum(missed))

    return _fewest(power)


def seeds_for_ranks(differences: ArrayLike, level: float) -> float:
    """Pairs with which Wilcoxon's test finds what is observed with 80%, after Noether (1987).

    What is observed is the share of pairs of differences whose mean is positive. It is inf where
    that share is one half.
    """
    d = np.asarray(differences, np.float64)
    first, second = np.triu_indices(len(d), 1)
    with np.errstate(invalid="ignore"):
        means = np.nan_to_num(d[first] + d[second], nan=0.0, posinf=np.inf, neginf=-np.inf)
    off = abs(float(np.mean(np.sign(means)))) / 2
    quantiles = float(ndtri(1 - level / 2) + ndtri(POWER))
    return math.ceil(quantiles**2 / (3 * off**2)) if off else math.inf


def seeds_for_failures(only_first: int, only_second: int, pairs: int, level: float) -> float:
    """Pairs with which McNemar's test finds the observed shares with 80%, after Connor (1987).

    It is inf where as many fail on both sides.
    """
    either, more = (only_first + only_second) / pairs, abs(only_first - only_second) / pairs
    if not more:
        return math.inf
    spread = ndtri(1 - level / 2) * math.sqrt(either) + ndtri(POWER) * math.sqrt(either - more**2)
    return math.ceil((float(spread) / more) ** 2)


def _mean_and_error(differences: ArrayLike) -> tuple[Any, Any, int]:
    """Mean, its standard error and its degrees of freedom, over the last axis."""
    d = np.asarray(differences, np.float64)
    seeds, mean, spread = d.shape[-1], d.mean(axis=-1), d.std(axis=-1, ddof=1)
    # equal differences of rounded numbers have a spread of some 1e-17
    constant = np.ptp(d, axis=-1) <= _ROUNDING * np.abs(d).max(axis=-1)
    return mean, np.where(constant, 0.0, spread) / math.sqrt(seeds), seeds - 1


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole; of nothing by nothing 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((part == 0) & (whole == 0), 0.0, np.divide(part, whole))


def _comparisons_left(p: Array) -> Array:
    """How many comparisons of the family have no smaller p than each; (..., comparisons)."""
    places = np.argsort(np.argsort(p, axis=-1, kind="stable"), axis=-1)
    return np.asarray((~np.isnan(p)).sum(axis=-1, keepdims=True) - places, np.float64)


def _law(ranks: NDArray[np.int64]) -> Array:
    """P(W = w) for w = 0, 1, ...: the sum of those ranks whose signs, fair coins, are positive."""
    law = np.ones(1)
    for rank in ranks:
        nothing = np.zeros(rank)
        law = (np.concatenate([law, nothing]) + np.concatenate([nothing, law])) / 2
    return law


def _tails(d: Array) -> tuple[float, float]:
    """P of signed ranks as low as these, and of ranks as high; differences of 0 are left out."""
    kept = d[d != 0]
    ranks = pd.Series(np.abs(kept)).rank().to_numpy()
    doubled = np.rint(2 * ranks).astype(np.int64)  # ties have half ranks
    law, sum_of_positive = _law(doubled), int(doubled[kept > 0].sum())
    return float(law[: sum_of_positive + 1].sum()), float(law[sum_of_positive:].sum())


def _wilcoxon(d: Array) -> float:
    """Exact two-sided p of Wilcoxon (1945); 1 where all differences are 0."""
    return min(1.0, 2 * min(_tails(d)))


def _fewest(power: Callable[[int], float]) -> float:
    """The smallest number of pairs with enough power."""
    high = 2
    while power(high) < POWER:
        high *= 2
        if high > _MOST_SEEDS:
            return math.inf
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high
