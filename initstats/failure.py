"""A failure: an error as words, which cross to any process and lie in any file.

An exception may hold what no other process can read, and its message may be code of the user's own.
"""

from __future__ import annotations

import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from traceback import StackSummary, TracebackException

LONGEST = 600
"""A longer message is cut."""
_OURS, _PYTHONS = Path(__file__).parent, Path(sysconfig.get_paths()["stdlib"])
_PLUMBING = re.compile(r"[\\/](site|dist)-packages[\\/]torch[\\/]")
"""Frames of torch tell nothing about an error in the user's code."""


@dataclass(frozen=True)
class Failure:
    """What became of work that has no outcome.

    Attributes:
        error: the kind of the error and its message, in one line.
        traceback: as Python prints it, without our own frames; empty where no frame is left.
        lost: whether the process that did the work ended instead of raising an error.
    """

    error: str
    traceback: str = ""
    lost: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an error means."""
        return cls(in_a_line(error), traceback_of(error))


def in_a_line(error: BaseException) -> str:
    """The kind of an error and its message."""
    told = TracebackException.from_exception(error, limit=0)
    told.__notes__ = None
    text = " ".join(list(told.format_exception_only())[-1].split())
    text = text.removeprefix(f"{type(error).__module__}.")  # a plugin's is a long path
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def traceback_of(error: BaseException, *, whole: bool = False) -> str:
    """The traceback of an error from the user's code on, without our frames; or all of it.

    It is empty where no frame is left.
    """
    told = TracebackException.from_exception(error)
    chain, left = [told], int(isinstance(error, SyntaxError))  # which says where, without frames
    for each in chain:
        if not whole:
            theirs = (place for place, x in enumerate(each.stack) if is_users_file(x.filename))
            first = next(theirs, None)
            frames = [
                x for x in each.stack[first:] if first is not None or not _is_pythons(x.filename)
            ]
            each.stack = StackSummary.from_list(x for x in frames if not _is_plumbing(x.filename))
        left += len(each.stack)
        chain += [x for x in (each.__cause__, each.__context__, *(each.exceptions or ())) if x]
    return "".join(told.format()) if left else ""


def is_users(error: BaseException) -> bool:
    """Whether an error passed through code of the user's own: neither ours nor a library's."""
    frame = error.__traceback__
    while frame:
        if is_users_file(frame.tb_frame.f_code.co_filename):
            return True
        frame = frame.tb_next
    return False


def is_of_memory(error: BaseException) -> bool:
    """Whether an error means that the system gives no more memory; torch has no kind for it."""
    words = ("can't allocate memory", "can't start new thread", "out of memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


def is_ours(file: str) -> bool:
    """Whether a file belongs to this package."""
    return Path(file).is_relative_to(_OURS)


def _is_plumbing(file: str) -> bool:
    return is_ours(file) or file.startswith("<frozen") or bool(_PLUMBING.search(file))


def is_users_file(file: str) -> bool:
    """Whether a file is neither ours nor Python's, nor that of an installed library."""
    installed = {"site-packages", "dist-packages"} & {*Path(file).parts}
    return not (file.startswith("<") or is_ours(file) or installed or _is_pythons(file))


def _is_pythons(file: str) -> bool:
    """Whether a file is of Python's own library."""
    return Path(file).is_relative_to(_PYTHONS)
