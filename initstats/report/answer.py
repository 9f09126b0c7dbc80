"""What a study answers, in numbers and names; the template `study.html` puts them into words."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr

from initstats.diagnosis import CONFIGURATION, Limits, count_healthy, deepest
from initstats.plots import Results
from initstats.plots.story import lesson_init, shifted
from initstats.report.printed import typeset

Facts = dict[str, Any]


def best_by_activation(results: Results) -> pd.DataFrame:
    """Which inits keep the signal for which activation, one row each, by network and width.

    Returns:
        `network`, `width`, `activation`; `kept`, the inits that keep the signal, the steadiest
        first; `growth`, `growth_low`, `growth_high` and `std` of the steadiest, NaN where there is
        none; `lost`, how many of the other inits fail, by verdict.
    """
    rows: list[Facts] = []
    keys = ["network", "width", "activation"]
    numbers = ["growth", "growth_low", "growth_high", "std"]
    sized = normed(results)
    for names, group in results.summary.groupby(keys, observed=True, sort=True):
        by = "gradient_growth" if str(names[0]) in sized else "growth"
        healthy = steadiest_first(group[group["verdict"] == "healthy"], by)
        lost = group.loc[group["verdict"] != "healthy", "verdict"].astype(str).value_counts()
        facts = {"kept": healthy["init"].astype(str).to_list(), "lost": lost.to_dict()}
        best = healthy[numbers].head(1).to_dict("records")
        rows.append(dict(zip(keys, names, strict=True)) | facts | dict(*best))
    return pd.DataFrame(rows, columns=[*keys, "kept", "lost", *numbers])


def counted(results: Results) -> pd.DataFrame:
    """How many combinations have which verdict, by the families of their init and activation.

    Returns:
        `init`, `activation`, of several of one family its name and their number; `combinations`;
        `verdicts`, how many have each, the commonest first.
    """
    families = {kind: _families(results.summary[kind]) for kind in ("init", "activation")}
    summary = results.summary.astype({"verdict": str}).assign(**families)
    met: dict[tuple[Any, Any], dict[str, int]] = {}
    counts = summary.groupby(["init", "activation", "verdict"], sort=False).size().reset_index()
    for init, activation, verdict, count in counts.itertuples(index=False, name=None):
        met.setdefault((init, activation), {})[verdict] = count
    rows = [
        {
            "init": init,
            "activation": activation,
            "combinations": sum(verdicts.values()),
            "verdicts": dict(sorted(verdicts.items(), key=lambda item: -item[1])),
        }
        for (init, activation), verdicts in met.items()
    ]
    return pd.DataFrame(rows)


def _families(names: pd.Series) -> pd.Series[str]:
    """The family of each name, with the number of its members; the name where it is alone."""
    spelled = names.astype(str)
    family = spelled.str.partition("(")[0]
    members = spelled.groupby(family).transform("nunique")
    return spelled.where(members == 1, family + "(…), " + members.astype(str) + " of them")


def varied(results: Results) -> str:
    """What a combination is of, in words: of inits, activations, and what else is several."""
    several = [noun for noun in ("network", "width") if results.summary[noun].nunique() > 1]
    *front, last = [*several, "init", "activation"]
    return f"{', '.join(front)} and {last}"


def normed(results: Results) -> set[str]:
    """Names of the networks with norms in them, before which the size of the signal is free."""
    return {*results.measured("normed")["network"].astype(str).unique()}


def steadiest_first(rows: pd.DataFrame, by: str = "growth") -> pd.DataFrame:
    """Sorted by how far growth is from 1 in either direction; at depth 1, how far the std is.

    Args:
        by: the growth, `growth` or `gradient_growth`; what is not known comes last.
    """
    values = rows[by].fillna(rows["std"]) if by == "growth" else rows[by]
    with np.errstate(divide="ignore"):
        off = np.abs(np.log(values.to_numpy()))
    return rows.iloc[np.argsort(off, kind="stable")]


def keepers(results: Results) -> Facts | None:
    """Which inits keep the signal for most activations, which come next, and which keep none.

    Networks that were measured with one init alone, as recipes are, compare no inits.
    """
    rows = results.summary[_inits(results) > 1]
    inits = [name for name in results.inits if (rows["init"] == name).any()]
    if len(inits) < 2:
        return None
    kept = (rows["verdict"] == "healthy").groupby(rows["init"].astype(str))
    counts = kept.sum()[inits]
    best, *fewer = sorted({*counts}, reverse=True)
    following = fewer[0] if fewer else 0
    leaders, followers, none = (
        list(counts.index[counts == count]) for count in (best, following, 0)
    )
    return {
        "leaders": leaders,
        "best": int(best),
        "total": int(kept.size()[leaders[0]]),
        "followers": followers if following else [],
        "following": int(following),
        "none": none,
        "blocks": len(rows[["network", "width"]].drop_duplicates()),
    }


def alone(results: Results) -> list[Facts]:
    """How each network fares that was measured with one init alone, where others have several."""
    rows = results.summary[_inits(results) == 1].astype({"network": str, "init": str})
    if len(results.inits) < 2:
        return []
    wide = results.summary["width"].nunique() > 1
    unit = "combinations of activation and width" if wide else "activations"
    facts = {"unit": unit if len(results.activations) > 1 or wide else "activation"}
    return [
        facts
        | {"network": network, "init": init, "healthy": int(healthy.sum()), "total": len(healthy)}
        for (network, init), healthy in (rows["verdict"] == "healthy").groupby(
            [rows["network"], rows["init"]], sort=False
        )
    ]


def _inits(results: Results) -> pd.Series[int]:
    """With how many inits the network of each row was measured."""
    names = results.summary.astype({"network": str, "init": str})
    return names.groupby("network")["init"].transform("nunique")


def contrast(results: Results) -> Facts | None:
    """What a factor per layer comes to, for one activation: with its best init and a failing one.

    The activation is relu where it has both, else the first one that has, and the network the first
    where this is so. The failing init changes the signal tenfold or more from the first layer to
    the last, by the smallest factor. Norms take the size of the signal away, so in a network with
    norms it is the gradient that is told of.
    """
    summary, steps, sized = results.summary, results.depth - 1, normed(results)
    names = sorted(results.activations, key=lambda name: name != "relu")
    for activation, block in product(names, results.blocks):
        rows = block.rows(summary[summary["activation"] == activation])
        of_gradients = block.network in sized
        by = "gradient_growth" if of_gradients else "growth"
        failed = ["gradient vanishes", "gradient explodes"] if of_gradients else _SIZES
        healthy = rows[(rows["verdict"] == "healthy") & (rows[by] > 0)]
        off = rows[rows["verdict"].isin(failed) & np.isfinite(rows[by]) & np.isfinite(rows["std"])]
        off = off[(off[by] > 0) & (np.log10(off[by].clip(1e-300)).abs() * steps >= 1)]
        if len(healthy) and len(off):
            best, other = (steadiest_first(each, by).iloc[0] for each in (healthy, off))
            stream = (results.measured("stream")["network"] == block.network).any()
            what = "rms of the stream" if stream else "rms of the pre-activations"
            what = "norm of the gradient" if of_gradients else what
            facts = {"activation": activation, "best": best, "other": other}
            return facts | {"by": by, "what": what, "measured": _told(best, other)}
    return None


_SIZES = ["vanishes", "explodes"]


def _told(*rows: pd.Series) -> bool:
    """Whether gradients were measured, and not taken from theory."""
    return all(row["gradient_by"] == "measured" for row in rows)


def hopeless(results: Results) -> list[Facts]:
    """Activations that no init keeps healthy, and how most inits fail."""
    if len(results.inits) < 2:
        return []
    lost = []
    for name, rows in results.summary.groupby("activation", observed=True, sort=True):
        verdicts = rows["verdict"].astype(str).value_counts()
        if "healthy" not in verdicts:
            commonest, count = next(iter(verdicts.items()))
            facts = {"activation": name, "inits": len(rows), "verdict": commonest, "count": count}
            lost.append(facts)
    return lost


def limits(results: Results) -> Facts | None:
    """How many combinations are healthy by limits of 3, 10 and 30 on the sizes.

    Returns:
        The number by limit, and `steady`, whether they are all equal; None without a table.
    """
    if results.table.empty:
        return None
    cells = deepest(results.stacks)
    counts = {
        limit: count_healthy(cells, Limits(factor=limit, gradient_factor=limit))
        for limit in (3, 10, 30)
    }
    return {"counts": counts, "steady": len({*counts.values()}) == 1}


def gradients(results: Results) -> Facts:
    """How many combinations have gradients by measurement, by theory, by nothing."""
    counts = results.summary["gradient_by"].value_counts()
    return {by: int(counts.get(by, 0)) for by in ("measured", "theory", "nothing")}


def hidden(results: Results) -> pd.DataFrame:
    """The collapsed rows of the summary that the last standard deviation, 0.1 to 10, hides."""
    summary = results.summary
    return summary[(summary["verdict"] == "collapses") & summary["std"].between(0.1, 10)]


def shift_story(results: Results) -> Facts | None:
    """Mean of relu's first layer, and of the first and the last with a constant subtracted."""
    names = shifted(results)
    if not names or "relu" not in results.activations:
        return None
    init, rows = lesson_init(results), results.blocks[0].rows(results.measured("activation"))
    rows = rows[(rows["init"] == init) & rows["activation"].isin(["relu", names[0]])]
    rows = rows.astype({"activation": str})
    means = rows.groupby(["activation", "layer"])["mean"].mean().unstack("layer")
    if len(means) < 2:
        return None
    relu, shift = (means.loc[name].to_numpy() for name in ("relu", names[0]))
    return {"init": init, "relu": relu[0], "first": shift[0], "last": shift[-1]}


def agreement(results: Results) -> Facts | None:
    """How the second moments agree with theory; None where nothing was predicted.

    Returns:
        `rows`, how many can be compared, 0 where the predictions have no z-scores; `three` and
        `two`, the shares within so many standard errors; `seeds`; `expected`, the share that
        Student's t with so few seeds would leave within three; `compared`, whether there are
        z-scores; `doubts`, why theory does not apply and how often that is said, commonest first.
    """
    rows = results.predicted
    if rows is None:
        return None
    rows = rows[rows["direction"].isin(results.table["direction"].unique())]
    compared = {"z", "seeds"} <= set(rows.columns)
    applies = rows["note"] == ""
    z = rows.loc[applies & rows["z"].notna(), "z"].abs() if compared else pd.Series(dtype=float)
    return {
        "compared": compared,
        "rows": len(z),
        "three": (z < 3).mean(),
        "two": (z < 2).mean(),
        "seeds": (seeds := int(rows["seeds"].max()) if len(z) else 0),
        "expected": 1 - 2 * stdtr(seeds - 1, -3) if seeds > 1 else np.nan,
        "doubts": _doubts(rows.loc[~applies, [*CONFIGURATION, "note"]]),
    }


_NUMBER = re.compile(r"(?<=\s)-?\d[\d.e+-]*(?=[%:,\s]|$)")


def _doubts(notes: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Reasons with their rows and configurations; those that differ in numbers alone are one."""
    doubts = []
    reasons = notes["note"].str.replace(_NUMBER, "#", regex=True)
    for reason, group in notes.groupby(reasons, sort=False):
        configurations = len(group.drop_duplicates(CONFIGURATION))
        doubts.append((_ranged(str(reason), group["note"]), len(group), configurations))
    return sorted(doubts, key=lambda doubt: -doubt[1])


def _ranged(reason: str, notes: pd.Series[str]) -> str:
    """A reason, with the range of each number that its notes name."""
    numbers = [_NUMBER.findall(note) for note in notes]
    for values in zip(*numbers, strict=True):
        ends = (end(values, key=float) for end in (min, max))
        reason = reason.replace("#", " to ".join(dict.fromkeys(ends)), 1)
    return typeset(reason)
