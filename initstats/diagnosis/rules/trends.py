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
from initstats.diagnosis.rules.remedies import drawn_anew, scaled, weight_names
from initstats.diagnosis.rules.rule import (
    DEEP,
    GRADIENTS,
    OPERATIONS,
    Finding,
    listed,
    register_rule,
)
from initstats.diagnosis.summary import DECADE
from initstats.probe.kinds import words


@register_rule(
    threshold=2 * math.log(DECADE),
    source="Schoenholz et al. 2017: q grows or shrinks by a factor per layer; He et al. 2015",
    needs=[DEEP],
    symptom=True,
)
def signal(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the length of the signal neither grows nor shrinks from layer to layer"""
    path = profile.graph.path
    size = profile.along(path)["second_moment"]
    lost = [layer for layer, q in zip(path, size, strict=True) if q == 0]
    # zero weights that never move are told as such
    stays = [
        layer for layer in lost if layer not in profile.zeros.alive and not profile.zeros.stuck
    ]
    yield from _drift(profile, path, size, stays, threshold, "signal")


@register_rule(
    threshold=2 * math.log(DECADE),
    source="Glorot & Bengio 2010; Schoenholz et al. 2017: chi_1, on sums of squares",
    needs=[GRADIENTS],
    symptom=True,
)
def gradient(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the gradient keeps its size on the way back to the input"""
    rows = profile.value_gradients
    squares = dict(zip(rows["layer"], rows["second_moment"] * rows["count"], strict=True))
    path = [layer for layer in reversed(profile.graph.path) if layer in squares]
    size = np.array([squares[layer] for layer in path])
    lost = [layer for layer in path if squares[layer] == 0]
    stays = [
        layer for layer in lost if layer not in profile.zeros.reached and not profile.zeros.stuck
    ]
    yield from _drift(profile, path, size, stays, threshold, "gradient")


_SCALING = words("div mul multiply divide true_divide")


@register_rule(
    threshold=DECADE,
    source="He et al. 2015: what multiplies the rms once multiplies that of all that follow",
    needs=[OPERATIONS],
    symptom=True,
)
def scale_jump(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no single operation multiplies the signal by a factor that lasts"""
    graph, rows = profile.graph, profile.values
    rms = np.sqrt(rows["second_moment"])
    far = np.flatnonzero((rms > threshold) | ((rms * threshold < 1) & (rms > 0)))
    for number in far:
        layer, op = int(rows["layer"][number]), str(rows["op"][number]).rstrip("_")
        read = [rms[profile.at[i]] for i in graph.inputs[layer]]
        if not read or layer not in graph.downstream:
            continue
        factor = rms[number] / max(read) if max(read) > 0 else math.nan
        linear = layer in graph.linear
        if linear:  # what multiplies by more than any gain calls for is told by its weights
            small = (
                factor * 3 * threshold < 1 and math.sqrt(rows["sigma_w2"][number]) < 1 / threshold
            )
            told = small and bool(graph.readers[layer])
        elif op in _SCALING and len(read) == 1:
            told = factor > threshold or (factor * threshold < 1 and bool(graph.readers[layer]))
        else:
            told = op in SUMS and factor > threshold
        if told and not _undone(profile, layer, max(read), rms, threshold):
            yield Finding(
                "warning",
                profile.place(layer),
                f"it multiplies the rms by {factor:.3g}, from {max(read):.3g} to "
                f"{rms[number]:.3g}, and what reads it does not undo that",
                (linear and drawn_anew(profile, [layer]))
                or "leave the factor out, or put a normalization behind it",
            )


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
        if len(chain) < 3 or not np.isfinite(q).all() or not (q > 0).all():
            continue
        # a normalized branch adds what it adds: beside a small embedding, the first is large
        additive = sum(block.normalized for block in chain) > len(chain) / 2
        growth = float(np.prod(factors[additive:]))
        leap = float(factors[1:].max())
        if growth > threshold:
            warned = not additive or leap > threshold**2
            yield from _growth(profile, chain, factors, growth, severity=warned)


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
        f"the second moment grows {growth:.3g} times over {len(chain)} residual sums from "
        f"{profile.place(chain[0].layer)} to {profile.place(chain[-1].layer)}, most of all at "
        + ", ".join(
            f"{name} ({factors[n]:.3g} times)" for name, n in zip(names[:4], strong, strict=False)
        ),
        (scaled(weights, f"{share:.3g}") if weights else f"scale each branch by {share:.3g}")
        + "  # or start each branch at zero",
    )


def _branch(profile: Profile, block: Block) -> int:
    """The last linear map of a block's branch; the branch's last value where there is none."""
    return max(profile.graph.maps_before(block.branch), default=block.branch)


def _undone(
    profile: Profile, layer: int, before: float, rms: NDArray[Any], threshold: float
) -> bool:
    """Whether all that read a value are back at the size that was before, or at a usual one."""
    graph = profile.graph
    readers, now = graph.readers[layer], rms[profile.at[layer]]

    def size(reader: int) -> float:
        """The rms of a reader, without the bias of a linear map."""
        gain = math.sqrt(profile.values["sigma_w2"][profile.at[reader]])
        linear = reader in graph.linear and math.isfinite(gain)
        return float(now * gain if linear else rms[profile.at[reader]])

    return bool(readers) and all(
        _back(now, size(reader), before, threshold)
        or (
            reader not in graph.linear
            and graph.ops[reader] not in SUMS
            and _undone(profile, reader, before, rms, threshold)
        )
        for reader in readers
    )


def _back(jumped: float, now: float, before: float, threshold: float) -> bool:
    if jumped > before:
        return now <= threshold * max(before, 1.0)
    return now * threshold >= min(before, 1.0)


def _drift(
    profile: Profile,
    path: list[int],
    size: NDArray[Any],
    stays: list[int],
    threshold: float,
    what: str,
) -> Iterator[Finding]:
    """A trend of `size`, a square, along a path.

    Its log changes by more than the threshold, and the 95% interval of the mean step excludes 0.
    """
    if stays:
        place = profile.place(stays[0])
        yield Finding(
            "error",
            place,
            f"the {what} is exactly 0 from {place} on, and no gradient will change that",
            "initialize the layer before it",
        )
        return
    kept = np.isfinite(size) & (size > 0)
    places = [layer for layer, keep in zip(path, kept, strict=True) if keep]
    logs = np.log(size[kept])
    steps = np.diff(logs)
    if len(steps) < 3:
        return
    mean, error = float(steps.mean()), float(steps.std(ddof=1)) / math.sqrt(len(steps))
    half = float(stdtrit(len(steps) - 1, 0.975)) * error
    total = float(logs[-1] - logs[0])
    if abs(total) <= threshold or abs(mean) <= half:
        return
    low, high = (math.exp((mean + sign * half) / 2) for sign in (-1, 1))
    word = "explodes" if total > 0 else "vanishes"
    measure, direction = "rms", "through the layers"
    if what == "gradient":
        measure, direction = "norm", "from the output back to the input"
    yield Finding(
        "error" if abs(total) > 3 * threshold else "warning",
        f"{profile.place(places[0])} to {profile.place(places[-1])}",
        f"the {what} {word} {direction}: each layer multiplies the {measure} by "
        f"{math.exp(mean / 2):.3g} ({low:.3g} to {high:.3g}), {len(steps)} layers by "
        f"{math.exp(total / 2):.3g}",
        _rescale(profile, mean / 2, len(steps), what),
    )


def _rescale(profile: Profile, log: float, steps: int, what: str) -> str:
    """A remedy for a trend of `log` a layer, by what the weights are and what reads them."""
    factor = math.exp(log)
    if not profile.probed:
        return (
            f"make the weights {1 / factor:.4g} times as large: kaiming_normal(gain=...) with "
            "initstats.gain(activation).forward, or the init `matched`"
        )
    path = profile.graph.path
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
                'initstats.reinitialize_(model, "matched", x)  # weights are now '
                f"{math.exp(excess):.3g} times those of the gain of what each layer reads"
            )
        return "initstats.lsuv_(model, x)  # or a normalization between layers"
    sigma = math.exp(float(np.median(np.log(np.maximum(rows["sigma_w2"], 1e-300)) / 2)))
    if len(odd) and odd.mean() > 0.5 and abs(math.log(sigma)) > math.log(1.05):
        return (
            f'initstats.reinitialize_(model, "lecun_normal", x)  # gain 1: weights {1 / sigma:.3g} '
            "times as large; the gain that keeps the signal of a bounded activation is too large "
            "for its gradient"
        )
    if abs(excess) > math.log(1.05) and abs(log - excess) * steps < math.log(DECADE):
        return (
            f'initstats.reinitialize_(model, "matched", x)  # weights {math.exp(-excess):.3g} '
            "times as large: the gain of what each layer reads"
        )
    return (
        f"a normalization between layers, or weights {1 / factor:.4g} times as large: the gain "
        "that keeps this activation's signal does not keep its gradient"
    )
