"""A coordinate check of the user's own model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from initstats.cli.app import Plugins
from initstats.cli.command import Pages, command
from initstats.cli.console import Bar
from initstats.cli.data import Size
from initstats.cli.measure import (
    GIVEN,
    Numbers,
    Page,
    Rate,
    Severity,
    Tokens,
    Vocabulary,
    check_together,
    claim,
    fail,
    note_given,
    put_out,
)
from initstats.cli.options import load_own, named_function, numbers
from initstats.cli.output import output

if TYPE_CHECKING:
    from initstats.coordinates import Coordinates

Factory = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FACTORY",
        help="What makes the model of a width: a function of the width (and the depth); "
        "file.py:name works. It may return the model and its optimizer.",
    ),
]
Widths = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NUMBERS", help="Widths to compare, best doubling. \\[default: 64,128,256,512]"
    ),
]
Depths = Annotated[
    list[str] | None,
    typer.Option(metavar="NUMBERS", show_default=False, help="Depths to compare, too."),
]
Images = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="mnist|FOLDER",
        callback=note_given,
        help="Its first 256 training images, (256, 1, 28, 28) of MNIST. A folder is one of IDX "
        "files or of images.",
    ),
]
Steps = Annotated[
    int,
    typer.Option(min=1, help="Steps of training; 2 or more where the readout begins at zero."),
]
Optimizer = Annotated[
    str,
    typer.Option(
        metavar="sgd|adam|MODULE:FUNCTION",
        help="What trains: the same rate for all, or a function of the model of your own.",
    ),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option(metavar="NUMBERS", help="How many draws, or which. \\[default: 3]"),
]
Against = Annotated[
    Literal["mup", "standard", "ntk", "mean_field"],
    typer.Option("--parametrization", help="What the powers of width are compared with."),
]


@command("Measure", page=True, file=True)
def coords(
    context: typer.Context,
    factory: Factory,
    widths: Widths = None,
    depths: Depths = None,
    input: Numbers = None,  # noqa: A002 (the name of the option)
    tokens: Tokens = None,
    vocabulary: Vocabulary = None,
    data: Images = None,
    size: Size = None,
    steps: Steps = 1,
    optimizer: Optimizer = "sgd",
    lr: Rate = None,
    seeds: Seeds = None,
    parametrization: Against = "mup",
    fail_on: Severity = "error",
    out: Page = None,
    plugin: Plugins = None,
    *,
    json: str | None,
    pages: Pages,
) -> None:
    """Check whether a model of your own scales with its width, and say what to change if not.

    Models of all widths are trained for a step or a few on the same input. Exit code 0: nothing
    found; 1: a finding as severe as --fail-on says, or an error in your own code, which is shown;
    2: not measured.

    What is minimized: the loss, where the model returns it; the cross-entropy of scores of classes
    on --data; anything else, the squared error to numbers drawn once.

    JSON: network, words, nearest; findings, parameters, slopes, as rows; page, where there is one.
    """
    from initstats.cli.model import own_code
    from initstats.coordinates import coordinate_check
    from initstats.probe.objective import loss_of

    pages.check(bool(out), "say where with --out")
    files = pages.files()
    file = Path(json) if json and json != "-" else None
    claim(file, out, files, "coordinates")
    load_own(plugin)
    sizes = _sizes(widths=widths or ["64,128,256,512"], depths=depths, seeds=seeds or ["3"])
    trainer = _optimizer(optimizer)
    x, classes = _batch(context.meta.get(GIVEN, []), factory, sizes, vocabulary, size)
    with Bar("models") as bar, own_code("the model", x):
        found = coordinate_check(
            _own(factory),
            sizes["widths"],
            x=x,
            loss=lambda output: loss_of(output, classes),
            steps=steps,
            optimizer=trainer,
            lr=lr,
            seeds=sizes["seeds"] if len(sizes["seeds"]) > 1 else sizes["seeds"][0],
            depths=sizes["depths"] if depths else None,
            parametrization=parametrization,
            progress=bar.show,
        )
    _told(found, file, out, files)
    fail(found.findings, fail_on)


def _sizes(**options: list[str] | None) -> dict[str, list[int]]:
    """The numbers of some options; none of one that is not given."""
    return {name: numbers(f"--{name}", given or []) for name, given in options.items()}


def _optimizer(name: str) -> str | Callable[..., Any]:
    """One of torch's by name, or a function of the user's that makes one."""
    from initstats.cli.model import RATES
    from initstats.registry import unknown

    if name in RATES:
        return name
    if ":" not in name:
        raise unknown("optimizer", name, [*RATES, "MODULE:FUNCTION"])
    return _own(name)


def _batch(
    given: Sequence[tuple[str, str]],
    factory: str,
    sizes: Mapping[str, Sequence[int]],
    vocabulary: int | None,
    size: int | None,
) -> tuple[Any, Any]:
    """What goes into the models, and its classes where it has some."""
    from initstats.cli.model import TOKENS, batches

    kinds = {kind for kind, _ in given}
    lone = {"--size": size and "data" not in kinds}
    lone |= {"--vocabulary": vocabulary and "tokens" not in kinds}
    check_together({option: bool(lacks) for option, lacks in lone.items()})
    if "tokens" in kinds and vocabulary is None:
        vocabulary = _vocabulary(factory, sizes)
    return next(batches(given, None, True, vocabulary or TOKENS, size=size))


def _vocabulary(factory: str, sizes: Mapping[str, Sequence[int]]) -> int:
    """How many token ids the smallest model knows."""
    from torch import nn

    from initstats.cli.model import TOKENS, vocabulary_of
    from initstats.coordinates.factory import seeded

    smallest = [min(sizes[name]) for name in ("widths", "depths") if sizes[name]]
    if min(smallest, default=0) < 1:
        return TOKENS  # the check says so
    with seeded(0):
        made = _own(factory)(*smallest)
    model = made[0] if isinstance(made, tuple) and made else made
    return vocabulary_of(model) if isinstance(model, nn.Module) else TOKENS


def _own(path: str) -> Callable[..., Any]:
    """A function of the user's, whose errors are told as such."""
    from initstats.cli.model import own_code

    function = named_function(path)
    if not callable(function):
        raise ValueError(f"{path} is of type {type(function).__name__}: name a function")

    def called(*given: Any) -> Any:
        with own_code(path):
            return function(*given)

    vars(called)["__wrapped__"] = function  # whose arguments count
    return called


def _told(found: Coordinates, file: Path | None, out: Path | None, files: Any) -> None:
    """Print what was found, write it, and make sure that there is something."""
    if found.findings["severity"].eq("unchecked").all():
        raise ValueError(found.words)
    output.tell(found.words)
    output.tell(found.findings)
    known = {
        "network": found.network,
        "words": found.words,
        "nearest": found.nearest,
        "findings": found.findings,
        "parameters": found.parameters,
        "slopes": found.slopes,
    }
    put_out(known, file, out, lambda folder: found.report(folder, files))
