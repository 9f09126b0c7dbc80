"""What goes to a worker of another machine before its first task, and what it does there.

The same bits are promised wherever a cell is computed, and so a worker must have the versions of
this process, and read the user's own modules as this process has read them.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from threading import Lock
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

from initstats.failure import Failure, in_a_line, is_users_file
from initstats.machine import machine
from initstats.registry import Sources, import_module, neighbours, receive, sources_of
from initstats.workers import Engine, tried

VERSIONS = ("initstats", "torch", "numba", "numpy")
"""What the last digits of numbers depend on."""
_PROCESS = uuid4().hex
"""What tells this process from all others, on whichever machine."""
_turn = Lock()
"""A process does one task at a time, as a pool's does, however many threads Dask has there."""


@dataclass(frozen=True)
class Luggage:
    """What a worker needs to read an engine and its tasks.

    Attributes:
        process: the one that packed it.
        versions: of what computes, by name.
        modules: those of the user's own that the tasks name.
        sources: of these, and of their neighbours that they may import.
    """

    process: str
    versions: dict[str, str]
    modules: tuple[str, ...]
    sources: Sources

    @classmethod
    def of(cls, modules: Iterable[str]) -> Luggage:
        """The luggage of tasks that name some modules; a ValueError where one cannot be read."""
        own = [name for name in dict.fromkeys(modules) if _is_own(sys.modules.get(name))]
        near = [module for module in neighbours(own) if _is_own(module)]
        named = tuple(name for name in own if name != "__main__")
        return cls(_PROCESS, _versions(), named, sources_of(near))

    def unpack(self) -> str:
        """Make this process ready; what stands against it, as a sentence without its subject."""
        if self.process == _PROCESS:  # a worker in a thread of the driver
            return ""
        for name, expected in self.versions.items():
            if (found := _versions()[name]) != expected:
                return (
                    f"has {name} {found}, and this process {expected}, so that digits could "
                    "differ: use the same versions everywhere"
                )
        receive(self.sources)
        for name in self.modules:
            try:
                import_module(name)
            except BaseException as error:  # noqa: BLE001 (it is told)
                return f"cannot import {name} ({in_a_line(error)}): install there what it needs"
        return ""


class Parcel:
    """An engine on its way, with the luggage that it needs; a worker opens it once."""

    def __init__(self, luggage: Luggage, engine: bytes) -> None:
        self.luggage, self._pickled, self._size = luggage, engine, len(engine)
        self._engine: Engine[Any, Any] | None = None

    def open(self) -> Engine[Any, Any]:
        """The engine."""
        if self._engine is None:
            self._engine, self._pickled = pickle.loads(self._pickled), b""
        return self._engine

    def __getstate__(self) -> tuple[Luggage, bytes]:
        return self.luggage, self._pickled or pickle.dumps(self._engine)  # it travels on

    def __setstate__(self, state: tuple[Luggage, bytes]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __sizeof__(self) -> int:
        return self._size


class Done(NamedTuple):
    """What became of a batch of tasks: an outcome or a failure for each, and how long they took."""

    outcomes: Sequence[Any]
    seconds: float


# what runs in a worker, or in the scheduler


def present() -> None:
    """Do nothing: who can be asked for it has this package."""


async def prepare(luggage: Luggage) -> tuple[str, str]:
    """What stands against a worker, empty where nothing does, and its processor."""

    def unpacked() -> str:
        with _turn:
            return luggage.unpack()

    return await asyncio.to_thread(unpacked), str(machine()["processor"])


def do_batch(parcel: Parcel, batch: Sequence[bytes]) -> Done | Failure:
    """Do pickled tasks; a failure where this worker cannot do any."""
    with _turn:
        if refusal := parcel.luggage.unpack():
            return Failure(refusal)
        try:
            engine = parcel.open()
        except Exception as error:  # noqa: BLE001 (it is told)
            return Failure(f"cannot take what the tasks share: {in_a_line(error)}")
        began = time.perf_counter()
        outcomes = [tried(lambda pickled: engine(pickle.loads(pickled)), task) for task in batch]
        return Done(outcomes, time.perf_counter() - began)


def _is_own(module: ModuleType | None) -> bool:
    """Whether a module is the user's: neither ours nor installed."""
    return is_users_file(getattr(module, "__file__", None) or "<none>")


@cache
def _versions() -> dict[str, str]:
    known = machine()
    return {name: str(known[name]) for name in VERSIONS}
