"""The data of a study's explorable figure: planes of numbers that a script looks up.

Everything statistical is computed here; the browser compares numbers with limits, counts votes and
draws. Numbers that verdicts are about are kept in the precision in which `judge` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from initstats.diagnosis.verdicts import HEALTHY, HELD, VERDICTS, WORDS, Limits, judged
from initstats.plots.curves import Scale, scale_of
from initstats.plots.results import Block, Results
from initstats.plots.shapes import BINS
from initstats.report.planes import Plane

Array = NDArray[np.float64]

QUANTILES = ("q01", "q05", "q25", "q50", "q75", "q95", "q99")
RULES = {
    "collapses": ("correlation", "at least", "correlation"),
    "explodes": ("rms", "above", "factor"),
    "vanishes": ("rms", "below", "factor"),
    "gradient explodes": ("gradient", "above", "gradient_factor"),
    "gradient vanishes": ("gradient", "below", "gradient_factor"),
}
"""The verdicts that hang on a limit: the number that is compared, how, and with which limit, or
`below` with its inverse."""
FLAGS = [word for word in WORDS if word not in RULES and word != HEALTHY]
"""The verdicts that hang on none: whether they hold is a bit of a cell's flags."""
NUMBERS = ("rms", "correlation", "gradient")
SOURCES = ("nothing", "measured", "theory")
"""Where the gradient is from."""


class Statistic(NamedTuple):
    """A statistic that curves show: its column in the table, and what it is called."""

    name: str
    label: str
    column: str
    scale: Scale

    def heights(self, rows: pd.DataFrame) -> Array:
        """Heights on the statistic's axis, on which seeds are averaged."""
        values = rows[self.column].to_numpy(dtype=float)
        return self.scale.height(np.sqrt(values) if self.name == "rms" else values)


STATISTICS = [
    Statistic(name, label, column, scale_of("std" if name == "rms" else column))
    for name, label, column in (
        ("std", "standard deviation", "std"),
        ("rms", "root mean square", "second_moment"),
        ("mean", "mean", "mean"),
        ("sample_correlation", "correlation of two inputs", "sample_correlation"),
        ("dead_fraction", "share of constant units", "dead_fraction"),
        ("zero_fraction", "share of exact zeros", "zero_fraction"),
        ("negative_fraction", "share below zero", "negative_fraction"),
        ("kurtosis", "excess kurtosis", "kurtosis"),
        ("branch_share", "branch’s share", "branch_share"),
        ("pair_correlation", "correlation of two tokens", "pair_correlation"),
        ("participation_ratio", "number of directions of tokens", "participation_ratio"),
        ("attention_entropy", "normalized entropy", "attention_entropy"),
        ("concentration", "sum of squares", "concentration"),
    )
]
TENSORS = {
    "activation": "activations",
    "preactivation": "pre-activations",
    "stream": "stream",
    "normed": "outputs of norms",
    "branch": "branches",
    "logits": "attention logits",
    "attention": "attention weights",
}
"""What is measured of a layer, in words; `tensor` of the table."""
VIEWS = {
    (tensor, direction): begin + label
    for direction, begin in (("forward", ""), ("backward", "gradients of the "))
    for tensor, label in TENSORS.items()
}


@dataclass(frozen=True)
class Frame:
    """What the places of all planes mean.

    Attributes:
        inits, activations, seeds: names; `depth`: the greatest number of layers.
        views: pairs of tensor and direction that were measured.
        statistics: those that the table has numbers of.
        known: by network and width, and by view, the positions of the statistics that it has
            numbers of.
    """

    inits: Sequence[str]
    activations: Sequence[str]
    seeds: Sequence[int]
    depth: int
    views: Sequence[tuple[str, str]]
    statistics: Sequence[Statistic]
    known: Sequence[Sequence[Sequence[int]]]

    @classmethod
    def of(cls, results: Results) -> Frame:
        """The frame of all results."""
        table = results.table
        columns = [each.column for each in STATISTICS if each.column in table]
        kinds = ["tensor", "direction"]
        counts = table.groupby(kinds, observed=True)[columns].count()
        statistics = [
            each for each in STATISTICS if each.column in columns and counts[each.column].any()
        ]
        columns = [each.column for each in statistics]
        views = [view for view in VIEWS if view in counts.index]
        numbers = [
            block.rows(table).groupby(kinds, observed=True)[columns].count().reindex(views)
            for block in results.blocks
        ]
        return cls(
            results.inits,
            results.activations,
            sorted(int(seed) for seed in table["seed"].unique()),
            int(table["layer"].max()),
            views,
            statistics,
            [[np.flatnonzero(row > 0).tolist() for row in each.to_numpy()] for each in numbers],
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Configurations of a network and width, layers, seeds."""
        return len(self.inits) * len(self.activations), self.depth, len(self.seeds)

    def places(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        """The place of each row in a plane of configurations and layers."""
        init, activation = (
            codes(rows[kind], names)
            for kind, names in (("init", self.inits), ("activation", self.activations))
        )
        layer: NDArray[np.int64] = rows["layer"].to_numpy(dtype=np.int64) - 1
        return (init * len(self.activations) + activation) * self.depth + layer

    def spread(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        """The place of each row in a plane of configurations, layers and seeds."""
        return self.places(rows) * len(self.seeds) + codes(rows["seed"], self.seeds)


def codes(column: pd.Series, entries: Sequence[object]) -> NDArray[np.int64]:
    """The position of each name among the entries."""
    names = column.astype("category").cat
    known = pd.Index([str(entry) for entry in entries])
    there = np.asarray(known.get_indexer(pd.Index([str(name) for name in names.categories])))
    places: NDArray[np.int64] = there[names.codes.to_numpy()].astype(np.int64, copy=False)
    return places


def filled(shape: Sequence[int], places: NDArray[np.int64], values: Any, empty: float) -> Plane:
    """A plane with values at places, empty elsewhere."""
    plane = np.full(int(np.prod(shape)), empty, np.asarray(values).dtype)
    plane[places] = values
    return plane.reshape(shape)


class Data:
    """The numbers about one network and width.

    Args:
        results: of that network and width.
        frame: of all results.
    """

    def __init__(self, results: Results, block: Block, frame: Frame) -> None:
        self._results, self._block, self._frame = results, block, frame

    @cached_property
    def judged(self) -> pd.DataFrame:
        """What `judge` makes of the table, one row per cell and layer."""
        return judged(self._results.stacks, Limits()).reset_index()

    @cached_property
    def words(self) -> NDArray[np.int8]:
        """The verdict of every place (configurations, layers, seeds), its position in `WORDS`; -1
        where nothing was measured.
        """
        places = self._frame.spread(self.judged)
        verdicts = self.judged["verdict"].cat.codes.to_numpy(np.int8)
        return filled(self._frame.shape, places, verdicts, -1)

    def planes(self) -> dict[str, Plane]:
        """All planes, by name."""
        return {
            **self._verdicts(),
            "layers": self._layers(),
            **self._curves(),
            **self._quantiles(),
            **self._theory(),
            **self._shapes(),
        }

    def _verdicts(self) -> dict[str, Plane]:
        """What verdicts are made of, as `judge` compares it; and the growth per layer."""
        judged, shape = self.judged, self._frame.shape
        places = self._frame.spread(judged)
        flags = np.ones(len(judged), np.uint8)  # of a cell that was measured
        held = judged.astype(dict.fromkeys(HELD, np.float32))
        for bit, word in enumerate(FLAGS, 1):
            verdict = next(verdict for verdict in VERDICTS if verdict.name == word)
            flags |= verdict.holds(held, Limits()).to_numpy().astype(np.uint8) << bit
        planes = {"flags": filled(shape, places, flags, 0)}
        for name in NUMBERS:
            planes[name] = filled(shape, places, judged[name].to_numpy("<f4"), np.nan)
        there = planes["flags"] > 0
        for name in ("growth", "gradient_growth"):
            values = filled(shape, places, judged[name].to_numpy(float), np.nan)
            mean, half = over_seeds(values, there)
            planes[name], planes[f"{name}_half"] = mean.astype("<f4"), half.astype("<f4")
        source = codes(judged["gradient_by"], SOURCES).astype(np.uint8)
        planes["source"] = filled(shape[:1], places // np.prod(shape[1:]), source, 0)
        return planes

    def _layers(self) -> Plane:
        """For each view and layer, whether this network has it."""
        frame = self._frame
        plane = np.zeros((len(frame.views), frame.depth), np.uint8)
        for v, view in enumerate(frame.views):
            layers = self._results.measured(*view)["layer"].unique()
            plane[v, layers.astype(np.int64) - 1] = 1
        return plane

    def _curves(self) -> dict[str, Plane]:
        """Means over seeds, half their 95% Student-t intervals, and the seeds, as heights.

        Seeds are kept as distances from their mean where that is finite, so that two digits do.
        """
        frame = self._frame
        shape = (len(frame.views), len(frame.statistics), *frame.shape)
        mean, half = (np.full(shape[:-1], np.nan, "<f4") for _ in range(2))
        seeds = np.full(shape, np.nan, "<f4")
        for v, view in enumerate(frame.views):
            rows = self._results.measured(*view)
            places = frame.spread(rows)
            there = filled(frame.shape, places, np.ones(len(rows), bool), False)
            lost = rows["nonfinite"].to_numpy() > 0
            for s, statistic in enumerate(frame.statistics):
                scale = statistic.scale
                heights = statistic.heights(rows)
                if scale.bounds in ((0, 1), (-1, 1)):  # rounding may leave them
                    heights = heights.clip(*scale.bounds)
                heights = np.where(lost, np.inf if scale.logarithmic else np.nan, heights)
                values = filled(frame.shape, places, heights, np.nan)
                mean[v, s], half[v, s] = over_seeds(values, there)
                seeds[v, s] = values - np.where(np.isfinite(mean[v, s]), mean[v, s], 0)[..., None]
        return {"mean": mean, "half": half, "seeds": halved(seeds, digits=2)}

    def _quantiles(self) -> dict[str, Plane]:
        """Quantiles of the values, median over seeds."""
        frame = self._frame
        if not {*QUANTILES} <= {*self._results.table}:
            return {}
        planes = np.full((len(frame.views), len(QUANTILES), *frame.shape[:2]), np.nan)
        for v, view in enumerate(frame.views):
            rows = self._results.measured(*view)
            places = frame.spread(rows)
            for q, name in enumerate(QUANTILES):
                values = filled(frame.shape, places, rows[name].to_numpy(float), np.nan)
                planes[v, q] = middle(values)
        return {"quantiles": halved(planes.astype("<f4"))}

    def _theory(self) -> dict[str, Plane]:
        """What theory expects, as heights; NaN where it does not apply."""
        predicted, frame = self._results.predicted, self._frame
        if predicted is None:
            return {}
        planes = np.full((len(frame.views), len(frame.statistics), *frame.shape[:2]), np.nan, "<f4")
        known = predicted["layer"] <= frame.depth
        for v, (tensor, direction) in enumerate(frame.views):
            of_view = (predicted["tensor"] == tensor) & (predicted["direction"] == direction)
            rows = predicted[known & of_view & (predicted["note"] == "")]
            places = frame.places(rows)
            for s, statistic in enumerate(frame.statistics):
                if statistic.column in rows:
                    heights = statistic.heights(rows)
                    planes[v, s] = filled(frame.shape[:2], places, heights, np.nan)
        return {"theory": planes}

    def _shapes(self) -> dict[str, Plane]:
        """Histograms of the activations."""
        frame, shapes = self._frame, self._results.shapes
        if not shapes:
            return {}
        heights = np.zeros((*frame.shape[:2], BINS), np.uint8)
        span = np.full((*frame.shape[:2], 2), np.nan, "<f4")
        for i, init in enumerate(frame.inits):
            for a, activation in enumerate(frame.activations):
                shape = shapes.get((self._block.network, init, activation, self._block.width))
                if shape:
                    here = i * len(frame.activations) + a
                    heights[here, : len(shape.heights)] = shape.heights
                    span[here, : len(shape.span)] = shape.span
        return {"heights": heights, "span": span}


def over_seeds(values: Array, there: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Mean over seeds, and half its 95% Student-t interval, as `seed_interval` gives them."""
    count = there.sum(axis=-1)
    complete = (count > 0) & ~(np.isnan(values) & there).any(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(complete, np.nansum(values, axis=-1) / count, np.nan)
        squares = np.nansum((values - mean[..., None]) ** 2, axis=-1)
        free = np.where(count > 1, count - 1, np.nan)
        half = stdtrit(free, 0.975) * np.sqrt(squares / free / count)
    return mean, np.where(np.isfinite(mean), half, np.nan)


def middle(values: Array) -> Array:
    """The median over the last axis, of what is no NaN; NaN where nothing is."""
    ordered = np.sort(values, axis=-1)  # NaN last
    count = (~np.isnan(values)).sum(axis=-1, keepdims=True)
    pair = [
        np.take_along_axis(ordered, np.maximum(at, 0), axis=-1)[..., 0]
        for at in ((count - 1) // 2, count // 2 - (count == 0))
    ]
    return (pair[0] + pair[1]) / 2


def halved(values: NDArray[np.float32], digits: int = 3) -> NDArray[np.uint16]:
    """The upper half of numbers in float32, rounded to three digits or fewer, which pack better."""
    bits, spared = values.view("<u4"), 16 + 3 * (3 - digits)
    rounded = ((bits + (1 << (spared - 1))) >> spared) << (spared - 16)
    return np.where(np.isfinite(values), rounded, bits >> 16).astype("<u2")
