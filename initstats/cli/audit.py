"""An audit of the user's own model: what it was initialized with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from initstats.cli.app import Plugins
from initstats.cli.command import Pages, command
from initstats.cli.completion import listed, schemes
from initstats.cli.measure import (
    GIVEN,
    Factory,
    Numbers,
    Page,
    Seed,
    Severity,
    Tokens,
    Vocabulary,
    check_together,
    claim,
    fail,
    put_out,
)
from initstats.cli.options import load_own, named_function
from initstats.cli.output import output
from initstats.drafts import write_whole

if TYPE_CHECKING:
    from torch import nn

    from initstats.audits import Audit

Level = Annotated[
    float,
    typer.Option(help="Probability of a false alarm about the whole model, at most."),
]
Format = Annotated[
    Literal["text", "github"],
    typer.Option(
        "--format", help="What is printed; github: annotations for the log of a workflow there."
    ),
]
Expected = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.toml",
        show_default=False,
        autocompletion=listed(schemes),
        help="Compare with a published scheme (gpt2, bert, ...; `initstats list schemes` has all) "
        "or a lock file.",
    ),
]
Lock = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Write a lock file, which --expected compares a later model with.",
    ),
]


@command("Measure", page=True, file=True)
def audit(
    context: typer.Context,
    factory: Factory,
    input: Numbers = None,  # noqa: A002 (the name of the option)
    tokens: Tokens = None,
    vocabulary: Vocabulary = None,
    expected: Expected = None,
    lock: Lock = None,
    level: Level = 1e-4,
    seed: Seed = 0,
    fail_on: Severity = "warning",
    form: Format = "text",
    out: Page = None,
    plugin: Plugins = None,
    *,
    json: str | None,
    pages: Pages,
) -> None:
    """Audit the initialization of a model of your own: which law each parameter was drawn from.

    No data is needed. With an input, the model runs once, and the inputs and outputs of each weight
    are those of the operations that use it, not of the class of its module.

    Exit code 0: nothing found; 1: a finding as severe as --fail-on says, or an error in your own
    code, which is shown; 2: not audited.

    JSON: network, words, findings, roles, parameters (the last three are lists of rows), and of
    what is printed page, where one is written. A finding's names are those of its parameters.
    """
    from initstats.cli.model import own_model

    if form == "github" and json == "-":
        raise ValueError("--format github and --json exclude each other, unless it names a file")
    check_together({"--vocabulary": bool(vocabulary and not tokens)})
    pages.check(bool(out), "say where with --out")
    files = pages.files()
    file = Path(json) if json and json != "-" else None
    claim(file, out, files, "audit")  # before the work, not after it
    claim(lock, None, files, "audit")
    load_own(plugin)
    model = own_model(factory, seed=seed)
    found = _audited(model, context, vocabulary, expected, level, seed)
    if form == "github":
        from initstats.cli.annotations import annotated

        output.tell("\n".join([found.size, *annotated(found, model, named_function(factory))]))
    else:
        output.tell(found)
    known = {
        "network": found.network,
        "words": found.words,
        "findings": _with_names(found),
        "roles": found.roles,
        "parameters": found.table,
    }
    if lock:
        write_whole(lock, found.to_toml())
        output.tell(f"lock file: {lock}")
    put_out(known, file, out, lambda folder: found.report(folder, files))
    fail(found.findings, fail_on)


def _with_names(found: Audit) -> list[dict[str, object]]:
    """The findings as rows, with the names of the parameters that each is about."""
    rows = found.findings.to_dict("records")
    return [
        {str(key): x for key, x in row.items()} | {"names": found.named(str(row["where"]))}
        for row in rows
    ]


def _audited(
    model: nn.Module,
    context: typer.Context,
    vocabulary: int | None,
    expected: str | None,
    level: float,
    seed: int,
) -> Audit:
    """The audit of a model that has parameters, and of numbers."""
    import torch

    from initstats.audits import audit as audited
    from initstats.cli.model import own_code, random_inputs, vocabulary_of

    name, given = type(model).__name__, context.meta.get(GIVEN, [])
    parameters = [*model.parameters()]
    if not parameters:
        raise ValueError(f"{name} has no parameters to audit")
    if all(each.is_meta for each in parameters):
        raise ValueError(
            f"{name} is on the meta device, and holds no numbers: audit it after they are made"
        )
    x = random_inputs(given, vocabulary or vocabulary_of(model)) if given else None
    lazy = [each for each in parameters if isinstance(each, torch.nn.UninitializedParameter)]
    if len(lazy) == len(parameters) and x is None:
        raise ValueError(f"{name} is lazy, and holds no numbers until it runs: give it an --input")
    with torch.random.fork_rng(devices=[]), own_code("the model", x):
        torch.default_generator.manual_seed(seed)  # a lazy model draws when it runs
        return audited(model, x, expected=expected, level=level)
