"""What figures are drawn from: a sweep's table with its summary, or what a probe measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.diagnosis import CONFIGURATION, Limits, in_order, require, stacks_of, summary_of
from initstats.diagnosis.streams import is_main
from initstats.plots.bands import Key, band_of, banded
from initstats.plots.shapes import Shape, Shaper
from initstats.store import load_predictions, load_run, load_table, sum_histograms

T = TypeVar("T")
V = TypeVar("V")

MANY, MOST = 6, 40
"""Greatest number of entries of one swept family, of networks and widths, and of entries at all, in
figures that show all entries."""


class Block(NamedTuple):
    """A network of one width, which has a map or a set of panels of its own."""

    network: str
    width: int

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows about this network and width."""
        return frame[(frame["network"] == self.network) & (frame["width"] == self.width)]


class Sweep(NamedTuple):
    """A parameter that differs between the entries of one family.

    Attributes:
        kind: "init" or "activation".
        family: the entries' name without parameters.
        column: of the table, `init_sigma_w` for the parameter sigma_w of inits.
        entries: their spellings, in the order of the table.
    """

    kind: str
    family: str
    column: str
    entries: Sequence[str]


@dataclass(frozen=True)
class Results:
    """Results of one sweep; made by `Results.of`.

    Attributes:
        table: one row per cell, layer, tensor and direction.
        summary: one row per configuration, as `summarize` gives it.
        bands: counts of the activations (layers, BANDS + 1) by (network, init, activation,
            width), all seeds together, as `banded` gives them, for all configurations of `few`,
            zero where a layer has no activation; None where only a table is at hand.
        predicted: one row per (configuration, layer, tensor, direction) from theory, as `predict`
            gives it; None where nothing was predicted.
        fitted: names of the inits whose weights depend on data; of a bare table, lsuv.
        shapes: of the same histograms, each layer's on its own range; None as `bands`.
        extended: by network, whether its first n layers are that of n layers, where that is known.
        judged: what verdicts are about, as `stacks_of` gives it, at least for all configurations;
            None where it is not known yet.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    bands: Mapping[Key, NDArray[np.int64]] | None = None
    predicted: pd.DataFrame | None = None
    fitted: Collection[str] = ("lsuv",)
    shapes: Mapping[Key, Shape] | None = None
    extended: Mapping[str, bool] = field(default_factory=dict)
    judged: pd.DataFrame | None = None

    @classmethod
    def of(
        cls,
        run: Results | pd.DataFrame | str | Path,
        bands: Mapping[Key, NDArray[np.int64]] | None = None,
        predicted: pd.DataFrame | None = None,
    ) -> Results:
        """The results that a sweep's table or the folder of its run holds.

        Args:
            run: a table, a folder, or results, which are returned as they are.
            bands, predicted: what belongs to a table; a folder has its own.

        Raises:
            ValueError: not the table of one sweep, or not a run's folder.
        """
        if isinstance(run, Results):
            return run
        if isinstance(run, pd.DataFrame):
            return cls._summarized(run, bands, predicted)
        table, predicted, recorded = load_table(run), load_predictions(run), load_run(run)
        fitted = [
            name for name, (first, *_) in recorded.definitions.get("init", {}).items() if first
        ]
        results = cls._summarized(table, None, predicted)
        results = replace(results, fitted=fitted, extended=recorded.extended_networks)
        read = RunHistograms(run, results)
        return replace(results, bands=Lazily(read.bands), shapes=Lazily(read.shapes))

    @classmethod
    def _summarized(
        cls,
        table: pd.DataFrame,
        bands: Mapping[Key, NDArray[np.int64]] | None,
        predicted: pd.DataFrame | None,
    ) -> Results:
        require(table)
        ordered = in_order(table)
        stacks = stacks_of(ordered, predicted)
        summary = summary_of(ordered, stacks, Limits())
        return cls(table, summary, bands, predicted, judged=stacks)

    @cached_property
    def stacks(self) -> pd.DataFrame:
        """What verdicts are about, for every cell and layer, as `stacks_of` gives it."""
        if self.judged is None:
            return stacks_of(in_order(self.table), self.predicted)
        names = pd.MultiIndex.from_frame(self.summary[CONFIGURATION])
        ours = self.judged.index.droplevel(["seed", "layer"])  # type: ignore[list-item]
        return self.judged[ours.isin(names)]

    @cached_property
    def inits(self) -> list[str]:
        """Names of the inits, in the order of the table."""
        return order(self.summary["init"])

    @cached_property
    def activations(self) -> list[str]:
        """Names of the activations, in the order of the table."""
        return order(self.summary["activation"])

    @cached_property
    def blocks(self) -> list[Block]:
        """Every network and width that was measured."""
        return list(headings(self.summary))

    @cached_property
    def depth(self) -> int:
        """Layers of the deepest stack."""
        return int(self.summary["depth"].max())

    @cached_property
    def sweeps(self) -> list[Sweep]:
        """The numeric parameters that differ between entries of a family, most entries first."""
        found = []
        for kind in ("init", "activation"):
            for column in self.summary.filter(regex=f"^{kind}_").select_dtypes("number"):
                rows = self.summary[[kind, column]].dropna()
                families = rows[kind].astype(str).str.split("(").str[0]
                for family, members in rows.groupby(families, sort=False):
                    if members[column].nunique() > 1:
                        found.append(Sweep(kind, str(family), str(column), order(members[kind])))
        return sorted(found, key=lambda sweep: -len(sweep.entries))

    def only(self, kind: str, entries: Collection[str]) -> Results:
        """The results of some inits or activations."""
        table, summary = (rows[rows[kind].isin(entries)] for rows in (self.table, self.summary))
        predicted = self.predicted
        if predicted is not None:
            predicted = predicted[predicted[kind].isin(entries)]
        return replace(self, table=table, summary=summary, predicted=predicted)

    def within(self, blocks: Collection[Block]) -> Results:
        """The results of some networks and widths."""
        table, summary = (_within(rows, blocks) for rows in (self.table, self.summary))
        predicted = None if self.predicted is None else _within(self.predicted, blocks)
        return replace(self, table=table, summary=summary, predicted=predicted)

    @cached_property
    def few(self) -> Results:
        """What most figures show of these results, as `outline` says it."""
        kept = self.outline
        if len(kept.summary) == len(self.summary):
            return self
        # filtered once: a table may be half of the memory
        predicted = None if self.predicted is None else _among(self.predicted, kept)
        table = _among(self.table, kept)
        return replace(self, table=table, summary=kept.summary, predicted=predicted)

    @cached_property
    def outline(self) -> Results:
        """What most figures show of these results, without the rows of their table.

        At most `MANY` entries of each sweep and `MOST` of all, and `MANY` networks and widths.
        """
        kept = replace(self, table=self.table.iloc[:0], predicted=None)
        if len(self.blocks) > MANY:
            kept = kept.within(evenly(self.blocks, MANY))
        for kind, _, _, entries in self.sweeps:
            if len(entries) > MANY:
                absent = {*entries}.difference(evenly(entries, MANY))
                kept = kept.only(kind, {*order(self.summary[kind])} - absent)
        for kind in ("init", "activation"):
            entries = order(kept.summary[kind])
            if len(entries) > MOST:
                kept = kept.only(kind, evenly(entries, MOST))
        return kept

    @cached_property
    def left_out(self) -> str:
        """A sentence about what `few` leaves out; empty if that is nothing."""
        long = {(s.kind, s.family): s for s in self.sweeps if len(s.entries) > MANY}
        parts = [f"{MANY} of {len(s.entries):,} {s.family}" for s in long.values()]
        spared = {
            kind: sum(len(s.entries) - MANY for s in long.values() if s.kind == kind)
            for kind in ("init", "activation")
        }
        for kind, entries in (("init", self.inits), ("activation", self.activations)):
            if len(entries) - spared[kind] > MOST:
                parts.append(f"{MOST} of {len(entries):,} {kind}s")
        if len(self.blocks) > MANY:
            one = len({block.network for block in self.blocks}) == 1
            parts.append(
                f"{MANY} of {len(self.blocks):,} {'widths' if one else 'networks and widths'}"
            )
        *front, last = parts or [""]
        shown = " and ".join(filter(None, [", ".join(front), last]))
        return f"Figures of all entries show {shown}, evenly taken." if parts else ""

    def measured(self, tensor: str, direction: str = "forward") -> pd.DataFrame:
        """The table's rows about one tensor; of `MAIN`, about what goes through all layers."""
        return of_tensor(self.table, tensor, direction)

    @cached_property
    def signal(self) -> str:
        """What is judged, in words: pre-activations, or the stream where networks have one."""
        rows = self.outline.summary
        streams = {*self.measured("stream")["network"].unique()}
        having = rows["network"].isin(streams)
        if having.all():
            return "stream"
        return "pre-activations, or of the stream," if having.any() else "pre-activations"

    def ordered(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows about configurations, by network, width, init and activation in the table's order.

        Configurations that were not measured are left out.
        """
        names = {kind: order(self.summary[kind]) for kind in ("network", "init", "activation")}
        kinds = {kind: pd.CategoricalDtype(entries) for kind, entries in names.items()}
        measured = self.summary[CONFIGURATION].astype(kinds)
        rows = rows.astype(kinds).merge(measured, on=CONFIGURATION)
        return rows.sort_values(
            ["network", "width", "init", "activation"], kind="stable", ignore_index=True
        )


class RunHistograms:
    """The histograms of a run, which are read once, when somebody looks at them.

    Args:
        run: its folder.
        results: whose histograms these are; those of `few` are read.
    """

    def __init__(self, run: str | Path, results: Results) -> None:
        self._run, self._results, few = run, results, results.outline
        self._among: dict[str, Collection[int | str]] = {
            "network": {block.network for block in few.blocks},
            "init": few.inits,
            "activation": few.activations,
            "width": {block.width for block in few.blocks},
        }

    @cached_property
    def _read(self) -> tuple[dict[Key, NDArray[np.int64]], dict[Key, Shape]]:
        bins = load_run(self._run).bins
        band, shaped = band_of(*bins), Shaper(*bins)
        layers = self._layers()
        bands, shapes = dict[Key, NDArray[np.int64]](), dict[Key, Shape]()
        for names, counts in sum_histograms(self._run, among=self._among, verified=True):
            network, init, activation, width = names
            key = str(network), str(init), str(activation), int(width)
            counts = _spread(counts, layers.get((key[0], key[3]), range(1, len(counts) + 1)))
            bands |= banded(band, [(key, counts)])
            shapes[key] = shaped(counts)
        return bands, shapes

    def _layers(self) -> dict[tuple[str, int], list[int]]:
        """The layers of each network and width that have activations."""
        rows = self._results.measured("activation")[["network", "width", "layer"]]
        found: dict[tuple[str, int], list[int]] = {}
        for network, width, layer in rows.drop_duplicates().itertuples(index=False):
            found.setdefault((str(network), int(width)), []).append(int(layer))
        return {key: sorted(layers) for key, layers in found.items()}

    def bands(self) -> Mapping[Key, NDArray[np.int64]]:
        """As `Results.bands`."""
        return self._read[0]

    def shapes(self) -> Mapping[Key, Shape]:
        """As `Results.shapes`."""
        return self._read[1]


class Lazily(Mapping[Key, V]):
    """A mapping that is made when somebody looks into it."""

    def __init__(self, make: Callable[[], Mapping[Key, V]]) -> None:
        self._make = make

    def __getitem__(self, key: Key) -> V:
        return self._make()[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())


@dataclass(frozen=True)
class Probed:
    """What a probe measured of a model.

    Attributes:
        table: one row per step, value and direction.
        histograms: one row per bin that is not empty; None where only a table is at hand.
    """

    table: pd.DataFrame
    histograms: pd.DataFrame | None = None

    @classmethod
    def of(cls, measured: Any) -> Probed:
        """The results that a `Probe`, or the table of one, holds."""
        if isinstance(measured, Probed):
            return measured
        if isinstance(measured, pd.DataFrame):
            return cls(measured)
        return cls(measured.table(), measured.histograms())


MAIN = "main"
"""What goes through all layers: the stream where a network has one, else pre-activations."""


def of_tensor(rows: pd.DataFrame, tensor: str, direction: str) -> pd.DataFrame:
    """The rows of a table about one tensor, or `MAIN`, in one direction."""
    named = is_main(rows) if tensor == MAIN else rows["tensor"] == tensor
    return rows[named & (rows["direction"] == direction)]


def _spread(counts: NDArray[np.int64], layers: Sequence[int]) -> NDArray[np.int64]:
    """Counts by layer, nothing where a layer has no activation."""
    spread = np.zeros((layers[-1] if len(layers) else 0, counts.shape[1]), counts.dtype)
    spread[np.asarray(layers, int) - 1] = counts
    return spread


def _among(rows: pd.DataFrame, kept: Results) -> pd.DataFrame:
    """The rows about the inits, activations, networks and widths of some results."""
    there = rows["init"].isin(kept.inits) & rows["activation"].isin(kept.activations)
    return rows[there & _is_within(rows, kept.blocks)]


def _within(rows: pd.DataFrame, blocks: Collection[Block]) -> pd.DataFrame:
    """The rows about some networks and widths."""
    return rows[_is_within(rows, blocks)]


def _is_within(rows: pd.DataFrame, blocks: Collection[Block]) -> NDArray[np.bool_]:
    """Which rows are about some networks and widths."""
    wanted = [(rows["network"] == network) & (rows["width"] == width) for network, width in blocks]
    return np.asarray(np.logical_or.reduce(wanted))


def headings(rows: pd.DataFrame) -> dict[Block, str]:
    """The blocks of rows about configurations, each with what tells it from the others."""
    pairs = rows[["network", "width"]].drop_duplicates()
    blocks = [Block(str(network), int(width)) for network, width in pairs.to_numpy()]
    several = len({block.network for block in blocks}) > 1
    names = [f"{block.network}, " * several + f"width {block.width}" for block in blocks]
    return dict(zip(blocks, names if len(blocks) > 1 else [""], strict=True))


def order(names: pd.Series) -> list[str]:
    """Distinct names in the order of the categories, or of their appearance."""
    if isinstance(names.dtype, pd.CategoricalDtype):
        return [str(name) for name in names.cat.remove_unused_categories().cat.categories]
    return [str(name) for name in names.unique()]


def evenly(entries: Sequence[T], most: int) -> list[T]:
    """All entries, or `most` of them at equal distances, with both ends."""
    count = len(entries)
    return [entries[i] for i in np.linspace(0, count - 1, min(most, count)).round().astype(int)]
