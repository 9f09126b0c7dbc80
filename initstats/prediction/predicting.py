"""The rows that a grid's sweep should find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product

import pandas as pd

from initstats.activations import Activation
from initstats.data import Dataset, Split
from initstats.gaussian import one_thread
from initstats.inits import Init
from initstats.moments import STATISTICS
from initstats.networks import Place, Serial
from initstats.prediction.rows import Row
from initstats.prediction.samples import Samples
from initstats.prediction.walks import Laws, representable, rows_of_images, rows_of_lengths
from initstats.store.parameters import Entries, parameters_of, with_parameters
from initstats.sweep import Grid, Progress, chosen_samples

KEYS = ["dataset", "network", "init", "activation", "width", "layer", "tensor", "direction"]
"""The columns that name a row of the table, without the seed."""

Theory = Callable[[Activation, Serial, Laws], tuple[dict[Place, Row], str | None]]

EXTRA = ["second_moment_spread", "second_moment_error", "note"]
"""What predictions have beside the statistics."""


@one_thread()
def predict(grid: Grid, data: Dataset, *, progress: Progress | None = None) -> pd.DataFrame:
    """The rows of a sweep from theory, for the mean over draws of the weights.

    Args:
        grid: as for `run_sweep`; its seeds do not matter.
        data: as for `run_sweep`.
        progress: told of every network, init, activation and width.

    Returns:
        The sweep's key columns without `seed`, those of its parameters, its statistics (NaN where
        theory says nothing), and
        `second_moment_spread`: the standard deviation of `second_moment` from draw to draw;
        `second_moment_error`: the size of what the first order in 1 / width leaves out;
        `note`: why theory does not apply to the row, or only with care; empty where it does.
        `std` is the root of the mean variance over draws.

    Raises:
        ValueError: the grid does not fit the data.
    """
    split = chosen_samples(grid, data)
    theory = _theory(split, backward=grid.backward)
    keys, rows = [], []
    configurations = list(product(grid.networks, grid.inits, grid.activations, grid.widths))
    notify = progress or (lambda done, total: None)
    for done, (entry, init, activation, width) in enumerate(configurations):
        notify(done, len(configurations))
        network = entry.on(split.shape, width, grid.depth)
        places = network.places(backward=grid.backward)
        configuration = (data.name, entry.name, init.name, activation.name, width)
        keys += [(*configuration, *place) for place in places]
        rows += _configuration(theory, init, activation, network, places)
    notify(len(configurations), len(configurations))
    return _frame(keys, rows, parameters_of(grid.entries))


def _theory(split: Split, *, backward: bool) -> Theory:
    """The rows of a network under an activation, given the laws of its weights.

    Inits that share all laws share the rows.
    """
    samples = cache(partial(Samples, split))

    @cache
    def rows(
        activation: Activation, network: Serial, laws: Laws
    ) -> tuple[dict[Place, Row], str | None]:
        if any(layer.outputs.plane for layer in network.layers):
            return rows_of_images(split, activation, network, laws, backward=backward)
        return rows_of_lengths(samples(), activation, network, laws, backward=backward)

    return rows


def _configuration(
    theory: Theory, init: Init, activation: Activation, network: Serial, places: Sequence[Place]
) -> list[Row]:
    """The row of every place; where theory says nothing, why."""
    try:
        laws = tuple(layer.law(init, activation) for layer in network.layers)
        rows, why = theory(activation, network, laws)
    except ValueError as error:  # integrals that do not exist, gains that do not
        rows, why = {}, str(error)
    missing = Row(note=why or init.unpredicted)
    return representable(places, [rows.get(place, missing) for place in places])


def _frame(
    keys: Sequence[tuple[object, ...]], rows: Sequence[Row], entries: Entries
) -> pd.DataFrame:
    index = pd.DataFrame(keys, columns=KEYS)
    for name in index.columns.difference(["width", "layer"]):
        index[name] = pd.Categorical(index[name], index[name].unique())
    values = pd.DataFrame(list(rows), columns=[*STATISTICS, *EXTRA])
    numbers = dict.fromkeys(values.columns.drop("note"), "float64")
    return pd.concat([with_parameters(index, entries), values.astype(numbers)], axis=1)
