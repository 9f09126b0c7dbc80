"""A study: a grid of what to vary, its cells measured on one process or many, one tidy table.

A cell is one (network, init, activation, width, seed). Its numbers are a function of that key and
of the run's settings, so the grid's order, workers and interruptions change nothing.
"""

from __future__ import annotations

from initstats.sweep.attempts import FailedCellsError as FailedCellsError
from initstats.sweep.cell import Cell as Cell
from initstats.sweep.definitions import definitions as definitions
from initstats.sweep.grid import Grid as Grid
from initstats.sweep.plugins import load_config as load_config
from initstats.sweep.plugins import load_plugins as load_plugins
from initstats.sweep.running import Progress as Progress
from initstats.sweep.running import chosen_samples as chosen_samples
from initstats.sweep.running import fingerprint as fingerprint
from initstats.sweep.running import run_sweep as run_sweep
