"""What a figure or a rule needs to be there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Need(Generic[T]):
    """A condition on what a figure is drawn from, or a rule looks at.

    Attributes:
        met: whether it holds.
        otherwise: what to say where it does not.
    """

    met: Callable[[T], bool]
    otherwise: str


def missing(needs: Iterable[Need[T]], subject: T) -> str:
    """What is said of the first need that a subject does not meet; empty where it meets all."""
    return next((need.otherwise for need in needs if not need.met(subject)), "")
