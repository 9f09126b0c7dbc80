"""One hand for all figures: ink, colours, type, and how numbers and names are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.font_manager import fontManager

INK = "#1b1d21"
"""Text, axes and rules; a page replaces it by the colour of its own text."""
PAGE = 9.0
"""Width of a full figure, inches."""
BELOW, ABOVE, FIT = "#2f62b5", "#c23a10", "#0b7a75"
"""Too small, too large, and as it should be."""
PALETTE = ("#2f62b5", "#c23a10", "#14a3b8", "#9c2f7d", "#c49a2a")
"""Told apart by readers with any colour vision, on white and on black."""
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.6), (1.2, 1.2))
"""Where colours run out, lines differ by these."""

_PREFERRED = ("Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
_INSTALLED = {font.name for font in fontManager.ttflist}

STYLE: Any = {
    "font.family": [name for name in _PREFERRED if name in _INSTALLED],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
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
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own type
    "svg.hashsalt": "initstats",
    "path.simplify": False,
}

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Stroke(NamedTuple):
    """How a name's line is drawn, throughout a report."""

    color: str
    dashes: tuple[float, ...]

    @property
    def linestyle(self) -> tuple[float, tuple[float, ...]]:
        """As matplotlib takes it."""
        return (0, self.dashes)


def strokes(names: Sequence[str]) -> dict[str, Stroke]:
    """A colour for each name and, where colours run out, another dash."""
    return {
        name: Stroke(PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)])
        for i, name in enumerate(names)
    }


def fade(color: str, alpha: float) -> tuple[float, float, float, float]:
    """A colour that lets the paper through."""
    return (*to_rgb(color), float(np.clip(alpha, 0, 1)))


def diverging() -> LinearSegmentedColormap:
    """From too small over bare paper to too large."""
    stops = [fade(BELOW, 1), fade(BELOW, 0), fade(ABOVE, 0), fade(ABOVE, 1)]
    positions = (0, 0.5, 0.5, 1)
    return LinearSegmentedColormap.from_list(
        "below-above", list(zip(positions, stops, strict=True))
    )


def sequential(color: str) -> LinearSegmentedColormap:
    """From bare paper to a colour."""
    return LinearSegmentedColormap.from_list("paper", [fade(color, 0), fade(color, 1)])


def power_of_ten(exponent: int) -> str:
    """As it is printed.

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
    return "\n".join(lines)
