"""The explorable depth profile of a model's page: every statistic, operation and step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from initstats.plots.results import evenly
from initstats.report.planes import in_script, layout, packed, shortened

NUMBERS = 450_000
"""Numbers that a page holds; of a longer training, some steps are left out."""
OPERATIONS = 10_000
"""Operations that a page shows; of a larger model, evenly chosen ones."""
KEYS = ["layer", "name", "op", "call"]
"""What tells an operation from others."""
WAYS = ("forward", "backward")


class Statistic(NamedTuple):
    """A number about a tensor: its name, what it is called, and the axis it is drawn on.

    `axis` is "logarithmic", "share" (0 to 1), "correlation" (-1 to 1), "linear", or empty where it
    is told, but not drawn.
    """

    name: str
    label: str
    axis: str


STATISTICS = (
    Statistic("std", "standard deviation", "logarithmic"),
    Statistic("rms", "root mean square", "logarithmic"),
    Statistic("mean_over_std", "mean / standard deviation", "linear"),
    Statistic("dead_fraction", "share of dead units", "share"),
    Statistic("zero_fraction", "share of exact zeros", "share"),
    Statistic("sample_correlation", "correlation of two samples", "correlation"),
    Statistic("largest", "largest absolute value", "logarithmic"),
    Statistic("mean", "mean", ""),
    Statistic("min", "smallest", ""),
    Statistic("max", "largest", ""),
    Statistic("nonfinite", "not finite", ""),
)


@dataclass(frozen=True)
class Profile:
    """What a page needs to show its explorable profile; its templates are in `profile/`.

    Attributes:
        manifest: what the planes of the data mean, as JSON that may stand in a script.
        data: the planes as text.
        operations: how many are shown; `steps`: their numbers, those that are shown.
        gradients: whether any were measured.
        note: what is left out; empty if that is nothing.
    """

    manifest: Markup
    data: str
    operations: int
    steps: Sequence[int]
    gradients: bool
    note: str


def profile_of(table: pd.DataFrame, faults: Sequence[Sequence[int]]) -> Profile | None:
    """The explorable profile of a model; None where nothing was measured.

    Args:
        table: of a `Probe`.
        faults: the layers that each fault names.
    """
    rows = _values(table)
    if not len(rows):
        return None
    measured = [int(step) for step in np.unique(rows["step"])]
    all_operations = rows[KEYS].drop_duplicates().sort_values("layer", kind="stable")
    positions = evenly(range(len(all_operations)), OPERATIONS)
    operations = all_operations.iloc[positions].reset_index(drop=True)
    ways = [way for way in WAYS if (rows["direction"] == way).any()]
    room = NUMBERS // (len(ways) * len(STATISTICS) * len(operations))
    steps = evenly(measured, max(2, room))
    planes = {way: _plane(rows[rows["direction"] == way], operations, steps) for way in ways}
    about = operations.merge(rows.drop_duplicates(KEYS, keep="last"), on=KEYS, how="left")
    manifest = {
        "names": about["name"].astype(str).tolist(),
        "kinds": about["op"].astype(str).tolist(),
        "calls": about["call"].tolist(),
        "layers": about["layer"].tolist(),
        "shapes": about["shape"].astype(str).str.replace("x", " × ").tolist(),
        "dtypes": about["dtype"].astype(str).tolist(),
        "weighted": (about["tensor"] == "preactivation").astype(int).tolist(),
        "steps": steps,
        "statistics": [each._asdict() for each in STATISTICS],
        "faults": _marks(faults, about["layer"].tolist()),
        "planes": layout(planes),
    }
    return Profile(
        in_script(manifest),
        packed(planes),
        len(operations),
        steps,
        len(ways) > 1,
        _left_out(len(measured), len(steps), len(all_operations), len(operations)),
    )


def _values(table: pd.DataFrame) -> pd.DataFrame:
    """The rows about values, not weights; of a step that ran in both modes, those of training."""
    rows = table[table["tensor"] != "weight"]
    last = rows.groupby("step")["mode"].transform("max")
    kept: pd.DataFrame = rows[rows["mode"] == last]
    return kept


def _plane(
    rows: pd.DataFrame, operations: pd.DataFrame, steps: Sequence[int]
) -> NDArray[np.float32]:
    """Numbers of (statistics, steps, operations); NaN where nothing was measured."""
    plane = np.full((len(STATISTICS), len(steps), len(operations)), np.nan, "<f4")
    rows = rows[rows["step"].isin(steps)]
    place = rows[KEYS].merge(operations.assign(place=operations.index), on=KEYS, how="left")
    known = place["place"].notna().to_numpy()
    rows, columns = rows[known], place["place"].to_numpy()[known].astype(int)
    step = np.searchsorted(np.asarray(steps), rows["step"].to_numpy())
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        derived = {
            "rms": np.sqrt(rows["second_moment"].to_numpy(float)),
            "mean_over_std": rows["mean"].to_numpy(float) / rows["std"].to_numpy(float),
            "largest": rows[["min", "max"]].abs().max(axis=1).to_numpy(float),
        }
        for number, statistic in enumerate(STATISTICS):
            name = statistic.name
            if name not in derived and name not in rows:
                continue
            values = derived[name] if name in derived else rows[name].to_numpy(float)
            plane[number, step, columns] = values.astype(np.float32)
    return shortened(plane)


def _marks(faults: Sequence[Sequence[int]], layers: Sequence[int]) -> list[list[int]]:
    """The positions of the operations that each fault names."""
    sets = [{*marked} for marked in faults]
    return [[at for at, layer in enumerate(layers) if layer in marked] for marked in sets]


def _left_out(measured: int, steps: int, all_operations: int, operations: int) -> str:
    """What a page cannot hold."""
    told = []
    if steps < measured:
        told.append(f"Of {measured} measured steps, {steps} are shown, evenly chosen.")
    if operations < all_operations:
        told.append(f"Of {all_operations:,} operations, {operations:,} are shown, evenly chosen.")
    return " ".join([*told, "The table beside the page has all of them."]) if told else ""


class Places:
    """Names of operations, modules and parameters as findings spell them, and their layers.

    Args:
        table: of a `Probe`.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self._layers = dict[str, set[int]]()
        rows = table[["layer", "name", "op", "call", "tensor"]].drop_duplicates()
        for layer, name, op, call, tensor in rows.itertuples(index=False):
            again = f", call {call}" if call > 1 else ""
            # a module's name means what it computed, not what it was given
            bare = [f"{name}"] if op != "input" else []
            for spelling in bare if tensor == "weight" else [*bare, f"{name} ({op}{again})"]:
                self._layers.setdefault(spelling, set()).add(int(layer))

    def among(self, where: str) -> list[int]:
        """The layers that are named in a list of places."""
        found = (self._layers[name] for name in self._layers if name and _names(where, name))
        return sorted(set[int]().union(*found))


def _names(where: str, name: str) -> bool:
    """Whether a list of places has an item of this name."""
    ends = rf"(?:^|, |: | to |\.\.\. ){re.escape(name)}(?:$|, | to )"
    return name in where and re.search(ends, where) is not None
