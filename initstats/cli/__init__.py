"""The command line: it mirrors the API, and is the only place that prints.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from initstats.cli import bench, foundations, measure, reference, study
from initstats.cli.app import app, main

__all__ = ["app", "bench", "foundations", "main", "measure", "reference", "study"]
