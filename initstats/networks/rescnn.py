"""A residual stream of convolutions, in the order of the first and of the second ResNet paper.

He et al. 2016 (arXiv:1512.03385, arXiv:1603.05027).
"""

from __future__ import annotations

from typing import Any

from initstats.networks.activate import Activate
from initstats.networks.block import Block
from initstats.networks.boundary import Boundary
from initstats.networks.convolution import Conv
from initstats.networks.depths import scales
from initstats.networks.entry import register_network
from initstats.networks.norms import BATCH, GROUPS, norm_of
from initstats.networks.parameters import check_odd, check_shares, check_sizes
from initstats.networks.serial import Serial
from initstats.networks.stem import Stem
from initstats.networks.stream import Stream
from initstats.registry import unknown

ORDERS = {
    "v1": "convolution, norm, activation; the second activation is after the sum",
    "v2": "norm, activation, convolution; nothing is on the way past the branch",
}
"""The orders within a branch."""


@register_network()
def rescnn(
    width: int,
    depth: int,
    *,
    order: str = "v2",
    norm: str = "none",
    scale: str = "one",
    alpha: float = 1.0,
    kernel: int = 3,
    groups: int = GROUPS,
    batch: int = BATCH,
    drop_path: float = 0.0,
    standardized: bool = False,
) -> Block:
    """Strided convolutions to 2w channels, then residual branches of two layers each."""
    check_shares(drop_path=drop_path)
    check_sizes(kernel=kernel)
    made = norm_of(norm, "pre", ("pre",), groups=groups, batch=batch, whole=True)
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    strided = min(depth, 2 + depth % 2)  # what is left makes branches of two
    branches = (depth - strided) // 2
    if branches:
        check_odd(kernel)
    factors = scales(scale, branches, 2, alpha, inside=made is not None)
    between: list[Block] = [made, Activate()] if made else [Activate()]

    def conv(factor: float, tensor: str) -> Conv:
        return Conv(2 * width, kernel, tensor=tensor, scale=factor, standardized=standardized)

    first, last = conv(factors.first, "preactivation"), conv(factors.last, "branch")
    if order == "v2":
        blocks = [*between, first, Boundary(), *between, last]
    else:
        blocks = [first, *between, Boundary(), last, *([made] if made else [])]
    stream: dict[str, Any] = {"scale": factors.branch, "skip": factors.skip, "keep": 1 - drop_path}
    layers: list[Block] = []
    for index in range(strided):
        side, stride = (kernel if index else 5), (2 if index < 2 else 1)
        is_last = index == strided - 1
        tensor = "stream" if is_last else "preactivation"
        made_of: list[Block] = [Conv(width * min(2**index, 2), side, stride, tensor=tensor)]
        made_of += [Activate()] * (order == "v1" or not is_last)
        layers.append(Stem(Serial(*made_of)))
    for _ in range(branches):
        layers.append(Stream(Serial(*blocks), part="convolution", **stream))
        layers += [Activate()] * (order == "v1")
    return Serial(*layers)
