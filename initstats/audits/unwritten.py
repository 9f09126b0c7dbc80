"""Parameters that hold no numbers, or some that nobody drew."""

from __future__ import annotations

from collections.abc import Iterator

from initstats.audits.parameter import Drawn
from initstats.audits.reading import Reading
from initstats.diagnosis.rules import Finding
from initstats.plural import counted

HUGE = 1e4
"""The std of entries that nobody draws."""


def uninitialized(reading: Reading) -> Iterator[Finding]:
    """every parameter holds numbers that somebody may have drawn"""
    away = [each.name for each in reading.parameters if each.law.name == "empty"]
    if away:
        holds = counted(len(away), "parameter holds", "parameters hold")
        yield Finding(
            "note",
            ", ".join(away),
            f"{holds} no numbers: on the meta device, or lazy",
            "make the model with its numbers first: on a device, and run once where it is lazy",
        )
    for each in reading.parameters:
        evidence = ""
        if each.law.name == "not finite":
            evidence = "some entries are NaN or infinite"
        elif each.tiny > 0.05:
            evidence = (
                f"{each.tiny:.0%} of the entries are below the smallest number that {each.dtype} "
                "holds with all digits"
            )
        elif each.std > HUGE and each.law.name not in ("constant", "identity"):
            evidence = f"the entries have a std of {each.std:.2g}"
        if evidence:
            yield Finding(
                "error",
                each.name,
                f"{evidence}: memory that nobody has written to looks like that",
                _anew(each, reading),
            )


def _anew(each: Drawn, reading: Reading) -> str:
    """How to initialize what holds no numbers: as others of its role, or as is usual."""
    group = next(group for group in reading.groups if each in group.members)
    usual = {"gain": ("ones", "ones_"), "bias": ("zeros", "zeros_")}
    law, init = usual.get(each.kind, ("", ""))
    fine = (p for p in group.members if p.name != each.name and _holds(p))
    other = next(fine, None)
    if other and other.law.name != law:
        return f"initialize it as {other.name}"
    if init:
        return f'nn.init.{init}(model.get_parameter("{each.name}"))'
    return f'nn.init.normal_(model.get_parameter("{each.name}"), std=0.02)  # or its own law'


def _holds(each: Drawn) -> bool:
    """Whether a parameter holds numbers that somebody may have drawn."""
    return each.law.name not in ("not finite", "empty") and each.std <= HUGE and each.tiny <= 0.05
