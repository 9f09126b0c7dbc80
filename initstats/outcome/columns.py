"""The columns of a training run's rows, and what its outcome is called."""

from __future__ import annotations

EPOCH, CURVE = "epoch", "curve"
"""What a row of the store is about, in place of a tensor: an epoch, or a point of a curve."""
OUTCOMES = (
    "lr",
    "epoch",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "test_loss",
    "test_accuracy",
    "failed",
)
"""The numbers of such a row; `failed` is the place of a word among `WORDS`."""
WORDS = ("trained", "diverged", "chance")
"""A run has `trained`; or it `diverged`, its loss no longer finite; or it ended at `chance`, its
accuracy on the samples for validation not above the share of the largest class by three standard
errors."""
KEYS = ("network", "init", "activation", "width", "depth", "seed")
TUNING_KEYS = ("network", "init", "activation", "width", "depth", "lr", "seed")
