"""Where numbers come from: the processor and the versions that a result's last bits depend on."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, str | int]:
    """The processor, its cores, the system, and the versions of what computes.

    >>> list(machine())
    ['processor', 'cores', 'system', 'python', 'torch', 'numpy', 'numba', 'initstats']
    """
    import initstats

    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "numba")},
        "initstats": initstats.__version__,
    }


def _processor() -> str:
    with suppress(OSError):
        if named := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()):
            return named[1].strip()
    return platform.processor() or platform.machine()
