"""Rules about entries: whether they are finite, and fit their number format."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initstats.diagnosis.columns import Columns
from initstats.diagnosis.graph import SCALING
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.rule import (
    ARRIVED,
    BACKWARD,
    PARAMETERS,
    SLOWER,
    Finding,
    Severity,
    listed,
    register_rule,
)
from initstats.diagnosis.verdicts import DECADE
from initstats.plural import counted

_IEEE = "IEEE 754: what overflows once stays infinite or becomes NaN"


@register_rule(threshold=0, source=_IEEE, judges=["weights"])
def nonfinite(profile: Profile, threshold: float) -> Iterator[Finding]:
    """every entry is a finite number"""
    rows = profile.values
    bad = rows.where(rows["nonfinite"] > threshold)
    if len(bad) and not (profile.parameters["nonfinite"] > threshold).any():
        yield from _begun(profile, bad)


@register_rule(threshold=0, source=_IEEE, needs=[PARAMETERS], judges=[])
def nonfinite_weights(profile: Profile, threshold: float) -> Iterator[Finding]:
    """every weight is a finite number"""
    rows = profile.parameters
    bad = rows.where(rows["nonfinite"] > threshold)
    if len(bad):
        yield _spoiled(profile, bad)


@register_rule(threshold=0, source=_IEEE, needs=[BACKWARD, ARRIVED], judges=["finite"])
def nonfinite_gradients(profile: Profile, threshold: float) -> Iterator[Finding]:
    """gradients are finite where values are"""
    rows = profile.value_gradients
    bad = rows.where(rows["nonfinite"] > threshold)
    spread = [profile.values, profile.parameters]
    if len(bad) and not any((rows["nonfinite"] > threshold).any() for rows in spread):
        yield _backward(profile, bad)


def _spoiled(profile: Profile, bad: Columns) -> Finding:
    share = bad["nonfinite"].sum() / bad["count"].sum()
    begun = (
        "the update before this step wrote them, from a gradient that was NaN, infinite, or too "
        "large: lower the learning rate, warm it up, and clip gradients, "
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); if a step before had NaN in its "
        "loss, mend that first. Go on from weights that were saved before"
    )
    loaded = (
        "the model had them before it ran: load other weights, or draw them anew; if they were "
        "trained, look for the first step with NaN: a lower learning rate and clipped gradients "
        "(torch.nn.utils.clip_grad_norm_) keep them finite"
    )
    return Finding(
        "error",
        listed(bad["name"]),
        f"NaN or infinite weights in {len(bad)} of {counted(len(profile.parameters), 'parameter')}"
        f", {share:.2%} of the entries: whatever is computed of them becomes NaN, too",
        begun if profile.step else loaded,
    )


def _begun(profile: Profile, bad: Columns) -> Iterator[Finding]:
    """Where values that are not finite begin, and whether they spread."""
    spread = profile.sight.spread
    if masked := _masked(profile):
        yield masked
    elif spread:
        row = profile.along(spread[:1])
        count, nonfinite = row["count"][0], row["nonfinite"][0]
        later = counted(len(bad) - 1, "tensor after it has some", "tensors after it have some")
        reached = f"; {later}" if len(bad) > 1 else ""
        given = spread[0] == 0
        read = "it is an input of the model" if given else "all that it reads is finite"
        yield Finding(
            "error",
            profile.place(spread[0]),
            f"NaN or infinite: {nonfinite:,.0f} of {counted(count, 'entry', 'entries')} "
            f"({nonfinite / count:.2%}); {read}{reached}",
            "fill or drop what is missing in the data, before the model"
            if given
            else _outgrown(profile)
            or f"look at {row['op'][0]} there: does it divide by zero, take the log or root of "
            "what is not positive, or leave the range of its dtype? Bound its input, add an eps, "
            "or compute it in float32",
        )
    else:
        layers, inputs = {int(layer) for layer in bad["layer"]}, profile.graph.inputs
        first = [layer for layer in sorted(layers) if layers.isdisjoint(inputs[layer])]
        yield Finding(
            "note",
            listed(profile.along(first).places),
            "it has NaN or infinite entries, and whatever reads it has none, as with a mask",
            "nothing, if it is a mask on purpose",
        )


def _masked(profile: Profile) -> Finding | None:
    """NaN where all that was read is infinite, as a softmax makes it of a row of nothing but -inf.

    What overflows leaves finite entries near the end of its format's range, or none; those of a
    mask are of any size.
    """
    rows, graph = profile.along(profile.sight.spread), profile.graph
    nan = rows["nonfinite"] - rows["infinite"]
    if not profile.probed or not (nan > 0).any():
        return None
    first = int(np.argmax(nan > 0))
    read = profile.along(graph.inputs[int(rows["layer"][first])])
    read = read.where(read["nonfinite"] > 0)
    ends = np.fmax(np.abs(read["min"]), np.abs(read["max"]))
    small = all(16 * end < _largest(name) for end, name in zip(ends, read["dtype"], strict=True))
    scaled = any(op in SCALING for op in read["op"])  # a division by zero
    only = (read["nonfinite"] == read["infinite"]).all() and read["infinite"].sum() >= nan[first]
    if not len(read) or not small or scaled or not only:
        return None
    count = counted(rows["count"][first], "entry", "entries")
    return Finding(
        "error",
        rows.places[first],
        f"NaN: {nan[first]:,.0f} of {count}, where {read.places[0]} is infinite: a softmax gives "
        "NaN for a row that is -inf in all its entries, as where a mask leaves nothing of it",
        "leave at least one entry of each row unmasked, or mask with torch.finfo(x.dtype).min "
        "instead of -inf: then such a row gets equal shares",
    )


def _largest(dtype: str) -> float:
    """The largest number of a format."""
    known = _FORMATS.get(dtype)
    return known[0] if known else float(np.finfo(dtype).max)


def _outgrown(profile: Profile) -> str:
    """What to do about values that left their range as the weights grew; empty where none did."""
    if profile.first is None:
        return ""
    size = np.sqrt(profile.first.maps["sigma_w2"])
    usual = float(np.median(size[size > 0])) if (size > 0).any() else 1.0
    before = dict(zip(profile.first.maps.places, np.fmax(size, usual), strict=True))
    now = zip(profile.maps.places, np.sqrt(profile.maps["sigma_w2"]), strict=True)
    factor = max((size / before[place] for place, size in now if place in before), default=0.0)
    if not factor > DECADE:
        return ""
    return (
        f"{SLOWER}: since step {profile.first.step} the updates made weights up to "
        f"{factor:.3g} times as large, and "
        "values have left the range of their dtype with them"
    )


def _backward(profile: Profile, bad: Columns) -> Finding:
    """Where a gradient that is not finite begins: there all that the next operations get are."""
    layers = {int(layer) for layer in bad["layer"]}
    readers = profile.graph.readers
    first = [layer for layer in layers if not layers & set(readers.get(layer, []))]
    last = max(first, default=max(layers))
    makers = sorted(readers.get(last, []))
    ops = " or ".join(profile.along(makers).places) or "the loss"
    scaled = set(bad["dtype"]) == {"float16"}  # a loss scale that is too large is lowered
    return Finding(
        "note" if scaled else "error",
        profile.place(last),
        f"its gradient holds NaN or infinite entries, while all values are finite; the backward "
        f"pass of {ops} makes them",
        _outgrown(profile)
        or f"look at the derivative of {ops}: that of a root or a norm is infinite or NaN at 0, "
        "that of a division by almost 0 is huge. Add an eps inside the root, or mask with "
        "torch.where before the operation",
    )


_FORMATS = {
    "float16": (65504.0, 2.0**-14, 2.0**-24),
    "bfloat16": (3.3895e38, 2.0**-126, 2.0**-133),
    "float8_e4m3fn": (448.0, 2.0**-6, 2.0**-9),
    "float8_e5m2": (57344.0, 2.0**-14, 2.0**-16),
}
"""The largest, the smallest normal and the smallest number of the formats of low precision."""
_ADVICE = (
    "bfloat16 has float32's range; in float16 scale the loss (torch.amp.GradScaler); float8 needs "
    "a scale for each tensor"
)


@register_rule(
    threshold=0.5,
    source="Micikevicius et al. 2018, 2022: numbers below a format's normal ones lose precision, "
    "those above its largest overflow",
)
def low_precision(profile: Profile, threshold: float) -> Iterator[Finding]:
    """tensors fit their format: half their entries are normal numbers there, none overflow"""
    if not profile.probed:
        yield from _unfit(profile, profile.seen, ("float16",), "note", threshold)
        return
    for rows, severity in ((profile.seen, "warning"), (profile.value_gradients, "note")):
        dtypes = rows["dtype"]
        for name in dict.fromkeys(dtypes):
            if name in _FORMATS:
                used = rows.where(dtypes == name)
                yield from _unfit(
                    profile,
                    used,
                    (name,),
                    "warning" if severity == "warning" else "note",
                    threshold,
                )
    # of a model in float32 only the signal is asked to fit, not its masks and small branches
    judged = [*profile.graph.computed - profile.graph.summands]
    full = (profile.seen["dtype"] == "float32") & np.isin(profile.seen["layer"], judged)
    yield from _unfit(profile, profile.seen.where(full), ("float16",), "note", threshold)


def _unfit(
    profile: Profile,
    rows: Columns,
    formats: tuple[str, ...],
    severity: Severity,
    threshold: float,
) -> Iterator[Finding]:
    """Tensors half of whose entries are out of a format's range.

    A few entries may be: those of a mask are as large as the format of the model allows.
    """
    ends = np.abs(np.stack([rows["q25"], rows["q75"]]))
    # half the entries are within this of zero, zeros included
    middle = ends.max(axis=0, initial=0.0)
    for name in formats:
        largest, smallest, least = _FORMATS[name]
        above = middle > largest
        # below the least number the statistics are of what was unscaled afterwards
        below = (middle < smallest) & (rows["zero_fraction"] < threshold) & (rows["count"] > 1)
        below &= (middle > least) | (rows["dtype"] != name if profile.probed else True)
        found = above | below
        if found.any():
            counts = [
                (above.sum(), "tensor overflows", "tensors overflow"),
                (below.sum(), "tensor loses precision", "tensors lose precision"),
            ]
            yield Finding(
                severity,
                listed(rows.where(found).places),
                f"{name}: {', '.join(counted(*words) for words in counts if words[0])}",
                _ADVICE,
            )
