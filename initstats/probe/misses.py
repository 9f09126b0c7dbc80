"""What was not measured: things that cannot be, and what failed while it was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from torch import nn

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class Miss(NamedTuple):
    """Something that was not measured, and why."""

    kind: str
    name: str
    op: str
    reason: str


class Guard:
    """A block that may fail: an error ends it, is told, and goes no further.

    Args:
        miss: what would not be measured then, without the reason.
        tell: is given the miss, with the reason.
    """

    def __init__(self, miss: Miss, tell: Callable[[Miss], None]) -> None:
        self._miss, self._tell = miss, tell

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        lines = str(error).splitlines() or [""]
        reason = f"measuring it failed: {type(error).__name__}: {lines[0]}"
        with suppress(Exception):  # whatever a foreign container may do
            self._tell(self._miss._replace(reason=reason))
        return True


def unused(
    model: nn.Module,
    names: Mapping[int, str],
    ran: set[int],
    apart: Mapping[int, str],
    used: set[int],
    parameters: Mapping[int, tuple[str, Any]],
) -> Iterator[Miss]:
    """Modules that never ran or not where they are followed, and parameters of others, not used.

    Args:
        names: of the modules, by id.
        ran: the modules (by id) whose calls were followed.
        apart: why calls of modules (by id) were not followed. Of modules in each other the outer
            one is listed.
        used: the parameters (by id) that operations used.
        parameters: all of them, by id, with their names.
    """
    known, told = set(used), set[int]()
    for module in model.modules():
        ident = id(module)
        if ident in apart and ident not in told:
            told |= {id(part) for part in module.modules()}
            yield Miss("module", names[ident], "", apart[ident])
        own = {id(parameter) for parameter in module.parameters(recurse=False)}
        leaf = not any(True for _ in module.children())
        if leaf and ident not in ran and not (own and own <= used):
            known |= own
            if not isinstance(module, CONTAINERS) and ident not in told:
                yield Miss("module", names[ident], "", "never executed")
    for ident, (name, _) in parameters.items():
        if ident not in known:
            yield Miss("parameter", name, "", "no operation used it")
