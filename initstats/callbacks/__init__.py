"""Trainings of other libraries, watched: a callback for each, and scalars for their loggers.

`watcher` holds what all callbacks share and serves a loop of one's own; `lightning`, `transformers`
and `fastai` each hold a `ProbeCallback`, and need the library of their name; `scalars` knows
loggers. Importing the room loads none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from initstats.lazy import attach

if TYPE_CHECKING:
    from initstats.callbacks.scalars import Logger as Logger
    from initstats.callbacks.watcher import Watcher as Watcher
else:
    __getattr__, __dir__, __all__ = attach(__name__)
