"""Rules about numbers: whether they are finite, and fit their format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.rule import Finding, Severity, register_rule
from initstats.diagnosis.rules.wording import places
from initstats.probe.kinds import numbers


@register_rule(threshold=0, source="IEEE 754; whatever overflows once stays so")
def nonfinite(profile: Profile, threshold: float) -> Iterator[Finding]:
    """every entry is a finite number"""
    bad = profile.signal[profile.signal["nonfinite"] > threshold]
    layers = set(bad["layer"])
    first = [row for _, row in bad.iterrows() if not layers & set(numbers(row["inputs"]))]
    spread = [row for row in first if not _contained(profile, int(row["layer"]), layers)]
    if spread:
        row = spread[0]
        share = row["nonfinite"] / row["count"]
        reached = f"; {len(bad)} values hold some after it" if len(bad) > 1 else ""
        yield Finding(
            "error",
            row["place"],
            f"{row['nonfinite']:,.0f} of {row['count']:,.0f} entries ({share:.2%}) are NaN or "
            f"infinite, those it reads are finite{reached}",
            f"look at {row['op']} there: does it divide by zero, take the log or root of what is "
            "not positive, or leave the range of its dtype? Bound its input, add an eps, or "
            "compute it in float32",
        )
    elif first:
        yield Finding(
            "note",
            places(pd.DataFrame(first)),
            "NaN or infinite entries that what reads them does not pass on, as of a mask",
            "nothing, if it is a mask on purpose",
        )


class _Format(NamedTuple):
    largest: float
    smallest: float


_FORMATS = {
    "float16": _Format(65504.0, 2.0**-14),
    "bfloat16": _Format(3.3895e38, 2.0**-126),
    "float8_e4m3fn": _Format(448.0, 2.0**-6),
}
"""Largest number and smallest normal one of the formats of low precision."""


@register_rule(
    threshold=0.5,
    source="Micikevicius et al. 2018, 2022: what is below a format's normal numbers loses digits, "
    "what is above overflows",
)
def low_precision(profile: Profile, threshold: float) -> Iterator[Finding]:
    """values fit the formats of low precision, in that half the entries are normal numbers"""
    rows = pd.concat([profile.signal, profile.gradients])
    reach = rows[["min", "max"]].abs().max(axis=1)
    # half the entries are within this of zero, zeros included
    middle = rows[["q25", "q75"]].abs().max(axis=1)
    used = set(rows["dtype"]) if profile.probed else set()
    told: dict[Severity, list[tuple[str, str]]] = {"warning": [], "note": []}
    for name, limits in _FORMATS.items():
        above = rows[reach > limits.largest]
        below = rows[(middle < limits.smallest) & (rows["zero_fraction"] < threshold)]
        if len(above) + len(below):
            count = f"in {name} {len(above)} values overflow and {len(below)} lose digits"
            place = places(pd.concat([above, below]))
            told["warning" if name in used else "note"].append((place, count))
    for severity, lines in told.items():
        if lines:
            yield Finding(
                severity,
                lines[0][0],
                "; ".join(count for _, count in lines),
                "bfloat16 has float32's range; in float16 scale the loss (torch.amp.GradScaler); "
                "float8 needs a scale a tensor",
            )


def _contained(profile: Profile, layer: int, bad: set[int]) -> bool:
    """Whether a value is read, and nothing that reads it has the same fault."""
    pending, seen = [layer], {layer}
    while pending:
        readers = [int(row["layer"]) for row in profile.readers(pending.pop())]
        if not readers:
            return False
        new = {reader for reader in readers if reader in bad and reader not in seen}
        seen |= new
        pending += new
    return True
