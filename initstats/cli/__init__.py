"""The command line: it mirrors the API, and is the only place that prints.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from initstats.cli import measure, model, reference, teaching, theory, timing
from initstats.cli.app import app, main

__all__ = ["app", "main", "measure", "model", "reference", "teaching", "theory", "timing"]
