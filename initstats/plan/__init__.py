"""The plan of a study: what a sweep will take, from a trial of a few of its cells."""

from __future__ import annotations

from initstats.plan.driving import Driving as Driving
from initstats.plan.driving import drive as drive
from initstats.plan.plan import Plan as Plan
from initstats.plan.planning import plan_sweep as plan_sweep
from initstats.plan.queue import Queue as Queue
from initstats.plan.queue import queue as queue
