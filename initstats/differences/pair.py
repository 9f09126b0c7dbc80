"""Two runs of a kind, matched place by place, and the table of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.diagnosis import summarize
from initstats.differences.intervals import Seeds, chosen_seeds, estimates
from initstats.differences.side import COUNT, MODEL, SEED, Kind, Side
from initstats.moments.table import STATISTICS
from initstats.registry import unknown

Array = NDArray[np.float64]

BOTH = "both"
"""What the column `measured` says of a place that both runs have; of others, `a` or `b`."""
SHARES = ("nonfinite", "infinite")
"""Counts that are compared as shares of the entries, of which there may be more in one run."""
LOG, LINEAR = "log", "linear"


def compare_runs(a: Any, b: Any, *, statistics: Sequence[str] | None = None) -> pd.DataFrame:
    """Compare two runs place by place and seed by seed, one row for each statistic and place.

    Runs are of one kind: two studies, two training studies (their statistics), or two models, of
    which a place is a layer's name and operation. A key that has one value in each run (two data
    sets, two widths, two steps of a training) is what is compared: the rows are matched by
    all others. Forward, a layer does not depend on those behind it, so that stacks of other depths
    are compared layer by layer; gradients start at the last layer, and there are others then.

    Differences are b - a, and 0 is no difference. Sizes (`std`, `second_moment`, `abs_mean`,
    `unit_mean_std`, `unit_std_mean`, `unit_std_std`, and statistics registered with ``size=True``)
    are compared by their natural logarithms, since what happens to a signal multiplies: ``exp`` of
    a difference and its interval are factors, and `a` and `b` geometric means. All others are
    subtracted: shares, correlations, means, quantiles; `nonfinite` and `infinite` as shares of the
    entries. A tensor with entries that are not finite counts as infinitely large, and its other
    statistics as NaN, as in `summarize`.

    Args:
        a, b: each a run's folder, or that of a page that keeps its `table.csv`; a table of
            `run_sweep`, `load_table`, `load_training_statistics` or `measure`; a `Probe`; or
            `Results`. A column `seed` in the tables of models pairs their rows.
        statistics: columns to compare; by default all but `count`.

    Returns:
        `statistic`; the keys; `a`, `b`, means over the seeds that count; `difference`, with `low`
        and `high`, its 95% interval; `scale`, `log` or `linear`; `seeds_a`, `seeds_b`; `paired`;
        `measured`, which is `both`, or `a` or `b` where only one of them has the place or the
        statistic. Where two seeds or more are shared, the interval is Student's t of the paired
        differences of these; else it is Welch's, over all seeds. It is NaN for a single seed. No
        seed is left out because of its value: an infinite one makes the difference infinite, and
        NaN makes it NaN.

    Raises:
        ValueError: no runs, runs of two kinds, no place that both have, rows that tell the same
            place twice, or no such statistic.
    """
    return Pair.of(a, b).differences(statistics)


@dataclass(frozen=True)
class Pair:
    """Two runs of a kind; made by `Pair.of`."""

    a: Side
    b: Side

    @classmethod
    def of(cls, a: Any, b: Any, names: tuple[str, str] = ("", "")) -> Pair:
        """Two runs from what a user has of them.

        Args:
            a, b: as for `compare_runs`.
            names: of the runs, for those who read about them; by default those of their folders.

        Raises:
            ValueError: as `compare_runs`.
        """
        one, other = (Side.of(*side) for side in zip((a, b), names, strict=True))
        if one.kind != other.kind:
            raise ValueError(
                f"a {one.kind.name} and a {other.kind.name} cannot be compared: give two of a kind"
            )
        pair = cls(one, other)
        if not (pair.places["measured"] == BOTH).any():
            raise ValueError(f"the two have no place in common: {pair._apart()}")
        return pair

    @property
    def kind(self) -> Kind:
        """The kind that both are of."""
        return self.a.kind

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both, the first one first."""
        return self.a, self.b

    @cached_property
    def compared(self) -> dict[str, tuple[str, str]]:
        """Keys that have a single value on each side, another one, and these values."""
        found = {}
        for key in self.kind.common:
            one, other = (side.single(key) for side in self.sides)
            if one is not None and other is not None and one != other:
                found[key] = (one, other)
        return found

    @cached_property
    def keys(self) -> list[str]:
        """The columns by which rows are matched."""
        asked = [key for key in self.kind.common if key not in self.compared]
        shared = [key for key in asked if all(key in side.table for side in self.sides)]
        return [*shared, *self.kind.places]

    @property
    def configuration(self) -> list[str]:
        """The keys that name a configuration, or a model, but for its data set."""
        return [key for key in self.keys if key not in (*self.kind.places, "dataset")]

    @cached_property
    def names(self) -> tuple[str, str]:
        """What the two are called: as given, else by what is compared, else `a` and `b`."""
        given = self.a.name, self.b.name
        if all(given) and given[0] != given[1]:
            return given
        for key, (one, other) in self.compared.items():
            words = key in ("dataset", "network", "init", "activation", "mode")
            return (one, other) if words else (f"{key} {one}", f"{key} {other}")
        first, second = (name or letter for name, letter in zip(given, "ab", strict=True))
        return (first, second) if first != second else (f"{first} (a)", f"{second} (b)")

    @cached_property
    def rows(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Both tables, their names as categories in one order."""
        tables = [side.table for side in self.sides]
        for key in self.keys:
            if key in self.a.ordered:
                order = dict.fromkeys([*self.a.ordered[key], *self.b.ordered[key]])
                kind = pd.CategoricalDtype([*order])
                tables = [table.assign(**{key: table[key].astype(kind)}) for table in tables]
        return tables[0], tables[1]

    @cached_property
    def _numbers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The place of every row of both tables: a row of `places`."""
        keys = [rows[self.keys] for rows in self.rows]
        both = pd.concat(keys, ignore_index=True)
        numbers = both.groupby(self.keys, observed=True, sort=True, dropna=False).ngroup()
        if self.kind is MODEL:  # in the order in which the model ran, not of names
            rows = pd.concat([*self.rows[::-1]], ignore_index=True)
            turned = np.concatenate([numbers[len(keys[0]) :], numbers[: len(keys[0])]])
            firsts = rows.groupby(turned).first()
            ran = firsts.assign(number=firsts.index).sort_values(
                [*(key for key in self.keys if key in self.kind.common), "layer", "number"]
            )
            numbers = pd.Series(np.argsort(ran["number"].to_numpy())[numbers])
        values = np.asarray(numbers, np.int64)
        return values[: len(keys[0])], values[len(keys[0]) :]

    @cached_property
    def places(self) -> pd.DataFrame:
        """One row for each place: its keys (of a model the `layer`, too), and `measured`."""
        held = [*self.keys, "layer"] if self.kind is MODEL else self.keys
        parts = zip(self.rows, self._numbers, strict=True)
        rows = [part[held].assign(place=numbers) for part, numbers in parts]
        firsts = pd.concat(rows[::-1], ignore_index=True).drop_duplicates("place")
        places = firsts.sort_values("place", ignore_index=True).drop(columns="place")
        there = [np.isin(np.arange(len(places)), numbers) for numbers in self._numbers]
        return places.assign(measured=np.select([there[0] & there[1], there[0]], [BOTH, "a"], "b"))

    @cached_property
    def _seeds(self) -> tuple[list[NDArray[np.int64]], Seeds]:
        """The column of every row's seed in arrays (places, seeds), and the seeds that count."""
        known = sorted({*self.a.seeds, *self.b.seeds})
        columns, measured = [], []
        for rows, numbers, name in zip(self.rows, self._numbers, self.names, strict=True):
            column = np.searchsorted(known, rows[SEED].to_numpy())
            there = np.zeros((len(self.places), len(known)), np.int64)
            np.add.at(there, (numbers, column), 1)
            if (there > 1).any():
                twice = self.places.iloc[int((there > 1).any(axis=1).argmax())][self.keys]
                raise ValueError(
                    f"{name} has several rows for one place and seed ("
                    f"{', '.join(map(str, twice))}): take the rows of one run"
                )
            columns.append(column)
            measured.append(there > 0)
        return columns, chosen_seeds(measured[0], measured[1])

    def differences(self, statistics: Sequence[str] | None = None) -> pd.DataFrame:
        """The table of `compare_runs`."""
        known = list(dict.fromkeys([*self.a.statistics, *self.b.statistics]))
        for name in statistics or ():
            if name not in known:
                raise unknown("statistic", name, known)
        columns, seeds = self._seeds
        counted = {
            "seeds_a": seeds.a.sum(axis=1),
            "seeds_b": seeds.b.sum(axis=1),
            "paired": seeds.paired,
        }
        parts = []
        for name in known if statistics is None else statistics:
            scale = LOG if name in STATISTICS and STATISTICS[name].size else LINEAR
            held = [name in side.statistics for side in self.sides]
            values = [
                self._values(side, column, name, scale) for side, column in enumerate(columns)
            ]
            numbers = estimates(values[0], values[1], seeds)._asdict()
            if scale == LOG:
                with np.errstate(over="ignore"):
                    numbers |= {side: np.exp(numbers[side]) for side in "ab"}
            part = self.places.assign(**numbers, scale=scale, **counted)
            part.insert(0, "statistic", name)
            measured: Any = part.pop("measured")
            if not all(held):  # only one of the tables has the column
                one = "a" if held[0] else "b"
                part, measured = part[measured.isin([one, BOTH])], one
            parts.append(part.assign(measured=measured))
        frame = pd.concat(parts, ignore_index=True)
        return frame.astype(
            {"statistic": pd.CategoricalDtype([*dict.fromkeys(frame["statistic"])])}
        )

    def _values(self, side: int, column: NDArray[np.int64], name: str, scale: str) -> Array:
        """A statistic on its scale, (places, seeds); NaN where nothing was measured."""
        rows, (_, seeds) = self.rows[side], self._seeds
        values = np.full(seeds.a.shape, np.nan)
        if name not in rows:
            return values
        given = rows[name].to_numpy(dtype=np.float64)
        overflow = (rows["nonfinite"] > 0).to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            if name in SHARES:
                given = given / rows[COUNT].to_numpy(dtype=np.float64)
            elif scale == LOG:
                given = np.where(overflow, np.inf, np.log(given))
            else:
                given = np.where(overflow, np.nan, given)
        values[self._numbers[side], column] = given
        return values

    @cached_property
    def depth(self) -> int:
        """The last layer that both have."""
        return min(side.depth for side in self.sides)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """What `summarize` says of each configuration on either side, through the layers of both.

        Returns:
            The keys of a configuration; of each side `a_verdict`, `a_std`, ..., `b_verdict`, ...,
            missing where it was not measured there; `measured`. In the order of the grids.
        """
        keys, renamed = self.configuration, []
        for letter, rows, side in zip("ab", self.rows, self.sides, strict=True):
            part = self._summary(rows, side.predicted).add_prefix(f"{letter}_")
            renamed.append(part.rename(columns={f"{letter}_{key}": key for key in keys}))
        found = renamed[0].merge(renamed[1], on=keys, how="outer", indicator="measured")
        words = {"both": BOTH, "left_only": "a", "right_only": "b"}
        found["measured"] = found["measured"].astype(str).map(words)
        return found.sort_values(keys, kind="stable", ignore_index=True)

    def _summary(self, rows: pd.DataFrame, predicted: pd.DataFrame | None) -> pd.DataFrame:
        """The summary of every network, depth and step that the rows hold.

        Both sides are judged on the same aspects: where one of them has no gradients, those that
        the other measured do not count, and theory's count where both have them.
        """
        rows = rows[rows["layer"] <= self.depth]
        theory = None
        if not all(side.backward for side in self.sides):
            rows = rows[rows["direction"] != "backward"]
            if predicted is not None and all(side.predicted is not None for side in self.sides):
                theory = predicted[predicted["layer"] <= self.depth]
        extra = [key for key in ("depth", "step") if key in rows]
        if not extra:
            return summarize(rows, theory)
        parts = []
        for _, part in rows.groupby(extra, observed=True):
            values = {key: part[key].iloc[0] for key in extra}
            parts.append(summarize(part).assign(**values))
        return pd.concat(parts, ignore_index=True)

    def alone(self) -> dict[str, tuple[list[Any], list[Any]]]:
        """By key, the values that only one of the two has; keys without any are left out."""
        found = {}
        for key in self.keys:
            here = [[*rows[key].drop_duplicates().sort_values()] for rows in self.rows]
            only = tuple([v for v in here[i] if v not in {*here[1 - i]}] for i in (0, 1))
            if any(only):
                found[key] = (only[0], only[1])
        return found

    def _apart(self) -> str:
        """Why nothing is shared: the keys of which no value is in both."""
        told = []
        for key in self.keys:
            here = [{*map(str, rows[key].unique())} for rows in self.rows]
            if not here[0] & here[1]:
                sides = (", ".join(sorted(values)[:5]) for values in here)
                told.append(f"{key} {' against '.join(sides)}")
        return "; ".join(told) or "each combination of keys is in one of them alone"
