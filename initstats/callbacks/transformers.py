"""The callback for `transformers.Trainer`."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from initstats.callbacks.watcher import Watcher


class ProbeCallback(Watcher, TrainerCallback):
    """Watches what a `transformers.Trainer` trains; see `Watcher` for its arguments.

    Scalars are logged under the trainer's `global_step`::

        with ProbeCallback(every=10, page="reports/training") as callback:
            Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with the trainer's model."""
        self.begin(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log an update of the weights."""
        self.step(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the page."""
        self.end()
