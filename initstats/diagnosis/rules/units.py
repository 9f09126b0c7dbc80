"""Rules about units: dead, saturated, far from zero, or blind to the sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initstats.diagnosis.graph import SUMS
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.remedies import drawn_anew, over
from initstats.diagnosis.rules.rule import BATCH, ENOUGH, OPERATIONS, Finding, listed, register_rule
from initstats.diagnosis.summary import SAME
from initstats.probe.kinds import CHOOSING, POOLING


@register_rule(
    threshold=0.3,
    source="Lu et al. 2020 (dying ReLU): the share of units that are constant over the batch",
    needs=[BATCH],
    symptom=True,
)
def dead_units(profile: Profile, threshold: float) -> Iterator[Finding]:
    """units differ from sample to sample"""
    rows, graph = profile.values, profile.graph
    share = rows["dead_fraction"]
    candidates = np.flatnonzero((share >= threshold) & (rows["entries"] >= ENOUGH))
    found: dict[int, float] = {}
    for number in candidates:
        layer = int(rows["layer"][number])
        # a fault is told where it begins: there an operation reads values that are less dead
        begins = all(share[profile.at[i]] < share[number] for i in graph.inputs[layer])
        judged = layer in graph.computed or not profile.probed
        # a sum with a small number comes to a constant by rounding alone
        judged &= graph.ops[layer] not in SUMS
        excused = layer in profile.zeros.excused or _learning(profile, layer, threshold)
        if begins and judged and not excused:
            found[layer] = float(share[number])
    for error in (True, False):
        layers = [layer for layer, dead in found.items() if (dead >= 0.999) == error]
        if layers:
            worst = max(layers, key=found.__getitem__)
            yield Finding(
                "error" if error else "warning",
                listed(profile.along(layers).places),
                f"{found[worst]:.0%} of the units of {profile.place(worst)} give one value for "
                "every sample, and so tell nothing about it",
                _revived(profile, layers)
                or "shift or shrink the biases before it, initialize the weights before it to the "
                "gain of the activation that they read (see initstats.gain), or use a leaky "
                "activation",
            )


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
    symptom=True,
)
def saturation(profile: Profile, threshold: float) -> Iterator[Finding]:
    """bounded activations are not pressed against their bounds"""
    rows, graph = profile.values, profile.graph
    # below, a function such as exp only comes to rest: it is not pressed against a bound
    over = (rows["saturated_fraction"] > threshold) & np.isfinite(rows["high"])
    layers = {int(layer) for layer in rows["layer"][over]}
    # a network may be certain of its answers; of one function's operations the first is told
    layers = {n for n in layers if graph.readers[n] and layers.isdisjoint(graph.inputs[n])}
    found = profile.along(sorted(layers))
    if len(found):
        worst = int(np.argmax(found["saturated_fraction"]))
        before = dict.fromkeys(b for n in sorted(layers) for b in graph.maps_before(n))
        yield Finding(
            "warning",
            listed(found.places),
            f"{found['saturated_fraction'][worst]:.0%} of the entries at {found.places[worst]} are "
            "within 1% of a bound, where the derivative is near 0",
            _revived(profile, sorted(layers))
            or drawn_anew(profile, before)
            or "make the pre-activation smaller, or normalize what it reads",
        )
    yield from _decided(profile)


def _decided(profile: Profile) -> Iterator[Finding]:
    """A softmax that gives nearly all to one entry: the sum of its squares is nearly 1."""
    rows, graph = profile.values, profile.graph
    chosen = rows.where((rows["op"] == "softmax") & (rows["units"] >= 8))
    told = [
        int(layer)
        for layer, total in zip(
            chosen["layer"], chosen["second_moment"] * chosen["units"], strict=True
        )
        if total > 0.9 and graph.readers[int(layer)] and int(layer) in graph.downstream
    ]
    if told:
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
    rows, graph = profile.values, profile.graph
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
    needs=[BATCH],
    symptom=True,
)
def collapse(profile: Profile, threshold: float) -> Iterator[Finding]:
    """layers tell samples apart"""
    rows = profile.maps.where(
        (profile.maps["nonfinite"] == 0) & (profile.maps["entries"] >= ENOUGH)
    )
    same = rows["sample_correlation"] >= threshold
    if profile.zeros.sources:  # a bias alone is the same for all
        same &= ~np.isin(rows["layer"], [*profile.zeros.sources])
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
