"""Rules about what is left out around a model: weights that nobody knows, updates, a mode."""

from __future__ import annotations

from collections.abc import Iterator

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.rule import OPERATIONS, Finding, listed, register_rule
from initstats.registry import Need

_FOLLOWED = Need[Profile](
    lambda profile: bool((profile.values["requires_grad"] & (profile.values["layer"] > 0)).any()),
    "gradients were off (backward=False), and so nothing tells what is meant to be trained",
)


@register_rule(
    threshold=0,
    source="torch.nn.ModuleList: a module in a plain list is no part of the model",
    needs=[OPERATIONS, _FOLLOWED],
    judges=(),
)
def unregistered_weights(profile: Profile, threshold: float) -> Iterator[Finding]:
    """all weights that get gradients are parameters of the model"""
    rows = profile.values
    found = rows.where(rows["unregistered"] > threshold)
    if len(found):
        count, entries = len(found), int(found["unregistered"].sum())
        yield Finding(
            "warning",
            listed(found.places),
            f"{count} operation{'s use' if count > 1 else ' uses'} weights ({entries:,} entries) "
            "that get gradients and are no parameters of the model: an optimizer of "
            "model.parameters() does not have them, and state_dict() does not save them",
            "keep layers in an nn.ModuleList or nn.ModuleDict instead of a list or dict, and a "
            "tensor in an nn.Parameter that is an attribute of the module",
        )
