"""What a rule is, what it asks of a profile, how it lists places, and the catalogue of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.sight import ENOUGH, Judged
from initstats.diagnosis.training import Training
from initstats.registry import Catalog, Need, meaning_of

Severity = Literal["error", "warning", "note", "healthy", "unchecked"]
SHOWN = 4
"""The largest number of places that a finding lists in full."""
SLOWER = "lower the learning rate, warm it up, or clip gradients"
"""The beginning of what to do about a fault that updates brought about."""


class Finding(NamedTuple):
    """A fault: how bad, where, how it shows in numbers, and what to do.

    A rule that holds may say by which numbers it does, as `healthy`; one that holds only because
    another tells of the cause is `unchecked`.
    """

    severity: Severity
    where: str
    evidence: str
    remedy: str


Check = Callable[[Profile, float], Iterator[Finding]]
TrainingCheck = Callable[[Training, float], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """A fault to look for.

    Attributes:
        name: the name of `check`.
        meaning: one line that is true when all is well.
        threshold: the value from which on it is a fault.
        source: the work that describes the fault, or the threshold.
        needs: what the profile, or the training, must hold.
        judges: what must be seen everywhere before the rule can be said to hold.
        check: yields findings; none when all is well.
        symptom: whether it is about what becomes of the signal. What is found so, and was not at
            the first step of a training, is no fault of the initialization.
        drawn: whether it is about the law that weights are drawn from: it is checked at the first
            step alone, as updates leave no law.
        whole: whether it looks at a training as a whole, and not at each of its steps.
        cause: whether it names what others see the consequences of: it is told before them.
    """

    name: str
    meaning: str
    threshold: float
    source: str
    needs: Sequence[Need[Any]]
    check: Callable[[Any, float], Iterator[Finding]]
    judges: Sequence[Judged] = ()
    symptom: bool = False
    drawn: bool = False
    whole: bool = False
    cause: bool = False


RULES: Catalog[Rule] = Catalog("rule")
"""Every rule by name, in the order of a report."""


def register_rule(
    *,
    threshold: float,
    source: str,
    needs: Sequence[Need[Profile]] = (),
    judges: Sequence[Judged] = ("values",),
    symptom: bool = False,
    drawn: bool = False,
) -> Callable[[Check], Check]:
    """Register a function ``check(profile, threshold)`` that yields a `Finding` for each fault.

    The function's name is the rule's, its docstring's first line says what holds when all is well::

        @register_rule(threshold=100, source="our own nets do not train beyond it")
        def small_values(profile, threshold):
            'No tensor holds values above 100.'
            for row in profile.signal.query("max > @threshold").itertuples():
                yield Finding("warning", row.place, f"it reaches {row.max:.3g}", "add a LayerNorm")

    Args:
        threshold: the value from which on it is a fault; the function is given it.
        source: the work, or the reason, that the threshold comes from; findings cite it.
        needs: what the profile must hold; the rule is unchecked where it does not.
        judges: `values` that carry the signal, `finite` for values also where all are zero,
            `gradients`, or `weights`: the rule is unchecked where some are NaN or infinite, or
            told apart by nothing, and it finds no fault in the rest.
        symptom, drawn: what it is about, see `Rule`.

    Raises:
        ValueError: another module took the name.
    """

    def register(check: Check) -> Check:
        rule = Rule(*_named(check), threshold, source, tuple(needs), check, tuple(judges))
        _add(replace(rule, symptom=symptom, drawn=drawn))
        return check

    return register


def register_training_rule(
    *, threshold: float, source: str, needs: Sequence[Need[Training]] = (), cause: bool = False
) -> Callable[[TrainingCheck], TrainingCheck]:
    """Register a function ``check(training, threshold)``, as `register_rule` does.

    It is given all steps of a training at once.

    Args:
        threshold, source, needs: as those of `register_rule`.
        cause: see `Rule`.
    """

    def register(check: TrainingCheck) -> TrainingCheck:
        _add(Rule(*_named(check), threshold, source, tuple(needs), check, whole=True, cause=cause))
        return check

    return register


def _named(check: Callable[[Any, float], Iterator[Finding]]) -> tuple[str, str]:
    return check.__name__, meaning_of(check)


def _add(rule: Rule) -> None:
    RULES.add_one(rule.name, rule, meaning=rule.meaning, module=rule.check.__module__)


def listed(places: Iterable[Any]) -> str:
    """Places, once each; of many the first three and the last."""
    names = list(dict.fromkeys(map(str, places)))
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{len(names)} places: {', '.join(names[: SHOWN - 1])}, ... {names[-1]}"


def shortened(where: str) -> str:
    """A finding's place, of which many places are as in `listed`.

    >>> shortened("a, b, c, d, e"), shortened("a, b")
    ('5 places: a, b, c, ... e', 'a, b')
    """
    return listed(where.split(", ")) if where.count(", ") >= SHOWN else where


DEEP = Need[Profile](
    lambda profile: len(profile.graph.path) > 3,
    "a trend needs at least four layers with weights, one after the other",
)
BACKWARD = Need[Profile](
    lambda profile: len(profile.value_gradients) + len(profile.parameter_gradients) > 0,
    "gradients were not measured: that takes backward=True, and a backward pass",
)
ARRIVED = Need[Profile](
    lambda profile: len(profile.value_gradients) > 0,
    "no gradient arrived at any value, only at weights",
)
OPERATIONS = Need[Profile](
    lambda profile: profile.probed, "a study's table does not say which operations follow which"
)
TRAINED = Need[Training](
    lambda training: training.profiles[0].probed, "a study's networks are not trained"
)
PARAMETERS = Need[Profile](
    lambda profile: profile.probed and len(profile.parameters) > 0,
    "weights were not measured: measure a model that has some, with weights=True",
)
MAPS = Need[Profile](
    lambda profile: len(profile.maps) > 0, "it has no linear map or convolution with weights"
)
BATCH = Need[Profile](
    lambda profile: bool((profile.values["entries"] >= ENOUGH).any()),
    f"at least {ENOUGH} samples (times positions) are needed to know that a unit is constant",
)
