"""A rehearsal: a model of the user's own is trained for a step before any run is."""

from __future__ import annotations

from itertools import product
from traceback import extract_tb

from initstats.failure import in_a_line, is_ours
from initstats.training.architectures import Factory
from initstats.training.engine import Engine, Task, Variant
from initstats.training.grid import TrainingGrid


def rehearse(engine: Engine, grid: TrainingGrid, network: Factory) -> None:
    """Train a model for a step with each init, and with each activation.

    Raises:
        ValueError: it cannot be trained; the error that it met is the cause.
    """
    inits, activations = grid.inits, grid.activations
    pairs = [*product(inits, activations[:1]), *product(inits[:1], activations[1:])]
    for place, (init, activation) in enumerate(pairs):
        variant = Variant(init, activation, grid.lr or grid.ladder[0])
        runs = (variant,) * (1 if place else 2)  # two show whether they are one model
        try:
            engine.rehearse(Task(network, 0, 0, grid.seeds[0], runs))
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"network {network.name!r} cannot be trained on samples of shape "
                f"{engine.train.shape} with {init.name} and {activation.name}: {_told(error)}"
            ) from error


def _told(error: BaseException) -> str:
    """An error in a line; of one of ours, its message alone."""
    raised_in = extract_tb(error.__traceback__)[-1].filename
    return str(error) if isinstance(error, ValueError) and is_ours(raised_in) else in_a_line(error)
