"""The results of a run on disk: settings, rows and histograms, one transaction a cell.

A run is a folder. Its `run.sqlite` can be read with any SQLite browser: the view `tidy` is the
table of results, `run` says under which settings they came about. Its `grid.toml` is the
configuration that computes the same again. A driver that is killed loses the cell in flight, never
one that was committed.
"""

from __future__ import annotations

from initstats.store.errors import StoreError as StoreError
from initstats.store.failures import load_failures as load_failures
from initstats.store.file import refuse_other_settings as refuse_other_settings
from initstats.store.histograms import pack as pack
from initstats.store.parameters import parameters_of as parameters_of
from initstats.store.predictions import load_predictions as load_predictions
from initstats.store.predictions import save_predictions as save_predictions
from initstats.store.reading import committed_cells as committed_cells
from initstats.store.reading import is_run as is_run
from initstats.store.reading import load_histograms as load_histograms
from initstats.store.reading import load_run as load_run
from initstats.store.reading import load_sessions as load_sessions
from initstats.store.reading import load_table as load_table
from initstats.store.reading import sum_histograms as sum_histograms
from initstats.store.run import Definitions as Definitions
from initstats.store.run import Key as Key
from initstats.store.run import Kind as Kind
from initstats.store.run import Run as Run
from initstats.store.run import to_toml as to_toml
from initstats.store.writing import Store as Store
