"""The application itself: how it starts, and how it fails."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from traceback import StackSummary, TracebackException, extract_tb, print_exc
from typing import Annotated, NoReturn, TextIO

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
CLOSED = 128 + 13
"""The exit code that shells give to programs which a closed pipe ended: 128 and SIGPIPE."""
Workers = Annotated[
    int | None,
    typer.Option(help="Worker processes. \\[default: what the work is worth]", show_default=False),
]


class OwnError(Exception):
    """An error in code of the user's own, which is its cause; the message is one line about it."""


def main() -> None:
    """Run the command line; every expected error is one line on stderr and exit code 2.

    Under the line about an error in the user's own code stands its traceback, of the user's frames
    alone. Errors that nobody expected have exit code 2, too: 1 is for what a check-up finds. Where
    the reader of the output has closed it, as `| head` does, the code is the shell's, 141.
    """
    # Spinning OpenMP threads slow a busy machine fifty times; torch reads these when imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.formatwarning = lambda message, *_, **__: f"initstats: {message}\n"
    sys.path.append(str(Path.cwd()))  # where a plugin is looked for; spawned workers look there too
    output = sys.stdout
    try:
        code = app(standalone_mode=False)
        output.flush()
    except (BrokenPipeError, SystemExit) as error:
        # typer makes an exit with code 1 of a closed pipe
        if BrokenPipeError not in (type(error), type(error.__context__)):
            raise
        _leave_quietly(output)
    except typer.TyperException as error:
        _fail(_usage(error))
    except OwnError as error:
        typer.echo(f"initstats: {' '.join(str(error).split())}", err=True)
        typer.echo(_traceback_of(error.__cause__), nl=False, err=True)
        sys.exit(2)
    except (ValueError, OSError) as error:
        if "--traceback" in sys.argv:
            print_exc()
            sys.exit(2)
        _fail(f"{error}{'' if _is_foreseen(error) else ' (initstats --traceback ... shows where)'}")
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except Exception:  # noqa: BLE001 (it is told in full)
        print_exc()
        sys.exit(2)
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
    return isinstance(error, OSError) or is_raised_here(error)


def is_raised_here(error: BaseException) -> bool:
    """Whether it is our own code that raised an error."""
    place = extract_tb(error.__traceback__)[-1]
    return _is_ours(place.filename) and (place.line or "").startswith("raise")


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(Path(__file__).parents[1])


def _is_plumbing(file: str) -> bool:
    """Whether a frame tells nothing about an error in the user's code."""
    torch = sys.modules.get("torch")
    own = Path(torch.__file__).parent if torch and torch.__file__ else None
    inside = own is not None and Path(file).is_relative_to(own)
    return _is_ours(file) or inside or file.startswith("<frozen")


def _traceback_of(error: BaseException | None) -> str:
    """The traceback of an error in the user's code; all of it, and not only that, if asked for."""
    if error is None:
        return ""
    told = TracebackException.from_exception(error)
    if "--traceback" not in sys.argv:
        chain: TracebackException | None = told
        while chain:
            frames = [frame for frame in chain.stack if not _is_plumbing(frame.filename)]
            chain.stack = StackSummary.from_list(frames)
            chain = chain.__cause__ or chain.__context__
        if not told.stack and not told.__cause__ and not told.__context__:
            return "".join(told.format_exception_only())
    return "".join(told.format())


def _leave_quietly(output: TextIO) -> NoReturn:
    """Leave when the reader of the output has gone; what is still to be written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
    sys.exit(CLOSED)


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
