"""Repair of a model's initialization, in place: layer-sequential unit variance, and any init.

LSUV is that of Mishkin & Matas (2016, arXiv:1511.06422). What a model does with its parameters is
watched, not guessed from its structure: `uses` sees the operations, `planning` collects the weights
that they use and says what is left, `purpose` what is so on purpose and `reasons` why, `layout`
knows the matrices in a weight, `weights` sets it, `setting` has the model use and fit it, `keeping`
puts everything back, `reading` reads what a probe saw, and `repairing` is the door.
"""

from __future__ import annotations

from initstats.repair.repairing import lsuv_ as lsuv_
from initstats.repair.repairing import matched_ as matched_
from initstats.repair.repairing import reinitialize_ as reinitialize_
