"""Whether statistics at initialization predict how well a network trains, in sentences."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from initstats.plots import Trained
from initstats.plots.learned import LABELS
from initstats.plots.style import decimal
from initstats.plural import counted
from initstats.report.printed import Column, Table, printed


def _number(value: float, low: float, high: float) -> str:
    """A correlation or an AUC with its interval.

    >>> _number(-0.5, -0.7, 0.1), _number(1.0, float("nan"), float("nan"))
    ('−0.50 (−0.70 to 0.10)', '1.00')
    """
    if pd.isna(low):
        return decimal(value, 2)
    return f"{decimal(value, 2)} ({decimal(low, 2)} to {decimal(high, 2)})"


FEWEST = 8
"""The variants below which no correlation is called sure: intervals draw whole variants."""
RHO = Column("ρ", "number", _number, ("rho", "rho_low", "rho_high"))
AUC = Column("AUC of failing", "number", _number, ("auc", "auc_low", "auc_high"))
COLUMNS = [
    Column("distance from 1 of", "name", lambda name: LABELS[name], ("predictor",)),
    Column("among", "name", {"all": "all runs", "trained": "runs that trained"}.get, ("among",)),
    RHO,
    AUC,
    Column("runs", "number"),
    Column("variants", "number", str, ("clusters",)),
]
WITHIN = Column(
    "ranked within",
    "name",
    {"all": "all", "depth": "a depth", "network": "a network"}.get,
    ("within",),
)


def table(trained: Trained) -> Table | None:
    """The rank correlations and AUC that are known; None where there is none."""
    power = _known(trained)
    several = [WITHIN] * (len(trained.nets) > 1)
    return None if power.empty else printed(power, COLUMNS[:2] + several + COLUMNS[2:])


def sentences(trained: Trained) -> list[Markup | str]:
    """What was found; empty where no statistics were measured."""
    if trained.power is None:
        return []
    power = _known(trained)
    if power.empty:
        return [
            "There is nothing to rank: the outcome, or every distance, is the same in all runs."
        ]
    among = power[power["within"] == "depth"]
    trains, fails = (among[among["among"] == who] for who in ("trained", "all"))
    return [told for told in (_winners(trains), _losers(fails), _rough(among)) if told]


def _known(trained: Trained) -> pd.DataFrame:
    """What `predictive_power` knows, of several networks also across them."""
    power = trained.power
    if power is None:
        return pd.DataFrame()
    within = ["depth", "network", "all"] if len(trained.nets) > 1 else ["depth"]
    return power[power["within"].isin(within) & (power["rho"].notna() | power["auc"].notna())]


def _winners(rows: pd.DataFrame) -> str:
    """Whether a distance from 1 goes with a better or worse outcome, among runs that trained."""
    rows = rows[rows["rho"].notna()]
    if rows.empty:
        return "Who trains better cannot be told from them: no distance and outcome vary together."
    count = f"{rows['runs'].max():,} runs that trained"
    if (variants := int(rows["clusters"].max())) < FEWEST:
        return (
            f"Whether they tell who trains better cannot be said: {FEWEST} variants or more are "
            f"needed for that, and {counted(variants, 'is', 'are')} there."
        )
    sure = rows[(rows["rho_low"] > 0) | (rows["rho_high"] < 0)]
    told = [
        f"{LABELS[row['predictor']]} (ρ = {RHO.text(*(row[name] for name in RHO.fields))}, farther "
        f"from 1 is {'worse' if row['rho'] < 0 else 'better'})"
        for row in sure.to_dict("records")
    ]
    if told:
        which = "; ".join(told)
        return f"Among the {count}, a rank correlation with the outcome is sure for: {which}."
    low, high = (decimal(end, 2) for end in (rows["rho"].min(), rows["rho"].max()))
    span = f"is {low}" if low == high else f"are {low} to {high}"
    head = "rank correlation" if len(rows) == 1 else "rank correlations"
    if rows["rho_low"].isna().all():
        return f"Among the {count}, the {head} with the outcome {span}, and there is no interval."
    return (
        f"Who trains better cannot be told from them: among the {count}, the {head} with the "
        f"outcome {span}, and {'the' if len(rows) == 1 else 'each'} 95% interval includes 0."
    )


def _losers(rows: pd.DataFrame) -> str:
    """Whether a distance from 1 tells who fails."""
    failed = int(rows["failed"].max()) if len(rows) else 0
    rows = rows[rows["auc"].notna()].sort_values("auc", ascending=False, kind="stable")
    if rows.empty:
        return f"Who fails cannot be asked here: {'every' if failed else 'no'} run failed."
    told = [
        f"{LABELS[row['predictor']]} {AUC.text(*(row[name] for name in AUC.fields))}"
        for row in rows.to_dict("records")
    ]
    which = "the run" if failed == 1 else f"the {failed:,} runs"
    return (
        f"The probability that {which} that failed began farther from 1 than one that trained "
        f"(AUC; 0.50 is no relation, 0 and 1 tell all): {'; '.join(told)}."
    )


def _rough(rows: pd.DataFrame) -> str:
    clusters = int(rows["clusters"].max())
    if clusters >= 10:
        return ""
    return (
        f"Behind this are only {clusters} variants, so that the intervals are rough."
        if clusters > 1
        else "Behind this is a single variant."
    )
