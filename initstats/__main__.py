"""`python -m initstats`: the command line."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # `-m` looks in the working directory first, where any file may be called like a library; but
    # what runs from its sources is found there
    if Path(sys.path[0]) == Path.cwd() != Path(__file__).parents[1]:
        del sys.path[0]
    from initstats.cli import main

    main()
