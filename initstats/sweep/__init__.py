"""A study: a grid of what to vary, its cells measured on one process or many, one tidy table.

A cell is one (network, init, activation, width, seed). Its numbers are a function of that key and
of the run's settings, so the grid's order, workers and interruptions change nothing.
"""

from __future__ import annotations

from initstats.sweep.cell import Cell
from initstats.sweep.grid import Grid
from initstats.sweep.plugins import load_config, load_plugins, read_config
from initstats.sweep.running import Progress, chosen_samples, fingerprint, run_sweep

__all__ = [
    "Cell",
    "Grid",
    "Progress",
    "chosen_samples",
    "fingerprint",
    "load_config",
    "load_plugins",
    "read_config",
    "run_sweep",
]
