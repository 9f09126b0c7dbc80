"""How numbers came about: what a run's store noted of the machines and the drivers at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import pandas as pd

from initstats.report.page import MOST_NAMES
from initstats.store import Run, to_toml


def of_sessions(sessions: pd.DataFrame) -> dict[str, str]:
    """The time that a run took, and its environment; `sessions` is of `load_sessions`."""
    more = f" in {len(sessions)} sessions" if len(sessions) > 1 else ""
    return {
        "duration": f"{sessions['seconds'].sum():.0f} s of computation{more}",
        "started": f"{sessions['started'].iloc[0]:%Y-%m-%d %H:%M} UTC",
    }


def of_environment(sessions: pd.DataFrame) -> dict[str, str]:
    """What the last driver noted of its machine."""
    environment = sessions.iloc[-1].drop(["started", "seconds", "cells"]).dropna()
    return {str(name): str(value) for name, value in environment.items()}


def of_failures(failures: pd.DataFrame) -> dict[str, str]:
    """What could not be computed, by its error; `failures` is of `load_failures`."""
    found: dict[str, list[str]] = {}
    for *cell, error, _ in failures.itertuples(index=False, name=None):
        found.setdefault(str(error), []).append(" ".join(map(str, cell)))
    shown = list(found.items())[:MOST_NAMES]
    more = (
        {"other errors": f"of {len(found) - len(shown)} kinds"} if len(found) > len(shown) else {}
    )
    return {error: some(cells) for error, cells in shown} | more


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = [f"{len(names) - MOST_NAMES:,} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*names[:MOST_NAMES], *more])


def seeds_of(table: pd.DataFrame) -> str:
    """The seeds of a table; a range where they are consecutive."""
    seeds = sorted(int(seed) for seed in table["seed"].unique())
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return some([*map(str, seeds)])


def public_grid(run: Run) -> str:
    """The run's configuration as TOML, without the places of this machine."""
    config = dict(run.config)
    config["data"] = PurePath(str(config.get("data", ""))).name
    config["plugins"] = [PurePath(str(name)).name for name in config.get("plugins") or ()]
    return to_toml(config)
