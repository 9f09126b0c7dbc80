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

import numpy as np
import pandas as pd
from torch import Tensor, nn

from initstats.coordinates.depth import BRANCH_SCALE, DEPTH_RATE, branch_sizes, depth_findings
from initstats.coordinates.factory import Maker, seeded
from initstats.coordinates.keeper import rms
from initstats.coordinates.parameters import Grid, exponents
from initstats.coordinates.parametrization import MUP, PARAMETRIZATIONS
from initstats.coordinates.roles import expected_slopes, roles_of
from initstats.coordinates.settings import check_settings, draws_of, objective_of, sizes_of
from initstats.coordinates.slopes import slopes
from initstats.coordinates.trial import Objective, Size, Trial, loss_at, run_trial
from initstats.coordinates.verdicts import Told, findings_of, nearest
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
        branches: with depths, how large branches are beside their stream at init, at the largest
            width: `ratio` by depth and seed, see `branch_sizes`.
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
    branches: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def words(self) -> str:
        """The verdict in a sentence."""
        title, best = (
            PARAMETRIZATIONS[name].title for name in (self.parametrization, self.nearest)
        )
        severity = self.findings["severity"].astype(str)
        bad = self.findings["rule"][severity.isin(["error", "warning"])]
        if (severity == "unchecked").all():
            return f"{self.network} was not judged: {self.findings['evidence'].iloc[0]}"
        deep = bad.isin([BRANCH_SCALE, DEPTH_RATE])
        if not len(bad):
            return f"{self.network} scales as {title} has it"
        if deep.all():
            return f"{self.network} scales as {title} has it over width, and not over depth"
        fits = f"{self.share} are those of {best}"
        return f"{self.network} does not scale as {title} has it: {fits}"

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

    Every model is made by the factory and let go of again; random states stay as they are.

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
        depths: makes models of all depths, too.
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
    sizes = [Size(w, d, s) for d in deep for w in widths for s in draws]
    trials: dict[Size, Trial] = {}
    for done, size in enumerate(sizes):
        trials[size] = run_trial(maker, size, objective, steps)
        if progress:
            progress(done + 1, len(sizes))
    degrees = _degrees(maker, sizes[0], objective)
    wide = Grid(widths, [[trials[Size(w, deep[0], s)] for w in widths] for s in draws])
    told: list[Told] = []
    branches = pd.DataFrame()
    if depths:
        widest = [[trials[Size(widths[-1], d, s)] for d in deep] for s in draws]
        tall = Grid(depths, widest)
        branches = branch_sizes(tall)
        told = depth_findings(tall, degrees, branches)
    return _result(trials, wide, degrees, parametrization, told, branches)


def _result(
    trials: dict[Size, Trial],
    wide: Grid,
    degrees: dict[str, float],
    parametrization: str,
    told: Sequence[Told],
    branches: pd.DataFrame,
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
    parameters = exponents(wide, degrees, own)
    smallest = wide.first[0]
    inside = table[table["depth"] == smallest.size.depth] if "depth" in table else table
    found = slopes(inside, PLACES, "width").assign(over="width")
    known = [degree for degree in degrees.values() if not math.isnan(degree)]
    degree = float(np.median(known)) if known else math.nan
    roles = roles_of(wide)
    found = expected_slopes(found, smallest, roles, parametrization, degree)
    findings = findings_of(
        parameters,
        wide,
        found,
        subject=smallest.network,
        parametrization=parametrization,
        deep=told,
    )
    if "depth" in table:
        at_widest = table[table["width"] == wide.sizes[-1]]
        over_depth = slopes(at_widest, PLACES, "depth").assign(over="depth", verdict="")
        both = [found, over_depth[over_depth["note"] == ""]]
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
        degree,
        smallest.network,
        missed,
        branches,
    )


def _degrees(maker: Maker, size: Size, objective: Objective) -> dict[str, float]:
    """The degree of the optimizer by parameter: log_4 of what a loss times 4 does to an update."""
    sizes = []
    for factor in (1.0, 4.0):
        with seeded(size.seed):
            model, optimizer = maker.make(*size)
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            loss_at(model, optimizer, maker.inputs(size.width), objective, size.seed, factor)
            optimizer.step()
            after = model.named_parameters()
            sizes.append({name: rms(p.detach() - before[name]) for name, p in after})
    small, large = sizes
    degrees = {n: math.log(large[n] / small[n], 4) for n in small if small[n] > 0 and large[n] > 0}
    middle = float(np.median([*degrees.values()])) if degrees else math.nan
    near = {name: degrees.get(name, middle) for name in small}
    return {n: next((w for w in (0.0, 1.0) if abs(d - w) < 0.1), d) for n, d in near.items()}
