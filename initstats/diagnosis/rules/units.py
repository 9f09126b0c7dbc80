"""Rules about units: dead, saturated, far from zero, or blind to the sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.rule import BATCH, ENOUGH, Finding, listed, register_rule
from initstats.diagnosis.summary import SAME


@register_rule(
    threshold=0.3,
    source="Lu et al. 2020 (dying ReLU): the share of units that are constant over the batch",
    needs=[BATCH],
)
def dead_units(profile: Profile, threshold: float) -> Iterator[Finding]:
    """units differ from sample to sample"""
    values = profile.signal
    # an embedding is looked up, not computed: a batch of one token type is no fault
    computed = (values["layer"] > 0) & ~values["op"].str.startswith("embedding")
    computed &= values["entries"] >= ENOUGH
    rows = values[computed & (values["dead_fraction"] > 0)]
    dead = rows.set_index("layer")["dead_fraction"]
    # a fault is told where it begins: there an operation reads values that are less dead
    begins = [
        not any(dead.get(source, 0.0) >= share for source in profile.inputs(layer))
        for layer, share in zip(rows["layer"], rows["dead_fraction"], strict=True)
    ]
    rows = rows[np.array(begins, bool)]
    for severity, low, high in (("error", 0.999, 2.0), ("warning", threshold, 0.999)):
        found = rows[(rows["dead_fraction"] >= low) & (rows["dead_fraction"] < high)]
        if len(found):
            worst = found.sort_values("dead_fraction").iloc[-1]
            yield Finding(
                "error" if severity == "error" else "warning",
                listed(found["place"]),
                f"{worst['dead_fraction']:.0%} of the units of {worst['place']} give one value for "
                "every sample, and so tell nothing about it",
                "shift or shrink the biases before it, initialize the weights before it to the "
                "gain of the activation that they read (see initstats.gain), or use a leaky "
                "activation",
            )


_BOUNDS = {"tanh": (0.0, 1.0), "sigmoid": (0.5, 0.5), "hardtanh": (0.0, 1.0), "softsign": (0, 1)}
"""Centre and half range of the activations that saturate."""


@register_rule(
    threshold=0.7,
    source="Glorot & Bengio 2010; tanh of unit pre-activations has 0.39, entries at the bounds 1",
)
def saturation(profile: Profile, threshold: float) -> Iterator[Finding]:
    """bounded activations are not pressed against their bounds"""
    ops = profile.signal["op"].str.rstrip("_")
    rows = profile.signal[ops.isin(_BOUNDS)]
    bounds = [_BOUNDS[op] for op in ops[rows.index]]
    centre, reach = np.array(bounds, float).reshape(-1, 2).T
    filled = (rows["std"] ** 2 + (rows["mean"] - centre) ** 2) / reach**2
    found = rows[filled > threshold]
    if len(found):
        worst = rows.loc[filled[found.index].sort_values().index[-1]]
        op = str(worst["op"]).rstrip("_")
        yield Finding(
            "warning",
            listed(found["place"]),
            f"the mean square at {worst['place']} is {filled.max():.2f} of the bound's: its "
            "derivative is near 0 for most entries",
            "make the pre-activation smaller: "
            f"std = {5 / 3 if op == 'tanh' else 1:.4g} / sqrt(fan_in) at most in the layer before "
            "it, or normalize what it reads",
        )


@register_rule(
    threshold=1.0,
    source="LeCun et al. 1998: inputs of a layer should average near zero",
)
def mean_shift(profile: Profile, threshold: float) -> Iterator[Finding]:
    """what layers read is not far to one side of zero"""
    read = {source for layer in profile.linear["layer"] for source in profile.inputs(int(layer))}
    rows = profile.signal[profile.signal["layer"].isin(read) | (profile.signal["layer"] == 0)]
    ratio = rows["mean"].abs() / rows["std"]
    found = rows[ratio > threshold]
    if len(found):
        worst = rows.loc[ratio[found.index].sort_values().index[-1]]
        yield Finding(
            "warning" if ratio[found.index].max() > 10 * threshold else "note",
            listed(found["place"]),
            f"the mean at {worst['place']} is {worst['mean']:.3g}, the std "
            f"{worst['std']:.3g}: a layer that reads it mostly sees a constant",
            "subtract the mean: normalize the input, put a normalization before the layer, or "
            "use an activation that is negative for negative inputs",
        )


@register_rule(
    threshold=SAME,
    source="Schoenholz et al. 2017: in the ordered phase all correlations go to 1",
    needs=[BATCH],
)
def collapse(profile: Profile, threshold: float) -> Iterator[Finding]:
    """layers tell samples apart"""
    rows = profile.linear[profile.linear["nonfinite"] == 0]
    rows = rows[rows["entries"] >= ENOUGH]
    found = rows[rows["sample_correlation"] >= threshold]
    if len(found):
        many = len(found) >= max(3, len(rows) / 4)
        yield Finding(
            "warning" if many and rows.index[-1] in found.index else "note",
            listed(found["place"]),
            "different samples give nearly the same output: their correlation is "
            f"{found['sample_correlation'].iloc[-1]:.4f} at {found['place'].iloc[-1]}, and "
            f"{threshold} or more in {len(found)} of {len(rows)} layers",
            "initialize weights to the gain and biases to zero, add residual connections or "
            'normalizations, or fit the rectifier to the depth (activation "tailored_relu")',
        )
