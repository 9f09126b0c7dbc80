"""A network at all the steps at which it was watched, and the sizes of its updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.diagnosis.columns import Columns
from initstats.diagnosis.profile import Profile

Array = NDArray[Any]


class Symptom(NamedTuple):
    """A fault of the signal in a training: the step that had it first, and how bad it became."""

    step: int
    severity: str


@dataclass(frozen=True, eq=False)
class Training:
    """A network at several times.

    Attributes:
        profiles: all of them, in their order.
        symptoms: what was found about the signal, above a note, by the name of the rule.
    """

    profiles: Sequence[Profile]
    symptoms: Mapping[str, Symptom] = field(default_factory=dict)

    @property
    def first(self) -> int:
        """The first step that was watched."""
        return self.profiles[0].step

    @cached_property
    def trained(self) -> list[Profile]:
        """The profiles of the passes that train: in training mode, where there are such."""
        found = [profile for profile in self.profiles if profile.mode == "train"]
        return found or [*self.profiles]

    @cached_property
    def weights(self) -> Weights:
        """The parameters at these steps."""
        return Weights(self.trained)

    @property
    def sick(self) -> bool:
        """Whether the signal had a fault before any update that was watched."""
        return any(symptom.step == self.first for symptom in self.symptoms.values())

    @cached_property
    def updates(self) -> Array:
        """The largest update of all weights at each step that knows them, (updates,)."""
        sizes = self.weights.sizes
        known = ~np.isnan(sizes)
        steps = known.any(axis=1) & ~(self.weights.moved & np.isnan(self.weights.ratio)).any(axis=1)
        largest: Array = np.max(sizes, axis=1, initial=0.0, where=known)[steps]
        return largest

    def largest_update(self, until: int) -> float:
        """The largest update of a map's weights until a step, relative to them; NaN for none."""
        steps = [profile.step for profile in self.trained]
        sizes = self.weights.sizes[[step <= until for step in steps]][:, self.weights.mapping]
        known = sizes[~np.isnan(sizes)]
        return float(known.max()) if len(known) else math.nan


class Weights:
    """The parameters of a network at several steps, as arrays of shape (steps, parameters).

    NaN stands for what was not measured: of a parameter that a step did not use, and the updates
    before the first step.

    Attributes:
        names: of the parameters, in the order of their first use.
        rms: of their entries.
        gradient: rms of their gradients.
        ratio: rms of the update before a step over the rms of the weight before it.
        trainable: 1 where gradients are asked for, 0 where the parameter is frozen.
        mapping: whether it is what a linear map multiplies by, (parameters,).
        resolution: the relative distance of neighbouring numbers of its type, (parameters,).
    """

    def __init__(self, profiles: Sequence[Profile]) -> None:
        at: dict[str, int] = {}
        for profile in profiles:
            for name in profile.parameters["name"]:
                at.setdefault(name, len(at))
        self.names = [*at]
        shape = len(profiles), len(at)
        self.rms, self.gradient, self.ratio, self.trainable = np.full((4, *shape), np.nan)
        self.mapping = np.zeros(len(at), bool)
        self.resolution = np.full(len(at), _RESOLUTION["float32"])
        for number, profile in enumerate(profiles):
            rows, places = _placed(profile.parameters, at)
            self.rms[number, places] = _rms(rows)
            self.ratio[number, places] = rows["update_ratio"]
            self.trainable[number, places] = rows["requires_grad"]
            self.mapping[places] |= rows["fan_in"] > 0
            self.resolution[places] = [_RESOLUTION.get(name, 0.0) for name in rows["dtype"]]
            rows, places = _placed(profile.parameter_gradients, at)
            self.gradient[number, places] = _rms(rows)

    @cached_property
    def before(self) -> Array:
        """The rms at the step before."""
        return np.concatenate([np.full_like(self.rms[:1], np.nan), self.rms[:-1]])

    @cached_property
    def usual(self) -> float:
        """The median rms of the weights of linear maps at the first step, those of zero aside."""
        first = self.rms[0, self.mapping] if len(self.rms) else np.empty(0)
        first = first[(first > 0) & np.isfinite(first)]
        return float(np.median(first)) if len(first) else 1.0

    @cached_property
    def sizes(self) -> Array:
        """The rms of each update over that of the weight, or over the usual one if that is larger.

        So a bias or a branch that starts at zero moves by as much as others that get the same
        update. NaN for what is frozen.
        """
        with np.errstate(all="ignore"):
            sizes = self.ratio * np.minimum(1.0, self.before / self.usual)
        sizes = np.where(np.isinf(self.ratio) & (self.before == 0), self.rms / self.usual, sizes)
        sizes = np.where((self.ratio == 0), 0.0, sizes)
        return np.where(self.trainable == 0, np.nan, sizes)

    @cached_property
    def moved(self) -> Array:
        """Whether a parameter is another than at the step before."""
        moved: Array = (self.ratio > 0) | (np.isfinite(self.before) & (self.rms != self.before))
        return moved

    @cached_property
    def expected(self) -> Array:
        """By how much the usual rate of the others would move a parameter, (parameters,).

        Relative to its rms; infinite for one of zero, NaN where no rate is known.
        """
        with np.errstate(all="ignore"):
            rate = self.ratio[1:] * self.before[1:] / self.gradient[:-1]
            rate = rate[np.isfinite(rate) & (rate > 0)]
            usual = np.median(rate) if len(rate) else np.nan
            sizes = usual * self.gradient / self.rms
        known = ~np.isnan(sizes)
        largest = np.max(sizes, axis=0, initial=-np.inf, where=known)
        return np.where(known.any(axis=0), largest, np.nan)


_RESOLUTION = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}


def _placed(rows: Columns, at: Mapping[str, int]) -> tuple[Columns, list[int]]:
    """Some rows of parameters, and their places among all."""
    rows = rows.where(np.array([name in at for name in rows["name"]], bool))
    return rows, [at[name] for name in rows["name"]]


def _rms(rows: Columns) -> Array:
    """The root of the second moment; infinite where an entry is not finite."""
    rms: Array = np.sqrt(np.where(rows["nonfinite"] > 0, np.inf, rows["second_moment"]))
    return rms
