"""Theory as a page: the phase diagrams of activations, and the maps of their layers."""

from __future__ import annotations

import inspect
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from initstats import __version__
from initstats.plots.phases import maps, phases
from initstats.plots.style import STYLE
from initstats.report.drawing import Drawing, rendered
from initstats.report.page import EXTENT
from initstats.report.words import DASH, significant

if TYPE_CHECKING:
    from initstats.theory.diagram import Diagram

PAGE = "index.html"
_FIGURES = {"phases": ("Order, chaos, and the edge", phases), "maps": ("A layer's maps", maps)}
_NUMBERS = ("sigma_w2", "sigma_b2", "q_star", "chi_1", "chi_q", "xi_c", "c_star")


def write_theory(folder: str | Path, diagrams: Sequence[Diagram]) -> Path:
    """Write `index.html`, a page that needs no other file, and `figures/` (PNG and SVG).

    Args:
        folder: where to.
        diagrams: an activation each.

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    drawings = [
        [_drawn(name, number, diagram) for name in _FIGURES]
        for number, diagram in enumerate(diagrams)
    ]
    files: dict[Path, bytes] = {}
    for diagram, drawn in zip(diagrams, drawings, strict=True):
        for name, drawing in zip(_FIGURES, drawn, strict=True):
            place = folder / "figures" / f"{name}_{_plain(diagram.name)}"
            files[place.with_name(f"{place.name}.png")] = drawing.png
            files[place.with_name(f"{place.name}.svg")] = drawing.svg.encode()
    files[folder / PAGE] = _compose(diagrams, drawings).encode()  # last
    draft = Path(tempfile.mkdtemp(prefix=".theory-", dir=folder))
    try:
        for number, content in enumerate(files.values()):
            (draft / str(number)).write_bytes(content)
        for number, place in enumerate(files):
            (draft / str(number)).replace(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / PAGE


def _drawn(name: str, number: int, diagram: Diagram) -> Drawing:
    with mpl.rc_context(STYLE):
        return rendered(f"{name}-{number}", _FIGURES[name][1](diagram))


def _plain(name: str) -> str:
    """A spelling as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "._-=," else "_" for letter in name)


def _compose(diagrams: Sequence[Diagram], drawings: Sequence[Sequence[Drawing]]) -> str:
    environment = Environment(
        loader=PackageLoader("initstats"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("theory.html").render(
        css=Markup(environment.get_template("report.css").render()),
        header=_NUMBERS,
        chapters=[
            {
                "name": diagram.name,
                "id": f"activation-{number}",
                "words": diagram.words,
                "figures": [
                    _figure(name, drawing) for name, drawing in zip(_FIGURES, drawn, strict=True)
                ],
                "rows": _rows(diagram),
                "absent": dict(
                    diagram.inits.loc[diagram.inits["note"] != "", ["init", "note"]].to_numpy()
                ),
            }
            for number, (diagram, drawn) in enumerate(zip(diagrams, drawings, strict=True))
        ],
        version=__version__,
    )


def _figure(name: str, drawing: Drawing) -> dict[str, Any]:
    title, function = _FIGURES[name]
    return {
        "name": drawing.name,
        "title": title.replace("'", "’"),
        "caption": " ".join((inspect.getdoc(function) or "").split()).replace("'", "’"),
        "width": round(EXTENT * drawing.width),
        "svg": Markup(drawing.inline),
    }


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
