"""The options that every command has, and those of commands that write a page."""

from __future__ import annotations

import inspect
import os
import warnings
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from initstats.cli.app import app
from initstats.cli.completion import figures, listed
from initstats.cli.options import names
from initstats.cli.output import output

if TYPE_CHECKING:
    from initstats.report.page import Files

Json = Annotated[
    bool, typer.Option("--json", help="Print what came of it as JSON, and nothing else.")
]
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[FILE|-]",
        help="Write what came of it as JSON; - or nothing prints it, and nothing else.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Print nothing but the page's path, and errors.")
]
Figures = Annotated[
    list[str] | None,
    typer.Option(
        "--figures",
        metavar="NAMES",
        autocompletion=listed(figures),
        help="Keep files of these figures only, comma-separated. \\[default: all]",
    ),
]
NoFigures = Annotated[
    bool, typer.Option("--no-figures", help="Write no files of figures; the page has its own.")
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write the page.")]


@dataclass(frozen=True)
class Pages:
    """How a command writes its page.

    Attributes:
        figures: whether files of figures are wanted, or which.
        opens: whether the browser opens the page.
    """

    figures: bool | Sequence[str] = True
    opens: bool = False

    def check(self, is_written: bool, missing: str) -> None:
        """Make sure that options about the page meet one.

        Args:
            missing: what to type, or not to, for a page.

        Raises:
            ValueError: there is none.
        """
        if self != Pages() and not is_written:
            raise ValueError(f"--figures, --no-figures and --open are for a page: {missing}")

    def files(self, noun: str = "page", workers: int | None = None) -> Files:
        """The files that are wanted; the page's path is told as soon as it can be read."""
        from initstats.report.page import Files

        def ready(page: Path) -> None:
            output.page(page, noun)
            if self.opens:
                with suppress(webbrowser.Error, OSError):
                    webbrowser.open(page.resolve().as_uri())

        return Files(self.figures, workers or os.cpu_count() or 1, ready)


def command(
    panel: str, name: str | None = None, *, page: bool = False, file: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a command, which has the options of all commands.

    Args:
        panel: of the help, where it stands.
        name: how it is typed; by default that of the function.
        page: whether it writes a page: it is given `pages`, of the options about it.
        file: whether `--json` may name a file: it is given `json`, a path, "-" or None.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(*, quiet: bool, **values: Any) -> None:
            as_json = values["json"] if file else values.pop("json")
            if page:
                values["pages"] = _pages(**{name: values.pop(name) for name in PAGE})
            with (
                output.as_asked(quiet=quiet, json=as_json in (True, "-")),
                warnings.catch_warnings() if quiet else nullcontext(),
            ):
                if quiet:
                    warnings.simplefilter("ignore")
                function(**values)

        given = inspect.signature(function, eval_str=True).parameters.values()
        own = [each for each in given if each.name not in ("pages", "json")]
        common = (PAGE if page else {}) | JSON[file]
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter(name, kind, default=default, annotation=option)
            for name, (option, default) in common.items()
        ]
        vars(run)["__signature__"] = inspect.Signature([*own, *added])
        run.__annotations__ = {each.name: each.annotation for each in (*own, *added)}
        app.command(name, rich_help_panel=panel, cls=_Optional if file else None)(run)
        return function

    return decorate


PAGE: dict[str, tuple[Any, Any]] = {
    "figures": (Figures, None),
    "no_figures": (NoFigures, False),
    "open": (Open, False),
}
"""The options of commands that write a page, and their defaults."""
JSON: dict[bool, dict[str, tuple[Any, Any]]] = {
    False: {"json": (Json, False), "quiet": (Quiet, False)},
    True: {"json": (JsonFile, None), "quiet": (Quiet, False)},
}
"""The options of all commands, by whether `--json` may name a file."""


def _pages(figures: list[str] | None, no_figures: bool, open: bool) -> Pages:  # noqa: A002
    if figures is not None and no_figures:
        raise ValueError("--figures and --no-figures exclude each other")
    return Pages(not no_figures if figures is None else names(figures), open)


class _Optional(typer.core.TyperCommand):
    """A command whose `--json` may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the `-` that is meant."""
        for at, word in enumerate(args):
            following = args[at + 1 : at + 2]
            if word == "--json" and (not following or following[0][:1] == "-" != following[0]):
                args = [*args[: at + 1], "-", *args[at + 1 :]]
        return super().parse_args(ctx, args)
