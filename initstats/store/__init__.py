"""The results of a run on disk: settings, rows and histograms, one transaction a cell.

A run is a folder. Its `run.sqlite` can be read with any SQLite browser: the view `tidy` is the
table of results, `run` says under which settings they came about. Its `grid.toml` is the
configuration that computes the same again. A driver that is killed loses the cell in flight, never
one that was committed.
"""

from __future__ import annotations

from initstats.store.file import StoreError
from initstats.store.histograms import pack, unpack
from initstats.store.parameters import parameters_of, with_parameters
from initstats.store.predictions import load_predictions, save_predictions
from initstats.store.reading import (
    iterate_histograms,
    load_histograms,
    load_run,
    load_sessions,
    load_table,
)
from initstats.store.run import Key, Kind, Run, to_toml
from initstats.store.writing import Store

__all__ = [
    "Key",
    "Kind",
    "Run",
    "Store",
    "StoreError",
    "iterate_histograms",
    "load_histograms",
    "load_predictions",
    "load_run",
    "load_sessions",
    "load_table",
    "pack",
    "parameters_of",
    "save_predictions",
    "to_toml",
    "unpack",
    "with_parameters",
]
