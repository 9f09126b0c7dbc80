"""The index of a folder's pages: a picture, a title and a sentence each."""

from __future__ import annotations

import re
from html import unescape
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from initstats.plots import of_page
from initstats.report.embedded import Report
from initstats.report.folder import NEAR, PAGE, PICTURES
from initstats.report.page import FILES, Files, Page

KINDS = {
    "study": "Does the signal survive?",
    "model": "Models, checked",
    "audit": "Initialized as meant?",
    "coordinates": "Models over width",
    "training": "Does it train better?",
    "theory": "What should happen",
    "architectures": "Which architectures survive",
    "comparison": "Side by side",
    "lesson": "The foundations",
    "bench": "How fast it is",
}
"""The kinds of pages, in the order of the index, and their headings."""
_KIND = re.compile(r'<meta name="initstats-page" content="([a-z]+) ')
_TITLE = re.compile(r"<h1>(.*?)</h1>", re.DOTALL)
_TOPIC = re.compile(r'<p class="topic">(.*?)</p>', re.DOTALL)
_LEAD = re.compile(r'<p class="lead">(.*?)</p>', re.DOTALL)


class Entry(NamedTuple):
    """A page in the index; the paths are relative to it, and the picture's may be empty."""

    kind: str
    path: str
    title: str
    topic: str
    lead: str
    picture: str

    @property
    def folder(self) -> str:
        """The page's folder, as people call it."""
        return unquote(self.path.rpartition("/")[0])


def write_index(folder: str | Path, files: Files = FILES) -> Report:
    """Write an `index.html` with a link to each page of ours below a folder, four levels deep.

    Pages that are written anew below the folder link back to it.

    Args:
        folder: whose pages are listed, as `reports`.
        files: of which only `ready` matters here.

    Returns:
        The path of the index.

    Raises:
        ValueError: there is no page; the folder holds another page.
        OSError: the folder cannot be read or written.
    """
    folder = Path(folder)
    found = entries(folder)
    if not found:
        raise ValueError(f"{folder} holds no page of initstats, nor do the folders in it")
    kinds = {
        heading: [entry for entry in found if entry.kind == kind] for kind, heading in KINDS.items()
    }
    listed = {heading: members for heading, members in kinds.items() if members}
    return Page("index", {"kinds": listed, "count": len(found)}).publish(folder, files)


def entries(folder: Path) -> list[Entry]:
    """The pages of ours below a folder, in the order of their paths."""
    found = []
    below = (folder.glob(f"{'*/' * levels}{PAGE}") for levels in range(1, NEAR + 1))
    for page in sorted(chain.from_iterable(below)):
        if any(part.startswith(".") for part in page.relative_to(folder).parts):
            continue
        html = page.read_text(encoding="utf-8", errors="replace")
        kind = _KIND.search(html, 0, 4000)
        if kind and kind[1] in KINDS:
            title, topic, lead = (_text(pattern, html) for pattern in (_TITLE, _TOPIC, _LEAD))
            path = page.relative_to(folder)
            picture = _picture(folder, path, kind[1])
            found.append(Entry(kind[1], _link(path), title, topic, lead, picture))
    return found


def _text(pattern: re.Pattern[str], html: str) -> str:
    """What a page says there, without markup."""
    found = pattern.search(html)
    return " ".join(unescape(re.sub(r"<[^>]*>", "", found[1])).split()) if found else ""


def _picture(folder: Path, path: Path, kind: str) -> str:
    """The first picture of a page, in the order of the catalogue."""
    pictures = sorted((folder / path.parent / PICTURES).glob("*.png"))
    order = [figure.name for figure in of_page(kind)]

    def place(picture: Path) -> int:
        places = (n for n, name in enumerate(order) if picture.stem.startswith(name))
        return next(places, len(order))

    return _link(min(pictures, key=place).relative_to(folder)) if pictures else ""


def _link(path: Path) -> str:
    return quote(path.as_posix())
