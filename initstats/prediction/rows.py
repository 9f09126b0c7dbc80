"""A grid meets theory: the rows that its sweep should find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product

import pandas as pd

from initstats.activations import Activation
from initstats.data import Dataset, Split
from initstats.inits import Init
from initstats.moments import STATISTICS
from initstats.prediction.convolutional import convolutional_rows
from initstats.prediction.dense import Inputs, dense_rows
from initstats.prediction.stage import (
    LEAST,
    LOST,
    MOST,
    Place,
    Row,
    Stage,
    stages,
    unknown_beyond,
)
from initstats.stack import Layer, Settings, architecture, row_keys
from initstats.sweep import Grid, Progress, chosen_samples

Theory = Callable[[Activation, tuple[Stage, ...]], dict[Place, Row]]

KEYS = ["dataset", "network", "init", "activation", "width", "layer", "tensor", "direction"]
"""What names a row of the table, but for the seed."""

_EXTRA = ("second_moment_spread", "second_moment_error")


def predict(grid: Grid, data: Dataset, *, progress: Progress | None = None) -> pd.DataFrame:
    """The rows of a sweep from theory, for the mean over draws of the weights.

    Args:
        grid: as for `run_sweep`; its seeds do not matter.
        data: the dataset.
        progress: told of every init, activation and width.

    Returns:
        The sweep's key columns without `seed`, its statistics (NaN where theory says nothing), and
        `second_moment_spread`: the standard deviation of `second_moment` from draw to draw;
        `second_moment_error`: the size of what the first order in 1 / width leaves out;
        `note`: why theory does not apply to the row, or only with care; empty where it does.
        `std` is the root of the mean variance over draws.

    Raises:
        ValueError: the grid does not fit the data.
    """
    split = chosen_samples(grid, data)
    theory = cache(_theory(grid, split))  # some inits differ in no variance
    places = row_keys(Settings(grid.depth, len(split), grid.backward))
    keys, rows = [], []
    configurations = list(product(grid.inits, grid.activations, grid.widths))
    notify = progress or (lambda done, total: None)
    for done, (init, activation, width) in enumerate(configurations):
        notify(done, len(configurations))
        layers = architecture(grid.network, width, grid.depth, split.shape)
        configuration = (data.name, grid.network, init.name, activation.name, width)
        keys += [(*configuration, *place) for place in places]
        rows += _configuration(theory, init, activation, layers, places)
    notify(len(configurations), len(configurations))
    return _frame(keys, rows)


def _theory(grid: Grid, split: Split) -> Theory:
    """The rows of a configuration, given its activation and stages."""

    def convolutional(activation: Activation, found: tuple[Stage, ...]) -> dict[Place, Row]:
        complete = grid.backward and len(found) == grid.depth
        return convolutional_rows(split, activation, found, backward=complete)

    def dense(activation: Activation, found: tuple[Stage, ...]) -> dict[Place, Row]:
        complete = grid.backward and len(found) == grid.depth
        return dense_rows(inputs, activation, found, backward=complete)

    if grid.network == "cnn":
        return convolutional
    inputs = Inputs(split)
    return dense


def _configuration(
    theory: Theory,
    init: Init,
    activation: Activation,
    layers: Sequence[Layer],
    places: Sequence[Place],
) -> list[Row]:
    """The row of every place; where theory says nothing, why."""
    rows, why = {}, unknown_beyond(init)
    try:
        if found := tuple(stages(init, activation, layers)):
            rows = theory(activation, found)
    except ValueError as error:  # integrals that do not exist, gains that do not
        why = str(error)
    return list(_representable(places, [rows.get(place, Row(note=why)) for place in places]))


def _representable(places: Sequence[Place], rows: Sequence[Row]) -> Iterator[Row]:
    """The rows, but for those of a signal that float32 cannot hold; what is lost stays so."""
    lost = False
    for (_, _, direction), row in zip(places, rows, strict=True):
        square = row.get("second_moment", 1.0)
        gone = not (square == 0 or LEAST < square < MOST)
        lost |= gone and direction == "forward"
        forward = lost and direction == "forward"
        yield Row(note=LOST) if gone or forward else row


def _frame(keys: Sequence[tuple[object, ...]], rows: Sequence[Row]) -> pd.DataFrame:
    index = pd.DataFrame(keys, columns=KEYS)
    for name in index.columns.difference(["width", "layer"]):
        index[name] = pd.Categorical(index[name], index[name].unique())
    values = pd.DataFrame(list(rows), columns=[*STATISTICS, *_EXTRA, "note"])
    values[[*STATISTICS, *_EXTRA]] = values[[*STATISTICS, *_EXTRA]].astype("float64")
    return pd.concat([index, values], axis=1)
