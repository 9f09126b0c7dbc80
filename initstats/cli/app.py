"""The application itself: how it starts, and how it fails."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from traceback import extract_tb, print_exc
from typing import Annotated, NoReturn

import typer

from initstats import __version__

app = typer.Typer(
    name="initstats",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Does the signal survive the depth of your network? Measured for every initialization "
    "and activation, forward and backward.",
    epilog="Start with: initstats sweep",
)

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="Import this module (or file.py) first: it registers inits, activations, and so on.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Worker processes. \\[default: what the work is worth]", show_default=False),
]


def main() -> None:
    """Run the command line; every expected error is one line on stderr and exit code 2."""
    # Spinning OpenMP threads slow a busy machine fifty times; torch reads these when imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.formatwarning = lambda message, *_, **__: f"initstats: {message}\n"
    sys.path.append(str(Path.cwd()))  # where a plugin is looked for; spawned workers look there too
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        _fail(_usage(error))
    except (ValueError, OSError) as error:
        if "--traceback" in sys.argv:
            print_exc()
            sys.exit(2)
        _fail(f"{error}{'' if _is_foreseen(error) else ' (initstats --traceback ... shows where)'}")
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"initstats {__version__}")
        raise typer.Exit


@app.callback()
def _initstats(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from, not only what.")
    ] = False,
) -> None:
    pass


def _is_foreseen(error: Exception) -> bool:
    """Whether we wrote the message for users; any other ValueError may be a mistake of ours."""
    place = extract_tb(error.__traceback__)[-1]
    ours = Path(place.filename).is_relative_to(Path(__file__).parents[1])
    return isinstance(error, OSError) or (ours and (place.line or "").startswith("raise"))


def _fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    typer.echo(f"initstats: {' '.join(message.split())}", err=True)
    sys.exit(2)


def _usage(error: typer.TyperException) -> str:
    """A usage error in a line, with where to read on."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "initstats"
    return f"{text} (see {path} --help)"
