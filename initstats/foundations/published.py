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


# step, quantity, what was printed and where; last, why a number is not comparable
_TABLE = """
data               | train mean                            | 0.1304     | a, b
data               | train std                             | 0.3073     | a, b
normalize          | train mean                            | 2.1425e-08 | a    | rounding
normalize          | train mean                            | 3.06e-05   | b    | rounding
normalize          | train std                             | 1.0000     | a, b
normalize          | valid mean                            | -0.0058    | b
normalize          | valid std                             | 0.9924     | b
check              | farthest of mean and std - 1
architecture       | training images                       | 50000      | a
architecture       | inputs                                | 784        | a
architecture       | hidden units                          | 50         | a
architecture       | outputs                               | 1          | a
simplified kaiming | mean                                  | -0.0417    | a
simplified kaiming | std                                   | 1.0341     | a
simplified kaiming | mean                                  | 0.2035     | b
simplified kaiming | std                                   | 1.0095     | b
relu               | mean                                  | 0.5063     | b
relu               | std                                   | 0.6765     | b
kaiming            | mean                                  | 0.5535     | a
kaiming            | std                                   | 0.8032     | a
kaiming            | mean                                  | 0.5678     | b
kaiming            | std                                   | 0.8491     | b
torch's kaiming    | mean                                  | 0.5542     | b
torch's kaiming    | std                                   | 0.8006     | b
relu - 0.5         | mean                                  | 0.0372     | a
relu - 0.5         | std                                   | 0.8032     | a
relu - 0.5         | mean                                  | -0.0279    | a
relu - 0.5         | std                                   | 0.7500     | a
relu - 0.5         | mean                                  | 0.1071     | b
relu - 0.5         | std                                   | 0.8995     | b
forward timing     | forward, ms                           | 2.56       | a    | another machine
forward timing     | forward, ms                           | 3.3        | a    | another machine
forward timing     | forward, ms                           | 8.41       | b    | another machine
mse                | a batch of one: difference from torch
gradients by hand  | largest difference from autograd
layers as classes  | forward, ms                           | 13.2       | a    | another machine
layers as classes  | backward, ms                          | 893        | a    | another machine
layers as classes  | backward, ms                          | 3.4e3      | b    | another machine
Module             | forward, ms                           | 19.9       | a    | another machine
Module             | backward, ms                          | 49.7       | a    | another machine
without einsum     | forward, ms                           | 46.4       | b    | another machine
without einsum     | backward, ms                          | 140        | b    | another machine
torch              | forward, ms                           | 19.7       | a    | another machine
torch              | backward, ms                          | 16         | a    | another machine
torch              | forward, ms                           | 46.3       | b    | another machine
torch              | backward, ms                          | 71.1       | b    | another machine
the open question  | accuracy, relu - 0.5 less relu
"""


def _row(line: str) -> Published:
    cells = [cell.strip() for cell in line.split("|")]
    step, quantity, printed, source, reason = cells + [""] * (5 - len(cells))
    return Published(step, quantity, printed, source, comparable=not reason)


PUBLISHED = [_row(line) for line in _TABLE.strip().splitlines()]
