"""Everything that the page of architectures shows, computed by workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from initstats.failure import Failure
from initstats.survey import theory
from initstats.survey.measured import PROFILE, measured
from initstats.survey.studied import NORMS, PHASES, PROFILED, STUDIED, Studied
from initstats.survey.verification.claims import NOTES, pieces
from initstats.survey.verification.depth_100 import DEEP, hundred
from initstats.survey.verification.found import FEWER, claimed, rows_of
from initstats.survey.verification.published import SEEDS
from initstats.survival import DEPTHS
from initstats.workers import OwnProcesses, ThisProcess, Workers

Tables = dict[str, pd.DataFrame]
Progress = Callable[[int, int], object]
NORM_DEPTH, PHASE_DEPTH = 50, 21
"""Layers of the networks with each norm, and of the transformers whose logits are scaled."""


@dataclass(frozen=True)
class Evidence:
    """What theory says and what was measured.

    Attributes:
        survival: a row for each recipe and depth, as `survey.theory.by_depth`.
        measured: a row for each recipe and depth that was measured, as `survey.measured`.
        profiles: statistics of recipes by layer, likewise.
        norms: verdicts by norm, init and activation, as `survey.theory.by_init`.
        phases: verdicts of transformers by variance of logits and scale of branches.
        rates: factors per layer of the gradient's squared norm by norm and place.
        depth_100: a row for each recipe and quantity, as `verification.hundred`; None unless the
            figures of the derivation were made again.
        verification: a row for each of its claims, as `verification.table`; likewise.
    """

    survival: pd.DataFrame
    measured: pd.DataFrame
    profiles: pd.DataFrame
    norms: pd.DataFrame
    phases: pd.DataFrame
    rates: pd.DataFrame
    depth_100: pd.DataFrame | None = None
    verification: pd.DataFrame | None = None


class Task(NamedTuple):
    """A part of the work: a kind, what it is about, and a depth."""

    kind: str
    label: str
    depth: int = 0


@dataclass(frozen=True)
class Work:
    """What turns a task into its tables.

    Attributes:
        folder: of the sweeps.
        quick: whether little is computed.
        verify: whether the figures of the derivation are made again.
    """

    folder: Path
    quick: bool = False
    verify: bool = False

    @property
    def tasks(self) -> list[Task]:
        """All of the work, what takes longest first."""
        labels = [each.label for each in STUDIED]
        depths = (11, PROFILE) if self.quick else (101, PROFILE, 11)
        some = PROFILED if self.quick else labels
        return [
            *(Task("measured", label, depth) for depth in depths for label in some[::-1]),
            *(Task("depth_100", label) for label in reversed(DEEP) if self.verify),
            *(Task("claims", label) for label in pieces() if self.verify),
            *(Task("survival", label) for label in labels),
            *(Task("phases", label, PHASE_DEPTH) for label in PHASES),
            *(Task("norms", label, NORM_DEPTH) for label in NORMS),
        ]

    def __call__(self, task: Task) -> Tables:
        """The tables of a task, by the attribute of `Evidence` that they belong to."""
        kind, label, depth = task
        if kind == "norms":
            return {"norms": theory.by_init(NORMS[label], label, depth, quick=self.quick)}
        if kind == "phases":
            steps = range(-4, 5, 4 if self.quick else 1)
            logits, branches = [2.0**n for n in steps], [2.0 ** (n / 2) for n in steps]
            return {"phases": theory.by_scale(PHASES[label], label, depth, logits, branches)}
        if kind == "depth_100":
            return {kind: hundred(label, FEWER if self.quick else SEEDS)}
        if kind == "claims":
            return {kind: rows_of(pieces()[label](quick=self.quick))}
        studied = next(each for each in STUDIED if each.label == label)
        if kind == "survival":
            return {"survival": theory.by_depth(studied, DEPTHS[:4] if self.quick else DEPTHS)}
        seeds = 1 if self.quick else 2 if depth > PROFILE else 3
        found = measured(studied, depth, seeds, self.folder)
        return {"measured": found["summary"], "profiles": found.get("profile", pd.DataFrame())}


def survey(
    folder: str | Path,
    *,
    quick: bool = False,
    verify: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Evidence:
    """Compute what the page of architectures shows.

    Args:
        folder: keeps what is measured, in `measured/`; the same call goes on from there.
        quick: fewer recipes, depths and seeds.
        verify: also make the figures of the derivation again, which takes minutes.
        workers: processes at work.
        progress: told of every part of the work that is done, and of how many there are.

    Raises:
        ValueError, OSError: the folder cannot be written, or holds other sweeps.
        RuntimeError: a part of the work failed.
    """
    work = Work(Path(folder) / "measured", quick, verify)
    tasks, done = work.tasks, dict[Task, Tables]()
    hands: Workers = OwnProcesses(workers) if workers > 1 else ThisProcess()
    for task, outcome in hands.map(work, tasks):
        if isinstance(outcome, Failure):
            raise RuntimeError(f"{task.label}, {task.kind}: {outcome}")
        done[task] = outcome
        if progress:
            progress(len(done), len(tasks))
    return gathered([done[task] for task in tasks])


def gathered(parts: list[Tables]) -> Evidence:
    """The tables of all tasks, in the order of the recipes and choices."""
    labels = {each.label: place for place, each in enumerate(STUDIED)}
    tables: Tables = {"rates": theory.rates()}
    for name in ("survival", "measured", "profiles", "norms", "phases"):
        found = [part[name] for part in parts if name in part and len(part[name])]
        table = pd.concat(
            [each.astype(dict.fromkeys(_WORDS.intersection(each), str)) for each in found],
            ignore_index=True,
        )
        if name in ("survival", "measured", "profiles"):
            order = table["label"].map(labels)
            table = table.iloc[order.argsort(kind="stable")].reset_index(drop=True)
        tables[name] = table
    return Evidence(**tables, **_verified(parts))


def _verified(parts: list[Tables]) -> Tables:
    """Both tables of what was made again, in the printed order; nothing where nothing was."""
    deep = [part["depth_100"] for part in parts if "depth_100" in part]
    claims = [part["claims"] for part in parts if "claims" in part]
    if not (deep and claims):
        return {}
    order = {recipe: place for place, recipe in enumerate(DEEP)}
    table = pd.concat(deep, ignore_index=True)
    places = table["recipe"].map(order).argsort(kind="stable")
    return {
        "depth_100": table.iloc[places].reset_index(drop=True),
        "verification": claimed(pd.concat(claims), NOTES),
    }


_WORDS = {"network", "init", "activation", "verdict"}
"""Categories of one table each, which are plain words in all tables together."""

__all__ = ["Evidence", "Studied", "Task", "Work", "gathered", "survey"]
