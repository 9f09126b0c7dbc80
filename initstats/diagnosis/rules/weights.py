"""Rules about weights: their scale, and the fan that it was computed from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.rule import WEIGHTS, Finding, listed, register_rule


@register_rule(
    threshold=5.0,
    source="more than the largest gain of a common activation (4.8 for sigmoid without its mean; "
    "Brock et al. 2021)",
    needs=[WEIGHTS],
)
def weight_scale(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no layer multiplies its input by more than any gain calls for"""
    scale = np.sqrt(profile.weights["sigma_w2"])
    large = profile.weights[scale > threshold]
    if len(large):
        worst = large.sort_values("sigma_w2").iloc[-1]
        yield Finding(
            "warning" if large["normalized"].all() else "error",
            listed(large["module"]),
            f"std {worst['std']:.3g} at {worst['module']} multiplies the rms by "
            f"{math.sqrt(worst['sigma_w2']):.3g}; a layer that reads "
            f"{worst['activation'] or 'the input'} keeps the signal with {worst['gain']:.3f}",
            _line(worst),
        )
    dead = profile.weights[scale == 0]
    if len(dead):
        yield Finding(
            "note",
            listed(dead["module"]),
            "all weights are 0: nothing passes until they are trained",
            "nothing, if a residual branch starts at zero on purpose; else " + _line(dead.iloc[0]),
        )


@register_rule(
    threshold=3,
    source="torch.nn.Linear and Conv call kaiming_uniform_(a=sqrt(5)), std 1 / sqrt(3 fan_in)",
    needs=[WEIGHTS],
)
def default_init(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no run of layers is left at torch's default, which shrinks the signal in each"""
    weights = profile.weights
    bound = weights[["min", "max"]].abs().max(axis=1) * np.sqrt(weights["fan_in"])
    # for n uniform draws, the variance of the sample variance is 4/5 of its square over n
    error = 4 * np.sqrt(0.8 / weights["count"])
    default = ((3 * weights["sigma_w2"] - 1).abs() < error) & (bound <= 1.0001) & (bound > 0.9)
    if not default.any():
        return
    run, longest = 0, 0
    for kept in default & ~weights["normalized"]:
        run = run + 1 if kept else 0
        longest = max(longest, run)
    shrink = 1 / (math.sqrt(3) * float(np.median(weights.loc[default, "gain"])))
    yield Finding(
        "warning" if longest >= threshold else "note",
        listed(weights[default]["module"]),
        f"the weights are uniform in +-1/sqrt(fan_in), as torch leaves them: each layer multiplies "
        f"the rms by about {shrink:.2f}; {longest} in a row have no normalization after them",
        _line(weights[default].iloc[0]),
    )


@register_rule(
    threshold=4.0,
    source="He et al. 2015; THEORY: fan_out in a layer that is not square changes q by "
    "fan_in / fan_out",
    needs=[WEIGHTS],
)
def fan_mode(profile: Profile, threshold: float) -> Iterator[Finding]:
    """weights are scaled by the inputs that a unit sums, not by the outputs"""
    weights = profile.weights
    ratio = weights["fan_in"] / weights["fan_out"]
    unevenness = np.maximum(ratio, 1 / ratio)
    gains = np.stack([np.ones(len(weights)), np.full(len(weights), 2.0), weights["gain"] ** 2])
    error = 4 * np.sqrt(2 / weights["count"].to_numpy()) + 0.01

    def fits(sigma2: pd.Series[float]) -> NDArray[np.bool_]:
        return np.asarray((np.abs(sigma2.to_numpy() / gains - 1) < error).any(axis=0))

    by_out = fits(weights["sigma_w2"] / ratio) & ~fits(weights["sigma_w2"])
    wrong = weights[by_out & (unevenness >= 2) & ~weights["normalized"]]
    if len(wrong):
        first = wrong.iloc[0]
        yield Finding(
            "warning" if unevenness[wrong.index].max() >= threshold else "note",
            listed(wrong["module"]),
            f"the variance is a squared gain over fan_out, {first['fan_out']:.0f}, and not "
            f"over fan_in, {first['fan_in']:.0f}: the second moment becomes "
            f"{first['fan_in'] / first['fan_out']:.3g} times what it should be",
            _line(first),
        )


@register_rule(
    threshold=0,
    source="Ioffe & Szegedy 2015: a batch normalization subtracts whatever the bias adds",
    needs=[WEIGHTS],
)
def useless_bias(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no layer adds a bias that the next operation takes away"""
    biases = set(profile.rows.loc[profile.rows["tensor"] == "weight", "name"])
    useless = [
        any(row["op"] in ("batch_norm", "instance_norm") for row in profile.readers(layer))
        and f"{module}.bias" in biases
        for layer, module in profile.weights[["layer", "module"]].itertuples(index=False)
    ]
    if sum(useless) > threshold:
        yield Finding(
            "note",
            listed(profile.weights[useless]["module"]),
            "a normalization of each channel follows, which subtracts the bias",
            "set bias=False in these layers",
        )


def _line(weight: pd.Series[Any]) -> str:
    """The line that initializes a layer so that it keeps the signal."""
    layer = f"model.get_submodule({weight['module']!r})"
    std = f"{weight['gain']:.4f} / math.sqrt({weight['fan_in']:.0f})"
    return f"nn.init.normal_({layer}.weight, std={std})"
