"""The last section of the page of architectures: the derivation's figures, made again."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import pandas as pd

from initstats.plots.style import decimal, power_of_ten
from initstats.report.printed import DASH, Column, printed, significant, typeset

if TYPE_CHECKING:
    from initstats.survey import Evidence

Facts = dict[str, Any]
TITLES = {"forward": "last layer", "backward": "gradient", "cosine": "cosine"}


def verification(evidence: Evidence) -> Facts | None:
    """What the section says; None where nothing was made again.

    Returns:
        `claims`, `hundred`: the tables; `reasons` why theories differ in the second; `made`,
        `agree`, `differ`, `unmade`: numbers of claims; `recipes`, `figures`, `rounded`: recipes of
        a hundred layers, figures of theory that were printed of these, and those that this theory
        rounds to; `near`, `medians`: measured figures that are as near as chance lets them be, of
        all; `seeds` behind each.
    """
    claims, deep = evidence.verification, evidence.depth_100
    if claims is None or deep is None:
        return None
    verdicts = claims["verdict"]
    told = deep[deep["published_theory"].notna()]
    return {
        "claims": printed(claims, CLAIMS),
        "hundred": printed(by_recipe(deep), HUNDRED),
        "reasons": reasons(deep),
        "made": int((verdicts != "not made").sum()),
        "agree": int((verdicts == "agrees").sum()),
        "differ": int((verdicts == "differs").sum()),
        "unmade": int((verdicts == "not made").sum()),
        "recipes": deep["recipe"].nunique(),
        "figures": len(told),
        "rounded": int(told["agrees"].sum()),
        "near": int(deep["near"].sum()),
        "medians": len(deep),
        "seeds": int(deep["seeds"].iloc[0]),
    }


def by_recipe(deep: pd.DataFrame) -> pd.DataFrame:
    """A row for each recipe: ours and what was printed, by quantity, and where these differ."""
    rows = []
    for recipe, quantities in deep.groupby("recipe", sort=False):
        row: Facts = {"recipe": recipe}
        apart: dict[str, list[str]] = {"theory": [], "median": []}
        for own in quantities.to_dict("records"):
            name = str(own["quantity"])
            row[name] = f"{_number(own['measured'])} ({_number(own['theory'])})"
            row[f"{name}_printed"] = _as_printed(own["published"])
            for what, same in (("theory", own["agrees"]), ("median", own["near"])):
                apart[what] += [] if same else [TITLES[name]]
        found = [f"{what}: {', '.join(names)}" for what, names in apart.items() if names]
        row["differs"] = "; ".join(found)
        rows.append(row)
    return pd.DataFrame(rows)


def _number(value: float) -> str:
    """Three digits, and 0 where there is nothing but rounding."""
    return significant(value if abs(value) > 1e-9 else 0.0, 3)


def _as_printed(text: str) -> str:
    """Powers of ten as they are set."""
    text = re.sub(r"(\d)e(-?\d+)", lambda found: f"{found[1]}×{power_of_ten(int(found[2]))}", text)
    return re.sub(r"<=", "≤", re.sub(r"(?<!\w)-", "−", text)) or DASH


def _own(low: float, high: float, error: float, theory: float, printed_as: str) -> str:
    """Our figure, like the printed one: in percent, or a number with its error in brackets."""
    if math.isnan(low):
        return DASH
    if "%" in printed_as or (not printed_as and math.isnan(theory)):
        ends = [_signed(low)] + [_signed(high)] * (high != low)
        return " to ".join(ends) + (f" ± {decimal(100 * error, 1)}%" if error else "")
    if not error:
        return significant(low, 3)
    digits = max(0, -math.floor(math.log10(error)))
    return f"{decimal(low, digits)}({round(error * 10**digits)})"


def _signed(share: float) -> str:
    return ("+" if share > 0 else "") + decimal(100 * share, 1) + "%"


def _both(own: int, theirs: str) -> str:
    """Our number and, where it is another one, the printed one."""
    if theirs in ("", str(own)):
        return str(own or DASH)
    return f"{own or DASH} ({typeset(theirs)})"


def reasons(deep: pd.DataFrame) -> list[Facts]:
    """Why theories differ, each with the `recipes` of which it is said."""
    found = deep[deep["why"] != ""].groupby("why", sort=False)["recipe"].unique()
    return [{"why": typeset(str(why)), "recipes": [*names]} for why, names in found.items()]


HUNDRED = [
    Column("recipe"),
    Column(TITLES["forward"], "number", str, ("forward",)),
    Column("printed", "number", str, ("forward_printed",)),
    Column(TITLES["backward"], "number", str, ("backward",)),
    Column("printed", "number", str, ("backward_printed",)),
    Column("cosine", "number", str, ("cosine",)),
    Column("printed", "number", str, ("cosine_printed",)),
    Column("differs", "text", lambda words: words or "no"),
]
CLAIMS = [
    Column("claim", "prose", typeset),
    Column("units", "number", _both, ("width", "published_width")),
    Column("seeds", "number", _both, ("seeds", "published_seeds")),
    Column("z", "number", lambda z: decimal(z, 1)),
    Column("printed", "number", lambda text: text or DASH, ("published_z",)),
    Column("theory", "number", lambda value: significant(value, 4)),
    Column("figure", "number", _own, ("low", "high", "error", "theory", "published")),
    Column("printed", "number", _as_printed, ("published",)),
    Column("verdict", "text"),
    Column("remark", "prose", typeset, ("note",)),
]
