"""Rules about a training: which weights get gradients and move, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.drawn import all_default
from initstats.diagnosis.rules.rule import (
    TRAINED,
    Finding,
    Severity,
    listed,
    register_training_rule,
)
from initstats.diagnosis.training import Training
from initstats.diagnosis.verdicts import DECADE
from initstats.plural import counted
from initstats.registry import Need

_COARSE = 1e-6
_FAINT = 1e-5
"""Gradients below this share of the weights are too small for any usual learning rate."""
USUAL = 1e-3
"""The rms of an update over that of the weights in a training that goes well: a rule of thumb."""
_LEARNED = Need[Training](
    lambda training: bool(np.isfinite(training.weights.gradient).any()),
    "no gradients of weights were measured (backward=True, weights=True)",
)
_FEW = "fewer than two updates of the weights were watched"
_UPDATED = Need[Training](lambda training: len({p.step for p in training.trained}) > 2, _FEW)
_SIZED = Need[Training](
    lambda training: len(training.updates) > 1,
    f"{_FEW} in training mode, where copies tell their sizes",
)
_CHANGED = Need[Training](
    lambda training: len(training.updates) > 0,
    "no update of the weights was watched in training mode, where copies tell their sizes",
)


@register_training_rule(
    threshold=0,
    source="torch.Tensor.detach, torch.no_grad: what comes before them is not trained",
    needs=[TRAINED, _LEARNED],
)
def weights_without_gradient(training: Training, threshold: float) -> Iterator[Finding]:
    """every weight that is used and not frozen gets a gradient

    What moved all the same, as an average of other weights does, is left alone. A weight whose
    gradient is 0 gets one.
    """
    weights = training.weights
    backward = np.isfinite(weights.gradient).any(axis=1)
    asked = (weights.trainable == 1) & backward[:, None]
    lacking = asked.any(axis=0) & np.isnan(weights.gradient).all(axis=0)
    lacking &= ~weights.moved.any(axis=0)
    cuts: dict[_Cut, list[str]] = {}
    for number in np.flatnonzero(lacking):
        profile = training.trained[int(np.argmax(asked[:, number]))]
        cuts.setdefault(_cut(profile, weights.names[number]), []).append(weights.names[number])
    for cut, names in cuts.items():
        certain = cut.alone or (cut.beside and len(training.trained) > 1 + threshold)
        yield Finding(
            "warning" if certain else "note",
            listed(names),
            f"{_counted(names)} no gradient, though {_pronoun(names)} not frozen and other weights "
            f"get one: {cut.evidence}",
            f"{cut.remedy}; if that is intended, say so by freezing: "
            "model.get_parameter(name).requires_grad_(False)",
        )
    frozen = (weights.trainable == 0).any(axis=0) & ~(weights.trainable == 1).any(axis=0)
    if frozen.any():
        names = [name for name, is_frozen in zip(weights.names, frozen, strict=True) if is_frozen]
        yield Finding(
            "note",
            listed(names),
            f"{len(names)} of {counted(len(frozen), 'parameter')} "
            f"{'is' if len(names) == 1 else 'are'} frozen (requires_grad=False)",
            "nothing, if that is intended; else set requires_grad to True before the optimizer is "
            "made",
        )


class _Cut(NamedTuple):
    """Where a gradient stops on its way back to a weight.

    Attributes:
        alone: whether nothing beside it learns in its place.
        beside: whether what reads it gets gradients from others that it reads.
    """

    evidence: str
    remedy: str
    alone: bool
    beside: bool = False


def _cut(profile: Profile, name: str) -> _Cut:
    graph = profile.graph
    rows = profile.parameters
    layer = int(rows["layer"][list(rows["name"]).index(name)])
    reached = {int(number) for number in profile.value_gradients["layer"]}
    if layer in reached:
        place = profile.place(layer)
        return _Cut(
            f"{place} gets a gradient and hands none on to the weights that it uses",
            f"use the parameter itself at {place}, not what detach() or .data gives, nor what was "
            "computed of it under torch.no_grad()",
            alone=True,
        )
    edges, seen = _arrivals(profile, layer, reached)
    if not edges:
        off = layer in profile.at and not profile.along([layer])["requires_grad"][0]
        return _Cut(
            "the loss does not depend on what they make"
            + (", which was made while gradients were off" if off else ""),
            "use what they make in the loss, and not by argmax, a comparison, .item() or numpy() "
            "alone",
            # an output that a loss leaves out is no fault: a network that all comes to nothing is
            alone=not off and not _comes_from(profile, layer, reached),
        )
    last, reader = min(edges, key=lambda edge: edge[1])
    start, behind = profile.place(last), profile.place(reader)
    alone = reached.isdisjoint(graph.inputs[reader])
    before, after = _cut_off(profile, last, reader, seen)
    if profile.along([after])["no_grad"][0] == 1:
        made = profile.place(after)
        return _Cut(
            f"one arrives at {behind}, which reads {start}, and {made} was made while gradients "
            "were off",
            f"run {made} and what comes before it outside of torch.no_grad() and "
            "torch.inference_mode()",
            alone,
            not alone,
        )
    if before is None:
        return _Cut(
            f"one arrives at {behind}, which reads {start}, and that was made of no parameters",
            "use the parameters themselves, and not what detach() or .data gives",
            alone,
            not alone,
        )
    source, there = profile.place(before), profile.place(after)
    return _Cut(
        f"one arrives at {there}, which reads {source}, and none at that"
        if after == reader
        else f"{there} reads {source}, and autograd does not follow it there",
        f"leave out what cuts it off between {source} and {there}: detach(), .data, .item(), "
        "numpy(), or a function without a derivative",
        alone,
        not alone,
    )


def _arrivals(
    profile: Profile, layer: int, reached: set[int]
) -> tuple[list[tuple[int, int]], set[int]]:
    """Where what is made of a layer comes to values that get a gradient, and the layers between."""
    found: list[tuple[int, int]] = []
    waiting, seen = [layer], {layer}
    while waiting:
        here = waiting.pop()
        for reader in profile.graph.readers.get(here, ()):
            if reader in reached:
                found.append((here, reader))
            elif reader not in seen:
                seen.add(reader)
                waiting.append(reader)
    return found, seen


def _cut_off(profile: Profile, last: int, reader: int, seen: set[int]) -> tuple[int | None, int]:
    """The value that autograd still follows, and that made of it which it does not.

    The first is None where it follows none of those that are made of the weight; then the other is
    the last that was made while gradients were off, if any was.

    Args:
        last, reader: the last value that no gradient arrives at, and one that is made of it.
        seen: the values that are made of the weight and get no gradient.
    """
    rows = profile.values
    follows = dict(zip(map(int, rows["layer"]), rows["requires_grad"], strict=True))
    waiting, known = [(last, reader)], {last}
    while waiting:
        here, after = waiting.pop()
        if follows[here]:
            return here, after
        for source in profile.graph.inputs[here]:
            if source in seen and source not in known:
                known.add(source)
                waiting.append((source, here))
    off = known.intersection(map(int, rows["layer"][rows["no_grad"] == 1]))
    return None, max(off, default=last)


def _comes_from(profile: Profile, layer: int, others: set[int]) -> bool:
    """Whether a value is made of some others."""
    waiting, seen = [layer], set[int]()
    while waiting:
        for source in profile.graph.inputs.get(waiting.pop(), ()):
            if source in others:
                return True
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return False


def _counted(names: list[str]) -> str:
    return f"{len(names)} parameters get" if len(names) > 1 else "this parameter gets"


def _pronoun(names: list[str]) -> str:
    return "they are" if len(names) > 1 else "it is"


@register_training_rule(
    threshold=2,
    source="torch.optim: an optimizer moves what it was given, and nothing else",
    needs=[TRAINED, _LEARNED, _UPDATED],
)
def weights_without_update(training: Training, threshold: float) -> Iterator[Finding]:
    """every weight that gets a gradient moves

    It is a fault if at least two updates left a weight as it is that got gradients, while they
    moved others. Updates that are smaller than the resolution of the weight's type are no fault of
    the optimizer: at the rate of the others they would be less than four times that.
    """
    weights = training.weights
    learns = weights.trainable == 1
    others = (weights.moved & learns).any(axis=1)
    still = (weights.ratio == 0) & learns & others[:, None]
    got = np.isfinite(weights.gradient) & (weights.gradient > 0)
    stays = (still.sum(axis=0) >= threshold) & (got.sum(axis=0) >= threshold)
    stays &= ~weights.moved.any(axis=0)
    lost = stays & (weights.expected < 4 * weights.resolution)
    given = [name for name, found in zip(weights.names, stays & ~lost, strict=True) if found]
    lost &= weights.resolution > _COARSE  # a float32 loses only what is no learning rate at all
    updates, moving = int(still.any(axis=1).sum()), int(weights.moved.any(axis=0).sum())
    if given:
        yield Finding(
            "warning",
            listed(given),
            f"{_counted(given)} gradients and never move{'s' if len(given) == 1 else ''} in "
            f"{updates} updates, while {counted(moving, 'other does', 'others do')}: "
            f"the optimizer lacks {'them' if len(given) > 1 else 'it'}, or its learning rate is 0",
            "give the optimizer model.parameters(), after the last layer is in its place, and look "
            "at its groups; what is frozen on purpose needs no gradient: "
            "model.get_parameter(name).requires_grad_(False)",
        )
    if lost.any():
        rounded = [name for name, found in zip(weights.names, lost, strict=True) if found]
        yield Finding(
            "note",
            listed(rounded),
            f"{_counted(rounded)} gradients and never move{'s' if len(rounded) == 1 else ''} in "
            f"{updates} updates: the updates are smaller than the rounding of the weights' type",
            "keep the weights in float32, and compute in low precision under torch.autocast",
        )


@register_training_rule(
    threshold=1e-7,
    source="float32 rounds what is 1e-7 of a number away; about 1e-3 of the weights is usual",
    needs=[TRAINED, _LEARNED, _SIZED],
)
def small_updates(training: Training, threshold: float) -> Iterator[Finding]:
    """the learning rate moves the weights

    The largest update of a weight, of all weights, is below the threshold at every step: ten
    thousand such updates, all in one direction, change a thousandth. Rates that rise or fall from
    the first half of the steps to the second (a warm-up, the end of a schedule) are left alone.
    Where gradients are below 1e-5 of the weights, no usual rate is large enough: what made them so
    small is to be mended, a clipping or a factor of the loss. It is no fault of a network that has
    converged, as one may have that was trained before.
    """
    weights = training.weights
    sizes = training.updates
    steady = len(sizes) // 2
    early, late = np.median(sizes[:steady]), np.median(sizes[-steady:])
    with np.errstate(all="ignore"):
        gradient = np.nanmax(weights.gradient / np.fmax(weights.rms, weights.usual))
    if max(sizes) >= threshold or not early <= 1.5 * late or not late <= 1.5 * early:
        return
    if not 0 < gradient < math.inf:
        return
    largest, faint = max(sizes), gradient < _FAINT
    steps = f"in none of {len(sizes)} updates does any weight change by more than "
    yield Finding(
        "note" if faint and not _untouched(training.trained[0]) else "warning",
        training.profiles[0].subject,
        f"{steps}{largest:.1g} of its size, though gradients arrive: {USUAL:g} is usual"
        if largest
        else f"{len(sizes)} updates left every weight as it is, though gradients arrive",
        f"look at what makes the gradients small, {gradient:.1g} of the weights at most: a loss "
        "that is multiplied by a small number, or a clipping far below the norm of the gradient; "
        "nothing, if the network has converged"
        if faint
        else f"multiply the learning rate by {USUAL / largest:.0e}"
        if largest
        else "raise the learning rate from 0; in bfloat16 or float16, where small updates are "
        "rounded away, keep the weights in float32",
    )


def _untouched(profile: Profile) -> bool:
    """Whether some parameter is as no update leaves it: the same number in all its entries.

    So biases start, and the gains of norms, or else weights at torch's default within its bounds.
    """
    rows, learns = profile.parameters, profile.parameter_gradients
    learns = learns.where((learns["second_moment"] > 0) & (learns["count"] > 1))
    flat = rows["name"][(rows["std"] == 0) & (rows["requires_grad"] == 1)]
    return bool(np.isin(flat, learns["name"]).any()) or all_default(profile)


@register_training_rule(
    threshold=0.1,
    source="about 1e-3 of the weights is usual; a tenth, in one direction, outweighs random "
    "weights of 100 inputs",
    needs=[TRAINED, _CHANGED],
    cause=True,
)
def large_updates(training: Training, threshold: float) -> Iterator[Finding]:
    """no update breaks what was sound

    A large update alone is no fault: small networks learn by them. It is one if a network that was
    sound at first has NaN, values of a hundred times their size, or a fault of the signal from that
    update on; or if updates are as large as the weights twice.
    """
    weights = training.weights
    sizes = np.where(weights.mapping & ~np.isnan(weights.sizes), weights.sizes, -1.0)
    large = np.flatnonzero((sizes >= threshold).any(axis=1))
    if training.sick or not len(large) or any(_nonfinite(training.trained[0])):
        return
    begun = int(large[0])
    number = int(np.argmax(sizes[begun]))
    size, since = float(sizes[begun, number]), training.trained[begun].step
    severity, harm = _harm(training, begun)
    replaced = int((sizes >= 1).any(axis=1).sum())
    if not harm and replaced > 1:
        severity, harm = "warning", f"{replaced} updates are as large as the weights"
    if not harm:
        return
    outside = training.trained[0].values
    read = np.sqrt(outside["second_moment"][outside["layer"] == 0]).max(initial=0.0)
    factor = 10 * USUAL / size if math.isfinite(size) else USUAL
    yield Finding(
        severity,
        weights.names[number],
        f"the network was sound at step {training.first}. The update before step {since} changed "
        f"this weight by {size:.3g} of its size ({USUAL:g} is usual), and {harm}: the learning "
        "rate breaks it, not the initialization",
        (f"normalize the input, whose rms is {read:.3g}; else " if read > DECADE else "")
        + f"start again with {factor:.1g} times the learning rate, warm it up, and clip gradients: "
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
    )


def _harm(training: Training, begun: int) -> tuple[Severity, str]:
    """How bad it is, and what broke first after a large update; empty where nothing did."""
    first = training.trained[0]
    rms = np.sqrt(first.maps["second_moment"])
    sound = dict(zip(first.maps["layer"], np.maximum(rms, 1.0), strict=True))
    late = {n: s for n, s in training.symptoms.items() if s.step >= training.trained[begun].step}
    for profile in training.trained[begun:]:
        if places := _nonfinite(profile):
            return "error", f"{places[0]} has NaN or infinite entries at step {profile.step}"
        maps = profile.maps
        rms = np.sqrt(maps["second_moment"])
        usual = np.array([sound.get(layer, math.inf) for layer in maps["layer"]])
        grown = np.flatnonzero(rms > DECADE**2 * usual)
        if len(grown):
            at = int(grown[0])
            return "error", (
                f"the values of {maps.places[at]} have an rms of {rms[at]:.3g} at step "
                f"{profile.step}, and had {usual[at]:.3g} at most"
            )
        found = [name for name, symptom in late.items() if symptom.step == profile.step]
        if found:
            error = any(late[name].severity == "error" for name in found)
            find = "find" if len(found) > 1 else "finds"
            told = f"{', '.join(found)} {find} a fault from step {profile.step} on"
            return "error" if error else "warning", told
    return "warning", ""


def _nonfinite(profile: Profile) -> list[str]:
    """The weights, or else the outputs of linear maps, that hold NaN or infinite entries."""
    for rows in (profile.parameters, profile.maps):
        bad = rows.where(rows["nonfinite"] > 0)
        if len(bad):
            return bad.places
    return []
