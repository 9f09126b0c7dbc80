"""A residual stream of fully connected layers."""

from __future__ import annotations

from initstats.networks.activate import Activate
from initstats.networks.block import Block
from initstats.networks.dense import Dense
from initstats.networks.depths import hidden_units, scales
from initstats.networks.downscale import Downscale
from initstats.networks.dropout import Dropout
from initstats.networks.entry import register_network
from initstats.networks.norms import BATCH, GROUPS, norm_of
from initstats.networks.parameters import check_factors, check_shares
from initstats.networks.serial import Serial
from initstats.networks.stem import Stem
from initstats.networks.stream import Stream


@register_network()
def resmlp(
    width: int,
    depth: int,
    *,
    norm: str = "none",
    place: str = "pre",
    branch: int = 2,
    hidden: float = 1.0,
    scale: str = "one",
    alpha: float = 1.0,
    groups: int = GROUPS,
    batch: int = BATCH,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    standardized: bool = False,
) -> Block:
    """A stem, then residual branches of one or two products: a layer each."""
    check_shares(dropout=dropout, drop_path=drop_path)
    check_factors(hidden=hidden)
    predicted = norm == "predicted"
    if predicted and place != "pre":
        raise ValueError("norm=predicted divides what a branch reads: place=pre")
    kind = "none" if predicted else norm
    made = norm_of(kind, place, ("pre", "post"), groups=groups, batch=batch)
    if branch not in (1, 2):
        raise ValueError(f"branch is the number of products in a branch, 1 or 2: got {branch}")
    if hidden != 1 and branch == 1:
        raise ValueError(f"hidden={hidden:g} is for branches of two products: branch=2")
    after = made if place == "post" else None
    factors = scales(
        scale, depth - 1, branch, alpha, normed=after is not None, inside=norm != "none"
    )

    def dense(units: int, factor: float, tensor: str) -> Dense:
        return Dense(units, tensor=tensor, scale=factor, standardized=standardized)

    def blocks(number: int) -> list[Block]:
        found: list[Block] = [made] if made and place == "pre" else []
        if predicted:  # branches of second moment 1 on a stream that begins with 1
            found.append(Downscale((1 + number * factors.branch**2) ** 0.5))
        if branch == 2:
            found.append(dense(hidden_units(hidden, width), factors.first, "preactivation"))
        found += [Activate(), dense(width, factors.last, "branch")]
        return [*found, Dropout(dropout)] if dropout else found

    layers = [
        Stream(
            Serial(*blocks(number)),
            part="feedforward",
            scale=factors.branch,
            skip=factors.skip,
            norm=after,
            keep=1 - drop_path,
        )
        for number in range(depth - 1)
    ]
    return Serial(Stem(Dense(width, tensor="stream")), *layers)
