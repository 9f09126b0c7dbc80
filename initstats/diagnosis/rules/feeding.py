"""Rules about what a model is fed, and what it throws away of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from initstats.diagnosis.graph import SUMS
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.loops import over
from initstats.diagnosis.rules.remedies import scaled
from initstats.diagnosis.rules.rule import OPERATIONS, Finding, listed, register_rule
from initstats.diagnosis.verdicts import DECADE
from initstats.plural import counted
from initstats.probe.kinds import DROPOUTS, MIXING, words


@register_rule(
    threshold=DECADE,
    source="LeCun et al. 1998, 4.3: inputs of mean 0 and of variance 1",
    needs=[OPERATIONS],
)
def input_scale(profile: Profile, threshold: float) -> Iterator[Finding]:
    """what the first layers read has a mean near 0 and an rms near 1"""
    rows, graph = profile.values, profile.graph
    several = (rows["layer"] == 0).sum() > 1
    for number, layer in enumerate(map(int, rows["layer"])):
        if layer in graph.downstream or rows["nonfinite"][number]:
            continue
        reading = [r for r in graph.readers[layer] if _mixes(profile, r)]
        if layer == 0 and several:  # each has the name of the module that it came to
            name = rows["name"][number]
            reading = [r for r in reading if profile.along([r])["name"][0] == name]
        # what is zero is absent: a layer that reads one of many words sums one entry
        present = 1 - rows["zero_fraction"][number]
        if reading and present > 0:
            rms = math.sqrt(rows["second_moment"][number] / present)
            yield from _far(profile, number, reading, rms, threshold)
    yield from _looked_up(profile, threshold)


def _looked_up(profile: Profile, threshold: float) -> Iterator[Finding]:
    """Rows of a table that are far larger than what a network reads, or adds to them."""
    rows, graph = profile.values, profile.graph
    size = np.sqrt(rows["second_moment"] / np.maximum(1 - rows["zero_fraction"], 1e-9))
    large = [
        int(layer)
        for layer in rows["layer"][(size > threshold) & (rows["nonfinite"] == 0)]
        if graph.ops[layer] in _TABLES and graph.readers[layer]
    ]
    for undone in (False, True):
        layers = [n for n in large if _normalized(profile, n) == undone]
        names = [str(name) for n in layers for name in profile.own(n)["name"][:1]]
        if layers:
            worst = max(layers, key=lambda n: size[profile.at[n]])
            rms = float(size[profile.at[worst]])
            yield Finding(
                "note" if undone else "warning",
                listed(profile.along(layers).places),
                f"the rows that {profile.place(worst)} looks up have an rms of {rms:.3g}, and 1 or "
                "less is usual: "
                + (
                    "the normalization behind undoes that in the signal, but not in the updates"
                    if undone
                    else "what is added to them later, or learned of them, is small beside them"
                ),
                scaled(names, f"{1 / rms:.3g}") or f"multiply the table by {1 / rms:.3g}",
            )


def _normalized(profile: Profile, layer: int) -> bool:
    """Whether only normalizations read a value, after sums at most that add no branch to it."""
    graph, blocks = profile.graph, {block.layer for block in profile.graph.blocks}
    return bool(graph.readers[layer]) and all(
        reader in graph.normalizations
        or (
            graph.ops[reader] in SUMS | DROPOUTS
            and reader not in blocks
            and _normalized(profile, reader)
        )
        for reader in graph.readers[layer]
    )


_TABLES = words("embedding embedding_bag")


def _mixes(profile: Profile, layer: int) -> bool:
    """Whether weights sum the entries of what is read."""
    graph = profile.graph
    return layer in graph.linear or (layer in graph.weighted and graph.ops[layer] in MIXING)


def _far(
    profile: Profile, number: int, reading: list[int], rms: float, threshold: float
) -> Iterator[Finding]:
    """An input whose mean is far from 0, or whose size is far from 1."""
    rows = profile.values
    mean, std = float(rows["mean"][number]), float(rows["std"][number])
    shift = abs(mean) / std if std > 0 else 0.0
    if 1 / threshold <= rms <= threshold and shift <= 1:
        return
    far = rms > threshold or rms < threshold**-2 or shift > 3
    undone = set(reading) <= profile.graph.normalized
    alone = (rows["layer"] == 0).sum() == 1 and rows["layer"][number] == 0 and std > 0
    yield Finding(
        "warning" if far and not undone else "note",
        rows.places[number],
        f"the input of {listed(profile.along(reading).places)} has a mean of {mean:.3g} and a std "
        f"of {std:.3g}, where 0 and 1 are usual: "
        + (
            "the normalization after it corrects the outputs, but not the updates of the weights"
            if undone
            else "outputs, and the first updates of weights, are "
            f"{rms:.3g} times as large as for such an input"
        ),
        f"x = (x - {mean:.4g}) / {std:.4g}  # the mean and the std of the training data"
        if alone
        else f"subtract the mean of the training data, here {mean:.4g}, and divide by its standard "
        f"deviation, here {std:.4g}",
    )


@register_rule(
    threshold=0.9,
    source="Srivastava et al. 2014: half of the units are dropped, of inputs fewer",
    needs=[OPERATIONS],
)
def dropped(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no random operation throws nearly everything away"""
    rows, graph = profile.values, profile.graph
    shares: dict[int, float] = {}
    for number in np.flatnonzero(rows["draws"] > 0):
        layer = int(rows["layer"][number])
        read = [1 - rows["zero_fraction"][profile.at[i]] for i in graph.inputs[layer]]
        if not read or max(read) <= 0:
            continue
        kept = min(1.0, (1 - float(rows["zero_fraction"][number])) / max(read))
        # few draws say little of the share: three standard errors more are allowed
        count = kept * float(rows["draws"][number])
        most = (count + 3 + 3 * math.sqrt(count)) / float(rows["draws"][number])
        if most < 0.35:
            shares[layer] = 1 - kept if most < 1.5 * (1 - threshold) else 0.0
    for grave in (True, False):
        layers = [layer for layer, share in shares.items() if (share > 0) == grave]
        if layers:
            found = profile.along(layers)
            zero = [1 - float(rows["zero_fraction"][profile.at[n]]) for n in layers]
            yield Finding(
                "warning" if grave else "note",
                listed(found.places),
                f"a random operation keeps few of the entries: after {found.places[0]}, "
                f"{zero[0]:.1%} are not zero, and these are multiplied by a large number to make "
                "up for the others: later layers see mostly noise",
                _milder(profile, layers)
                or "drop at most half of the entries: was the share to keep given as the share to "
                "drop?",
            )


def _milder(profile: Profile, layers: list[int]) -> str:
    """Half of the entries dropped, where modules that do nothing else drop them."""
    names, ops = profile.values["name"], profile.values["op"]
    found = []
    for name in profile.along(layers)["name"]:
        own = {str(op).rstrip("_") for op in ops[names == name]}
        if not own <= DROPOUTS | {"input"}:
            return ""
        found.append(str(name))
    return over(found, "model.get_submodule({}).p = 0.5")


@register_rule(
    threshold=8,
    source="Ioffe & Szegedy 2015; Wu & He 2018: statistics of few entries are noise",
    needs=[OPERATIONS],
)
def small_batch(profile: Profile, threshold: float) -> Iterator[Finding]:
    """batch normalizations have enough entries for their statistics"""
    rows = profile.values
    trains = profile.columns["mode"][0] == "train" if "mode" in profile.columns else False
    few = (rows["op"] == "batch_norm") & (rows["entries"] < threshold)
    if few.any() and trains:
        found = rows.where(few)
        yield Finding(
            "note",
            listed(found["name"]),
            "the mean and the variance of each channel are computed from "
            f"{counted(found['entries'].min(), 'entry', 'entries')}: they are noise in training, "
            "and differ from those of evaluation",
            "use larger batches, or a normalization of each sample, as GroupNorm or LayerNorm",
        )
