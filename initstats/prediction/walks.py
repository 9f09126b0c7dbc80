"""Theory's way through a network: what it says of every tensor, as rows of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.networks import Expectation, Leaf, Linear, Place, Serial, Stream
from initstats.prediction.excess import excess
from initstats.prediction.groups import Groups
from initstats.prediction.planes import Planes
from initstats.prediction.rows import EXACT, INFINITE, Population, Row, doubt, root, row_of
from initstats.prediction.samples import Samples
from initstats.prediction.sequences import Tokens
from initstats.theory import Law, State, absolute_moments
from initstats.theory.state import BENT, Activated, Cotangent, Unpredicted

Array = NDArray[np.float64]
Laws = tuple[Law | None, ...]
"""The law of each layer with weights, in their order; None where the init declares none."""

LEAST, MOST = 1e-74, 1e74
"""Bounds of the second moments of a tensor in float32: squares of what it can hold."""
LOST = "the signal leaves the range of float32"
_INDEPENDENT = (
    "gradients count forward and backward weights as independent, and q as at infinite width: off "
    "by O(1 / width)"
)
_SHIFTS = "shifts by the number of channels are not known for convolutions"
_IMAGES = 1024  # most images at once


@dataclass
class Walk(Expectation):
    """Forward and back through a network.

    Args:
        activation: the one in use.
        laws: of its products.
    """

    activation: Activation
    laws: Laws
    # layers in which G(q) is no straight line, so that a finite width shifts what follows
    bent: set[int] = field(default_factory=set)
    numbered: dict[int, Law | None] = field(default_factory=dict)  # those laws, by the product
    tape: list[State] = field(default_factory=list)
    shaped: bool = False  # whether the network has norms or sums, of which more is known than notes
    normed: bool = False  # whether it has norms
    kappa: float = 0.0  # of what a finite width adds to gradients
    layers: int = 0

    def law(self, block: Linear) -> Law:
        """The law of a product's weights."""
        law = self.numbered[block.number]
        if law is None:
            raise Unpredicted
        return law

    def emit(self, block: Leaf, state: State) -> None:
        """Remember where a finite width shifts what follows."""
        if isinstance(state, Activated):
            r, q = state.response, state.before.square
            if (np.abs(r.square_2) * q**2 > BENT * r.square).any():
                self.bent.add(block.layer)

    def note(self, block: Leaf, **ratios: tuple[Array, Array]) -> None:
        """Nothing."""

    def go(
        self, network: Serial, data: State, *, backward: bool, end: Cotangent | None = None
    ) -> str | None:
        """Forward and back; why not further, empty where a law is unknown, None at the end.

        Args:
            data: what the network reads.
            backward: whether gradients come back.
            end: the gradient at the end; by default a unit-normal one for every row.
        """
        self.tape.clear()
        products = (layer.number for layer in network.layers)
        self.numbered = dict(zip(products, self.laws, strict=True))
        streams = [leaf for leaf in network.leaves() if isinstance(leaf, Stream)]
        self.normed = any(leaf.tensor == "normed" for leaf in network.leaves())
        self.normed |= any(stream.norm is not None for stream in streams)
        self.shaped = self.normed or bool(streams)
        self.kappa = excess(network)
        self.layers = max(leaf.layer for leaf in network.leaves())
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # a signal may leave float64
                state = network.expect(data, self)
                if backward:
                    end = end or _end(state)
                    network.pull(end, self, inward=False)
        except Unpredicted as why:
            return str(why)
        return None


def _end(state: State) -> Cotangent:
    """A unit-normal gradient."""
    return state.pairs.end(state) if state.pairs else Cotangent(np.ones_like(state.square))


@dataclass
class _OfLengths(Walk):
    """Samples without positions, to first order in 1 / width."""

    samples: Population = field(kw_only=True)
    states: dict[int, State] = field(default_factory=dict)  # pre-activations by layer
    rows: dict[Place, Row] = field(default_factory=dict)
    notes: dict[Place, Row] = field(default_factory=dict)
    lost: bool = False

    def emit(self, block: Leaf, state: State) -> None:
        super().emit(block, state)
        if not isinstance(state, Activated):
            if self.lost:
                raise Unpredicted(LOST)
            self.states[block.layer] = state
            inside = LEAST < self.samples.mean(state.square) < MOST
            self.lost = not inside and bool(state.square.any())
        row = row_of(self.samples, self.activation, state)
        self.rows[block.layer, block.tensor, "forward"] = row

    def note(self, block: Leaf, **ratios: tuple[Array, Array]) -> None:
        numbers: Any = {
            name: self.samples.mean(top) / self.samples.mean(below)
            for name, (top, below) in ratios.items()
        }
        self.notes[block.layer, block.tensor, "forward"] = numbers

    def emit_gradient(self, block: Leaf, cotangent: Cotangent) -> None:
        """Squares of gradients, from unit-normal ones at the end (Schoenholz et al. 2017)."""
        mean = self.samples.mean(cotangent.square)
        plain = not (self.shaped or cotangent.given)
        note = cotangent.note or (_INDEPENDENT if self.bent and plain else "")
        note = note or doubt(self.samples, self.activation, self.states[block.layer])
        rough = self.bent or self.normed or any(law and law.centred for law in self.laws)
        claim = INFINITE if rough else EXACT
        row = Row(mean=0.0, std=root(mean), second_moment=mean, claim=claim, note=note)
        if self.kappa:
            state = self.states[block.layer]
            behind = self.layers - block.layer
            row["second_moment_error"] = mean * math.expm1(self.kappa * behind / state.width)
        self.rows[block.layer, block.tensor, "backward"] = row


@dataclass
class _OfTokens(_OfLengths):
    """Tokens, each two of a sequence followed, and those of some pairs of samples."""

    samples: Tokens = field(kw_only=True)

    def emit(self, block: Leaf, state: State) -> None:
        if not state.k.ndim:  # logits and weights, which are no rows
            square, mean = float(state.square), float(state.mean)
            row = Row(mean=mean, std=root(square - mean**2), second_moment=square, claim=INFINITE)
            self.rows[block.layer, block.tensor, "forward"] = row | Row(note="")
            return
        super().emit(block, state)
        if block.tensor == "stream":
            pair, ratio = self.samples.resemblance(state.k, state.width)
            place = block.layer, block.tensor, "forward"
            row = Row(pair_correlation=pair, participation_ratio=ratio)
            self.notes[place] = self.notes.get(place, Row()) | row


@dataclass
class _OfImages(Walk):
    """Images: maps of power, position by position (He et al. 2015, arXiv:1502.01852).

    The number of channels counts as infinite; expectations are exact for rectifiers.
    """

    share: float = 1.0  # number of images on their way over that of all images
    means: dict[Place, Array] = field(default_factory=dict)  # as in `_image_row`, over all images

    def emit(self, block: Leaf, state: State) -> None:
        super().emit(block, state)
        if isinstance(state, Activated):
            r = state.response
            moments = (r.mean, state.square, r.absolute, r.negative, r.zero)
            means = [float(values.mean()) for values in moments]
        elif state.batch or not state.gaussian:
            means = [float(x.mean()) for x in (state.mean, state.square)] + 3 * [np.nan]
        else:
            silent = float((state.square == 0).mean())
            absolute, _, _ = absolute_moments(state.square, state.law.uniform_bias)
            size = float(absolute.mean())
            means = [0.0, float(state.square.mean()), size, (1 - silent) / 2, silent]
        self._add((block.layer, block.tensor, "forward"), means)

    def emit_gradient(self, block: Leaf, cotangent: Cotangent) -> None:
        means = [0.0, float(cotangent.square.mean()), np.nan, np.nan, np.nan]
        self._add((block.layer, block.tensor, "backward"), means)

    def _add(self, place: Place, means: Sequence[float]) -> None:
        self.means[place] = self.means.get(place, np.zeros(5)) + self.share * np.array(means)


def rows_of_groups(
    samples: Samples | Groups,
    activation: Activation,
    network: Serial,
    laws: Laws,
    *,
    backward: bool,
) -> tuple[dict[Place, Row], str | None]:
    """The rows of a network of dense layers or of tokens, and why they are not all."""
    kind = _OfTokens if isinstance(samples, Tokens) else _OfLengths
    walk = kind(activation, laws, samples=samples)  # type: ignore[arg-type]
    end = samples.cotangent if isinstance(samples, Groups) else None
    why = walk.go(network, samples.state, backward=backward, end=end)
    return {place: row | walk.notes.get(place, {}) for place, row in walk.rows.items()}, why


def rows_of_images(
    split: Split,
    activation: Activation,
    network: Serial,
    laws: Laws,
    *,
    backward: bool,
    planes: Planes | None = None,
) -> tuple[dict[Place, Row], str | None]:
    """The rows of a network of convolutions, and why they are not all.

    `planes` are the images of a network that normalizes batches of them.

    `std` is the root of the second moment about the mean: that the mean itself fluctuates is left
    out.
    """
    walk = _OfImages(activation, laws)
    why: str | None = None
    for start in range(0, len(split), _IMAGES):
        if planes:
            why = walk.go(network, planes.state, backward=backward)
            break
        images = split.images[start : start + _IMAGES]
        walk.share = len(images) / len(split)
        power = images.double().square().mean(1).numpy()
        why = walk.go(network, State.of_data(power), backward=backward)
    rows = {place: _image_row(place, means, walk.bent) for place, means in walk.means.items()}
    if walk.normed:
        rows = {place: row | Row(claim=INFINITE) for place, row in rows.items()}
    return rows, why


def _image_row(place: Place, means: Array, bent: set[int]) -> Row:
    layer, tensor, direction = place
    mean, square, absolute, negative, zero = means
    until = layer - (tensor == "preactivation" and direction == "forward")
    felt = any(direction == "backward" or number <= until for number in bent)
    with np.errstate(over="ignore", invalid="ignore"):
        variance = square - mean**2
    return Row(
        mean=mean,
        std=root(variance),
        second_moment=square,
        abs_mean=absolute,
        negative_fraction=negative,
        zero_fraction=zero,
        claim=INFINITE if felt else EXACT,
        note=_SHIFTS if felt else "",
    )


def representable(places: Sequence[Place], rows: Sequence[Row]) -> list[Row]:
    """The rows, without those of a signal that float32 cannot hold; what is lost stays so."""
    found, lost = [], False
    for (_, _, direction), row in zip(places, rows, strict=True):
        square = row.get("second_moment", 1.0)
        gone = not (square == 0 or LEAST < square < MOST)
        lost |= gone and direction == "forward"
        forward = lost and direction == "forward"
        found.append(Row(note=LOST) if gone or forward else row)
    return found
