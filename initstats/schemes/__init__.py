"""Published initializations: what each parameter of a model is drawn from, read off its graph."""

from __future__ import annotations

from initstats.schemes.initializing import Prescription as Prescription
from initstats.schemes.initializing import initialize_ as initialize_
from initstats.schemes.initializing import prescribe as prescribe
from initstats.schemes.published import SCHEMES as SCHEMES
