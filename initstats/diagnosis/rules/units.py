"""Rules about units: dead, saturated, far from zero, or blind to the sample."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from initstats.diagnosis.graph import SCALING
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.causes import oversized, pressed
from initstats.diagnosis.rules.remedies import drawn_anew, over, scaled
from initstats.diagnosis.rules.rule import (
    BATCH,
    MAPS,
    OPERATIONS,
    RULES,
    Finding,
    Severity,
    listed,
    register_rule,
)
from initstats.diagnosis.sight import ENOUGH, WHOLE
from initstats.diagnosis.summary import SAME
from initstats.probe.kinds import POOLING, RECURRENT


@register_rule(
    threshold=0.3,
    source="Lu et al. 2020 (dying ReLU): the share of units that are constant over the batch; half "
    "as many are worth knowing",
    needs=[BATCH],
)
def dead_units(profile: Profile, threshold: float) -> Iterator[Finding]:
    """in no layer do 15% of the units give one value for every sample"""
    dead = {n: share for n, share in profile.sight.dead.items() if n not in profile.sight.spread}
    noted = threshold / 2
    degrees: list[tuple[Severity, float, float]] = [
        ("error", WHOLE, math.inf),
        ("warning", threshold, WHOLE),
        ("note", noted, threshold),
    ]
    for severity, low, high in degrees:
        layers = [layer for layer, share in dead.items() if low <= share < high]
        if layers:
            worst = max(layers, key=dead.__getitem__)
            yield Finding(
                severity,
                listed(profile.along(layers).places),
                f"{_dead_of(profile, worst, dead[worst])} give one value for every sample, and so "
                "tell nothing about it",
                _revived(profile, layers) or _advice(profile, worst),
            )
    worst = max(dead, key=dead.__getitem__, default=-1)
    if worst >= 0 and dead[worst] < noted:
        yield Finding(
            "healthy",
            profile.place(worst),
            f"{_dead_of(profile, worst, dead[worst])} give one value for every sample, fewer than "
            f"{noted:.0%}",
            "",
        )


def _dead_of(profile: Profile, layer: int, share: float) -> str:
    """How many units of a layer are dead."""
    units = profile.along([layer])["units"][0]
    if math.isnan(units):  # a study's
        return f"{share:.0%} of the units of {profile.place(layer)}"
    return f"{round(share * units)} of {units:.0f} units ({share:.0%}) of {profile.place(layer)}"


def _advice(profile: Profile, layer: int) -> str:
    op = profile.graph.ops[layer]
    if op == "input":
        return "measure with samples that differ"
    if op in SCALING:
        return "leave the factor out: it is 0"
    return (
        "shift or shrink the biases before it, initialize the weights before it to the gain of "
        "the activation that they read (see initstats.gain), or use a leaky activation"
    )


def _revived(profile: Profile, layers: list[int]) -> str:
    """Biases at zero, where biases outweigh all that the layers before sum."""
    names = []
    for layer in layers:
        for before in profile.graph.maps_before(layer):
            own, spread = profile.own(before), profile.along([before])["unit_std_mean"][0]
            heavy = (own["second_moment"] > (2 * spread) ** 2) & ~(own["fan_in"] > 0)
            names += [str(name) for name in own["name"][heavy]]
    if not names:
        return ""
    line = over(names, "nn.init.zeros_(model.get_parameter({}))")
    return line + "  # these biases outweigh all that their units sum"


@register_rule(
    threshold=0.3,
    source="Glorot & Bengio 2010; tanh of unit pre-activations has 0.8% of its entries there",
    needs=[OPERATIONS],
)
def saturation(profile: Profile, threshold: float) -> Iterator[Finding]:
    """bounded activations are not pressed against their bounds"""
    layers = pressed(profile)
    inside = [layer for layer in layers if profile.graph.ops[layer] in RECURRENT]
    outside = [layer for layer in layers if layer not in inside]
    if outside:
        before = dict.fromkeys(b for n in outside for b in profile.graph.maps_before(n))
        remedy = _revived(profile, outside) or drawn_anew(profile, before)
        yield _pressed(profile, outside, "entries at", remedy)
    if inside:
        yield _pressed(profile, inside, "gates and candidates inside", _lessened(profile, inside))
    yield from _decided(profile)


def _pressed(profile: Profile, layers: list[int], what: str, remedy: str) -> Finding:
    """Values at the bounds of the function that made them, or gates inside of operations."""
    found = profile.along(layers)
    worst = int(np.argmax(found["saturated_fraction"]))
    large = oversized(profile)
    causes = {n for layer in layers for n in profile.graph.maps_before(layer)}
    large = large.where(np.isin(large["layer"], [*causes]))
    by = ""
    if len(large):
        most = math.sqrt(large["sigma_w2"].max())
        by = f"; the weights at {listed(large['name'])} multiply the rms by up to {most:.3g}"
    return Finding(
        "warning",
        listed(found.places),
        f"{found['saturated_fraction'][worst]:.0%} of the {what} {found.places[worst]} are within "
        f"1% of a bound, where the derivative is near 0{by}",
        remedy or "make the pre-activation smaller, or normalize what it reads",
    )


def _lessened(profile: Profile, layers: list[int]) -> str:
    """Weights of recurrent operations with the scale that keeps a signal, and no larger biases."""
    scale: dict[str, list[str]] = {}
    for own in map(profile.own, layers):
        sizes = np.sqrt(own["second_moment"] * np.where(own["fan_in"] > 0, own["fan_in"], 1))
        for name, size in zip(own["name"], sizes, strict=True):
            if size > 1:
                scale.setdefault(f"{1 / size:.3g}", []).append(str(name))
    return "\n".join(scaled(names, factor) for factor, names in scale.items())


def _decided(profile: Profile) -> Iterator[Finding]:
    """A softmax that gives nearly all to one entry: the sum of its squares is nearly 1."""
    rows, graph = profile.seen, profile.graph
    chosen = rows.where((rows["op"] == "softmax") & (rows["units"] >= 8))
    told = [
        int(layer)
        for layer, total in zip(
            chosen["layer"], chosen["second_moment"] * chosen["units"], strict=True
        )
        if total > 0.9 and graph.readers[int(layer)] and int(layer) in graph.downstream
    ]
    large = set(map(int, oversized(profile)["layer"]))
    caused = [layer for layer in told if large & {*graph.maps_before(layer)}]
    if told and told == caused:
        places = listed(profile.along(told).places)
        yield Finding("unchecked", places, "weight_scale names the weights that cause it", "")
    elif told:
        yield Finding(
            "warning",
            listed(profile.along(told).places),
            "a softmax gives nearly all weight to one entry of each row: its derivative is near 0",
            "divide the scores by the root of the size of a head, or shrink the weights of queries "
            "and keys",
        )


@register_rule(
    threshold=3.0,
    source="LeCun et al. 1998: inputs of a layer should average near zero",
    needs=[],
)
def mean_shift(profile: Profile, threshold: float) -> Iterator[Finding]:
    """what layers read is not far to one side of zero"""
    rows, graph = profile.seen, profile.graph
    with np.errstate(all="ignore"):
        ratio = np.abs(rows["mean"]) / rows["std"]
    # an input can be normalized once and for all: it is asked to be
    limit = np.where(rows["layer"] == 0, threshold / 3, threshold)
    told = []
    for number in np.flatnonzero((ratio > limit) & np.isfinite(ratio)):
        layer = int(rows["layer"][number])
        # the mean over positions of what a rectifier gives has little spread, by its nature
        pooled = graph.ops[layer] in POOLING | {"mean"}
        read = [r for r in graph.readers.get(layer, []) if r in graph.linear]
        if layer == 0:  # there may be several inputs: each has the name of the module it came to
            read = [r for r in read if profile.along([r])["name"][0] == rows["name"][number]]
        if read and not pooled:
            told.append(number)
    if told:
        found = rows.where(np.array(told, int))
        worst = int(np.argmax(ratio[told]))
        row = found.where(np.array([worst]))
        yield Finding(
            "warning" if (ratio[told] > 3 * limit[told]).any() else "note",
            listed(found.places),
            f"the mean at {row.places[0]} is {row['mean'][0]:.3g}, the std {row['std'][0]:.3g}: a "
            "layer that reads it mostly sees a constant",
            "subtract the mean: normalize the input, put a normalization before the layer, or "
            "use an activation that is negative for negative inputs",
        )


@register_rule(
    threshold=SAME,
    source="Schoenholz et al. 2017: in the ordered phase all correlations go to 1",
    needs=[MAPS, BATCH],
)
def collapse(profile: Profile, threshold: float) -> Iterator[Finding]:
    """layers tell samples apart"""
    rows = profile.seen_maps
    rows = rows.where((rows["nonfinite"] == 0) & (rows["entries"] >= ENOUGH))
    same = rows["sample_correlation"] >= threshold
    if profile.zeros.sources:  # a bias alone is the same for all
        same &= ~np.isin(rows["layer"], [*profile.zeros.sources])
    # what biases that outweigh all else do to units is told at the dead units
    told = [
        n for n, dead in profile.sight.dead.items() if dead >= RULES["dead_units"].threshold / 2
    ]
    before = [layer for n in told for layer in profile.graph.maps_before(n)]
    same &= ~np.isin(rows["layer"], [*profile.sight.constant])
    caused = same & np.isin(rows["layer"], before)
    same &= ~caused
    if caused.any():
        places = listed(rows.where(caused).places)
        yield Finding("unchecked", places, "dead_units tells what biases do there", "")
    if same.any():
        found = rows.where(same)
        many = len(found) >= max(3, len(rows) / 4)
        yield Finding(
            "warning" if many and same[-1] else "note",
            listed(found.places),
            "different samples give nearly the same output: their correlation is "
            f"{found['sample_correlation'][-1]:.4f} at {found.places[-1]}, and "
            f"{threshold} or more in {len(found)} of {len(rows)} layers",
            "initialize weights to the gain and biases to zero, add residual connections or "
            'normalizations, or fit the rectifier to the depth (activation "tailored_relu")',
        )
