"""Names of a package that load their module on first use: importing the package stays cheap."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module


def attach(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """The ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names load on first use.

    The names are those that its ``__init__`` imports under their own name for a type checker::

        if TYPE_CHECKING:
            from initstats.moments.accumulator import Moments as Moments
        else:
            __getattr__, __dir__, __all__ = attach(__name__)
    """
    spec = vars(sys.modules[package])["__spec__"]
    home = {
        alias.asname: str(node.module)
        for node in ast.walk(ast.parse(spec.loader.get_data(spec.origin)))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }

    def load(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if home[name] == package:
            return import_module(f"{package}.{name}")
        value: object = getattr(import_module(home[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return load, names, sorted(home)
