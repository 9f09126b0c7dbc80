"""How the branches of a residual network are scaled with its depth, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from initstats.networks.parameters import MOST, check_factors
from initstats.registry import unknown


class Scales(NamedTuple):
    """Factors of a residual layer and of its weights, as the init draws them.

    Attributes:
        branch: of what the branch adds (alpha).
        skip: of the stream (beta).
        first: of the weights of all products of a branch but its last; of attention, the values'.
        last: of the weights of the last product.
    """

    branch: float = 1.0
    skip: float = 1.0
    first: float = 1.0
    last: float = 1.0


@dataclass(frozen=True)
class Scaling:
    """A rule: its meaning, and what it gives for a number of branches and of products in each."""

    meaning: str
    of: Callable[[int, int], Scales]


SCALINGS = {
    "one": Scaling("as the branch gives it", lambda layers, products: Scales()),
    "inverse_sqrt_depth": Scaling(
        "over the root of the number of branches (Hayou et al. 2021, arXiv:2010.12859)",
        lambda layers, products: Scales(layers**-0.5),
    ),
    "inverse_sqrt_2depth": Scaling(
        "over the root of twice the number of branches",
        lambda layers, products: Scales((2 * layers) ** -0.5),
    ),
    "inverse_depth": Scaling(
        "over the number of branches", lambda layers, products: Scales(1 / layers)
    ),
    "zero": Scaling(
        "times 0, to be learned (ReZero, Bachlechner et al. 2021, arXiv:2003.04887)",
        lambda layers, products: Scales(0.0),
    ),
    "fixup": Scaling(
        "the last product's weights 0, the others over a root of the number of branches "
        "(Zhang et al. 2019, arXiv:1901.09321)",
        lambda layers, products: Scales(first=layers ** (-1 / (2 * products - 2)), last=0.0),
    ),
    "deepnorm": Scaling(
        "the stream times (2N)^(1/4), weights of values and of both products over (8N)^(1/4), for "
        "N blocks of two branches (Wang et al. 2022, arXiv:2203.00555)",
        lambda layers, products: Scales(
            skip=layers**0.25, first=(4 * layers) ** -0.25, last=(4 * layers) ** -0.25
        ),
    ),
}
"""The rules by name."""


def hidden_units(hidden: float, width: int) -> int:
    """The units inside of a branch, given how many there are to each of its output.

    Raises:
        ValueError: fewer than half a unit, or more than anybody has.
    """
    if not hidden * width >= 0.5:
        raise ValueError(f"hidden={hidden:g} makes no unit of a width of {width}")
    if hidden * width > MOST:
        raise ValueError(
            f"hidden={hidden:g} makes more than {MOST:,} units of a width of {width}: that is the "
            "most"
        )
    return max(1, round(hidden * width))


def scales(
    rule: str | float,
    layers: int,
    products: int,
    alpha: float = 1.0,
    *,
    normed: bool = False,
    inside: bool = False,
) -> Scales:
    """The factors of every residual layer.

    Args:
        rule: a name, or a number that every branch is multiplied with.
        layers: number of residual branches; a block of a transformer has two.
        products: of a branch.
        alpha: a factor of the branch on top.
        normed: whether the sums are normalized.
        inside: whether there is a norm in the branches.

    >>> scales("inverse_sqrt_depth", 100, 2).branch
    0.1
    >>> scales("deepnorm", 2 * 8, 2, normed=True).skip
    2.0

    Raises:
        ValueError: no such rule, or one that is for normalized sums, or for branches of two
            products without a norm; a factor that is infinite.
    """
    layers = max(layers, 1)
    check_factors(alpha=alpha)
    if not isinstance(rule, str):
        check_factors(scale=rule)
        check_factors(**{"scale times alpha": rule * alpha})
        return Scales(rule * alpha)
    if rule not in SCALINGS:
        raise ValueError(f"{unknown('scale', rule, SCALINGS)}, or a number")
    if rule == "deepnorm" and not normed:
        raise ValueError("scale=deepnorm needs a norm after the sum, as norm=layer,place=post")
    if rule == "fixup" and (normed or inside):
        raise ValueError("scale=fixup takes the place of norms: norm=none, or another scale")
    if rule == "fixup" and products < 2:
        raise ValueError(
            "scale=fixup makes the first product of a branch smaller and the last one 0: it needs "
            "two products, branch=2"
        )
    found = SCALINGS[rule].of(layers, products)
    return found._replace(branch=found.branch * alpha)
