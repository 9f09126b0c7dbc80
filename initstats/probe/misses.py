"""What was not measured: things that cannot be, and what failed while it was measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple


class Miss(NamedTuple):
    """Something that was not measured, and why."""

    kind: str
    name: str
    op: str
    reason: str


class Guard:
    """A block that may fail: an error ends it, is told, and goes no further.

    Args:
        miss: what would not be measured then, without the reason.
        tell: is given the miss, with the reason.
    """

    def __init__(self, miss: Miss, tell: Callable[[Miss], None]) -> None:
        self._miss, self._tell = miss, tell

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        lines = str(error).splitlines() or [""]
        reason = f"measuring it failed: {type(error).__name__}: {lines[0]}"
        with suppress(Exception):  # whatever a foreign container may do
            self._tell(self._miss._replace(reason=reason))
        return True
