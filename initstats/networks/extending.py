"""Whether a deeper network is a shallower one with more layers: what its first layers tell."""

from __future__ import annotations

from collections.abc import Iterator

from initstats.networks.block import Block
from initstats.networks.entry import NETWORKS, Network
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


def not_shallower(name: str, width: int, depth: int) -> str:
    """Why the first layers of a network do not tell of shallower networks; empty where they do.

    Args:
        name: as a table has it; the network may be somebody's own that is not registered here.
        width, depth: of the network.
    """
    try:
        if is_extended(NETWORKS[name], width, depth):
            return ""
    except ValueError:  # not registered here, or no longer with these parameters
        return f"It is not known whether the first n layers of {name} are a network of n layers."
    return (
        f"The layers of {name} depend on how many there are, by their scales or otherwise: its "
        "first n layers are not a network of n layers."
    )


def _blocks(block: Block) -> Iterator[Block]:
    """Blocks one after the other, those of blocks in series among them."""
    if isinstance(block, Serial):
        for each in block.blocks:
            yield from _blocks(each)
    else:
        yield block
