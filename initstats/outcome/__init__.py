"""The outcome of training: who trains better, at which rate, and what foretold it; no torch here.

`summarize_training` compares variants over paired seeds, `choose_rates` picks each one's learning
rate by one rule, and `predictive_power` asks whether statistics at initialization tell the outcome.
"""

from __future__ import annotations

from initstats.outcome.comparison import COLUMNS, VERDICTS, summarize_training
from initstats.outcome.predictors import initial_distances, predictive_power
from initstats.outcome.rates import choose_rates, next_rates
from initstats.outcome.runs import MEASURES

__all__ = [
    "COLUMNS",
    "MEASURES",
    "VERDICTS",
    "choose_rates",
    "initial_distances",
    "next_rates",
    "predictive_power",
    "summarize_training",
]
