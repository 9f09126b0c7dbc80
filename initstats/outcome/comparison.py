"""Which variant trains better than a baseline, over the same seeds: failures, then differences.

A variant is an activation and an init. Its runs and the baseline's of one seed saw the same data
in the same order and were drawn from the same numbers, so that their difference is what is judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from initstats.outcome.paired import (
    FEWEST_RANKS,
    Estimate,
    discordant,
    holm,
    holm_levels,
    paired_t,
    rank_equivalence,
    seeds_for_difference,
    seeds_for_equivalence,
    seeds_for_failures,
    seeds_for_ranks,
    signed_ranks,
    t_equivalence,
)
from initstats.outcome.runs import KEYS, Measure, final_runs, measure_of
from initstats.outcome.words import sentence
from initstats.registry import unknown

Facts = dict[str, Any]

VERDICTS = (
    *("fails more often", "fails less often", "same in every seed"),
    *("better", "worse", "equivalent", "not decided"),
)
"""What a comparison may find: it gets the first that holds."""

SHARE_MARGIN, RELATIVE_MARGIN = 0.002, 0.02
"""Differences too small to matter: of accuracies; of losses, relative to the baseline's mean."""

COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(KEYS, "of the variant"),
        "baseline": "what the variant is compared with",
        "measure": "the column that is compared",
        "seeds": "how many seeds both have; all that follows is about these",
        "failed": "its runs that diverged or stayed at chance",
        "baseline_failed": "those of the baseline",
        "only_failed": "seeds in which it failed and the baseline did not",
        "only_baseline_failed": "seeds in which the baseline failed and it did not",
        "p_failed": "exact test (McNemar 1947) on the seeds in which one of the two failed",
        "p_failed_holm": "the same, adjusted; a comparison without such seeds is no test, and does "
        "not count among those adjusted for",
        "method": "`paired t` where no run failed; else `Wilcoxon`, with failed runs as the worst "
        "rank; `too few` below 2 seeds, or 6 with a failed run. A run that never reached the "
        "target counts as failed for `steps_to_target`",
        "mean": "over its runs that trained (and reached the target)",
        "baseline_mean": "over those of the baseline",
        "difference": "variant minus baseline: the mean for `paired t`; else the estimate of "
        "Hodges and Lehmann (1963), the median of the means of any two seeds' differences, "
        "infinite where one of the two fails in some 30% of the seeds",
        "low": "lower end of its interval; infinite where more runs failed than it leaves out",
        "high": "upper end, likewise",
        "p": "test of no difference",
        "p_holm": "the same, adjusted",
        "p_better": "share of seeds in which it is better; ties count half",
        "margin": "the difference that is too small to matter",
        "p_equivalent": "two one-sided tests (Schuirmann 1987), by the same method, that the "
        "difference is within the margin",
        "p_equivalent_holm": "the same, adjusted",
        "verdict": "the first of `VERDICTS` that holds of the adjusted tests. A difference that is "
        "both sure and within the margin is told as a difference. Nothing is called equivalent if "
        "there are seeds in which one of the two failed",
        "seeds_needed": "how many further seeds would decide it with a chance of 80%, if the true "
        "difference is the observed one: the least of those for a difference, at its level among "
        "the comparisons, for equivalence, and, if runs failed, for failures. NaN where it is "
        "decided, inf where no number would do; where there are too few seeds for a test, the "
        "number up to the first one",
        "words": "all this in one sentence",
    }
)
"""What each column of `summarize_training` means."""


def summarize_training(
    table: pd.DataFrame,
    baseline: str | tuple[str, str] = "relu",
    *,
    measure: str = "valid_accuracy",
    margin: float | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Say of each variant of a training study whether it trains better than a baseline.

    The last epoch is the outcome. Runs are paired by seed; seeds that only one of the two has are
    left out. Failures come first: a variant that fails more often is not rescued by the runs that
    trained. Tests of all comparisons of the call are one family, adjusted as in Holm (1979), one
    for failures, one for differences and one for equivalence. Intervals are each on its own, not
    simultaneous.

    Args:
        table: the training table, one row for each run and epoch.
        baseline: an activation, with which the others are compared under the same init; an init,
            with which the others are compared for the same activation; or both, (activation,
            init), with which all other variants are compared. Network, width and depth are always
            the same.
        measure: a column: `valid_accuracy`, `test_accuracy` (larger is better), `train_loss`,
            `valid_loss`, `test_loss`, `steps_to_target` (smaller is better).
        margin: the difference that is too small to matter, in the measure's unit; by default 0.002
            for accuracies (0.2 points), and 2% of the baseline's mean for the others.
        confidence: of intervals; 1 - confidence is the level of all tests.

    Returns:
        One row for each comparison, with the columns of `initstats.outcome.COLUMNS`, which says
        what each means: counts of failures and their exact test; the difference with its interval
        and test, by Student's t or, where runs failed, by signed ranks; the test of equivalence;
        the `verdict`, the `seeds_needed` to decide it, and all this in `words`.

    Raises:
        ValueError: not a training table, a baseline, measure, margin or confidence that cannot be,
            or nothing to compare.
    """
    kind = measure_of(measure)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if margin is not None and not 0 < margin < np.inf:
        raise ValueError(f"margin must be a number above 0, got {margin}")
    runs = final_runs(table, measure)
    level = 1 - confidence
    rows, differences = [], []
    for facts, pairs in _comparisons(runs, baseline):
        rows.append(facts | {"measure": measure} | _compared(pairs, kind, margin, confidence))
        differences.append(_differences(pairs))
    found = _adjusted(pd.DataFrame(rows))
    found["verdict"] = pd.Categorical(_verdicts(found, differences, kind, level), VERDICTS)
    found["seeds_needed"] = _seeds_needed(found, differences, level)
    found["words"] = [sentence(row, kind, confidence) for row in _facts(found)]
    return found.astype({name: runs[name].dtype for name in KEYS})[[*COLUMNS]]


def _adjusted(found: pd.DataFrame) -> pd.DataFrame:
    """The comparisons with the p of each family adjusted (Holm 1979)."""
    told_apart = found["only_failed"] + found["only_baseline_failed"] > 0
    failed = holm(found["p_failed"].where(told_apart))
    return found.assign(
        p_holm=holm(found["p"]),
        p_equivalent_holm=holm(found["p_equivalent"]),
        p_failed_holm=np.where(told_apart, failed, found["p_failed"]),
    )


def _comparisons(
    runs: pd.DataFrame, baseline: str | tuple[str, str]
) -> Iterator[tuple[Facts, pd.DataFrame]]:
    """Each variant that is compared, and its pairs of runs: one row for each seed of both."""
    chosen = _chosen(runs, baseline)
    shared = [name for name in KEYS if name not in chosen]
    varied = [name for name in shared if runs[name].nunique() > 1]
    is_baseline = np.logical_and.reduce([runs[name] == value for name, value in chosen.items()])
    others = runs[~is_baseline]
    if others.empty:
        raise ValueError(f"the table holds nothing to compare with {' and '.join(chosen.values())}")
    partners = runs[is_baseline][[*shared, "seed", "failed", "ranked"]]
    paired = others.merge(partners, on=[*shared, "seed"], how="left", suffixes=("", "_baseline"))
    for keys, rows in paired.groupby(KEYS, observed=True, sort=True):
        facts = dict(zip(KEYS, keys, strict=True))
        facts["baseline"] = " with ".join(chosen.values())
        facts["variant"] = " with ".join(str(facts[name]) for name in chosen)
        facts["where"] = " and ".join(f"{name} {facts[name]}" for name in varied)
        yield facts, rows[rows["ranked_baseline"].notna()]


def _chosen(runs: pd.DataFrame, baseline: str | tuple[str, str]) -> dict[str, str]:
    """The columns that a baseline fixes, and to what.

    Raises:
        ValueError: an unknown name, or one that is both an activation and an init.
    """
    names = {kind: [*runs[kind].cat.categories] for kind in ("activation", "init")}
    if not isinstance(baseline, str):
        if len(baseline) != 2:
            raise ValueError(f"a baseline is a name or (activation, init), got {baseline!r}")
        pair = dict(zip(names, baseline, strict=True))
        for kind, name in pair.items():
            if name not in names[kind]:
                raise unknown(kind, name, names[kind])
        if not np.logical_and.reduce([runs[kind] == name for kind, name in pair.items()]).any():
            raise ValueError(f"no run of the table has the baseline {' with '.join(baseline)}")
        return pair
    kinds = [kind for kind in names if baseline in names[kind]]
    if not kinds:
        raise unknown("baseline", baseline, [*names["activation"], *names["init"]])
    if len(kinds) == 2:
        raise ValueError(f"{baseline!r} is an activation and an init: give (activation, init)")
    return {kinds[0]: baseline}


def _facts(found: pd.DataFrame) -> list[Facts]:
    """The rows of a frame."""
    return [{str(name): value for name, value in row.items()} for row in found.to_dict("records")]


def _differences(pairs: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Variant minus baseline in each seed; 0 where both are worse than any number."""
    variant, baseline = (pairs[name].to_numpy() for name in ("ranked", "ranked_baseline"))
    with np.errstate(invalid="ignore"):
        return np.where(variant == baseline, 0.0, variant - baseline)


def _compared(pairs: pd.DataFrame, kind: Measure, margin: float | None, confidence: float) -> Facts:
    """All that one comparison says by itself."""
    differences, ranked = _differences(pairs), pairs[["ranked", "ranked_baseline"]]
    failed, other = (pairs[name].to_numpy(bool) for name in ("failed", "failed_baseline"))
    only, only_other = int((failed & ~other).sum()), int((other & ~failed).sum())
    mean, baseline_mean = (
        float(ranked[name][np.isfinite(ranked[name])].mean()) for name in ranked.columns
    )
    if margin is None:
        margin = SHARE_MARGIN if kind.share else RELATIVE_MARGIN * abs(baseline_mean)
    finite, seeds = bool(np.isfinite(ranked).all(axis=None)), len(pairs)
    method, estimate, p_equivalent = _judged(differences, finite, margin, confidence)
    better = (np.sign(differences) * kind.sign + 1) / 2
    return {
        "seeds": seeds,
        "failed": int(failed.sum()),
        "baseline_failed": int(other.sum()),
        "only_failed": only,
        "only_baseline_failed": only_other,
        "p_failed": discordant(only, only_other) if seeds else np.nan,
        "method": method,
        "fewest": _fewest(finite),
        "mean": mean,
        "baseline_mean": baseline_mean,
        **vars(estimate),
        "p_better": better.mean() if seeds else np.nan,
        "margin": margin,
        "p_equivalent": p_equivalent,
    }


def _judged(
    differences: np.ndarray[Any, np.dtype[np.float64]],
    finite: bool,
    margin: float,
    confidence: float,
) -> tuple[str, Estimate, float]:
    """The method that these differences allow, what it finds, and its p of equivalence."""
    if len(differences) == 0:
        return "too few", Estimate(np.nan, np.nan, np.nan, np.nan), np.nan
    if len(differences) < _fewest(finite):
        middle = signed_ranks(differences, confidence).difference
        return "too few", Estimate(middle, np.nan, np.nan, np.nan), np.nan
    judge, equivalence = (paired_t, t_equivalence) if finite else (signed_ranks, rank_equivalence)
    found = judge(differences, confidence)
    estimate = Estimate(*(float(number) for number in vars(found).values()))
    p = float(equivalence(differences, margin)) if margin > 0 else np.nan
    return "paired t" if finite else "Wilcoxon", estimate, p


def _fewest(finite: bool) -> int:
    """The pairs below which there is no test."""
    return 2 if finite else FEWEST_RANKS


def _verdicts(
    found: pd.DataFrame, differences: list[Any], kind: Measure, level: float
) -> list[str]:
    """The word for each comparison."""
    words = []
    for row, d in zip(_facts(found), differences, strict=True):
        conclusive = {
            "fails": row["p_failed_holm"] <= level,
            "same in every seed": len(d) > 1 and not d.any(),
            "differs": row["p_holm"] <= level,
            "equivalent": row["p_equivalent_holm"] <= level
            and row["only_failed"] == row["only_baseline_failed"] == 0,
        }
        word = next((word for word, holds in conclusive.items() if holds), "not decided")
        if word == "fails":
            more = row["only_failed"] > row["only_baseline_failed"]
            word = "fails more often" if more else "fails less often"
        elif word == "differs":
            # mostly ties: the estimate is 0, and the seeds that differ tell the direction
            direction = kind.sign * row["difference"] or row["p_better"] - 0.5
            word = "better" if direction > 0 else "worse"
        words.append(word)
    return words


def _seeds_needed(found: pd.DataFrame, differences: list[Any], level: float) -> list[float]:
    """How many further seeds would decide each comparison; NaN where it is decided."""
    levels = {name: holm_levels(found[name], level) for name in ("p_failed", "p", "p_equivalent")}
    needed = []
    for place, (row, d) in enumerate(zip(_facts(found), differences, strict=True)):
        own = {name: float(values[place]) for name, values in levels.items()}
        if row["verdict"] != "not decided":
            needed.append(np.nan)
        elif row["method"] == "too few":
            needed.append(float(row["fewest"] - len(d)))
        else:
            needed.append(max(1.0, _enough(row, d, own) - len(d)))
    return needed


def _enough(row: Facts, d: Any, levels: dict[str, float]) -> float:
    """The smallest number of seeds that decide a comparison in any way."""
    if row["method"] == "Wilcoxon":
        counts = (row["only_failed"], row["only_baseline_failed"], len(d))
        return min(seeds_for_ranks(d, levels["p"]), seeds_for_failures(*counts, levels["p_failed"]))
    spread, margin = float(np.std(d, ddof=1)), row["margin"]
    return min(
        seeds_for_difference(row["difference"], spread, levels["p"]),
        seeds_for_equivalence(row["difference"], spread, margin, levels["p_equivalent"]),
    )
