"""How a program is stopped: by Ctrl-C, by a signal to end, or as its terminal is gone.

Each becomes an exception, so that everything is left tidy; if that takes too long, the end comes
without it.
"""

from __future__ import annotations

import os
import signal
import time
from threading import Thread, Timer

from initstats.drafts import clear_drafts
from initstats.processes import GRACE, kill_processes

_SIGNALS = {
    getattr(signal, name): words
    for name, words in {
        "SIGINT": "interrupted",
        "SIGTERM": "asked to end (SIGTERM)",
        "SIGHUP": "the terminal is gone (SIGHUP)",
    }.items()
    if hasattr(signal, name)  # Windows has no SIGHUP
}
_AGAIN = 1
"""Seconds within which another signal is the same one, sent to a process and to its group."""


class Stopped(KeyboardInterrupt):
    """Somebody asked this program to stop."""


class Request:
    """The request to stop, once there is one.

    Attributes:
        number: the signal; None before.
        is_answered: whether the user has been told.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_answered = False
        self._when = 0.0
        self._ignored: set[int] | None = None

    @property
    def code(self) -> int:
        """The exit code that says so."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def words(self) -> str:
        """What happened, for the user."""
        return _SIGNALS[signal.Signals(self.number or signal.SIGINT)]

    def listen(self) -> None:
        """From now on, signals stop this program; but for those that it began with ignored.

        A shell has a program ignore Ctrl-C that it runs in the background; nohup, the hang-up.
        """
        if self._ignored is None:
            self._ignored = {n for n in _SIGNALS if signal.getsignal(n) == signal.SIG_IGN}
        for number in _SIGNALS.keys() - self._ignored:
            signal.signal(number, self._stop)

    def listen_again(self) -> None:
        """Go on to listen, whatever the user's code has made of the signals."""
        if self._ignored is not None:
            self.listen()

    def ignore(self) -> None:
        """Ignore all signals from now on: the program is about to end."""
        if self._ignored is not None:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def _stop(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._when = number, now
            last = Timer(GRACE, self._leave)
            last.daemon = True
            last.start()
            raise Stopped
        if now - self._when > _AGAIN:
            self._leave()

    def _leave(self) -> None:
        """Leave without another word of Python's: something is stuck."""
        killing = Thread(target=kill_processes, daemon=True)  # it may be that which is stuck
        killing.start()
        killing.join(1)
        clear_drafts()
        try:
            if not self.is_answered:
                os.write(2, f"{self.words}\n".encode())
        finally:
            os._exit(self.code)


request = Request()
"""The one of this process."""
