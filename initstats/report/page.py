"""A page: a template, what it asks for, figures and files, drafted beside its folder and published.

Each kind of page is a template of its name. Its head tells the edition, which changes with every
template and caption: a published page that is older than the words of today says so.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.meta import find_referenced_templates
from markupsafe import Markup

from initstats import __version__
from initstats.plots import Picture, of_page
from initstats.plots.style import decimal
from initstats.registry import unknown
from initstats.report.drawing import Drawing, Studio, draw
from initstats.report.embedded import Report
from initstats.report.explore.scripts import inlined
from initstats.report.folder import PAGE, PICTURES, beside, claim, drafted, index_above
from initstats.report.printed import breakable, factor, humps, percent, significant, typeset

MOST_NAMES = 6
"""Longer lists of names are cut in sentences."""


@dataclass(frozen=True)
class Shown:
    """A figure of a page, under its title and over its caption; or only a file beside the page.

    Attributes:
        name: its id on the page, and the name of its files.
        picture: its entry in the catalogue.
        results: what it is drawn from.
    """

    name: str
    picture: Picture
    results: Any

    @property
    def title(self) -> str:
        """A short heading."""
        return typeset(self.picture.title)

    @property
    def caption(self) -> str:
        """What to see in it."""
        return typeset(self.picture.caption)

    @cached_property
    def drawing(self) -> Drawing:
        """The figure, drawn when it is asked for."""
        return draw(self.picture.name, self.results, self.name)

    @property
    def svg(self) -> Markup:
        """The drawing as markup."""
        return Markup(self.drawing.inline)

    @property
    def files(self) -> dict[str, str]:
        """The paths of its files beside the page, by format."""
        return {end.upper(): f"{PICTURES}/{self.name}.{end}" for end in ("png", "svg")}


def figures_of(page: str, results: Any, *, suffix: str = "") -> list[Shown]:
    """All figures of a kind of page that can be drawn from these results.

    Args:
        page: a key of `PAGES`.
        results: of that page.
        suffix: an end of their names, where a page shows them several times.
    """
    pictures = [picture for picture in of_page(page) if not picture.missing(results)]
    return [Shown(picture.name + suffix, picture, results) for picture in pictures]


@dataclass(frozen=True)
class Files:
    """The files of figures that are wanted beside a page, and how they come about.

    Attributes:
        figures: whether to write any, or the names of those that are wanted, of the catalogue.
        workers: processes at work, this one among them.
        ready: is given the path of the page once it is in its place; the figures follow.
    """

    figures: bool | Collection[str] = True
    workers: int = 1
    ready: Callable[[Path], object] = lambda page: None

    def check(self, kind: str) -> None:
        """Make sure that the page has the figures that are wanted.

        Raises:
            ValueError: it has not.
        """
        allowed = [picture.name for picture in of_page(kind)]
        for name in () if isinstance(self.figures, bool) else self.figures:
            if name not in allowed:
                raise unknown(f"figure of a {kind} page", name, allowed)

    def among(self, figures: Sequence[Shown]) -> list[Shown]:
        """The figures of a page whose files are wanted."""
        if isinstance(self.figures, bool):
            return [*figures] if self.figures else []
        return [figure for figure in figures if figure.picture.name in self.figures]


FILES = Files()
"""All figures, drawn by this process."""
LONG = 5_000
"""Rows of a table for which the page does not wait."""
BESIDE = {
    "bench": ("bench.json",),
    "lesson": ("lesson.csv", "timings.csv", "draws.csv"),
    "model": ("table.csv", "findings.csv", "missed.csv"),
    "coordinates": ("table.csv", "slopes.csv", "parameters.csv", "findings.csv", "missed.csv"),
    "audit": ("parameters.csv", "roles.csv", "findings.csv"),
    "training": ("comparisons.csv", "variants.csv", "table.csv"),
    "study": ("table.csv", "table.parquet", "summary.csv"),
    "comparison": ("differences.csv", "verdicts.csv"),
    "architectures": (
        *("survival.csv", "measured.csv", "profiles.csv"),
        *("norms.csv", "phases.csv", "rates.csv"),
        *("verification.csv", "depth_100.csv"),
    ),
}
"""The tables that may lie beside a kind of page."""


def claim_page(kind: str, folder: Path, files: Files = FILES, *, make: bool = True) -> None:
    """Make sure, before the work for a kind of page, that it may be written into a folder.

    Args:
        files: those of figures that are wanted.
        make: whether to make the folder, if need be.

    Raises:
        ValueError, OSError: as `claim`; a figure is wanted that the page has not.
    """
    files.check(kind)
    names = [path for each in files.among(_all(kind)) for path in each.files.values()]
    claim(folder, [*BESIDE.get(kind, ()), *names], kind=kind, make=make)


def _all(kind: str) -> list[Shown]:
    return [Shown(picture.name, picture, None) for picture in of_page(kind)]


def left_out(page: str, results: Any) -> dict[str, str]:
    """Titles of the figures of a page that cannot be drawn from these results, and why not."""
    reasons = {picture.title: picture.missing(results) for picture in of_page(page)}
    return {typeset(title): typeset(reason) for title, reason in reasons.items() if reason}


@dataclass(frozen=True)
class Page:
    """A page and what lies beside it.

    Attributes:
        kind: a key of `initstats.plots.catalog.PAGES`, and the name of its template.
        values: what the template asks for.
        figures: in the order of the page.
        tables: files for other programs: a data frame as CSV, or text, by the file's name.
    """

    kind: str
    values: Mapping[str, Any]
    figures: Sequence[Shown] = ()
    tables: Mapping[str, pd.DataFrame | str] = field(default_factory=dict)

    def publish(self, folder: str | Path, files: Files = FILES) -> Report:
        """Write `index.html`, a page that needs no other file; then its `figures/` and long tables.

        The page is written again when these are in their place, with links to them.

        Returns:
            The path of the page.

        Raises:
            ValueError: the folder holds somebody else's page, or one of another kind; a figure is
                wanted that the page has not.
            OSError: the folder cannot be written.
        """
        files.check(self.kind)
        folder, pictures = Path(folder), files.among(self.figures)
        long = [name for name, table in self.tables.items() if len(_lines(table)) > LONG]
        paths = [path for picture in pictures for path in picture.files.values()]
        claim(folder, [*self.tables, *paths], kind=self.kind, make=False)
        with drafted(folder, self.kind) as draft:
            soon = [name for name in self.tables if name not in long]
            for name in soon:
                _write(self.tables[name], draft / name)
            (draft / PAGE).write_text(self.html(soon, up=index_above(folder)), encoding="utf-8")
        files.ready(folder / PAGE)
        if pictures or long:
            with drafted(folder, self.kind) as draft:
                self._complete(draft, pictures, long, files.workers)
        return Report(folder / PAGE)

    def _complete(
        self, draft: Path, pictures: Sequence[Shown], tables: Sequence[str], workers: int
    ) -> None:
        """Write what the page did not wait for, and the page with links to it."""
        if pictures:
            (draft / PICTURES).mkdir()
        with Studio(draft / PICTURES, workers) as studio:
            studio.begin(pictures)
            for name in tables:
                _write(self.tables[name], draft / name)
            studio.finish()
        html = self.html(self.tables, pictures, index_above(draft.parent))
        (draft / PAGE).write_text(html, encoding="utf-8")

    def html(
        self,
        tables: Collection[str] | None = None,
        pictures: Sequence[Shown] = (),
        up: str = "",
    ) -> str:
        """The page as HTML.

        Args:
            tables, pictures: the files beside it, which it may link to; None is all tables.
            up: the path of the index of all pages, if there is one.
        """
        values = {
            **self.values,
            "version": __version__,
            "edition": edition(self.kind),
            "up": up,
            "files": [*(self.tables if tables is None else tables)],
            "figures": {each.name: each for each in self.figures if each.picture.inline},
            "beside": [each for each in pictures if not each.picture.inline],
        }
        paths = [path for picture in pictures for path in picture.files.values()]
        page = ENVIRONMENT.get_template(f"{self.kind}.html").render(values)
        # tables are ours before they are there: earlier ones stay in their place until then
        return page + beside([*self.tables, *paths])


def _lines(table: pd.DataFrame | str) -> Sized:
    """The rows of a table; a text is short."""
    return () if isinstance(table, str) else table


def edition(kind: str) -> str:
    """The kind of a page with a digest of its templates and of the captions of its figures."""
    pending, sources = [f"{kind}.html"], dict[str, str]()
    while pending:
        name = pending.pop()
        if name not in sources:
            sources[name] = LOADER.get_source(ENVIRONMENT, name)[0]
            pending += filter(None, find_referenced_templates(ENVIRONMENT.parse(sources[name])))
    words = [sources[name] for name in sorted(sources)]
    words += [text for picture in of_page(kind) for text in (picture.title, picture.caption)]
    return f"{kind} {hashlib.sha256(repr(words).encode()).hexdigest()[:16]}"


def names(spellings: Sequence[object]) -> Markup:
    """A list of names in a sentence, set as code; a long list is cut."""
    items = [Markup("<code>{}</code>").format(name) for name in spellings]
    if len(items) > MOST_NAMES:
        items[MOST_NAMES - 1 :] = [Markup("{} more").format(len(items) - MOST_NAMES + 1)]
    *front, last = items or [Markup("none")]
    return Markup(" and ").join([Markup(", ").join(front), last]) if front else last


def _write(table: pd.DataFrame | str, path: Path) -> None:
    if isinstance(table, str):
        path.write_text(table, encoding="utf-8")
    elif path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    elif len(table) > LONG:
        _write_long(table, path)
    else:
        table.to_csv(path, index=False)


def _write_long(table: pd.DataFrame, path: Path) -> None:
    """Write what `to_csv` writes of numbers and names, in two thirds of its time."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator=os.linesep)
        writer.writerow(table.columns)
        for start in range(0, len(table), LONG):
            part = table.iloc[start : start + LONG]
            writer.writerows(zip(*[_entries(part[name]) for name in part], strict=True))


def _entries(column: pd.Series) -> list[Any]:
    """The entries of a column, None where one is missing."""
    missing = column.isna()
    return (column.astype(object).where(~missing, None) if missing.any() else column).tolist()


LOADER = PackageLoader("initstats")
ENVIRONMENT = Environment(
    loader=LOADER,
    autoescape=True,  # names come from users
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    each.__name__: each
    for each in (breakable, decimal, factor, humps, inlined, names, percent, significant)
}
