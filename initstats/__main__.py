"""`initstats`, or `python -m initstats`: the command line, which signals stop from the start."""

from __future__ import annotations

import sys
from pathlib import Path

from initstats.stopping import request


def main() -> None:
    """Run the command line."""
    request.listen()
    try:
        from initstats.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        request.is_answered = True
        sys.stderr.write(f"{request.words}\n")
        sys.exit(request.code)


if __name__ == "__main__":
    # `-m` looks in the working directory first, where any file may be called like a library; but
    # what runs from its sources is found there
    if Path(sys.path[0]) == Path.cwd() != Path(__file__).parents[1]:
        del sys.path[0]
    main()
