"""What becomes of signals and gradients in known architectures: theory, and measured beside it.

Recipes, a network with an init and an activation, at depths of ten to a thousand layers; what
branches add; attention; and what a norm makes of the choice of the init. Page: `report.survey`.
"""

from __future__ import annotations

from initstats.survey.evidence import Evidence as Evidence
from initstats.survey.evidence import survey as survey
from initstats.survey.studied import STUDIED as STUDIED
from initstats.survey.studied import Studied as Studied
