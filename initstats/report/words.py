"""The answer in words, computed from the summary."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from initstats.diagnosis import CONFIGURATION
from initstats.plots import Results
from initstats.plots.results import Block
from initstats.plots.story import lesson_init, shifted
from initstats.plots.style import decimal, power_of_ten

DASH = "—"


def significant(value: float, digits: int = 2) -> str:
    """A number as it is printed: few digits, powers of ten where there would be many zeros.

    >>> [significant(x) for x in (0.0, 0.98, 14.2, -2.05e-26, float("inf"), float("nan"))]
    ['0', '0.98', '14', '−2.0×10⁻²⁶', '∞', '—']
    """
    if not math.isfinite(value):
        return DASH if math.isnan(value) else decimal(value, 0).replace("inf", "∞")
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -3 <= int(exponent) < 5:
        return decimal(value, max(0, digits - 1 - int(exponent)))
    return f"{mantissa.replace('-', '−')}×{power_of_ten(int(exponent))}"


def typeset(text: str) -> str:
    """With a typographer's apostrophe, and a true minus before digits.

    >>> typeset("relu - 0.5's mean is -0.25")
    'relu − 0.5’s mean is −0.25'
    """
    return re.sub(r"(?<=[ e])-(?= ?\d)", "−", text.replace("'", "’"))


def factor(value: float) -> str:
    """A factor a layer, with the digits that matter when it is compounded.

    >>> [factor(x) for x in (0.99961, 0.0486, 88.817, 0.0)]
    ['1.000', '0.049', '88.8', '0']
    """
    return decimal(value, 3) if 0.01 <= value < 10 else significant(value, 3)


def findings(results: Results) -> list[Markup]:
    """Sentences that answer the question, the most important first."""
    sentences = [
        _keepers(results),
        _contrast(results),
        _hopeless(results),
        _hidden(results),
        _lesson(results),
    ]
    return [sentence for sentence in sentences if sentence]


class Agreement(NamedTuple):
    """How the measurement agrees with theory.

    Attributes:
        answer: in a sentence.
        doubts: why theory does not apply, and how often that is said.
    """

    answer: Markup
    doubts: list[tuple[str, str]]


def against_theory(results: Results) -> Agreement | None:
    """What came of the predictions; None where there are none."""
    rows = results.predicted
    if rows is None:
        return None
    scores = rows.get("z", pd.Series(math.nan, rows.index))
    z = scores[(rows["note"] == "") & scores.notna()].abs()
    notes = rows.loc[rows["note"] != "", [*CONFIGURATION, "note"]]
    reasons = notes["note"].map(lambda note: _NUMBER.sub("#", note))
    doubts = []
    for reason, group in notes.groupby(reasons, sort=False):
        count = len(group.drop_duplicates(CONFIGURATION))
        lines = f"{len(group):,} rows of {count} configuration{'s' * (count != 1)}"
        doubts.append((len(group), _ranged(str(reason), group["note"]), lines))
    doubts.sort(reverse=True)
    if "z" not in rows:
        answer = Markup("Predictions are drawn; how far off they are was not computed.")
    elif len(z) == 0:
        answer = Markup("Theory applies to no second moment that was measured.")
    else:
        answer = Markup(
            "{:.1%} of {:,} second moments lie within three standard errors of their prediction "
            "(|z| < 3), {:.1%} within two. An error is that of a mean over {:.0f} seeds, each of "
            "them one draw at a finite width; layers share their draws."
        ).format((z < 3).mean(), len(z), (z < 2).mean(), rows["seeds"].max())
    return Agreement(answer, [(reason, lines) for _, reason, lines in doubts])


_NUMBER = re.compile(r"(?<=\s)-?\d[\d.e+-]*(?=[%:,\s]|$)")


def _ranged(reason: str, notes: pd.Series[str]) -> str:
    """A reason, with the range of each number that its notes name."""
    numbers = [_NUMBER.findall(note) for note in notes]
    for values in zip(*numbers, strict=True):
        ends = (end(values, key=float) for end in (min, max))
        reason = reason.replace("#", " to ".join(dict.fromkeys(ends)), 1)
    return typeset(reason)


def standfirst(results: Results) -> str:
    """The answer in a sentence."""
    healthy = int((results.summary["verdict"] == "healthy").sum())
    layers = "the first layer" if results.depth == 1 else f"all {results.depth} layers"
    return (
        f"Through {layers}, {_number(healthy) if healthy else 'none'} of "
        f"{_number(len(results.summary))} configurations of init and activation "
        f"{'keep' if healthy > 1 else 'keeps'} the signal healthy."
    )


class Best(NamedTuple):
    """What is said of an activation in one block.

    Attributes:
        block: the network and its width.
        activation: its name.
        kept: the inits that keep the signal, the steadiest first.
        row: of the summary, for the steadiest; None where no init keeps it.
        lost: how many of the other inits fail, by verdict.
    """

    block: Block
    activation: str
    kept: list[str]
    row: pd.Series[Any] | None
    lost: dict[str, int]


def best_by_activation(results: Results) -> list[Best]:
    """Which inits keep the signal for which activation, by block and in the table's order."""
    best = []
    for block in results.blocks:
        for activation in results.activations:
            rows = _rows(results, block)
            rows = rows[rows["activation"] == activation]
            healthy = _steadiest_first(rows[rows["verdict"] == "healthy"])
            lost = rows.loc[rows["verdict"] != "healthy", "verdict"].astype(str).value_counts()
            best.append(
                Best(
                    block,
                    activation,
                    [str(name) for name in healthy["init"]],
                    healthy.iloc[0] if len(healthy) else None,
                    {str(word): int(count) for word, count in lost.items()},
                )
            )
    return best


def _rows(results: Results, block: Block) -> pd.DataFrame:
    """The summary of a block."""
    summary = results.summary
    return summary[(summary["network"] == block.network) & (summary["width"] == block.width)]


def _steadiest_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Sorted by how far growth is from 1 in either direction; at depth 1, how far the spread is."""
    with np.errstate(divide="ignore"):
        off = np.abs(np.log(rows["growth"].fillna(rows["std"]).to_numpy()))
    return rows.iloc[np.argsort(off, kind="stable")]


def _keepers(results: Results) -> Markup | None:
    """Which inits keep the signal for most activations, and which for none."""
    if len(results.inits) < 2:
        return None
    kept = (results.summary["verdict"] == "healthy").groupby(results.summary["init"].astype(str))
    counts, totals = kept.sum(), kept.size()
    order = sorted(results.inits, key=lambda name: -counts[name])
    best = counts[order[0]]
    none = [name for name in order if counts[name] == 0]
    if best == 0:
        return Markup("No init keeps it for any activation.")
    leaders = [name for name in order if counts[name] == best]
    noun = "activations" if len(results.blocks) == 1 else "configurations"
    text = Markup("{} {} it for {} of {} {}").format(
        _names(leaders), _verb(leaders, "keep"), _number(best), _number(totals[order[0]]), noun
    )
    second = next((name for name in order if 0 < counts[name] < best), None)
    if second:
        others = [name for name in order if counts[name] == counts[second]]
        text += Markup(", {} for {}").format(_names(others), _number(counts[second]))
    if none:
        text += Markup("; {} {} it for none").format(_names(none), _verb(none, "keep"))
    return text + "."


def _contrast(results: Results) -> Markup | None:
    """What a factor a layer comes to, for one activation: under its best init and a failing one."""
    summary = results.summary
    names = ["relu", *results.activations]
    for activation in dict.fromkeys(name for name in names if name in results.activations):
        rows = summary[summary["activation"] == activation]
        healthy = rows[rows["verdict"] == "healthy"]
        off = rows[rows["verdict"].isin(["vanishes", "explodes"]) & (rows["std"] > 0)]
        off = off[np.isfinite(off["std"]) & (off["growth"] > 0)]
        if len(healthy) and len(off) and results.depth > 1:
            best, other = _steadiest_first(healthy).iloc[0], _steadiest_first(off).iloc[0]
            return Markup(
                "Under {init}, a layer of {activation} multiplies the rms of the pre-activations "
                "by {growth}{interval}, and the last activations have a "
                "standard deviation of {std}. Under {other} the factor is {bad}; compounded over "
                "{depth} layers it makes that {left}."
            ).format(
                init=_name(best["init"]),
                activation=_name(activation),
                growth=factor(best["growth"]),
                interval=f" (95% interval {interval(best)})" if interval(best) else "",
                std=significant(best["std"]),
                other=_name(other["init"]),
                bad=factor(other["growth"]),
                depth=results.depth,
                left=significant(other["std"]),
            )
    return None


def _hopeless(results: Results) -> Markup | None:
    """Activations that no init keeps alive, and how they fail."""
    kept = {best.activation for best in best_by_activation(results) if best.kept}
    lost = [name for name in results.activations if name not in kept]
    if not lost or len(results.inits) < 2:
        return None
    parts = []
    for name in lost:
        rows = results.summary[results.summary["activation"] == name]
        verdicts = rows["verdict"].astype(str).value_counts()
        word = verdicts.index[0]
        under = "every init" if len(verdicts) == 1 else f"{verdicts.iloc[0]} of {len(rows)}"
        parts.append(Markup("{} ({} under {})").format(_name(name), word, under))
    return Markup("No init keeps {}.").format(_joined(parts))


def _hidden(results: Results) -> Markup | None:
    """Collapse, which the standard deviation does not show."""
    summary = results.summary
    collapsed = summary[summary["verdict"] == "collapses"]
    fine = collapsed[collapsed["std"].between(0.1, 10)]
    if fine.empty:
        return None
    text = Markup(
        "A spread near 1 is not enough: in {} {} the standard deviation stays between 0.1 and 10, "
        "and yet every input has come to give the same output."
    ).format(_number(len(fine)), "configuration" if len(fine) == 1 else "configurations")
    if (fine["init"] == "torch_default").any():
        text += " PyTorch’s default for linear layers is among them."
    return text


def _lesson(results: Results) -> Markup | None:
    """Whether subtracting a constant from ReLU brings its mean back."""
    names = shifted(results)
    if not names or "relu" not in results.activations:
        return None
    init, block = lesson_init(results), results.blocks[0]
    rows = results.measured("activation")
    rows = rows[
        (rows["network"] == block.network)
        & (rows["width"] == block.width)
        & (rows["init"] == init)
        & rows["activation"].isin(["relu", names[0]])
    ]
    means = rows.groupby([rows["activation"].astype(str), "layer"])["mean"].mean().unstack("layer")
    if len(means) < 2:
        return None
    relu, shift = (means.loc[name].to_numpy() for name in ("relu", names[0]))
    first, last = shift[0], shift[-1]
    text = Markup(
        "Subtracting a constant from ReLU moves the mean of the first layer’s activations from {} "
        "to {} under {}"
    ).format(decimal(relu[0], 2), decimal(first, 2), _name(init))
    if results.depth > 1:
        where = "further from" if abs(last) > abs(first) else "nearer to"
        text += f"; at layer {results.depth} it is {decimal(last, 2)}, {where} zero than that"
    return text + "."


def interval(row: pd.Series[Any]) -> str:
    """The interval of a growth; empty for a single seed."""
    if math.isnan(row["growth_low"]):
        return ""
    return f"{factor(row['growth_low'])} to {factor(row['growth_high'])}"


def growth(row: pd.Series[Any]) -> str:
    """A growth with its interval."""
    return factor(row["growth"]) + (f" ({interval(row)})" if interval(row) else "")


def _name(name: object) -> Markup:
    return Markup("<code>{}</code>").format(name)


def _names(names: Sequence[str]) -> Markup:
    return _joined(_name(name) for name in names)


def _joined(parts: Iterable[Markup]) -> Markup:
    """a, b and c."""
    *front, last = parts
    return Markup(" and ").join([Markup(", ").join(front), last]) if front else last


def _verb(names: Sequence[str], verb: str) -> str:
    return verb if len(names) > 1 else f"{verb}s"


def _number(count: int) -> str:
    """Small numbers as words."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[count] if count < len(words) else str(count)
