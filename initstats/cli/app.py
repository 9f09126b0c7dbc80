"""The application itself: how it starts, and how it fails."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from io import TextIOWrapper
from traceback import extract_tb
from typing import Annotated

import typer

from initstats import __version__
from initstats.drafts import clear_drafts
from initstats.failure import in_a_line, is_of_memory, is_ours, is_users, traceback_of
from initstats.stopping import request

COMPLETIONS = ("--install-completion", "--show-completion")
CLOSED_PIPE = 128 + 13
"""The exit code of a program whose reader has gone, as `head` does: that of SIGPIPE."""

COMPLETING = "_INITSTATS_COMPLETE"
"""What a shell sets in the environment to ask how a command line goes on."""

app = typer.Typer(
    name="initstats",
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
    typer.Option(
        min=1, help="Worker processes. \\[default: what the work is worth]", show_default=False
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="ADDRESS|local",
        help="Work on a Dask cluster: its scheduler's address, or local for one of --workers "
        "processes here (extra dask).",
    ),
]


class OwnError(Exception):
    """An error in code of the user's own, which is its cause; the message is one line about it."""


class Interruption(Exception):
    """The program was asked to stop; the message says what is kept."""


def main() -> None:
    """Run the command line; every error is one line on stderr.

    Exit code 2 says that nothing came of it; 1, that a check-up found something, that cells failed,
    or that the user's own code raised an error: then its traceback follows, without our frames.
    128 + n says that signal n stopped it: 130 is Ctrl-C.
    """
    # Spinning OpenMP threads slow a busy machine fifty times; torch reads these when imported.
    # In Turkish, PASSIVE is not the same word in small letters, which OpenMP compares.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Python's tracker of what processes share, of which ours have nothing, dies with a terminal
    warnings.filterwarnings("ignore", "resource_tracker: process died", UserWarning)
    warnings.formatwarning = lambda message, *_, **__: f"initstats: {message}\n"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal may not have every letter
            stream.reconfigure(errors="backslashreplace")
    if COMPLETING in os.environ:  # a shell asks
        app(prog_name="initstats")
    code = flushed(_run())
    request.ignore()
    sys.exit(code)


def _run() -> int:
    """Run the command that was typed; its exit code."""
    try:
        code = app(standalone_mode=False)
    except BaseException as error:  # noqa: BLE001 (it is told)
        if request.number is None and not isinstance(error, KeyboardInterrupt | typer.Abort):
            return _told(error)
        code, request.is_answered = request.code, True
        say(str(error) if isinstance(error, Interruption) else request.words)
    else:
        code = code if isinstance(code, int) else 0
        if request.number or code == request.code:  # typer makes a code of Ctrl-C
            code, request.is_answered = request.code, True
            say(request.words)
    if code == request.code:
        clear_drafts()
    return code


def _told(error: BaseException) -> int:
    """Say what an error means to the user; the exit code."""
    whole = "--traceback" in sys.argv
    cause = error.__cause__
    if isinstance(error, typer.TyperException):
        message = _usage(error)
    elif isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        return CLOSED_PIPE  # whoever read the output has had enough
    elif isinstance(error, SystemExit) and sys.argv[1:2] and sys.argv[1] in COMPLETIONS:
        return int(error.code or 0)  # how typer ends these
    elif isinstance(error, OwnError) or (cause and _is_users(cause)):
        say(f"initstats: {error}", traceback_of(cause or error, whole=whole))
        return 1
    elif _is_users(error):
        say(f"initstats: your code raised {in_a_line(error)}", traceback_of(error, whole=whole))
        return 1
    elif is_raised_here(error) or isinstance(error, OSError):
        message = str(error)
    elif is_of_memory(error):
        message = f"the memory does not suffice: {in_a_line(error)}"
    else:
        message = f"{in_a_line(error)} (initstats --traceback ... shows where)"
    say(f"initstats: {message}", traceback_of(error, whole=True) if whole else "")
    return 2


def say(line: str, more: str = "") -> None:
    """Write a line on stderr, and maybe what follows it."""
    with suppress(OSError, ValueError):  # nobody is there to read it
        typer.echo(" ".join(line.split()), err=True)
        typer.echo(more, nl=False, err=True)


def flushed(code: int) -> int:
    """The exit code, once all output is out: another one where it cannot be written."""
    try:
        if sys.stdout and not sys.stdout.closed:
            sys.stdout.flush()
    except OSError as error:
        with suppress(OSError):  # or Python would try again, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code or CLOSED_PIPE
        if not code:
            say(f"initstats: cannot write the output: {error.strerror}")
        return code or 2
    return code


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


def is_raised_here(error: BaseException) -> bool:
    """Whether it is our own code that raised an error, with a message for users."""
    frames = extract_tb(error.__traceback__)
    return bool(frames) and is_ours(frames[-1].filename) and (frames[-1].line or "")[:5] == "raise"


def _is_users(error: BaseException) -> bool:
    """Whether an error is of the user's code, and not our answer to it."""
    return is_users(error) and not is_raised_here(error)


def _usage(error: typer.TyperException) -> str:
    """A usage error in a line, with where to read on."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "initstats"
    return f"{text} (see {path} --help)"
