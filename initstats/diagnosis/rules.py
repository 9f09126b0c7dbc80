"""The rules: each looks for one fault in a profile, says where it is and what to do about it.

Adding one is writing one decorated function.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from initstats.diagnosis.profile import Profile, numbers
from initstats.diagnosis.summary import DECADE, SAME

Severity = Literal["error", "warning", "note"]
ENOUGH = 16
"""Samples times positions: so many in a row leave a live rectifier at zero once in 2**16."""
SHOWN = 4
"""How many places a finding lists before it counts the rest."""


class Finding(NamedTuple):
    """A fault: how bad, where, how it shows in numbers, and what to do."""

    severity: Severity
    where: str
    evidence: str
    remedy: str


Check = Callable[[Profile, float], Iterator[Finding]]


class Need(NamedTuple):
    """What a rule asks of a profile, and what to say where it lacks it."""

    met: Callable[[Profile], bool]
    otherwise: str


@dataclass(frozen=True)
class Rule:
    """A fault to look for.

    Attributes:
        name: of the function that looks for it.
        meaning: what it is when all is well.
        threshold: beyond which it is a fault.
        source: where the fault, or the threshold, is described.
        needs: what the profile must hold.
        check: yields findings; none where all is well.
    """

    name: str
    meaning: str
    threshold: float
    source: str
    needs: Sequence[Need]
    check: Check

    def missing(self, profile: Profile) -> str:
        """Why it cannot be checked on a profile; empty where it can."""
        return next((need.otherwise for need in self.needs if not need.met(profile)), "")


RULES: dict[str, Rule] = {}
"""Every rule by name, in the order of a report."""


def rule(*, threshold: float, source: str, needs: Sequence[Need] = ()) -> Callable[[Check], Check]:
    """Register a rule; the docstring's first line says what holds when all is well.

    Raises:
        ValueError: the name is taken.
    """

    def register(check: Check) -> Check:
        name = check.__name__
        if name in RULES:
            raise ValueError(f"rule {name!r} is registered already: choose another name")
        meaning = (inspect.getdoc(check) or "").partition("\n")[0]
        RULES[name] = Rule(name, meaning, threshold, source, tuple(needs), check)
        return check

    return register


DEEP = Need(
    lambda profile: len(profile.linear) > 3,
    "a trend needs four layers with weights or more, one after the other",
)
GRADIENTS = Need(
    lambda profile: len(profile.linear_gradients) > 3,
    "gradients were not measured (backward=True), or the model has fewer than four layers",
)
ANY_GRADIENT = Need(
    lambda profile: not profile.gradients.empty, "gradients were not measured (backward=True)"
)
WEIGHTS = Need(
    lambda profile: profile.probed and not profile.weights.empty,
    "no weights of linear maps were measured; measure the model itself, with weights=True",
)
BATCH = Need(
    lambda profile: bool((profile.linear["entries"] >= ENOUGH).any()),
    f"it takes {ENOUGH} samples (times positions) to tell a unit that is constant",
)
OPERATIONS = Need(
    lambda profile: profile.probed, "a study's table does not say which operations follow which"
)


@rule(threshold=0, source="IEEE 754; whatever overflows once stays so")
def nonfinite(profile: Profile, threshold: float) -> Iterator[Finding]:
    """every entry is a finite number"""
    bad = profile.signal[profile.signal["nonfinite"] > threshold]
    layers = set(bad["layer"])
    first = [row for _, row in bad.iterrows() if not layers & set(numbers(row["inputs"]))]
    spread = [row for row in first if not _contained(profile, int(row["layer"]), layers)]
    if spread:
        row = spread[0]
        share = row["nonfinite"] / row["count"]
        reached = f"; {len(bad)} values hold some after it" if len(bad) > 1 else ""
        yield Finding(
            "error",
            row["place"],
            f"{row['nonfinite']:,.0f} of {row['count']:,.0f} entries ({share:.2%}) are NaN or "
            f"infinite, those it reads are finite{reached}",
            f"look at {row['op']} there: does it divide by zero, take the log or root of what is "
            "not positive, or leave the range of its dtype? Bound its input, add an eps, or "
            "compute it in float32",
        )
    elif first:
        yield Finding(
            "note",
            _places(pd.DataFrame(first)),
            "NaN or infinite entries that what reads them does not pass on, as of a mask",
            "nothing, if it is a mask on purpose",
        )


@rule(
    threshold=2 * math.log(DECADE),
    source="Schoenholz et al. 2017: q grows or shrinks by a factor a layer; He et al. 2015",
    needs=[DEEP],
)
def signal(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the length of the signal neither grows nor shrinks from layer to layer"""
    yield from _drift(profile, profile.linear, threshold, "signal", profile.linear["second_moment"])


@rule(
    threshold=2 * math.log(DECADE),
    source="Glorot & Bengio 2010; Schoenholz et al. 2017: chi_1, on sums of squares",
    needs=[GRADIENTS],
)
def gradient(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the gradient keeps its size on the way back to the input"""
    rows = profile.linear_gradients.iloc[::-1]
    yield from _drift(profile, rows, threshold, "gradient", rows["second_moment"] * rows["count"])


@rule(
    threshold=5.0,
    source="beyond the largest gain of a common activation (4.8: sigmoid's, where the mean is "
    "removed; Brock et al. 2021)",
    needs=[WEIGHTS],
)
def weight_scale(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no layer multiplies its input by more than any gain calls for"""
    scale = np.sqrt(profile.weights["sigma_w2"])
    large = profile.weights[scale > threshold]
    if len(large):
        worst = large.sort_values("sigma_w2").iloc[-1]
        yield Finding(
            "warning" if large["normalized"].all() else "error",
            _modules(large),
            f"std {_number(worst['std'])} at {worst['module']} multiplies the rms by "
            f"{_number(math.sqrt(worst['sigma_w2']))}; behind "
            f"{worst['activation'] or 'the input'} {worst['gain']:.3f} keeps it",
            _line(worst),
        )
    dead = profile.weights[scale == 0]
    if len(dead):
        yield Finding(
            "note",
            _modules(dead),
            "all weights are 0: nothing passes until they are trained",
            "nothing, if a residual branch starts at zero on purpose; else " + _line(dead.iloc[0]),
        )


@rule(
    threshold=3,
    source="torch.nn.Linear and Conv call kaiming_uniform_(a=sqrt(5)), std 1 / sqrt(3 fan_in)",
    needs=[WEIGHTS],
)
def default_init(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no run of layers is left at torch's default, which shrinks the signal in each"""
    weights = profile.weights
    bound = weights[["min", "max"]].abs().max(axis=1) * np.sqrt(weights["fan_in"])
    # of a uniform distribution: variance of the sample variance 4/5 of its square over n
    error = 4 * np.sqrt(0.8 / weights["count"])
    default = ((3 * weights["sigma_w2"] - 1).abs() < error) & (bound <= 1.0001) & (bound > 0.9)
    if not default.any():
        return
    run, longest = 0, 0
    for (_, row), hit in zip(weights.iterrows(), default, strict=True):
        run = run + 1 if hit and not row["normalized"] else 0
        longest = max(longest, run)
    first = weights[default].iloc[0]
    shrink = 1 / (math.sqrt(3) * float(np.median(weights.loc[default, "gain"])))
    yield Finding(
        "warning" if longest >= threshold else "note",
        _modules(weights[default]),
        f"uniform in +-1/sqrt(fan_in), as torch leaves them: each multiplies the rms by about "
        f"{shrink:.2f}; {longest} in a row have no normalization behind them",
        _line(first),
    )


@rule(
    threshold=4.0,
    source="He et al. 2015; THEORY: fan_out in a layer that is not square changes q by "
    "fan_in / fan_out",
    needs=[WEIGHTS],
)
def fan_mode(profile: Profile, threshold: float) -> Iterator[Finding]:
    """weights are scaled by the inputs that a unit sums, not by the outputs"""
    weights = profile.weights
    ratio = weights["fan_in"] / weights["fan_out"]
    gains = np.stack([np.ones(len(weights)), np.full(len(weights), 2.0), weights["gain"] ** 2])
    error = 4 * np.sqrt(2 / weights["count"].to_numpy()) + 0.01

    def fits(sigma2: pd.Series[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        return np.asarray((np.abs(sigma2.to_numpy() / gains - 1) < error).any(axis=0))

    by_out = fits(weights["sigma_w2"] / ratio) & ~fits(weights["sigma_w2"])
    wrong = weights[by_out & (np.maximum(ratio, 1 / ratio) >= 2)]
    wrong = wrong[~wrong["normalized"]]
    if len(wrong):
        change = (wrong["fan_in"] / wrong["fan_out"]).iloc[0]
        grave = np.maximum(ratio[wrong.index], 1 / ratio[wrong.index]).max() >= threshold
        yield Finding(
            "warning" if grave else "note",
            _modules(wrong),
            f"the variance is a gain over fan_out, {wrong['fan_out'].iloc[0]:.0f}, and not over "
            f"fan_in, {wrong['fan_in'].iloc[0]:.0f}: it multiplies the second moment by "
            f"{_number(change)} too much",
            _line(wrong.iloc[0]),
        )


@rule(
    threshold=0.3,
    source="Lu et al. 2020 (dying ReLU): the share of units that are constant over the batch",
    needs=[BATCH],
)
def dead_units(profile: Profile, threshold: float) -> Iterator[Finding]:
    """units differ from sample to sample"""
    values = profile.signal
    # looked up, not computed: a batch of one token type is no fault
    computed = (values["layer"] > 0) & ~values["op"].str.startswith("embedding")
    computed &= values["entries"] >= ENOUGH
    rows = values[computed & (values["dead_fraction"] > 0)]
    dead = rows.set_index("layer")["dead_fraction"]
    # where it begins: no input is as dead
    begins = [
        not any(dead.get(source, 0.0) >= row["dead_fraction"] for source in numbers(row["inputs"]))
        for _, row in rows.iterrows()
    ]
    rows = rows[np.array(begins, bool)]
    for severity, low, high in (("error", 0.999, 2.0), ("warning", threshold, 0.999)):
        found = rows[(rows["dead_fraction"] >= low) & (rows["dead_fraction"] < high)]
        if len(found):
            worst = found.sort_values("dead_fraction").iloc[-1]
            yield Finding(
                "error" if severity == "error" else "warning",
                _places(found),
                f"{worst['dead_fraction']:.0%} of the units of {worst['place']} have one value for "
                "every sample",
                "shift or shrink the biases before it, initialize its weights to the gain "
                f"({profile.activation_before(int(worst['layer'])) or 'relu'}: see "
                "initstats.gain), or use a leaky activation: nothing flows back through a unit "
                "that never changes",
            )


_BOUNDS = {"tanh": (0.0, 1.0), "sigmoid": (0.5, 0.5), "hardtanh": (0.0, 1.0), "softsign": (0, 1)}
"""Centre and half range of what saturates."""


@rule(
    threshold=0.7,
    source="Glorot & Bengio 2010; 0.39 is tanh's at unit pre-activations, 1 all at the bounds",
)
def saturation(profile: Profile, threshold: float) -> Iterator[Finding]:
    """bounded activations are not pressed against their bounds"""
    ops = profile.signal["op"].str.rstrip("_")
    rows = profile.signal[ops.isin(_BOUNDS.keys())]
    bounds = [_BOUNDS[op] for op in ops[rows.index]]
    centre, reach = np.array(bounds, float).reshape(-1, 2).T
    filled = (rows["std"] ** 2 + (rows["mean"] - centre) ** 2) / reach**2
    found = rows[filled > threshold]
    if len(found):
        worst = rows.loc[filled.sort_values().index[-1]]
        op = str(worst["op"]).rstrip("_")
        yield Finding(
            "warning",
            _places(found),
            f"mean square {filled.max():.2f} of the bound's at {worst['place']}: its derivative is "
            "near 0 for most entries",
            "make the pre-activation smaller: "
            f"std = {5 / 3 if op == 'tanh' else 1:.4g} / sqrt(fan_in) at most in the layer before "
            "it, or normalize what it reads",
        )


@rule(
    threshold=1.0,
    source="LeCun et al. 1998: inputs of a layer should average near zero",
)
def mean_shift(profile: Profile, threshold: float) -> Iterator[Finding]:
    """what layers read is not far to one side of zero"""
    read = {source for layer in profile.linear["layer"] for source in profile.inputs(int(layer))}
    rows = profile.signal[profile.signal["layer"].isin(read) | (profile.signal["layer"] == 0)]
    ratio = rows["mean"].abs() / rows["std"]
    found = rows[ratio > threshold]
    if len(found):
        worst = rows.loc[ratio[found.index].sort_values().index[-1]]
        yield Finding(
            "warning" if ratio[found.index].max() > 10 * threshold else "note",
            _places(found),
            f"mean {_number(worst['mean'])} against std {_number(worst['std'])} at "
            f"{worst['place']}: a layer mostly sees a constant",
            "subtract the mean: normalize the input, put a normalization before the layer, or "
            "use an activation that is negative for negative inputs",
        )


@rule(
    threshold=SAME,
    source="Schoenholz et al. 2017: in the ordered phase all correlations go to 1",
    needs=[BATCH],
)
def collapse(profile: Profile, threshold: float) -> Iterator[Finding]:
    """layers tell samples apart"""
    rows = profile.linear[profile.linear["nonfinite"] == 0]
    rows = rows[rows["entries"] >= ENOUGH]
    found = rows[rows["sample_correlation"] >= threshold]
    if len(found):
        many = len(found) >= max(3, len(rows) / 4)
        yield Finding(
            "warning" if many and rows.index[-1] in found.index else "note",
            _places(found),
            f"correlation of samples {found['sample_correlation'].iloc[-1]:.4f} at "
            f"{found['place'].iloc[-1]}, {len(found)} of {len(rows)} layers at {threshold} or more",
            "weights at the gain with zero biases, a residual or a normalization, or a rectifier "
            'fitted to the depth (activation "tailored_relu")',
        )


class _Format(NamedTuple):
    largest: float
    smallest: float


_FORMATS = {
    "float16": _Format(65504.0, 2.0**-14),
    "bfloat16": _Format(3.3895e38, 2.0**-126),
    "float8_e4m3fn": _Format(448.0, 2.0**-6),
}
"""Largest number and smallest normal one of the formats of low precision."""


@rule(
    threshold=0.5,
    source="Micikevicius et al. 2018, 2022: what is below a format's normal numbers loses digits, "
    "what is above overflows",
)
def low_precision(profile: Profile, threshold: float) -> Iterator[Finding]:
    """values fit the formats of low precision, in that half the entries are normal numbers"""
    rows = pd.concat([profile.signal, profile.gradients])
    reach = rows[["min", "max"]].abs().max(axis=1)
    # half the entries are within this of zero, zeros included
    middle = rows[["q25", "q75"]].abs().max(axis=1)
    used = set(rows["dtype"]) if profile.probed else set()
    told: dict[Severity, list[tuple[str, str]]] = {"warning": [], "note": []}
    for name, limits in _FORMATS.items():
        above = rows[reach > limits.largest]
        below = rows[(middle < limits.smallest) & (rows["zero_fraction"] < threshold)]
        if len(above) + len(below):
            count = f"in {name} {len(above)} values overflow and {len(below)} lose digits"
            place = _places(pd.concat([above, below]))
            told["warning" if name in used else "note"].append((place, count))
    for severity, lines in told.items():
        if lines:
            yield Finding(
                severity,
                lines[0][0],
                "; ".join(count for _, count in lines),
                "bfloat16 has float32's range; in float16 scale the loss (torch.amp.GradScaler); "
                "float8 needs a scale a tensor",
            )


@rule(
    threshold=10.0,
    source="Zhang et al. 2019 (Fixup); Radford et al. 2019: branches scaled by 1 / sqrt(2 blocks)",
    needs=[OPERATIONS],
)
def residual_growth(profile: Profile, threshold: float) -> Iterator[Finding]:
    """the residual stream does not grow with every block"""
    chain = _longest_chain(profile)
    if len(chain) < 3:
        return
    first, last = chain[0], chain[-1]
    growth = last["second_moment"] / first["second_moment"] if first["second_moment"] else 1.0
    if growth > threshold:
        yield Finding(
            "warning",
            f"{len(chain)} sums from {first['place']} to {last['place']}",
            f"the second moment grows {_number(growth)} times over {len(chain)} residual sums",
            f"scale the last layer of each branch by 1 / sqrt({len(chain)}) = "
            f"{1 / math.sqrt(len(chain)):.3f}, or start it at zero",
        )


@rule(
    threshold=0,
    source="Ioffe & Szegedy 2015: a batch normalization subtracts whatever the bias adds",
    needs=[WEIGHTS],
)
def useless_bias(profile: Profile, threshold: float) -> Iterator[Finding]:
    """no layer adds a bias that the next operation takes away"""
    biases = set(profile.rows.loc[profile.rows["tensor"] == "weight", "name"])
    useless = [
        any(row["op"] in ("batch_norm", "instance_norm") for row in profile.readers(layer))
        and f"{module}.bias" in biases
        for layer, module in profile.weights[["layer", "module"]].itertuples(index=False)
    ]
    if sum(useless) > threshold:
        yield Finding(
            "note",
            _modules(profile.weights[useless]),
            "a normalization of each channel follows at once, which subtracts the bias",
            "bias=False in these layers",
        )


def _drift(
    profile: Profile, rows: pd.DataFrame, threshold: float, what: str, size: pd.Series[float]
) -> Iterator[Finding]:
    """A trend of log `size` along the rows: mean step with its 95% interval, which leaves out 0."""
    if (lost := size == 0).any():
        place = rows["place"][lost].iloc[0]
        yield Finding(
            "error",
            place,
            f"the {what} is exactly 0 from {place} on",
            "initialize the layer before it",
        )
        return
    logs = np.log(size[np.isfinite(size)].to_numpy())
    steps = np.diff(logs)
    if len(steps) < 3:
        return
    mean, error = steps.mean(), steps.std(ddof=1) / math.sqrt(len(steps))
    half = float(stdtrit(len(steps) - 1, 0.975)) * error
    total = logs[-1] - logs[0]
    if abs(total) <= threshold or abs(mean) <= half:
        return
    low, high = (_number(math.exp((mean + sign * half) / 2)) for sign in (-1, 1))
    word = "explodes" if total > 0 else "vanishes"
    direction = "from the output back to the input" if what == "gradient" else "through the layers"
    yield Finding(
        "error" if abs(total) > 3 * threshold else "warning",
        f"{rows['place'].iloc[0]} to {rows['place'].iloc[-1]}",
        f"the {what} {word} {direction}: rms times {_number(math.exp(mean / 2))} a layer "
        f"({low} to {high}), {_number(math.exp(total / 2))} over {len(logs)}",
        _rescale(profile, math.exp(mean / 2)),
    )


def _rescale(profile: Profile, factor: float) -> str:
    if not profile.probed:
        return (
            f"weights {1 / factor:.4g} times as large: kaiming_normal(gain=...) with "
            "initstats.gain(activation).forward, or the init `matched`"
        )
    return (
        'initstats.reinitialize_(model, "matched", x), which gives each layer the gain of the '
        "activation behind it; or initstats.lsuv_(model, x); or a normalization between layers"
    )


def _contained(profile: Profile, layer: int, bad: set[int]) -> bool:
    """Whether a value is read, and nothing that reads it has the same fault."""
    pending, seen = [layer], {layer}
    while pending:
        readers = [int(row["layer"]) for row in profile.readers(pending.pop())]
        if not readers:
            return False
        new = {reader for reader in readers if reader in bad and reader not in seen}
        seen |= new
        pending += new
    return True


def _longest_chain(profile: Profile) -> list[pd.Series[Any]]:
    """The residual stream: the longest run of sums of two values, each of which adds to the last.

    A normalization in the stream begins a new one.
    """
    length: dict[int, list[int]] = {}
    sums = profile.signal[profile.signal["op"].isin(["add", "add_"])]
    for layer in sums["layer"]:
        sources = profile.inputs(int(layer))
        before = max((length.get(source, []) for source in sources), key=len, default=[])
        if len(sources) > 1:
            length[int(layer)] = [*before, int(layer)]
    longest = max(length.values(), key=len, default=[])
    return [row for layer in longest if (row := profile.row(layer)) is not None]


def _line(weight: pd.Series[Any]) -> str:
    """The line that initializes a layer so that it keeps the signal."""
    layer = f"model.get_submodule({weight['module']!r})"
    std = f"{weight['gain']:.4f} / math.sqrt({weight['fan_in']:.0f})"
    return f"nn.init.normal_({layer}.weight, std={std})"


def _modules(weights: pd.DataFrame) -> str:
    return _listed([str(name) for name in weights["module"]])


def _places(rows: pd.DataFrame) -> str:
    return _listed([str(place) for place in rows["place"]])


def _listed(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{len(names)} places: {', '.join(names[: SHOWN - 1])}, ... {names[-1]}"


def _number(value: float) -> str:
    return f"{value:.3g}"
