"""Rules about the size of the signal, the gradient and the residual stream through the layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.rule import DEEP, GRADIENTS, OPERATIONS, Finding, register_rule
from initstats.diagnosis.summary import DECADE


@register_rule(
    threshold=2 * math.log(DECADE),
    source="Schoenholz et al. 2017: q grows or shrinks by a factor per layer; He et al. 2015",
    needs=[DEEP],
)
def signal(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the length of the signal neither grows nor shrinks from layer to layer"""
    rows = profile.linear
    yield from _drift(profile, rows, rows["second_moment"], threshold, "signal")


@register_rule(
    threshold=2 * math.log(DECADE),
    source="Glorot & Bengio 2010; Schoenholz et al. 2017: chi_1, on sums of squares",
    needs=[GRADIENTS],
)
def gradient(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the gradient keeps its size on the way back to the input"""
    rows = profile.linear_gradients.iloc[::-1]
    yield from _drift(profile, rows, rows["second_moment"] * rows["count"], threshold, "gradient")


@register_rule(
    threshold=10.0,
    source="Zhang et al. 2019 (Fixup); Radford et al. 2019: branches scaled by 1 / sqrt(2 blocks)",
    needs=[OPERATIONS],
)
def residual_growth(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the residual stream does not grow with every block"""
    chain = _longest_chain(profile)
    if len(chain) < 3:
        return
    first, last = chain[0], chain[-1]
    growth = last["second_moment"] / first["second_moment"] if first["second_moment"] else 1.0
    if growth > threshold:
        yield Finding(
            "warning",
            f"{len(chain)} sums from {first['place']} to {last['place']}",
            f"the second moment grows {growth:.3g} times over {len(chain)} residual sums",
            f"scale the last layer of each branch by 1 / sqrt({len(chain)}) = "
            f"{1 / math.sqrt(len(chain)):.3f}, or start it at zero",
        )


def _drift(
    profile: Profile, rows: pd.DataFrame, size: pd.Series[float], threshold: float, what: str
) -> Iterator[Finding]:
    """A trend of `size`, a square, along the rows.

    Its log changes by more than the threshold, and the 95% interval of the mean step excludes 0.
    """
    if (lost := size == 0).any():
        place = rows["place"][lost].iloc[0]
        yield Finding(
            "error",
            place,
            f"the {what} is exactly 0 from {place} on",
            "initialize the layer before it",
        )
        return
    logs = np.log(size[np.isfinite(size)].to_numpy())
    steps = np.diff(logs)
    if len(steps) < 3:
        return
    mean, error = steps.mean(), steps.std(ddof=1) / math.sqrt(len(steps))
    half = float(stdtrit(len(steps) - 1, 0.975)) * error
    total = logs[-1] - logs[0]
    if abs(total) <= threshold or abs(mean) <= half:
        return
    low, high = (math.exp((mean + sign * half) / 2) for sign in (-1, 1))
    word = "explodes" if total > 0 else "vanishes"
    measure, direction = "rms", "through the layers"
    if what == "gradient":
        measure, direction = "norm", "from the output back to the input"
    yield Finding(
        "error" if abs(total) > 3 * threshold else "warning",
        f"{rows['place'].iloc[0]} to {rows['place'].iloc[-1]}",
        f"the {what} {word} {direction}: each layer multiplies the {measure} by "
        f"{math.exp(mean / 2):.3g} ({low:.3g} to {high:.3g}), {len(steps)} layers by "
        f"{math.exp(total / 2):.3g}",
        _rescale(profile, math.exp(mean / 2)),
    )


def _rescale(profile: Profile, factor: float) -> str:
    if not profile.probed:
        return (
            f"make the weights {1 / factor:.4g} times as large: kaiming_normal(gain=...) with "
            "initstats.gain(activation).forward, or the init `matched`"
        )
    return (
        'initstats.reinitialize_(model, "matched", x), which gives each layer the gain of the '
        "activation that it reads; or initstats.lsuv_(model, x); or a normalization between layers"
    )


def _longest_chain(profile: Profile) -> list[pd.Series[Any]]:
    """The residual stream: the longest run of sums of two values, each adding to the one before.

    A normalization in the stream begins a new one.
    """
    chains: dict[int, list[pd.Series[Any]]] = {}
    for _, row in profile.signal[profile.signal["op"].isin(["add", "add_"])].iterrows():
        sources = profile.inputs(row["layer"])
        before = max((chains.get(source, []) for source in sources), key=len, default=[])
        if len(sources) > 1:
            chains[row["layer"]] = [*before, row]
    return max(chains.values(), key=len, default=[])
