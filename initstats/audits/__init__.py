"""Which law each parameter of a model was drawn from, and what is wrong with it."""

from __future__ import annotations

from initstats.audits.audit import LEVEL as LEVEL
from initstats.audits.audit import Audit as Audit
from initstats.audits.audit import audit as audit
