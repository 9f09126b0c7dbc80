"""The phase diagram of an activation: how far signals reach, over sigma_w and sigma_b.

Drawn to three digits: q is looked for between the points of a fine mesh, and correlations come
from a Hermite series (Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017,
arXiv:1611.01232). Numbers that are printed are those of `fixed_point`, to all of its digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy.polynomial import hermite_e
from numpy.typing import NDArray

from initstats import activations, inits
from initstats.activations import Activation
from initstats.theory.maps import Phi, check_variance
from initstats.theory.phases import edge_of_chaos, fixed_point
from initstats.theory.propagation import jumps
from initstats.theory.response import response

Array = NDArray[np.float64]

FAN = 50
"""fan_in and fan_out at which inits are placed."""
_LOG_Q = np.linspace(math.log(1e-5), math.log(1e5), 401)
_START = int(np.argmin(np.abs(_LOG_Q)))  # q0 = 1
_DEGREE, _POINTS, _REACH = 60, 2001, 10.0
_SIDE = 101  # cells of the diagram a side
_LEAST_WIDE, _MOST_WIDE = 2.5, 12.0  # sigma_w that is shown at least, and at most
_EQUAL = 1e-7  # of what is interpolated


@dataclass(frozen=True)
class Diagram:
    """What there is to draw of an activation.

    Attributes:
        name: of the activation.
        sigma_w, sigma_b: centres of the cells, (columns,) and (rows,).
        q_star: the second moment that q0 = 1 runs to, (rows, columns); 0 or inf where it dies out
            or diverges.
        chi_1: (rows, columns), at q_star.
        xi_c: depth scale of correlations, (rows, columns); NaN where q diverges.
        edge: `sigma_w`, `sigma_b`, `q_star`, `chi_q` along the edge of chaos.
        sigma_b2: of the maps, and of `words`.
        words: what is said of the edge at sigma_b2: where it is, or why there is none.
        inits: a row an init: `init`, `sigma_w2`, `sigma_b2`, the fields of its fixed point, `note`.
        lengths: `q` and, by label, what a layer makes of it.
        correlations: `c`, likewise, at each one's q_star.
        fixed: by label, `sigma_w2`, `q_star`, `c_star`.
    """

    name: str
    sigma_w: Array
    sigma_b: Array
    q_star: Array
    chi_1: Array
    xi_c: Array
    edge: pd.DataFrame
    sigma_b2: float
    words: str
    inits: pd.DataFrame
    lengths: pd.DataFrame
    correlations: pd.DataFrame
    fixed: pd.DataFrame


def diagram(fn: Phi, sigma_b2: float = 0.0) -> Diagram:
    """Compute the phase diagram, the place of every registered init, and the maps.

    Args:
        fn: the activation.
        sigma_b2: variance of a bias, of the maps; the diagram shows them all.

    Raises:
        ValueError: sigma_b2 is negative; E phi(h)^2 does not exist.
    """
    check_variance("sigma_b2", sigma_b2)
    phi = _Mesh(activations.get(fn))
    placed = _placed(phi.entry)
    widest = max(
        _LEAST_WIDE, 1.1 * placed["sigma_w2"].max() ** 0.5, 1.1 * phi.edge["sigma_w"].min()
    )
    centres = (np.arange(_SIDE) + 0.5) / _SIDE  # without biases, or weights, all is different
    sigma_w = min(widest, _MOST_WIDE) * centres
    highest = max(1.0, 1.1 * placed["sigma_b2"].max() ** 0.5, 1.1 * sigma_b2**0.5)
    sigma_b = highest * centres
    w2, b2 = np.meshgrid(sigma_w**2, sigma_b**2)
    q_star, where = phi.fixed(w2, b2)
    chi_1 = w2 * phi.at(phi.slope_square, where)
    c_star = phi.c_star(w2, b2, where)
    following = w2 * phi.at(phi.square, where) + b2
    stretch = phi.at(phi.q, where) / np.maximum(following, 1e-300)  # 1 where q stays
    chi_c = np.where(c_star < 1, phi.chi_c(w2, c_star, where), chi_1 * stretch)
    with np.errstate(divide="ignore", invalid="ignore"):
        xi_c = 1 / np.abs(np.log(chi_c))
    lost = np.isinf(q_star)
    words, at_edge = _edge_in_words(phi.entry, sigma_b2)
    fixed = _settings(phi, placed, at_edge, sigma_b2)
    return Diagram(
        phi.entry.name,
        sigma_w,
        sigma_b,
        q_star,
        chi_1,
        np.where(lost, np.nan, xi_c),
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
        self.slope_square = np.full_like(r.square, math.inf) if jumps(entry) else r.slope_square
        self.square_1 = r.square_1

    @cached_property
    def kernel(self) -> Array:
        """Squared Hermite coefficients, (q, degrees), the last one of all that is left."""
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
        if jumps(self.entry) or not (self.slope_square > 0).all():
            return pd.DataFrame(columns=["sigma_w", "sigma_b", "q_star", "chi_q"], dtype=float)
        w2 = 1 / self.slope_square
        b2 = self.q - w2 * self.square
        b2 = np.where(np.abs(b2) < _EQUAL * self.q, 0.0, b2)
        where = np.arange(len(b2), dtype=float)
        for low in np.flatnonzero(b2[:-1] * b2[1:] < 0):  # the edge goes on down to no biases
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
        """What q0 = 1 runs to, and where on the mesh that is, from 0 to the last point."""
        pull = (w2[..., None] * self.square + b2[..., None]) / self.q - 1
        rising, falling = pull[..., _START] > _EQUAL, pull[..., _START] < -_EQUAL
        upper, lower = pull[..., _START:] <= 0, pull[..., _START::-1] >= 0
        up = np.where(upper.any(-1), _START + upper.argmax(-1), len(self.q) - 1)
        down = np.where(lower.any(-1), _START - lower.argmax(-1), 0)
        behind = np.where(rising, up, down + 1).clip(1, len(self.q) - 1)
        before, after = (
            np.take_along_axis(pull, each[..., None], -1)[..., 0] for each in (behind - 1, behind)
        )
        met = (rising & upper.any(-1)) | (falling & lower.any(-1))
        share = np.divide(before, before - after, out=np.zeros_like(w2), where=met)
        stays = np.where(rising, float(len(self.q) - 1), np.where(falling, 0.0, float(_START)))
        where = np.where(met, behind - 1 + share, stays)
        q = self.at(self.q, where)
        q = np.where(rising & ~met, math.inf, q)
        return np.where(falling & ~met, 0.0, q), where

    @staticmethod
    def at(values: Array, where: Array) -> Array:
        """Values (mesh, ...) between the points of the mesh."""
        low = np.floor(where).astype(int).clip(0, len(values) - 2)
        share = (where - low).reshape(*where.shape, *(1,) * (values.ndim - 1))
        with np.errstate(invalid="ignore"):  # slopes of jumps are infinite
            between = (1 - share) * values[low] + share * values[low + 1]
        return np.asarray(np.where(np.isinf(values[low]), np.inf, between))

    def next_c(self, w2: Array, b2: Array, c: Array, where: Array) -> Array:
        """The correlation map, at points of the mesh."""
        coefficients = self.at(self.kernel, where)
        moment = coefficients[..., -1]
        for degree in range(_DEGREE - 1, -1, -1):
            moment = moment * c + coefficients[..., degree]
        following = w2 * coefficients.sum(-1) + b2
        following = np.where(following > 0, following, math.inf)
        return np.asarray((w2 * moment + b2) / following)

    def chi_c(self, w2: Array, c: Array, where: Array) -> Array:
        """The slope of the correlation map."""
        coefficients = self.at(self.kernel, where)
        slope = np.zeros_like(c)
        for degree in range(_DEGREE, 0, -1):
            slope = slope * c + degree * coefficients[..., degree]
        return w2 * slope / self.at(self.q, where)

    def c_star(self, w2: Array, b2: Array, where: Array) -> Array:
        """The correlation that samples run to: the map is convex, and crosses once below 1."""
        low, high = np.zeros_like(w2), np.full_like(w2, 1 - 1e-4)
        chaotic = (w2 * self.at(self.slope_square, where) > 1) & (
            self.next_c(w2, b2, high, where) < high
        )
        for _ in range(30):
            middle = (low + high) / 2
            above = self.next_c(w2, b2, middle, where) > middle
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(chaotic, low, 1.0)


def _placed(entry: Activation) -> pd.DataFrame:
    """Where each registered init lies, and what becomes of a signal there."""
    rows, seen = [], dict[tuple[float, float], dict[str, float]]()
    for name in inits.INITS:
        init, row = inits.get(name), dict[str, object]()
        try:
            key = (init.sigma_w2((FAN, FAN), entry), init.sigma_b2((FAN, FAN), entry))
            if init.fitted or math.isnan(sum(key)):
                row["note"] = "fitted to data" if init.fitted else "no variance to place it by"
            else:
                row |= {"sigma_w2": key[0], "sigma_b2": key[1], "note": ""}
                if key not in seen:
                    seen[key] = vars(fixed_point(entry, *key))
                row |= seen[key]
        except ValueError as error:
            row["note"] = str(error)
        rows.append({"init": init.name, **row})
    numbers = ("q_star", "chi_1", "chi_q", "xi_q", "xi_c", "c_star")
    return pd.DataFrame(rows, columns=["init", "sigma_w2", "sigma_b2", *numbers, "note"])


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


def _settings(phi: _Mesh, placed: pd.DataFrame, at_edge: float, sigma_b2: float) -> pd.DataFrame:
    """The weights' variances that the maps are drawn for: the common ones, and the edge."""
    found = placed.set_index("init")["sigma_w2"]
    names = {"lecun_normal": "lecun", "kaiming_normal": "kaiming", "matched": "matched"}
    named = {label: found[name] for name, label in names.items() if name in found}
    rows: dict[str, float] = {}
    for label, w2 in (named | {"the edge": at_edge}).items():
        same = next((other for other in rows if math.isclose(rows[other], w2)), None)
        if same:
            rows[f"{same}, {label}"] = rows.pop(same)
        elif math.isfinite(w2):
            rows[label] = w2
    w2, b2 = np.array([*rows.values()]), np.full(len(rows), sigma_b2)
    points = [fixed_point(phi.entry, value, sigma_b2) for value in w2]
    columns = {"q_star": [p.q_star for p in points], "c_star": [p.c_star for p in points]}
    return pd.DataFrame({"sigma_w2": w2, **columns, "where": phi.fixed(w2, b2)[1]}, index=[*rows])


def _maps(phi: _Mesh, fixed: pd.DataFrame, sigma_b2: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The length map and the correlation map of every setting."""
    c = np.linspace(0, 1, 101)
    lengths, correlations = {"q": phi.q}, {"c": c}
    for label, row in fixed.iterrows():
        where = np.full(len(c), row["where"])
        w2 = np.full(len(c), row["sigma_w2"])
        lengths[str(label)] = row["sigma_w2"] * phi.square + sigma_b2
        correlations[str(label)] = phi.next_c(w2, np.full(len(c), sigma_b2), c, where)
    return pd.DataFrame(lengths), pd.DataFrame(correlations)
