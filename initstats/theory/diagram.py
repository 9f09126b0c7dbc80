"""The phase diagram of an activation: how far signals reach, over sigma_w and sigma_b.

Drawn to three digits: q is looked for between the points of a fine mesh, and correlations come
from a Hermite series (Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017,
arXiv:1611.01232). Numbers that are printed are those of `fixed_point`, to all of its digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import pandas as pd
import torch
from numpy.polynomial import hermite_e, polynomial
from numpy.typing import NDArray

from initstats import activations, inits
from initstats.activations import Activation
from initstats.theory.maps import Phi, check_variance
from initstats.theory.phases import FixedPoint, edge_of_chaos, fixed_point
from initstats.theory.response import response

Array = NDArray[np.float64]
Fixed = Callable[[float, float], FixedPoint]
"""The fixed point of an activation at sigma_w2 and sigma_b2."""

FAN = 50
"""fan_in and fan_out at which inits are placed."""
_LOG_Q = np.linspace(math.log(1e-5), math.log(1e5), 401)
_START = int(np.argmin(np.abs(_LOG_Q)))  # q0 = 1
_DEGREE, _POINTS, _REACH = 60, 2001, 10.0  # of the Hermite series, and of its integrals in z
_SIDE = 101  # number of cells along each side of the diagram
_LEAST_WIDE, _MOST_WIDE = 2.5, 12.0  # least and most sigma_w at the right side
_EQUAL = 1e-7  # relative difference that interpolation makes, and that counts as none


@dataclass(frozen=True)
class Diagram:
    """What there is to draw of an activation. Cells are (rows, columns)."""

    name: str  # the activation's
    sigma_w: Array  # centres of the cells, (columns,)
    sigma_b: Array  # centres of the cells, (rows,)
    q_star: Array  # what q0 = 1 runs to in each cell; 0 or inf where it dies out or diverges
    chi_1: Array  # at q_star
    xi_c: Array  # depth scale of correlations; NaN where q diverges
    edge: pd.DataFrame  # `sigma_w`, `sigma_b`, `q_star`, `chi_q` along the edge of chaos
    sigma_b2: float  # variance of the biases in the maps and in `words`
    words: str  # where the edge is at sigma_b2, or why there is none
    inits: pd.DataFrame  # a row each: `init sigma_w2 sigma_b2`, its fixed point, why none in `note`
    lengths: pd.DataFrame  # `q`, and what a layer makes of it for each label of `fixed`
    correlations: pd.DataFrame  # `c`, likewise, at q_star
    fixed: pd.DataFrame  # `sigma_w2`, `q_star`, `c_star` for each label


def diagram(fn: Phi, sigma_b2: float = 0.0) -> Diagram:
    """Compute the phase diagram, the place of every registered init, and the maps.

    Args:
        fn: the activation.
        sigma_b2: variance of the biases in the maps.

    Raises:
        ValueError: sigma_b2 is negative; E phi(h)^2 does not exist.
    """
    check_variance("sigma_b2", sigma_b2)
    phi = _Mesh(activations.get(fn))
    fixed_at = cache(partial(fixed_point, phi.entry))
    placed = _placed(phi.entry, fixed_at)
    widest = 1.1 * max(placed["sigma_w2"].max() ** 0.5, phi.edge["sigma_w"].min())
    highest = 1.1 * max(placed["sigma_b2"].max() ** 0.5, sigma_b2**0.5)
    centres = (np.arange(_SIDE) + 0.5) / _SIDE  # no cell is at 0, where all is different
    sigma_w = min(max(_LEAST_WIDE, widest), _MOST_WIDE) * centres
    sigma_b = max(1.0, highest) * centres
    w2, b2 = np.meshgrid(sigma_w**2, sigma_b**2)
    q_star, where = phi.fixed(w2, b2)
    chi_1 = w2 * phi.at(phi.slope_square, where)
    following = w2 * phi.at(phi.square, where) + b2
    stretch = phi.at(phi.q, where) / np.maximum(following, 1e-300)  # 1 where q stays
    c_star, chi_c = phi.correlation(w2, b2, where)
    chi_c = np.where(c_star < 1, chi_c, chi_1 * stretch)
    with np.errstate(divide="ignore", invalid="ignore"):
        xi_c = 1 / np.abs(np.log(chi_c))
    words, at_edge = _edge_in_words(phi.entry, sigma_b2)
    fixed = _settings(phi, fixed_at, placed, at_edge, sigma_b2)
    return Diagram(
        phi.entry.name,
        sigma_w,
        sigma_b,
        q_star,
        chi_1,
        np.where(np.isinf(q_star), np.nan, xi_c),
        phi.edge,
        sigma_b2,
        words,
        placed,
        *_maps(phi, fixed, sigma_b2),
        fixed,
    )


class _Mesh:
    """Moments of an activation on a mesh of log q, and what follows from them."""

    def __init__(self, entry: Activation) -> None:
        self.entry, self.q = entry, np.exp(_LOG_Q)
        r = response(entry, self.q)
        self.square = r.square
        self.slope_square = np.full_like(r.square, math.inf) if entry.jumps else r.slope_square
        self.square_1 = r.square_1

    @cached_property
    def kernel(self) -> Array:
        """Squared Hermite coefficients, (q, degrees); the last holds all that is left."""
        z = np.linspace(-_REACH, _REACH, _POINTS)
        density = np.exp(-(z**2) / 2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
        norms = np.sqrt([float(math.factorial(k)) for k in range(_DEGREE)])
        basis = density[:, None] * hermite_e.hermevander(z, _DEGREE - 1) / norms
        x = torch.from_numpy(np.sqrt(self.q)[:, None] * z)
        known = (self.entry(x).double().numpy() @ basis) ** 2
        return np.hstack([known, np.maximum(self.square - known.sum(1), 0.0)[:, None]])

    @cached_property
    def edge(self) -> pd.DataFrame:
        """The edge of chaos, by rising q_star; empty where there is none."""
        if self.entry.jumps or not (self.slope_square > 0).all():
            return pd.DataFrame(columns=["sigma_w", "sigma_b", "q_star", "chi_q"], dtype=float)
        w2 = 1 / self.slope_square
        b2 = self.q - w2 * self.square
        b2 = np.where(np.abs(b2) < _EQUAL * self.q, 0.0, b2)
        where = np.arange(len(b2), dtype=float)
        for low in np.flatnonzero(b2[:-1] * b2[1:] < 0):  # here the edge comes down to no biases
            foot, top = b2[low] / (b2[low] - b2[low + 1]), float(b2[low + 1] > 0)
            where = np.append(where, low + foot + (top - foot) * np.linspace(0, 1, 40) ** 2)
        where = np.sort(where)
        w2, b2, q, chi_q = (
            self.at(values, where) for values in (w2, b2, self.q, w2 * self.square_1)
        )
        b2 = np.where(np.abs(b2) < _EQUAL * q, 0.0, b2)
        columns = {"sigma_w": np.sqrt(w2), "sigma_b": np.sqrt(np.maximum(b2, 0.0))}
        return pd.DataFrame(columns | {"q_star": q, "chi_q": chi_q})[b2 >= 0].reset_index(drop=True)

    def fixed(self, w2: Array, b2: Array) -> tuple[Array, Array]:
        """What q0 = 1 runs to, and its place on the mesh, as an index between points."""
        pull = (w2[..., None] * self.square + b2[..., None]) / self.q - 1
        rising, falling = pull[..., _START] > _EQUAL, pull[..., _START] < -_EQUAL
        up = _START + (pull[..., _START:] <= 0).argmax(-1)  # _START itself where q stops nowhere
        down = _START - (pull[..., _START::-1] >= 0).argmax(-1)
        met = (rising & (up > _START)) | (falling & (down < _START))
        behind = np.where(rising, up, down + 1)
        before, after = (
            np.take_along_axis(pull, each[..., None], -1)[..., 0] for each in (behind - 1, behind)
        )
        share = np.divide(before, before - after, out=np.zeros_like(w2), where=met)
        last = len(self.q) - 1
        where = np.select([met, rising, falling], [behind - 1 + share, last, 0], _START)
        q = self.at(self.q, where)
        return np.select([rising & ~met, falling & ~met], [math.inf, 0.0], q), where

    @staticmethod
    def at(values: Array, where: Array) -> Array:
        """Values (mesh, ...) between the points of the mesh."""
        low = np.floor(where).astype(int).clip(0, len(values) - 2)
        share = (where - low).reshape(*where.shape, *(1,) * (values.ndim - 1))
        with np.errstate(invalid="ignore"):  # slopes of jumps are infinite
            between = (1 - share) * values[low] + share * values[low + 1]
        return np.asarray(np.where(np.isinf(values[low]), np.inf, between))

    def correlation(self, w2: Array, b2: Array, where: Array) -> tuple[Array, Array]:
        """The c that samples run to, and the slope of the correlation map there if c < 1.

        The map is convex, and crosses the diagonal once below 1 where it does.
        """
        kernel = self.at(self.kernel, where)
        low, high = np.zeros_like(w2), np.full_like(w2, 1 - 1e-4)
        chaotic = (w2 * self.at(self.slope_square, where) > 1) & (
            _next_c(high, w2, b2, kernel) < high
        )
        for _ in range(30):
            middle = (low + high) / 2
            above = _next_c(middle, w2, b2, kernel) > middle
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        c = np.where(chaotic, low, 1.0)
        slopes = polynomial.polyder(np.moveaxis(kernel, -1, 0))
        slope = polynomial.polyval(c, slopes, tensor=False)
        return c, w2 * slope / self.at(self.q, where)


def _next_c(c: Array, w2: Array, b2: Array, kernel: Array) -> Array:
    """The correlation map, for the kernel at some q."""
    moment = polynomial.polyval(c, np.moveaxis(kernel, -1, 0), tensor=False)
    following = w2 * kernel.sum(-1) + b2
    following = np.where(following > 0, following, math.inf)
    return np.asarray((w2 * moment + b2) / following)


def _placed(entry: Activation, fixed_at: Fixed) -> pd.DataFrame:
    """Where each registered init lies, and what becomes of a signal there."""
    rows = []
    for init in inits.INITS.values():
        row: dict[str, object] = {"init": init.name, "note": ""}
        try:
            w2, b2 = init.sigma_w2((FAN, FAN), entry), init.sigma_b2((FAN, FAN), entry)
            if init.fitted or math.isnan(w2 + b2):
                row["note"] = "fitted to data" if init.fitted else "no variance to place it by"
            else:
                row |= {"sigma_w2": w2, "sigma_b2": b2}
                row |= vars(fixed_at(w2, b2))
        except ValueError as error:
            row["note"] = str(error)
        rows.append(row)
    numbers = ["sigma_w2", "sigma_b2", *FixedPoint.__annotations__]
    return pd.DataFrame(rows, columns=["init", *numbers, "note"])


def _edge_in_words(entry: Activation, sigma_b2: float) -> tuple[str, float]:
    """Where the edge is at a variance of the biases, in words and as sigma_w2, or why nowhere."""
    try:
        edge = edge_of_chaos(entry, sigma_b2)
    except ValueError as error:
        return str(error), math.nan
    where = f"at q = {edge.q_star:.6g}" if edge.q_star > 0 else "in the limit of small signals"
    if math.isnan(edge.q_star):
        where = "whatever the signal's size q"
    words = (
        f"{entry.name}: the edge of chaos at sigma_b2 = {sigma_b2:g} is sigma_w2 = "
        f"{edge.sigma_w2:.8g} (sigma_w = {edge.sigma_w2**0.5:.6g}), {where}"
    )
    if edge.chi_q > 1 + _EQUAL:
        words += f"; an error in q grows there, chi_q = {edge.chi_q:.4g}"
    return words, edge.sigma_w2


def _settings(
    phi: _Mesh, fixed_at: Fixed, placed: pd.DataFrame, at_edge: float, sigma_b2: float
) -> pd.DataFrame:
    """The sigma_w2 that the maps are drawn for, by label: the common ones, and the edge's."""
    found = placed.set_index("init")["sigma_w2"]
    common = {"lecun": found["lecun_normal"], "kaiming": found["kaiming_normal"]}
    rows: dict[str, float] = {}
    for label, w2 in {**common, "matched": found["matched"], "the edge": at_edge}.items():
        same = next((other for other in rows if math.isclose(rows[other], w2)), None)
        if same:
            rows[f"{same}, {label}"] = rows.pop(same)
        elif math.isfinite(w2):
            rows[label] = w2
    w2, b2 = np.array([*rows.values()]), np.full(len(rows), sigma_b2)
    points = [fixed_at(value, sigma_b2) for value in w2]
    columns = {"q_star": [p.q_star for p in points], "c_star": [p.c_star for p in points]}
    return pd.DataFrame({"sigma_w2": w2, **columns, "where": phi.fixed(w2, b2)[1]}, index=[*rows])


def _maps(phi: _Mesh, fixed: pd.DataFrame, sigma_b2: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The length map and the correlation map of every setting."""
    c = np.linspace(0, 1, 101)
    lengths, correlations = {"q": phi.q}, {"c": c}
    for label, w2, where in zip(fixed.index, fixed["sigma_w2"], fixed["where"], strict=True):
        lengths[label] = w2 * phi.square + sigma_b2
        kernel = phi.at(phi.kernel, np.array(where))
        correlations[label] = _next_c(c, w2, np.array(sigma_b2), kernel)
    return pd.DataFrame(lengths), pd.DataFrame(correlations)
