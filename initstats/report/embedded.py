"""The path of a page, as which a notebook shows the page itself."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Concrete = Path
else:  # before Python 3.12, only the class of this system's paths can be extended
    Concrete = type(Path())
HEIGHT = 720
"""Pixels of a page within a notebook; it scrolls."""


class Report(Concrete):
    """The path of a page that was written; in a notebook, the page.

    The page is shown in a frame that may run the page's own scripts and save files that it offers,
    and reaches nothing of the notebook.
    """

    def _repr_html_(self) -> str | None:
        """The page in a frame; None where there is none any more, or a folder."""
        if not self.is_file():
            return None
        page = escape(self.read_text(encoding="utf-8"))
        return (
            f'<iframe title="{escape(str(self))}" sandbox="allow-scripts allow-downloads" '
            f'style="width: 100%; height: {HEIGHT}px; border: 0" srcdoc="{page}"></iframe>'
        )
