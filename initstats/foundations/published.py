"""What the notes (a) and the lesson's own notebook (b) printed, in the order of the lesson.

Each number is one draw of random weights, one timing on one machine, or a fact of the data.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple


class Published(NamedTuple):
    """A quantity of the lesson, and what was printed for it.

    Attributes:
        step: the step of the lesson.
        quantity: what is measured; times are in milliseconds.
        printed: the digits; empty where the lesson asks for no number, or prints none.
        source: a, b or both.
        comparable: whether the number could be ours; false for a time on another machine and for
            a rounding error.
    """

    step: str
    quantity: str
    printed: str = ""
    source: str = ""
    comparable: bool = True

    @property
    def value(self) -> float:
        """The printed number; NaN where there is none."""
        return float(self.printed or "nan")

    def inside(self, low: float, high: float) -> bool | None:
        """Whether low <= number <= high, to its printed digits; None if it is not comparable."""
        if not self.printed or not self.comparable:
            return None
        half = 0.5 * 10.0 ** int(Decimal(self.printed).as_tuple().exponent)
        return low - half <= self.value <= high + half


def _draws(step: str, *pairs: tuple[str, str, str]) -> list[Published]:
    """Means and standard deviations, each pair from one draw."""
    return [
        Published(step, quantity, printed, source)
        for source, *pair in pairs
        for quantity, printed in zip(("mean", "std"), pair, strict=True)
    ]


def _times(step: str, *rows: tuple[str, str, str]) -> list[Published]:
    return [
        Published(step, f"{what}, ms", printed, source, False) for source, what, printed in rows
    ]


PUBLISHED = [
    Published("data", "train mean", "0.1304", "a, b"),
    Published("data", "train std", "0.3073", "a, b"),
    Published("normalize", "train mean", "2.1425e-08", "a", comparable=False),
    Published("normalize", "train mean", "3.06e-05", "b", comparable=False),
    Published("normalize", "train std", "1.0000", "a, b"),
    Published("normalize", "valid mean", "-0.0058", "b"),
    Published("normalize", "valid std", "0.9924", "b"),
    Published("check", "farthest of mean and std - 1"),
    Published("architecture", "training images", "50000", "a"),
    Published("architecture", "inputs", "784", "a"),
    Published("architecture", "hidden units", "50", "a"),
    Published("architecture", "outputs", "1", "a"),
    *_draws("simplified kaiming", ("a", "-0.0417", "1.0341"), ("b", "0.2035", "1.0095")),
    *_draws("relu", ("b", "0.5063", "0.6765")),
    *_draws("kaiming", ("a", "0.5535", "0.8032"), ("b", "0.5678", "0.8491")),
    *_draws("torch's kaiming", ("b", "0.5542", "0.8006")),
    *_draws(
        "relu - 0.5",
        ("a", "0.0372", "0.8032"),
        ("a", "-0.0279", "0.7500"),
        ("b", "0.1071", "0.8995"),
    ),
    *_times(
        "forward timing",
        ("a", "forward", "2.56"),
        ("a", "forward", "3.3"),
        ("b", "forward", "8.41"),
    ),
    Published("mse", "a batch of one: difference from torch"),
    Published("gradients by hand", "largest difference from autograd"),
    *_times(
        "layers as classes",
        ("a", "forward", "13.2"),
        ("a", "backward", "893"),
        ("b", "backward", "3.4e3"),
    ),
    *_times("Module", ("a", "forward", "19.9"), ("a", "backward", "49.7")),
    *_times("without einsum", ("b", "forward", "46.4"), ("b", "backward", "140")),
    *_times(
        "torch",
        ("a", "forward", "19.7"),
        ("a", "backward", "16"),
        ("b", "forward", "46.3"),
        ("b", "backward", "71.1"),
    ),
    Published("the open question", "accuracy, relu - 0.5 less relu"),
]
