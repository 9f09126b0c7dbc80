"""The rows that a grid's sweep should find."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import pandas as pd

from initstats.activations import Activation
from initstats.data import Dataset, Split
from initstats.failure import Failure
from initstats.gaussian import one_thread
from initstats.inits import Init
from initstats.moments import STATISTICS
from initstats.networks import Linear, Network, Place
from initstats.prediction.batches import Batches
from initstats.prediction.groups import Groups
from initstats.prediction.planes import Planes
from initstats.prediction.rows import Row
from initstats.prediction.samples import Samples
from initstats.prediction.sequences import Sequences
from initstats.prediction.token_batches import TokenBatches
from initstats.prediction.walks import Laws, representable, rows_of_groups, rows_of_images
from initstats.store.parameters import Entries, parameters_of, with_parameters, with_parts
from initstats.sweep import Grid, Progress, chosen_samples
from initstats.sweep.attempts import attempted
from initstats.sweep.hiring import Hands, hired
from initstats.sweep.running import notes_of, parts_of
from initstats.workers import OwnProcesses

KEYS = ["dataset", "network", "init", "activation", "width", "layer", "tensor", "direction"]
"""The columns that name a row of the table, without the seed."""

EXTRA = ["second_moment_spread", "second_moment_error", "claim", "note"]
"""What predictions have beside the statistics."""


class FailedPredictionError(RuntimeError):
    """A prediction that a worker could not make.

    Attributes:
        failure: what happened there.
    """

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message, failure)
        self.failure = failure

    def __str__(self) -> str:
        return str(self.args[0])


@one_thread()
def predict(
    grid: Grid, data: Dataset, *, workers: Hands = 1, progress: Progress | None = None
) -> pd.DataFrame:
    """The rows of a sweep from theory, for the mean over draws of the weights.

    Args:
        grid: as for `run_sweep`; its seeds do not matter.
        data: as for `run_sweep`.
        workers: as for `run_sweep`; None is 1.
        progress: told of every network, init, activation and width.

    Returns:
        The sweep's key columns without `seed`, those of its parameters, its statistics (NaN where
        theory says nothing), and
        `second_moment_spread`: the standard deviation of `second_moment` from draw to draw;
        `second_moment_error`: the size of what the first order in 1 / width leaves out, and of
        gradients behind norms, what a finite width was measured to add (see `excess`);
        `claim`: whether the second moment is `exact` for normal weights, of `first order` in
        1 / width, or that at `infinite width`;
        `note`: why theory does not apply to the row, or only with care; empty where it does.
        `std` is the root of the mean variance over draws.

    Raises:
        ValueError: the grid does not fit the data, or cannot be sent to workers.
        FailedPredictionError: a `RuntimeError` for an error in another process.
        ChildProcessError: as `run_sweep`.
    """
    theory = Theory(chosen_samples(grid, data), grid.depth, backward=grid.backward)
    work = [
        Configurations(network, grid.inits_of(network), activation, width)
        for network, activation, width in product(grid.every_network, grid.activations, grid.widths)
    ]
    total = sum(len(task.inits) for task in work)
    notify = progress or (lambda done, total: None)
    notify(0, total)
    found: dict[tuple[str, ...], list[Row]] = {}
    with closing(_worked(theory, work, workers, grid)) as outcomes:
        for task, outcome in outcomes:
            for name, rows in zip(task.names(), outcome, strict=True):
                found[name] = rows
                notify(len(found), total)
    keys, listed = [], []
    for entry in grid.every_network:
        rest = product(grid.inits_of(entry), grid.activations, grid.widths)
        for init, activation, width in rest:
            names = (entry.name, init.name, activation.name, str(width))
            places = theory.places(entry, width)
            keys += [(data.name, *names[:3], width, *place) for place in places]
            listed += found[names]
    shape = theory.split.shape
    parts, notes = parts_of(grid, shape), notes_of(grid, shape)
    return _frame(keys, listed, parameters_of(grid.entries), parts, notes)


class Configurations(NamedTuple):
    """What is predicted together: inits under an activation, of which many share all laws."""

    network: Network
    inits: tuple[Init, ...]
    activation: Activation
    width: int

    def names(self) -> Iterator[tuple[str, ...]]:
        """The names of each."""
        network, activation = self.network.name, self.activation.name
        return ((network, init.name, activation, str(self.width)) for init in self.inits)

    def parts(self) -> list[Configurations]:
        """A task for each."""
        return [self._replace(inits=(init,)) for init in self.inits]


@dataclass(frozen=True)
class Theory:
    """What all predictions have in common; it goes to a worker once."""

    split: Split
    depth: int
    backward: bool
    _populations: dict[tuple[Linear | None, int], Samples | Groups] = field(
        default_factory=dict, repr=False, compare=False
    )

    @one_thread()
    def __call__(self, task: Configurations) -> list[list[Row]]:
        """The rows of each configuration."""
        known: dict[Laws, tuple[dict[Place, Row], str | None]] = {}
        network = task.network.on(self.split.shape, task.width, self.depth)
        found = []
        for init in task.inits:
            try:
                laws = tuple(layer.law(init, task.activation) for layer in network.layers)
                if laws not in known:
                    known[laws] = self._rows(task, laws)
                rows, why = known[laws]
            except ValueError as error:  # integrals that do not exist, gains that do not
                rows, why = {}, str(error)
            places = self.places(task.network, task.width)
            said = None if why is None else why or init.unpredicted
            told = [rows[at] if at in rows else _left_out(at, said) for at in places]
            found.append(representable(places, told))
        return found

    def places(self, network: Network, width: int) -> Sequence[Place]:
        """The places of a network's rows."""
        return network.on(self.split.shape, width, self.depth).places(backward=self.backward)

    def _rows(self, task: Configurations, laws: Laws) -> tuple[dict[Place, Row], str | None]:
        network = task.network.on(self.split.shape, task.width, self.depth)
        given = task.activation, network, laws
        tokens = any(leaf.tensor == "attention" for leaf in network.leaves())
        images = not tokens and any(layer.outputs.plane for layer in network.layers)
        batch = max(leaf.together for leaf in network.leaves())
        if images:
            positions = network.layers[0].outputs.positions
            planes = Planes(self.split, batch, positions) if batch > 1 else None
            return rows_of_images(self.split, *given, backward=self.backward, planes=planes)
        first = network.layers[0] if tokens else None
        key = first, batch
        if key not in self._populations:
            self._populations[key] = self._population(*key)
        return rows_of_groups(self._populations[key], *given, backward=self.backward)

    def _population(self, first: Linear | None, batch: int) -> Samples | Groups:
        """The samples as theory follows them: token by token, by batches, or by their lengths."""
        if first is not None:
            several = batch > 1
            return (
                TokenBatches(self.split, first, batch) if several else Sequences(self.split, first)
            )
        return Batches(self.split, batch) if batch > 1 else Samples(self.split)


def _left_out(place: Place, why: str | None) -> Row:
    """The row of a tensor that theory says nothing about; None where it follows the others."""
    _, tensor, direction = place
    of = "gradients of " if direction == "backward" else ""
    return Row(note=f"theory follows the network, but not the {of}{tensor}" if why is None else why)


def _worked(
    theory: Theory, work: Sequence[Configurations], hands: Hands, grid: Grid
) -> Generator[tuple[Configurations, list[list[Row]]]]:
    """Each task with its rows."""
    workers = hired(hands, None, grid.entries)
    if workers is None and isinstance(hands, int) and hands > 1:
        workers = OwnProcesses(min(hands, len(work)))
    if workers is None:
        yield from ((task, theory(task)) for task in work)
        return
    with closing(attempted(workers, theory, work)) as results:
        for task, outcome in results:
            if isinstance(outcome, Failure):
                names = " ".join(next(task.names()))
                raise FailedPredictionError(f"predicting {names}: {outcome.error}", outcome)
            yield task, outcome


def _frame(
    keys: Sequence[tuple[object, ...]],
    rows: Sequence[Row],
    entries: Entries,
    parts: Mapping[str, list[str]],
    notes: Sequence[str],
) -> pd.DataFrame:
    index = pd.DataFrame(keys, columns=KEYS)
    for name in index.columns.difference(["width", "layer"]):
        index[name] = pd.Categorical(index[name], index[name].unique())
    values = pd.DataFrame(list(rows), columns=[*STATISTICS, *notes, *EXTRA])
    numbers = dict.fromkeys(values.columns.drop(["claim", "note"]), "float64")
    named = with_parts(with_parameters(index, entries), parts)
    return pd.concat([named, values.astype(numbers)], axis=1)
