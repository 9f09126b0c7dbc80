"""Remedies as lines of code that run as they stand, given `model`, `x`, `nn` and `math`.

What is said beside the code is a comment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from initstats.diagnosis.graph import RECTIFIERS
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.loops import over
from initstats.diagnosis.rules.rule import RULES
from initstats.probe.kinds import PASSING


def drawn_anew(profile: Profile, layers: Iterable[int]) -> str:
    """Draw the weights of linear maps so that each keeps the second moment of what it reads.

    Weights that are used as they are get a normal distribution; those that are computed of
    parameters, or that another layer uses, are scaled.
    """
    std: dict[tuple[str, int], list[str]] = {}
    scale: dict[str, list[str]] = {}
    done: set[str] = set()
    for layer in layers:
        row = profile.along([layer])
        gain, fan_in, size = (
            drawn_gain(profile, layer),
            float(row["fan_in"][0]),
            float(row["sigma_w2"][0]),
        )
        own = _parameter(profile, layer)
        name = own or _root(profile, layer)
        if name in done:  # weights that several operations use
            continue
        done.add(name)
        if own:
            std.setdefault((f"{gain:.5g}", round(fan_in)), []).append(name)
        elif name and size > 0:
            scale.setdefault(f"{gain / math.sqrt(size):.4g}", []).append(name)
    drawn = [
        over(names, f"nn.init.normal_(model.get_parameter({{}}), std={gain} / math.sqrt({fan_in}))")
        for (gain, fan_in), names in std.items()
    ]
    return "\n".join(drawn + [scaled(names, factor) for factor, names in scale.items()])


def drawn_gain(profile: Profile, layer: int) -> float:
    """The gain to draw a linear map with: that of what it reads, without what is no activation.

    A constant that is multiplied by on purpose, as x * 0.001, would call for weights as far from a
    usual size, which nothing is trained with. Of its operations those are left out that change the
    gain by more than any activation does.
    """
    gain, source = profile.gain(layer), profile.graph.source(layer)
    if source is None or _usual(gain * profile.factor(layer)):
        return gain
    kept, gains, inputs = 1.0, profile.values["gain"], profile.graph.inputs
    while gains[profile.at[source]] != 1 and len(inputs[source]) == 1:
        before = inputs[source][0]
        ratio = float(gains[profile.at[source]] / gains[profile.at[before]])
        kept, source = kept * (ratio if _usual(ratio) else 1.0), before
    return (kept if _usual(kept) else 1.0) / profile.factor(layer)


def _usual(gain: float) -> bool:
    """Whether it is no larger, and no smaller, than that of any common activation."""
    most = RULES["weight_scale"].threshold
    return 1 / most <= gain <= most


def unbiased(
    profile: Profile, layers: Iterable[int], size: float | None = None, *, behind: bool = False
) -> str:
    """Zero the biases of linear maps that outweigh what their units sum; empty for none.

    Args:
        size: the rms of those sums; the present one by default.
        behind: whether to zero those behind them, too, that would outweigh what is left then.
    """
    layers = [*dict.fromkeys(layers)]
    names = [name for layer in layers for name in _heavy(profile, layer, 2.0, size)]
    if names and behind:
        first = min(layer for layer in layers if _heavy(profile, layer, 2.0, size))
        maps = sorted(layer for layer in profile.graph.linear if layer > first)
        small = [name for layer in maps for name in _heavy(profile, layer, 0.5, size, most=1.0)]
        names = [*dict.fromkeys(names + small)]
    line = over(names, "nn.init.zeros_(model.get_parameter({}))") if names else ""
    return line and line + "  # these biases outweigh all that their units sum"


def _heavy(
    profile: Profile, layer: int, times: float, size: float | None, most: float = math.inf
) -> list[str]:
    """The biases of a linear map whose rms is more than some times that of what its units sum.

    Args:
        most: no larger ones, in units of 1 / sqrt(fan_in): a larger one is there on purpose.
    """
    own, row = profile.own(layer), profile.along([layer])
    least = times * (row["unit_std_mean"][0] if size is None else size)
    heavy = (own["second_moment"] > least**2) & ~(own["fan_in"] > 0)
    if math.isfinite(most):
        heavy &= own["second_moment"] * row["fan_in"][0] < most**2
    return [str(name) for name in own["name"][heavy]]


def centred(profile: Profile, layers: Iterable[int]) -> str:
    """What to do where most of some linear maps read an activation far to one side of zero.

    What all samples have in common grows there from layer to layer, and the gradient vanishes,
    whatever the size of the weights; empty elsewhere.
    """
    sources = [n for layer in layers if (n := _activation(profile, layer)) is not None]
    if not sources:
        return ""
    read = profile.along(sources)
    with np.errstate(all="ignore"):
        aside = np.abs(read["mean"]) > read["std"]
    aside &= (read["gain"] != 1) | (not profile.probed)
    if 2 * aside.sum() <= len(aside):
        return ""
    op = str(read["op"][aside][0])
    return (
        f"replace {op} by an activation whose mean is near 0, such as tanh, or put a BatchNorm "
        f"before each {op}; no size of the weights mends this"
    )


def rectified(profile: Profile, layers: Iterable[int]) -> bool:
    """Whether some linear maps read nothing but what rectifiers made."""
    sources = [n for layer in layers if (n := _activation(profile, layer)) is not None]
    ops = {str(profile.graph.ops[source]).rstrip("_") for source in sources}
    return bool(ops) and ops <= RECTIFIERS


def _activation(profile: Profile, layer: int) -> int | None:
    """The function of a linear map that another reads, looked for before pooling and dropout."""
    source = profile.graph.source(layer)
    while source is not None and profile.graph.ops[source].rstrip("_") in PASSING:
        source = next(iter(profile.graph.inputs[source]), None)
    return None if source is None or not profile.graph.inputs[source] else source


def scaled(names: Sequence[str], factor: str) -> str:
    """Multiply parameters by a factor."""
    return over(names, f"model.get_parameter({{}}).data.mul_({factor})")


def weight_names(profile: Profile, layers: Iterable[int]) -> list[str]:
    """The parameters by which linear maps are scaled, where they are known."""
    names = [_parameter(profile, layer) or _root(profile, layer) for layer in layers]
    return [name for name in names if name]


def _parameter(profile: Profile, layer: int) -> str:
    """The parameter that a linear map uses as it is, first of all operations; empty for none."""
    own, size = profile.own(layer), float(profile.along([layer])["sigma_w2"][0])
    for name, fan_in, moment in zip(own["name"], own["fan_in"], own["second_moment"], strict=True):
        if np.isclose(fan_in * moment, size, rtol=1e-4, atol=0):
            return str(name)
    return ""


def _root(profile: Profile, layer: int) -> str:
    """The parameter whose scale is that of a linear map's weights; empty where it is not known."""
    row = profile.along([layer])
    found = profile.made_of(layer)
    if len(found):
        # of a direction and a length, the length has fewer entries
        return str(found["name"][int(np.argmin(found["count"]))])
    everything = profile.parameters
    same = np.isclose(
        everything["second_moment"] * row["fan_in"][0], row["sigma_w2"][0], rtol=1e-6, atol=0
    )
    return str(everything["name"][same][0]) if same.any() else ""
