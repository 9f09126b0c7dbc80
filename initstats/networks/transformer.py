"""A transformer: patches of an image as tokens, attention and feed-forward layers in turn."""

from __future__ import annotations

from typing import Any, cast, get_args

from initstats.networks.activate import Activate
from initstats.networks.attention import Attention, Logits
from initstats.networks.block import Block
from initstats.networks.depths import Scales, hidden_units, scales
from initstats.networks.dropout import Dropout
from initstats.networks.embedding import Patches, Positions
from initstats.networks.entry import register_network
from initstats.networks.norms import BATCH, GROUPS, norm_of
from initstats.networks.parameters import check_factors, check_shares, check_sizes
from initstats.networks.pointwise import Pointwise
from initstats.networks.serial import Serial
from initstats.networks.stem import Stem
from initstats.networks.stream import Stream
from initstats.registry import unknown

POSITIONS = ("none", "normal")
"""What is added to the tokens: nothing, or a random vector for each position."""


@register_network()
def transformer(
    width: int,
    depth: int,
    *,
    norm: str = "layer",
    place: str = "pre",
    heads: int = 4,
    hidden: float = 4.0,
    patch: int = 7,
    causal: bool = False,
    logits: str = "inverse_sqrt",
    positions: str = "none",
    projection: float = 1.0,
    attention_bias: bool = True,
    scale: str = "one",
    alpha: float = 1.0,
    groups: int = GROUPS,
    batch: int = BATCH,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Block:
    """A stem of patches, then attention and feed-forward branches in turn: a layer each."""
    check_shares(dropout=dropout, drop_path=drop_path)
    check_sizes(heads=heads, patch=patch)
    check_factors(hidden=hidden, projection=projection)
    made = norm_of(norm, place, ("pre", "post"), groups=groups, batch=batch)
    for name, value, allowed in (
        ("logits", logits, get_args(Logits)),
        ("positions", positions, POSITIONS),
    ):
        if value not in allowed:
            raise unknown(name, value, allowed)
    after = made if place == "post" else None
    factors = scales(scale, depth - 1, 2, alpha, normed=after is not None, inside=made is not None)
    first = [made] if made and place == "pre" else []
    last = [Dropout(dropout)] if dropout else []
    branches: dict[str, list[Block]] = {
        "attention": [
            Attention(
                heads,
                causal,
                cast(Logits, logits),
                scale=projection,
                value_scale=factors.first,
                biased=attention_bias,
            )
        ],
        "feedforward": [
            Pointwise(hidden_units(hidden, width), scale=factors.first),
            Activate(),
        ],
    }
    shared: dict[str, Any] = _of_stream(factors, drop_path)
    layers = []
    for number in range(depth - 1):
        part = ("attention", "feedforward")[number % 2]
        biased = attention_bias or part == "feedforward"
        product = Pointwise(width, tensor="branch", scale=factors.last, biased=biased)
        branch = Serial(*first, *branches[part], product, *last)
        layers.append(Stream(branch, part=part, norm=after, tokens=True, **shared))
    return Serial(_stem(width, patch, positions), *layers)


def _stem(width: int, patch: int, positions: str) -> Stem:
    if positions == "none":
        return Stem(Patches(width, patch, tensor="stream"))
    return Stem(Serial(Patches(width, patch), Positions()))


def _of_stream(factors: Scales, drop_path: float) -> dict[str, float]:
    return {"scale": factors.branch, "skip": factors.skip, "keep": 1 - drop_path}
