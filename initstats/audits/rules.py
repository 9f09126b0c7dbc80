"""What may be wrong with an initialization, as its parameters show it.

A rule is a function of a `Reading` that yields findings; its name is told with them. The first line
of its docstring is true when all is well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from scipy import stats
from torch import nn

from initstats.audits.equal import equal_parameters
from initstats.audits.fans import wrong_fan
from initstats.audits.law import CHANCE
from initstats.audits.parameter import Drawn
from initstats.audits.reading import Reading, Rule
from initstats.audits.siblings import Siblings
from initstats.audits.unwritten import uninitialized
from initstats.diagnosis.rules import Finding
from initstats.plural import counted

LEANS = 0.5
"""A mean of so many standard deviations is no work of a short training; torch.rand has 1.7."""
DEFAULT = "1/sqrt(3 fan_in)"
APART = 1.5
"""A factor between the scales of two blocks that are meant to be alike."""


def equal_units(reading: Reading) -> Iterator[Finding]:
    """the units of a layer differ from each other"""
    for each in reading.parameters:
        same = each.kind == "weight" and each.law.name in ("constant", "ones")
        alike = each.units if same else each.repeated
        if each.units < 2 or not alike or each.name in reading.smooth:
            continue
        kept = each.units - alike
        what = "matrices" if each.kind == "other" else "units"
        # as many copies of each as a pixel shuffle has places
        shuffled = each.module.startswith("Conv") and each.units in (4 * kept, 9 * kept, 16 * kept)
        yield Finding(
            "note" if shuffled else "warning",
            each.name,
            f"{alike} of {each.units} {what} have the weights of another: they give the same, "
            "and get the same gradient",
            "draw each for itself" + "; a pixel shuffle may want them equal" * shuffled,
        )


def centred(reading: Reading) -> Iterator[Finding]:
    """weights are drawn around 0"""
    for each in reading.parameters:
        off = abs(each.mean) / each.std if each.std else 0.0
        summed = each.kind in ("weight", "embedding") and each.by_chance and each.count > 1
        if not summed or off < LEANS:
            continue
        if stats.t.sf(off * math.sqrt(each.count), each.count - 1) < reading.level:
            yield Finding(
                "warning",
                each.name,
                f"the entries lie around {each.mean:.3g}, not around 0, with a std of "
                f"{each.std:.3g}: all units say much the same",
                "draw with torch.randn or a uniform law from -a to a; torch.rand gives 0 to 1",
            )


def gains(reading: Reading) -> Iterator[Finding]:
    """the gains of torch's norms are not all drawn around 0"""
    found = [p for p in reading.parameters if p.kind == "gain" and hasattr(nn, p.module)]
    # those that end branches may have begun at zero, and have been trained since
    if found and all(p.law.name in CHANCE and not p.centre and p.count > 1 for p in found):
        yield Finding(
            "error",
            ", ".join(each.name for each in found),
            f"drawn around 0, with a std of {found[0].std:.3g}: a {found[0].module} multiplies "
            "what it has normalized by them",
            "\n".join(f'nn.init.ones_(model.get_parameter("{each.name}"))' for each in found),
        )


def out_of_line(reading: Reading) -> Iterator[Finding]:
    """no block is drawn from another law or scale than the others (of two, by a factor of 1.5)"""
    odd: dict[str, list[tuple[Drawn, Siblings, Finding]]] = defaultdict(list)
    for group in reading.groups:
        for each, finding in _odd(group, reading):
            odd[each.owner].append((each, group, finding))
    for block, found in odd.items():
        weights = [finding for each, _, finding in found if each.kind == "weight"]
        if len(found) > 2 and weights and all("as torch leaves" in f.evidence for f in weights):
            example = found[0][1].ordinary[0].owner
            yield Finding(
                "warning",
                ", ".join(each.name for each, *_ in found),
                f"{len(found)} parameters of this block are as torch leaves them, those of other "
                "blocks are not",
                f"initialize {block} as {example}",
            )
        else:
            yield from (finding for *_, finding in found)
    yield from _twos(reading)


def _odd(group: Siblings, reading: Reading) -> Iterator[tuple[Drawn, Finding]]:
    """What is out of line in a group of siblings."""
    others = f"the other {counted(len(group.members) - 1, 'block')} ({group.role})"
    strange = {each.name for each in group.strangers}
    for each in group.strangers:
        evidence = f"it is {_spelled(each)}, and {group.law} in {others}{_why(each, reading)}"
        remedy = f"initialize it as {group.ordinary[0].name}"
        yield each, Finding("warning", each.name, evidence, remedy)
    ends = (group.members[0], group.members[-1])
    for each, ratio in group.outliers:
        if each.name not in strange:
            # what begins or ends a plain chain is no block, and may need a scale of its own
            chain = group.role.startswith("*.") and group.role.count(".") == 1
            yield (
                each,
                Finding(
                    "note" if chain and each in ends else "warning",
                    each.name,
                    f"its std, {each.std:.4g}, is {ratio:.3g} times that of {others}"
                    f"{_why(each, reading)}",
                    f"initialize it as {group.ordinary[0].name}",
                ),
            )


def _spelled(each: Drawn) -> str:
    """A law in a sentence."""
    if each.law.name == "undecided":
        return f"drawn, with a std of {each.std:.3g}"
    return str(each.law)


def _why(each: Drawn, reading: Reading) -> str:
    """What a scale that is out of line is, where it is that of a usual mistake."""
    far = float(stats.norm.isf(reading.level / 2)) * each.error + 1e-4

    def fits(scale: float) -> bool:
        return bool(abs(math.log(each.std / scale)) < far)

    if not (each.fan_in > 0 and each.fan_out > 0 and each.std > 0):
        return ""
    if each.law.name == "uniform" and fits((3 * each.fan_in) ** -0.5):
        return f": as torch leaves a {each.module}"
    inwards = any(fits((gain / each.fan_in) ** 0.5) for gain in (1, 2))
    outwards = any(fits((gain / each.fan_out) ** 0.5) for gain in (1, 2))
    return ": as with fan_out for fan_in" * outwards * (not inwards)


def _twos(reading: Reading) -> Iterator[Finding]:
    """Pairs of blocks that differ, where no formula fits both."""
    for group, fits in zip(reading.groups, reading.fits, strict=True):
        members = [each for each in group.members if each.by_chance and each.std > 0]
        if len(members) != 2 or len(group.members) != 2 or fits or not group.law:
            continue
        small, large = sorted(members, key=lambda each: each.std)
        far = float(stats.norm.isf(reading.level / 2)) * math.hypot(small.error, large.error)
        if math.log(large.std / small.std) > far + math.log(APART):
            yield Finding(
                "warning",
                ", ".join(each.name for each in group.members),
                f"the stds of the two blocks are {group.members[0].std:.4g} and "
                f"{group.members[1].std:.4g} ({group.role})",
                "initialize both alike",
            )


def zeros(reading: Reading) -> Iterator[Finding]:
    """no weight of a sum is zero where it keeps what comes before it from learning"""
    yield from reading.stuck or ()
    for each in reading.parameters:
        if 0 < 2 * each.blank < each.units:
            yield Finding(
                "warning",
                each.name,
                f"{each.blank} of {each.units} matrices along the first axis are 0",
                "draw all of them",
            )
    blank = [p.name for p in reading.parameters if p.kind == "weight" and p.law.name == "zeros"]
    if blank and reading.stuck is None:
        yield Finding(
            "note",
            ", ".join(blank),
            f"{counted(len(blank), 'weight')} of zeros: at the end of a residual branch, in a head "
            "or in LoRA's B they are meant; elsewhere nothing before them learns",
            "give audit an input, and it says whether they get a gradient",
        )


def left_at_default(reading: Reading) -> Iterator[Finding]:
    """nothing within a model of an initialization of its own is left at torch's default"""
    weights = [each for each in reading.parameters if each.kind == "weight"]
    for module, rules in _by_module(reading).items():
        left = rules.get(DEFAULT, [])
        left = [each for each in left if each.law.name == "uniform"]
        own = sum(map(len, rules.values())) - len(left)
        untouched = all(_bias_at_default(reading, each) for each in left)
        few = own >= 4 * len(left)
        if not left or own < max(4, len(left)) or not (few or untouched):
            continue
        of_it = [each for each in weights if each.module == module]
        parts = {each.name.partition(".")[0] for each in of_it if each not in left}
        apart = parts.isdisjoint(each.name.partition(".")[0] for each in left)
        end = left in (of_it[: len(left)], of_it[-len(left) :])
        if (apart or end) and not (few and len(left) == 1):
            continue
        yield Finding(
            # one, or a half, or what begins or ends a model may be meant
            "warning" if few and len(left) > 1 else "note",
            ", ".join(each.name for each in left),
            f"uniform in +-1/sqrt(fan_in), as torch leaves a {module}; the other {own} {module} "
            "weights were drawn otherwise",
            "initialize them as the others, unless torch's default is meant",
        )


def _bias_at_default(reading: Reading, weight: Drawn) -> bool:
    """Whether a weight's bias is as torch draws it."""
    bias = reading.formulas.get(weight.name.removesuffix("weight") + "bias")
    return bias is not None and bias.text == DEFAULT


def strays(reading: Reading) -> Iterator[Finding]:
    """no entry is far beyond all others"""
    found = [each for each in reading.parameters if each.strays and each.law.name in CHANCE]
    if found:
        number = sum(each.strays for each in found)
        yield Finding(
            "note",
            ", ".join(each.name for each in found),
            f"{counted(number, 'entry lies', 'entries lie')} beyond 20 standard deviations: "
            "torch.nn.init.trunc_normal_ in float32 draws an entry at its bound now and then",
            "draw again where an entry is beyond 5 standard deviations, or let it be: it is rare",
        )


def padding_row(reading: Reading) -> Iterator[Finding]:
    """the row of an embedding that stands for padding is zero"""
    for each in reading.parameters:
        if each.padding > 0:
            yield Finding(
                "warning",
                each.name,
                f"the row of padding_idx has entries up to {each.padding:.3g}; it gets no "
                "gradient, and so stays what it was drawn to be",
                f"module.weight.data[module.padding_idx].zero_()  # {each.name}, after drawing",
            )


def rounded(reading: Reading) -> Iterator[Finding]:
    """parameters use the digits of their type"""
    found = [
        each
        for each in reading.parameters
        if each.law.rounded not in ("", each.dtype) and each.name not in reading.smooth
    ]
    if found:
        yield Finding(
            "note",
            ", ".join(each.name for each in found),
            f"{counted(len(found), 'parameter')} of {found[0].dtype} hold no more digits than "
            f"{found[0].law.rounded}: they were drawn, or kept, in that type",
            "draw in float32 and cast afterwards, where the digits matter",
        )


def depth_dependence(reading: Reading) -> Iterator[Finding]:
    """no scale grows or shrinks from the first block to the last"""
    for group in reading.groups:
        ends = [each.std for each in group.members if each.by_chance]
        if len(ends) < 4 or group.trend == 0:
            continue
        how = "change" if math.isnan(group.trend) else f"go with block^{group.trend:.2f}"
        yield Finding(
            "note",
            group.role,
            f"stds {how}, from {ends[0]:.3g} in the first block to {ends[-1]:.3g} in the last",
            "nothing, if that is meant",
        )


RULES: tuple[Rule, ...] = (
    uninitialized,
    equal_parameters,
    equal_units,
    centred,
    gains,
    out_of_line,
    wrong_fan,
    zeros,
    left_at_default,
    padding_row,
    strays,
    rounded,
    depth_dependence,
)
"""All rules, in the order in which they are told."""
OF_SCALE: tuple[Rule, ...] = (out_of_line, wrong_fan, left_at_default, depth_dependence)
"""Those that take a scale for wrong by what others have: a scheme may know it better."""


def _by_module(reading: Reading) -> dict[str, dict[str, list[Drawn]]]:
    """The weights, by the class of their module and the formula of their scale."""
    found: dict[str, dict[str, list[Drawn]]] = defaultdict(lambda: defaultdict(list))
    for group in reading.groups:
        for each in group.members:
            if each.kind == "weight" and each.by_chance:
                formula = reading.formulas.get(each.name)
                found[each.module][formula.text if formula else ""].append(each)
    return found
