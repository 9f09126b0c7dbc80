"""Rules about weights: their scale, and the fan that it was computed from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.diagnosis.graph import SCALING
from initstats.diagnosis.profile import Profile
from initstats.diagnosis.rules.causes import oversized
from initstats.diagnosis.rules.drawn import Drawn
from initstats.diagnosis.rules.gates import only_gates
from initstats.diagnosis.rules.loops import over
from initstats.diagnosis.rules.remedies import drawn_anew, drawn_gain, unbiased
from initstats.diagnosis.rules.rule import (
    MAPS,
    OPERATIONS,
    PARAMETERS,
    RULES,
    Finding,
    listed,
    register_rule,
)
from initstats.diagnosis.verdicts import DECADE
from initstats.probe.kinds import LOOKUPS, NORMALIZATIONS, words

Array = NDArray[Any]
_AROUND = 0.1  # what another batch makes of an output's std of 1, at most


@register_rule(
    threshold=5.0,
    source="more than the largest gain of a common activation (4.8 for sigmoid without its mean; "
    "Brock et al. 2021)",
    needs=[PARAMETERS, MAPS],
    symptom=True,
)
def weight_scale(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no layer multiplies its input by more than any gain calls for"""
    found = oversized(profile)
    if not len(found):
        return
    layers = [int(layer) for layer in found["layer"]]
    worst = int(np.argmax(found["sigma_w2"]))
    yield Finding(
        "warning" if set(layers) <= profile.graph.normalized else "error",
        listed(found["name"]),
        f"the weights at {found['name'][worst]} multiply the rms by "
        f"{math.sqrt(found['sigma_w2'][worst]):.3g}; a factor of "
        f"{profile.gain(layers[worst]):.3f} would keep the signal",
        "\n".join(filter(None, [drawn_anew(profile, layers), unbiased(profile, layers, size=1.0)]))
        or "scale the weights down to the gain of the activation that they read",
    )


@register_rule(
    threshold=0,
    source="Hu et al. 2022 (LoRA): of two factors one starts at zero, not both",
    needs=[OPERATIONS],
    judges=["finite"],
)
def zero_weights(profile: Profile, threshold: float) -> Iterator[Finding]:
    """weights that are zero get a gradient, now or as soon as others have moved"""
    zeros = profile.zeros
    stops = {layer: zeros.stops(layer) for layer in zeros.stuck}
    shut = [layer for layer, stopping in stops.items() if stopping]
    waiting = [layer for layer in zeros.stuck if layer not in shut and zeros.waits(layer)]
    if zeros.joint:
        yield _jointly_zero(profile, [layer for layer in zeros.stuck if layer not in shut])
    elif len(zeros.stuck) > threshold and not shut:
        yield Finding(
            "error",
            listed(_zero_names(profile, zeros.stuck)),
            "these weights are all 0, one after the other: each multiplies the other's gradient "
            "by 0, so that none ever changes",
            # of two, the second may stay at zero
            _from_zero(profile, waiting) or "start one of them at a small number, not both at 0",
        )
    if shut:
        stopping = profile.along(sorted({layer for layers in stops.values() for layer in layers}))
        several, op = len(zeros.stuck) > 1, stopping["op"][0]
        subject, it = ("these weights are", "they") if several else ("this weight is", "it")
        gives = "give" if len(shut) > 1 else "gives"
        yield Finding(
            "error",
            listed(_zero_names(profile, zeros.stuck)),
            f"{subject} 0 in all entries, so that {listed(profile.along(shut).places)} {gives} 0 "
            f"for every input; {op} has slope 0 there, and no gradient comes back through "
            f"{listed(stopping.places)}: {it} never {'change' if several else 'changes'}",
            _from_zero(profile, [*waiting, *shut]) or "start them at small random numbers",
        )
    if moving := [layer for layer in sorted(zeros.moving) if profile.sight.shuts(layer)]:
        yield _delayed(profile, moving)


def _jointly_zero(profile: Profile, stuck: list[int]) -> Finding:
    """Rows of weights that are zero, and so is what their output is multiplied by.

    Args:
        stuck: whole weights that never change, for which there may be another reason.
    """
    zeros = profile.zeros
    places = profile.along([*zeros.joint]).places
    cut = {str(profile.own(origin)["name"][0]): None for origin in zeros.joint.values()}
    remedy = _from_zero(profile, stuck or sorted(zeros.sources & {*zeros.joint.values()}))
    return Finding(
        "error",
        listed([*dict.fromkeys([*_zero_names(profile, stuck), *cut] if stuck else cut)]),
        f"of {listed(cut)} the rows that make {listed(places)} are 0, and so is what those are "
        "multiplied by: each multiplies the other's gradient by 0, so that neither ever changes",
        remedy or "start one of the two factors at small random numbers, not both at 0",
    )


def _delayed(profile: Profile, layers: list[int]) -> Finding:
    """Zero weights with no way round them, at which a gradient arrives nevertheless."""
    subject, it = ("these weights are", "them") if len(layers) > 1 else ("this weight is", "it")
    arrives = f"a gradient reaches {it}, and the first update ends this"
    if not len(profile.value_gradients):
        arrives = f"backward=True shows whether a gradient reaches {it}"
    return Finding(
        "note",
        listed(_zero_names(profile, layers)),
        f"{subject} 0 in all entries, and no shortcut leads around {it}: the signal is the same "
        f"for every sample from there on; {arrives}",
        _from_zero(profile, layers) or "start them at small random numbers",
    )


def _zero_names(profile: Profile, layers: list[int]) -> list[str]:
    """The parameters of zero, without the biases behind weights; places where none is known."""
    names = []
    for layer in layers:
        own = profile.own(layer)
        own = own.where(own["second_moment"] == 0)
        summed = own["name"][own["fan_in"] > 0]
        names += [str(name) for name in (summed if len(summed) else own["name"][:1])]
    return names or profile.along(layers).places


def _from_zero(profile: Profile, layers: list[int]) -> str:
    """Draw zero weights with the gain of what they read; a norm's start at 1."""
    lines: dict[str, list[str]] = {}
    for layer in layers:
        own = profile.own(layer)
        own = own.where(own["second_moment"] == 0)
        op = profile.graph.ops[layer]
        for name, fan_in in zip(own["name"], own["fan_in"], strict=True):
            if fan_in > 0:
                std = f"std={drawn_gain(profile, layer):.5g} / math.sqrt({fan_in:.0f})"
                line = f"nn.init.normal_(model.get_parameter({{}}), {std})"
                lines.setdefault(line, []).append(str(name))
        if op in LOOKUPS and len(own):
            line = "nn.init.normal_(model.get_parameter({}))"
            lines.setdefault(line, []).append(str(own["name"][0]))
        elif op in NORMALIZATIONS | SCALING and len(own):  # the weight comes before the bias
            line = "nn.init.ones_(model.get_parameter({}))"
            lines.setdefault(line, []).append(str(own["name"][0]))
    return "\n".join(over(names, line) for line, names in lines.items())


@register_rule(
    threshold=DECADE**2,
    source="torch.nn.Linear and Conv call kaiming_uniform_(a=sqrt(5)), std 1 / sqrt(3 fan_in)",
    needs=[PARAMETERS, MAPS],
    judges=["weights"],
    drawn=True,
)
def default_init(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no run of layers is left at torch's default, which shrinks the signal in each"""
    drawn = Drawn(profile)
    default = drawn.default
    if not default.any():
        return
    layers = [int(layer) for layer in drawn.layers[default]]
    first, last, length = _longest_run(profile, {*layers})
    ratio = 1 / (math.sqrt(3) * float(np.median([drawn_gain(profile, n) for n in layers])))
    factor = max(profile.factor(layer) for layer in layers)
    times = f", the factor of {factor:.4g} that follows included" if factor > 1 else ""
    left = _left(profile, first, last)
    measured = (
        f"; over {length} layers in a row without a normalization, the differences between "
        f"samples become {left:.2g} times as large"
    )
    yield Finding(
        "warning" if left * threshold < 1 or ratio > RULES["weight_scale"].threshold else "note",
        listed(drawn.modules[default]),
        "the weights are uniform in +-1/sqrt(fan_in), as torch leaves them: each layer multiplies "
        f"the rms by about {ratio:.2f}{times}"
        + (measured if length > 1 and math.isfinite(left) else ""),
        drawn_anew(profile, layers),
    )


def _spread(profile: Profile, layer: int | None) -> float:
    """The rms of a value without the mean of each unit over the samples."""
    if layer is None:
        return math.nan
    row = profile.along([layer])
    return float(np.hypot(row["unit_std_mean"][0], row["unit_std_std"][0])) or math.nan


@register_rule(
    threshold=4.0,
    source="He et al. 2015; THEORY: fan_out in a layer that is not square changes q by "
    "fan_in / fan_out",
    needs=[PARAMETERS, MAPS],
    judges=["weights"],
    drawn=True,
)
def fan_mode(profile: Profile, threshold: float) -> Iterator[Finding]:
    """weights are scaled by the inputs that a unit sums, not by the outputs"""
    drawn = Drawn(profile)
    by_out = drawn.sigma_w2 / drawn.ratio
    uneven = np.maximum(drawn.ratio, 1 / drawn.ratio)
    # orthogonal weights have exactly the norm of their gain, and keep that of vectors
    random = np.abs(by_out - np.round(by_out)) > 1e-5 * by_out
    wrong = drawn.fits(by_out) & ~drawn.fits(drawn.sigma_w2) & ~drawn.near_default
    wrong &= random & drawn.fresh & (uneven >= 2)
    wrong &= ~np.isin(drawn.layers, [*profile.graph.normalized])
    # weights may be large for the sake of a small input, as a repair makes them
    if all(_made_good(profile, int(layer)) for layer in drawn.layers[wrong]):
        return
    wrong &= ~np.isin(drawn.layers, [*_fitted(profile)])
    for number in np.flatnonzero(wrong):
        wrong[number] = _shows(profile, int(drawn.layers[number]), float(drawn.ratio[number]))
    if not wrong.any():
        return
    gates = np.array([only_gates(profile, int(layer)) for layer in drawn.layers])
    for chosen, aside in ((wrong & ~gates, ""), (wrong & gates, "; only gates are made of it")):
        if chosen.any():
            fan_in, ratio = drawn.fan_in[chosen][0], drawn.ratio[chosen][0]
            yield Finding(
                "warning" if uneven[chosen].max() >= threshold and not aside else "note",
                listed(drawn.modules[chosen]),
                f"the variance was computed with fan_out, {fan_in / ratio:.0f}, instead of fan_in, "
                f"{fan_in:.0f}: the second moment becomes {ratio:.3g} times what it should be"
                + aside,
                drawn_anew(profile, [int(layer) for layer in drawn.layers[chosen]]),
            )


def _shows(profile: Profile, layer: int, ratio: float) -> bool:
    """Whether the output of a linear map is as far off as the ratio of its fans says."""
    if profile.graph.source(layer) is None:
        return True
    with np.errstate(all="ignore"):
        off = np.log(profile.along([layer])["second_moment"][0] / _kept(profile, layer))
    return bool(not np.isfinite(off) or 4 * off * np.sign(math.log(ratio)) > abs(math.log(ratio)))


def _made_good(profile: Profile, layer: int) -> bool:
    """Whether a linear map gives an output of usual size though what it reads is far from it."""
    made, kept = profile.along([layer])["second_moment"][0], _kept(profile, layer)
    return bool(0.5 < made < 2 and not 0.5 < kept < 2)


def _kept(profile: Profile, layer: int) -> float:
    """The second moment that a linear map would give with its gain."""
    source = profile.graph.source(layer)
    read = 1.0 if source is None else float(profile.along([source])["second_moment"][0])
    return profile.gain(layer) ** 2 * read


def _fitted(profile: Profile) -> set[int]:
    """The linear maps whose weights were scaled until their output had std 1, as by LSUV.

    What is needed for that may be any scale. One output has that std by chance; most have not.
    """
    maps = profile.maps
    factors = np.array([profile.factor(int(layer)) for layer in maps["layer"]], float)
    fitted = np.abs(maps["std"] * factors - 1) < _AROUND
    return (
        {int(layer) for layer in maps["layer"][fitted]} if 2 * fitted.sum() > len(maps) else set()
    )


def shrinking(profile: Profile) -> set[int]:
    """The linear maps at torch's default, if they are many enough in a row to be a fault."""
    if not (profile.probed and len(profile.parameters) and len(profile.maps)):
        return set()
    drawn = Drawn(profile)
    layers = {int(layer) for layer in drawn.layers[drawn.default]}
    if not layers:
        return set()
    first, last, _ = _longest_run(profile, layers)
    fault = _left(profile, first, last) * RULES["default_init"].threshold < 1
    return layers if fault else set()


def _left(profile: Profile, first: int, last: int) -> float:
    """How many times as large the spread over samples is behind a run as before it."""
    return _spread(profile, last) / _spread(profile, profile.graph.source(first))


def _longest_run(profile: Profile, layers: set[int]) -> tuple[int, int, int]:
    """The first and the last of the most linear maps that are one behind another, and how many.

    Between them is no other, no norm and no shortcut.
    """
    graph = profile.graph
    ends = graph.normalized | graph.normalizations | {block.layer for block in graph.blocks}
    run: dict[int, tuple[int, int, int]] = {}  # how many, the first, the last
    for layer, inputs in graph.inputs.items():
        count, first, last = max((run[source] for source in inputs), default=(0, -1, -1))
        if layer in graph.linear:
            started = (count + 1, first if count else layer, layer)
            count, first, last = started if layer in layers else (0, -1, -1)
        run[layer] = (0, -1, -1) if layer in ends else (count, first, last)
    count, first, last = max(run.values(), default=(0, -1, -1))
    alone = min(layers)
    return (first, last, count) if count else (alone, alone, 1)


@register_rule(
    threshold=DECADE,
    source="Bengio et al. 1994: a state fades by the factor of its weights with every step",
    needs=[PARAMETERS],
    judges=["weights"],
    drawn=True,
)
def lost_state(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no plain recurrent operation multiplies its input, or its state, by nearly nothing"""
    lines: dict[str, list[str]] = {}
    sizes: dict[str, float] = {}
    for layer in (n for n, op in profile.graph.ops.items() if op.partition("[")[0] in _PLAIN):
        own = profile.own(layer)
        for name, fan_in, square in zip(
            own["name"], own["fan_in"], own["second_moment"], strict=True
        ):
            if fan_in > 0 and 0 < fan_in * square < threshold**-2:
                sizes[str(name)] = math.sqrt(fan_in * square)
                line = (
                    f"nn.init.normal_(model.get_parameter({{}}), std=1 / math.sqrt({fan_in:.0f}))"
                )
                lines.setdefault(line, []).append(str(name))
    if sizes:
        name, size = next(iter(sizes.items()))
        yield Finding(
            "note",
            listed(sizes),
            f"{name} multiplies the rms of the input, or of the state, by {size:.2g}: nothing but "
            "these weights carries it from step to step",
            "\n".join(over(names, line) for line, names in lines.items()),
        )


_PLAIN = words("rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell")


@register_rule(
    threshold=0,
    source="Ioffe & Szegedy 2015: a batch normalization subtracts whatever the bias adds",
    needs=[PARAMETERS, MAPS],
    judges=[],
)
def useless_bias(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no layer adds a bias that the next operation takes away"""
    graph, biases = profile.graph, {str(name) for name in profile.parameters["name"]}
    maps = profile.maps
    useless = [
        str(name)
        for layer, name in zip(maps["layer"], maps["name"], strict=True)
        if f"{name}.bias" in biases
        and any(graph.ops[r] in ("batch_norm", "instance_norm") for r in graph.readers[layer])
    ]
    if len(useless) > threshold:
        yield Finding(
            "note",
            listed(useless),
            "a normalization of each channel follows, which subtracts the bias",
            "set bias=False in these layers",
        )
