"""Entries that cross to another process by their name, and the modules that define them."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

from initstats.registry.catalog import Catalog
from initstats.registry.shipped import shipped
from initstats.registry.spelling import Value
from initstats.registry.staying import staying

T = TypeVar("T")


class Entry:
    """A frozen dataclass that a catalogue holds, and that crosses to another process by its name.

    Attributes:
        name: its canonical spelling.
        module: the module that defines its family; empty where it was made of a bare callable.
    """

    catalog: ClassVar[Catalog[Any]]
    name: str
    module: str

    @property
    def parameters(self) -> dict[str, Value]:
        """All its parameters, defaults filled in; none under a name of the user's own."""
        known = self.module and self.name.partition("(")[0] in self.catalog
        return self.catalog.parse(self.name)[1] if known else {}

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        noun = self.catalog.noun
        check_importable(noun, self.name, self.module)
        if self.module:
            return _recall, (type(self), self.name, self.module)
        kind, state = self.by_value
        try:
            pickle.dumps(state)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise pickle.PicklingError(
                f"{noun} {self.name!r} cannot be sent to another process: register it in a module "
                f"that can be imported, with @register_{noun}(), or use workers=1"
            ) from error
        return kind, state

    @property
    def by_value(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What makes it anew where no module defines it: a function and its arguments."""
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return type(self), tuple("" if name == "module" else getattr(self, name) for name in names)


@dataclass(frozen=True)
class Need(Generic[T]):
    """A condition on what a figure is drawn from or a rule looks at, and what to say otherwise."""

    met: Callable[[T], bool]
    otherwise: str


def missing(needs: Iterable[Need[T]], subject: T) -> str:
    """What is said of the first need that a subject does not meet; empty where it meets all."""
    return next((need.otherwise for need in needs if not need.met(subject)), "")


def check_importable(noun: str, name: str, module: str) -> None:
    """Raise a PicklingError for what another process cannot import: what a notebook defines."""
    if module == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise pickle.PicklingError(
            f"{noun} {name!r} is defined in a notebook or at a prompt, which other processes "
            "cannot read: put it into a module (a file.py) and import that, or use workers=1"
        )


def _recall(kind: type[Entry], name: str, module: str) -> Any:
    if name.partition("(")[0] not in kind.catalog:
        import_module(module)
    return kind.catalog[name]


@staying()
def import_module(name: str) -> ModuleType:
    """Import a module by its name, or a file that ends in .py by its path, once.

    A file's module is named by its absolute path, so that files of one name are told apart, and
    another process finds the file by the name of its module. Its folder is added at the end of the
    search path, for what it imports itself; and the working directory, for a module that is nowhere
    else.

    Raises:
        ImportError, OSError, SyntaxError: there is no such module or file, or it is no Python.
    """
    if name in shipped.sources and name.endswith(".py"):
        return sys.modules.get(name) or _run(name, shipped.find_spec(name))
    if not name.endswith(".py"):
        return _by_name(name)
    path = Path(name).resolve()
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise ImportError(f"{path} is no file but a folder, a pipe or a device")
    for known in (str(path), path.stem, "__main__"):
        module = sys.modules.get(known)
        if module and Path(getattr(module, "__file__", None) or "").resolve() == path:
            return module
    _search(path.parent)
    return _run(str(path), importlib.util.spec_from_file_location(str(path), path))


def _run(name: str, spec: ModuleSpec | None) -> ModuleType:
    """Make a module whose name is the path of its file."""
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        _check_neighbours(module, Path(name).parent)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def import_own(name: str) -> ModuleType:
    """Import a module of the user's own, as `import_module` does, and not another of its name.

    Raises:
        ImportError, OSError, SyntaxError: as `import_module`; or another module has the name.
    """
    module = import_module(name)
    top = name.partition(".")[0]
    file = Path(f"{top}.py")
    if not name.endswith(".py") and file.is_file() and not _is_of(sys.modules[top], file):
        found = getattr(sys.modules[top], "__file__", None) or "a part of Python"
        raise ImportError(
            f"module {top!r} is {found}, and not the {file} here: name it with its .py, or give "
            "it another name"
        )
    return module


def _by_name(name: str) -> ModuleType:
    top = name.partition(".")[0]
    if top not in sys.modules and not importlib.util.find_spec(top):
        _search(Path.cwd())
    return importlib.import_module(name)


_searched: set[Path] = set()
"""The folders that we look for modules in."""


def _search(folder: Path) -> None:
    """Look for modules in a folder, too, after all others."""
    _searched.add(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _check_neighbours(module: ModuleType, folder: Path) -> None:
    """Raise an ImportError where a file has what another one's neighbour of that name defines."""
    for value in vars(module).values():
        kind = "__name__" if isinstance(value, ModuleType) else "__module__"
        name = getattr(value, kind, None)
        known = sys.modules.get(name) if isinstance(name, str) else None
        file = Path(getattr(known, "__file__", None) or "")
        own = folder / file.name
        if file.parent in _searched - {folder} and own.is_file():
            raise ImportError(
                f"it imports {file.stem!r}, which is {file} already, and not {own}: give one of "
                "them another name"
            )


def _is_of(module: ModuleType, file: Path) -> bool:
    """Whether a module was read from a file."""
    found = getattr(module, "__file__", None)
    return found is not None and file.samefile(found)
