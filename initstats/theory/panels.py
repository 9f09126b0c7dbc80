"""Functions of a second moment that are costly, interpolated where they are asked for often.

A panel is a factor e^2 wide. On it, Chebyshev polynomials in log q converge fast to a mean over
Gaussians, kinks or not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Array = NDArray[np.float64]

_WIDTH = 2  # width of a panel in log q
_CHUNK = 2**16  # most entries interpolated at once


@cache
def _controller() -> ThreadpoolController:
    """What sets the number of threads of numpy's products."""
    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[object]:
    """One thread of numpy's products: else their last bits hang on the number of threads."""
    limit: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limit


@dataclass
class Panels:
    """The columns of a function of q, by panels of log q that are filled when first asked for."""

    function: Callable[[Array], Array]  # maps the nodes of a panel, (nodes,), to (nodes, columns)
    nodes: int  # number of nodes of a panel
    filled: dict[int, Array] = field(default_factory=dict)  # coefficients (nodes, columns)

    def at(self, q: Array) -> Array:
        """Columns (entries, columns) at q (entries,) > 0, at least one."""
        chunks = range(0, q.size, _CHUNK)
        with one_blas_thread():
            return np.vstack([self._interpolated(np.log(q[i : i + _CHUNK])) for i in chunks])

    def _interpolated(self, log_q: Array) -> Array:
        numbers = np.floor(log_q / _WIDTH).astype(int)
        panels = {int(number): self._panel(int(number)) for number in np.unique(numbers)}
        values = np.empty((log_q.size, *next(iter(panels.values())).shape[1:]))
        for number, panel in panels.items():
            inside = numbers == number
            place = 2 * (log_q[inside] / _WIDTH - number) - 1
            values[inside] = chebyshev.chebvander(place, self.nodes - 1) @ panel
        return values

    def _panel(self, number: int) -> Array:
        if number not in self.filled:
            nodes = chebyshev.chebpts1(self.nodes)
            basis = chebyshev.chebvander(nodes, self.nodes - 1)
            values = self.function(np.exp(_WIDTH * (number + (nodes + 1) / 2)))
            self.filled[number] = np.asarray(np.linalg.solve(basis, values), dtype=np.float64)
        return self.filled[number]
