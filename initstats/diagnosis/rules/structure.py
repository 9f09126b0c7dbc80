"""Rules about how a model is built: which operation follows which, and along which dimension."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initstats.diagnosis.graph import SCALING
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.attention import across
from initstats.diagnosis.rules.rule import (
    MAPS,
    OPERATIONS,
    PARAMETERS,
    TRAINED,
    Finding,
    listed,
    register_rule,
    register_training_rule,
)
from initstats.diagnosis.training import Training
from initstats.probe.kinds import DROPOUTS, MIXING, words

_TOTALS = words("mean sum")
_THROUGH = DROPOUTS | words("div div_ mul mul_")
_PRODUCTS = MIXING | words("mul mul_")
_LOGITS = words("log_softmax softmax")
"""Operations that expect numbers of both signs, and of any size."""


@register_rule(
    threshold=0,
    source="a softmax is over the units of a layer: the classes of one sample sum to 1",
    needs=[OPERATIONS],
)
def softmax_axis(profile: Profile, threshold: float) -> Iterator[Finding]:
    """a softmax is over the units, and one of scores over what a product then sums"""
    rows, graph = profile.values, profile.graph
    axis = rows["shares_axis"]
    # dimensions behind the units are positions of an image: a softmax over them is a place
    crossed = (axis >= threshold) & (axis < rows["unit_axis"]) & (rows["units"] > 1)
    layers = [int(layer) for layer in rows["layer"][crossed]]
    layers = [n for n in layers if n in graph.computed and not _weighs(profile, n)]
    if layers:
        found = profile.along(layers)
        over, units = int(found["shares_axis"][0]), int(found["unit_axis"][0])
        what = "samples" if over == 0 else "positions"
        yield Finding(
            "warning",
            listed(found.places),
            f"the softmax at {found.places[0]} is over dimension {over}, the {what}, and the units "
            f"are in dimension {units}: the shares of one sample do not sum to 1, and each depends "
            f"on the other {what}",
            f"dim={units}, or dim=-1 where the units are last",
        )
    yield from across(profile)


def _weighs(profile: Profile, layer: int) -> bool:
    """Whether a value is multiplied by another, as the weights of a mean are."""
    graph = profile.graph
    return any(
        (len(graph.inputs[reader]) > 1 and graph.ops[reader] in _PRODUCTS)
        or (graph.ops[reader] in _THROUGH and _weighs(profile, reader))
        for reader in graph.readers[layer]
    )


@register_rule(
    threshold=1,
    source="a product of matrices is a matrix: two linear maps in a row are one (Saxe et al. 2014)",
    needs=[PARAMETERS, MAPS],
)
def linear_chain(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no two full linear maps follow each other with nothing between them"""
    graph, rows = profile.graph, profile.values
    chains: dict[int, list[int]] = {}
    for first in sorted(graph.linear):
        second = _next(profile, first)
        if second in graph.linear and _is_one(profile, first, second):
            chains[second] = [*chains.pop(first, [first]), second]
    found = [chain for chain in chains.values() if len(chain) > threshold]
    if found:
        names = [" to ".join(profile.along(chain)["name"]) for chain in found]
        widths = [int(rows["units"][profile.at[layer]]) for layer in found[0]]
        yield Finding(
            "warning",
            listed(names),
            f"{len(found[0])} linear maps follow each other with no activation between them, and "
            f"none is narrow ({', '.join(map(str, widths))} units): together they compute no more "
            "than one of them",
            "put an activation between them, or leave one of them out",
        )


def _next(profile: Profile, layer: int) -> int:
    """The only value that is made of another, without what drops entries; -1 for none."""
    graph = profile.graph
    while len(graph.readers[layer]) == 1:
        (layer,) = graph.readers[layer]
        if graph.ops[layer].rstrip("_") not in DROPOUTS:
            return layer
    return -1


def _is_one(profile: Profile, first: int, second: int) -> bool:
    """Whether one full linear map could stand for two.

    Two are more economical where the value between them is narrower than what they read and make
    (a bottleneck, a low-rank update), or where one of them is grouped (depthwise and pointwise).
    """
    graph, rows = profile.graph, profile.along([first, second])
    if len(graph.inputs[second]) > 1 or not (len(profile.own(first)) and len(profile.own(second))):
        return False
    kernels = rows["fan_out"] / rows["units"]
    width, out = rows["units"]
    source = graph.source(first)
    read = rows["fan_in"] / kernels  # channels that a unit reads
    channels = float(profile.along([source])["units"][0]) if source is not None else read[0]
    grouped = read[0] < channels and np.isclose(channels % read[0], 0) and kernels[0] > 1
    # all channels are read, at one position or, after a flattening, at all
    whole = read[1] % width == 0
    return bool(whole and read[1] >= min(rows["fan_in"][0], out) and not grouped)


@register_rule(
    threshold=0.2,
    source="torch.nn.CrossEntropyLoss: the input is expected to contain the unnormalized logits",
    needs=[OPERATIONS],
)
def cut_output(profile: Profile, threshold: float) -> Iterator[Finding]:
    """nothing cuts the logits before a softmax or a loss reads them"""
    graph, rows = profile.graph, profile.values
    grave, mild = [], []
    for number, layer in enumerate(map(int, rows["layer"])):
        positive = rows["min"][number] >= 0 and graph.inputs[layer]
        shares = rows["shares_axis"][number] == rows["unit_axis"][number]
        cut = shares or _cuts(profile, layer, threshold)
        squashed = rows["low"][number] == 0 and rows["high"][number] == 1  # as by a sigmoid
        if not positive or not (cut or squashed):
            continue
        readers = [graph.ops[reader] for reader in graph.readers[layer]]
        if rows["read_as_logits"][number] == 1 or (shares and any(op in _LOGITS for op in readers)):
            grave.append(layer)
        elif cut and not readers:
            mild.append(layer)
    if grave:
        yield Finding(
            "warning",
            listed(profile.along(grave).places),
            "a loss or a softmax takes for logits what is never negative, and so its shares cannot "
            "come near 0 or 1",
            f"leave {_ops(profile, grave)} out: the loss, or the softmax, expects logits of both "
            "signs",
        )
    if mild:
        found = profile.along(mild)
        yield Finding(
            "note",
            listed(found.places),
            f"{_ops(profile, mild)} makes the output of the last layer nonnegative, while "
            "CrossEntropyLoss and BCEWithLogitsLoss expect logits of both signs",
            f"leave {_ops(profile, mild)} out if the loss is one of these; nothing, if it takes "
            "probabilities, or numbers that are never negative",
        )


def _ops(profile: Profile, layers: list[int]) -> str:
    """The operations that made some values."""
    return " and ".join(dict.fromkeys(map(str, profile.along(layers)["op"])))


def _cuts(profile: Profile, layer: int, threshold: float) -> bool:
    """Whether a value is what an operation left of a linear map by setting much of it to zero."""
    graph, rows = profile.graph, profile.values
    inputs = graph.inputs[layer]
    if len(inputs) != 1 or inputs[0] not in graph.linear:
        return False
    here, before = profile.at[layer], profile.at[inputs[0]]
    return bool(rows["zero_fraction"][here] > threshold and rows["min"][before] < 0)


@register_training_rule(
    threshold=10,
    source="a product with 0 hands back 0: unlike a parameter of 0, a constant never learns",
    needs=[TRAINED],
)
def zero_factor(training: Training, threshold: float) -> Iterator[Finding]:
    """no branch is multiplied by a constant of 0

    A schedule may begin at 0: it is a fault if so many updates left the factor at 0.
    """
    each = [_shut(profile) for profile in training.profiles]
    always = [place for place in each[0] if all(place in found for found in each)]
    if always:
        updates = len({profile.step for profile in training.profiles}) - 1
        during = f" in all of {updates} updates" if updates else ""
        yield Finding(
            "warning" if updates >= threshold else "note",
            listed(always),
            f"{always[0]} is 0 in all entries{during}, and what it reads is not: a constant of 0 "
            "multiplies it, and the gradients of all weights before it on this branch",
            "leave the branch out, or make the factor an nn.Parameter, which learns from 0 on; "
            "nothing, if a schedule raises it later",
        )


def _shut(profile: Profile) -> dict[str, int]:
    """The products of a branch with a constant of 0, by their places.

    A total of such a product only keeps its branch in autograd's graph, as in loss + 0 * y.sum();
    and of what is used elsewhere, too, as with a first state of 0, no weights are lost.
    """
    graph, rows, zeros = profile.graph, profile.values, profile.zeros.values
    products = set()
    for layer in (zeros & graph.downstream) - graph.weighted:
        read, readers, at = graph.inputs[layer], graph.readers[layer], profile.at[layer]
        scaled = graph.ops[layer] in SCALING and len(read) == 1 and read[0] not in zeros
        random = rows["draws"][at] > 0
        kept = any(graph.ops[reader] not in _TOTALS for reader in readers)
        kept &= rows["units"][at] * rows["entries"][at] > 1
        if scaled and kept and not random and not profile.sight.shuts(layer):
            products.add(layer)
    lost = {
        layer
        for layer in products
        if any(_ends(profile, n, products) for n in graph.maps_before(layer))
    }
    return {profile.place(layer): layer for layer in sorted(lost)}


def _ends(profile: Profile, layer: int, products: set[int]) -> bool:
    """Whether all ways from a value to an output lead through some products."""
    readers = profile.graph.readers
    waiting, seen = [layer], {layer}
    while waiting:
        here = waiting.pop()
        if here in products:
            continue
        if not readers[here]:
            return False
        new = set(readers[here]) - seen
        seen |= new
        waiting += new
    return True
