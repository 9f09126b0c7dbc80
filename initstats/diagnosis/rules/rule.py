"""What a rule is, what it asks of a profile, how it lists places, and the catalogue of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from initstats.diagnosis.profile import Profile
from initstats.diagnosis.training import Training
from initstats.registry import Catalog, Need, meaning_of

Severity = Literal["error", "warning", "note"]
ENOUGH = 16
"""The fewest entries (samples times positions) that can show that a unit is constant.

A live rectifier is at zero for all of 16 entries once in 2**16.
"""
SHOWN = 4
"""The largest number of places that a finding lists in full."""


class Finding(NamedTuple):
    """A fault: how bad, where, how it shows in numbers, and what to do."""

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
        check: yields findings; none when all is well.
        symptom: whether it is about what becomes of the signal. What is found so, and was not at
            the first step of a training, is no fault of the initialization.
        drawn: whether it is about the law that weights are drawn from: it is checked at the first
            step alone, as updates leave no law.
        whole: whether it looks at a training as a whole, and not at each of its steps.
    """

    name: str
    meaning: str
    threshold: float
    source: str
    needs: Sequence[Need[Any]]
    check: Callable[[Any, float], Iterator[Finding]]
    symptom: bool = False
    drawn: bool = False
    whole: bool = False


RULES: Catalog[Rule] = Catalog("rule")
"""Every rule by name, in the order of a report."""


def register_rule(
    *,
    threshold: float,
    source: str,
    needs: Sequence[Need[Profile]] = (),
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
        symptom, drawn: what it is about, see `Rule`.

    Raises:
        ValueError: another module took the name.
    """

    def register(check: Check) -> Check:
        _add(Rule(*_named(check), threshold, source, tuple(needs), check, symptom, drawn))
        return check

    return register


def register_training_rule(
    *, threshold: float, source: str, needs: Sequence[Need[Training]] = ()
) -> Callable[[TrainingCheck], TrainingCheck]:
    """Register a function ``check(training, threshold)``, as `register_rule` does.

    It is given all steps of a training at once.
    """

    def register(check: TrainingCheck) -> TrainingCheck:
        _add(Rule(*_named(check), threshold, source, tuple(needs), check, whole=True))
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


DEEP = Need[Profile](
    lambda profile: len(profile.graph.path) > 3,
    "a trend needs at least four layers with weights, one after the other",
)
GRADIENTS = Need[Profile](
    lambda profile: len(profile.graph.path) > 3 and len(profile.value_gradients) > 3,
    "gradients were not measured (backward=True), or the model has fewer than four layers",
)
BACKWARD = Need[Profile](
    lambda profile: len(profile.value_gradients) > 0, "gradients were not measured (backward=True)"
)
WEIGHTS = Need[Profile](
    lambda profile: profile.probed and len(profile.parameters) > 0 and len(profile.maps) > 0,
    "no weights of linear maps were measured; measure the model itself, with weights=True",
)
BATCH = Need[Profile](
    lambda profile: bool((profile.maps["entries"] >= ENOUGH).any()),
    f"at least {ENOUGH} samples (times positions) are needed to know that a unit is constant",
)
OPERATIONS = Need[Profile](
    lambda profile: profile.probed, "a study's table does not say which operations follow which"
)
