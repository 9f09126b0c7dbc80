"""Options that hold lists, and functions by name."""

from __future__ import annotations

from typing import Any


def listed(values: list[str] | None, numbers: str | None = None) -> list[Any] | int | None:
    """The items of an option given once or more, each comma-separated.

    `numbers` names an option whose items are whole numbers; a single seed is how many.
    """
    from initstats.registry import split_names

    if values is None:
        return None
    items: list[Any] = [item for value in values for item in split_names(value)]
    if numbers:
        for index, item in enumerate(items):
            try:
                items[index] = int(item)
            except ValueError:
                raise ValueError(f"{numbers}: {item!r} is not a whole number") from None
    return items[0] if numbers == "seeds" and len(items) == 1 else items


def named_function(path: str) -> Any:
    """The function that `module:function` names; the module may be in the working directory."""
    from initstats.sweep import load_plugins

    module, _, name = path.partition(":")
    (loaded,) = load_plugins([module])
    found = getattr(loaded, name, None)
    if found is None:
        raise ValueError(f"module {module!r} has no function {name!r}")
    return found
