"""`python -m initstats`: the command line."""

from __future__ import annotations

from initstats.cli import main

if __name__ == "__main__":
    main()
