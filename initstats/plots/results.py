"""What figures are drawn from: a sweep's table with its summary, or what a probe measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.diagnosis import summarize
from initstats.plots.bands import Key, band_of, banded
from initstats.store import iterate_histograms, load_predictions, load_run, load_table


class Block(NamedTuple):
    """What one map, or one set of panels, shows: a network of one width."""

    network: str
    width: int


@dataclass(frozen=True)
class Results:
    """Results of one sweep; made by `Results.of`.

    Attributes:
        table: one row per cell, layer, tensor and direction.
        summary: one row per configuration, as `summarize` gives it.
        bands: counts of the activations (layers, BANDS + 1) by (network, init, activation,
            width), all seeds together, as `banded` gives them; None where only a table is at hand.
        predicted: one row per (configuration, layer, tensor, direction) from theory, as `predict`
            gives it; None where nothing was predicted.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    bands: Mapping[Key, NDArray[np.int64]] | None = None
    predicted: pd.DataFrame | None = None

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
            return cls(run, summarize(run), bands, predicted)
        histograms = (
            ((str(network), str(init), str(activation), int(width)), counts)
            for (network, init, activation, width, _), counts in iterate_histograms(run)
        )
        table = load_table(run)
        bands = banded(band_of(*load_run(run).bins), histograms)
        return cls(table, summarize(table), bands, load_predictions(run))

    @cached_property
    def inits(self) -> list[str]:
        """Names of the inits, in the order of the table."""
        return _in_order(self.summary["init"])

    @cached_property
    def activations(self) -> list[str]:
        """Names of the activations, in the order of the table."""
        return _in_order(self.summary["activation"])

    @cached_property
    def blocks(self) -> list[Block]:
        """Every network and width that was measured."""
        pairs = self.summary[["network", "width"]].drop_duplicates()
        return [Block(str(network), int(width)) for network, width in pairs.to_numpy()]

    @cached_property
    def depth(self) -> int:
        """Layers of the deepest stack."""
        return int(self.summary["depth"].max())

    @cached_property
    def seeds(self) -> int:
        """Seeds of the configuration that was drawn most often."""
        return int(self.summary["seeds"].max())

    def name(self, block: Block) -> str:
        """A heading that tells a block from the others; empty where it is the only one."""
        networks = {other.network for other in self.blocks}
        if len(self.blocks) == 1:
            return ""
        width = f"width {block.width}"
        return width if len(networks) == 1 else f"{block.network}, {width}"

    def measured(self, tensor: str, direction: str = "forward") -> pd.DataFrame:
        """The table's rows about one tensor."""
        table = self.table
        return table[(table["tensor"] == tensor) & (table["direction"] == direction)]

    def summaries(self, block: Block, column: str) -> pd.DataFrame:
        """A summary's column as a matrix: inits down, activations across."""
        here = self.summary[
            (self.summary["network"] == block.network) & (self.summary["width"] == block.width)
        ]
        matrix = here.astype({"init": str, "activation": str}).pivot(
            index="init", columns="activation", values=column
        )
        return matrix.reindex(index=self.inits, columns=self.activations)


class Measured(Protocol):
    """A probe, as far as figures need it."""

    def table(self) -> pd.DataFrame:
        """The statistics, one row a value."""
        ...

    def histograms(self) -> pd.DataFrame:
        """The histograms, one row a bin that is not empty."""
        ...


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
    def of(cls, measured: Probed | Measured | pd.DataFrame) -> Probed:
        """What a probe, or the table of one, holds."""
        if isinstance(measured, Probed):
            return measured
        if isinstance(measured, pd.DataFrame):
            return cls(measured)
        return cls(measured.table(), measured.histograms())


def _in_order(names: pd.Series) -> list[str]:
    """Distinct names in the order of the categories, or of their appearance."""
    if isinstance(names.dtype, pd.CategoricalDtype):
        return [str(name) for name in names.cat.remove_unused_categories().cat.categories]
    return [str(name) for name in names.unique()]
