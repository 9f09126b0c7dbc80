"""Rules about units: dead, saturated, far from zero, or blind to the sample."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtr

from initstats.diagnosis.graph import SCALING
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.attention import decided
from initstats.diagnosis.rules.causes import oversized
from initstats.diagnosis.rules.gates import bottleneck, only_gates
from initstats.diagnosis.rules.remedies import centred, drawn_anew, rectified, scaled, unbiased
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
from initstats.diagnosis.rules.weights import shrinking
from initstats.diagnosis.sight import ENOUGH, WHOLE
from initstats.diagnosis.verdicts import SAME
from initstats.plural import counted
from initstats.probe.kinds import CHOOSING, POOLING, RECURRENT


@register_rule(
    threshold=0.3,
    source="Lu et al. 2020 (dying ReLU): the share of units that are constant over the batch; half "
    "as many are worth knowing",
    needs=[BATCH],
    symptom=True,
)
def dead_units(profile: Profile, threshold: float) -> Iterator[Finding]:
    """in no layer do 15% of the units give one value for every sample"""
    dead = {
        layer: share
        for layer, share in profile.sight.dead.items()
        if layer not in profile.sight.spread and not _learning(profile, layer, threshold)
    }
    noted, told = threshold / 2, []
    natural = {n for n, share in dead.items() if share >= noted and _natural(profile, n, share)}
    shrunk = shrinking(profile)
    caused = [n for n in dead if shrunk and shrunk >= {*profile.graph.maps_before(n)}]

    def severity(layer: int) -> Severity:
        share, least = dead[layer], threshold if layer in natural else noted
        if share < least:
            return "healthy"
        aside = bottleneck(profile, layer)
        if share >= WHOLE:
            return "warning" if aside else "error"
        return "note" if share < threshold or layer in natural or aside else "warning"

    degrees: list[Severity] = ["error", "warning", "note"]
    for degree in degrees:
        layers = [layer for layer in dead if severity(layer) == degree]
        told += layers
        if layers and not {*layers} <= {*caused}:
            worst = max(layers, key=dead.__getitem__)
            before = [n for layer in layers for n in profile.graph.maps_before(layer)]
            yield Finding(
                degree,
                listed(profile.along(layers).places),
                f"{_dead_of(profile, worst, dead[worst])} the same value for every sample, and so "
                "tell nothing about it",
                unbiased(profile, before, behind=True) or _advice(profile, worst),
            )
    if told and {*told} <= {*caused}:
        places = listed(profile.along(told).places)
        yield Finding("unchecked", places, "default_init names the weights that cause it", "")
    elif dead and not told:
        worst = max(dead, key=dead.__getitem__)
        than = (
            "no more than random weights give where samples are so similar"
            if worst in natural
            else f"below {noted:.0%}"
        )
        evidence = (
            f"{_dead_of(profile, worst, dead[worst])} the same value for every sample, {than}"
        )
        yield Finding("healthy", profile.place(worst), evidence, "")


def _dead_of(profile: Profile, layer: int, share: float) -> str:
    """How many units of a layer are dead: the beginning of a sentence, with its verb."""
    units = profile.along([layer])["units"][0]
    if math.isnan(units):  # a study's
        return f"{share:.0%} of the units of {profile.place(layer)} have"
    count = round(share * units)
    return (
        f"{count} of {counted(units, 'unit')} ({share:.0%}) of {profile.place(layer)} "
        f"{'has' if count == 1 else 'have'}"
    )


def _advice(profile: Profile, layer: int) -> str:
    op = profile.graph.ops[layer]
    if op == "input":
        return "measure with samples that differ"
    if op in SCALING:
        return _factor_advice(profile, layer)
    return (
        "shift or shrink the biases before it, initialize the weights before it to the gain of "
        "the activation that they read (see initstats.gain), or use a leaky activation"
    )


def _factor_advice(profile: Profile, layer: int) -> str:
    """What to do where a product, or a quotient, is the same for every sample."""
    row, read = profile.along([layer]), profile.along(profile.graph.inputs[layer])
    if row["second_moment"][0] == 0 and (read["second_moment"] > 0).all():
        own = [str(name) for name in profile.own(layer)["name"]]
        return " ".join(["leave the factor", *own, "out: it is 0"])
    if row["second_moment"][0] == 0:
        return "look at what it reads: a value that is 0 makes a product 0"
    if row["normalized"][0] == 1 or len(read) > 1:
        return (
            f"it is {row['mean'][0]:.3g} whatever it reads, as a number divided by itself is: "
            "divide by the sum of several, before some of them are chosen, or choose more than one"
        )
    return "look at what multiplies or divides it: that makes these units the same for all samples"


def _natural(profile: Profile, layer: int, share: float) -> bool:
    """Whether weights drawn at random leave as many units dead, of samples that are so alike.

    Of pre-activations with correlation c between samples, sqrt(c) m + sqrt(1 - c) e, those are at
    one side of zero for all n samples whose m is: the mean of P(e < -m sqrt(c / (1 - c)))^n.
    Samples that are alike differ in few directions: more than 16 count as 16.
    """
    read, before = profile.graph.inputs[layer], profile.graph.maps_before(layer)
    if len(read) != 1 or unbiased(profile, before):
        return False
    own = profile.parameters.where(np.isin(profile.parameters["layer"], before))
    own = own.where(own["fan_in"] > 0)
    if not len(own) or (np.abs(own["mean"]) * np.sqrt(own["count"]) > 4 * own["std"]).any():
        return False
    row, here = profile.along(read), profile.along([layer])
    likeness = min(max(float(row["sample_correlation"][0]), 0.0), 1 - 1e-9)
    m = np.linspace(-6, 6, 241)
    density = np.exp(-(m**2) / 2)
    alone = ndtr(-m * math.sqrt(likeness / (1 - likeness))) ** ENOUGH
    expected = float((alone * density).sum() / density.sum())
    error = math.sqrt(expected * (1 - expected) / max(float(here["units"][0]), 1.0))
    return share <= expected + 4 * error


def _learning(profile: Profile, layer: int, threshold: float) -> bool:
    """Whether units are constant as some rows of their weights are zero, and will not stay so.

    A linear map of inputs that differ has constant units for no other reason, and as soon as a
    gradient arrives, it moves the rows. What is chosen of them is as they are.
    """
    graph, rows = profile.graph, profile.value_gradients
    while graph.ops[layer].partition("[")[0] in CHOOSING and graph.inputs[layer]:
        layer = graph.inputs[layer][0]
    if layer not in graph.linear:
        return False
    still = rows["dead_fraction"][rows["layer"] == layer]
    return bool(len(still) and still[0] < threshold)


@register_rule(
    threshold=0.35,
    source="Glorot & Bengio 2010; unit pre-activations have 0.8% of tanh's entries and 32% of "
    "hardtanh's there",
    needs=[OPERATIONS],
    symptom=True,
)
def saturation(profile: Profile, threshold: float) -> Iterator[Finding]:
    """bounded activations are not pressed against their bounds"""
    rows, graph = profile.seen, profile.graph
    # below, a function such as exp only comes to rest: it is not pressed against a bound
    over = (rows["saturated_fraction"] > threshold) & np.isfinite(rows["high"])
    found = {int(layer) for layer in rows["layer"][over]}
    # a network may be certain of its answers; of one function's operations the first is told
    layers = [
        n
        for n in sorted(found)
        if (graph.readers[n] or graph.ops[n] in RECURRENT) and found.isdisjoint(graph.inputs[n])
    ]
    inside = [layer for layer in layers if graph.ops[layer] in RECURRENT]
    outside = [layer for layer in layers if layer not in inside]
    if outside:
        before = dict.fromkeys(b for n in outside for b in graph.maps_before(n))
        remedy = _eased(profile, [*before])
        yield _pressed(profile, outside, "entries at", remedy)
    if inside:
        yield _pressed(profile, inside, "gates and candidates inside", _lessened(profile, inside))
    yield from _shut(profile)
    yield from decided(profile)


def _shut(profile: Profile) -> Iterator[Finding]:
    """Gates that are 0 for nearly all samples and units: an open gate may be meant, these not."""
    rows = profile.seen
    shut = [int(layer) for layer in rows["layer"][rows["shut_fraction"] > _SHUT]]
    if shut:
        found = profile.along(shut)
        yield Finding(
            "warning",
            listed(found.places),
            f"{found['shut_fraction'][0]:.0%} of the forget gates, or of the output gates, inside "
            f"{found.places[0]} are below 1%: a state does not outlast a step, or is not given out",
            _lessened(profile, shut)
            or "start forget gates with a bias of 1, and output gates with one of 0",
        )


_SHUT = 0.9


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


def _eased(profile: Profile, before: list[int]) -> str:
    """Weights at their gain and biases that do not outweigh them, where either is too large."""
    large = {int(layer) for layer in oversized(profile)["layer"]}
    if large.isdisjoint(before):
        return unbiased(profile, before) or drawn_anew(profile, before)
    lines = [drawn_anew(profile, before), unbiased(profile, before, size=1.0)]
    return "\n".join(filter(None, lines))


def _lessened(profile: Profile, layers: list[int]) -> str:
    """Weights of recurrent operations with the scale that keeps a signal, and no larger biases."""
    scale: dict[str, list[str]] = {}
    for own in map(profile.own, layers):
        sizes = np.sqrt(own["second_moment"] * np.where(own["fan_in"] > 0, own["fan_in"], 1))
        for name, size in zip(own["name"], sizes, strict=True):
            if size > 1:
                scale.setdefault(f"{1 / size:.3g}", []).append(str(name))
    return "\n".join(scaled(names, factor) for factor, names in scale.items())


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
    told = []
    for number in np.flatnonzero((ratio > threshold) & np.isfinite(ratio)):
        layer = int(rows["layer"][number])
        # the mean over positions of what a rectifier gives has little spread, by its nature
        pooled = graph.ops[layer] in POOLING | {"mean"}
        read = [r for r in graph.readers.get(layer, []) if r in graph.linear]
        given = profile.probed and layer not in graph.downstream  # input_scale tells of it
        if read and not pooled and not given:
            told.append(number)
    if told:
        found = rows.where(np.array(told, int))
        worst = int(np.argmax(ratio[told]))
        row = found.where(np.array([worst]))
        yield Finding(
            "warning" if (ratio[told] > 3 * threshold).any() else "note",
            listed(found.places),
            f"the mean at {row.places[0]} is {row['mean'][0]:.3g}, the std {row['std'][0]:.3g}: a "
            "layer that reads it mostly sees a constant",
            "subtract the mean: put a normalization before the layer, or "
            "use an activation that is negative for negative inputs",
        )


@register_rule(
    threshold=SAME,
    source="Schoenholz et al. 2017: in the ordered phase all correlations go to 1",
    needs=[MAPS, BATCH],
    symptom=True,
)
def collapse(profile: Profile, threshold: float) -> Iterator[Finding]:
    """layers tell samples apart"""
    rows = profile.seen_maps
    rows = rows.where((rows["nonfinite"] == 0) & (rows["entries"] >= ENOUGH))
    same = rows["sample_correlation"] >= threshold
    if profile.zeros.sources:  # a bias alone is the same for all
        same &= ~np.isin(rows["layer"], [*profile.zeros.sources])
    if shrinking(profile) >= {int(layer) for layer in rows["layer"][same]} and same.any():
        places = listed(rows.where(same).places)
        yield Finding("unchecked", places, "default_init names the weights that cause it", "")
        return
    # what biases that outweigh all else do to units is told at the dead units
    told = [
        n for n, dead in profile.sight.dead.items() if dead >= RULES["dead_units"].threshold / 2
    ]
    before = [layer for n in told for layer in profile.graph.maps_before(n)]
    same &= ~np.isin(rows["layer"], [*profile.sight.constant])
    caused = same & np.isin(rows["layer"], before)
    same &= ~caused
    gates = [layer for layer in rows["layer"][same] if only_gates(profile, int(layer))]
    same &= ~np.isin(rows["layer"], gates)
    if caused.any():
        places = listed(rows.where(caused).places)
        yield Finding("unchecked", places, "dead_units names the biases that cause it", "")
    if same.any():
        found = rows.where(same)
        many = len(found) >= max(3, len(rows) / 4)
        yield Finding(
            "warning" if many and same[-1] else "note",
            listed(found.places),
            "different samples give nearly the same output: their correlation is "
            f"{found['sample_correlation'][-1]:.4f} at {found.places[-1]}, and "
            f"{threshold} or more in {len(found)} of {counted(len(rows), 'layer')}",
            _apart(profile, [int(layer) for layer in found["layer"]]),
        )


def _apart(profile: Profile, layers: list[int]) -> str:
    """What makes samples more different, by what the layers read in which they are alike."""
    if remedy := centred(profile, layers):
        return remedy
    usual = (
        "initialize weights to the gain and biases to zero, add residual connections or "
        "normalizations"
    )
    if not rectified(profile, layers):
        return usual
    return usual + ', or fit the rectifier to the depth (activation "tailored_relu")'
