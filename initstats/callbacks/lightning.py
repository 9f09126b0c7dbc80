"""The callback for Lightning's `Trainer`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback

from initstats.callbacks.watcher import Watcher


class ProbeCallback(Watcher, Callback):
    """Watches what a Lightning `Trainer` fits; see `Watcher` for its arguments.

    Scalars are logged under the trainer's `global_step`; `log` may be the trainer's own logger.
    It ends after an error, too::

        callback = ProbeCallback(every=10, page="reports/training")
        Trainer(max_epochs=1, callbacks=[callback]).fit(module, data)
    """

    _logged = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin with the module, after the sanity check of validation."""
        self._logged = trainer.global_step
        self.begin(pl_module)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Log an update of the weights; between two there may be several batches."""
        if trainer.global_step > self._logged:
            self._logged = trainer.global_step
            self.step(trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the page."""
        self.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write the page of what was measured until then."""
        self.end()
