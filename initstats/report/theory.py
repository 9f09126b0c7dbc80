"""The page of theory: the phase diagrams of activations, and the maps of their layers."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from initstats.report.page import FILES, Files, Page, figures_of
from initstats.report.printed import Column, printed, significant, typeset

if TYPE_CHECKING:
    from initstats.theory.diagram import Diagram

LONGEST = 50
"""The letters of a name in those of files: in four bytes each, systems take 255 in all."""


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
            "words": _sigmas(typeset(diagram.words)),
            "unbiased": _without_biases(diagram),
            "figures": figures_of("theory", diagram, suffix=f"_{name}"),
            "inits": printed(known, INITS),
            "absent": diagram.inits[diagram.inits["note"] != ""].to_dict("records"),
        }
    figures = [figure for chapter in chapters.values() for figure in chapter["figures"]]
    return Page("theory", {"chapters": list(chapters.values())}, figures).publish(folder, files)


def _without_biases(diagram: Diagram) -> list[str]:
    """The inits under which two inputs come together slower than exponentially.

    Without biases, a function such as relu multiplies the signal and its small differences by the
    same factor, chi_1 = chi_q, so that the correlation has no depth scale.
    """
    known = diagram.inits[diagram.inits["note"] == ""]
    slow = (known["sigma_b2"] == 0) & (known["c_star"] == 1) & np.isinf(known["xi_c"])
    return [str(name) for name in known.loc[slow, "init"]]


def _sigmas(words: str) -> Markup:
    """The words with the signs of formulas in place of the names that the API has for them."""
    text = str(escape(words))
    for name, sign in SIGNS.items():
        text = re.sub(rf"\b{name}\b", str(sign), text)
    return Markup(text)


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


SIGNS = {
    "sigma_w2": Markup("σ<sub>w</sub>²"),
    "sigma_b2": Markup("σ<sub>b</sub>²"),
    "sigma_w": Markup("σ<sub>w</sub>"),
    "q_star": Markup("q*"),
    "chi_1": Markup("χ₁"),
    "chi_q": Markup("χ<sub>q</sub>"),
    "xi_c": Markup("ξ<sub>c</sub>"),
    "c_star": Markup("c*"),
}
"""What formulas call the numbers of a fixed point."""
INITS = [
    Column("init", "head"),
    Column("phase", "word", _phase, ("chi_1",)),
    *(
        Column(SIGNS[name], "number", partial(significant, digits=4), (name,))
        for name in ("sigma_w2", "sigma_b2", "q_star", "chi_1", "chi_q", "xi_c", "c_star")
    ),
]
