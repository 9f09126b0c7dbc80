"""What the figures of a training study are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from initstats.outcome import (
    choose_rates,
    initial_distances,
    predictive_power,
    summarize_training,
)
from initstats.outcome.tables import (
    load_study,
    load_tuning,
)
from initstats.plots.results import MANY, MOST, evenly, order
from initstats.plots.style import Stroke, strokes
from initstats.registry import unknown
from initstats.store import Run, load_failures, load_predictions, load_run, load_sessions

LINES = 10
"""Greatest number of activations in figures of lines."""
PANELS = 12
"""Greatest number of panels, one for each network and init."""
ROWS = 80
"""Greatest number of variants in a figure, unless there are many panels."""


class Net(NamedTuple):
    """A network of one width and depth, in which variants are compared with each other."""

    network: str
    width: int
    depth: int

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows about this network."""
        here = [frame[name] == value for name, value in self._asdict().items()]
        found: pd.DataFrame = frame[np.logical_and.reduce(here)]
        return found


NET = list(Net._fields)
VARIANT = [*NET, "init", "activation"]
"""The columns that name a variant."""


@dataclass(frozen=True)
class Trained:
    """Results of a training study.

    Attributes:
        table: one row per run and epoch, as `load_training` gives it.
        curves: finer, one row per run and point; None where only the table is at hand.
        tuning: one row per tuning run; None or empty where the learning rate was given.
        statistics: of activations and gradients, one row per run, step, layer, tensor and
            direction; None or empty where nothing was measured.
        theory: `chi_1` by init and activation, as for `initial_distances`; None where unknown.
        baseline: the activation or the init with which the others are compared; None is `relu`, or
            the first.
        run: the configuration and the settings; None for bare tables.
        sessions: the drivers at work on it, as `load_sessions` gives them.
        failures: runs that raised an error, as `load_failures` gives them.
        asked: how many runs there are to be; 0 for those that are there.
    """

    table: pd.DataFrame
    curves: pd.DataFrame | None = None
    tuning: pd.DataFrame | None = None
    statistics: pd.DataFrame | None = None
    theory: pd.DataFrame | None = None
    baseline: str | None = None
    run: Run | None = None
    sessions: pd.DataFrame | None = None
    failures: pd.DataFrame | None = None
    asked: int = 0

    @classmethod
    def of(cls, folder: str | Path, baseline: str | None = None) -> Trained:
        """The results in the folder of a training study, finished or not.

        Raises:
            StoreError: not such a folder.
            ValueError: as `check_baseline`.
        """
        run = load_run(folder)
        if baseline is not None:
            check_baseline(baseline, run.config["activations"], run.config["inits"])
        table, curves, statistics = load_study(folder)
        return cls(
            table,
            curves,
            load_tuning(folder),
            statistics,
            theory=load_predictions(folder),
            baseline=baseline,
            run=run,
            sessions=load_sessions(folder),
            failures=load_failures(folder),
            asked=run.count,
        )

    @cached_property
    def last(self) -> pd.DataFrame:
        """The last epoch of each run."""
        rows: pd.DataFrame = self.table[self.table["epoch"] == self.table["epoch"].max()]
        return rows

    @cached_property
    def nets(self) -> list[Net]:
        """Every network, width and depth that was trained."""
        found = self.table[NET].drop_duplicates().itertuples(index=False)
        return [Net(str(network), int(width), int(depth)) for network, width, depth in found]

    @cached_property
    def inits(self) -> list[str]:
        """Names of the inits, in the order of the table."""
        return order(self.table["init"])

    @cached_property
    def activations(self) -> list[str]:
        """Names of the activations, in the order of the table."""
        return order(self.table["activation"])

    def entries(self, kind: str) -> list[str]:
        """The inits or the activations."""
        return self.inits if kind == "init" else self.activations

    @cached_property
    def versus(self) -> tuple[str, str]:
        """The kind of entry that is compared, and the entry that the others are compared with.

        It is the baseline that was asked for, if it was trained. Else activations are compared if
        there are several, and inits if not, with `relu`, or the first where it was not trained.
        """
        several = [kind for kind in ("activation", "init") if len(self.entries(kind)) > 1]
        for kind in several:
            if self.baseline in self.entries(kind):
                return kind, str(self.baseline)
        kind = several[0] if several else "activation"
        names = self.entries(kind)
        return kind, "relu" if "relu" in names else names[0]

    @property
    def panel_kind(self) -> str:
        """The kind of entry that is the same within a comparison, and has a panel in figures."""
        return "activation" if self.versus[0] == "init" else "init"

    @cached_property
    def comparisons(self) -> pd.DataFrame | None:
        """Each variant against its baseline, as `summarize_training` gives it; None of a single."""
        return self.compared("valid_accuracy")

    def compared(self, measure: str) -> pd.DataFrame | None:
        """As `comparisons`, of another measure; None where the runs lack it, too."""
        kind, baseline = self.versus
        several = (self.last[kind] != baseline).any()
        if not several or self.last.loc[self.healthy, measure].isna().any():
            return None
        return summarize_training(self.table, baseline, measure=measure)

    @cached_property
    def rates(self) -> pd.DataFrame | None:
        """As `choose_rates` gives them; None where no rate was tuned."""
        tuning = self.tuning
        return None if tuning is None or tuning.empty else choose_rates(tuning)

    @cached_property
    def distances(self) -> pd.DataFrame | None:
        """As `initial_distances` gives them; None where no run's first statistics are known."""
        rows = self.statistics
        if rows is None or not len(rows) or not (rows["step"] == 0).any():
            return None
        return initial_distances(rows, self.table, self.theory)

    @cached_property
    def power(self) -> pd.DataFrame | None:
        """As `predictive_power` gives it; None where no run's first statistics are known."""
        return None if self.distances is None else predictive_power(self.distances)

    @property
    def healthy(self) -> pd.Series[bool]:
        """Which of the last epochs are of runs that trained."""
        return self.last["outcome"].astype(str) == "trained"

    @cached_property
    def few(self) -> Trained:
        """What figures show of these results: some networks, inits and activations of many."""
        nets = evenly(self.nets, MANY)
        inits = self._some("init", self.inits, max(2, PANELS // len(nets)))
        most = max(MANY, min(MOST, ROWS // (len(nets) * len(inits))))
        return self._of(nets, inits, self._ranked(most))

    @cached_property
    def lines(self) -> Trained:
        """What figures show that draw a line for each activation."""
        return self._of(self.few.nets, self.few.inits, self.few._ranked(LINES))

    def named(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame whose names are categories in our order, by which figures choose colours.

        Activations that have lines come first, so that no two of them look the same.
        """
        lines = self.lines.activations
        names = [*lines, *(name for name in self.activations if name not in lines)]
        there = {"network": order(self.table["network"]), "init": self.inits, "activation": names}
        kinds: Any = {kind: pd.CategoricalDtype(those) for kind, those in there.items()}
        return frame.astype(dict.fromkeys(kinds, str)).astype(kinds)

    @cached_property
    def left_out(self) -> str:
        """A sentence about what figures leave out; empty if that is nothing."""
        parts = [
            f"{len(shown)} of {len(there)} {noun}"
            for noun, shown, there in (
                ("networks", self.few.nets, self.nets),
                ("inits", self.few.inits, self.inits),
                ("activations", self.few.activations, self.activations),
            )
            if len(shown) < len(there)
        ]
        figures = [f"Figures show {', '.join(parts)}, from the best to the worst."] if parts else []
        if len(self.lines.activations) < len(self.few.activations):
            figures.append(
                f"Figures with a line for each activation show {len(self.lines.activations)}."
            )
        return " ".join(figures)

    def _ranked(self, most: int) -> list[str]:
        """Some activations, evenly from the best to the worst."""
        score = self.last.groupby("activation", observed=True)["valid_accuracy"].mean()
        return self._some("activation", [*map(str, score.sort_values().index)], most)

    def _some(self, kind: str, entries: Sequence[str], most: int) -> list[str]:
        """The baseline, if it is of this kind, and evenly others of a list; in our order."""
        if len(entries) > most:
            first = [self.versus[1]] * (self.versus[0] == kind)
            others = [name for name in entries if name not in first]
            entries = [*first, *evenly(others, most - len(first))]
        return [name for name in self.entries(kind) if name in entries]

    def _of(self, nets: Sequence[Net], inits: Sequence[str], activations: Sequence[str]) -> Trained:
        if (len(nets), len(inits), len(activations)) == (
            len(self.nets),
            len(self.inits),
            len(self.activations),
        ):
            return self

        def kept(frame: pd.DataFrame) -> pd.DataFrame:
            named = frame["init"].isin(inits) & frame["activation"].isin(activations)
            wanted = pd.MultiIndex.from_frame(frame[NET]).isin([tuple(net) for net in nets])
            found: pd.DataFrame = frame[named & wanted]
            return found

        frames: dict[str, Any] = {
            name: kept(frame)
            for name in ("table", "curves", "tuning", "statistics")
            if (frame := getattr(self, name)) is not None
        }
        return replace(self, **frames)


def check_baseline(baseline: str, activations: Sequence[str], inits: Sequence[str]) -> None:
    """Refuse a baseline that a study of these activations and inits cannot have.

    Raises:
        ValueError: it is none of them, or there is no other one to compare with it.
    """
    several = [names for names in (activations, inits) if len(names) > 1]
    allowed = [name for names in several for name in names]
    if baseline not in allowed:
        raise unknown("baseline", baseline, allowed)


def titles(rows: pd.DataFrame) -> dict[Net, str]:
    """The networks of some rows, each with what tells it from the others; empty of a single one."""
    names = order(rows["network"])
    places = rows[NET].drop_duplicates().to_numpy()
    nets = [Net(str(name), int(width), int(depth)) for name, width, depth in places]
    nets.sort(key=lambda net: (names.index(net.network), net.width, net.depth))
    varied = [name for name in NET if len({getattr(net, name) for net in nets}) > 1]
    return {
        net: ", ".join(
            str(getattr(net, name)) if name == "network" else f"{name} {getattr(net, name)}"
            for name in varied
        )
        for net in nets
    }


def styles_of(frame: pd.DataFrame) -> dict[str, Stroke]:
    """The strokes of the activations in a frame that `Trained.named` made: by name, in all figures.

    The same activation has the same stroke in all figures of a study.
    """
    every = strokes([*frame["activation"].cat.categories])
    return {name: every[name] for name in order(frame["activation"])}
