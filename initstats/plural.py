"""Numbers with their nouns: one tensor, two tensors."""

from __future__ import annotations


def counted(count: int | float, one: str, several: str = "") -> str:
    """A whole number and what it counts, maybe with a verb.

    Args:
        one, several: what follows the number 1, and any other; by default with an s at its end.

    >>> counted(1, "tensor"), counted(1200, "entry", "entries"), counted(1, "is", "are")
    ('1 tensor', '1,200 entries', '1 is')
    """
    return f"{count:,.0f} {one if count == 1 else several or f'{one}s'}"
