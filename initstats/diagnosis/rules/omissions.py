"""Rules about what is left out around a model: weights that nobody knows, updates, a mode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.rule import (
    OPERATIONS,
    TRAINED,
    Finding,
    listed,
    register_rule,
    register_training_rule,
)
from initstats.diagnosis.training import Training
from initstats.plural import counted
from initstats.registry import Need

_LEARNED = Need[Training](
    lambda training: bool((training.weights.gradient > 0).any()),
    "no gradients of weights were measured (backward=True, weights=True)",
)

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
            f"{counted(count, 'operation uses', 'operations use')} weights "
            f"({counted(entries, 'entry', 'entries')}) "
            "that get gradients and are no parameters of the model: an optimizer of "
            "model.parameters() does not have them, and state_dict() does not save them",
            "keep layers in an nn.ModuleList or nn.ModuleDict instead of a list or dict, and a "
            "tensor in an nn.Parameter that is an attribute of the module",
        )


@register_training_rule(
    threshold=10,
    source="gradients are accumulated over fewer batches than this before a first update",
    needs=[TRAINED, _LEARNED],
)
def missing_updates(training: Training, threshold: float) -> Iterator[Finding]:
    """the weights are updated after the backward passes"""
    first, last = training.trained[0], training.trained[-1]
    if first.mode != "train" or last.step > 0 or last.values["updated"].astype(bool).any():
        return
    rows = first.value_gradients
    batches = rows["count"] / np.maximum(rows["units"] * rows["entries"], 1)
    passes = round(float(np.median(batches))) if len(batches) else 0
    if passes >= threshold:
        yield Finding(
            "warning",
            first.subject,
            f"{passes} backward passes, and no update of the weights",
            "call optimizer.step() after backward(), with an optimizer of this model's parameters",
        )


@register_training_rule(
    threshold=0,
    source="torch.nn.Module.train: it sets dropout and batch normalization to training",
    needs=[TRAINED, _LEARNED],
)
def evaluation_mode(training: Training, threshold: float) -> Iterator[Finding]:
    """a model with batch normalization is trained in training mode"""
    updated = training.profiles[0].values["updated"].astype(bool).any()
    if not updated or any(profile.mode == "train" for profile in training.profiles):
        return
    rows = training.profiles[0].values
    found = rows.where(rows["op"] == "batch_norm")
    if len(found):
        yield Finding(
            "note",
            listed(found.places),
            "the weights are updated, and every pass was in evaluation mode: batch normalization "
            "keeps the statistics that it has, and dropout, if there is any, drops nothing",
            "call model.train() before the training, unless this is intended",
        )
