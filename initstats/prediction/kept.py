"""What theory says of a run, scored against what was measured, and kept in the run's folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from initstats.activations import Activation
from initstats.data import CACHE, Dataset, load_data
from initstats.prediction.comparison import compare_with_theory
from initstats.prediction.predicting import KEYS, predict
from initstats.store import Run, load_predictions, load_run, load_table, save_predictions
from initstats.sweep import Grid, Progress, chosen_samples, definitions, fingerprint
from initstats.sweep.cell import KEYS as CELL
from initstats.sweep.hiring import Hands
from initstats.sweep.plugins import BESIDE


def predict_run(
    folder: str | Path,
    data: Dataset | None = None,
    *,
    workers: Hands = 1,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict the rows of a run and its gradients, and keep them in its folder for the report.

    Predictions that the folder keeps already are not made again. The z-scores are those of all
    seeds measured so far.

    Args:
        folder: of the run, finished or not.
        data: what the run was measured with; by default loaded from where the run had them.
        workers: as for `predict`.
        progress: told of every init, activation and width.

    Returns:
        The rows of `predict`, with `z` of the second moment, and the `seeds` that it rests on.

    Raises:
        ValueError: not a run's folder; its data cannot be loaded, or are others than it was
            measured with; its plugins were not imported, or define something else than they did.
    """
    run = load_run(folder)
    if run.keys != CELL:
        raise ValueError(f"{folder} holds another kind of run, and no sweep")
    grid = Grid(**{name: run.config[name] for name in run.config.keys() - {*BESIDE}})
    data = data or _loaded(run, folder)
    if fingerprint(grid, data) != run.settings["data"]:
        raise ValueError(
            f"{folder} was measured with other data than these of {data.name!r}: pass the dataset "
            "that it was measured with, predict_run(folder, data)"
        )
    now = definitions(grid.entries, chosen_samples(grid, data), grid.depth)
    if redefined := run.redefined(now, run.cells):
        raise ValueError(
            f"{folder} was measured when {', '.join(redefined)} had another definition: "
            "load that one to predict the run"
        )
    kept = load_predictions(folder)
    parts = [] if kept is None else [kept.drop(columns=["z", "seeds"], errors="ignore")]
    if lacking := _lacking(grid, kept):
        # gradients, too: where they are not measured, the verdict is theory's
        alone = grid.model_copy(update={"activations": lacking, "backward": True})
        parts.append(predict(alone, data, workers=workers, progress=progress))
    kinds = {name: "int64" if name in ("width", "layer") else "str" for name in KEYS}
    predicted = pd.concat([part.astype(kinds) for part in parts]).drop_duplicates(KEYS)
    scored = compare_with_theory(load_table(folder), predicted)
    scored = scored.query("statistic == 'second_moment'")
    predicted = predicted.merge(scored[[*KEYS, "z", "seeds"]], on=KEYS, how="left")
    save_predictions(folder, predicted)
    return predicted


def _loaded(run: Run, folder: str | Path) -> Dataset:
    """The data of a run, from where they were."""
    try:
        return load_data(
            run.config["data"], size=run.config.get("size") or 64, cache=Path(folder) / CACHE
        )
    except (ValueError, OSError) as error:
        raise ValueError(
            f"the data of {folder} cannot be loaded again ({error}): pass them, "
            "predict_run(folder, data)"
        ) from error


def _lacking(grid: Grid, kept: pd.DataFrame | None) -> tuple[Activation, ...]:
    """The activations of which a configuration is not predicted yet."""
    columns = ["network", "init", "activation", "width"]
    there = set() if kept is None else {*kept[columns].itertuples(index=False, name=None)}
    lacking = {cell.activation for cell in grid if cell[:4] not in there}
    return tuple(entry for entry in grid.activations if entry.name in lacking)
