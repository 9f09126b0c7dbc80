"""The style of all figures: ink, colours, type, and how numbers and names are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap, to_rgba
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
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
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
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own type
    "svg.hashsalt": "initstats",
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "ps.fonttype": 42,
    "path.simplify": False,
}

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class StyledFigure(Figure):
    """A figure that is laid out by its contents, and always saved in `STYLE`; size in inches."""

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
    """Colour, dashes and width (points) of a line, the same for a name in all figures of a page."""

    color: str
    linestyle: tuple[float, tuple[float, ...]] = (0, ())
    lw: float = 1.6


def strokes(names: Sequence[str]) -> dict[str, Stroke]:
    """A colour for each name and, where colours run out, another dash."""
    return {
        name: Stroke(PALETTE[i % len(PALETTE)], (0, DASHES[i // len(PALETTE) % len(DASHES)]))
        for i, name in enumerate(names)
    }


def diverging() -> LinearSegmentedColormap:
    """Colours from too small, through transparent, to too large."""
    stops = [(0.0, BELOW, 1), (0.5, BELOW, 0), (0.5, ABOVE, 0), (1.0, ABOVE, 1)]
    return LinearSegmentedColormap.from_list(
        "below-above", [(at, to_rgba(color, alpha)) for at, color, alpha in stops]
    )


def sequential(color: str) -> LinearSegmentedColormap:
    """Colours from transparent to a colour."""
    return LinearSegmentedColormap.from_list("paper", [to_rgba(color, 0), to_rgba(color, 1)])


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

    >>> decimal(-0.04, 1), decimal(-1.25, 2), decimal(float("-inf"), 1)
    ('0.0', '−1.25', '−∞')
    """
    return f"{number:z.{digits}f}".replace("-", "−").replace("inf", "∞")


@lru_cache(maxsize=4096)
def inches(text: str, size: float = 8.5, weight: str = "normal") -> float:
    """Width of a text's longest line in print, inches; `size` is in points."""
    font = FontProperties(family=STYLE["font.family"], size=size, weight=weight)
    measure = text_to_path.get_text_width_height_descent
    return float(max(measure(line, font, ismath=False)[0] for line in text.split("\n"))) / 72


def wrapped(name: str, width: int = 9) -> str:
    """A name over several lines: broken after "_", "," or ":", and before a parenthesis.

    >>> wrapped("general_relu(leak=0.2,sub=0.3)").split()
    ['general_', 'relu', '(leak=0.2,', 'sub=0.3)']
    """
    lines = [""]
    for piece in re.split(r"(?<=[_,:])|(?=\()", shortened(name)):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


def shortened(name: str) -> str:
    """A name that a figure has room for: of a very long one, its two ends.

    >>> shortened("relu"), len(shortened("very_" * 30))
    ('relu', 48)
    """
    return name if len(name) <= 48 else f"{name[:31]}…{name[-16:]}"
