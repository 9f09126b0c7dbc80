"""Networks as entries, and the decorator that makes one of a function that lists blocks."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, ClassVar, TypeVar

from initstats.networks.block import Block, Signal
from initstats.networks.parameters import check_sizes
from initstats.networks.serial import Serial
from initstats.registry import Catalog, Entry, meaning_of, name_of

Build = Callable[..., Block]
Decorated = TypeVar("Decorated", bound=Build)

NETWORKS: Catalog[Network] = Catalog("network")

_GIVEN = ("width", "depth")
"""Arguments of every network; all others are its parameters."""


class UnreadableError(ValueError):
    """A network cannot read samples of such a shape at such a width."""


@dataclass(frozen=True)
class Network(Entry):
    """A network at given parameters, of any width and depth.

    Attributes:
        name: the canonical spelling, or the name of the callable that it was made from.
        build: ``build(width, depth)`` gives its blocks.
        meaning: the network in one line.
        module: the module that defines its family; empty where it was made of a bare callable.
    """

    catalog: ClassVar[Catalog[Network]] = NETWORKS

    name: str
    build: Build
    meaning: str = ""
    module: str = field(default="", repr=False)

    def on(self, shape: Sequence[int], width: int, depth: int) -> Serial:
        """The network's blocks behind samples of a shape.

        Args:
            shape: shape of one sample: (features,), (height, width) or (channels, height, width).
            width: units of a layer; for `cnn`, channels of the first layer.
            depth: number of layers.

        Raises:
            ValueError: the network cannot read such samples; a size that is no whole number above
                0.

        >>> [leaf.outputs.plane for leaf in get("cnn").on((1, 28, 28), 8, 5).layers]
        [(14, 14), (7, 7), (4, 4), (2, 2), (2, 2)]
        """
        check_sizes(width=width, depth=depth)
        for side in shape:
            check_sizes("shape", side=side)
        return _placed(self, tuple(shape), width, depth)


def get(network: str | Network | Build) -> Network:
    """The network that a spelling names, or one made of a callable that gives blocks.

    >>> get("cnn( kernel = 5 )").name
    'cnn(kernel=5)'

    Raises:
        ValueError: an unknown name or parameter, or a value that the network refuses; a callable
            that gives no blocks, or with a registered name.
    """
    if isinstance(network, Network):
        return network
    if isinstance(network, str):
        return NETWORKS[network]
    if not callable(network):
        raise ValueError(f"a network is a name or a callable, not {network!r}")
    name = name_of(network)
    if name in NETWORKS:
        raise ValueError(f"{name!r} is the name of a registered network: rename the callable")
    return _tried(Network(name, network, meaning_of(network)))


def register_network() -> Callable[[Decorated], Decorated]:
    """Register a function of `width` and `depth` that gives blocks as a family of networks.

    The function's name and the first line of its docstring are the entry's; its parameters are
    keyword-only::

        @register_network()
        def funnel(width, depth, *, factor=0.8):
            return Serial(*(block for n in range(depth)
                            for block in (Dense(max(1, round(width * factor**n))), Activate())))

    Raises:
        ValueError: another module took the name, or a parameter is not keyword-only with a default.
    """

    def register(build: Decorated) -> Decorated:
        def make(spelling: str, **parameters: Any) -> Network:
            at_parameters = partial(build, **parameters)
            return _tried(Network(spelling, at_parameters, meaning_of(build), build.__module__))

        NETWORKS.add_function(build, make, _GIVEN)
        return build

    return register


def _tried(entry: Network) -> Network:
    """The entry, once it has given blocks: bad parameters are an error now, not amid a sweep."""
    parameters = inspect.signature(entry.build).parameters
    if missing := [name for name in _GIVEN if name not in parameters]:
        raise ValueError(
            f"network {entry.name!r} must take {' and '.join(missing)}: def name(width, depth)"
        )
    try:
        blocks = entry.build(width=4, depth=2)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"network {entry.name!r} cannot be built: {error}") from error
    if not isinstance(blocks, Block):
        raise ValueError(
            f"network {entry.name!r} must return blocks, as in Serial(Dense(width), Activate()): "
            f"it returned {type(blocks).__name__}"
        )
    return entry


@lru_cache(maxsize=256)
def _placed(network: Network, shape: tuple[int, ...], width: int, depth: int) -> Serial:
    channels = shape[0] if len(shape) in (1, 3) else 1
    data = Signal(channels, (shape[-2], shape[-1]) if len(shape) > 1 else None)
    try:
        blocks = network.build(width=width, depth=depth)
        placed = (blocks if isinstance(blocks, Serial) else Serial(blocks)).on(data)
    except ValueError as error:
        raise UnreadableError(f"network {network.name!r}: {error}") from error
    if not placed.layers:
        raise ValueError(f"network {network.name!r} has no layer with weights at depth {depth}")
    tensors = Counter((leaf.layer, leaf.tensor) for leaf in placed.leaves() if leaf.tensor)
    if twice := [layer for (layer, _), times in tensors.items() if times > 1]:
        raise ValueError(
            f"network {network.name!r} has two activations behind layer {twice[0]}, and the table "
            "one row: put a layer with weights between them"
        )
    return placed
