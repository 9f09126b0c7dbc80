"""The style of all figures: ink, colours, type, and how numbers and names are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import text_to_path

INK = "#1b1d21"
"""Text, axes and rules; a page replaces it by the colour of its own text."""
PAGE = 9.0
"""Width of a full figure, inches."""
BELOW, ABOVE, FIT = "#2f62b5", "#c23a10", "#0b7a75"
"""Colours of what is too small, too large, and as it should be."""
PALETTE = ("#2f62b5", "#c23a10", "#14a3b8", "#9c2f7d", "#c49a2a")
"""Colours of lines, told apart by readers with any colour vision, on white and on black."""
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.6), (1.2, 1.2))
"""Dashes of lines, the next ones where colours run out."""

_PREFERRED = ("Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
_INSTALLED = {font.name for font in fontManager.ttflist}

STYLE: Any = {
    "font.family": [name for name in _PREFERRED if name in _INSTALLED],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 4.0,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 2.0,
    "legend.handletextpad": 0.6,
    "legend.columnspacing": 1.4,
    "legend.labelspacing": 0.35,
    "figure.dpi": 200,
    "figure.facecolor": "none",
    "figure.titlesize": 8.5,
    "figure.titleweight": "bold",
    "figure.labelsize": 8.5,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.hspace": 0.0,
    "figure.constrained_layout.wspace": 0.0,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own type
    "svg.hashsalt": "initstats",
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "ps.fonttype": 42,
    "path.simplify": False,
}

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class StyledFigure(Figure):
    """A figure that is laid out by its contents, and saved in `STYLE` whenever that is.

    Args:
        size: width and height, inches.
    """

    def __init__(self, size: tuple[float, float]) -> None:
        super().__init__(figsize=size, layout="constrained")

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """As `Figure.savefig`."""
        with mpl.rc_context(STYLE):
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> bytes:
        """The picture that a notebook shows."""
        png = BytesIO()
        self.savefig(png, format="png", dpi=150, facecolor="white")
        return png.getvalue()


class Stroke(NamedTuple):
    """A line's colour and dashes, the same for a name in all figures of a page."""

    color: str
    dashes: tuple[float, ...] = ()
    weight: float = 1.6

    @property
    def linestyle(self) -> tuple[float, tuple[float, ...]]:
        """Offset and dashes, as matplotlib takes them."""
        return (0, self.dashes)


def strokes(names: Sequence[str]) -> dict[str, Stroke]:
    """A colour for each name and, where colours run out, another dash."""
    return {
        name: Stroke(PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)])
        for i, name in enumerate(names)
    }


def fade(color: str, alpha: float) -> tuple[float, float, float, float]:
    """A colour with an opacity of 0 to 1."""
    return (*to_rgb(color), float(np.clip(alpha, 0, 1)))


def diverging() -> LinearSegmentedColormap:
    """Colours from too small, through transparent, to too large."""
    stops = [fade(BELOW, 1), fade(BELOW, 0), fade(ABOVE, 0), fade(ABOVE, 1)]
    positions = (0, 0.5, 0.5, 1)
    return LinearSegmentedColormap.from_list(
        "below-above", list(zip(positions, stops, strict=True))
    )


def sequential(color: str) -> LinearSegmentedColormap:
    """Colours from transparent to a colour."""
    return LinearSegmentedColormap.from_list("paper", [fade(color, 0), fade(color, 1)])


def power_of_ten(exponent: int) -> str:
    """A power of ten in print.

    >>> [power_of_ten(exponent) for exponent in (-3, 0, 1, 2)]
    ['10⁻³', '1', '10', '10²']
    """
    if exponent in (0, 1):
        return str(10**exponent)
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def decimal(number: float, digits: int) -> str:
    """A number with a typographer's minus, and none before zero.

    >>> decimal(-0.04, 1), decimal(-1.25, 2)
    ('0.0', '−1.25')
    """
    text = f"{number:.{digits}f}"
    return (text[1:] if float(text) == 0 and text[0] == "-" else text).replace("-", "−")


@lru_cache(maxsize=4096)
def inches(text: str, size: float = 8.5, weight: str = "normal") -> float:
    """Width of a text's longest line in print, inches; `size` is in points."""
    font = FontProperties(family=STYLE["font.family"], size=size, weight=weight)
    lines = text.split("\n")
    widths = (
        text_to_path.get_text_width_height_descent(line, font, ismath=False) for line in lines
    )
    return float(max(width[0] for width in widths)) / 72


def wrapped(name: str, width: int = 9) -> str:
    """A name over several lines: broken after an underscore or comma, before a parenthesis.

    >>> wrapped("general_relu(leak=0.2,sub=0.3)").split()
    ['general_', 'relu', '(leak=0.2,', 'sub=0.3)']
    """
    lines = [""]
    for piece in re.split(r"(?<=[_,])|(?=\()", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines)
