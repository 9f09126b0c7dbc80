"""The command line: it mirrors the API, and is the only place that prints.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from initstats.cli.app import app, main

# The help lists the commands in the order in which they are imported.
# isort: off
from initstats.cli import (
    study,
    index,
    train,
    measure,
    audit,
    coords,
    foundations,
    reference,
    architectures,
    bench,
)

__all__ = [
    "app",
    "architectures",
    "audit",
    "bench",
    "coords",
    "foundations",
    "index",
    "main",
    "measure",
    "reference",
    "study",
    "train",
]
