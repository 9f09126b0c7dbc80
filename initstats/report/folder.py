"""The folder of a page: files are written into a draft beside it and moved there, the page last.

An interruption leaves the earlier page readable, and nobody else's page is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from initstats.drafts import draft_folder

PAGE, PICTURES = "index.html", "figures"
_OURS = re.compile(r'<meta name="generator" content="initstats[ "]')
"""What the head of each of our pages says."""
_SHOWN = re.compile(r'<figcaption id="([\w.=,-]+)-caption">')
"""How our pages name what they show: a caption's id begins as the picture's file does."""


@contextmanager
def drafted(folder: str | Path) -> Iterator[Path]:
    """A folder to write into, whose files replace an earlier page if nothing goes wrong.

    Pictures that only the earlier page showed go with it; all other files stay.

    Args:
        folder: where the page goes; made if need be.

    Raises:
        ValueError: somebody else's page is there.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        earlier = claim(folder)
        with draft_folder(folder, ".draft-") as draft:
            yield draft
            _publish(draft, folder, earlier)
    except OSError as error:
        raise OSError(f"cannot write the page into {folder}: {error.strerror or error}") from error


def claim(folder: Path) -> set[str]:
    """Make sure that a page may be written into a folder, which is made if need be.

    Returns:
        The files of the pictures that an earlier page of ours shows there.

    Raises:
        ValueError: somebody else's page is there, or the folder is a file.
        OSError: the folder cannot be made.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name a folder for the page")
    page = folder / PAGE
    html = page.read_text(encoding="utf-8", errors="replace") if page.exists() else ""
    if html and not _OURS.search(html, 0, 2000):
        raise ValueError(f"{page} is not a page of initstats: choose another folder, or move it")
    folder.mkdir(parents=True, exist_ok=True)
    return {f"{name}.{kind}" for name in _SHOWN.findall(html) for kind in ("png", "svg")}


def _publish(draft: Path, folder: Path, earlier: set[str]) -> None:
    """Move a draft to its place, its page last."""
    files = [path for path in draft.rglob("*") if path.is_file()]
    (folder / PICTURES).mkdir(exist_ok=True)
    for stale in earlier - {path.name for path in files}:
        (folder / PICTURES / stale).unlink(missing_ok=True)
    for path in sorted(files, key=lambda path: path.name == PAGE):
        path.replace(folder / path.relative_to(draft))
