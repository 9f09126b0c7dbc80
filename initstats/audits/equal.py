"""Parameters that are copies of another."""

from __future__ import annotations

from collections.abc import Iterator

from initstats.audits.parameter import Drawn
from initstats.audits.reading import Reading
from initstats.diagnosis.rules import Finding


def equal_parameters(reading: Reading) -> Iterator[Finding]:
    """no two parameters that were drawn are equal"""
    held = {each.name: each for each in reading.parameters}
    for names in reading.equal:
        kept = [name for name in names if not held[name].trained]
        remedy = "draw each anew, as with model.apply(initialize) after the copies are made"
        why = ": copies of a module start as one"
        if tied := _to_tie([held[name] for name in names]):
            remedy, why = tied, ", and part as soon as they are trained"
        elif kept:
            remedy += ", unless they are copies on purpose, as a target network is"
        yield Finding(
            "note" if kept and len(kept) < len(names) else "warning",
            ", ".join(names),
            f"{len(names)} parameters hold the same numbers, in memory of their own{why}",
            remedy,
        )


def _to_tie(equal: list[Drawn]) -> str:
    """Lines that tie equal parameters to an embedding; empty where there is none among them.

    An embedding, and a head or another embedding over the same vocabulary, are copied to be one.
    """
    kinds = [each.kind for each in equal]
    if "embedding" not in kinds or not {*kinds} <= {"embedding", "weight"}:
        return ""
    first = equal[kinds.index("embedding")]
    lines = [
        f"{_attribute(each.name)} = {_attribute(first.name)}" for each in equal if each != first
    ]
    return "\n".join(lines) + "  # to tie them; else draw each anew"


def _attribute(name: str) -> str:
    """A parameter as an attribute of its module, which can be set."""
    module, _, own = name.rpartition(".")
    return f'model.get_submodule("{module}").{own}' if module else f"model.{own}"
