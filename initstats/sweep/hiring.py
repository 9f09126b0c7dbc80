"""Who works beside this process and processes of its own: an executor, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, TypeAlias

from initstats.registry import Entry
from initstats.workers import ByExecutor, Workers

if TYPE_CHECKING:
    from distributed import Client

Hands: TypeAlias = "int | Client | None"
"""How many processes of our own; None, as many as the work is worth; or the client of a cluster."""


def hired(hands: Hands, executor: Executor | None, entries: Sequence[Entry]) -> Workers | None:
    """Those who are asked to do the work instead of this process and its own, if any are.

    Args:
        entries: what the work is made of.

    Raises:
        TypeError: neither a number nor the client of a Dask cluster.
        ValueError: a client that is closed, or entries that cannot be sent to its workers.
    """
    if executor:
        return ByExecutor(executor)
    if hands is None or isinstance(hands, int):
        return None
    if not hasattr(hands, "scatter"):
        raise TypeError(
            f"workers: a number or a dask.distributed.Client, not {type(hands).__name__}"
        )
    from initstats.cluster import OnDask  # the extra `dask` is there, as there is a client

    return OnDask.of(hands, entries)


def processes_of(hands: Hands) -> int | None:
    """How many processes of our own are asked for; None is for us to choose."""
    return hands if isinstance(hands, int) else None
