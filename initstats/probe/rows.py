"""The columns of a probe's table, from what was measured."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pandas as pd

from initstats.moments import STATISTICS
from initstats.moments.notes import NOTES
from initstats.probe.facts import FACTS
from initstats.probe.readings import Direction, Reading
from initstats.probe.slots import Address, Slot
from initstats.probe.spectra import SPECTRA

Row = tuple[Slot, Reading]
ORDERED = {
    "tensor": pd.CategoricalDtype(["preactivation", "activation", "weight"]),
    "direction": pd.CategoricalDtype(list(get_args(Direction))),
}


def keys_of(rows: list[Row], network: str, ended: int) -> pd.DataFrame:
    """The columns that say which tensor of a network a row is about.

    Args:
        ended: how many steps ended with an update of the weights.
    """
    slots, readings = [slot for slot, _ in rows], [reading for _, reading in rows]
    addresses = [slot.address for slot in slots]
    keys = {
        "network": [network] * len(rows),
        "step": [reading.step for reading in readings],
        "mode": [reading.mode for reading in readings],
        "layer": [slot.layer for slot in slots],
        "name": [address.name for address in addresses],
        "op": [a.op + (f"[{a.output}]" if a.output else "") for a in addresses],
        "call": [address.call for address in addresses],
        "tensor": [address.tensor for address in addresses],
        "direction": [reading.direction for reading in readings],
        "inputs": [",".join(map(str, slot.inputs)) for slot in slots],
        "shape": ["x".join(map(str, slot.shape)) for slot in slots],
        "dtype": [str(slot.dtype).removeprefix("torch.") for slot in slots],
        "unit_axis": [slot.axis for slot in slots],
        "units": [slot.units for slot in slots],
        "entries": [slot.entries for slot in slots],
        "requires_grad": [reading.facts.requires_grad for reading in readings],
        "no_grad": [slot.detached for slot in slots],
        "updated": [reading.step < ended for reading in readings],
        "update_ratio": [reading.update_ratio for reading in readings],
    }
    # without rows pandas would take text for numbers
    return pd.DataFrame(keys, dtype=None if rows else object).astype(ORDERED)


def facts_of(rows: list[Row]) -> pd.DataFrame:
    """The columns that say what an operation computes."""
    place = [*STATISTICS].index("second_moment")
    squares: dict[tuple[Address | None, int], float] = {
        (slot.address, reading.step): float(reading.statistics[place])
        for slot, reading in rows
        if reading.direction == "forward"
    }
    found = []
    for slot, reading in rows:
        facts = reading.facts
        forward = reading.direction == "forward"
        saturated = facts.saturated_fraction if forward else math.nan
        shut = facts.shut_fraction if forward else math.nan
        square = squares.get((facts.weight, reading.step), math.nan)
        sigma_w2 = facts.fan_in * square
        sums = facts.fan_in, facts.fan_out, sigma_w2
        hidden = math.nan if slot.address.tensor == "weight" else facts.unregistered
        axes = facts.shares_axis, facts.summed_axis, facts.paired, facts.paired_terms
        made = facts.normalized, *axes, facts.draws, hidden, facts.read_as_logits
        found.append((facts.gain, facts.factor, *facts.bounds, saturated, shut, *sums, *made))
    return pd.DataFrame(np.array(found, float).reshape(len(rows), len(FACTS)), columns=[*FACTS])


def statistics_of(rows: list[Row], spectra: bool) -> pd.DataFrame:
    """The statistics, and the spectra where they were measured.

    Raises:
        ValueError: a registered statistic fails.
    """
    columns = [*STATISTICS, *SPECTRA] if spectra else [*STATISTICS]
    numbers = np.array([reading.statistics for _, reading in rows]).reshape(len(rows), len(columns))
    integers = {name: "int64" for name, entry in STATISTICS.items() if entry.integer}
    return pd.DataFrame(numbers, columns=columns).astype(integers)


def notes_of(rows: list[Row], spectra: bool) -> pd.DataFrame:
    """The columns of what is known of values beside their entries; those alone that have any.

    Args:
        spectra: whether there is a `participation_ratio` of units already.
    """
    columns = [name for name in NOTES if not (spectra and name in SPECTRA)]
    shares = _branch_shares(rows)
    found = np.full((len(rows), len(columns)), math.nan)
    for number, (_, reading) in enumerate(rows):
        noted, direction = reading.facts.noted, reading.direction
        for place, name in enumerate(columns):
            found[number, place] = noted.number(direction, name)
        found[number, columns.index("branch_share")] = shares[number]
    table = pd.DataFrame(found, columns=columns)
    return table.dropna(axis=1, how="all")


def _branch_shares(rows: list[Row]) -> list[float]:
    """What branches have of the squares of the sums that they are parts of; NaN of other values."""
    count, bad, square = ([*STATISTICS].index(n) for n in ("count", "nonfinite", "second_moment"))
    values = {
        (slot.address, reading.step, reading.mode): reading.statistics
        for slot, reading in rows
        if reading.direction == "forward"
    }
    found = [math.nan] * len(rows)
    for number, (_, reading) in enumerate(rows):
        if reading.facts.noted.branch is None or reading.direction == "backward":
            continue
        address, factor = reading.facts.noted.branch
        branch, total = values.get((address, reading.step, reading.mode)), reading.statistics
        if branch is None or branch[count] != total[count] or branch[bad] or total[bad]:
            continue
        if total[square] > 0:
            found[number] = factor**2 * branch[square] / total[square]
    return found
