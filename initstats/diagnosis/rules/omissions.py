"""Rules about what is left out around a model: weights that nobody knows, updates, a mode."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

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
    if passes < threshold:
        told = counted(passes, "backward pass was", "backward passes were")
        yield Finding("unchecked", first.subject, f"only {told} watched, and no update", "")
    else:
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


_AGAIN = 3
_FOLLOWING = Need[Training](
    lambda training: (
        sum(b.step == a.step + 1 for a, b in pairwise(training.trained[:_FIRST])) >= _AGAIN
    ),
    "fewer than four steps, one after the other, were measured",
)


@register_training_rule(
    threshold=_AGAIN,
    source="torch.optim.Optimizer.zero_grad: backward adds to the gradients that are there",
    needs=[TRAINED, _LEARNED, _FOLLOWING],
)
def added_gradients(training: Training, threshold: float) -> Iterator[Finding]:
    """gradients are set to zero after each update

    The gradient of a bias is the sum of those of all entries that it was added to. It is a fault if
    it has grown by that sum instead, so many times one after the other, while it was another.
    """
    steps = training.trained[:_FIRST]
    sums = [_bias_gradients(profile) for profile in steps]
    grown: dict[str, int] = {}
    pairs = zip(pairwise(steps), pairwise(sums), strict=True)
    for (before, after), (old, new) in pairs:
        if after.step != before.step + 1:
            continue
        for name in old.keys() & new.keys():
            (was, _, _), (now, added, size) = old[name], new[name]
            if abs(was) > _CLEAR * size and abs(added) > _CLEAR * size:
                rises = abs(now - was - added) < _EXACT * (abs(now) + abs(was) + abs(added))
                # what is the sum itself has not grown
                rises &= abs(now - added) > 100 * abs(now - was - added)
                grown[name] = grown.get(name, 0) + 1 if rises else -_FIRST
    names = [name for name, count in grown.items() if count >= threshold]
    if names and 2 * len(names) > len(grown):
        yield Finding(
            "warning",
            listed(names),
            "the gradient at each step is that of the step before and the new one in addition: "
            "nothing sets it to zero, and every update repeats all that came before",
            "optimizer.zero_grad() before each backward(), or after each step()",
        )


_FIRST = 8
"""The steps that are looked at: what is added up in these is so in all."""
_CLEAR, _EXACT = 1e-2, 1e-4
"""What a sum is to be of the size of its terms, and by how much float32 may differ, relatively."""


def _bias_gradients(profile: Profile) -> dict[str, tuple[float, float, float]]:
    """For each bias of a linear map: the sum of its gradient, that of its entries', and their size.

    The size is that of a sum of as many independent terms.
    """
    rows, values = profile.parameter_gradients, profile.value_gradients
    at = {int(layer): number for number, layer in enumerate(values["layer"])}
    units = dict(zip(map(int, values["layer"]), values["units"], strict=True))
    found = {}
    for number in np.flatnonzero(~(rows["fan_in"] > 0)):
        layer = int(rows["layer"][number])
        if layer in profile.graph.linear and rows["count"][number] == units.get(layer):
            count, mean = values["count"][at[layer]], values["mean"][at[layer]]
            size = np.sqrt(count * values["second_moment"][at[layer]])
            own = rows["count"][number] * rows["mean"][number]
            found[str(rows["name"][number])] = float(own), float(count * mean), float(size)
    return found
