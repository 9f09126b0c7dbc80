"""Names of a package that load their module on first use: importing the package stays cheap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def attach(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """The ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names load on first use.

    A type checker does not see these names: import them under ``if TYPE_CHECKING:`` as well::

        if TYPE_CHECKING:
            from initstats.moments.accumulator import Moments as Moments
        else:
            __getattr__, __dir__, __all__ = attach(__name__, {"accumulator": "Moments"})

    Args:
        package: the ``__name__`` of the package.
        homes: its modules, each with the names that it lends to the package, separated by spaces;
            the name of the module itself is the module.
    """
    home = {name: module for module, names in homes.items() for name in names.split()}

    def load(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{home[name]}")
        value = module if name == home[name] else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return load, names, sorted(home)
