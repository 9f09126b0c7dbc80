"""`initstats`, or `python -m initstats`: the command line, which signals stop from the start."""

from __future__ import annotations

import sys

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
    main()
