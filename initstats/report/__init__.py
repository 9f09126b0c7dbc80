"""A run, or a bare table, as a page: words, figures and tables, self-contained.

`model` and `theory` write pages of their own; `frame` and `folder` are what all have in common.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from initstats.plots import FIGURES
from initstats.report.drawing import Studio
from initstats.report.folder import PAGE, drafted, fill
from initstats.report.source import Source
from initstats.report.study import compose

__all__ = ["write_report"]


def write_report(
    run: str | Path | pd.DataFrame, folder: str | Path | None = None, *, workers: int = 1
) -> Path:
    """Write the report of a sweep: `index.html`, a page that needs no other file and no network.

    Beside it lies what it shows: `figures/` (PNG and SVG), `table.csv` (and `table.parquet` where
    pyarrow is installed), `summary.csv`, and of a run its `grid.toml`.

    Args:
        run: the folder of a run, finished or not; or a sweep's table, from which all can be drawn
            but the distributions.
        folder: where to; by default the run's own.
        workers: processes at work, this one among them. The others are spawned, so that a script
            needs `if __name__ == "__main__":`.

    Returns:
        The path of the page.

    Raises:
        ValueError: a table without a folder; not the table of one sweep; not a run's folder; the
            folder holds somebody else's page.
        OSError: the folder cannot be written.
    """
    if not isinstance(run, pd.DataFrame):
        folder = folder or run
    elif folder is None:
        raise ValueError("a table does not say where its report goes: name a folder")
    with Studio(workers) as studio:
        source = Source.of(run)
        with drafted(folder) as draft:
            missing = {
                name: figure.missing(source.results)
                for name, figure in FIGURES.items()
                if figure.page == "study"
            }
            wanted = [name for name, reason in missing.items() if not reason]
            pending = studio.begin(wanted, source.results)
            _write_tables(source, draft)
            drawings = [finish() for finish in pending]
            page = compose(source, drawings, {name: why for name, why in missing.items() if why})
            fill(draft, page, drawings)
    return Path(folder) / PAGE


def _write_tables(source: Source, draft: Path) -> None:
    """The tables for other programs, and the grid that computes them again."""
    source.results.table.to_csv(draft / "table.csv", index=False)
    source.results.summary.to_csv(draft / "summary.csv", index=False)
    if find_spec("pyarrow"):
        source.results.table.to_parquet(draft / "table.parquet", index=False)
    if source.run:
        (draft / "grid.toml").write_text(source.grid, encoding="utf-8")
