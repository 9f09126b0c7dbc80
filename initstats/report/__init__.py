"""A run, or a bare table, as a page: words, figures and tables, self-contained.

Everything is written beside the place it goes to and moved there file by file, the page last, so
that an interrupted report leaves the earlier one readable.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from initstats.plots import FIGURES
from initstats.report.drawing import Studio
from initstats.report.page import compose
from initstats.report.source import Source

__all__ = ["write_report"]

PAGE, FIGURE_FOLDER = "index.html", "figures"
OURS = '<meta name="generator" content="initstats'
"""What the head of each of our pages says."""


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
        with _drafted(Path(folder)) as draft:
            missing = {name: figure.missing(source.results) for name, figure in FIGURES.items()}
            wanted = [name for name, reason in missing.items() if not reason]
            pending = studio.begin(wanted, source.results)
            _write_tables(source, draft)
            drawings = [finish() for finish in pending]
            for drawing in drawings:
                place = draft / FIGURE_FOLDER / drawing.name
                place.with_suffix(".png").write_bytes(drawing.png)
                place.with_suffix(".svg").write_text(drawing.svg, encoding="utf-8")
            page = compose(source, drawings, {name: why for name, why in missing.items() if why})
            (draft / PAGE).write_text(page, encoding="utf-8")
    return Path(folder) / PAGE


def _write_tables(source: Source, draft: Path) -> None:
    """The tables for other programs, and the grid that computes them again."""
    source.results.table.to_csv(draft / "table.csv", index=False)
    source.results.summary.to_csv(draft / "summary.csv", index=False)
    if find_spec("pyarrow"):
        source.results.table.to_parquet(draft / "table.parquet", index=False)
    if source.run:
        (draft / "grid.toml").write_text(source.grid, encoding="utf-8")


@contextmanager
def _drafted(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files move to `folder` if nothing goes wrong."""
    page = folder / PAGE
    if page.exists() and OURS not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise ValueError(f"{page} is not a report of initstats: choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
        (draft / FIGURE_FOLDER).mkdir()
        try:
            yield draft
            _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise OSError(
            f"cannot write the report into {folder}: {error.strerror or error}"
        ) from error


def _publish(draft: Path, folder: Path) -> None:
    """Replace an earlier report, its page last; other files in the folder stay."""
    (folder / FIGURE_FOLDER).mkdir(exist_ok=True)
    ours = {f"{name}{kind}" for name in FIGURES for kind in (".png", ".svg")}
    for old in ours - {new.name for new in (draft / FIGURE_FOLDER).iterdir()}:
        (folder / FIGURE_FOLDER / old).unlink(missing_ok=True)
    files = [path for path in draft.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == PAGE):
        path.replace(folder / path.relative_to(draft))
