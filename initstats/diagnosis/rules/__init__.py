"""The rules: each looks for one fault in a profile, says where it is and what to do about it.

Adding one is writing one decorated function.
"""

from __future__ import annotations

from initstats.diagnosis.rules.rule import (
    RULES,
    Finding,
    Rule,
    register_rule,
    register_training_rule,
)

# each of these adds its rules, in the order of a report
from initstats.diagnosis.rules import values, trends, weights, copies, units  # isort: skip # noqa: F401
from initstats.diagnosis.rules import feeding, structure, updates, omissions  # isort: skip # noqa: F401

__all__ = ["RULES", "Finding", "Rule", "register_rule", "register_training_rule"]
