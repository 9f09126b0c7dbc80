"""Theory's way through a network: what it says of every tensor, as rows of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.networks import Leaf, Linear, Place, Serial
from initstats.prediction.rows import Row, activation_row, bends, doubt, preactivation_row, root
from initstats.prediction.samples import Samples
from initstats.theory import Law, State
from initstats.theory.state import Activated, Cotangent, Unpredicted

Array = NDArray[np.float64]
Laws = tuple[Law | None, ...]
"""Of the layers with weights, in their order; None where the init declares none."""

LEAST, MOST = 1e-74, 1e74
"""Second moments that float32 can have: squares of what it can hold."""
LOST = "the signal leaves the range of float32"
_INDEPENDENT = (
    "gradients count forward and backward weights as independent, and q as at infinite width: off "
    "by O(1 / width)"
)
_SHIFTS = "shifts by the number of channels are not known for convolutions"
_MOMENTS = ("mean", "second_moment", "negative_fraction", "zero_fraction")
_IMAGES = 1024  # at once


@dataclass
class _Walk:
    """An `Expectation` that keeps all states.

    Attributes:
        activation: in use.
        laws: of the weights.
        states: of the pre-activations, by layer.
        tape: states of activations, for the way back.
    """

    activation: Activation
    laws: Laws
    states: dict[int, State] = field(default_factory=dict)
    tape: list[Activated] = field(default_factory=list)

    def law(self, block: Linear) -> Law:
        law = self.laws[block.layer - 1]
        if law is None:
            raise Unpredicted
        return law

    def go(self, network: Serial, data: State, *, backward: bool) -> str | None:
        """Forward and back; why not further, empty where a law is unknown, None at the end."""
        try:
            state = network.expect(data, self)
            if backward:
                network.pull(Cotangent(np.ones_like(state.square)), self, inward=False)
        except Unpredicted as end:
            return str(end)
        return None

    def emit(self, block: Leaf, state: State) -> None:
        raise NotImplementedError

    def emit_gradient(self, block: Leaf, cotangent: Cotangent) -> None:
        raise NotImplementedError


@dataclass
class _OfLengths(_Walk):
    """Samples without positions: finite width, pairs, shifts."""

    samples: Samples = field(kw_only=True)
    rows: dict[Place, Row] = field(default_factory=dict)
    lost: bool = False

    def emit(self, block: Leaf, state: State) -> None:
        place = (block.layer, block.tensor, "forward")
        if isinstance(state, Activated):
            self.rows[place] = activation_row(self.samples, self.activation, state)
            if bends(state.response, state.before.square):
                self._note = _INDEPENDENT
            return
        if self.lost:
            raise Unpredicted(LOST)
        self.states[block.layer] = state
        self.rows[place] = preactivation_row(self.samples, self.activation, state)
        inside = LEAST < self.samples.mean(state.square) < MOST
        self.lost = not inside and bool(state.square.any())

    def emit_gradient(self, block: Leaf, cotangent: Cotangent) -> None:
        """Squares of gradients, from unit-normal ones at the end (Schoenholz et al. 2017)."""
        mean = self.samples.mean(cotangent.square)
        note = "" if cotangent.given else self._note
        note = note or doubt(self.samples, self.activation, self.states[block.layer])
        row = Row(mean=0.0, std=root(mean), second_moment=mean, note=note)
        self.rows[block.layer, block.tensor, "backward"] = row

    def go(self, network: Serial, data: State, *, backward: bool) -> str | None:
        self._note = ""
        return super().go(network, data, backward=backward)


@dataclass
class _OfImages(_Walk):
    """Images: maps of power, position by position (He et al. 2015, arXiv:1502.01852).

    Infinitely many channels; exact in expectation for rectifiers.
    """

    means: dict[Place, list[float]] = field(default_factory=dict)
    bent: dict[int, bool] = field(default_factory=dict)

    def emit(self, block: Leaf, state: State) -> None:
        place = (block.layer, block.tensor, "forward")
        if isinstance(state, Activated):
            r = state.response
            self.bent[block.layer] = bends(r, state.before.square)
            moments = (r.mean, r.square, r.negative, r.zero)
            self.means[place] = [float(values.mean()) for values in moments]
        else:
            silent = float((state.square == 0).mean())
            self.means[place] = [0.0, float(state.square.mean()), (1 - silent) / 2, silent]

    def emit_gradient(self, block: Leaf, cotangent: Cotangent) -> None:
        mean = float(cotangent.square.mean())
        self.means[block.layer, block.tensor, "backward"] = [0.0, mean, np.nan, np.nan]


def rows_of_lengths(
    samples: Samples, activation: Activation, network: Serial, laws: Laws, *, backward: bool
) -> tuple[dict[Place, Row], str | None]:
    """The rows of a network of dense layers, and why they are not all."""
    walk = _OfLengths(activation, laws, samples=samples)
    with np.errstate(over="ignore", invalid="ignore"):  # a signal may leave float64
        why = walk.go(network, samples.state, backward=backward)
    return walk.rows, why


def rows_of_images(
    split: Split, activation: Activation, network: Serial, laws: Laws, *, backward: bool
) -> tuple[dict[Place, Row], str | None]:
    """The rows of a network of convolutions, and why they are not all.

    `std` is the root of the second moment about the mean: that the mean itself fluctuates is left
    out.
    """
    means: dict[Place, Array] = {}
    bent: dict[int, bool] = {}
    why: str | None = None
    for start in range(0, len(split), _IMAGES):
        images = split.images[start : start + _IMAGES]
        walk = _OfImages(activation, laws)
        power = images.double().square().mean(1).numpy()
        why = walk.go(network, State.of_data(power), backward=backward)
        bent |= {layer: bent.get(layer, False) or bend for layer, bend in walk.bent.items()}
        for place, values in walk.means.items():
            share = len(images) / len(split)
            means[place] = means.get(place, np.zeros(len(_MOMENTS))) + share * np.array(values)
    return {place: _image_row(place, values, bent) for place, values in means.items()}, why


def _image_row(place: Place, values: Array, bent: dict[int, bool]) -> Row:
    layer, tensor, direction = place
    mean, square, negative, zero = values.tolist()
    until = layer - (tensor == "preactivation" and direction == "forward")
    felt = [bend for number, bend in bent.items() if direction == "backward" or number <= until]
    return Row(
        mean=mean,
        std=root(square - mean**2),
        second_moment=square,
        negative_fraction=negative,
        zero_fraction=zero,
        note=_SHIFTS if any(felt) else "",
    )


def representable(places: Sequence[Place], rows: Sequence[Row]) -> list[Row]:
    """The rows, but for those of a signal that float32 cannot hold; what is lost stays so."""
    found, lost = [], False
    for (_, _, direction), row in zip(places, rows, strict=True):
        square = row.get("second_moment", 1.0)
        gone = not (square == 0 or LEAST < square < MOST)
        lost |= gone and direction == "forward"
        forward = lost and direction == "forward"
        found.append(Row(note=LOST) if gone or forward else row)
    return found
