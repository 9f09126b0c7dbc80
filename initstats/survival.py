"""How deep a network may be: what theory says of stacks of every depth, without any data.

Samples, or the tokens of a sequence, count as all alike: of one length, and each two of one
correlation. Everything is at infinite width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from initstats import activations, inits, networks
from initstats.activations import Activation
from initstats.diagnosis.streams import TENTH
from initstats.diagnosis.verdicts import Limits, judged
from initstats.gaussian import one_thread
from initstats.inits import Init
from initstats.networks import Leaf, Network, Serial
from initstats.prediction.walks import MOST, Walk
from initstats.theory.exchangeable import Exchangeable
from initstats.theory.state import Activated, Array, Cotangent, State, Unpredicted

DEPTHS = (10, 20, 50, 100, 200, 500, 1000)
"""The depths that are looked at unless others are named."""
DEEPEST = 1000
"""The depth beyond which nobody is asked how deep a network may be."""
SHAPE = (1, 28, 28)
"""Shape of the images that networks are laid out for."""
Progress = Callable[[int, int], object]


@one_thread()
def predict_survival(
    networks: Sequence[object] | object = ("mlp",),
    inits: Sequence[object] | object = ("kaiming_normal",),
    activations: Sequence[object] | object = ("relu",),
    depths: Sequence[int] = DEPTHS,
    *,
    width: int = 64,
    correlation_of_inputs: float = 0.3,
    shape: Sequence[int] = SHAPE,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What becomes of signal, gradient and distinctness at some depths, and the verdict.

    Args:
        networks, inits, activations: as for a grid, of which every combination is looked at.
        depths: numbers of layers, the stem among them.
        width: of the networks; it matters for the fan of the first layer alone.
        correlation_of_inputs: that of two samples, or of two tokens of a sequence; all have a
            second moment of 1.
        shape: of a sample, which a network is laid out for.
        limits: of what is healthy.
        progress: told of every network, init, activation and depth.

    Returns:
        One row for each `network`, `init`, `activation` and `depth`: `rms` of what goes through all
        layers, or of what norms make of it; `correlation` of two samples, or tokens; `gradient`,
        the gradient's norm at the first layer over that at the last; `share` and `front` of `judge`
        for branches; `signal`, `gradient_verdict`, `distinctness` and `verdict` in a word, `unknown`
        where theory says nothing, and why in `note`.

    Raises:
        ValueError: as `Grid`; a depth below 1; a network that cannot read samples of that shape.

    >>> table = predict_survival(["mlp", "resmlp(norm=layer)"], "xavier_normal", "tanh", [100])
    >>> table["verdict"].tolist()
    ['gradient vanishes', 'healthy']
    """
    work = [*product(*_entries(networks, inits, activations), depths)]
    rows, names, notes = [], [], []
    for number, (network, init, activation, depth) in enumerate(work):
        if progress:
            progress(number, len(work))
        walk = _walked(network, init, activation, depth, width, shape, correlation_of_inputs)
        rows.append(walk.stack())
        names.append((network.name, init.name, activation.name, depth))
        notes.append(walk.note)
    if progress:
        progress(len(work), len(work))
    keys = pd.DataFrame(names, columns=["network", "init", "activation", "depth"])
    for name in ("network", "init", "activation"):
        keys[name] = pd.Categorical(keys[name], keys[name].unique())
    found = judged(pd.DataFrame(rows), limits or Limits())
    words = [name for name in found if name.endswith("verdict")]
    found.loc[[bool(note) for note in notes], words] = math.nan
    return keys.join(found[[*_SHOWN, *words]]).assign(note=notes)


@one_thread()
def largest_depth(
    network: object,
    init: object = "kaiming_normal",
    activation: object = "relu",
    *,
    width: int = 64,
    correlation_of_inputs: float = 0.3,
    shape: Sequence[int] = SHAPE,
    limits: Limits | None = None,
) -> int:
    """The greatest number of layers at which gradients and distinctness survive, up to `DEEPEST`.

    A number to act on: the gradient's norm changes by no more than `limits.gradient_factor`, and
    inputs differ. The size of the signal and what branches add are not asked for.

    Args:
        network, init, activation: one of each, as for `predict_survival`.
        width, correlation_of_inputs, shape, limits: likewise.

    >>> largest_depth("mlp(norm=batch)", width=64)
    13

    Raises:
        ValueError: as `predict_survival`; theory does not follow the network.
    """
    bounds = limits or Limits()

    def survives(depth: int) -> bool:
        ((entry, each, phi),) = product(*_entries(network, init, activation))
        walk = _walked(entry, each, phi, depth, width, shape, correlation_of_inputs)
        if walk.note:
            raise ValueError(f"network {entry.name!r}: {walk.note}")
        found = walk.stack()
        kept = 1 / bounds.gradient_factor <= found["gradient"] <= bounds.gradient_factor
        return bool(kept and found["correlation"] < bounds.correlation)

    if not survives(2):
        return 1
    low, high = 2, 4
    while high <= DEEPEST and survives(high):
        low, high = high, 2 * high
    if high > DEEPEST and survives(DEEPEST):
        return DEEPEST
    high = min(high, DEEPEST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if survives(middle) else (low, middle)
    return low


_SHOWN = ["rms", "correlation", "gradient", "share", "front"]


def _entries(*given: object) -> Iterator[list[Any]]:
    """The entries of networks, inits and activations that were named."""
    for names, room in zip(given, (networks, inits, activations), strict=True):
        several = names if isinstance(names, list | tuple) else [names]
        yield [room.get(name) for name in several]  # type: ignore[attr-defined]


def _walked(
    network: Network,
    init: Init,
    activation: Activation,
    depth: int,
    width: int,
    shape: Sequence[int],
    c: float,
) -> _Ends:
    """Forward and back through a network of some depth."""
    placed = network.on(shape, width, depth)
    laws = tuple(layer.law(init, activation) for layer in placed.layers)
    rows = Exchangeable(tokens=any(leaf.tensor == "attention" for leaf in placed.leaves()))
    walk = _Ends(activation, laws)
    walk.go_from(placed, rows, c)
    if walk.note == "" and walk.ended is not None:
        walk.note = walk.ended or init.unpredicted
    return walk


@dataclass
class _Ends(Walk):
    """What verdicts ask of a stack: what goes through it, at its ends, and what branches add."""

    main: str = "preactivation"
    states: list[State] = field(default_factory=list)
    behind: Activated | None = None
    normed: State | None = None
    slopes: list[Cotangent] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    note: str = ""
    ended: str | None = None

    def go_from(self, network: Serial, rows: Exchangeable, c: float) -> None:
        """Forward and back, from rows of second moment 1 and correlation c."""
        self.main = next((t for t in ("stream",) if t in _tensors(network)), "preactivation")
        self.ready(network)
        try:
            with np.errstate(all="ignore"):  # a signal may leave float64
                network.expect(rows.state(1.0, c), self)
                network.pull(rows.cotangent(), self, inward=False)
        except Unpredicted as end:
            self.ended = str(end)

    def emit(self, block: Leaf, state: State) -> None:
        if block.tensor == self.main:
            if not float(state.square[0]) < MOST:
                raise Unpredicted("the signal leaves the range of float32")
            self.states.append(state)
        if isinstance(state, Activated):
            self.behind = state
        if block.tensor == "normed":
            self.normed = state

    def emit_gradient(self, block: Leaf, cotangent: Cotangent) -> None:
        if block.tensor == self.main:
            self.slopes.append(cotangent)

    def note_(self) -> None:
        """Nothing."""

    def stack(self) -> dict[str, Any]:
        """The numbers that `judged` takes."""
        raise NotImplementedError


def _tensors(network: Serial) -> set[str]:
    return {leaf.tensor for leaf in network.leaves()}


Values = Array
"""Numbers of each row."""
