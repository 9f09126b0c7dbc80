"""The answer of a comparison in words: which verdicts changed, and what changed most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from initstats.differences.ends import MEASURES, SAME, moved, ranked, size, sure
from initstats.differences.pair import LOG, Pair
from initstats.differences.side import MODEL
from initstats.plots.style import decimal
from initstats.plural import counted
from initstats.report.page import names
from initstats.report.printed import factor, significant

Row = Mapping[str, Any]

EXAMPLES = 3
"""Combinations that are named for each change of verdict."""
CHANGES = 8
"""Kinds of changes of verdicts that have a line, and places of a model that are named."""
_LARGE = 1e5
CHANCE = 0.05
"""The share of 95% intervals that exclude 0 where nothing differs."""


def run_name(name: object) -> Markup:
    """What a run is called, in a sentence."""
    return Markup("<em>{}</em>").format(name)


def lead(pair: Pair, told: pd.DataFrame) -> Markup:
    """The answer in a sentence."""
    if pair.kind is MODEL:
        return _values(pair, told)
    shared = ranked(pair, told)
    changed, several = int(shared["changed"].sum()), len(shared)
    if several == 1:
        verb = "changed" if changed else "kept"
        return Markup(
            f"The one combination of init and activation that both have {verb} its verdict."
        )
    if not changed:
        return Markup(
            f"None of {counted(several, 'combination')} of init and activation changed its verdict."
        )
    return Markup(
        f"{changed:,} of {several:,} combinations of init and activation changed "
        f"{'its verdict' if changed == 1 else 'their verdict'}."
    )


def _values(pair: Pair, told: pd.DataFrame) -> Markup:
    """How many values of a model have another standard deviation, and by how much the most."""
    rows = told[told["measure"] == MEASURES[0].name]
    several, much = len(rows), rows[rows["difference"].abs() > math.log(1.1)]
    if not len(much):
        return Markup("No standard deviation of {} differs by more than a tenth.").format(
            counted(several, "value")
        )
    return Markup("The standard deviation of {:,} of {} differs by more than a tenth.").format(
        len(much), counted(several, "value")
    )


def answers(pair: Pair, told: pd.DataFrame) -> list[Markup]:
    """What changed, in sentences; the one sentence that nothing did, where nothing did."""
    if not moved(told).any():
        return [_same(told), *_undefined(pair, told)]
    sentences = [] if pair.kind is MODEL else [_healthy(pair, ranked(pair, told))]
    for measure in MEASURES:
        rows = told[told["measure"] == measure.name]
        if (rows["difference"].abs() > SAME).any():
            sentences.append(_told(pair, rows))
    return [*sentences, *_yardstick(pair, told), *_undefined(pair, told)]


def _same(told: pd.DataFrame) -> Markup:
    exact = bool((told["difference"].fillna(0.0) == 0).all())
    return Markup(
        f"No difference: the two agree {'' if exact else 'up to rounding '}in every number that is "
        f"compared here{'' if exact else f' (to {significant(SAME, 1)})'}."
    )


def _healthy(pair: Pair, shared: pd.DataFrame) -> Markup:
    """How many of the shared combinations are healthy in each."""
    counts = [int((shared[f"{side}_verdict"].astype(str) == "healthy").sum()) for side in "ab"]
    first, second = map(run_name, pair.names)
    if counts[0] == counts[1]:
        text = "{} of these {} healthy in {}, and as many in {}."
        if not counts[0]:
            text = "None of these {1} healthy, neither in {2} nor in {3}."
        verb = "is" if counts[0] < 2 else "are"
        return Markup(text).format(f"{counts[0]:,}", verb, first, second)
    return Markup("{} of these {} healthy in {}, and {} in {}.").format(
        f"{counts[0]:,}" if counts[0] else "None",
        "is" if counts[0] == 1 else "are",
        first,
        f"{counts[1]:,}" if counts[1] else "none",
        second,
    )


def transitions(pair: Pair, told: pd.DataFrame) -> list[tuple[str, str, str, Markup]]:
    """The changes of verdicts, the commonest first: before, after, how many, and some of them."""
    shared = ranked(pair, told)
    changed = shared[shared["changed"]].astype({"a_verdict": str, "b_verdict": str})
    groups = sorted(
        changed.groupby(["a_verdict", "b_verdict"], sort=False), key=lambda group: -len(group[1])
    )
    found = []
    for (before, after), rows in groups[:CHANGES]:
        some: list[Any] = rows.head(EXAMPLES).to_dict("records")
        places = [where(pair, row) for row in some]
        more = [Markup(f"{len(rows) - EXAMPLES:,} more")] if len(rows) > EXAMPLES else []
        found.append(
            (str(before), str(after), f"{len(rows):,}", Markup("; ").join([*places, *more]))
        )
    if rest := sum(len(rows) for _, rows in groups[CHANGES:]):
        found.append(("other", "other", f"{rest:,}", Markup("see the table of all combinations")))
    return found


def where(pair: Pair, row: Row) -> Markup:
    """A place in words: the configuration with what else varies, or the module and operation."""
    if pair.kind is MODEL:
        call = f", call {row['call']}" if row["call"] > 1 else ""
        return Markup("{} ({}{})").format(names([row["name"] or "the model"]), row["op"], call)
    parts = [names([row[key]]) for key in ("init", "activation") if key in pair.configuration]
    text = Markup(" with ").join(parts)
    others = [
        str(row[key]) if key == "network" else f"{key} {row[key]}"
        for key in varied(pair)
        if key not in ("init", "activation")
    ]
    return Markup(", ").join(filter(None, [text, *map(Markup.escape, others)]))


def varied(pair: Pair) -> list[str]:
    """The keys of a configuration that have several values."""
    return [key for key in pair.configuration if pair.verdicts[key].nunique() > 1]


def _told(pair: Pair, rows: pd.DataFrame) -> Markup:
    """What a measure shows: its largest difference that is no chance, and how many there are."""
    known = rows[rows["low"].notna()]
    infinite = rows["difference"].abs() == math.inf
    sures = rows[sure(rows) | infinite] if len(known) else rows
    row: Any = (sures if len(sures) else rows).pipe(_first).to_dict()
    subject = Markup("The {}{}").format(row["measure"], _end(pair, row))
    there = Markup("{}: {} in {}, {} in {}{}.").format(
        where(pair, row),
        level(row["a"], row["statistic"]),
        run_name(pair.names[0]),
        level(row["b"], row["statistic"]),
        run_name(pair.names[1]),
        change(row),
    )
    at, several = ("at", "value") if pair.kind is MODEL else ("for", "combination")
    if not len(sures):
        text = "{} differs for none of {} by more than chance may do; most {} {}"
        return Markup(text).format(subject, counted(len(known), several), at, there)
    return Markup("{} differs most {} {}").format(subject, at, there)


def _yardstick(pair: Pair, told: pd.DataFrame) -> list[Markup]:
    """In how many places differences are sure, beside what chance alone would give."""
    parts, most = [], 0
    noun = "values" if pair.kind is MODEL else "combinations"
    for measure in MEASURES:
        rows = told[(told["measure"] == measure.name) & told["low"].notna()]
        if count := int(sure(rows).sum()) if len(rows) > 1 else 0:
            parts.append(f"the {measure.name} of {count:,} of {len(rows):,} {noun}")
            most = max(most, len(rows))
    if not parts:
        return []
    chance = CHANCE * most
    about = f"about {chance:.0f}" if chance >= 1 else "less than one"
    return [
        Markup(
            f"Differences that the 95% interval separates from zero: {_listed(parts)}; if nothing "
            f"differed, chance would give {about} of {most:,}."
        )
    ]


def _listed(parts: Sequence[str]) -> str:
    *front, last = parts
    return " and ".join(filter(None, [", ".join(front), last]))


def _first(rows: pd.DataFrame) -> pd.Series[Any]:
    """The row with the largest difference."""
    return rows.iloc[int(size(rows["difference"]).argmax())]


def _end(pair: Pair, row: Row) -> str:
    """Where in a stack a measure is told."""
    if pair.kind is MODEL:
        return ""
    if str(row["direction"]) == "backward":
        return " at the first layer"
    return f" of the last layer’s {_tensor(row)}"


def _tensor(row: Row) -> str:
    return {"activation": "activations", "preactivation": "pre-activations"}[str(row["tensor"])]


def level(value: float, statistic: str) -> str:
    """A number of either run as it is printed."""
    if str(statistic) in ("dead_fraction", "nonfinite"):
        return (
            "undefined" if math.isnan(value) else f"{decimal(100 * value, 1)}%".replace(".0%", "%")
        )
    if math.isinf(value):
        return "an overflow"
    return "undefined" if math.isnan(value) else significant(value, 3)


def change(row: Row) -> str:
    """The difference with its interval, as the end of a sentence; nothing where there is none."""
    if not math.isfinite(row["difference"]):
        return ""
    values = [row[name] for name in ("difference", "low", "high")]
    if row["scale"] == LOG:
        middle, *ends = (factor(exponential(value)) for value in values)
        told = f", a factor of {middle}"
    else:
        middle, *ends = (_signed(value, values) for value in values)
        told = f", a difference of {middle}"
    if math.isnan(row["low"]):
        return told
    return f"{told} (95% interval {ends[0]} to {ends[1]}, {seeds(row)})"


def seeds(row: Row) -> str:
    """The seeds behind an interval."""
    if row["paired"]:
        return f"{row['seeds_a']} paired seeds"
    return f"{row['seeds_a']} and {row['seeds_b']} seeds, not paired"


def exponential(value: float) -> float:
    """The factor that a difference of logarithms is."""
    return math.exp(min(value, 700.0)) if not math.isnan(value) else value


def _signed(value: float, values: Sequence[float]) -> str:
    """A difference in the digits that its interval has."""
    if abs(value) >= _LARGE:
        return ("+" if value > 0 else "") + significant(value, 3)
    half = (values[2] - values[1]) / 2
    scale = half if half > 0 else abs(values[0])
    digits = max(0, min(6, 1 - math.floor(math.log10(scale)))) if scale > 0 else 2
    return ("+" if value > 0 else "") + decimal(value, digits)


def _undefined(pair: Pair, told: pd.DataFrame) -> list[Markup]:
    """How many differences cannot be told, and whether there are intervals at all."""
    found = []
    noun = "value" if pair.kind is MODEL else "combination"
    lost = {
        measure.name: int(rows["difference"].isna().sum())
        for measure in MEASURES
        if len(rows := told[told["measure"] == measure.name])
    }
    parts = [f"the {name} for {counted(count, noun)}" for name, count in lost.items() if count]
    if parts:
        found.append(
            Markup(
                f"Not compared, because the signal overflows or is zero in some seed: "
                f"{'; '.join(parts)}."
            )
        )
    if len(told) and (told[["seeds_a", "seeds_b"]].min(axis=1) < 2).all():
        single = "one measurement of each" if pair.kind is MODEL else "one seed"
        found.append(
            Markup(f"There is {single}, so that no interval tells what chance alone does.")
        )
    return found


def alone(pair: Pair) -> list[Markup]:
    """What only one of the two has, in a sentence each."""
    found, listed = [], pair.alone()
    for side, name in enumerate(pair.names):
        rows = pair.places[pair.places["measured"] == "ab"[side]]
        if pair.kind is MODEL:
            place = ["name", "op", "call"]
            there = pair.places.loc[pair.places["measured"] != "ab"[side], place]
            both = pd.MultiIndex.from_frame(there.astype({"name": str, "op": str}))
            mine = pd.MultiIndex.from_frame(rows[place].astype({"name": str, "op": str}))
            parts = _places(pair, rows[~mine.isin(both)])
        else:
            parts = []
            for key, values in listed.items():
                rows = rows[~rows[key].isin(values[side])]
                if values[side] and key != "direction":  # gradients have a sentence of their own
                    parts.append(_values_of(key, values[side]))
            if len(rows):
                more = counted(len(rows), "more layer and tensor", "more layers and tensors")
                parts.append(Markup(more))
        one, other = ((pair.a, pair.b), (pair.b, pair.a))[side]
        if lacking := [each for each in one.statistics if each not in other.statistics]:
            parts.append(_values_of("statistic", lacking))
        if parts:
            found.append(
                Markup("Only {} has: {}.").format(run_name(name), Markup("; ").join(parts))
            )
    return found


def _places(pair: Pair, rows: pd.DataFrame) -> list[Markup]:
    """Values and weights of a model, the first ones by name."""
    places: Any = rows[["name", "op", "call"]].drop_duplicates().to_dict("records")
    more = [Markup(f"{len(places) - CHANGES:,} more")] if len(places) > CHANGES else []
    return [*(where(pair, place) for place in places[:CHANGES]), *more]


def _values_of(key: str, values: Sequence[Any]) -> Markup:
    """Some values of a key: numbers in a row as a range."""
    if all(isinstance(value, int | float) for value in values):
        first, last = min(values), max(values)
        if len(values) > 2 and last - first == len(values) - 1:
            return Markup(f"{key}s {first:g} to {last:g}")
        listed = ", ".join(f"{value:g}" for value in values[:6])
        more = f" and {len(values) - 6} more" if len(values) > 6 else ""
        return Markup(f"{key}{'s' if len(values) > 1 else ''} {listed}{more}")
    return Markup("{} {}").format(key + "s" * (len(values) > 1), names(values))


def apart(pair: Pair) -> list[Markup]:
    """What is compared, and how stacks of other depths are."""
    first, second = map(run_name, pair.names)
    found = [
        Markup("{} has {} {}, {} has {}.").format(
            first, _noun(key), names([one]), second, names([other])
        )
        for key, (one, other) in pair.compared.items()
        if pair.names not in ((one, other), (f"{key} {one}", f"{key} {other}"))  # they say so
    ]
    depths = pair.a.depth, pair.b.depth
    if pair.kind is not MODEL and depths[0] != depths[1]:
        found.append(
            Markup(
                "{} has {}, {} has {}: verdicts and differences are those of the first {}. "
            ).format(
                first,
                counted(depths[0], "layer"),
                second,
                counted(depths[1], "layer"),
                pair.depth,
            )
            + "Gradients begin at the last layer, so that their sizes are not compared."
        )
    if pair.a.backward != pair.b.backward:
        one = first if pair.a.backward else second
        found.append(Markup("Gradients were measured in {} alone{}.").format(one, _judged(pair)))
    return found


def _judged(pair: Pair) -> str:
    """What follows for verdicts where one of the two has no gradients."""
    if pair.kind is MODEL:
        return ""
    if all(side.predicted is not None for side in pair.sides):
        return ", so that both are judged by those of theory"
    return ", so that no verdict here is about them"


def _noun(key: str) -> str:
    return {"dataset": "the data set", "mode": "the mode"}.get(key, key)
