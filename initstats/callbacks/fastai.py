"""The callback for fastai's `Learner`."""

from __future__ import annotations

from typing import Any

from fastai.callback.core import Callback

from initstats.callbacks.watcher import Watcher


class ProbeCallback(Watcher, Callback):
    """Watches what a fastai `Learner` fits; see `Watcher` for its arguments.

    Scalars are logged under the number of the training batch, counted from 1::

        with ProbeCallback(every=10, page="reports/training") as callback:
            learner.fit(1, cbs=callback)
    """

    name: Any = "initstats_probe"  # the learner's attribute that holds it
    run_valid = False

    def before_fit(self) -> None:
        """Begin with the learner's model."""
        self.begin(self.learn.model)

    def after_batch(self) -> None:
        """Log an update of the weights."""
        self.step(self.learn.train_iter)

    def after_fit(self) -> None:
        """Write the page."""
        self.end()
