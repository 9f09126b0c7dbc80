"""Which law each parameter of a model was drawn from, and what is wrong with it."""

from __future__ import annotations

from initstats.audits.auditing import LEVEL as LEVEL
from initstats.audits.auditing import Audit as Audit
from initstats.audits.auditing import audit as audit
