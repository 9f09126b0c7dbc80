"""Functions of a second moment that cost much, interpolated where they are asked for often.

A panel is a factor e^2 wide: on it, Chebyshev polynomials in log q converge fast for what Gaussians
smooth, kinks or not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

Array = NDArray[np.float64]

_WIDTH = 2  # of a panel, in log q
_CHUNK = 2**16  # entries interpolated at once


class Panels:
    """The columns of a function of q, by panels of log q that are filled when first asked for."""

    def __init__(self, function: Callable[[Array], Array], nodes: int) -> None:
        """Take a function from the nodes of a panel, (nodes,), to (nodes, columns)."""
        self.function, self.nodes = function, nodes
        self.filled: dict[int, Array] = {}  # coefficients (nodes, columns)

    def at(self, q: Array) -> Array:
        """Columns (entries, columns) at q (entries,) > 0, at least one."""
        chunks = range(0, q.size, _CHUNK)
        return np.vstack([self._interpolated(np.log(q[i : i + _CHUNK])) for i in chunks])

    def _interpolated(self, log_q: Array) -> Array:
        numbers = np.floor(log_q / _WIDTH).astype(int)
        parts = {int(number): np.flatnonzero(numbers == number) for number in np.unique(numbers)}
        panels = [self._panel(number) for number in parts]
        values = np.empty((log_q.size, panels[0].shape[1]))
        for (number, inside), panel in zip(parts.items(), panels, strict=True):
            place = 2 * (log_q[inside] / _WIDTH - number) - 1
            basis = chebyshev.chebvander(place, self.nodes - 1)
            values[inside] = basis @ panel
        return values

    def _panel(self, number: int) -> Array:
        if number not in self.filled:
            nodes = chebyshev.chebpts1(self.nodes)
            basis = chebyshev.chebvander(nodes, self.nodes - 1)
            values = self.function(np.exp(_WIDTH * (number + (nodes + 1) / 2)))
            self.filled[number] = np.asarray(np.linalg.solve(basis, values), dtype=np.float64)
        return self.filled[number]
