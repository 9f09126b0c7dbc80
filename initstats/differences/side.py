"""One of two runs that are laid side by side: of which kind it is, its rows, and its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from initstats.diagnosis import CONFIGURATION
from initstats.outcome.tables import is_training, load_training_statistics
from initstats.store import Run, is_run, load_predictions, load_run, load_table

TABLE = "table.csv"
"""What a page of ours keeps beside it: the rows that it shows."""
COUNT = "count"
"""The first statistic of every table: what follows are statistics, what comes before are keys."""
SEED = "seed"
_PLACE = ("layer", "tensor", "direction")


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
        name: the noun.
        common: columns that name what was measured; one that has a single value on each side,
            another one, is what is compared, and not matched.
        places: columns that name a tensor in it; always matched.
    """

    name: str
    common: tuple[str, ...]
    places: tuple[str, ...]

    @property
    def judged(self) -> bool:
        """Whether its configurations have verdicts."""
        return {*CONFIGURATION} <= {*self.common}


MODEL = Kind("model", ("network", "mode", "step"), ("name", "op", "call", "tensor", "direction"))
TRAINING = Kind("training study", ("dataset", *CONFIGURATION, "depth", "step"), _PLACE)
STUDY = Kind("study", ("dataset", *CONFIGURATION), _PLACE)
KINDS = (MODEL, TRAINING, STUDY)
"""The kinds, those that need most columns first."""
WORDS = {
    *("dataset", "network", "init", "activation", "tensor", "direction"),
    *("mode", "name", "op", "inputs", "shape", "dtype"),
}
"""The columns that hold text, also where it looks like a number."""


@dataclass(frozen=True)
class Side:
    """A run as it is compared; made by `Side.of`.

    Attributes:
        kind: of the run.
        table: its rows, names as text, with a `seed` (0 where there is none).
        name: given by the user, or that of its folder; empty where it has none.
        run: of a run's folder, its configuration and settings.
        ordered: of names that are categories, their order.
        predicted: of a study, its rows from theory, by which gradients are judged that were not
            measured; None where nothing was predicted.
    """

    kind: Kind
    table: pd.DataFrame
    name: str = ""
    run: Run | None = None
    ordered: Mapping[str, list[str]] = field(default_factory=dict)
    predicted: pd.DataFrame | None = None

    @classmethod
    def of(cls, given: Any, name: str = "") -> Side:
        """A run from what a user has of it; see `compare_runs`.

        Raises:
            ValueError: it is nothing of the kind.
        """
        if isinstance(given, Side):
            return given
        run, predicted = None, getattr(given, "predicted", None)
        if isinstance(given, str | Path):
            table, run, predicted = _from_path(Path(given))
            name = name or Path(given).resolve().name
        else:
            table = _rows(given)
        kind = _kind_of(table, name)
        if table.empty:
            raise ValueError(f"{name or 'one of the two'} holds no rows: nothing was measured yet")
        if table[COUNT].isna().any():
            raise ValueError(
                f"{name or 'one of the two'} holds predictions, and no measurement: "
                "compare_with_theory compares a measurement with them"
            )
        texts = [each for each in table if each in WORDS]
        ordered = {each: _order(table[each]) for each in texts}
        table = table.astype(dict.fromkeys(texts, object)).astype(dict.fromkeys(texts, str))
        if SEED not in table:
            table = table.assign(seed=0)
        return cls(kind, table, name, run, ordered, predicted)

    @property
    def statistics(self) -> list[str]:
        """The columns that are compared, `count` not among them."""
        names = [str(name) for name in self.table]
        after = names[names.index(COUNT) + 1 :]
        return [n for n in after if n != SEED and pd.api.types.is_numeric_dtype(self.table[n])]

    @property
    def backward(self) -> bool:
        """Whether gradients were measured."""
        return bool((self.table["direction"] == "backward").any())

    @property
    def depth(self) -> int:
        """The last layer."""
        return int(self.table["layer"].max())

    @property
    def seeds(self) -> list[int]:
        """The seeds, in their order."""
        return sorted(int(seed) for seed in self.table[SEED].unique())

    def single(self, column: str) -> str | None:
        """The value that all rows have in a column; None where there are several."""
        if column not in self.table or self.table[column].nunique() != 1:
            return None
        return str(self.table[column].iloc[0])


def _from_path(path: Path) -> tuple[pd.DataFrame, Run | None, pd.DataFrame | None]:
    """The rows; of a run's folder the run, and of a study's what was predicted, too."""
    if is_run(path):
        if is_training(path):
            return load_training_statistics(path), load_run(path), None
        return load_table(path), load_run(path), load_predictions(path)
    file = path / TABLE if path.is_dir() else path
    if file.is_file() and file.suffix == ".csv":
        return read_rows(file), None, None
    raise ValueError(
        f"{path} is neither a run's folder nor that of a page with its {TABLE}: name what "
        "initstats sweep, train or measure --out wrote"
    )


def read_rows(file: Path) -> pd.DataFrame:
    """The rows of a table as a page writes it, names as they are, though they look like numbers.

    Raises:
        ValueError: the file is no such table.
    """
    try:
        found: pd.DataFrame = pd.read_csv(file, converters=dict.fromkeys(WORDS, str))
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"cannot read {file}: it is no table ({error})") from error
    return found


def _rows(given: Any) -> pd.DataFrame:
    """The rows of a table, of a `Probe`, or of results that hold a table."""
    if isinstance(given, pd.DataFrame):
        return given
    held = getattr(given, "statistics", None)
    if not isinstance(held, pd.DataFrame):
        held = getattr(given, "table", None)
        held = held() if callable(held) else held
    if not isinstance(held, pd.DataFrame):
        raise ValueError(
            "a run's folder, a table, a Probe or Results are expected to be compared, not "
            f"{type(given).__name__}"
        )
    return held


def _kind_of(table: pd.DataFrame, name: str) -> Kind:
    lacking = {
        kind.name: [
            column
            for column in (*kind.common, *kind.places, "layer", COUNT, "nonfinite")
            if column not in table.columns and column not in ("dataset", "mode")
        ]
        for kind in KINDS
    }
    for kind in KINDS:
        if not lacking[kind.name]:
            return kind
    closest = min(lacking, key=lambda each: len(lacking[each]))
    hint = (
        "; a repair's own table has before and after in one row: measure the model twice"
        if "outcome" in table.columns and "std_before" in table.columns
        else ""
    )
    raise ValueError(
        f"{name or 'one of the two'} holds no rows of a study, a training study or a model: the "
        f"table of a {closest} has the columns {', '.join(lacking[closest])}, too{hint}"
    )


def _order(names: pd.Series) -> list[str]:
    """Distinct names in the order of the categories, or of their appearance."""
    if isinstance(names.dtype, pd.CategoricalDtype):
        return [str(name) for name in names.cat.remove_unused_categories().cat.categories]
    return [str(name) for name in names.unique()]
