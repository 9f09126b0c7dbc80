"""What a report is about: a run on disk, or a table by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

import pandas as pd

from initstats.plots import Results, band_of, banded
from initstats.store import (
    Run,
    iterate_histograms,
    load_predictions,
    load_run,
    load_sessions,
    load_table,
    to_toml,
)


@dataclass(frozen=True)
class Source:
    """The results to report, and what is known of how they came about.

    Attributes:
        results: the table; of a run the histograms, and what theory says.
        run: configuration and settings; None for a bare table.
        sessions: the drivers at work on the run; None for a bare table.
    """

    results: Results
    run: Run | None = None
    sessions: pd.DataFrame | None = None

    @classmethod
    def of(cls, run: str | Path | pd.DataFrame) -> Source:
        """The source that a folder or a table is.

        Raises:
            ValueError: not a run's folder, or not the table of one sweep.
        """
        if isinstance(run, pd.DataFrame):
            return cls(Results.of(run))
        settings = load_run(run)
        histograms = (
            ((str(network), str(init), str(activation), int(width)), counts)
            for (network, init, activation, width, _), counts in iterate_histograms(run)
        )
        table = load_table(run)
        bands = banded(band_of(*settings.bins), histograms)
        results = Results.of(table, bands, load_predictions(run))
        return cls(results, settings, load_sessions(run))

    @property
    def measured(self) -> int:
        """How many cells of the run there are."""
        keys = list(self.run.keys) if self.run else []
        return len(self.results.table[keys].drop_duplicates())

    @property
    def dataset(self) -> str:
        """The data set's name; empty where the table does not say."""
        names = self.results.table.get("dataset")
        return "" if names is None else str(names.iloc[0])

    @property
    def grid(self) -> str:
        """The run's configuration as TOML."""
        return to_toml(self.run.config) if self.run else ""

    @property
    def public_grid(self) -> str:
        """The configuration without the places of this machine."""
        if self.run is None:
            return ""
        config = dict(self.run.config)
        config["data"] = PurePath(str(config.get("data", ""))).name
        config["plugins"] = [PurePath(str(name)).name for name in config.get("plugins") or ()]
        return to_toml(config)
