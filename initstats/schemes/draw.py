"""What a parameter is to be drawn from: a law, its scale as a formula, and the line of torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from scipy import special
from torch import Generator, Tensor, nn

_THIRD = re.compile(r"1 / math\.sqrt\(3 \* (\d+)\)")

Law = Literal["normal", "uniform", "truncated_normal", "constant", "zeros", "ones"]


@dataclass(frozen=True)
class Draw:
    """A law and its scale.

    Attributes:
        law: `truncated_normal` is a normal law that is drawn anew beyond `cut`.
        scale: std of the law, before the cut; value of a constant.
        formula: of the scale, as an expression of Python; empty where it is the number itself.
        cut: where a truncated law ends, in its own stds.
    """

    law: Law
    scale: float = 0.0
    formula: str = ""
    cut: float = math.inf

    @property
    def std(self) -> float:
        """The std of the entries; 0 of constants."""
        if self.law in ("constant", "zeros", "ones"):
            return 0.0
        if self.law == "truncated_normal":
            return self.scale * math.sqrt(cut_moments(self.cut)[0])
        return self.scale

    @property
    def value(self) -> float:
        """What all entries are, of a constant; NaN of others."""
        return {"zeros": 0.0, "ones": 1.0, "constant": self.scale}.get(self.law, math.nan)

    def fill(self, x: Tensor, generator: Generator) -> None:
        """Draw the entries of a tensor."""
        if self.law == "normal" or (self.law == "truncated_normal" and self.cut > 5):
            nn.init.normal_(x, std=self.scale, generator=generator)
            x.clamp_(-self.cut * self.scale, self.cut * self.scale)
        elif self.law == "truncated_normal":
            end = self.cut * self.scale
            nn.init.trunc_normal_(x, 0.0, self.scale, -end, end, generator)
        elif self.law == "uniform":
            end = math.sqrt(3) * self.scale
            nn.init.uniform_(x, -end, end, generator)
        else:
            x.fill_(self.value)

    def code(self, target: str) -> str:
        """The line of torch that does so.

        Args:
            target: an expression for the tensor.
        """
        size = self.formula or f"{self.scale:.6g}"
        if self.law == "normal":
            return f"nn.init.normal_({target}, std={size})"
        if self.law == "uniform":
            third = _THIRD.fullmatch(size)
            end = f"1 / math.sqrt({third[1]})" if third else f"math.sqrt(3) * {_in(size)}"
            return f"nn.init.uniform_({target}, -{end}, {end})"
        if self.law == "truncated_normal":
            far = self.cut * self.scale
            return f"nn.init.trunc_normal_({target}, std={size}, a={-far:.6g}, b={far:.6g})"
        if self.law == "constant":
            return f"nn.init.constant_({target}, {size})"
        return f"nn.init.{self.law}_({target})"

    def __str__(self) -> str:
        if self.law in ("zeros", "ones"):
            return self.law
        if self.law == "constant":
            return f"constant {self.scale:.6g}"
        cut = f", cut at {self.cut:.3g} std" if self.law == "truncated_normal" else ""
        law = "normal" if cut else self.law
        text = self.formula.replace("math.", "")
        return f"{law}, std {text or f'{self.scale:.6g}'}{cut}"


class Piece(NamedTuple):
    """A draw of some rows of a parameter.

    Attributes:
        draw: of their entries.
        axis, start, stop: which they are; all of the parameter where the axis is -1.
    """

    draw: Draw
    axis: int = -1
    start: int = 0
    stop: int = 0

    def of(self, x: Tensor) -> Tensor:
        """The part of a tensor."""
        return x if self.axis < 0 else x.narrow(self.axis, self.start, self.stop - self.start)

    def target(self, whole: str) -> str:
        """An expression for the part of a tensor."""
        if self.axis < 0:
            return whole
        return f"{whole}[{':, ' * self.axis}{self.start}:{self.stop}]"


ZEROS, ONES = Draw("zeros"), Draw("ones", 1.0)


def normal(scale: float, formula: str = "") -> Draw:
    """A normal law."""
    return Draw("normal", scale, formula)


def uniform(scale: float, formula: str = "") -> Draw:
    """A uniform law around 0, of a std."""
    return Draw("uniform", scale, formula)


def truncated(scale: float, cut: float = 2.0, formula: str = "") -> Draw:
    """A normal law without what is beyond some stds."""
    return Draw("truncated_normal", scale, formula, cut)


def cut_moments(cut: float) -> tuple[float, float]:
    """Variance, and kurtosis, of a standard normal law between -cut and cut."""
    inside = 2 * special.ndtr(cut) - 1
    edge = 2 * math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi) * cut / inside if cut < 40 else 0.0
    variance = 1 - edge
    return variance, (3 * variance - edge * cut**2) / variance**2


def drawn(pieces: tuple[Piece, ...], like: Tensor, generator: Generator) -> Tensor:
    """A tensor in the shape and type of another, drawn."""
    wide = torch.promote_types(like.dtype, torch.float32)
    x = like.detach().to("cpu", wide, copy=True).contiguous()
    for piece in pieces:
        part = piece.of(x)
        values = torch.empty(part.shape, dtype=wide)
        piece.draw.fill(values, generator)
        part.copy_(values)
    return x.to(like)


def _in(text: str) -> str:
    """An expression that may be a factor."""
    return f"({text})" if "/" in text else text
