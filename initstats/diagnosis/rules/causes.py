"""Causes of a signal's size: the operations, and the weights, that multiply it by too much.

Several rules see what follows of them; the one that names the cause tells of it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.diagnosis.columns import Columns
from initstats.diagnosis.graph import SCALING, SUMS
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.rule import RULES
from initstats.probe.kinds import ATTENTION, MIXING


class Jump(NamedTuple):
    """A value whose rms is `factor` times as large as that of what was read."""

    layer: int
    factor: float
    before: float
    after: float


def jumps(profile: Profile) -> list[Jump]:
    """The values at which the rms is multiplied by a factor that lasts, in order.

    A head may start small: a map of which nothing but outputs are made is not among them, unless
    others are.
    Scores may be small, too: `small_scores` are not among them.
    """
    found = [jump for jump in _leaps(profile) if not _is_small_score(profile, jump)]
    graph = profile.graph
    heads = graph.linear & graph.heads
    inner = any(jump.layer in graph.linear - heads for jump in found)
    return [jump for jump in found if inner or jump.layer not in heads]


def small_scores(profile: Profile) -> list[Jump]:
    """The values that are made small by a factor, and of which nothing but shares is made.

    A softmax of small scores gives equal shares, whose sums are as large as what they are of.
    """
    return [jump for jump in _leaps(profile) if _is_small_score(profile, jump)]


def _is_small_score(profile: Profile, jump: Jump) -> bool:
    return jump.factor < 1 and _only_shared(profile, jump.layer)


def _only_shared(profile: Profile, layer: int) -> bool:
    """Whether what becomes of a value, before any linear map, are shares, or logits of them.

    What nothing reads is an output, or gives no more than its shape.
    """
    graph, rows = profile.graph, profile.values
    waiting, seen, shared = [layer], {layer}, False
    while waiting:
        here = waiting.pop()
        number = profile.at[here]
        if rows["shares_axis"][number] >= 0 or rows["read_as_logits"][number] == 1:
            shared = True
            continue
        for reader in graph.readers[here]:
            # a fused attention reads queries, keys and values; its scores stay inside
            if graph.ops[reader] in ATTENTION:
                shared = len(graph.inputs[reader]) > 2
                if here in graph.inputs[reader][2:] or not shared:
                    return False
            elif reader in graph.linear:
                return False
            elif reader not in seen:
                seen.add(reader)
                waiting.append(reader)
    return shared


def _leaps(profile: Profile) -> list[Jump]:
    """The values at which the rms is multiplied by a factor that what reads them does not undo."""
    threshold = RULES["scale_jump"].threshold
    graph, rows, unseen = profile.graph, profile.values, profile.sight.unseen
    rms, found = np.sqrt(rows["second_moment"]), []
    far = np.flatnonzero((rms > threshold) | ((rms * threshold < 1) & (rms > 0)))
    for number in far if profile.probed else ():
        layer, op = int(rows["layer"][number]), str(rows["op"][number]).rstrip("_")
        read = [rms[profile.at[i]] for i in graph.inputs[layer]]
        if not read or layer not in graph.downstream or layer in unseen:
            continue
        factor = rms[number] / max(read) if max(read) > 0 else math.nan
        if layer in graph.linear:  # what multiplies by more than any gain is told by its weights
            small = bool(math.sqrt(rows["sigma_w2"][number]) < 1 / threshold)
            # what maps make of weights, as of relative positions, is a signal, and may be small
            small &= not np.isin(profile.made_of(layer)["op"], [*MIXING]).any()
            told = factor * 3 * threshold < 1 and small
        elif op in SCALING and len(read) == 1:
            told = factor > threshold or factor * threshold < 1
        else:
            told = op in SUMS and factor > threshold
        if factor < 1 and layer in profile.begun:
            continue
        if told and not _undone(profile, layer, max(read), rms, threshold):
            found.append(Jump(layer, float(factor), float(max(read)), float(rms[number])))
    return found


def oversized(profile: Profile) -> Columns:
    """The outputs of linear maps whose weights multiply the rms by more than any gain calls for.

    Large weights may make good for a small input, as in a head that reads what was scaled down, or
    what differs little from its mean.
    """
    maps, limit = profile.seen_maps, RULES["weight_scale"].threshold
    return maps.where((maps["sigma_w2"] > limit**2) & (maps["std"] > limit))


def leap(profile: Profile, path: list[int]) -> float:
    """The log of what the jumps between the first and the last of some layers make of a square."""
    layers = range(min(path) + 1, max(path) + 1) if path else range(0)
    return sum(2 * math.log(jump.factor) for jump in jumps(profile) if jump.layer in layers)


def _undone(
    profile: Profile,
    layer: int,
    before: float,
    rms: NDArray[Any],
    threshold: float,
    behind: frozenset[int] = frozenset(),
) -> bool:
    """Whether all that read a value are back at the size that was before, or at a usual one.

    Args:
        behind: the values between the jump and this one.
    """
    graph = profile.graph
    readers, now = graph.readers[layer], rms[profile.at[layer]]
    behind = behind.union([layer, *readers])

    def size(reader: int) -> float:
        """The rms of a reader, without the bias of a linear map."""
        gain = math.sqrt(profile.values["sigma_w2"][profile.at[reader]])
        linear = reader in graph.linear and math.isfinite(gain)
        return float(now * gain if linear else rms[profile.at[reader]])

    return bool(readers) and all(
        _back(now, size(reader), before, threshold)
        or (
            reader not in graph.linear
            and (graph.ops[reader] not in SUMS or behind.issuperset(graph.inputs[reader]))
            and _undone(profile, reader, before, rms, threshold, behind)
        )
        for reader in readers
    )


def _back(jumped: float, now: float, before: float, threshold: float) -> bool:
    if jumped > before:
        return now <= threshold * max(before, 1.0)
    return now * threshold >= min(before, 1.0)
