"""What goes wrong with the scores of an attention: their size, and the dimension of their softmax.

Of queries and keys whose entries have a variance of 1 a score has that of their number: it is
divided by its root, for a softmax of large scores has a derivative near 0 (Vaswani et al. 2017).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.causes import oversized
from initstats.diagnosis.rules.drawn import as_drawn
from initstats.diagnosis.rules.rule import Finding, listed
from initstats.probe.kinds import MIXING, words

_WIDE = 5.0
"""The std of scores from which on weights that were just drawn choose more than they mean."""
_EXPONENTIALS = words("exp exp_ exp2 exp2_")
_MASKED = -1e4
"""No score that is not masked is as low."""


def across(profile: Profile) -> Iterator[Finding]:
    """Shares of scores along another dimension than the product with the values sums over.

    Shares that are summed over that dimension by themselves, too, are divided by it later, as those
    of slots are.
    """
    rows, graph = profile.values, profile.graph
    crossed = (rows["summed_axis"] >= 0) & (rows["summed_axis"] != rows["shares_axis"])
    layers = [
        n
        for n in map(int, rows["layer"][crossed])
        if all(graph.ops[reader] != "sum" for reader in graph.readers[n]) and _scores(profile, n)
    ]
    if layers:
        found = profile.along(layers)
        over, summed = int(found["shares_axis"][0]), int(found["summed_axis"][0])
        yield Finding(
            "warning",
            listed(found.places),
            f"the softmax at {found.places[0]} is over dimension {over} of the scores, and the "
            f"product behind it sums over dimension {summed}: the weights that it sums with do not "
            "add up to 1",
            f"dim={summed}, unless queries are to compete for each input, as slots do",
        )


def decided(profile: Profile) -> Iterator[Finding]:
    """A softmax that gives nearly all to one entry: the sum of its squares is nearly 1.

    Attention may learn to do so. Where weights were just drawn, large scores are enough.
    """
    rows, graph = profile.seen, profile.graph
    # the mean of shares is 1 over their number
    chosen = rows.where((rows["shares_axis"] >= 0) & (rows["min"] >= 0) & (rows["mean"] <= 1 / 8))
    totals = dict(
        zip(map(int, chosen["layer"]), chosen["second_moment"] / chosen["mean"], strict=True)
    )
    read = [n for n in totals if graph.readers[n] and n in graph.downstream]
    told = [n for n in read if totals[n] > 0.9]
    large = set(map(int, oversized(profile)["layer"]))
    caused = [layer for layer in told if large & {*graph.maps_before(layer)}]
    drawn = as_drawn(profile) if profile.first is None else set[int]()
    wide = {n: size for n in read if n not in told and (size := _size(profile, n, drawn)) > _WIDE}
    if told and told == caused:
        places = listed(profile.along(told).places)
        yield Finding("unchecked", places, "weight_scale names the weights that cause it", "")
    elif told:
        yield Finding(
            "warning",
            listed(profile.along(told).places),
            "a softmax gives nearly all weight to one entry of each row: its derivative is near 0",
            _SMALLER,
        )
    if wide:
        first = next(iter(wide))
        yield Finding(
            "warning",
            listed(profile.along([*wide]).places),
            f"the scores that {profile.place(first)} reads have a std of {wide[first]:.3g} before "
            "anything is learned, and about 1 is usual: it gives most of the weight to a few "
            "entries of each row, and its derivative is small",
            _SMALLER,
        )


_SMALLER = (
    "divide the scores by the root of the size of a head, or shrink the weights of queries and keys"
)


def _size(profile: Profile, layer: int, drawn: set[int]) -> float:
    """The std of the scores that a softmax reads, masks aside; 0 where weights were not drawn."""
    product, graph, rows = _scores(profile, layer), profile.graph, profile.values
    if product is None or not {*graph.maps_before(product)} <= drawn:
        return 0.0
    between, waiting = {product}, [*graph.inputs[layer]]
    while waiting:
        here = waiting.pop()
        if here > product and here not in graph.weighted and here not in between:
            between.add(here)
            waiting += graph.inputs[here]
    # a softmax that is written out begins with their exponentials
    end = min((n for n in between if graph.ops[n] in _EXPONENTIALS), default=layer)
    at = np.array([profile.at[n] for n in sorted(between) if n < end])
    bare = at[(rows["nonfinite"][at] == 0) & (rows["min"][at] > _MASKED)]
    return float(rows["std"][bare[-1]]) if len(bare) else 0.0


def _scores(profile: Profile, layer: int) -> int | None:
    """The product that pairs two values that layers made of which a value is made, as of scores.

    The mean of values by shares is no such product. None where there is none.
    """
    graph, rows = profile.graph, profile.values
    shares, paired = rows["shares_axis"], rows["paired"]
    waiting, seen = [*graph.inputs[layer]], set[int]()
    while waiting:
        here = waiting.pop()
        if here in seen or here in graph.weighted:
            continue
        seen.add(here)
        read = graph.inputs[here]
        if graph.ops[here] not in MIXING:
            waiting += read
        elif paired[profile.at[here]] == 1 and all(
            i in graph.downstream and not shares[profile.at[i]] >= 0 for i in read
        ):
            return here
    return None
