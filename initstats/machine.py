"""Where numbers come from: the processor, the versions that last bits depend on, and memory."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, str | int]:
    """The processor, its cores, the system, and the versions of what computes.

    >>> list(machine())
    ['processor', 'cores', 'system', 'python', 'torch', 'numpy', 'numba', 'initstats']
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "numba", "initstats")},
    }


def added_memory(call: Callable[[], object]) -> float:
    """Megabytes (10^6 bytes) that a call adds to the memory of this process at its peak.

    Only Linux forgets an earlier peak; elsewhere only what exceeds that peak counts.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget earlier peaks
    before = _peak()
    call()
    return _peak() - before


def resident_memory() -> float:
    """The memory of this process, in megabytes."""
    with suppress(OSError, TypeError):
        return _of_status("VmRSS")
    return _peak()


def _peak() -> float:
    """The largest memory of this process, in megabytes."""
    with suppress(OSError, TypeError):
        return _of_status("VmHWM")  # getrusage would count the process that started this one
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6


def _of_status(name: str) -> float:
    """A line of what Linux tells of this process, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s*(\d+) kB", status)[1]) * 1024 / 1e6  # type: ignore[index]


def _processor() -> str:
    with suppress(OSError):
        if named := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()):
            return named[1].strip()
    return platform.processor() or platform.machine()
