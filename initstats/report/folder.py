"""The folder of a page: files are written into a draft beside it and moved there, the page last.

An interruption leaves the earlier page readable, and nobody else's file is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from initstats.drafts import draft_folder

PAGE, PICTURES = "index.html", "figures"
_DRAFT = ".draft-"
_OURS = re.compile(r'<meta name="generator" content="initstats[ "]')
"""What the head of each of our pages says."""
_SHOWN = re.compile(r'<figcaption id="([\w.=,-]+)-caption">')
"""How older pages name what they show: a caption's id begins as the picture's file does."""
_FILES = re.compile(r"<!-- files of this page: (.*) -->")
"""How our pages name the files that belong to them."""
_BESIDE = re.compile(r"<!-- beside this page: (.*) -->")
"""How older pages named those files that are no pictures of what they show."""
_INDEX = re.compile(r'<meta name="initstats-page" content="index ')
NEAR = 4
"""The folders above a page, of which one may hold the index."""
_KIND = re.compile(r'<meta name="initstats-page" content="(\w+) ')
"""How our pages tell what they are about."""


def beside(files: Iterable[str]) -> str:
    """The end of a page, by which its files are known again."""
    return f"<!-- files of this page: {' '.join(files)} -->\n"


@contextmanager
def drafted(folder: str | Path, kind: str = "") -> Iterator[Path]:
    """A folder to write into, whose files replace an earlier page if nothing goes wrong.

    Pictures that only the earlier page had go with it; all other files stay.

    Args:
        folder: where the page goes; made if need be.
        kind: of the page; see `claim`.

    Raises:
        ValueError: somebody else's page, one of another kind, or another file of theirs, is in the
            place of ours.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    claim(folder, kind=kind)
    ours = _ours(folder)  # before the drafts of the dead are swept
    with _complaints(folder), draft_folder(folder, _DRAFT) as draft:
        yield draft
        files = {str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file()}
        _publish(draft, folder, files, claim(folder, files, ours))


def claim(
    folder: Path,
    files: Collection[str] = (),
    ours: Collection[str] | None = None,
    *,
    kind: str = "",
    make: bool = True,
) -> set[str]:
    """Make sure that a page may be written into a folder.

    Args:
        files: the names of what will lie beside it, as far as they are known.
        ours: what belongs to earlier pages of ours there, if it is known.
        kind: of the page, as its head tells it; a page of another kind is in its place.
        make: whether to make the folder, if need be.

    Returns:
        The files of the pictures of an earlier page of ours there.

    Raises:
        ValueError: somebody else's page, one of another kind, or another file of theirs, is in the
            place of ours; or the folder is a file.
        OSError: the folder cannot be made.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name a folder for the page")
    page = folder / PAGE
    html = _read(page)
    if page.exists() and not page.is_file():
        raise ValueError(f"{page} is a folder, a pipe or a device: choose another folder")
    if (folder / PICTURES).exists() and not (folder / PICTURES).is_dir():
        raise ValueError(f"{folder / PICTURES} is no folder: choose another place for the page")
    if html and not _OURS.search(html, 0, 2000):
        raise ValueError(f"{page} is not a page of initstats: choose another folder, or move it")
    earlier = _KIND.search(html, 0, 2000)
    if kind and earlier and earlier[1] != kind:
        raise ValueError(
            f"{page} is a page of another kind ({earlier[1]}, not {kind}): choose another folder, "
            "or move it"
        )
    ours = _ours(folder) if ours is None else ours
    for name in files:
        if name != PAGE and (folder / name).exists() and not {name, Path(name).suffix} & {*ours}:
            raise ValueError(
                f"{folder / name} is of no earlier page of initstats: choose another folder, or "
                "move it"
            )
    if make:
        with _complaints(folder):
            folder.mkdir(parents=True, exist_ok=True)
    return {Path(name).name for name in _pictures(html)}


def index_above(folder: Path) -> str:
    """The relative path from a page's folder to the nearest index above it; empty if none is near.

    The folders above are read no farther than where the index of published pages may be.
    """
    for levels in range(1, NEAR + 1):
        for above in folder.resolve().parents[levels - 1 : levels]:
            with suppress(OSError), (above / PAGE).open(encoding="utf-8", errors="replace") as page:
                if _INDEX.search(page.read(2000)):
                    return f"{'../' * levels}{PAGE}"
    return ""


@contextmanager
def _complaints(folder: Path) -> Iterator[None]:
    """Say in a line why a page cannot be written."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write the page into {folder}: {error.strerror or error}") from error


def _ours(folder: Path) -> set[str]:
    """What belongs to an earlier page of ours, or all files with such a suffix.

    Drafts count, too: one that is there was left by a process that died while it moved the files.
    """
    pages = [folder / PAGE, *folder.glob(f"{_DRAFT}*/{PAGE}")]
    return {name for html in map(_read, pages) for name in (*_pictures(html), *_others(html))}


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""


def _pictures(html: str) -> set[str]:
    """The pictures that belong to a page; of an older one, those of what it shows."""
    if named := _FILES.search(html):
        return {name for name in named[1].split() if name.startswith(f"{PICTURES}/")}
    return {f"{PICTURES}/{name}.{kind}" for name in _SHOWN.findall(html) for kind in ("png", "svg")}


def _others(html: str) -> list[str]:
    """What else belongs to a page; of one that does not say so, all files of some suffixes."""
    named = _FILES.search(html) or _BESIDE.search(html)
    return named[1].split() if named else [".csv", ".parquet", ".json", ".toml"] if html else []


def _publish(draft: Path, folder: Path, files: set[str], earlier: set[str]) -> None:
    """Move a draft to its place, its page last; where that fails, nothing new stays."""
    if (draft / PICTURES).is_dir():
        (folder / PICTURES).mkdir(exist_ok=True)
    for stale in earlier - {Path(name).name for name in files}:
        (folder / PICTURES / stale).unlink(missing_ok=True)
    fresh = [folder / name for name in files if not (folder / name).exists()]
    try:
        for name in sorted(files, key=lambda name: name == PAGE):
            (draft / name).replace(folder / name)
    except BaseException:
        for path in fresh:
            path.unlink(missing_ok=True)
        raise
