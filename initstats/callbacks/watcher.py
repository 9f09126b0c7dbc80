"""A training that is watched: a probe while it runs, scalars on the way, a page at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch import nn

from initstats.callbacks.scalars import scalars_of, writer
from initstats.probe import Probe


class Watcher:
    """Watches a training; a `ProbeCallback` is one that a library's trainer calls.

    In a loop of one's own: `begin(model)`, `step(number)` after each update of the weights, and
    `end()`. As a context manager it also ends when the loop raises an error, which the trainers of
    transformers and fastai do not tell their callbacks: what the probe puts on torch is then
    removed, and the page of what was measured until then is written.

    Args:
        every: of the updates, every n-th is measured.
        backward: measure gradients, too.
        page: the folder for the page at the end; by default there is none.
        log: takes the scalars of each measured step; see `initstats.callbacks.Logger`.

    Attributes:
        probe: that of the training, or of the latest one; None before.

    Raises:
        ValueError: `every` below 1, or no logger.
    """

    probe: Probe | None = None

    def __init__(
        self,
        *,
        every: int = 10,
        backward: bool = True,
        page: str | Path | None = None,
        log: Any = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every={every} was given, 1 or more is expected")
        self._every, self._backward, self._page = every, backward, page
        self._write = None if log is None else writer(log)
        self._open = False

    def begin(self, model: nn.Module) -> None:
        """Begin to watch a model; a training that is still watched ends."""
        self.end()
        self.probe = Probe(model, backward=self._backward, every=self._every).__enter__()
        self._open = True

    def step(self, number: int) -> None:
        """Log the scalars of the present step, if it was measured, under a number."""
        if self._open and self._write and self.probe:
            table = self.probe.table(latest=True)
            if len(table):
                self._write(scalars_of(table), number)

    def end(self) -> None:
        """Stop watching, and write the page; without a training it does nothing."""
        if not (self._open and self.probe):
            return
        self._open = False
        self.probe.__exit__(None, None, None)
        if self._page is not None:
            self.probe.report(self._page)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
