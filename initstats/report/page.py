"""A page: a template, what it asks for, figures and files, drafted beside its folder and published.

Each kind of page is a template of its name. Its head tells the edition, which changes with every
template and caption: a published page that is older than the words of today says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.meta import find_referenced_templates
from markupsafe import Markup

from initstats import __version__
from initstats.plots import of_page
from initstats.plots.style import decimal
from initstats.report.drawing import Drawing, draw
from initstats.report.folder import PAGE, PICTURES, beside, claim, drafted
from initstats.report.printed import factor, percent, significant, typeset

MOST_NAMES = 6
"""Longer lists of names are cut in sentences."""


@dataclass(frozen=True)
class Shown:
    """A figure on a page, under its title and over its caption.

    Attributes:
        name: its id on the page, and the name of its files.
        finish: what draws it, or waits until somebody else has.
    """

    name: str
    title: str
    caption: str
    finish: Callable[[], Drawing]

    @cached_property
    def drawing(self) -> Drawing:
        """The figure as files."""
        return self.finish()

    @property
    def svg(self) -> Markup:
        """The drawing as markup."""
        return Markup(self.drawing.inline)


def figures_of(
    page: str,
    results: Any,
    *,
    suffix: str = "",
    begin: Callable[[Sequence[str], Any], Sequence[Callable[[], Drawing]]] | None = None,
) -> list[Shown]:
    """All figures of a kind of page that can be drawn from these results.

    Args:
        page: a key of `PAGES`.
        results: of that page.
        suffix: an end of their names, where a page shows them several times.
        begin: a method of a `Studio`, which draws them; None draws them here.
    """
    pictures = [picture for picture in of_page(page) if not picture.missing(results)]
    finish = (
        begin([picture.name for picture in pictures], results)
        if begin
        else [partial(draw, each.name, results, each.name + suffix) for each in pictures]
    )
    return [
        Shown(picture.name + suffix, typeset(picture.title), typeset(picture.caption), drawn)
        for picture, drawn in zip(pictures, finish, strict=True)
    ]


BESIDE = {
    "bench": ("bench.json",),
    "lesson": ("lesson.csv", "timings.csv", "draws.csv"),
    "model": ("table.csv", "findings.csv", "missed.csv"),
    "training": ("comparisons.csv", "variants.csv", "table.csv"),
    "study": ("table.csv", "table.parquet", "summary.csv"),
    "comparison": ("differences.csv", "verdicts.csv"),
}
"""The tables that may lie beside a kind of page."""


def claim_page(kind: str, folder: Path, *, make: bool = True) -> None:
    """Make sure, before the work for a kind of page, that it may be written into a folder.

    Args:
        make: whether to make the folder, if need be.

    Raises:
        ValueError, OSError: as `claim`.
    """
    names = [f"{PICTURES}/{each.name}.{end}" for each in of_page(kind) for end in ("png", "svg")]
    claim(folder, [*BESIDE[kind], *names], make=make)


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

    def publish(self, folder: str | Path) -> Path:
        """Write `index.html`, a page that needs no other file, its `figures/` and its tables.

        Returns:
            The path of the page.

        Raises:
            ValueError: the folder holds somebody else's page.
            OSError: the folder cannot be written.
        """
        with drafted(folder) as draft:
            for name, table in self.tables.items():
                _write(table, draft / name)
            (draft / PICTURES).mkdir()
            for figure in self.figures:
                picture = str(draft / PICTURES / figure.name)
                Path(picture + ".png").write_bytes(figure.drawing.png)
                Path(picture + ".svg").write_text(figure.drawing.svg, encoding="utf-8")
            html = self.html() + beside(self.tables)
            (draft / PAGE).write_text(html, encoding="utf-8")
        return Path(folder) / PAGE

    def html(self) -> str:
        """The page as HTML."""
        common = {"version": __version__, "edition": edition(self.kind), "files": [*self.tables]}
        figures = {figure.name: figure for figure in self.figures}
        template = ENVIRONMENT.get_template(f"{self.kind}.html")
        return template.render(self.values, figures=figures, **common)


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
    else:
        table.to_csv(path, index=False)


LOADER = PackageLoader("initstats")
ENVIRONMENT = Environment(
    loader=LOADER,
    autoescape=True,  # names come from users
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    each.__name__: each for each in (decimal, factor, names, percent, significant)
}
