"""Plain stacks, a layer, the activation, a layer, the activation, and one with residual sums."""

from __future__ import annotations

from initstats.networks.activate import Activate
from initstats.networks.block import Block
from initstats.networks.convolution import Conv
from initstats.networks.dense import Dense
from initstats.networks.dropout import Dropout
from initstats.networks.entry import register_network
from initstats.networks.normalization import Normalization
from initstats.networks.norms import BATCH, GROUPS, norm_of
from initstats.networks.parameters import check_odd, check_shares, check_sizes
from initstats.networks.residual import Residual
from initstats.networks.serial import Serial


@register_network()
def mlp(
    width: int,
    depth: int,
    *,
    norm: str = "none",
    place: str = "pre",
    groups: int = GROUPS,
    batch: int = BATCH,
    dropout: float = 0.0,
    standardized: bool = False,
) -> Block:
    """Fully connected: features - width - width ..."""
    check_shares(dropout=dropout)
    made = norm_of(norm, place, ("pre", "after"), groups=groups, batch=batch)
    curved = _activated(made, place, dropout)
    layer = Dense(width, standardized=standardized)
    return Serial(*(block for _ in range(depth) for block in (layer, *curved)))


@register_network()
def cnn(
    width: int,
    depth: int,
    *,
    kernel: int = 3,
    first_kernel: int = 5,
    strided: int = 4,
    norm: str = "none",
    place: str = "pre",
    groups: int = GROUPS,
    batch: int = BATCH,
    dropout: float = 0.0,
    standardized: bool = False,
) -> Block:
    """The lesson's conv net: w, 2w, 4w, 4w channels at stride 2, then stride 1 to the depth."""
    check_shares(dropout=dropout)
    check_sizes(kernel=kernel, first_kernel=first_kernel)
    check_sizes(least=0, strided=strided)
    made = norm_of(norm, place, ("pre", "after"), groups=groups, batch=batch, whole=True)
    curved, blocks = _activated(made, place, dropout), list[Block]()
    for index in range(depth):
        side, stride = kernel if index else first_kernel, 2 if index < strided else 1
        channels = width * min(2**index, 4)
        blocks += [Conv(channels, side, stride, standardized=standardized), *curved]
    return Serial(*blocks)


def _activated(norm: Normalization | None, place: str, dropout: float) -> list[Block]:
    """The activation with the norm before or after it, and what is dropped then."""
    curved: list[Block] = [Activate()]
    if norm:
        curved.insert(0 if place == "pre" else 1, norm)
    return [*curved, Dropout(dropout)] if dropout else curved


@register_network()
def resnet(width: int, depth: int, *, kernel: int = 3, first_kernel: int = 5) -> Block:
    """Two strided convolutions to 2w channels, then residual branches of two layers each."""
    check_sizes(kernel=kernel, first_kernel=first_kernel)
    branches = max(depth - 2, 0) // 2
    if branches:
        check_odd(kernel)
    blocks: list[Block] = []
    for index in range(min(depth, 2 + depth % 2)):
        side, stride = kernel if index else first_kernel, 2 if index < 2 else 1
        blocks += [Conv(width * min(2**index, 2), side, stride), Activate()]
    for _ in range(branches):
        branch = Serial(Conv(2 * width, kernel), Activate(), Conv(2 * width, kernel))
        blocks += [Residual(branch), Activate()]
    return Serial(*blocks)
