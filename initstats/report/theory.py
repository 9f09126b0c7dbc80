"""The page of theory: the phase diagrams of activations, and the maps of their layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initstats.report.page import FILES, Files, Page, figures_of
from initstats.report.printed import Column, printed, significant, typeset

if TYPE_CHECKING:
    from initstats.theory.diagram import Diagram

LONGEST = 50
"""The letters of a name in those of files: in four bytes each, systems take 255 in all."""
NUMBERS = ("sigma_w2", "sigma_b2", "q_star", "chi_1", "chi_q", "xi_c", "c_star")


def write_theory(folder: str | Path, diagrams: Sequence[Diagram], files: Files = FILES) -> Path:
    """Write `index.html`, a page that needs no other file, and `figures/` (PNG and SVG).

    Args:
        folder: where to.
        diagrams: one for each activation.
        files: those of figures that are wanted.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page, or one of another kind; no such figure.
        OSError: the folder cannot be written.
    """
    chapters: dict[str, dict[str, Any]] = {}
    for diagram in diagrams:
        name = _free(diagram.name, chapters)
        known = diagram.inits[diagram.inits["note"] == ""]
        chapters[name] = {
            "id": name,
            "name": diagram.name,
            "words": typeset(diagram.words),
            "figures": figures_of("theory", diagram, suffix=f"_{name}"),
            "inits": printed(known, INITS),
            "absent": diagram.inits[diagram.inits["note"] != ""].to_dict("records"),
        }
    figures = [figure for chapter in chapters.values() for figure in chapter["figures"]]
    return Page("theory", {"chapters": list(chapters.values())}, figures).publish(folder, files)


def _free(name: str, taken: Collection[str]) -> str:
    """The beginning of a spelling as a name of files and ids that is not taken yet."""
    those = name[:LONGEST]
    plain = "".join(letter if letter.isalnum() or letter in "._-=," else "_" for letter in those)
    while plain in taken:
        plain += "_"
    return plain


def _phase(chi_1: float) -> str:
    if abs(chi_1 - 1) < 1e-9:
        return "edge"
    return "chaos" if chi_1 > 1 else "order"


INITS = [
    Column("init", "head"),
    Column("phase", "word", _phase, ("chi_1",)),
    *(Column(name, "number", partial(significant, digits=4)) for name in NUMBERS),
]
