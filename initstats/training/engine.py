"""The engine of a training study: it trains the networks of a task side by side.

All runs of a task have one architecture and one seed, and so see the same batches. Each has its own
weights; nothing that one computes depends on the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.inits import Init
from initstats.moments import STATISTICS
from initstats.outcome.columns import CURVE, EPOCH, OUTCOMES, WORDS
from initstats.registry import import_module
from initstats.stack import FIT_SAMPLES, exact_numerics
from initstats.stack.numerics import keep_freed_memory
from initstats.store import Key
from initstats.sweep.work import defining_modules
from initstats.training.architectures import Architecture, Builder, Net, builder
from initstats.training.batches import evaluation_batches, training_batches
from initstats.training.losses import LOSSES
from initstats.training.optimizers import OPTIMIZERS, SCHEDULES

Rows = tuple[Sequence[Key], NDArray[np.float64], bytes]
"""The places of a run's rows, their numbers, and no histograms."""
POINTS = 50
"""Points of a learning curve, at most."""
WATCHED = 1000
"""Samples whose activation statistics are measured."""
TUNING = 2**40
"""Seeds from here on are those of tuning, so that no run shares its draws."""


class Variant(NamedTuple):
    """What a run varies, and its learning rate."""

    init: Init
    activation: Activation
    lr: float


class Task(NamedTuple):
    """Runs that see the same batches."""

    network: Architecture
    width: int
    depth: int
    seed: int
    variants: tuple[Variant, ...]
    tuning: bool = False

    @property
    def cells(self) -> list[Key]:
        """Their keys; of a run that tunes, with its learning rate."""
        return [
            (self.network.name, init.name, activation.name, self.width, self.depth)
            + ((lr, self.seed) if self.tuning else (self.seed,))
            for init, activation, lr in self.variants
        ]

    @property
    def total(self) -> int:
        """How many runs there are."""
        return len(self.variants)

    def parts(self) -> list[Task]:
        """A task for each run."""
        return [self._replace(variants=(variant,)) for variant in self.variants]


@dataclass(frozen=True)
class Recipe:
    """How every run of a study is trained.

    Attributes:
        epochs: passes over the training samples.
        batch: samples of a step.
        optimizer, schedule, loss: by name.
        decay: weight decay.
        augment: names of random maps of the images.
        watch: the steps at which activation statistics are measured; negative ones count from the
            end, -1 is the last.
    """

    epochs: int
    batch: int
    optimizer: str
    schedule: str
    decay: float
    loss: str
    augment: tuple[str, ...] = ()
    watch: tuple[int, ...] = ()


@dataclass(frozen=True)
class Engine:
    """What all tasks of a study have in common; it goes to a worker once.

    Attributes:
        classes: how many there are.
        lean: whether runs are for tuning: only their end is kept, and their seeds are their own.
        modules: define the statistics and the user's own models; a worker imports them.
    """

    recipe: Recipe
    train: Split
    valid: Split
    test: Split | None
    classes: int
    lean: bool = False
    modules: tuple[str, ...] = field(default_factory=defining_modules)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for module in self.modules:
            import_module(module)

    @property
    def columns(self) -> list[str]:
        """The columns of a run's rows; lean ones have only what is known in the end."""
        return [*OUTCOMES[1:]] if self.lean else [*OUTCOMES, *STATISTICS]

    @property
    def steps(self) -> int:
        """How many updates a run makes."""
        return len(self.train) // self.recipe.batch * self.recipe.epochs

    @property
    def floor(self) -> float:
        """The accuracy for validation that chance alone may reach: the share of the largest class,
        and three standard errors of it.
        """
        share = float(np.bincount(self.valid.labels).max() / len(self.valid))
        return share + 3 * math.sqrt(share * (1 - share) / len(self.valid))

    def __call__(self, task: Task) -> list[Rows]:
        """Train the runs of a task: the places of each one's rows, and their numbers."""
        recipe, seed = self.recipe, task.seed + TUNING * self.lean
        keep_freed_memory()
        with exact_numerics():
            site = self._builder(task)
            runs = [
                _Run(self, site.build(init, activation, seed), lr, seed)
                for init, activation, lr in task.variants
            ]
            for epoch in range(recipe.epochs):
                order = training_batches(self.train, seed, epoch, recipe.batch, recipe.augment)
                for batch in order:
                    shared = site.shared(batch)
                    for run in runs:
                        run.take(shared, recipe.batch)
                self._end_epoch(site, runs, epoch)
            return [run.rows() for run in runs]

    def warm_up(self, task: Task) -> None:
        """Compile all kernels, so that no worker compiles them again."""
        with suppress(Exception):  # a task's own error is told when it is done
            self.rehearse(task.parts()[0])

    def rehearse(self, task: Task) -> None:
        """Train the runs of a task for one step, which raises the error that they would raise."""
        few = self.train.first(min(len(self.train), self.recipe.batch))
        recipe, valid = replace(self.recipe, epochs=1), self.valid.first(min(len(self.valid), 2))
        replace(self, recipe=recipe, train=few, valid=valid, test=None)(task)

    def _builder(self, task: Task) -> Builder:
        return builder(
            task.network,
            task.width,
            task.depth,
            self.train.first(min(FIT_SAMPLES, len(self.train))),
            self.classes,
            OPTIMIZERS[self.recipe.optimizer],
            self.recipe.decay,
            LOSSES[self.recipe.loss],
        )

    def _end_epoch(self, site: Builder, runs: Sequence[_Run], epoch: int) -> None:
        """Measure the runs on the samples for validation and, in the end, for the test; of lean
        ones, only the end is kept.
        """
        is_last = epoch == self.recipe.epochs - 1
        splits = {"valid": self.valid} if is_last or not self.lean else {}
        if self.test is not None and is_last:
            splits["test"] = self.test
        found: list[dict[str, float]] = [{} for _ in runs]
        for name, split in splits.items():
            sums = np.full((len(runs), 2), 0.0)
            for batch in evaluation_batches(split):
                shared = site.shared(batch)
                for index, run in enumerate(runs):
                    if not run.diverged:
                        sums[index] += run.net.evaluate(shared)
            for each, (loss, correct) in zip(found, sums / len(split), strict=True):
                each |= {f"{name}_loss": loss, f"{name}_accuracy": correct}
        for run, each in zip(runs, found, strict=True):
            run.end_epoch(epoch, {} if run.diverged else each)


class _Run:
    """A run in progress: its network, and the rows of its outcome so far."""

    def __init__(self, engine: Engine, net: Net, lr: float, seed: int) -> None:
        self.engine, self.net, self.lr, self.seed = engine, net, lr, seed
        self.schedule = SCHEDULES[engine.recipe.schedule]
        self.steps = engine.steps
        self.every = max(1, self.steps // POINTS)
        self.watched = (
            set() if engine.lean else {step % (self.steps + 1) for step in engine.recipe.watch}
        )
        self.done, self.diverged = 0, False
        self.point, self.epoch = list[tuple[float, float]](), list[tuple[float, float]]()
        self.found: dict[Key, dict[str, float]] = {}
        self.statistics: dict[Key, NDArray[np.float64]] = {}
        self._watch()

    def take(self, batch: Any, samples: int) -> None:
        """Take a step, unless the run has diverged."""
        if self.diverged:
            return
        loss, correct = self.net.train(batch, self.lr * self.schedule(self.done, self.steps))
        if not math.isfinite(loss):
            self.diverged = True
            return
        self.done += 1
        self.point.append((loss, correct / samples))
        self.epoch.append((loss, correct / samples))
        if self.done % self.every == 0 and not self.engine.lean:
            self.found[self.done, 0, CURVE, ""] = self._means(self.point)
        self._watch()

    def end_epoch(self, epoch: int, found: dict[str, float]) -> None:
        """Take down what came of an epoch; nothing came of it for a run that has diverged."""
        self.diverged |= not all(map(math.isfinite, found.values()))
        means = self._means(self.epoch)
        step = self.steps * (epoch + 1) // self.engine.recipe.epochs
        row = {"epoch": epoch + 1, "lr": self.lr}
        self.found[step, 0, EPOCH, ""] = row if self.diverged else row | means | found

    def rows(self) -> Rows:
        """The places of all rows, and their numbers in the engine's columns."""
        last = self.found[self.steps, 0, EPOCH, ""]
        chance = last.get("valid_accuracy", 0.0) <= self.engine.floor
        last["failed"] = WORDS.index(
            "diverged" if self.diverged else "chance" if chance else "trained"
        )
        outcomes = np.array(
            [[row.get(name, math.nan) for name in OUTCOMES] for row in self.found.values()]
        )
        tensors = np.array([*self.statistics.values()]).reshape(-1, len(STATISTICS))
        table = np.full((len(outcomes) + len(tensors), len(OUTCOMES) + len(STATISTICS)), math.nan)
        table[: len(outcomes), : len(OUTCOMES)] = outcomes
        table[len(outcomes) :, len(OUTCOMES) :] = tensors
        if self.engine.lean:
            return [[*self.found][-1]], table[-1:, 1 : len(OUTCOMES)], b""
        return [*self.found, *self.statistics], table, b""

    def _watch(self) -> None:
        """Measure the tensors, if that was asked for at this step."""
        if self.done in self.watched:
            valid = self.engine.valid
            some = valid.first(min(WATCHED, len(valid)))
            places, statistics = self.net.statistics(some, self.seed)
            for place, row in zip(places, statistics, strict=True):
                self.statistics[self.done, *place] = row

    @staticmethod
    def _means(values: list[tuple[float, float]]) -> dict[str, float]:
        """The mean loss and accuracy of some steps, which are forgotten."""
        if not values:
            return {}
        loss, accuracy = np.mean(values, axis=0)
        values.clear()
        return {"train_loss": float(loss), "train_accuracy": float(accuracy)}
