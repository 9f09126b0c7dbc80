"""The Dask cluster that `--dask` names: connected to, or started here and ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from initstats.drafts import draft_folder

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 10
"""Seconds to wait for a scheduler to answer."""


@contextmanager
def cluster(address: str | None, workers: int | None) -> Iterator[Client | int | None]:
    """Who is to work: a client of the cluster at an address, or without one, so many workers.

    Args:
        address: the scheduler's; `local` for a cluster of this machine, which is gone at the end.
        workers: of a local cluster; None for one a core.

    Raises:
        ValueError: Dask is not installed; nobody answers at the address.
    """
    if address is None:
        yield workers
        return
    try:
        import distributed
    except ImportError as error:
        raise ValueError(f"--dask needs Dask ({error}): pip install 'initstats[dask]'") from error
    _silence()
    with ExitStack() as resources:
        if address != "local":
            yield resources.enter_context(_connected(address))
            return
        count = workers or os.cpu_count() or 1
        here = distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            # else its port would run the code of whoever is on this machine
            security=True if find_spec("cryptography") else None,
            dashboard_address="127.0.0.1:0",
            local_directory=str(resources.enter_context(draft_folder())),
            silence_logs=logging.CRITICAL,
        )
        resources.enter_context(here)
        yield resources.enter_context(distributed.Client(here, set_as_default=False))


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    from distributed import Client
    from distributed.comm import get_address_host_port

    try:
        get_address_host_port(address)  # a client that cannot read it takes long to be gone
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"--dask: no Dask scheduler answers at {address!r} ({reason})") from error
    with client:
        yield client


def _silence() -> None:
    """Let Dask say nothing: whatever matters, we say."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
