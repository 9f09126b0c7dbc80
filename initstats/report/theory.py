"""Theory as a page: the phase diagrams of activations, and the maps of their layers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initstats.plots import Picture, of_page
from initstats.report.drawing import rendered
from initstats.report.folder import PAGE, drafted, fill
from initstats.report.frame import Shown, render, shown
from initstats.report.words import DASH, significant

if TYPE_CHECKING:
    from initstats.theory.diagram import Diagram

_NUMBERS = ("sigma_w2", "sigma_b2", "q_star", "chi_1", "chi_q", "xi_c", "c_star")


def write_theory(folder: str | Path, diagrams: Sequence[Diagram]) -> Path:
    """Write `index.html`, a page that needs no other file, and `figures/` (PNG and SVG).

    Args:
        folder: where to.
        diagrams: an activation each.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds somebody else's page.
        OSError: the folder cannot be written.
    """
    with drafted(folder) as draft:
        chapters: list[dict[str, Any]] = []
        for diagram in diagrams:
            taken = {chapter["id"] for chapter in chapters}
            chapters.append(_chapter(diagram, _free(diagram.name, taken)))
        columns = {"init": "head", "phase": "word"} | dict.fromkeys(_NUMBERS, "number")
        page = render("theory.html", {"chapters": chapters, "columns": columns})
        fill(draft, page, [figure.drawing for chapter in chapters for figure in chapter["figures"]])
    return Path(folder) / PAGE


def _free(name: str, taken: Collection[str]) -> str:
    """A spelling as a name of files and ids, that is not taken yet."""
    plain = "".join(letter if letter.isalnum() or letter in "._-=," else "_" for letter in name)
    while plain in taken:
        plain += "_"
    return plain


def _chapter(diagram: Diagram, name: str) -> dict[str, Any]:
    """What the page says of an activation."""
    absent = diagram.inits[diagram.inits["note"] != ""]
    return {
        "id": name,
        "name": diagram.name,
        "words": diagram.words,
        "figures": [_figure(picture, name, diagram) for picture in of_page("theory")],
        "rows": _rows(diagram),
        "absent": dict(zip(absent["init"], absent["note"], strict=True)),
    }


def _figure(picture: Picture, name: str, diagram: Diagram) -> Shown:
    drawing = rendered(f"{picture.name}_{name}", partial(picture.draw, diagram))
    return shown(drawing, picture.title, picture.drawing)


def _rows(diagram: Diagram) -> list[dict[str, str]]:
    """The inits that have a place, as printed."""
    known = diagram.inits[diagram.inits["note"] == ""]
    return [
        {"init": row["init"], "phase": _phase(row["chi_1"])}
        | {name: DASH if math.isnan(row[name]) else significant(row[name], 4) for name in _NUMBERS}
        for _, row in known.iterrows()
    ]


def _phase(chi_1: float) -> str:
    if abs(chi_1 - 1) < 1e-9:
        return "edge"
    return "chaos" if chi_1 > 1 else "order"
