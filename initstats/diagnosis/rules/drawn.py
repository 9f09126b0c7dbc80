"""The laws that weights are drawn from, known by their moments: torch's default, and He's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.diagnosis.profile import Profile

Array = NDArray[Any]


class Drawn:
    """The weights of linear maps that are parameters, and of which law they may be."""

    def __init__(self, profile: Profile) -> None:
        rows = profile.parameters
        layers = np.isin(rows["layer"], [*profile.graph.linear])
        self.rows = rows = rows.where(layers & (rows["fan_in"] > 0))
        self.layers: Array = rows["layer"]
        self.fan_in: Array = rows["fan_in"]
        self.sigma_w2: Array = self.fan_in * rows["second_moment"]
        self.modules = np.array([str(n).rpartition(".")[0] or str(n) for n in rows["name"]], object)
        gains = np.array([profile.gain(int(layer)) for layer in self.layers], float)
        self.frequencies = np.array([profile.sees(int(layer)) for layer in self.layers], bool)
        self.gains = np.stack([np.ones(len(rows)), np.full(len(rows), 2.0), gains**2])
        # both fans count the positions of a kernel, and fan_out the units of all groups
        self.ratio = self.fan_in / rows["fan_out"]

    @property
    def default(self) -> Array:
        """Whether they are uniform in +-1/sqrt(fan_in)."""
        bound = np.maximum(np.abs(self.rows["min"]), np.abs(self.rows["max"]))
        bound = bound * np.sqrt(self.fan_in)
        # for n uniform draws, the variance of the sample variance is 4/5 of its square over n
        error = 4 * np.sqrt(0.8 / self.rows["count"])
        uniform: Array = (np.abs(3 * self.sigma_w2 - 1) < error) & (bound <= 1.0001) & (bound > 0.9)
        uniform &= ~self.frequencies
        return uniform

    @property
    def near_default(self) -> Array:
        """Whether their second moment is about the default's, as after some training."""
        near: Array = np.abs(3 * self.sigma_w2 - 1) < 0.2
        return near | self.default

    @property
    def fresh(self) -> Array:
        """Whether they have the moments of normal or of uniform draws around zero.

        Four standard errors are allowed; weights that were trained for long are outside.
        """
        count = self.rows["count"]
        centred = np.abs(self.rows["mean"]) * np.sqrt(count) < 4 * self.rows["std"]
        kurtosis, error = self.rows["kurtosis"], 4 * np.sqrt(24 / count)
        law = (np.abs(kurtosis) < error) | (np.abs(kurtosis + 1.2) < error)
        drawn: Array = centred & law & (np.abs(self.rows["skewness"]) < 4 * np.sqrt(6 / count))
        return drawn

    def fits(self, sigma_w2: Array) -> Array:
        """Whether it is the square of a usual gain, within four standard errors."""
        error = 4 * np.sqrt(2 / self.rows["count"]) + 0.01
        near: Array = (np.abs(sigma_w2 / self.gains - 1) < error).any(axis=0)
        return near


def as_drawn(profile: Profile) -> set[int]:
    """The linear maps whose weights have the moments of a law that weights are drawn from."""
    weights = Drawn(profile)
    return {int(layer) for layer in weights.layers[weights.fresh | weights.default]}


def all_default(profile: Profile) -> bool:
    """Whether the weights of all linear maps are within torch's default bounds, and so drawn."""
    default = Drawn(profile).default
    return len(default) > 0 and bool(default.all())
