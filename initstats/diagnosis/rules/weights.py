"""Rules about weights: their scale, and the fan that it was computed from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.remedies import drawn_anew, over
from initstats.diagnosis.rules.rule import OPERATIONS, WEIGHTS, Finding, listed, register_rule

Array = NDArray[Any]


@register_rule(
    threshold=5.0,
    source="more than the largest gain of a common activation (4.8 for sigmoid without its mean; "
    "Brock et al. 2021)",
    needs=[WEIGHTS],
    symptom=True,
)
def weight_scale(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no layer multiplies its input by more than any gain calls for"""
    maps = profile.maps
    # large weights may make good for a small input, as in a head that reads what was scaled down
    large = (maps["sigma_w2"] > threshold**2) & (maps["second_moment"] > threshold**2)
    if not large.any():
        return
    found = maps.where(large)
    layers = [int(layer) for layer in found["layer"]]
    worst = int(np.argmax(found["sigma_w2"]))
    yield Finding(
        "warning" if set(layers) <= profile.graph.normalized else "error",
        listed(found["name"]),
        f"the weights at {found['name'][worst]} multiply the rms by "
        f"{math.sqrt(found['sigma_w2'][worst]):.3g}; for what it reads, "
        f"{profile.gain(layers[worst]):.3f} keeps the signal",
        drawn_anew(profile, layers)
        or "scale the weights down to the gain of the activation that they read",
    )


@register_rule(
    threshold=0,
    source="Hu et al. 2022 (LoRA): of two factors one starts at zero, not both",
    needs=[OPERATIONS],
)
def zero_weights(profile: Profile, threshold: float) -> Iterator[Finding]:
    """weights that are zero get a gradient, now or as soon as others have moved"""
    stuck = profile.zeros.stuck
    if len(stuck) > threshold:
        names = [str(n) for layer in stuck for n in profile.own(layer)["name"]]
        # of two, one behind the other, the second may stay at zero
        drawn = [layer for layer in stuck if profile.zeros.waits(layer)]
        yield Finding(
            "error",
            listed(names or profile.along(stuck).places),
            "all these weights are 0, one behind the other: each multiplies the other's gradient "
            "by 0, so that none ever changes",
            _from_zero(profile, drawn) or "start one of them at a small number, not both at 0",
        )


def _from_zero(profile: Profile, layers: list[int]) -> str:
    """Draw zero weights with the gain of what they read."""
    lines: dict[str, list[str]] = {}
    for layer in layers:
        own = profile.own(layer)
        for name, fan_in in zip(own["name"], own["fan_in"], strict=True):
            if fan_in > 0:
                std = f"std={profile.gain(layer):.4f} / math.sqrt({fan_in:.0f})"
                line = f"nn.init.normal_(model.get_parameter({{}}), {std})"
                lines.setdefault(line, []).append(str(name))
    return "\n".join(over(names, line) for line, names in lines.items())


@register_rule(
    threshold=3,
    source="torch.nn.Linear and Conv call kaiming_uniform_(a=sqrt(5)), std 1 / sqrt(3 fan_in)",
    needs=[WEIGHTS],
    drawn=True,
)
def default_init(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no run of layers is left at torch's default, which shrinks the signal in each"""
    drawn = _Drawn(profile)
    default = drawn.default
    if not default.any():
        return
    layers = [int(layer) for layer in drawn.layers[default]]
    longest = _longest_run(profile, {*layers})
    gains = [profile.gain(layer) for layer in layers]
    yield Finding(
        "warning" if longest >= threshold else "note",
        listed(drawn.modules[default]),
        "the weights are uniform in +-1/sqrt(fan_in), as torch leaves them: each layer multiplies "
        f"the rms by about {1 / (math.sqrt(3) * float(np.median(gains))):.2f}; {longest} in a row "
        "have no normalization after them",
        drawn_anew(profile, layers),
    )


@register_rule(
    threshold=4.0,
    source="He et al. 2015; THEORY: fan_out in a layer that is not square changes q by "
    "fan_in / fan_out",
    needs=[WEIGHTS],
    drawn=True,
)
def fan_mode(profile: Profile, threshold: float) -> Iterator[Finding]:
    """weights are scaled by the inputs that a unit sums, not by the outputs"""
    drawn = _Drawn(profile)
    by_out = drawn.sigma_w2 / drawn.ratio
    uneven = np.maximum(drawn.ratio, 1 / drawn.ratio)
    # orthogonal weights have exactly the norm of their gain, and keep that of vectors
    random = np.abs(by_out - np.round(by_out)) > 1e-5 * by_out
    wrong = drawn.fits(by_out) & ~drawn.fits(drawn.sigma_w2) & ~drawn.near_default
    wrong &= random & drawn.fresh & (uneven >= 2)
    wrong &= ~np.isin(drawn.layers, [*profile.graph.normalized])
    if not wrong.any():
        return
    layers = [int(layer) for layer in drawn.layers[wrong]]
    fan_in, ratio = drawn.fan_in[wrong][0], drawn.ratio[wrong][0]
    yield Finding(
        "warning" if uneven[wrong].max() >= threshold else "note",
        listed(drawn.modules[wrong]),
        f"the variance is a squared gain over fan_out, {fan_in / ratio:.0f}, and not over fan_in, "
        f"{fan_in:.0f}: the second moment becomes {ratio:.3g} times what it should be",
        drawn_anew(profile, layers),
    )


class _Drawn:
    """The weights of linear maps that are parameters, and of which law they may be."""

    def __init__(self, profile: Profile) -> None:
        rows = profile.parameters
        layers = np.isin(rows["layer"], [*profile.graph.linear])
        self.rows = rows = rows.where(layers & (rows["fan_in"] > 0))
        self.layers: Array = rows["layer"]
        self.fan_in: Array = rows["fan_in"]
        self.sigma_w2: Array = self.fan_in * rows["second_moment"]
        self.modules = np.array([str(n).rpartition(".")[0] or str(n) for n in rows["name"]], object)
        gains = np.array([profile.gain(int(layer)) for layer in self.layers], float)
        self.gains = np.stack([np.ones(len(rows)), np.full(len(rows), 2.0), gains**2])
        self.ratio = np.array([_fans(profile, int(layer)) for layer in self.layers], float)

    @property
    def default(self) -> Array:
        """Whether they are uniform in +-1/sqrt(fan_in)."""
        bound = np.maximum(np.abs(self.rows["min"]), np.abs(self.rows["max"]))
        bound = bound * np.sqrt(self.fan_in)
        # for n uniform draws, the variance of the sample variance is 4/5 of its square over n
        error = 4 * np.sqrt(0.8 / self.rows["count"])
        uniform: Array = (np.abs(3 * self.sigma_w2 - 1) < error) & (bound <= 1.0001) & (bound > 0.9)
        return uniform

    @property
    def near_default(self) -> Array:
        """Whether their second moment is about the default's, as after some training."""
        near: Array = np.abs(3 * self.sigma_w2 - 1) < 0.2
        return near | self.default

    @property
    def fresh(self) -> Array:
        """Whether they have the moments of normal or of uniform draws around zero.

        Four standard errors are allowed; weights that were trained for long are outside.
        """
        count = self.rows["count"]
        centred = np.abs(self.rows["mean"]) * np.sqrt(count) < 4 * self.rows["std"]
        kurtosis, error = self.rows["kurtosis"], 4 * np.sqrt(24 / count)
        law = (np.abs(kurtosis) < error) | (np.abs(kurtosis + 1.2) < error)
        drawn: Array = centred & law & (np.abs(self.rows["skewness"]) < 4 * np.sqrt(6 / count))
        return drawn

    def fits(self, sigma_w2: Array) -> Array:
        """Whether it is the square of a usual gain, within four standard errors."""
        error = 4 * np.sqrt(2 / self.rows["count"]) + 0.01
        near: Array = (np.abs(sigma_w2 / self.gains - 1) < error).any(axis=0)
        return near


def _fans(profile: Profile, layer: int) -> float:
    """fan_in over fan_out: both count the positions of a kernel, which leaves units over units."""
    row = profile.along([layer])
    if not str(row["op"][0]).startswith("conv"):
        return float(row["fan_in"][0] / row["units"][0])
    source = profile.graph.source(layer)
    if source is None:
        return math.nan
    return float(profile.along([source])["units"][0] / row["units"][0])


def _longest_run(profile: Profile, layers: set[int]) -> int:
    """How many of some linear maps are one behind another, with no norm or shortcut between."""
    graph = profile.graph
    ends = graph.normalized | graph.normalizations | {block.layer for block in graph.blocks}
    run: dict[int, int] = {}
    for layer, inputs in graph.inputs.items():
        before = max((run[source] for source in inputs), default=0)
        if layer in graph.linear:
            before = before + 1 if layer in layers else 0
        run[layer] = 0 if layer in ends else before
    return max(run.values(), default=0)


@register_rule(
    threshold=0,
    source="Ioffe & Szegedy 2015: a batch normalization subtracts whatever the bias adds",
    needs=[WEIGHTS],
)
def useless_bias(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no layer adds a bias that the next operation takes away"""
    graph, biases = profile.graph, {str(name) for name in profile.parameters["name"]}
    maps = profile.maps
    useless = [
        str(name)
        for layer, name in zip(maps["layer"], maps["name"], strict=True)
        if f"{name}.bias" in biases
        and any(graph.ops[r] in ("batch_norm", "instance_norm") for r in graph.readers[layer])
    ]
    if len(useless) > threshold:
        yield Finding(
            "note",
            listed(useless),
            "a normalization of each channel follows, which subtracts the bias",
            "set bias=False in these layers",
        )
