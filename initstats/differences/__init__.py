"""Two runs side by side: what is matched with what, and the differences with their intervals.

`side` reads what a user gives, `pair` matches two of a kind, `intervals` computes over seeds.
"""

from __future__ import annotations

from initstats.differences.pair import BOTH, Pair, compare_runs
from initstats.differences.side import Side

__all__ = ["BOTH", "Pair", "Side", "compare_runs"]
