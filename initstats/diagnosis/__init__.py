"""Tables in words: what becomes of the signal, what is wrong, and what to do about it.

`verdicts` judges every stack, and `summary` each configuration of a study; `rules` look for one
fault each, and `findings` puts together what they have to say about a study, a measured model or a
training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from initstats.lazy import attach

if TYPE_CHECKING:
    from initstats.diagnosis.findings import Findings as Findings
    from initstats.diagnosis.findings import diagnose as diagnose
    from initstats.diagnosis.profile import Profile as Profile
    from initstats.diagnosis.rules import RULES as RULES
    from initstats.diagnosis.rules import Finding as Finding
    from initstats.diagnosis.rules import Rule as Rule
    from initstats.diagnosis.rules import register_rule as register_rule
    from initstats.diagnosis.rules import register_training_rule as register_training_rule
    from initstats.diagnosis.summary import count_healthy as count_healthy
    from initstats.diagnosis.summary import deepest as deepest
    from initstats.diagnosis.summary import in_order as in_order
    from initstats.diagnosis.summary import require as require
    from initstats.diagnosis.summary import seed_interval as seed_interval
    from initstats.diagnosis.summary import summarize as summarize
    from initstats.diagnosis.summary import summary_of as summary_of
    from initstats.diagnosis.training import Training as Training
    from initstats.diagnosis.verdicts import CONFIGURATION as CONFIGURATION
    from initstats.diagnosis.verdicts import VERDICTS as VERDICTS
    from initstats.diagnosis.verdicts import Limits as Limits
    from initstats.diagnosis.verdicts import Verdict as Verdict
    from initstats.diagnosis.verdicts import judge as judge
    from initstats.diagnosis.verdicts import judged as judged
    from initstats.diagnosis.verdicts import stacks_of as stacks_of
else:
    __getattr__, __dir__, __all__ = attach(__name__)
