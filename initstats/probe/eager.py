"""The stance of torch's compiler while models are probed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import Lock
from types import ModuleType
from typing import Any

from torch._higher_order_ops import utils as _operators

_COMPILER = "torch._dynamo"


class Eager:
    """Compiled models run their own Python code while any probe is open, in whatever order.

    The compiler may be loaded before the first probe opens, while one is open (by `torch.compile`,
    or by what compiles something by itself) or never: it takes seconds, so that it is not loaded
    here.
    """

    def __init__(self) -> None:
        self._lock, self._open, self._stack = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        loaded = _COMPILER in sys.modules
        if loaded:
            import_module(_COMPILER)  # to its end, where another thread has begun
        with self._lock:
            if not self._open:
                self._stack.enter_context(_ignored(".*torch.compile.*global hooks"))
                self._stack.enter_context(_stance() if loaded else _awaited(self._settle))
            self._open += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open -= 1
            if not self._open:
                self._stack.close()

    def _settle(self) -> None:
        """Take the stance that was to be taken, now that the compiler is there."""
        with self._lock:
            if self._open:
                self._stack.enter_context(_stance())


EAGER = Eager()


def is_compiled_by_torch() -> bool:
    """Whether what runs now in this thread is compiled, or was, though nobody asked for it."""
    return bool(_by_itself())


_by_itself: Callable[[], bool] = getattr(_operators, "_in_hop_compile", lambda: False)


class _Stance:
    """Functions run as they are written, but what torch compiles by itself is compiled.

    Operators such as `flex_attention` find in this way the tensors that are captured by the
    functions which they are given: these would have no gradients otherwise.
    """

    skip_guard_eval_unsafe = False
    backend = None

    @property
    def stance(self) -> str:
        """The stance to a function that is about to be called, in the thread that calls it."""
        return "default" if is_compiled_by_torch() else "force_eager"


@contextmanager
def _stance() -> Iterator[None]:
    """The compiler's stance to all functions, until the one before is taken again."""
    compiler: Any = import_module("torch._dynamo.eval_frame")
    before = compiler._set_stance(_Stance())
    try:
        yield
    finally:
        compiler._set_stance(before)


@contextmanager
def _awaited(then: Callable[[], None]) -> Iterator[None]:
    """Call a function as soon as the compiler has been loaded, if that happens meanwhile."""
    finder = _Finder(then)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds the compiler as Python does, and tells when it has been loaded."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of the compiler's module; None for others."""
        if name != _COMPILER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            load = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                del loader.exec_module
                load(module)
                self._then()

            loader.exec_module = exec_module
        return spec


@contextmanager
def _ignored(message: str) -> Iterator[None]:
    """Ignore a warning meanwhile, and leave filters that come in the meantime alone."""
    warnings.filterwarnings("ignore", message)
    entry = warnings.filters[0]
    try:
        yield
    finally:
        if entry in warnings.filters:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]
