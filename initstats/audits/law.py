"""The law that the entries of a tensor were drawn from, told from the entries alone.

Zeros, constants, identities and orthogonal matrices are recognized exactly. Among laws of chance
the likeliest is taken, and kept if a Kolmogorov-Smirnov test does not reject it. Its parameters
are estimated from the same entries, which makes the test reject less often than its level says
(Lilliefors 1967). A law is named if it is likelier than each other by a factor of 1 / level: so
often, or more rarely, entries of another law look like that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from initstats.draws import generator_for
from initstats.schemes.draw import cut_moments

Array = NDArray[np.float64]
Name = Literal[
    "zeros",
    "ones",
    "constant",
    "constants",
    "identity",
    "orthogonal",
    "normal",
    "uniform",
    "truncated_normal",
    "undecided",
    "unlike any",
    "not finite",
    "empty",
]

CHANCE = ("normal", "uniform", "truncated_normal", "undecided")
"""Laws of chance, of which a scale is known up to an error."""
SAMPLE = 2**15
"""Entries, at most, that a law is told from."""
FEW = 8
"""Different values of a tensor that is a pattern of constants, at most."""
FAR = 20.0
"""Standard deviations beyond which an entry is a stray."""
CUTS = (2.0, 3.0)
"""Where truncated laws are usually cut, in standard deviations of the normal law."""


@dataclass(frozen=True)
class Law:
    """A law, and its parameters.

    Attributes:
        name: of `Name`.
        value: of a constant; the gain of an orthogonal matrix or an identity; NaN of others.
        cut: where a truncated normal law ends, in standard deviations of the law before the cut.
        zeros: share of entries that are zero, where others are not.
        rounded: the narrower type to which all entries are rounded, `bfloat16` or `float16`.
        runs: of constants, how often each comes in a row, where there are few: `64 x 0, 64 x 1`.
    """

    name: Name
    value: float = math.nan
    cut: float = math.nan
    zeros: float = 0.0
    rounded: str = ""
    runs: str = ""

    def __str__(self) -> str:
        if self.name == "constant":
            return f"constant {self.value:.6g}"
        if self.runs:
            return f"constants: {self.runs}"
        if self.name == "truncated_normal":
            return f"normal, cut at {self.cut:.3g} std"
        return f"sparse {self.name}" if self.zeros else str(self.name)

    @property
    def kurtosis(self) -> float:
        """The fourth moment over the squared variance; 3 where the law is not known."""
        if self.name == "uniform":
            return 1.8
        return cut_moments(self.cut)[1] if self.name == "truncated_normal" else 3.0


def law_of(x: Tensor, level: float) -> Law:
    """The law of a tensor's entries.

    Args:
        x: real numbers, of any shape.
        level: probability with which a tensor that was drawn from a law of chance is told to be
            unlike any, at most.
    """
    if not x.numel():
        return Law("empty")
    low, high = (float(end) for end in torch.aminmax(x.detach()))
    if not math.isfinite(low - high):
        return Law("not finite")
    if low == high:
        known: dict[float, Name] = {0.0: "zeros", 1.0: "ones"}
        return Law(known.get(low, "constant"), value=low)
    own = x.detach()
    matrix = _matrix(own)
    if matrix is not None and (found := _pattern(matrix)):
        return found
    flat = without_strays(_some(own))
    if (values := np.unique(flat)).size <= FEW < flat.size:
        return Law("constants", value=float(values[-1]), runs=_runs(own))
    rounded = _rounding(own, flat)
    if matrix is not None and (gain := _gain(matrix, coarse=rounded == "bfloat16")):
        return Law("orthogonal", value=gain, rounded=rounded)
    kept = flat[flat != 0]
    share = 1 - kept.size / flat.size
    if share < 0.01:  # chance, or a padding row
        share = 0.0
    return _chance(_spread(kept, rounded), level, share, rounded)


def _chance(x: Array, level: float, zeros: float, rounded: str) -> Law:
    """The likeliest law, unless a test rejects it."""
    n, nats = x.size, -math.log(level)
    if n < FEW:
        return Law("undecided", zeros=zeros, rounded=rounded)
    mean = float(x.mean())
    off = x - mean if abs(mean) > 5 * float(x.std()) / math.sqrt(n) else x
    end, square = float(np.abs(off).max()) * (1 + 1 / n), float(np.square(off).mean())
    known = {
        Law("normal", zeros=zeros, rounded=rounded): -0.5 * math.log(2 * math.pi * square) - 0.5,
        Law("uniform", zeros=zeros, rounded=rounded): -math.log(2 * end),
    }
    cuts = {
        Law("truncated_normal", cut=cut, zeros=zeros, rounded=rounded): _likelihood(
            cut, end, square
        )
        for cut in (*CUTS, _freely_cut(end, square))
    }
    usual, *finer = cuts
    known[usual] = cuts[usual]
    second, first = sorted(known, key=lambda law: known[law])[-2:]
    if n * (known[first] - known[second]) < nats:
        return Law("undecided", zeros=zeros, rounded=rounded)
    for law in finer:  # a cut of one's own, where it is much the likelier
        if n * (cuts[law] - max(known[first], cuts[usual])) > nats + 2 and 0.5 < law.cut < 5:
            first = law
            break
    fits = _fits(first, off, end, square, level)
    return first if fits else Law("unlike any", zeros=zeros, rounded=rounded)


def _likelihood(cut: float, end: float, square: float) -> float:
    """The mean logarithm of a cut normal law's density, at its most likely scale."""
    scale = end / cut  # the least that reaches the last entry is the likeliest
    inside = math.log(scale * math.sqrt(2 * math.pi) * (2 * float(special.ndtr(cut)) - 1))
    return -inside - square / scale**2 / 2


def _fits(law: Law, off: Array, end: float, square: float, level: float) -> bool:
    """Whether a test does not reject a law."""
    if law.name == "uniform":
        share = (off / end + 1) / 2
    elif law.name == "normal":
        share = special.ndtr(off / math.sqrt(square))
    else:
        below = special.ndtr(-law.cut)
        scale = end / law.cut
        share = (special.ndtr(off / scale) - below) / (1 - 2 * below)
    share = np.sort(share)
    steps = np.arange(1, share.size + 1) / share.size
    distance = max(float((steps - share).max()), float((share - steps).max()) + 1 / share.size)
    return bool(stats.kstwo.sf(distance, share.size) > level)


def _freely_cut(end: float, square: float) -> float:
    """The cut at which a normal law has this variance between these ends."""
    ratio, low, high = end / math.sqrt(square), 0.3, 8.0
    for _ in range(40):
        cut = (low + high) / 2
        low, high = (cut, high) if cut / math.sqrt(cut_moments(cut)[0]) < ratio else (low, cut)
    return low


def _runs(x: Tensor) -> str:
    """How often each number comes in a row; empty where there are more than `FEW` rows."""
    values, counts = torch.unique_consecutive(x.flatten(), return_counts=True)
    if len(values) > FEW:
        return ""
    pairs = zip(counts.tolist(), values.tolist(), strict=True)
    return ", ".join(f"{count} x {value:.6g}" for count, value in pairs)


def _matrix(x: Tensor) -> Tensor | None:
    """A tensor as (outputs, inputs), if it has at least two of each."""
    if x.ndim < 2 or x.shape[0] < 2 or x.numel() == x.shape[0]:
        return None
    return x.flatten(1)


def _pattern(x: Tensor) -> Law | None:
    """Whether a matrix has one number in each row or column at most, all alike, and zeros."""
    least = min(x.shape)
    found = x[:64].ne(0).sum(1)
    if int(found.max()) > 1:
        return None
    entries = x[x != 0]
    if len(entries) > max(x.shape) or len(entries) < least // 2 or entries.min() != entries.max():
        return None
    return Law("identity", value=float(entries[0]))


def _gain(x: Tensor, *, coarse: bool) -> float:
    """The factor of a matrix whose rows, or columns, are orthogonal and of one length; else 0."""
    rows, columns = x.shape
    least, tolerance = min(rows, columns), 1e-2 if coarse else 2e-5
    if coarse and least < 8:
        return 0.0
    x = x.double() if least <= 256 else x.float()
    if rows > columns:
        x = x.T
    if least <= 256:
        gram = x @ x.T
        mean = gram.diagonal().mean()
        off = gram - mean * torch.eye(least, dtype=gram.dtype, device=gram.device)
        return float(mean.sqrt()) if off.abs().max() < tolerance * mean else 0.0
    drawn = generator_for(0, "orthogonal")
    v = torch.randn(least, 4, generator=drawn).to(x)
    mean = x.square().sum(dtype=torch.float64) / least
    ratio = (x.T @ v).double().square().sum(0) / v.double().square().sum(0) / mean
    return float(mean.sqrt()) if (ratio - 1).abs().max() < 10 * tolerance else 0.0


def _some(x: Tensor) -> Array:
    """Entries spread over the tensor, all of them if there are few."""
    flat = x.reshape(-1)
    if flat.numel() > SAMPLE:
        drawn = np.random.default_rng(flat.numel()).integers(flat.numel(), size=SAMPLE)
        flat = flat[torch.from_numpy(np.unique(drawn)).to(flat.device)]
    return flat.double().cpu().numpy()


def without_strays(values: Array) -> Array:
    """Values without the few that are far beyond all others.

    A cut normal law drawn in float32 (`torch.nn.init.trunc_normal_`) puts one entry in some
    millions at the cut, a hundred standard deviations off.
    """
    return values[np.abs(values) <= FAR * float(np.sqrt(np.square(values).mean()))]


def _rounding(x: Tensor, values: Array) -> str:
    """The narrower type whose numbers all these are, if one is."""
    sample = torch.from_numpy(values)
    for dtype in (torch.bfloat16, torch.float16):
        if bool((sample.to(dtype).double() == sample).all()) and len(values) >= FEW:
            return str(dtype).removeprefix("torch.")
    return ""


def _spread(values: Array, rounded: str) -> Array:
    """Rounded numbers with what the rounding took, drawn anew: no two are equal for it."""
    if not rounded:
        return values
    digits = {"bfloat16": 8, "float16": 11}[rounded]
    _, exponent = np.frexp(values)
    step = np.ldexp(1.0, exponent - digits)
    drawn = np.random.default_rng(values.size).random(values.size) - 0.5
    return np.asarray(values + drawn * step, np.float64)
