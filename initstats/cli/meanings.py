"""What the parameters of networks mean, in a sentence each."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

PARAMETERS = {
    "norm": "what is normalized: {norms}; predicted divides by the size that theory expects",
    "place": "where the norm stands: {places}",
    "groups": "of units that are normalized apart from each other, for norm=group",
    "batch": "samples that are normalized together, for norm=batch",
    "branch": "products of weights in a branch, 1 or 2",
    "hidden": "units between the two products of a branch, over those of the stream",
    "scale": "what a branch is multiplied with: {scales}; or a number",
    "alpha": "a factor of each branch, on top of its scale",
    "dropout": "share of the values that are set to 0, the others scaled up to make up for it",
    "drop_path": "share of the samples for which a branch is left out, the others scaled up",
    "standardized": "whether the weights of a unit are shifted and scaled to mean 0 and equal size",
    "heads": "of attention, among which the units are divided",
    "patch": "side of the squares of an image that become tokens, pixels",
    "causal": "whether a token attends only to itself and to those before it",
    "logits": "what products of queries and keys are divided by: inverse_sqrt, the root of a "
    "head's units; inverse, their number",
    "positions": "what is added to tokens: none, or normal, a random vector for each position",
    "projection": "a factor of the weights of queries, keys and values, on top of the init",
    "attention_bias": "whether the products of attention have biases",
    "order": "of a branch: {orders}",
    "kernel": "side of the convolutions, pixels",
    "first_kernel": "side of the first convolution, pixels",
    "strided": "convolutions that halve the image, from the first",
}
"""By name; where several networks have a parameter, it means the same in all."""


def parameter_meanings(names: Iterable[str]) -> list[tuple[str, str]]:
    """The parameters of networks that we know, with their meaning; those of users speak for
    themselves.
    """
    from initstats.networks.depths import SCALINGS
    from initstats.networks.norms import NORMS, PLACES
    from initstats.networks.rescnn import ORDERS

    lists = {
        "norms": ", ".join(NORMS),
        "places": "; ".join(
            f"{place}, {meaning} ({', '.join(_networks_with(place))})"
            for place, meaning in PLACES.items()
        ),
        "scales": "; ".join(f"{name}, {scaling.meaning}" for name, scaling in SCALINGS.items()),
        "orders": "; ".join(f"{name}, {meaning}" for name, meaning in ORDERS.items()),
    }
    return [(name, PARAMETERS[name].format(**lists)) for name in names if name in PARAMETERS]


def _networks_with(place: str) -> list[str]:
    """Names of the networks that a norm may have this place in."""
    from initstats.networks import NETWORKS

    found = []
    for name in NETWORKS:
        if not {"norm", "place"} - {*NETWORKS.family(name).defaults}:
            with suppress(ValueError):
                found.append(NETWORKS[f"{name}(norm=layer,place={place})"].name.partition("(")[0])
    return found
