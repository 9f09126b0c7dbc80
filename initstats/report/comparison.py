"""What a training study answers, in sentences: who trains better, by how much, and how sure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from initstats.plots import Trained
from initstats.plots.style import decimal
from initstats.plots.trained import NET, titles
from initstats.plural import counted
from initstats.report.page import names
from initstats.report.printed import significant

Row = dict[Any, Any]
"""A row of `summarize_training`, by column."""

MOST_SENTENCES, MOST_PANELS = 12, 6
"""Up to so many comparisons have a sentence each; of more, those that are decided, and of so many
networks and inits. The table has all.
"""
DECIDED = ("better", "worse", "fails more often", "fails less often")


def digits_of(low: float, high: float) -> int:
    """The digits after the point that an interval of percentages deserves.

    >>> digits_of(0.08, 0.24), digits_of(-0.004, 0.004), digits_of(-20, 10)
    (2, 3, 1)
    """
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return 2
    return min(max(-math.floor(math.log10(half)), 1 if half > 3 else 2), 4)


def interval(mean: float, low: float, high: float) -> str:
    """A percentage with its interval, in the digits that the interval has.

    >>> interval(97.5, 97.43, 97.57), interval(97.5, float("nan"), float("nan"))
    ('97.50 (97.43 to 97.57)', '97.50')
    """
    digits = digits_of(low, high)
    if math.isnan(low):
        return decimal(mean, digits)
    return f"{decimal(mean, digits)} ({decimal(low, digits)} to {decimal(high, digits)})"


def points(row: Row) -> str:
    """A comparison's difference in points of accuracy, with its interval in brackets."""
    return interval(*(100 * row[name] for name in ("difference", "low", "high")))


def question(trained: Trained) -> Markup:
    """The heading of the page."""
    kind, baseline = trained.versus
    others = [name for name in trained.entries(kind) if name != baseline]
    if trained.comparisons is None:
        return Markup("How <code>{}</code> trains").format(trained.activations[0])
    subject = _code(others[0]) if len(others) == 1 else "it"
    return Markup("Does {} train better than {}?").format(subject, _code(baseline))


def summary(trained: Trained) -> Markup:
    """The answer in a sentence or two: who is better and who is worse, in how many comparisons."""
    found = trained.comparisons
    if found is None:
        return Markup("There is one variant, and nothing to compare it with.")
    if not trained.healthy.any():
        return Markup(f"All {counted(len(trained.last), 'run')} failed.")
    if len(found) == 1:
        return sentence(found.iloc[0].to_dict(), trained.versus)
    kind, baseline = trained.versus
    told = []
    for verdict in DECIDED:
        rows = found[found["verdict"].astype(str) == verdict]
        for name, some in list(rows.groupby(kind, observed=True, sort=True))[:3]:
            every = int((found[kind] == name).sum())
            told.append(_summarized(str(name), verdict, some, every, _code(baseline)))
    if not told:
        seeds = counted(int(found["seeds"].max()), "seed")
        text = "Nothing trains surely better or worse than {} here, as far as {} can tell."
        told = [Markup(text).format(_code(baseline), seeds)]
    return Markup(" ").join([*told, *_others(found)])


def _others(found: pd.DataFrame) -> list[str]:
    """How many comparisons show no difference, and how many nothing yet."""
    verdicts, dead = found["verdict"].astype(str), found["failed"] == found["seeds"]
    equal = int((verdicts.isin(["equivalent", "same in every seed"]) & ~dead).sum())
    unsure = int((verdicts == "not decided").sum())
    both = int(((verdicts == "same in every seed") & dead).sum())
    several, told = counted(len(found), "comparison"), []
    if equal:
        margin = _margin(found.iloc[0].to_dict())
        verb = "shows" if equal == 1 else "show"
        told.append(f"{equal} of {several} {verb} no difference, within {margin} points.")
    if unsure:
        told.append(f"{unsure} of {several} {'is' if unsure == 1 else 'are'} not decided.")
    if both:
        told.append(f"In {both} of {several}, both fail in every seed.")
    return told


def _summarized(
    name: str, verdict: str, rows: pd.DataFrame, every: int, baseline: Markup
) -> Markup:
    """What comes of one entry in those comparisons that have a verdict."""
    verb = f"trains {verdict}" if verdict in ("better", "worse") else verdict
    where = "" if every == 1 else f" in {len(rows)} of {every} comparisons"
    text = Markup("{} {} than {}{}").format(_code(name), verb, baseline, where)
    if verdict not in ("better", "worse"):
        return text + "."
    size = (100 * rows["difference"]).abs()
    if not size.map(math.isfinite).all():  # the typical run of one of the two fails
        return text + "."
    if len(rows) == 1:
        row = rows.iloc[0].to_dict()
        return text + Markup(": by {} points of validation accuracy{}.").format(*_by(row))
    digits = max(
        digits_of(*pair) for pair in zip(100 * rows["low"], 100 * rows["high"], strict=True)
    )
    low, high = (decimal(end, digits) for end in (size.min(), size.max()))
    span = low if low == high else f"{low} to {high}"
    return text + f", by {span} points of validation accuracy."


def _by(row: Row) -> tuple[str, str]:
    """The size of a difference in points, and its interval in brackets."""
    low, high = sorted(100 * abs(row[end]) for end in ("low", "high"))
    digits = digits_of(100 * row["low"], 100 * row["high"])
    size = decimal(100 * abs(row["difference"]), digits)
    if math.isnan(low):
        return size, ""
    if row["low"] * row["high"] < 0:
        return size, f" (95% interval {_span(row)})"
    return size, f" (95% interval {decimal(low, digits)} to {decimal(high, digits)})"


def _span(row: Row) -> str:
    digits = digits_of(100 * row["low"], 100 * row["high"])
    return " to ".join(decimal(100 * row[end], digits) for end in ("low", "high"))


def answers(trained: Trained) -> list[tuple[Markup, list[Markup]]]:
    """For each network and init, the sentences about those that were compared there."""
    found = trained.comparisons
    if found is None or len(found) == 1:
        return []
    brief = len(found) > MOST_SENTENCES
    told = []
    for net, title in titles(found).items():
        groups = net.rows(found).groupby(trained.panel_kind, observed=True, sort=True)
        for name, rows in groups:
            head = Markup(", ").join(filter(None, [_code(str(name)), title]))
            told.append((head, _sentences(rows, trained.versus, brief=brief)))
    return told[:MOST_PANELS]


def _sentences(rows: pd.DataFrame, versus: tuple[str, str], *, brief: bool) -> list[Markup]:
    """What came of the comparisons within a network and init."""
    records = sorted(rows.to_dict("records"), key=_grave)
    detailed = [row for row in records if not brief or str(row["verdict"]) in DECIDED]
    told = [sentence(row, versus) for row in detailed[:MOST_PANELS]]
    if more := len(detailed) - MOST_PANELS:
        told += [Markup("{} more are in the table of comparisons.").format(more)] * (more > 0)
    for verdict, words in (("equivalent", "No difference"), ("not decided", "Not decided")):
        some = [row[versus[0]] for row in records if str(row["verdict"]) == verdict]
        told += [Markup("{}: {}.").format(words, names(some))] * bool(brief and some)
    return told


def _grave(row: Row) -> tuple[int, float]:
    """Sorts what is decided before what is not, large differences first."""
    order = ["better", "fails less often", "worse", "fails more often", "equivalent"]
    word = str(row["verdict"])
    place = order.index(word) if word in order else len(order) + (word == "not decided")
    return place, -abs(row["difference"]) if math.isfinite(row["difference"]) else 0.0


def sentence(row: Row, versus: tuple[str, str]) -> Markup:
    """One comparison in a sentence."""
    kind, baseline = versus
    tell = _SENTENCES[str(row["verdict"])]
    return tell(row, _code(row[kind]), _code(baseline))


def _better(row: Row, name: Markup, baseline: Markup) -> Markup:
    word = str(row["verdict"])
    if not math.isfinite(row["difference"]):
        one, other = (baseline, name) if word == "better" else (name, baseline)
        text = "{} trains {} than {}: in the typical seed {} fails and {} trains"
        told = Markup(text).format(name, word, baseline, one, other)
        return told + _lost(row, baseline) + "."
    size, between = _by(row)
    more = "higher" if word == "better" else "lower"
    text = Markup(
        "{} trains {} than {}: its validation accuracy is {} points {}{}, over {}"
    ).format(name, word, baseline, size, more, between, counted(row["seeds"], "seed"))
    return text + _small(row) + _lost(row, baseline) + "."


def _small(row: Row) -> str:
    """Said of a difference that is sure, and surely small."""
    if max(abs(row["low"]), abs(row["high"])) >= row["margin"]:
        return ""
    return f"; the difference is surely smaller than {_margin(row)} points, the margin of equality"


def _lost(row: Row, baseline: Markup) -> Markup | str:
    """How many runs failed, where some did."""
    failed, other = row["failed"], row["baseline_failed"]
    if not failed and not other:
        return ""
    runs = counted(row["seeds"], "run")
    return Markup("; {} of its {} failed, and {} with {}").format(
        failed or "none", runs, other or "none", baseline
    )


def _margin(row: Row) -> str:
    return f"{100 * row['margin']:.2g}"


def _equivalent(row: Row, name: Markup, baseline: Markup) -> Markup:
    return Markup(
        "{} trains as well as {}: the difference in validation accuracy, {} points, is within "
        "{} points, over {}."
    ).format(name, baseline, points(row), _margin(row), counted(row["seeds"], "seed"))


def _same(row: Row, name: Markup, baseline: Markup) -> Markup:
    if row["failed"] == row["seeds"]:
        return Markup("{} fails in each of {}, and so does {}.").format(
            name, counted(row["seeds"], "seed"), baseline
        )
    return Markup("{} has the validation accuracy of {} in each of {}.").format(
        name, baseline, counted(row["seeds"], "seed")
    )


def _fails(row: Row, name: Markup, baseline: Markup) -> Markup:
    return Markup("{} {} than {}: {} of its {} failed, and {} with {} (p = {}).").format(
        name,
        row["verdict"],
        baseline,
        row["failed"] or "none",
        counted(row["seeds"], "run"),
        row["baseline_failed"] or "none",
        baseline,
        significant(row["p_failed_holm"]),
    )


def _undecided(row: Row, name: Markup, baseline: Markup) -> Markup:
    seeds, needed = counted(row["seeds"], "seed"), row["seeds_needed"]
    head = Markup("{} against {} is not decided").format(name, baseline)
    if not row["seeds"]:
        return head + ": they have no seed in common."
    if math.isnan(row["low"]):
        more = counted(max(needed, 1), "more seed is", "more seeds are")
        return head + f": {seeds} and no interval; {more} needed for a test."
    if math.isinf(row["low"]) and math.isinf(row["high"]):
        middle = f"too many runs failed among {seeds}"
    else:
        middle = f"the difference in validation accuracy is {points(row)} points over {seeds}"
        if row["low"] * row["high"] > 0:
            middle += " (the interval excludes 0 by itself, but not adjusted for all comparisons)"
    more = (
        "no number of seeds would decide it if this is the true difference"
        if math.isinf(needed)
        else f"about {counted(needed, 'more seed')} would decide it"
    )
    return head + f": {middle}" + _lost(row, baseline) + f"; {more}."


_SENTENCES: dict[str, Callable[[Row, Markup, Markup], Markup]] = {
    "better": _better,
    "worse": _better,
    "equivalent": _equivalent,
    "same in every seed": _same,
    "fails more often": _fails,
    "fails less often": _fails,
    "not decided": _undecided,
}


def shifts(activations: Sequence[str]) -> Markup | str:
    """What shifted_relu is, for those who know it as relu minus a number."""
    spelled = re.compile(r"shifted_relu(?:\(shift=([\d.]+)\))?")
    found = [match for match in map(spelled.fullmatch, activations) if match]
    known = [Markup("{} is relu − {}").format(_code(m[0]), m[1] or "0.5") for m in found]
    return Markup("{}.").format(Markup("; ").join(known)) if known else ""


def unlisted(trained: Trained) -> str:
    """What is said of comparisons that have no sentence."""
    found = trained.comparisons
    if found is None:
        return ""
    panels = len(found.groupby([*NET, trained.panel_kind], observed=True))
    if panels <= MOST_PANELS:
        return ""
    more = counted(
        panels - MOST_PANELS,
        f"more network with another {trained.panel_kind} is",
        f"more networks and {trained.panel_kind}s are",
    )
    return f"{more} in the table of comparisons."


def failures(trained: Trained) -> str:
    """How many runs failed."""
    last = trained.last
    outcome = last["outcome"].astype(str)
    runs = counted(len(last), "run")
    if trained.healthy.all():
        return f"None of the {runs} failed."
    verbs = {"diverged": "diverged", "chance": "ended at chance"}
    counts = {verb: int((outcome == word).sum()) for word, verb in verbs.items()}
    told = " and ".join(f"{count:,} {verb}" for verb, count in counts.items() if count)
    trained_ones = len(last) - sum(counts.values())
    return f"Of {runs}, {told}; {f'{trained_ones:,}' if trained_ones else 'none'} trained."


def limits(trained: Trained) -> list[Markup | str]:
    """What the answer does not say."""
    table, settings = trained.table, trained.run.settings if trained.run else {}
    nets = sorted({net.network for net in trained.nets})
    about: list[Markup | str] = [Markup("{} on {}").format(names(nets), table["dataset"].iloc[0])]
    if images := settings.get("images"):
        about.append(f"{counted(images, 'training image')}")
    about.append(counted(int(table["epoch"].max()), "epoch"))
    if optimizer := settings.get("optimizer"):
        about.append(Markup("the optimizer {}").format(_code(optimizer)))
    if (loss := settings.get("loss", "cross_entropy")) != "cross_entropy":
        about.append(Markup("the loss {}").format(_code(loss)))
    if augment := settings.get("augment"):
        about.append(Markup("images changed by {}").format(names(augment)))
    if rate := settings.get("lr"):
        about.append(f"the learning rate {rate:g} for all")
    text = Markup(
        "This holds for {}. Another network, other data, a longer training or another optimizer "
        "may come out otherwise."
    ).format(Markup(", ").join(about))
    found = trained.comparisons
    if found is None:
        return [text]
    margin = _margin(found.iloc[0].to_dict())
    note = (
        "Intervals are over seeds: the weights and the order of the images. All runs see the same "
        "images, and what other images would change is not in the intervals. Variants are called "
        f"equal where the difference is surely within a margin of {margin} points."
    )
    if len(found) > 1:
        note += (
            f" Each interval is for one comparison; verdicts are adjusted for {len(found)} "
            "comparisons (Holm)."
        )
    return [text, note]


def _code(name: object) -> Markup:
    return names([name])
