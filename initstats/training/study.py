"""Running a training study: rates are chosen, variants are trained, a store keeps every run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from initstats.data import Dataset, Split
from initstats.machine import machine
from initstats.outcome import choose_rates, next_rates
from initstats.outcome.columns import KEYS, TUNING_KEYS
from initstats.outcome.tables import TUNING, outcomes, tuning_outcomes
from initstats.plural import counted
from initstats.processes import check_guard
from initstats.registry import staying
from initstats.store import Definitions, Key, Kind, Run, Store, parameters_of, save_predictions
from initstats.sweep.attempts import failed
from initstats.sweep.cell import PLACES
from initstats.sweep.definitions import definitions, statistic_definitions
from initstats.sweep.hiring import Hands, hired, processes_of
from initstats.sweep.plugins import absolute_data, absolute_plugin
from initstats.sweep.running import fill
from initstats.training.architectures import Factory, classifier
from initstats.training.engine import Engine, Task, Variant
from initstats.training.foretelling import gradient_factors
from initstats.training.grid import TrainingGrid, described
from initstats.training.losses import LOSSES
from initstats.training.rehearsal import rehearse
from initstats.workers import OwnProcesses, ThisProcess, Workers

Progress = Callable[[str, int, int], object]
"""Called with what is done (`tuning runs` or `runs`), how many of them are, and of how many."""
TOGETHER = 4
"""Runs of a task: they share the work on batches, and a killed driver loses what is under way."""
CONFIG = ("train.toml", "run.toml")
"""The configuration of a study in its folder: the second where the first is the user's own."""
_REALS, _TEXTS = ("lr",), ("network", "init", "activation")
Rate = tuple[Key, float]
"""A variant, as `network init activation width depth` name it, and a learning rate of its own."""


@staying()
def compare_training(
    variants: TrainingGrid | Iterable[Any],
    data: Dataset,
    network: Any = None,
    seeds: Any = None,
    *,
    out: str | Path | None = None,
    workers: Hands = 1,
    progress: Progress | None = None,
    executor: Executor | None = None,
    source: str | None = None,
    plugins: Sequence[str] = (),
    **settings: Any,
) -> pd.DataFrame:
    """Train variants of a network on paired seeds, each at a learning rate of its own.

    The learning rate of a variant is the smallest whose tuning loss is within 2% of the best one,
    measured on training images and seeds that are for that alone; `lr=` gives all the same instead.

    Args:
        variants: a `TrainingGrid`; or activations (names or callables), which `inits=` are combined
            with, or pairs (activation, init) of each with each.
        network: see `TrainingGrid`; `cnn` by default.
        seeds: how many, or which; 20 by default.
        out: a folder that keeps the study: each run is there as soon as it is trained, runs that
            are there are not trained again, more seeds or variants extend it.
        workers, executor: as in `run_sweep`.
        progress: told of every run.
        source, plugins: as in `run_sweep`, for the folder's `train.toml`.
        settings: further fields of a `TrainingGrid`.

    Returns:
        One row for each run and epoch, see `load_training`; `summarize_training` compares them.

    Raises:
        ValueError: what is asked cannot be trained or, as `StoreError`, not be kept in the folder.
        FailedCellsError: some runs raised an error; it holds the rows of the others. A network that
            diverges is no error but an outcome.
        RuntimeError, TypeError, ChildProcessError: as `run_sweep`.
    """
    grid = described(variants, network, seeds, settings)
    if not isinstance(data, Dataset):
        raise TypeError(
            f"compare_training takes a Dataset, not {type(data).__name__}: see load_data"
        )
    if workers != 1:
        check_guard()
    beside = {
        "data": data.name if source is None else absolute_data(source),
        "size": data.size,
        "plugins": [absolute_plugin(name) for name in plugins],
    }
    those, count = hired(workers, executor, grid.entries), processes_of(workers)
    notify = progress or (lambda what, done, total: None)
    folder = None if out is None else Path(out)
    study = _Study(grid, data, folder, those, count, notify, grid.config | beside)
    study.check()
    return study.run()


@dataclass(frozen=True)
class _Study:
    """A study that is asked for, and those who do the work."""

    grid: TrainingGrid
    data: Dataset
    out: Path | None
    others: Workers | None
    count: int | None
    notify: Progress
    config: dict[str, Any]

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written.

        Raises:
            ValueError: see `compare_training`.
        """
        train = self._train()
        sizes = {"images": len(train)}
        if self.grid.lr is None:
            sizes["tuning_images"] = len(self._tuning()[0])
        for name, size in sizes.items():
            if size < (batch := self.grid.batch):
                raise ValueError(f"{name}: {size} to train on do not fill a batch of {batch}")
        steps = self._engine(train, self.data.valid, None).steps
        if beyond := [step for step in self.grid.watch if not -steps - 1 <= step <= steps]:
            raise ValueError(f"watch: a run has {counted(steps, 'step')}, and no step {beyond[0]}")
        if self.grid.augment and len(train.shape) != 3:
            raise ValueError(f"augment: samples of shape {train.shape} are no images")
        outputs = LOSSES[self.grid.loss].outputs(self._classes)
        for network, width, depth in product(
            self.grid.networks, self.grid.widths or (), self.grid.depths or ()
        ):
            if not isinstance(network, Factory):
                classifier(network, train.shape, width, depth, outputs)
        self._check_workers()
        for network in self.grid.networks:
            if isinstance(network, Factory):
                rehearse(self._engine(train, self.data.valid, None), self.grid, network)

    def _check_workers(self) -> None:
        """Refuse workers that cannot work."""
        if self.count is not None and self.count < 1:
            raise ValueError(f"workers: at least one is needed, not {self.count}")
        if self.count == 1 and not self.others:
            return
        try:
            for network in self.grid.networks:
                if isinstance(network, Factory):
                    network.check_importable()
            if not self.others:
                pickle.dumps(self.grid.entries)
        except pickle.PicklingError as error:
            raise ValueError(str(error)) from error

    def run(self) -> pd.DataFrame:
        """Choose the rates, train the variants, and give the table."""
        engine = self._engine(self._train(), self.data.valid, self.data.test)
        cells = [(*variant, seed) for variant in self._variants for seed in self.grid.seeds]
        asked = self._asked(KEYS, self.config, self._settings(), engine.columns)
        with self._store(self.out, asked, CONFIG) as store:  # first: it may refuse the folder
            rates, done = self._rates(), store.done()
            work = self._tasks([cell for cell in cells if cell not in done], rates)
            self._fill(store, engine, work, partial(self.notify, "runs"), len(cells))
            table, failures = store.table(asked), store.failures(asked)
        if self.out:
            save_predictions(self.out, self._theory(asked))
        table = outcomes(table, self.grid.target)
        if len(failures):
            raise failed(failures, table, len(cells))
        return table

    def _theory(self, asked: Run) -> pd.DataFrame:
        """What theory says of the variants."""
        factors = gradient_factors(self.grid, self.data.shape)
        factors.insert(0, "dataset", asked.settings["dataset"])
        return factors

    # learning rates

    def _rates(self) -> dict[Key, float]:
        """The learning rate of each variant."""
        if self.grid.lr is not None:
            return dict.fromkeys(self._variants, self.grid.lr)
        ladder = self.grid.ladder
        tuning = self._tune({*product(self._variants, ladder)})
        while len(further := next_rates(tuning, ladder)):
            tuning = self._tune(_pairs(further) | _pairs(tuning))
        keys = list(TUNING_KEYS[:-2])
        # where each rate failed, the variant is to show how it fails
        smallest = tuning.groupby(keys, observed=True)["lr"].min().rename("smallest").reset_index()
        found = choose_rates(tuning).merge(smallest, on=keys)
        return dict(_pairs(found.assign(lr=found["lr"].fillna(found["smallest"]))))

    def _tune(self, rates: Collection[Rate]) -> pd.DataFrame:
        """The tuning runs of variants at some rates, and all others that the store has of them."""
        train, held = self._tuning()
        engine = replace(self._engine(train, held, None), lean=True)
        seeds = [*range(self.grid.tuning_seeds)]
        cells = [(*of, lr, seed) for of, lr in sorted(rates) for seed in seeds]
        lists = {"lrs": sorted({lr for _, lr in rates}), "seeds": seeds}
        asked = self._asked(TUNING_KEYS, self.config | lists, self._settings(), engine.columns)
        with self._store(self.out and self.out / TUNING, asked, ()) as store:
            done = store.done()
            lacking = [cell for cell in cells if cell not in done]
            work = self._tasks(lacking, {(*of, lr): lr for of, lr in rates}, tuning=True)
            self._fill(store, engine, work, partial(self.notify, "tuning runs"), len(cells))
            table, failures = store.table(store.run), store.failures(asked)
        table = tuning_outcomes(table)
        if len(failures):
            raise failed(failures, table, len(cells))
        wanted = table[list(TUNING_KEYS)].apply(tuple, axis=1).isin(cells)
        return table[wanted.to_numpy()].reset_index(drop=True)

    # what is trained

    @property
    def _variants(self) -> list[Key]:
        config = self.grid.config
        return [*product(*(config[f"{name}s"] for name in KEYS[:-1]))]

    @property
    def _classes(self) -> int:
        parts = [part for part in (self.data.train, self.data.valid, self.data.test) if part]
        lowest, top = (pick(int(pick(part.labels)) for part in parts) for pick in (min, max))
        if lowest < 0 or top >= sum(map(len, parts)):
            raise ValueError(
                f"labels: classes are numbered from 0; these labels go from {lowest} to {top}"
            )
        return 1 + top

    def _train(self) -> Split:
        return _first(self.data.train, self.grid.images, "images")

    def _tuning(self) -> tuple[Split, Split]:
        """The training images that tuning trains on, and those that judge."""
        train = self._train()
        count = self.grid.tuning_images or min(len(train), max(5000, len(train) // 5))
        some = _first(train, count, "tuning_images")
        cut = max(1, len(some) * 4 // 5)
        if cut == len(some):
            raise ValueError(f"tuning_images: {len(some)} leave none to judge by")
        return _part(some, slice(cut)), _part(some, slice(cut, None))

    def _engine(self, train: Split, valid: Split, test: Split | None) -> Engine:
        engine = Engine(self.grid.recipe, train, valid, test, self._classes)
        own = (each.module for each in self.grid.networks if isinstance(each, Factory))
        return replace(engine, modules=(*engine.modules, *own))

    def _tasks(
        self, cells: Sequence[Key], rates: dict[Key, float], *, tuning: bool = False
    ) -> list[Task]:
        """Cells that lack, by architecture and seed; all of a seed come before the next one."""
        networks, inits, activations = (
            {entry.name: entry for entry in entries}
            for entries in (self.grid.networks, self.grid.inits, self.grid.activations)
        )
        found: dict[tuple[Any, ...], list[Variant]] = {}
        for cell in sorted(cells, key=lambda cell: cell[-1]):
            network, init, activation, width, depth, *_ = cell
            variant = Variant(inits[init], activations[activation], rates[cell[:-1]])
            found.setdefault((networks[network], width, depth, cell[-1]), []).append(variant)
        return [
            Task(network, width, depth, seed, some, tuning)
            for (network, width, depth, seed), variants in found.items()
            for some in _chunks(variants)
        ]

    # who works, and what is kept

    def _fill(
        self,
        store: Store,
        engine: Engine,
        work: Sequence[Task],
        notify: Callable[[int, int], object],
        total: int,
    ) -> None:
        """Train what the store lacks."""
        fill(store, self.others or self._own(engine, work), engine, work, notify, total)

    def _own(self, engine: Engine, work: Sequence[Task]) -> Workers:
        """This process, or others of our own where there is work for them."""
        count = min(self.count or os.cpu_count() or 1, len(work))
        if count <= 1:
            return ThisProcess()
        engine.warm_up(work[0])
        return OwnProcesses(count)

    def _settings(self) -> dict[str, Any]:
        """What an extension must agree with."""
        given = self.grid.config
        varied = {f"{name}s" for name in KEYS}
        fixed = {name: value for name, value in given.items() if name not in varied}
        fixed |= {"weight_decay": self.grid.recipe.decay, "rates": self.grid.ladder}
        return {
            "dataset": self.data.name,
            "data": self._fingerprint(),
            **json.loads(json.dumps(fixed)),
        }

    def _fingerprint(self) -> str:
        """What tells the data from others: images and labels of all splits."""
        digest = hashlib.sha256()
        for split in (self.data.train, self.data.valid, self.data.test):
            if split is not None:
                digest.update(split.fingerprint.encode())
                digest.update(np.ascontiguousarray(split.labels).data)
        return digest.hexdigest()[:16]

    def _asked(
        self,
        keys: tuple[str, ...],
        config: dict[str, Any],
        settings: dict[str, Any],
        columns: Sequence[str],
    ) -> Run:
        """What a store is to know."""
        kinds: dict[str, Kind] = {
            name: "text" if name in _TEXTS else "real" if name in _REALS else "integer"
            for name in keys
        }
        return Run(
            config=config,
            settings=settings,
            engine={},
            keys=kinds,
            places={"step": "integer", **PLACES},
            statistics=dict.fromkeys(columns, False),
            bins=([], []),
            parameters=parameters_of(self.grid.entries),
            definitions=self._definitions() if self.out else {},
        )

    @staying()
    def _definitions(self) -> Definitions:
        depth = max(self.grid.depths or (1,))
        found = {**definitions(self.grid.entries, self.data.valid, max(1, depth))}
        own = [each for each in self.grid.networks if isinstance(each, Factory)]
        made = {each.name: each.outputs(self.data.valid) for each in own}
        return {**found, **statistic_definitions(), "network": {**found["network"], **made}}

    def _store(self, folder: Path | None, asked: Run, config: Sequence[str]) -> Store:
        count = self.others.name if self.others else self.count or os.cpu_count() or 1
        return Store.open(folder, asked, {**machine(), "workers": count}, config)


def _first(split: Split, count: int | None, name: str) -> Split:
    if count is not None and count > len(split):
        raise ValueError(f"{name}: {count} are asked for, and there are {len(split)} to train on")
    return split.first(count or len(split))


def _part(split: Split, rows: slice) -> Split:
    return replace(split, raw=split.raw[rows], labels=split.labels[rows])


def _chunks(variants: Sequence[Variant]) -> Iterator[tuple[Variant, ...]]:
    for start in range(0, len(variants), TOGETHER):
        yield tuple(variants[start : start + TOGETHER])


def _pairs(rates: pd.DataFrame) -> set[Rate]:
    """The variants and learning rates in the rows of a table."""
    columns = rates[list(TUNING_KEYS[:-1])].drop_duplicates()
    return {(tuple(key), lr) for *key, lr in columns.itertuples(index=False, name=None)}
