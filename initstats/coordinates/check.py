"""The coordinate check: does a model scale to larger widths, and what must change if not.

Yang et al. 2022 (arXiv:2203.03466, appendix D): the sizes of activations over width, at init and
after a few steps of training, tell whether a parametrization is muP. Here every parameter's powers
of width are measured beside them, so that the verdict names what is off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from initstats.coordinates.depth import over_depth_of
from initstats.coordinates.divergence import DIVERGED, divergences
from initstats.coordinates.divergence import told as told_of
from initstats.coordinates.factory import Maker
from initstats.coordinates.parameters import Grid, exponents
from initstats.coordinates.parametrization import MUP, PARAMETRIZATIONS
from initstats.coordinates.precision import all_digits
from initstats.coordinates.response import Response, response_of
from initstats.coordinates.roles import expected_slopes, roles_of
from initstats.coordinates.settings import check_settings, draws_of, objective_of, sizes_of
from initstats.coordinates.slopes import slopes
from initstats.coordinates.trial import Size, Trial, run_trial
from initstats.coordinates.verdicts import Told, findings_of, nearest
from initstats.coordinates.wording import comparison, lead, verdict
from initstats.diagnosis.findings import Findings
from initstats.report.coordinates import write_coordinates
from initstats.report.page import FILES, Files

PLACES = ["name", "op", "call", "turn", "tensor", "quantity", "step"]
"""What names a line of a coordinate check."""


@dataclass(frozen=True, repr=False)
class Coordinates:
    """The result of a coordinate check.

    Attributes:
        table: one row per width, depth, seed, step, place and quantity: `rms` of the `value` of
            every operation, of its `gradient`, and of its `change` since init; of every parameter
            (`tensor` is `weight`) of its `value`, its `gradient` and the `update` that led to the
            step.
        slopes: the slope of log rms over log width of each place, with its 95% interval over seeds
            (`low`, `high`), the slope between the two largest widths (`end`), the `curvature`
            (slope at the largest minus that at the smallest width, with an interval), the slope
            that the parametrization has (`expected`, NaN where none is known), a `verdict` in a
            word, and a `note` where there is no slope. With depths, `over` says whether it is
            over width or depth.
        parameters: the powers of width of every parameter, see `exponents`.
        findings: what is off, as `diagnose` puts it.
        parametrization: what the model was compared with.
        nearest: the parametrization that fits most powers; `share` says how many.
        degree: of the optimizer: 1 where updates are proportional to gradients, 0 where they do not
            depend on the size of gradients.
        missed: what was not measured, and why.
        over_depth: with depths, sizes at the largest width by depth and seed, see `depth_lines`.
    """

    table: pd.DataFrame
    slopes: pd.DataFrame
    parameters: pd.DataFrame
    findings: Findings
    parametrization: str
    nearest: str
    share: str
    degree: float
    network: str
    missed: pd.DataFrame = field(default_factory=pd.DataFrame)
    over_depth: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def words(self) -> str:
        """The verdict in a sentence."""
        return verdict(self)

    @property
    def lead(self) -> str:
        """The verdict for readers who know of no parametrization."""
        return lead(self)

    @property
    def comparison(self) -> str:
        """What the model was compared with, and what it is like, in sentences."""
        return comparison(self)

    def report(self, folder: str | Path, files: Files = FILES) -> Path:
        """Write the page of the check, `index.html`, with figures and tables beside it.

        Args:
            files: those of figures that are wanted.

        Returns:
            The path of the page.

        Raises:
            ValueError: the folder holds somebody else's page.
            OSError: the folder cannot be written.
        """
        return write_coordinates(folder, self, files)

    def __str__(self) -> str:
        return f"{self.words}\n{self.findings}"

    __repr__ = __str__


@all_digits()
def coordinate_check(
    factory: Callable[..., Any],
    widths: Sequence[int] = (64, 128, 256, 512),
    *,
    x: Any,
    target: Tensor | None = None,
    loss: Callable[..., Tensor] | None = None,
    steps: int = 1,
    optimizer: str | Callable[[nn.Module], Any] = "sgd",
    lr: float | None = None,
    seeds: int | Iterable[int] = 3,
    depths: Sequence[int] | None = None,
    parametrization: str = MUP,
    progress: Callable[[int, int], object] | None = None,
) -> Coordinates:
    """Train models of several widths for a step or a few, and say whether they scale alike.

    Every model is made by the factory and let go of again; random states stay as they are. Products
    of float32 are not rounded to TF32 meanwhile: it would hide the change that a small step makes.

    Args:
        factory: gives a model for a width (and a depth, with `depths`); or a tuple, the model and
            its optimizer.
        widths: at least two; a power of width is seen best from four that double.
        x: what the models are called with, as `measure` has it; or a function of the width.
        target: what the output is compared with: classes (integers: cross-entropy) or numbers (mean
            squared error).
        loss: a function of the output, or of output and target, in place of these.
        steps: of training; where the readout begins at zero, hidden layers move from the second on.
        optimizer: "sgd", "adam", or a function that makes an optimizer for a model.
        lr: of "sgd" (0.01) or "adam" (0.001), the same for all parameters and widths. With a small
            one, slopes are those of a single step of theory; too small a one is lost in rounding,
            and the change of a value is NaN.
        seeds: how many draws of the weights, or which.
        depths: of more models of the largest width; those over width have the smallest depth.
        parametrization: what to compare with: mup, standard, ntk or mean_field.
        progress: is told how many models are done, and of how many.

    Raises:
        TypeError, ValueError: what was given cannot be used; the message says why.
    """
    widths, draws = sizes_of("widths", widths), draws_of(seeds)
    depths = None if depths is None else sizes_of("depths", depths)
    check_settings(factory, optimizer, lr, parametrization, steps, deep=depths is not None)
    maker = Maker(factory, optimizer, lr, x)
    objective = objective_of(target, loss)
    deep: Sequence[int | None] = depths or [None]
    corner = [*((w, deep[0]) for w in widths), *((widths[-1], d) for d in deep[1:])]
    sizes = [Size(w, d, s) for w, d in corner for s in draws]
    response = response_of(maker, sizes[0], objective)
    trials: dict[Size, Trial] = {}
    for done, size in enumerate(sizes):
        trials[size] = run_trial(maker, size, objective, steps, response.orthogonal)
        if progress:
            progress(done + 1, len(sizes))
    wide = Grid(widths, [[trials[Size(w, deep[0], s)] for w in widths] for s in draws])
    told, lines = list[Told](), pd.DataFrame()
    if depths:
        tall = Grid(depths, [[trials[Size(widths[-1], d, s)] for d in deep] for s in draws])
        told, lines = over_depth_of(tall, response.degrees)
    return _result(trials, wide, response, parametrization, told, lines)


def _result(
    trials: dict[Size, Trial],
    wide: Grid,
    response: Response,
    parametrization: str,
    told: Sequence[Told],
    over_depth: pd.DataFrame,
) -> Coordinates:
    table = pd.concat(
        [
            trial.table.assign(width=size.width, depth=size.depth, seed=size.seed)
            for size, trial in trials.items()
        ],
        ignore_index=True,
    )
    columns = ["width", "depth", "seed", "step", "layer", *PLACES[:-1], "rms"]
    table = table[columns]
    if table["depth"].isna().all():
        table = table.drop(columns="depth")
    own = PARAMETRIZATIONS[parametrization]
    parameters = exponents(wide, response, own)
    smallest = wide.first[0]
    inside = table[table["depth"] == smallest.size.depth] if "depth" in table else table
    found = slopes(inside, PLACES, "width").assign(over="width")
    roles = roles_of(wide)
    found = expected_slopes(found, smallest, roles, parametrization, response)
    if blown := [*divergences(trials.values())]:
        told = [*told, ("unchecked", DIVERGED, "", told_of(blown), "take a smaller learning rate")]
        since = found["step"] >= min(each.step for each in blown)
        found.loc[since, "expected"], found.loc[since, "verdict"] = math.nan, ""
    findings = findings_of(
        parameters,
        wide,
        found[found["expected"].notna()],
        subject=smallest.network,
        parametrization=parametrization,
        deep=told,
    )
    if "depth" in table:
        at_widest = table[table["width"] == wide.sizes[-1]]
        deeper = slopes(at_widest, PLACES, "depth").assign(over="depth", verdict="")
        both = [found, deeper[deeper["note"] == ""]]
        found = pd.concat(both, ignore_index=True)
    best, share = nearest(parameters)
    missed = smallest.missed
    return Coordinates(
        table,
        found,
        parameters,
        findings,
        parametrization,
        best,
        share,
        response.degree,
        smallest.network,
        missed,
        over_depth,
    )
