"""The cell of a study: what names it, and what names its rows."""

from __future__ import annotations

from typing import NamedTuple

from initstats.store import Kind


class Cell(NamedTuple):
    """The key of a cell: its numbers are a function of this and of the run's settings."""

    network: str
    init: str
    activation: str
    width: int
    seed: int


KEYS: dict[str, Kind] = {
    "network": "text",
    "init": "text",
    "activation": "text",
    "width": "integer",
    "seed": "integer",
}
PLACES: dict[str, Kind] = {"layer": "integer", "tensor": "text", "direction": "text"}
