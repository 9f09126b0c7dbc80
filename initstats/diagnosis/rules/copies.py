"""Rules about what is equal and should not be: units of a layer, and layers of a network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.loops import over
from initstats.diagnosis.rules.remedies import drawn_anew
from initstats.diagnosis.rules.rule import (
    BATCH,
    MAPS,
    PARAMETERS,
    Finding,
    listed,
    register_rule,
)
from initstats.diagnosis.sight import ENOUGH
from initstats.plural import counted

_EXACT = ("count", "mean", "std", "skewness", "kurtosis", "min", "max", "unit_std_std")
"""Statistics that two tensors of real numbers share to the last digit only if they are equal."""


@register_rule(
    threshold=1e-6,
    source="Goodfellow et al. 2016, 8.4: units of equal weights get equal gradients, for ever",
    needs=[MAPS, BATCH],
    symptom=True,
)
def equal_units(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the units of a layer differ from each other"""
    rows = profile.seen_maps
    rms = np.sqrt(rows["second_moment"])
    same = (rows["unit_mean_std"] <= threshold * rms) & (rows["unit_std_std"] <= threshold * rms)
    same &= (rows["dead_fraction"] == 0) & (rows["entries"] >= ENOUGH) & (rms > 0)
    same &= rows["unit_std_mean"] > threshold * rms
    if profile.probed:
        same &= rows["units"] > 1
    if profile.begun:
        same &= ~np.isin(rows["layer"], [*_made_at_once(profile)])
    if same.any():
        found = rows.where(same)
        yield Finding(
            "warning",
            listed(found["name"]),
            "all units are copies of each other: their means and stds agree to "
            f"{threshold:g} of the rms, and equal units get equal gradients",
            drawn_anew(profile, map(int, found["layer"])) if profile.probed else "draw them anew",
        )


def _made_at_once(profile: Profile) -> frozenset[int]:
    """The maps that began small and whose weights are the last update.

    One update of Adam has the same size everywhere; the next ones tell the units apart.
    """
    rows = profile.parameters
    grown = (rows["fan_in"] > 0) & ~(rows["update_ratio"] < 1)
    return profile.begun & {int(layer) for layer in rows["layer"][grown]}


@register_rule(
    threshold=1,
    source="torch's nn.TransformerEncoder copies one layer: draw each anew (its documentation)",
    needs=[PARAMETERS, MAPS],
    judges=["weights"],
    drawn=True,
)
def equal_layers(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no two layers start with the same weights"""
    rows = profile.parameters
    drawn = (rows["fan_in"] > 0) & (rows["std"] > 0) & (rows["count"] > threshold)
    drawn &= (rows["unit_std_std"] > 0) | (rows["unit_mean_std"] > 0)
    rows = rows.where(drawn & np.isin(rows["layer"], [*profile.graph.linear]))
    groups: dict[tuple[float, ...], list[int]] = {}
    for number, key in enumerate(zip(*(rows[name] for name in _EXACT), strict=True)):
        groups.setdefault(key, []).append(number)
    copies = [numbers for numbers in groups.values() if len(numbers) > threshold]
    if not copies:
        return
    behind = any(
        _follows(profile, int(rows["layer"][a]), int(rows["layer"][b]))
        for a, b in ((numbers[0], numbers[-1]) for numbers in copies)
    )
    names = [[str(rows["name"][number]) for number in numbers] for numbers in copies]
    lines: dict[str, list[str]] = {}
    for numbers in copies:
        for number in numbers[1:]:  # the first may stay
            line = f"nn.init.normal_(model.get_parameter({{}}), std={rows['std'][number]:.4g})"
            lines.setdefault(line, []).append(str(rows["name"][number]))
    yield Finding(
        "warning" if behind else "note",
        listed(_heads(names)),
        f"{sum(map(len, names))} weights are copies of each other: {' = '.join(names[0])}"
        + (f", and {counted(len(names) - 1, 'more such group')}" if len(names) > 1 else ""),
        "\n".join(over(group, line) for line, group in lines.items())
        + ("" if behind else "  # unless they are copies on purpose, as a target network is"),
    )


def _follows(profile: Profile, first: int, second: int) -> bool:
    """Whether the second value is made of the first."""
    reached, waiting = {first}, [first]
    while waiting:
        for reader in profile.graph.readers[waiting.pop()]:
            if reader not in reached:
                reached.add(reader)
                waiting.append(reader)
    return second in reached


def _heads(groups: list[list[str]]) -> list[str]:
    """The modules that are copies: names without the end that all of a group share."""
    found: dict[str, None] = {}
    for names in groups:
        parts = [name.split(".") for name in names]
        while len({part[-1] for part in parts}) == 1 and all(len(part) > 1 for part in parts):
            parts = [part[:-1] for part in parts]
        found |= {".".join(part): None for part in parts}
    return [*found]
