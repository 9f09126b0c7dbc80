"""A check-up of the user's own model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from initstats.cli.app import Plugins
from initstats.cli.command import Pages, command
from initstats.cli.console import Bar, print_table
from initstats.cli.data import Size
from initstats.cli.options import load_own
from initstats.cli.output import as_json, output
from initstats.drafts import write_whole
from initstats.plural import counted

if TYPE_CHECKING:
    import pandas as pd

    from initstats.diagnosis import Findings
    from initstats.probe import Probe
    from initstats.report.page import Files

GIVEN = "given"
LARGEST = 2**63 - 1
"""The largest whole number that torch takes."""


def note_given(context: typer.Context, option: typer.CallbackParam, value: Any) -> Any:
    """Note what an option gives to the model: options come in the order of the command line."""
    values = [value] if isinstance(value, str) else value or []
    context.meta.setdefault(GIVEN, []).extend((option.name, text) for text in values)
    return value


Factory = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FACTORY",
        help="What makes the model: module:function, file.py:function, with arguments "
        "'file.py:gpt(layers=6)'.",
    ),
]
Numbers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SIZES",
        callback=note_given,
        help="Unit-normal numbers: 8,3,224,224. Repeat it for a model of several arguments.",
    ),
]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SIZES", callback=note_given, help="Token ids, drawn evenly: 2,128. Repeatable."
    ),
]
Vocabulary = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=LARGEST,
        show_default=False,
        help="--tokens draws ids below this. \\[default: the rows of the model's first embedding; "
        "100 where it has none]",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="mnist|FOLDER",
        callback=note_given,
        help="Its first 256 validation images, (256, 1, 28, 28) of MNIST; with --steps, batches "
        "of 256 training images. A folder is one of IDX files or of images.",
    ),
]
Float = Annotated[
    Literal["float32", "float64", "bfloat16", "float16"] | None,
    typer.Option(
        show_default=False, help="Cast the model and its input. \\[default: the factory's choice]"
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default=False,
        help="Train for so many steps, and watch. A model that returns its loss has that "
        "minimized; scores of classes, their cross-entropy on --data; anything else, the squared "
        "error to targets drawn once.",
    ),
]
Optimizer = Annotated[
    Literal["sgd", "adam"] | None,
    typer.Option(show_default=False, help="What --steps trains with. \\[default: sgd]"),
]
Rate = Annotated[
    float | None,
    typer.Option(
        min=0, show_default=False, help="Learning rate. \\[default: sgd 0.01, adam 0.001]"
    ),
]
Severity = Annotated[
    Literal["error", "warning", "never"],
    typer.Option(help="Exit with code 1 where a finding is at least this severe."),
]
Backward = Annotated[
    bool, typer.Option("--backward", help="Gradients of a unit-normal cotangent, too.")
]
Spectra = Annotated[
    bool,
    typer.Option(
        "--spectra", help="How many directions values fill and weights act in, too; takes longer."
    ),
]
Theory = Annotated[
    bool,
    typer.Option(
        "--theory",
        help="Lay beside it what theory predicts: second moments of all values, and their ratio.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST, help="torch's seed when the model is made.")]
Page = Annotated[
    Path | None, typer.Option(help="Write a page into this folder.", show_default=False)
]
SEVERE = {"error": ["error"], "warning": ["error", "warning"], "never": []}
"""Severities that fail, by what --fail-on says."""


@command("Measure", page=True, file=True)
def measure(
    context: typer.Context,
    factory: Factory,
    input: Numbers = None,  # noqa: A002 (the name of the option)
    tokens: Tokens = None,
    vocabulary: Vocabulary = None,
    data: Data = None,
    size: Size = None,
    dtype: Float = None,
    backward: Backward = False,
    spectra: Spectra = False,
    theory: Theory = False,
    seed: Seed = 0,
    steps: Steps = None,
    optimizer: Optimizer = None,
    lr: Rate = None,
    fail_on: Severity = "error",
    out: Page = None,
    plugin: Plugins = None,
    *,
    json: str | None,
    pages: Pages,
) -> None:
    """Measure every operation of a model of your own, and say what is wrong with it.

    Exit code 0: nothing found; 1: a finding as severe as --fail-on says, or an error in your own
    code, which is shown; 2: not measured.

    Inputs go to the model in the order of their options; all of one option stand where its first
    one does.

    JSON: network, coverage, losses, findings, missed, table, and theory where it is asked for (the
    last four are lists of rows), and of what is printed page, where one is written.
    """
    from initstats.cli.model import batches, measured, own_model, train, vocabulary_of

    check_together(
        {"--optimizer and --lr": (lr, optimizer) != (None, None) and steps is None}
        | {"--theory": bool(theory and steps)}
        | {"--size": bool(size and not data), "--vocabulary": bool(vocabulary and not tokens)}
    )
    pages.check(bool(out), "say where with --out")
    files = pages.files()
    file = Path(json) if json and json != "-" else None
    claim(file, out, files, "model")  # before the work, not after it
    load_own(plugin)
    given = context.meta.get(GIVEN, [])
    model, losses = own_model(factory, dtype, seed), list[float]()
    source = batches(given, dtype, steps is not None, vocabulary or vocabulary_of(model), size=size)
    told = None
    if steps is None:
        inputs = next(source)[0]
        probe = measured(model, inputs, backward=backward, spectra=spectra)
        told = _predicted(model, inputs, probe) if theory else None
    else:
        with Bar("steps") as bar:
            probe, losses = train(
                model, source, steps, optimizer or "sgd", lr, bar.show, spectra=spectra
            )
    fail(_found(probe, losses, told, file, out, files), fail_on)


def _found(
    probe: Probe,
    losses: list[float],
    theory: pd.DataFrame | None,
    file: Path | None,
    out: Path | None,
    files: Files,
) -> Findings:
    """Say and write what was found."""
    from initstats.diagnosis import diagnose

    if probe.table().empty:
        raise ValueError(f"nothing was measured: {_why_nothing(probe)}")
    findings = diagnose(probe.table())
    _tell(probe, findings, losses)
    known = _known(probe, findings, losses)
    if theory is not None:
        _tell_theory(theory, out)
        known["theory"] = theory
    put_out(known, file, out, lambda folder: _page(probe, folder, files, theory))
    return findings


MOST_TOLD = 20
"""The values whose prediction is printed: those that are farthest from it."""


def _predicted(model: Any, inputs: Any, probe: Probe) -> pd.DataFrame:
    """What theory predicts of a model, beside what was measured of it."""
    from initstats.cli.model import own_code
    from initstats.prediction.model import beside, predict_model

    table = probe.table()
    backward = bool((table["direction"] == "backward").any())
    with own_code("the model", inputs):
        return beside(table, predict_model(model, inputs, backward=backward))


def _tell_theory(rows: pd.DataFrame, out: Path | None) -> None:
    """Print how far the measured second moments are from the predicted ones."""
    from initstats.prediction.model import farthest

    shown = farthest(rows, MOST_TOLD)
    ratios = rows["ratio"].dropna()
    words = f"theory: {len(ratios)} of {counted(len(rows), 'second moment')} predicted"
    if len(ratios):
        words += f"; measured / predicted is {ratios.min():.3g} to {ratios.max():.3g}, " + (
            f"its median {ratios.median():.3g}"
        )
    if more := len(ratios) - len(shown):
        where = out / "theory.csv" if out else "JSON"
        words += f"; the {len(shown)} farthest from 1 are shown, {more} more are in {where}"
    output.tell(words)
    columns = ["layer", "name", "op", "direction", "measured", "predicted", "ratio", "claim"]
    if len(shown):
        print_table(columns, shown[columns].itertuples(index=False, name=None))


def put_out(
    known: Mapping[str, Any], file: Path | None, out: Path | None, page: Callable[[Path], Path]
) -> None:
    """Write what is known into a file and onto a page, and print it for programs.

    Args:
        file: of JSON.
        out: the folder of the page, which `page` writes.
    """
    if file:
        write_whole(file, f"{as_json(known)}\n")
    output.result(**known, **({"page": page(out)} if out else {}))


def fail(findings: pd.DataFrame, at: str) -> None:
    """Exit with code 1 where a finding is as severe as --fail-on says."""
    if findings["severity"].isin(SEVERE[at]).any():
        raise typer.Exit(1)


ALONE = {
    "--optimizer and --lr": "are for a training: say how long with --steps",
    "--theory": "is for a model before its training: leave out --steps",
    "--size": "is for the images of a folder: say which with --data",
    "--vocabulary": "is for --tokens: say how many ids are drawn",
}
"""Options that need another one, and what to do."""


def check_together(alone: Mapping[str, bool]) -> None:
    """Make sure that no option lacks the one that it is for."""
    for option, lacks in alone.items():
        if lacks:
            raise ValueError(f"{option} {ALONE[option]}")


def _page(probe: Probe, out: Path, files: Files, theory: pd.DataFrame | None) -> Path:
    """Write the page of a model."""
    from initstats.report.model import write_model_report

    found = probe.table(), probe.histograms(), probe.missed()
    names: dict[str, Any] = {"coverage": probe.coverage, "name": probe.network}
    return write_model_report(out, *found, **names, theory=theory, files=files)


def _why_nothing(probe: Probe) -> str:
    """Why the table of a probe is empty."""
    missed = probe.missed()
    if missed.empty:
        return "the model ran no operation on numbers, and has no parameters"
    return f"{missed['name'].iloc[0]} was left out as {missed['reason'].iloc[0]}"


def claim(file: Path | None, out: Path | None, files: Files, kind: str) -> None:
    """Make room for what is to be written, or say why it cannot be."""
    from initstats.report.page import claim_page

    if file:
        _make_room(file)
    if out:
        claim_page(kind, out, files)


def _make_room(file: Path) -> None:
    """Make the folder of a file that is to be written.

    Raises:
        ValueError: the file is a folder, or a folder on its path is a file.
        OSError: the folder cannot be made.
    """
    if file.is_dir():
        raise ValueError(f"cannot write {file}: it is a folder, the name of a file is expected")
    if files := [parent for parent in file.parents if parent.is_file()]:
        raise ValueError(f"cannot write {file}: {files[0]} is a file, no folder")
    file.parent.mkdir(parents=True, exist_ok=True)


def _tell(probe: Probe, findings: pd.DataFrame, losses: list[float]) -> None:
    """Print what was measured and what was found."""
    output.tell(str(probe))
    if losses:
        output.tell(f"loss: {losses[0]:.4g} at first, {losses[-1]:.4g} in step {len(losses)}")
    from initstats.diagnosis.advice import told_once
    from initstats.diagnosis.findings import told_remedy

    if not findings["severity"].isin(["error", "warning"]).any():
        healthy, unchecked = ((findings["severity"] == s).sum() for s in ("healthy", "unchecked"))
        held = counted(healthy, "rule holds", "rules hold")
        others = f", {unchecked} could not be checked" if unchecked else ""
        output.tell(f"no error and no warning was found: {held}{others}")
    faults = findings[~findings["severity"].isin(["healthy", "unchecked"])]
    remedies = told_once([*faults["remedy"]], [*faults["rule"]])
    for finding, remedy in zip(faults.itertuples(), remedies, strict=True):
        output.tell(f"{finding.severity}: {finding.rule} at {finding.where}: {finding.evidence}")
        output.tell("\n".join(told_remedy(remedy)))


def _known(probe: Probe, findings: pd.DataFrame, losses: list[float]) -> dict[str, Any]:
    """All that is known, for programs."""
    return {
        "network": probe.network,
        "coverage": probe.coverage,
        "losses": losses,
        "findings": findings,
        "missed": probe.missed(),
        "table": probe.table(),
    }
