"""Tables in words: what becomes of the signal, what is wrong, and what to do about it.

`verdicts` judges every stack, and `summary` each configuration of a study; `rules` look for one
fault each, and `findings` puts together what they have to say about a study, a measured model or a
training.
"""

from __future__ import annotations

from initstats.diagnosis.findings import Findings, diagnose
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules import (
    RULES,
    Finding,
    Rule,
    register_rule,
    register_training_rule,
)
from initstats.diagnosis.summary import (
    count_healthy,
    deepest,
    in_order,
    require,
    seed_interval,
    summarize,
    summary_of,
)
from initstats.diagnosis.training import Training
from initstats.diagnosis.verdicts import (
    CONFIGURATION,
    VERDICTS,
    Limits,
    Verdict,
    judge,
    judged,
    stacks_of,
)

__all__ = [
    "CONFIGURATION",
    "RULES",
    "VERDICTS",
    "Finding",
    "Findings",
    "Limits",
    "Profile",
    "Rule",
    "Training",
    "Verdict",
    "count_healthy",
    "deepest",
    "diagnose",
    "in_order",
    "judge",
    "judged",
    "register_rule",
    "register_training_rule",
    "require",
    "seed_interval",
    "stacks_of",
    "summarize",
    "summary_of",
]
