"""Modules of the user's own as source text, for a process that may not have their files.

A process may live through many runs, whose modules share names but not their content: what is
shipped with one run replaces what was shipped with the one before.
"""

from __future__ import annotations

import sys
import tokenize
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

from initstats.registry.catalog import forget_modules


@dataclass(frozen=True)
class Source:
    """The source of a module.

    Attributes:
        text: what Python reads.
        file: where it lay, for tracebacks.
        is_package: whether modules lie inside it.
    """

    text: str
    file: str
    is_package: bool = False


Sources = Mapping[str, Source]
"""Modules by name; a file that was imported by its path has that for a name."""


def sources_of(modules: Iterable[ModuleType]) -> Sources:
    """The sources of modules that Python read from text; others, as compiled ones, are left out.

    Raises:
        ValueError: a file is gone, or holds no text.
    """
    found = {}
    for module in modules:
        file = getattr(module, "__file__", None) or ""
        if file.endswith(".py"):
            try:
                with tokenize.open(file) as stream:
                    text = stream.read()
            except (OSError, SyntaxError, UnicodeDecodeError) as error:
                raise ValueError(f"cannot read {file} again, to send it to workers") from error
            found[module.__name__] = Source(text, file, hasattr(module, "__path__"))
    return found


def neighbours(names: Collection[str]) -> list[ModuleType]:
    """Modules that were imported, and all others that lie in the same folders or packages."""
    folders = {folder for name in names if (folder := _territory(name))}
    return [
        module
        for name, module in list(sys.modules.items())
        if name not in ("__main__", "__mp_main__")
        and (file := getattr(module, "__file__", None))
        and not folders.isdisjoint(Path(file).parents)
    ]


def _territory(name: str) -> Path | None:
    """The folder that a module is found in by its name."""
    module = sys.modules.get(name if name.endswith(".py") else name.partition(".")[0])
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    return Path(file).parent.parent if hasattr(module, "__path__") else Path(file).parent


class _Shipped(MetaPathFinder, ExecutionLoader):
    """Finds and loads what was shipped."""

    def __init__(self) -> None:
        self.sources: Sources = {}

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in self.sources else None

    def get_source(self, fullname: str) -> str:
        return self.sources[fullname].text

    def get_filename(self, fullname: str) -> str:
        return self.sources[fullname].file

    def is_package(self, fullname: str) -> bool:
        return self.sources[fullname].is_package


shipped = _Shipped()
"""What was shipped to this process."""


def receive(sources: Sources) -> None:
    """Let modules be imported from these sources, and forget those that came earlier."""
    if sources == shipped.sources:
        return
    stale = {*shipped.sources, *(name for name in sources if not _is_loaded(name, sources[name]))}
    for name in stale & sys.modules.keys():
        del sys.modules[name]
    forget_modules(stale)
    shipped.sources = sources
    if shipped not in sys.meta_path:
        sys.meta_path.insert(0, shipped)


def _is_loaded(name: str, source: Source) -> bool:
    """Whether a module was imported here already, from a file that says the same."""
    module = sys.modules.get(name)
    try:
        return module is not None and sources_of([module]).get(name, source).text == source.text
    except ValueError:
        return False
