"""The lesson that the project comes from: every number measured anew, and every step as code.

The lesson is "the forward and backward passes" of fast.ai's course from the foundations; its
published numbers are single draws. `published` holds them, `steps` the code as it is taught,
`draws` repeats the draws, `experiments` asks what the lesson leaves open, `clock` times the
implementations, `figures` draws and `page` writes it all up. The rooms load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initstats.foundations.clock import timings
    from initstats.foundations.evidence import Evidence, lesson, measure
    from initstats.foundations.page import write_lesson

_HOME = {
    "Evidence": "evidence",
    "lesson": "evidence",
    "measure": "evidence",
    "timings": "clock",
    "write_lesson": "page",
}

__all__ = ["Evidence", "lesson", "measure", "timings", "write_lesson"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a name's module when it is first used."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
