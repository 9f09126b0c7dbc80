"""What a shell completes: the names of entries, read from the sources, as torch takes a second."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def inits() -> list[str]:
    """The names of the inits."""
    return _registered("register_init", "inits.py")


def activations() -> list[str]:
    """The names of the activations."""
    return _registered("register_activation", "activations/*.py")


def networks() -> list[str]:
    """The names of the networks."""
    return _registered("register_network", "networks/*.py")


def recipes() -> list[str]:
    """The names of the recipes."""
    from initstats.recipes import RECIPES

    return list(RECIPES)


def figures() -> list[str]:
    """The names of the figures."""
    return _registered("register_figure", "plots/*.py", "foundations/figures.py")


def schemes() -> list[str]:
    """The names of the published initializations, and of the one that is measured."""
    return [*_registered("register_scheme", "schemes/published.py"), "matched"]


def listed(names: Callable[[], list[str]]) -> Callable[[str], Iterator[str]]:
    """What completes the last name of a comma-separated list."""

    def complete(incomplete: str) -> Iterator[str]:
        front, comma, last = incomplete.rpartition(",")
        return (front + comma + name for name in names() if name.startswith(last))

    return complete


def _registered(decorator: str, *patterns: str) -> list[str]:
    """The functions that a decorator registers."""
    return [
        node.name
        for pattern in patterns
        for file in sorted(_PACKAGE.glob(pattern))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        for call in node.decorator_list
        if getattr(call.func if isinstance(call, ast.Call) else call, "id", "") == decorator
    ]
