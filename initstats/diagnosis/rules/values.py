"""Rules about entries: whether they are finite, and fit their number format."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.rule import Finding, Severity, listed, register_rule
from initstats.probe.kinds import numbers


@register_rule(threshold=0, source="IEEE 754: what overflows once stays infinite or becomes NaN")
def nonfinite(profile: Profile, threshold: float) -> Iterator[Finding]:
    """every entry is a finite number"""
    bad = profile.signal[profile.signal["nonfinite"] > threshold]
    # whether bad values end at readers that have none, as those of a mask do; later layers first
    contained: dict[int, bool] = {}
    for layer in reversed([int(layer) for layer in bad["layer"]]):
        readers = [int(row["layer"]) for row in profile.readers(layer)]
        contained[layer] = bool(readers) and all(contained.get(reader, True) for reader in readers)
    first = [row for _, row in bad.iterrows() if not contained.keys() & numbers(row["inputs"])]
    spread = [row for row in first if not contained[row["layer"]]]
    if spread:
        row = spread[0]
        share = row["nonfinite"] / row["count"]
        reached = f"; {len(bad) - 1} tensors after it hold some" if len(bad) > 1 else ""
        yield Finding(
            "error",
            row["place"],
            f"{row['nonfinite']:,.0f} of {row['count']:,.0f} entries ({share:.2%}) are NaN or "
            f"infinite, and all that it reads are finite{reached}",
            f"look at {row['op']} there: does it divide by zero, take the log or root of what is "
            "not positive, or leave the range of its dtype? Bound its input, add an eps, or "
            "compute it in float32",
        )
    elif first:
        yield Finding(
            "note",
            listed(pd.DataFrame(first)["place"]),
            "it has NaN or infinite entries, and whatever reads it has none, as with a mask",
            "nothing, if it is a mask on purpose",
        )


_FORMATS = {
    "float16": (65504.0, 2.0**-14),
    "bfloat16": (3.3895e38, 2.0**-126),
    "float8_e4m3fn": (448.0, 2.0**-6),
}
"""Largest number and smallest normal number of the formats of low precision."""


@register_rule(
    threshold=0.5,
    source="Micikevicius et al. 2018, 2022: numbers below a format's normal ones lose precision, "
    "those above its largest overflow",
)
def low_precision(profile: Profile, threshold: float) -> Iterator[Finding]:
    """tensors fit the formats of low precision: half their entries are normal numbers there"""
    rows = pd.concat([profile.signal, profile.gradients])
    reach = rows[["min", "max"]].abs().max(axis=1)
    # half the entries are within this of zero, zeros included
    middle = rows[["q25", "q75"]].abs().max(axis=1)
    used = set(rows["dtype"]) if profile.probed else set()
    told: dict[Severity, list[tuple[str, str]]] = {"warning": [], "note": []}
    for name, (largest, smallest) in _FORMATS.items():
        above = rows[reach > largest]
        below = rows[(middle < smallest) & (rows["zero_fraction"] < threshold)]
        if len(above) + len(below):
            count = [_tensors(len(above), "overflow"), _tensors(len(below), "lose", " precision")]
            place = listed(pd.concat([above, below])["place"])
            line = f"{name}: {', '.join(filter(None, count))}"
            told["warning" if name in used else "note"].append((place, line))
    for severity, lines in told.items():
        if lines:
            yield Finding(
                severity,
                lines[0][0],
                "; ".join(count for _, count in lines),
                "bfloat16 has float32's range; in float16 scale the loss (torch.amp.GradScaler); "
                "float8 needs a scale for each tensor",
            )


def _tensors(count: int, verb: str, what: str = "") -> str:
    """How many tensors do something; empty for none."""
    if count == 1:
        return f"1 tensor {verb}s{what}"
    return f"{count} tensors {verb}{what}" if count else ""
