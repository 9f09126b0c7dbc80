"""The page of architectures: what survives which depth, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from initstats.diagnosis import VERDICTS
from initstats.report.page import FILES, Files, Page, Shown, figures_of
from initstats.report.printed import DASH, Column, breakable, factor, printed, significant, typeset
from initstats.report.verification import verification

if TYPE_CHECKING:
    from initstats.survey import Evidence

Facts = dict[str, Any]
NO_NORM = "no norm"
HUNDRED = 100
"""The depth that the answer is about."""
EXPLODES = 1.2
"""Factors per layer of the squared gradient from which on plain networks are said to explode."""
NEAR = 1.15
"""The factor by which a depth may differ from that for which theory was asked."""
MEANS = {
    "layer norm after the activation": "over units",
    "batch norm": "over the batch",
    "batch norm after the activation": "over the batch",
    "weight standardization": "over the inputs of a unit",
}
"""Recipes that subtract a mean of what an activation gives, and over what it is taken."""


def write_survey(folder: str | Path, evidence: Evidence, files: Files = FILES) -> Path:
    """Write `index.html`, a page that needs no other file, its tables and `figures/`.

    Args:
        folder: where to.
        evidence: what `survey` returns.
        files: those of figures that are wanted.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page, or one of another kind; no such figure.
        OSError: the folder cannot be written.
    """
    return compose(evidence, figures_of("architectures", evidence)).publish(folder, files)


def compose(evidence: Evidence, figures: Sequence[Shown] = ()) -> Page:
    """The page, with these figures."""
    values = {
        **answer(evidence),
        "recipes": printed(at_depth(evidence), RECIPES),
        "words": _words(evidence),
        "rates": printed(by_place(evidence.rates), _rate_columns(evidence.rates)),
        "verification": verification(evidence),
    }
    names = [each.name for each in fields(evidence)]
    tables = {f"{name}.csv": getattr(evidence, name) for name in names}
    tables = {name: table for name, table in tables.items() if table is not None}
    return Page("architectures", values, figures, tables)


WORDS = {
    "L": "the number of a network’s branches; 1/L and 1/√L are scales of each branch.",
    "plain": "layers one after the other, without skip and without norm.",
    "skip": "each branch is added to the stream, which goes past it unchanged.",
    "pre-norm, post-norm": "the norm stands before what a branch does, or after the sum.",
    "warm": "logits of large variance, so that tokens attend to few others.",
}
"""What the page’s own words mean."""


def _words(evidence: Evidence) -> dict[str, str]:
    """The page's words and the verdicts that it shows, with their meaning."""
    tables = (evidence.survival, evidence.measured, evidence.norms, evidence.phases)
    told = [table["verdict"] for table in tables if "verdict" in table]
    met = {str(word) for words in told for word in words.unique()}
    return WORDS | {each.name: typeset(each.meaning) for each in VERDICTS if each.name in met}


def answer(evidence: Evidence) -> Facts:
    """What the sentences of the page say, computed from the tables."""
    return {
        "depth": _depth(evidence.survival),
        "survivors": survivors(evidence),
        "place": place(evidence.rates),
        "exploding": exploding(evidence.survival),
        "irrelevant": irrelevant(evidence.norms),
        "phases": phases(evidence.phases),
        "attention": attention(evidence.profiles),
        "agreement": agreement(evidence),
    }


def _depth(survival: pd.DataFrame) -> int:
    """The depth of the answer: a hundred layers, or the next fewer that there are."""
    return int(survival["depth"][survival["depth"] <= HUNDRED].max())


def at_depth(evidence: Evidence) -> pd.DataFrame:
    """The recipes at the depth of the answer, a row each; `deepest`, the last depth looked at."""
    survival = evidence.survival.assign(deepest=evidence.survival["depth"].max())
    return survival[survival["depth"] == _depth(survival)].reset_index(drop=True)


def survivors(evidence: Evidence) -> Facts:
    """The recipes that survive a hundred layers, and which of these work or are idle.

    Returns:
        `known`, the recipes that theory follows; `working`, `idle`, `other`: names of those that
        survive, by their verdict; `denied`: of those that survive by theory alone, the verdict of
        the sweep at that depth; `unknown`: those that theory does not follow.
    """
    survival, depth = evidence.survival, _depth(evidence.survival)
    rows = survival[survival["depth"] == depth]
    followed = rows["largest"].notna()
    alive = rows[followed & (rows["largest"] >= depth)]
    denied = _lost(evidence.measured, depth)
    refuted = alive["label"].isin(denied)
    names, alive = alive["label"][refuted], alive[~refuted]
    verdicts = alive["verdict"].astype(str)
    return {
        "known": int(followed.sum()),
        "count": len(alive),
        "working": alive.loc[verdicts == "healthy", "label"].tolist(),
        "idle": alive.loc[verdicts == "idle", "label"].tolist(),
        "other": dict(
            alive.loc[~verdicts.isin(["healthy", "idle"]), ["label", "verdict"]].to_numpy()
        ),
        "denied": {label: denied[label] for label in names},
        "unknown": rows.loc[~followed, "label"].tolist(),
    }


def _lost(measured: pd.DataFrame, depth: int) -> dict[str, str]:
    """The verdicts of sweeps at nearly a depth in which gradients or distinctness are lost."""
    grave = [each.name for each in VERDICTS if each.aspect in ("gradient", "distinctness")]
    near = (measured["depth"] / depth).between(1 / NEAR, NEAR)
    rows = measured[near & measured["verdict"].isin(grave)]
    return dict(zip(rows["label"], rows["verdict"].astype(str), strict=True))


def place(rates: pd.DataFrame) -> Facts:
    """What norms make of the squared gradient per layer, before relu and after it.

    Returns:
        `before`, `after`, of layer norm, and `layers`, the factor of the gradient's norm that the
        second makes in a hundred layers; `decides`, whether they differ; `rms`, those of RMS norm.
    """
    own = rates[rates["activation"] == "relu"]
    rate = {
        (norm, place): float(rate)
        for norm, place, rate in own[["norm", "place", "rate"]].itertuples(index=False)
    }
    before, after = rate["layer norm", "before"], rate["layer norm", "after"]
    rms = [rate["RMS norm", "before"], rate["RMS norm", "after"]]
    return {
        "before": before,
        "after": after,
        "layers": after ** ((HUNDRED - 1) / 2),
        "decides": abs(after - before) > 0.05,
        "rms": rms,
    }


def exploding(survival: pd.DataFrame) -> list[Facts]:
    """The plain networks that subtract a mean, with the factor of their squared gradient."""
    found = []
    for label, over in MEANS.items():
        rows = survival[(survival["label"] == label) & survival["gradient"].notna()]
        rows = rows[rows["depth"] <= HUNDRED].sort_values("depth").tail(2)
        if len(rows) < 2:
            continue
        ratio = rows["gradient"].iloc[1] / rows["gradient"].iloc[0]
        rate = float(ratio ** (2 / np.diff(rows["depth"])[0]))
        if rate > EXPLODES:
            found.append({"label": label, "over": over, "rate": rate})
    return found


def irrelevant(norms: pd.DataFrame) -> Facts:
    """For how many activations the init does not change the verdict, by norm.

    Returns:
        `norms`, those with more of them than there are without norm, most first, each with its
        number `same`; `fewer`, the labels of the others; `without`, the number without norm;
        `activations`; `matters`, whether activations differ under the first of `norms`.
    """
    words = norms.groupby(["label", "activation"], sort=False)["verdict"].nunique()
    same = (words == 1).groupby("label", sort=False).sum()
    without = int(same.get(NO_NORM, 0))
    others = same.drop(NO_NORM, errors="ignore")
    more = others[others > without].sort_values(ascending=False, kind="stable")
    first = norms[norms["label"] == more.index[0]] if len(more) else norms
    return {
        "norms": [{"label": label, "same": int(count)} for label, count in more.items()],
        "fewer": others.index[others <= without].tolist(),
        "without": without,
        "activations": norms["activation"].nunique(),
        "matters": first["verdict"].nunique() > 1,
    }


def phases(table: pd.DataFrame) -> list[Facts]:
    """Growth of the gradient at branches of scale 1, with the coolest and the warmest logits."""
    found = []
    for label, rows in table[table["branch"] == 1].groupby("label", sort=False):
        rows = rows.sort_values("logits")
        known = rows[rows["gradient"].notna()]
        if len(known) > 1:
            cool, warm = known.iloc[0], known.iloc[-1]
            found.append(
                {
                    "label": label,
                    "warms": warm["gradient"] > 10 * cool["gradient"],
                    "depth": int(cool["depth"]),
                    "logits": (cool["logits"], warm["logits"]),
                    "gradient": (cool["gradient"], warm["gradient"]),
                }
            )
    return found


def attention(profiles: pd.DataFrame) -> Facts | None:
    """The transformers whose tokens attend most and least evenly at the last layer."""
    rows = profiles[
        (profiles["statistic"] == "attention_entropy") & (profiles["source"] == "measured")
    ]
    if rows.empty:
        return None
    by_label = rows.sort_values("layer").groupby("label", sort=False)["value"]
    first, last = by_label.first(), by_label.last()
    tokens = profiles[profiles["statistic"] == "participation_ratio"]
    tokens = tokens[tokens["source"] == "measured"].sort_values("layer")
    ends = tokens.groupby("label", sort=False)["value"].last()
    low = int(last.to_numpy().argmin())
    return {
        "lowest": str(last.index[low]),
        "first": float(first.iloc[low]),
        "last": float(last.iloc[low]),
        "even": int((last > 0.95).sum()),
        "of": len(last),
        "alike": ends[ends < 1.1].index.tolist(),
    }


def agreement(evidence: Evidence) -> Facts:
    """How many measured verdicts are theory's at nearly the same depth, and which are not."""
    seen, told = evidence.measured, evidence.survival
    told = told[told["largest"].notna() & (told["verdict"] != "unknown")]
    pairs = seen.merge(told, on="label", suffixes=("", "_told"))
    ratio = pairs["depth"] / pairs["depth_told"]
    pairs = pairs[ratio.between(1 / NEAR, NEAR)]
    same = pairs["verdict"] == pairs["verdict_told"]
    rows = pairs.loc[~same, ["label", "depth", "verdict", "verdict_told"]]
    return {"same": int(same.sum()), "of": len(pairs), "others": rows.to_dict("records")}


def by_place(rates: pd.DataFrame) -> pd.DataFrame:
    """Rates with a column for each activation."""
    wide = rates.pivot(index=["norm", "place"], columns="activation", values="rate")
    return wide.reset_index().sort_values("place", ascending=False, kind="stable")


def _rate_columns(rates: pd.DataFrame) -> list[Column]:
    names = rates["activation"].unique()
    return [
        Column("norm"),
        Column("where", "name", str, ("place",)),
        *(Column(name, "number", factor) for name in names),
    ]


def _largest(depth: float, deepest: int) -> str:
    return f"≥ {depth:,.0f}" if depth >= deepest else f"{depth:,.0f}"


def _share(share: float) -> str:
    return DASH if math.isnan(share) else significant(share)


RECIPES = [
    Column("recipe", "text", str, ("label",)),
    Column("verdict", "word"),
    Column("up to layer", "number", _largest, ("largest", "deepest")),
    Column("gradient", "number", partial(significant, digits=3)),
    Column("correlation", "number", partial(significant, digits=3)),
    Column(Markup("branches<br>add"), "number", _share, ("share",)),
    Column("network", "code", breakable),
    Column("init", "code", breakable),
    Column("activation", "code", breakable),
]
