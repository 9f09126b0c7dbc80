"""Whether a deeper network is a shallower one with more layers: what its first layers tell."""

from __future__ import annotations

from collections.abc import Iterator

from initstats.networks.block import Block
from initstats.networks.entry import Network
from initstats.networks.serial import Serial


def is_extended(network: Network, width: int, depth: int) -> bool:
    """Whether the first n layers of a network are the network of n layers, for every n.

    They are not where a scale depends on the depth, as that of Fixup's branches does: the first
    layers of a network of 100 have the scales of 100 layers.

    Args:
        network: of `width` and `depth`.

    >>> from initstats import networks
    >>> is_extended(networks.get("resmlp"), 8, 20)
    True
    >>> is_extended(networks.get("resmlp(scale=inverse_depth)"), 8, 20)
    False
    """
    whole = [*_blocks(network.build(width=width, depth=depth))]
    for fewer in {1, depth // 2, depth - 1} - {0, depth}:
        part = [*_blocks(network.build(width=width, depth=fewer))]
        if whole[: len(part)] != part:
            return False
    return True


def _blocks(block: Block) -> Iterator[Block]:
    """Blocks one after the other, those of blocks in series among them."""
    if isinstance(block, Serial):
        for each in block.blocks:
            yield from _blocks(each)
    else:
        yield block
