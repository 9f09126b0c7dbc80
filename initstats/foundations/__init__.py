"""The lesson that the project comes from: every number measured anew, and every step as code.

The lesson is "the forward and backward passes" of fast.ai's course from the foundations; its
published numbers are single draws. `published` holds them, `steps` the code as it is taught,
`draws` repeats the draws, `experiments` asks what the lesson leaves open, `clock` times the
implementations, `figures` draws and `page` writes it all up. The rooms load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from initstats.lazy import attach

if TYPE_CHECKING:
    from initstats.foundations.clock import timings as timings
    from initstats.foundations.evidence import Evidence as Evidence
    from initstats.foundations.evidence import lesson as lesson
    from initstats.foundations.evidence import measure as measure
    from initstats.foundations.page import write_lesson as write_lesson
else:
    __getattr__, __dir__, __all__ = attach(__name__)
