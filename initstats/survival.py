"""How deep a network may be: what theory says of stacks of every depth, without any data.

Samples, or the tokens of a sequence, begin all alike: of one length, and each two of one
correlation. They stay so, but for tokens of which each sees only those before it. Everything is at
infinite width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from numbers import Real
from typing import Any, cast

import numpy as np
import pandas as pd

from initstats import activations, inits, networks
from initstats.activations import Activation
from initstats.diagnosis.streams import TENTH
from initstats.diagnosis.verdicts import ASPECTS, UNKNOWN, Limits, judged
from initstats.gaussian import one_thread
from initstats.inits import Init
from initstats.networks import Leaf, Network, Serial
from initstats.networks.watched import Watched
from initstats.prediction.walks import MOST, Walk
from initstats.recipes import Recipe, refuse_recipes
from initstats.sweep.fields import MAX_DEPTH, MAX_WIDTH, listed, whole
from initstats.theory.exchangeable import Exchangeable
from initstats.theory.sequence import Sequence as Tokens
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
    depths: Sequence[int] | int = DEPTHS,
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
        depths: numbers of layers, the stem among them; a number is a list of one.
        width: of the networks; it matters to the first layer's fan, and to an init of a given std.
        correlation_of_inputs: of two samples, or two tokens, whose second moment is 1.
        shape: of a sample, which a network is laid out for.
        limits: of what is healthy.
        progress: told of every network, init, activation and depth.

    Returns:
        One row for each `network`, `init`, `activation` and `depth`: `rms` of what goes through all
        layers, or of what norms make of it; `correlation` of two samples, or tokens, a mean over
        all pairs where these differ; `gradient`, the gradient's norm at the first layer over that
        at the last; `share` and `front`, what branches add; `signal_verdict`, `gradient_verdict`,
        `distinctness_verdict` and the gravest, `verdict`, as `judge` has them, `unknown` where
        theory says nothing; why, in `note`.

    Raises:
        ValueError: as `Grid`; a depth, a width or a correlation that cannot be; a network that
            cannot read samples of that shape.
        TypeError: limits that are no `Limits`.

    >>> table = predict_survival(["mlp", "resmlp(norm=layer)"], "xavier_normal", "tanh", [100])
    >>> table["verdict"].tolist()
    ['vanishes', 'healthy']
    """
    numbers = _numbers(depths, width, shape, correlation_of_inputs, limits)
    work = [*product(*_entries(networks, inits, activations), numbers)]
    rows, names, notes = [], [], []
    for number, (network, init, activation, depth) in enumerate(work):
        if progress:
            progress(number, len(work))
        walk = followed(network, init, activation, depth, width, shape, correlation_of_inputs)
        rows.append(walk.stack())
        names.append((network.name, init.name, activation.name, depth))
        notes.append(walk.why)
    if progress:
        progress(len(work), len(work))
    keys = pd.DataFrame(names, columns=["network", "init", "activation", "depth"])
    for name in ("network", "init", "activation"):
        keys[name] = pd.Categorical(keys[name], keys[name].unique())
    verdicts = judged(pd.DataFrame(rows), limits or Limits())
    words = [*(f"{aspect}_verdict" for aspect in ASPECTS), "verdict"]
    silent = np.array([bool(note) for note in notes])
    for word in words:
        verdicts[word] = np.where(silent, UNKNOWN, verdicts[word].astype(str))
    return keys.join(verdicts[[*_SHOWN, *words]]).assign(note=notes)


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
        TypeError: limits that are no `Limits`; a list of networks, inits or activations.
    """
    for noun, one in (("network", network), ("init", init), ("activation", activation)):
        if isinstance(one, list | tuple) and not isinstance(one, Recipe):
            raise TypeError(f"{noun}: largest_depth takes one, not a {type(one).__name__}: {one!r}")
    _numbers([2], width, shape, correlation_of_inputs, limits)
    given: dict[str, Any] = {"correlation_of_inputs": correlation_of_inputs, "shape": shape}

    def kept(depth: int) -> bool:
        rows = predict_survival(network, init, activation, [depth], width=width, **given)
        if note := rows["note"].iloc[0]:
            raise ValueError(f"network {rows['network'].iloc[0]!r}: {note}")
        return bool(survives(rows, limits).all())

    if not kept(2):
        return 1
    low, high = 2, 4
    while high <= DEEPEST and kept(high):
        low, high = high, 2 * high
    if high > DEEPEST and kept(DEEPEST):
        return DEEPEST
    return boundary(kept, low, min(high, DEEPEST))


def survives(rows: pd.DataFrame, limits: Limits | None = None) -> pd.Series[bool]:
    """Whether gradients keep their size and inputs stay distinct, in rows of `predict_survival`."""
    bounds = _checked(limits)
    kept = rows["gradient"].between(1 / bounds.gradient_factor, bounds.gradient_factor)
    return kept & (rows["correlation"] < bounds.correlation)


def boundary(kept: Callable[[int], bool], low: int, high: int, precision: float = 0.0) -> int:
    """The greatest number that is kept, or one near it.

    Args:
        kept: whether a number is; `low` is, `high` is not.
        precision: how far from the greatest the answer may be, relative to it.
    """
    while high - low > max(1, precision * low):
        middle = (low + high) // 2
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


_SHOWN = ["rms", "correlation", "gradient", "share", "front"]


def _entries(*given: object) -> Iterator[list[Any]]:
    """The entries of networks, inits and activations that were named."""
    for names, room in zip(given, (networks, inits, activations), strict=True):
        refuse_recipes(names)
        several = names if isinstance(names, list | tuple) else [names]
        yield [room.get(name) for name in listed(several)]


def _numbers(
    depths: object, width: object, shape: object, correlation: object, limits: object
) -> list[int]:
    """The depths that are asked for, once all numbers are what they may be."""
    bounds: dict[str, tuple[int, Callable[[], list[object]]]] = {
        "depths": (MAX_DEPTH, lambda: listed(depths)),
        "width": (MAX_WIDTH, lambda: [width]),
        "shape": (MAX_WIDTH, lambda: listed(shape)),
    }
    found: dict[str, list[int]] = {}
    for name, (most, values) in bounds.items():
        try:
            found[name] = [whole(1, most, value) for value in values()]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    is_number = isinstance(correlation, Real) and not isinstance(correlation, bool)
    if not (is_number and -1 <= float(cast(float, correlation)) <= 1):
        raise ValueError(
            f"correlation_of_inputs: {correlation!r} is not a number from -1 to 1, such as 0.3"
        )
    _checked(limits)
    return found["depths"]


def _checked(limits: object) -> Limits:
    """The limits, the usual ones where none are given."""
    if not (limits is None or isinstance(limits, Limits)):
        raise TypeError(f"limits: {limits!r} is given: name Limits, as Limits(factor=3)")
    return limits or Limits()


def followed(
    network: Network,
    init: Init,
    activation: Activation,
    depth: int,
    width: int = 64,
    shape: Sequence[int] = SHAPE,
    correlation_of_inputs: float = 0.3,
    *,
    square: float = 1.0,
    rows: type[Exchangeable] = Exchangeable,
) -> Ends:
    """Theory's way forward and back through one network of some depth.

    Args:
        network, init, activation, depth, width, shape, correlation_of_inputs: as of
            `predict_survival`.
        square: second moment of the inputs.
        rows: the theory of rows that are all alike.
    """
    placed = network.on(shape, width, depth)
    laws = tuple(layer.law(init, activation) for layer in placed.layers)
    main = "stream" if any(leaf.tensor == "stream" for leaf in placed.leaves()) else "preactivation"
    walk = Ends(activation, laws, main=main)
    try:
        walk.rows = _rows_of(placed, rows)
    except Unpredicted as error:
        walk.why = str(error)
        return walk
    start = walk.rows.state(square, correlation_of_inputs)
    why = walk.go(placed, start, backward=True, end=walk.rows.cotangent())
    walk.why = "" if why is None else why or init.unpredicted
    return walk


def _rows_of(network: Serial, kind: type[Exchangeable]) -> Exchangeable | Tokens:
    """The rows that a network sees: samples, tokens that are all alike, or one after the other."""
    seen = [leaf for leaf in network.leaves() if leaf.tensor == "attention"]
    if any(isinstance(leaf, Watched) and leaf.ordered for leaf in seen):
        return Tokens(network.layers[0].outputs.positions)
    return kind(tokens=bool(seen))


@dataclass
class Ends(Walk):
    """What verdicts ask of a stack: what goes through it, at its ends, and what branches add.

    Attributes:
        main: what goes through all layers.
        rows: of which theory follows the means.
        why: theory ends before the network does; empty where it does not.
        last: what goes through all layers, at the last one.
        normal: what the last norm gave.
        behind: what the last activation gave.
        slopes: gradients of what goes through all layers, from the last layer to the first.
        shares: what each branch has of the square of the sum that it is part of.
    """

    main: str = "preactivation"
    rows: Exchangeable | Tokens = field(default_factory=Exchangeable)
    why: str = ""
    last: State | None = None
    normal: State | None = None
    behind: Activated | None = None
    slopes: list[Cotangent] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def emit(self, block: Leaf, state: State) -> None:
        """Keep what verdicts ask of."""
        if state.square.ndim > 1:
            raise Unpredicted(
                "what a convolution makes of images needs data: see initstats.predict"
            )
        if block.tensor == self.main:
            self.last = state
            if not self.rows.mean(state.square) < MOST:
                raise Unpredicted("the signal leaves the range of float32")
        elif block.tensor == "normed":
            self.normal = state
        if isinstance(state, Activated):
            self.behind = state

    def emit_gradient(self, block: Leaf, cotangent: Cotangent) -> None:
        """Keep the gradient of what goes through all layers."""
        if block.tensor == self.main:
            self.slopes.append(cotangent)

    def note(self, block: Leaf, **ratios: tuple[Array, Array]) -> None:
        """Keep what a branch has of its sum."""
        if "branch_share" in ratios:
            added, whole = ratios["branch_share"]
            self.shares.append(float(self.rows.mean(added) / np.float64(self.rows.mean(whole))))

    def stack(self) -> dict[str, Any]:
        """The numbers that `judged` takes; NaN where theory ends before the network does."""
        if self.why or self.last is None:
            return dict.fromkeys(_NUMBERS, math.nan) | {"overflow": False}
        mean_of = self.rows.mean
        q, k = mean_of(self.last.square), self.rows.pair_mean(self.last.k)
        read = q if self.normal is None else mean_of(self.normal.square)
        mean, square = 0.0, 1.0
        if self.behind is not None:
            mean, square = mean_of(self.behind.mean), mean_of(self.behind.square)
        total = sum(self.shares)
        first = self.shares[: math.ceil(len(self.shares) / TENTH)]
        gradient = math.sqrt(mean_of(self.slopes[-1].square) / mean_of(self.slopes[0].square))
        return {
            "overflow": False,
            "rms": math.sqrt(read),
            "correlation": k / q if q else math.nan,
            "mean": mean,
            "std": math.sqrt(max(square - mean**2, 0.0)),
            "dead": 0.0,
            "constant": 0.0,
            "gradient": gradient,
            "share": total if self.shares else math.nan,
            "front": sum(first) / total if len(self.shares) >= TENTH and total else math.nan,
        }


_NUMBERS = ("rms", "correlation", "mean", "std", "dead", "constant", "gradient", "share", "front")
