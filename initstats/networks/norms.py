"""The norms that a network may have, by name, and where they may stand."""

from __future__ import annotations

from collections.abc import Callable, Collection

from initstats.networks.batch_norm import BatchNorm
from initstats.networks.norm import Norm
from initstats.networks.normalization import Normalization
from initstats.networks.parameters import check_sizes
from initstats.registry import unknown

NORMS: dict[str, Callable[[int, int, bool], Normalization | None]] = {
    "none": lambda groups, batch, whole: None,
    "layer": lambda groups, batch, whole: Norm(whole=whole),
    "rms": lambda groups, batch, whole: Norm(centred=False, whole=whole),
    "batch": lambda groups, batch, whole: BatchNorm(batch),
    "group": lambda groups, batch, whole: Norm(groups, whole=whole),
}
"""Each made of a number of groups, a size of batches, and whether positions are normalized
together."""
PLACES = {
    "pre": "before what it is for: the branch, or the activation",
    "post": "after the sum",
    "after": "after the activation",
}
"""Where a norm may stand."""


def norm_of(
    norm: str,
    place: str,
    allowed: Collection[str],
    *,
    groups: int,
    batch: int,
    whole: bool = False,
) -> Normalization | None:
    """The norm of a network; None where it has none.

    Args:
        norm: a key of `NORMS`.
        place: where it stands.
        allowed: places that the network has for it.
        groups: of units, for `group`.
        batch: samples that are normalized together, for `batch`.
        whole: whether the positions of a sample are normalized together.

    Raises:
        ValueError: no such norm or place, a number that cannot be, or a combination of them.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if place not in allowed:
        if place in PLACES:
            raise ValueError(
                f"place={place}, {PLACES[place]}: this network has no such place, only "
                f"{', '.join(allowed)}"
            )
        raise unknown("place", place, allowed)
    if norm == "none" and place != "pre":
        raise ValueError(f"place={place} is for a norm, and there is none: name a norm, too")
    if norm != "group" and groups != GROUPS:
        raise ValueError(f"groups={groups} is for norm=group, and the norm is {norm}")
    if norm != "batch" and batch != BATCH:
        raise ValueError(f"batch={batch} is for norm=batch, and the norm is {norm}")
    check_sizes(groups=groups)
    check_sizes(least=2, batch=batch)  # one sample less its mean is 0
    return NORMS[norm](groups, batch, whole)


GROUPS, BATCH = 4, 32
"""The groups and the batch of those who ask for none."""
