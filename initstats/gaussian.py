"""Expectations over N(0, 1) of any callable, and the gains that follow from them.

A wide layer's pre-activations are Gaussian with second moment q, so what an activation does to
a signal is an integral against the normal density (Poole et al. 2016, arXiv:1606.05340). The
quadrature bisects 15-point Gauss-Legendre panels until halving one changes nothing: unlike
Gauss-Hermite it keeps its digits at kinks and jumps, and it needs no list of them. Values at the
ends of a panel are compared too, so that no kink hides between its last node and its neighbour.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss, legvander
from torch import Tensor

Function = Callable[[Tensor], Tensor]

_REACH = 38.0  # |z| beyond which the density is less than float64 can hold
_WIDTH = 0.5  # width in z of a panel before any bisection
_TOLERANCE = 1e-13  # change by halving that settles a panel, relative to the whole integral
_HIDDEN = 1e-12  # most that may hide at the ends of a settled panel, relative to the whole
_EXISTS = 1e-9  # most that an unresolved panel may hold, relative to the whole
_DEEPEST = 200  # bisections; floats are that dense only around zero
_PANELS = 50_000  # most panels open at once: more means noise, not structure
_OFF = 0.1234567891  # moves the first panels, so that no kink lies on an edge of them
_JUMP = 1e-7  # change of f, times the density, that counts where the derivative does not explain it

_WIDE = torch.arange(-_REACH, _REACH + _WIDTH, _WIDTH, dtype=torch.float64)
"""Ends of panels over all of the density."""
_NODES, _WEIGHTS = (torch.from_numpy(side) for side in leggauss(15))
_ENDS = (1 - 1e-11) * torch.tensor([-1.0, 1.0], dtype=torch.float64)  # f may be undefined at zero
_UNSEEN = 1 - float(_NODES[-1])  # share of half a panel that lies beyond its last node
_POWERS, _END_POWERS = (legvander(places.numpy(), 14).T for places in (_NODES, _ENDS))
_TO_ENDS = torch.from_numpy(np.linalg.solve(_POWERS, _END_POWERS))
"""(15, 2): takes values at the nodes to those of their polynomial at the ends."""

_HERE = threading.local()
_GUARD = threading.Lock()
_OUTSIDE: list[int] = []  # for every caller inside `one_thread`, the number to go back to


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch's: for tensors as small as here, several only wait for each other.

    Callers in several Python threads may overlap and return in any order. Torch keeps a number for
    each Python thread; a thread that starts takes over the number that any thread set last.
    """
    if getattr(_HERE, "inside", False):
        yield
        return
    with _GUARD:
        number = torch.get_num_threads()
        if number == 1 and _OUTSIDE:  # taken over from a caller inside
            number = _OUTSIDE[0]
        _OUTSIDE.append(number)
        torch.set_num_threads(1)
    _HERE.inside = True
    try:
        yield
    finally:
        _HERE.inside = False
        with _GUARD:
            _OUTSIDE.remove(number)
            torch.set_num_threads(number)


@dataclass(frozen=True)
class Gain:
    """The weight scales that suit an activation phi, at pre-activations z ~ N(0, 1).

    A gain g is used as ``std = g / sqrt(fan_in)``, hence sigma_w^2 = g^2. Sources: He et al.
    2015 (forward), Brock et al. 2021 (variance), Schoenholz et al. 2017 (chi_1, chi_q).

    Attributes:
        forward: 1 / sqrt(E phi(z)^2) keeps the second moment of the signal.
        variance: 1 / sqrt(Var phi(z)) makes the variance of g * phi(z) one, for weights that have
            zero mean over their inputs or behind a normalization.
        backward: 1 / sqrt(E phi'(z)^2) keeps the squared norm of gradients.
        chi_1: with the forward gain, the factor a layer multiplies a gradient's squared norm by,
            and the slope of the correlation map at 1; above 1 is chaotic, below 1 ordered.
        chi_q: with the forward gain, the factor of an error in q; above 1, q = 1 does not last.
        note: why a gain is infinite or a chi says less than usual; empty where all exist.
    """

    forward: float
    variance: float
    backward: float
    chi_1: float
    chi_q: float
    note: str = ""

    @property
    def advice(self) -> str:
        """Which gain to use, in a paragraph."""
        if math.isinf(self.forward):
            return f"No weight scale keeps a signal: {self.note}."
        sentences = {
            f"For plain layers use forward: std = {self.forward:.5g} / sqrt(fan_in) keeps the "
            "second moment.": True,
            f"A layer then multiplies a gradient's squared norm by {self.chi_1:.4g}.": (
                math.isfinite(self.chi_1)
            ),
            f"Where gradients limit the depth, backward ({self.backward:.5g}) keeps that norm.": (
                math.isfinite(self.backward)
            ),
            f"Where weights or layers remove the mean, use variance ({self.variance:.5g}).": (
                math.isfinite(self.variance)
            ),
            f"Mind chi_q = {self.chi_q:.4g} > 1: an error in q grows by that factor a layer, so "
            "the forward gain holds for some layers only.": self.chi_q > 1 + 1e-9,
            f"But: {self.note}.": self.note != "",
        }
        return " ".join(sentence for sentence, holds in sentences.items() if holds)


def expect(f: Function, q: float = 1.0) -> float:
    """E f(sqrt(q) z) over z ~ N(0, 1), to a relative 1e-10 or better of E |f|.

    `f` maps a float64 tensor of shape (points,) to one of the same shape; it may have kinks,
    jumps and integrable poles, oscillate or grow.

    >>> round(expect(torch.relu), 12) == round(1 / math.sqrt(2 * math.pi), 12)
    True

    Raises:
        ValueError: q is negative or not finite; `f` returns NaN or something else than a tensor
            of its input's shape; the integral does not exist, or is out of float64's reach.
    """
    return expect_rows(lambda x: _checked(f, x).unsqueeze(0), q)[0]


def expect_rows(f: Function, q: float = 1.0) -> list[float]:
    """Several expectations in one pass: `f` maps (points,) to (rows, points), see `expect`."""
    if not 0 <= q < math.inf:
        raise ValueError(f"q is a second moment, finite and >= 0: got {q}")
    scale = math.sqrt(q)
    edges = torch.cat([_WIDE, *_near(scale)]).sort().values
    totals = _integrate(lambda z: f(scale * z), scale, edges)
    if not totals.exist.all():
        raise ValueError(
            f"E f(sqrt(q) z) does not exist at q = {q:g}, or is out of float64's reach: f grows "
            "too fast at a pole or far from zero"
        )
    return [float(value) for value in totals.values]


def bends(f: Function, q: float = 1.0, kinks: Sequence[float] = ()) -> Tensor:
    """Ascending x between which f and f^2 are smooth enough for their means over N(0, q).

    `kinks` are those x that are known; the others are found.

    >>> [round(x, 9) for x in bends(lambda x: x.clamp(-1, 2), kinks=[-1, 2]).tolist()]
    [-1.0, 2.0]

    Raises:
        ValueError: as `expect`.
    """
    scale = math.sqrt(q)
    known = torch.tensor([*kinks], dtype=torch.float64) / scale
    found = [*_near(scale), known[known.abs() < _REACH]]

    def rows(z: Tensor) -> Tensor:
        y = _checked(f, scale * z)
        return torch.stack([y, y.square()])

    # a kink at an edge of the first panels does no harm there, and so would not be seen
    first = np.unique(torch.cat([_WIDE - _OFF, *found]).numpy())
    totals = _integrate(rows, scale, torch.from_numpy(first))
    for panels in totals.settled[1:]:
        found += [panels.left, panels.right]
    return scale * torch.from_numpy(np.unique(torch.cat(found).numpy()))


def derivative_of(f: Function) -> Function:
    """The almost-everywhere derivative of an elementwise `f` by autograd, in the input's dtype.

    Zero where autograd has no graph to follow (comparisons, `sign`): jumps are not seen.
    """
    return partial(_slope, f)


@one_thread()
def gain(f: Function, derivative: Function | None = None) -> Gain:
    """The gains of an activation, by quadrature at q = 1; autograd gives a missing derivative.

    A step, a sign and a constant are no error: what does not exist is infinite (chi of a
    function that is zero everywhere: NaN), and `Gain.note` says why. `f` may give several channels,
    (points, channels): expectations are then also over them.

    >>> round(gain(torch.relu).forward, 9)
    1.414213562

    Raises:
        ValueError: as `expect`, for f and f^2; or the derivative is NaN.
    """
    slope_of = derivative or derivative_of(f)

    def rows(z: Tensor) -> Tensor:
        y, slope = _by_channel(f, z), _by_channel(slope_of, z)
        # The plain slope is there to refine the panels in which a jump is looked for.
        radial = (z * z - 1)[:, None] * y.square()
        return torch.stack([y, y.square(), radial, slope, slope.square()]).mean(-1)

    totals = _integrate(rows, 1.0, _WIDE)
    if not totals.exist[:3].all():
        raise ValueError("E phi(z)^2 does not exist: phi grows too fast, or has too strong a pole")
    mean, square, radial, _, slope_square = totals.values.tolist()
    spread = square - mean * mean
    smooth = bool(totals.exist[3:].all())
    slope_square = slope_square if smooth else math.inf
    jumps = smooth and _jumps(f, slope_of, totals)
    notes = {
        "phi is zero everywhere": square == 0,
        "phi is constant, so its variance is zero": square > 0 and spread <= 1e-13 * square,
        "the derivative is zero almost everywhere, so no backward gain exists": slope_square == 0,
        "E phi'(z)^2 does not exist, so gradients have no finite size": slope_square == math.inf,
        "phi jumps, which its derivative does not see: two inputs however close are told apart, "
        "so chi_1 is infinite": jumps,
    }
    forward = _inverse_root(square)
    return Gain(
        forward=forward,
        variance=_inverse_root(spread if spread > 1e-13 * square else 0.0),
        backward=_inverse_root(slope_square) if slope_square < math.inf else math.inf,
        chi_1=math.inf if jumps else slope_square / square if square else math.nan,
        chi_q=radial / (2 * square) if square else math.nan,
        note="; ".join(note for note, holds in notes.items() if holds),
    )


class _Panels(NamedTuple):
    left: Tensor  # (panels,), in z
    right: Tensor
    value: Tensor  # (rows, panels): integrals with the density
    size: Tensor  # integrals of the absolute values
    hidden: Tensor  # what may hide between a last node and the end

    def some(self, which: Tensor | slice) -> _Panels:
        return _Panels(*(field[..., which] for field in self))


class _Totals(NamedTuple):
    values: Tensor  # (rows,)
    exist: Tensor  # (rows,), bool
    settled: list[_Panels]  # the halves that needed no further bisection, after 0, 1, ... of them


def mesh(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes (..., points) between edges (..., edges), and weights that include the density.

    For what is smooth between the edges: sums over the nodes are its expectations over N(0, 1).
    """
    edges = edges.sort(dim=-1).values
    half = edges.diff(dim=-1)[..., None] / 2
    nodes = edges[..., :-1, None] + half * (1 + _NODES)
    weights = half * _WEIGHTS * torch.exp(-nodes.square() / 2) / math.sqrt(2 * math.pi)
    return nodes.flatten(-2), weights.flatten(-2)


@one_thread()
def integral(f: Function, edges: Tensor) -> float:
    """The integral of a function of z with the normal density, between the outer edges.

    `f` maps (points,) to (points,). The `edges`, ascending, are the ends of the first panels, best
    where f bends.

    Raises:
        ValueError: f is NaN or too irregular.
    """
    return float(_integrate(lambda z: f(z).unsqueeze(0), 1.0, edges).values)


@one_thread()
def _integrate(rows: Function, scale: float, edges: Tensor) -> _Totals:
    """The integrals of rows(z), (rows, points), with the density; messages tell x = scale z."""
    panels, exist = _first_panels(rows, scale, edges)
    if not panels.value.shape[1]:
        raise ValueError("the function has no finite value")
    done, done_size = (torch.zeros_like(side[:, 0]) for side in (panels.value, panels.size))
    settled = []
    for level in range(_DEEPEST + 1):
        middle = (panels.left + panels.right) / 2
        halves = _sums(rows, torch.cat([panels.left, middle]), torch.cat([middle, panels.right]))
        _refuse_nan(rows, scale, halves)
        change = (halves.value.view(len(exist), 2, -1).sum(1) - panels.value).abs()
        whole = (done_size + panels.size.sum(1))[:, None]
        unresolved = ((change > _TOLERANCE * whole) | (panels.hidden > _HIDDEN * whole)).any(0)
        width = panels.right - panels.left
        splittable = (width > _TOLERANCE * middle.abs()) & (level < _DEEPEST)
        exist &= (change <= _EXISTS * whole)[:, unresolved & ~splittable].all(1)
        again = (unresolved & splittable).repeat(2)
        settled.append(halves.some(~again))
        done += settled[-1].value.sum(1)
        done_size += settled[-1].size.sum(1)
        panels = halves.some(again)
        if not again.any():
            break
        if len(panels.left) > _PANELS:
            raise ValueError(
                "the function is too irregular to integrate: is it random, does it oscillate, or "
                "is it computed in less than float64?"
            )
    return _Totals(done, exist & done.isfinite(), settled)


def _near(scale: float) -> tuple[Tensor, Tensor]:
    """Edges ever closer to zero, by halves: what f does at |x| ~ 1 is narrow in z = x / scale."""
    halvings = math.ceil(math.log2(max(scale, 1.0)))
    near = _WIDTH * torch.exp2(-torch.arange(1, halvings + 1, dtype=torch.float64))
    return near, -near


def _first_panels(rows: Function, scale: float, edges: Tensor) -> tuple[_Panels, Tensor]:
    """Panels between the edges, and which rows have vanished at their ends."""
    panels = _sums(rows, edges[:-1], edges[1:])
    # Overflow where the density is nothing is cut off; what is next to the cut must be nothing.
    overflow = (~panels.value.isfinite().all(0)).nonzero().flatten()
    below, above = overflow[edges[overflow] < 0], overflow[edges[overflow] >= 0]
    start = int(below[-1]) + 1 if len(below) else 0
    stop = int(above[0]) if len(above) else len(edges) - 1
    kept = panels.some(slice(start, stop))
    tails = panels.size[:, [start, stop - 1]].amax(1)  # infinite where nothing is kept
    exist = tails <= 1e-14 * kept.size.sum(1)
    if not exist.all():
        _refuse_nan(rows, scale, panels)
    return kept, exist


def _sums(rows: Function, left: Tensor, right: Tensor) -> _Panels:
    """Evaluate the rows, once, over panels."""
    half = (right - left)[:, None] / 2
    z = (left + right)[:, None] / 2 + half * torch.cat([_NODES, _ENDS])
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    weighted = rows(z.flatten()).view(-1, *z.shape) * density * half
    inner, ends = weighted[..., : len(_NODES)], weighted[..., len(_NODES) :]
    hidden = _UNSEEN * (ends - inner @ _TO_ENDS).abs().amax(2)
    return _Panels(left, right, inner @ _WEIGHTS, inner.abs() @ _WEIGHTS, hidden)


def _refuse_nan(rows: Function, scale: float, panels: _Panels) -> None:
    """Raise where the rows are NaN themselves, not merely their sums of opposite infinities."""
    bad = panels.value.isnan().any(0)
    if not bad.any():
        return
    left, right = panels.left[bad, None], panels.right[bad, None]
    z = ((left + right) / 2 + (right - left) / 2 * _NODES).flatten()
    nan = z[rows(z).isnan().any(0)]
    if len(nan):
        where = scale * float(nan[nan.abs().argmin()])
        raise ValueError(f"the function or its derivative is NaN, at x = {where:.4g} for one")


def _jumps(f: Function, derivative: Function, totals: _Totals) -> bool:
    """Whether f changes over some panel by more than its derivative accounts for."""
    left, right = (torch.cat(sides) for sides in zip(*(p[:2] for p in totals.settled), strict=True))
    middle, half = (left + right) / 2, (right - left) / 2
    z = middle[:, None] + half[:, None] * _NODES
    slopes = _by_channel(derivative, z.flatten()).view(*z.shape, -1)
    explained = torch.einsum("pnc,n,p->pc", slopes, _WEIGHTS, half)
    change = _by_channel(f, right) - _by_channel(f, left)
    density = torch.exp(-middle * middle / 2) / math.sqrt(2 * math.pi)
    size = math.sqrt(totals.values[1]) + math.sqrt(totals.values[4])
    return bool(((change - explained).abs().amax(-1) * density > _JUMP * size).any())


def _by_channel(f: Function, z: Tensor) -> Tensor:
    """f(z) in float64, (points, channels)."""
    several = f(z.clone())
    if isinstance(several, Tensor) and several.ndim == 2 and len(several) == len(z):
        return several.detach().double()
    return _checked(lambda _: several, z)[:, None]


def _checked(f: Function, x: Tensor) -> Tensor:
    """f(x) in float64, or an error that says what f returned instead."""
    y = f(x.clone())  # f may write to its input
    if not isinstance(y, Tensor):
        raise ValueError(f"the function must return a tensor, not {type(y).__name__}")
    if y.shape != x.shape:
        raise ValueError(
            f"the function must be elementwise: it made {tuple(y.shape)} of {tuple(x.shape)}"
        )
    return y.detach().double()


def _slope(f: Function, x: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        y = f(leaf.clone())  # f may write to its input
        if not y.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(y, leaf, torch.ones_like(y), materialize_grads=True)[0]


def _inverse_root(square: float) -> float:
    return 1 / math.sqrt(square) if square > 0 else math.inf
