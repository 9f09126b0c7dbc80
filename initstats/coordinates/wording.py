"""A coordinate check in sentences: for those who know the parametrization, and for all others."""

from __future__ import annotations

from typing import Any

from initstats.coordinates.depth import BRANCH_SCALE, DEPTH_RATE
from initstats.coordinates.divergence import DIVERGED
from initstats.coordinates.parametrization import MUP, PARAMETRIZATIONS

PLAIN = {
    "sound": "Wider models of this kind learn as narrow ones do: a learning rate that suits a "
    "narrow model suits a wide one",
    "wide": "Models of this kind behave differently the wider they are: what was tuned on a narrow "
    "one, such as the learning rate, does not suit a wide one",
    "deep": "Wider models of this kind learn as narrow ones do, but deeper ones do not learn as "
    "shallow ones do",
}
"""What a check against muP means."""


def verdict(found: Any) -> str:
    """The verdict in a sentence, beside the parametrization."""
    title, best = (PARAMETRIZATIONS[name].title for name in (found.parametrization, found.nearest))
    state = _state(found)
    if state == "unchecked":
        return f"{found.network} was not judged: {found.findings['evidence'].iloc[0]}"
    but = _divergence(found)
    if state == "sound":
        return f"{found.network} scales as {title} has it{but}"
    if state == "deep":
        return f"{found.network} scales as {title} has it over width, and not over depth{but}"
    fits = f": {found.share} are those of {best}" if found.share else ""
    return f"{found.network} does not scale as {title} has it{fits}{but}"


def lead(found: Any) -> str:
    """The verdict for readers who know of no parametrization."""
    state = _state(found)
    known = state != "unchecked" and found.parametrization == MUP
    return PLAIN[state] + _divergence(found) if known else verdict(found)


def comparison(found: Any) -> str:
    """What the model was compared with, and what it is like."""
    own, best = (PARAMETRIZATIONS[name] for name in (found.parametrization, found.nearest))
    said = f"This model is compared with {own.title}: {own.meaning}."
    if not found.share:
        return said
    fits = f"{found.share} of this model are those of {best.title}"
    return f"{said} {fits}." if own is best else f"{said} {fits}: {best.meaning}."


def _state(found: Any) -> str:
    """What became of the check: unchecked, sound, deep (off over depth alone) or wide."""
    severity = found.findings["severity"].astype(str)
    if (severity == "unchecked").all():
        return "unchecked"
    bad = found.findings["rule"][severity.isin(["error", "warning"])]
    if not len(bad):
        return "sound"
    return "deep" if bad.isin([BRANCH_SCALE, DEPTH_RATE]).all() else "wide"


def _divergence(found: Any) -> str:
    told = found.findings["evidence"][found.findings["rule"] == DIVERGED]
    return "".join(f"; {evidence}" for evidence in told)
