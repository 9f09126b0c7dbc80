"""Remedies of a coordinate check: lines of plain torch, and how powers are written."""

from __future__ import annotations

import re
from collections.abc import Sequence


def init_lines(names: Sequence[str], off: float, base: int) -> str:
    """Lines that multiply initial weights; `width` is the model's."""
    return (
        "with torch.no_grad():\n"
        f"    for name in {_quoted(names)}:\n"
        f"        model.get_parameter(name).mul_({_factor('width', base, off)})"
    )


def rate_lines(names: Sequence[str], off: float, base: int) -> str:
    """Lines that make groups of an optimizer; `lr` is the rate of all others."""
    return (
        f"names = {_quoted(names)}\n"
        f"groups = [{{'params': [p], 'lr': lr * ({_factor('width', base, off)} if name in names "
        "else 1)} for name, p in model.named_parameters()]"
    )


def multiplier_lines(names: Sequence[str], off: float, base: int) -> str:
    """Lines that multiply the input of layers."""
    modules = [name.rpartition(".")[0] for name in names]
    return (
        f"for name in {_quoted(modules)}:  # or multiply the input in forward\n"
        "    layer = model.get_submodule(name)\n"
        "    layer.register_forward_pre_hook("
        f"lambda _, given: (given[0] * {_factor('width', base, off)},))"
    )


def depth_rate_lines(names: Sequence[str], off: float, base: int) -> str:
    """Lines that make groups of an optimizer, for the same parameters of every block."""
    patterns = sorted({pattern(name) for name in names})
    return (
        f"import fnmatch\n\npatterns = {_quoted(patterns)}\n"
        "deep = lambda name: any(fnmatch.fnmatch(name, pattern) for pattern in patterns)\n"
        f"groups = [{{'params': [p], 'lr': lr * ({_factor('depth', base, off)} if deep(name) else "
        "1)} for name, p in model.named_parameters()]"
    )


def pattern(name: str) -> str:
    """A name with a star for the number of its block.

    >>> pattern("blocks.3.mlp.0.weight")
    'blocks.*.mlp.0.weight'
    """
    return re.sub(r"(^|\.)\d+(?=\.)", r"\1*", name, count=1)


def snapped(value: float) -> float:
    """A power of a half, where it is near one."""
    near = round(value * 2) / 2
    return near + 0.0 if abs(value - near) <= 0.1 else round(value, 2)


def written(value: float, of: str = "n") -> str:
    """A power of the width n, or the depth L.

    >>> written(-0.5), written(0.0), written(0.27)
    ('n^-0.5', 'n^0', 'n^0.27')
    """
    return f"{of}^{snapped(value):g}"


def _factor(size: str, base: int, off: float) -> str:
    return f"({size} / {base}) ** {-snapped(off):g}"


def _quoted(names: Sequence[str]) -> str:
    return "[" + ", ".join(repr(name) for name in names) + "]"
