"""Remedies as lines of code that run as they stand, given `model`, `x`, `nn` and `math`.

What is said beside the code is a comment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.loops import over


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
        gain, fan_in, size = profile.gain(layer), float(row["fan_in"][0]), float(row["sigma_w2"][0])
        own = _parameter(profile, layer)
        name = own or _root(profile, layer)
        if name in done:  # weights that several operations use
            continue
        done.add(name)
        if own:
            std.setdefault((f"{gain:.4f}", round(fan_in)), []).append(name)
        elif name and size > 0:
            scale.setdefault(f"{gain / math.sqrt(size):.4g}", []).append(name)
    drawn = [
        over(names, f"nn.init.normal_(model.get_parameter({{}}), std={gain} / math.sqrt({fan_in}))")
        for (gain, fan_in), names in std.items()
    ]
    return "\n".join(drawn + [scaled(names, factor) for factor, names in scale.items()])


def unbiased(profile: Profile, layers: Iterable[int], size: float | None = None) -> str:
    """Zero the biases of linear maps that outweigh what their units sum; empty for none.

    Args:
        size: the rms of those sums; the present one by default.
    """
    names = []
    for layer in layers:
        own, spread = profile.own(layer), profile.along([layer])["unit_std_mean"][0]
        limit = 2 * (spread if size is None else size)
        heavy = (own["second_moment"] > limit**2) & ~(own["fan_in"] > 0)
        names += [str(name) for name in own["name"][heavy]]
    line = over(names, "nn.init.zeros_(model.get_parameter({}))") if names else ""
    return line and line + "  # these biases outweigh all that their units sum"


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
