"""Rules about the size of the signal, the gradient and the residual stream through the layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from initstats.diagnosis.graph import SUMS, Block
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.causes import Jump, jumps, leap, oversized, small_scores
from initstats.diagnosis.rules.remedies import centred, drawn_anew, scaled, weight_names
from initstats.diagnosis.rules.rule import (
    ARRIVED,
    BACKWARD,
    DEEP,
    OPERATIONS,
    SHOWN,
    Finding,
    Severity,
    listed,
    register_rule,
)
from initstats.diagnosis.sight import WHOLE
from initstats.diagnosis.verdicts import DECADE
from initstats.plural import counted


@register_rule(
    threshold=2 * math.log(DECADE),
    source="Schoenholz et al. 2017: q grows or shrinks by a factor per layer; He et al. 2015",
    needs=[DEEP],
    symptom=True,
)
def signal(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the length of the signal neither grows nor shrinks from layer to layer"""
    unseen = profile.sight.spread
    path = [layer for layer in profile.graph.path if not unseen or layer < unseen[0]]
    if path and _prior(profile, path[-1]):
        path = path[:-1]
    size = profile.along(path)["second_moment"]
    lost = [layer for layer, q in zip(path, size, strict=True) if q == 0]
    stays = [layer for layer in lost if layer not in profile.zeros.alive]
    if _told(profile):
        path, stays = [layer for layer in path if layer not in profile.sight.unseen], []
        size = profile.along(path)["second_moment"]
    yield from _drift(profile, path, size, stays, threshold, "signal")


def _prior(profile: Profile, layer: int) -> bool:
    """Whether the bias of the last map outweighs what its units sum, as the log of odds does."""
    own, spread = profile.own(layer), profile.along([layer])["unit_std_mean"][0]
    bias = own["second_moment"][~(own["fan_in"] > 0)]
    return spread > 0 and bool((bias > (2 * spread) ** 2).any())


@register_rule(
    threshold=2 * math.log(DECADE),
    source="Glorot & Bengio 2010; Schoenholz et al. 2017: chi_1, on sums of squares",
    needs=[DEEP, BACKWARD, ARRIVED],
    judges=["gradients"],
    symptom=True,
)
def gradient(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the gradient keeps its size on the way back to the input"""
    rows = profile.value_gradients
    if profile.sight.spread:
        return
    rows = rows.where(rows["nonfinite"] == 0)
    squares = dict(zip(rows["layer"], rows["second_moment"] * rows["count"], strict=True))
    path = [layer for layer in reversed(profile.graph.path) if layer in squares]
    size = np.array([squares[layer] for layer in path])
    lost = [layer for layer in path if squares[layer] == 0]
    stays = [layer for layer in lost if layer not in profile.zeros.reached]
    stays = [] if _told(profile) or profile.sight.cut else stays
    # through time a gradient may fade: what is far back counts little, by the nature of a state
    again = [n for n in path if not len(profile.own(n)) and not len(profile.made_of(n))]
    yield from _drift(
        profile, path, size, stays, threshold, "gradient", in_time=2 * len(again) > len(path)
    )


def _told(profile: Profile) -> bool:
    """Whether another rule tells why there are zeros: zero weights that stay, or dead units."""
    dead = max(profile.sight.dead.values(), default=0) >= WHOLE
    return dead or bool(profile.zeros.stuck)


@register_rule(
    threshold=DECADE,
    source="He et al. 2015: what multiplies the rms once multiplies that of all that follow",
    needs=[OPERATIONS],
    symptom=True,
)
def scale_jump(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no single operation multiplies the signal by a factor that lasts"""
    found, graph = jumps(profile), profile.graph
    maps = [jump for jump in found if jump.layer in graph.linear]
    # an output may be small on purpose
    last = [j for j in found if j not in maps and j.factor < 1 and j.layer in graph.heads]
    total = abs(sum(math.log(jump.factor) for jump in found if jump not in last))
    grave: Severity = "error" if total > 3 * math.log(threshold) else "warning"
    for same in (maps, [jump for jump in found if jump not in maps + last]):
        layers = [jump.layer for jump in same]
        remedy = drawn_anew(profile, layers) if same is maps else ""
        if same:
            yield Finding(
                grave,
                listed(profile.along(layers).places),
                _multiplied(profile, same) + "; what reads it does not undo that",
                remedy or _without(profile, same),
            )
    small = (last, "it is an output", _SMALL_OUTPUT)
    for same, why, remedy in (small, (small_scores(profile), "only shares are made of it", _EQUAL)):
        if same:
            places = profile.along([jump.layer for jump in same]).places
            yield Finding("note", listed(places), f"{_multiplied(profile, same)}; {why}", remedy)


_EQUAL = (
    "nothing, if nearly equal shares are wanted at the start; else divide scores by the root of "
    "the size of a head, and leave other factors out"
)
_SMALL_OUTPUT = (
    "nothing, if so small an output is wanted; a softmax of such logits gives equal shares, and "
    "their gradients are as small: leave the factor out"
)


def _multiplied(profile: Profile, found: list[Jump]) -> str:
    """By how much each of some operations multiplies the rms."""
    places, told = profile.along([jump.layer for jump in found]).places, []
    for place in dict.fromkeys(places):
        here = [jump for jump, other in zip(found, places, strict=True) if other == place]
        first, again = here[0], f", {len(here)} times" if len(here) > 1 else ""
        told.append(
            f"{place} multiplies the rms by {first.factor:.3g}, from {first.before:.3g} to "
            f"{first.after:.3g}{again}"
        )
    rest = counted(len(told) - SHOWN, "more does so", "more do so")
    told[SHOWN:] = [rest] if len(told) > SHOWN else []
    return "; ".join(told)


def _without(profile: Profile, found: list[Jump]) -> str:
    """What to do about factors, and about terms far larger than what they are added to."""
    added = [jump for jump in found if profile.graph.ops[jump.layer] in SUMS]
    lines = []
    for jump in added:
        own = profile.own(jump.layer)
        for name, moment in zip(own["name"], own["second_moment"], strict=True):
            if moment > (jump.after / 2) ** 2:
                # as large as what it is added to
                lines.append(scaled([str(name)], f"{jump.before / math.sqrt(moment):.3g}"))
    if lines:
        return "\n".join(lines)
    if added:
        return "give both terms of the sum about the same size, or normalize both before it"
    return "leave the factor out, or put a normalization after it"


@register_rule(
    threshold=10.0,
    source="Zhang et al. 2019 (Fixup); Radford et al. 2019: branches scaled by 1 / sqrt(2 blocks)",
    needs=[OPERATIONS],
    symptom=True,
)
def residual_growth(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the residual stream does not grow with every block"""
    for chain in profile.graph.streams:
        q = profile.along([chain[0].stream, *(block.layer for block in chain)])["second_moment"]
        with np.errstate(all="ignore"):
            factors = q[1:] / q[:-1]
        broken = any(block.layer in profile.sight.unseen for block in chain)
        if len(chain) < 3 or broken or not np.isfinite(q).all() or not (q > 0).all():
            continue
        # a normalized branch adds what it adds: beside a small embedding, the first is large
        additive = sum(block.normalized for block in chain) > len(chain) / 2
        growth = float(np.prod(factors[additive:]))
        leap = float(factors[1:].max())
        if growth > threshold and (cause := _caused(profile, chain, factors, threshold)):
            place = profile.place(chain[0].layer)
            yield Finding("unchecked", place, f"{cause} names what makes the stream grow", "")
        elif growth > threshold:
            warned = not additive or leap > threshold**2
            yield from _growth(profile, chain, factors, growth, severity=warned)


def _caused(
    profile: Profile, chain: Sequence[Block], factors: NDArray[Any], threshold: float
) -> str:
    """The rule that names the branches without which a stream would not grow; empty for none."""
    causes = dict.fromkeys((jump.layer for jump in jumps(profile)), "scale_jump")
    causes |= dict.fromkeys(map(int, oversized(profile)["layer"]), "weight_scale")
    graph, told, rest = profile.graph, "", 1.0
    for block, factor in zip(chain, factors, strict=True):
        within = {block.branch, *graph.maps_before(block.branch)}
        found = [causes[layer] for layer in within if layer in causes]
        told = told or next(iter(found), "")
        rest *= 1.0 if found else float(factor)
    return told if rest <= threshold else ""


def _growth(
    profile: Profile,
    chain: Sequence[Block],
    factors: NDArray[Any],
    growth: float,
    *,
    severity: bool,
) -> Iterator[Finding]:
    """A finding that names the blocks that grow at least half as much as the strongest."""
    logs = np.log(factors)
    strong = [int(number) for number in np.flatnonzero(logs >= logs.max() / 2)]
    branches = [_branch(profile, chain[number]) for number in strong]
    names = [str(profile.along([layer])["name"][0]) for layer in branches]
    # each branch adds its share of the stream's second moment: together once the stream's own
    share = 1 / math.sqrt(max(float(np.sum(factors - 1)), 1.0))
    weights = weight_names(profile, (_branch(profile, block) for block in chain))
    yield Finding(
        "warning" if severity else "note",
        listed(names),
        f"the second moment becomes {growth:.3g} times as large over {len(chain)} residual sums, "
        f"from {profile.place(chain[0].layer)} to {profile.place(chain[-1].layer)}; most of it at "
        + ", ".join(
            f"{name} ({factors[n]:.3g} times)" for name, n in zip(names[:4], strong, strict=False)
        ),
        scaled(weights, f"{share:.3g}") + "  # or start each branch at zero"
        if weights
        else f"scale each branch by {share:.3g}, or start each branch at zero",
    )


def _branch(profile: Profile, block: Block) -> int:
    """The last linear map of a block's branch; the branch's last value where there is none."""
    return max(profile.graph.maps_before(block.branch), default=block.branch)


def _drift(
    profile: Profile,
    path: list[int],
    size: NDArray[Any],
    stays: list[int],
    threshold: float,
    what: str,
    *,
    in_time: bool = False,
) -> Iterator[Finding]:
    """A trend of `size`, a square, along a path.

    Its log changes by more than the threshold, and the 95% interval of the mean step excludes 0.

    Args:
        in_time: whether the same weights are used again and again along the path.
    """
    if stays:
        place = profile.place(stays[0])
        yield Finding(
            "error",
            place,
            f"the {what} is exactly 0 from {place} on, and no gradient will change that",
            "draw the weights of the layer before it anew",
        )
        return
    kept = np.isfinite(size) & (size > 0)
    logs = {n: math.log(q) for n, q, keep in zip(path, size, kept, strict=True) if keep}
    runs = _runs(profile, [*logs])
    places = max(runs, key=lambda run: abs(logs[run[-1]] - logs[run[0]]), default=[])
    steps = np.diff([logs[layer] for layer in places])
    if len(steps) < 3:
        return
    mean, error = float(steps.mean()), float(steps.std(ddof=1)) / math.sqrt(len(steps))
    half = float(stdtrit(len(steps) - 1, 0.975)) * error
    total = logs[places[-1]] - logs[places[0]]
    if abs(total) <= threshold or abs(mean) <= half:
        return
    low, high = (math.exp((mean + sign * half) / 2) for sign in (-1, 1))
    made = leap(profile, places)
    if abs(total - made) <= threshold and made * total > 0:
        where = profile.place(places[0])
        yield Finding("unchecked", where, f"scale_jump names what multiplies the {what}", "")
        return
    word = "explodes" if total > 0 else "vanishes"
    measure, direction = "rms", "through the layers"
    if what == "gradient":
        measure, direction = "norm", "from the output back to the input"
    severity: Severity = "error" if abs(total) > 3 * threshold else "warning"
    remedy = _rescale(profile, mean / 2, len(steps), what)
    if in_time and total < 0:
        severity, remedy = "note", _FADING
    yield Finding(
        severity,
        f"{profile.place(places[0])} to {profile.place(places[-1])}",
        f"the {what} {word} {direction}: each layer multiplies the {measure} by "
        f"{math.exp(mean / 2):.3g} ({low:.3g} to {high:.3g}), {len(steps)} layers multiply "
        f"it by {math.exp(total / 2):.3g}",
        remedy,
    )


def _runs(profile: Profile, path: list[int]) -> list[list[int]]:
    """The parts of a path, of four layers or more, between weights that began small on purpose.

    What they make grows as they learn, and beside a shortcut or behind a norm it begins anew.
    """
    runs: list[list[int]] = [[]]
    for before, layer in zip([*path[:1], *path], path, strict=False):
        low, high = min(before, layer), max(before, layer)
        if any(low <= young <= high for young in profile.begun):
            runs.append([])
        if layer not in profile.begun:
            runs[-1].append(layer)
    return [run for run in runs if len(run) > 3]


_FADING = (
    "nothing, if early steps need not count; else start the bias of the gate that keeps the state "
    "at 1, make its weights orthogonal, or compute a loss at every step"
)
"""What to do where the same weights are used again and again."""


_BOUNDED = 1.1
"""A gain under which an odd bounded function keeps signal and gradient through tens of layers."""


def _rescale(profile: Profile, log: float, steps: int, what: str) -> str:
    """A remedy for a trend of `log` a layer, by what the weights are and what reads them."""
    factor = math.exp(log)
    path = profile.graph.path
    if what == "gradient" and factor < 1 and (remedy := centred(profile, path)):
        return remedy
    if not profile.probed:
        return (
            f"make the weights {1 / factor:.4g} times as large: kaiming_normal(gain=...) with "
            "initstats.gain(activation).forward, or the init `matched`"
        )
    rows = profile.along(path)
    gains = np.array([profile.gain(layer) for layer in path])
    # how much larger the weights are than those that keep the signal: 0 where `matched` is in use
    excess = float(np.median(np.log(np.maximum(rows["sigma_w2"], 1e-300)) / 2 - np.log(gains)))
    read = [profile.graph.source(layer) for layer in path[1:]]
    values = profile.along([layer for layer in read if layer is not None])
    odd = np.abs(values["low"] + values["high"]) < 1e-3 * values["high"]
    if what == "signal":
        if abs(excess) > math.log(1.05):
            return (
                'initstats.reinitialize_(model, "matched", x)  # the weights are now '
                f"{math.exp(excess):.3g} times as large as those that keep the signal"
            )
        return "initstats.lsuv_(model, x)  # or a normalization between layers"
    sigma = math.exp(float(np.median(np.log(np.maximum(rows["sigma_w2"], 1e-300)) / 2)))
    if len(odd) and odd.mean() > 0.5 and abs(math.log(sigma)) > math.log(1.05):
        return (
            f'initstats.reinitialize_(model, "kaiming_normal(gain={_BOUNDED})", x)  # weights '
            f"{_BOUNDED / sigma:.3g} times as large: the gain that keeps the whole signal of a "
            "bounded activation lets its gradient grow, and a gain of 1 lets the signal fade"
        )
    if abs(excess) > math.log(1.05) and abs(log - excess) * steps < math.log(DECADE):
        return (
            f'initstats.reinitialize_(model, "matched", x)  # weights {math.exp(-excess):.3g} '
            "times as large, which keeps the signal"
        )
    return (
        f"put a normalization between layers, or make the weights {1 / factor:.4g} times as large: "
        "the gain that keeps this activation's signal does not keep its gradient"
    )
