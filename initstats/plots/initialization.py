"""Figures of an audit: the scale of each parameter over the blocks, and against its inputs."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from initstats.plots.catalog import register_figure
from initstats.plots.curves import NUMBER, Array, apart, decorate, mark, note
from initstats.plots.grid import LINE, NARROW, add_key
from initstats.plots.results import evenly, order
from initstats.plots.style import (
    ABOVE,
    FIT,
    INK,
    PAGE,
    Stroke,
    StyledFigure,
    inches,
    shortened,
    strokes,
)
from initstats.registry import Need

OTHERS = "others"
LINES = 10
"""Lines that have a name and a colour of their own; more are thin and grey."""
RINGED = 6
"""Parameters beside whose ring their name is written."""
MANY = 60
"""Blocks of which not each has a dot."""
ROWS = 40
"""Rows of a figure; of more, those with a finding, and some of the others, evenly taken."""
MARKS = {
    "1/√3: torch's default": (3**-0.5, (1.2, 1.6)),
    "1: a linear layer keeps its input's size": (1.0, ()),
    "√2: so does one that relu follows": (2**0.5, (4, 1.6)),
}
"""What std times the square root of fan_in usually is."""
_BLOCK = re.compile(r"((?:[^.]*\.)*?\d+)(?:\.(.*))?$")
_STAGED = re.compile(r"((?:[^.]*\.)*?\d+(?:\.\d+)*)(?:\.(.*))?$")

BLOCKS = Need[Any](
    lambda found: over_blocks(found).groupby("line")["at"].nunique().max() > 1,
    "no parameter that was drawn has its like in another block",
)
WEIGHTS = Need[Any](lambda found: len(by_fan(found)) > 0, "no weight of known inputs was drawn")


def over_blocks(found: Any) -> pd.DataFrame:
    """The standard deviations of parameters that blocks have in common, by block.

    Returns:
        A row for each: `parameter`, its `block` (the name up to its number) and what it is `line`
        in it, the block's position `at` (from 1), `std` (0 of what was not drawn), `expected` by
        the `formula`, and `fault`, the rule of the error or warning that names it.
    """
    faults, rows = _faults(found), []
    pattern = _pattern([each.name for each in found.parameters])
    for each in found.parameters:
        block = pattern.match(each.name)
        if block:
            formula = found.formulas.get(each.name)
            is_drawn = each.by_chance and each.std > 0
            rows.append(
                {
                    "parameter": each.name,
                    "block": block[1],
                    "line": block[2] or each.role,
                    "std": each.std if is_drawn else 0.0,
                    "expected": formula.value if formula else math.nan,
                    "formula": formula.text if formula else "",
                    "fault": faults.get(each.name, ""),
                    "weight": each.kind == "weight",
                }
            )
    columns = ["parameter", "block", "line", "std", "expected", "formula", "fault", "weight"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.insert(2, "at", pd.factorize(frame["block"])[0] + 1)
    drawn = set(frame.loc[frame["std"] > 0, "line"])
    shown = (frame["std"] > 0) | ((frame["fault"] != "") & frame["line"].isin(drawn))
    return frame[shown].reset_index(drop=True)


@register_figure(
    page="audit",
    title="Scales over the blocks",
    data=over_blocks,
    needs=[BLOCKS],
)
def scales_over_blocks(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Each line is one parameter of all blocks: the standard deviation of its entries in one block
    after the other. A dotted line is what the formula below the name gives, the usual one that fits
    all blocks best. A line on its dotted line was drawn as it is written there. Rings mark the
    parameters that an error or a warning names; a triangle at the bottom is one that was not drawn.
    """
    named = _named(frame)
    styles = strokes(named)
    is_wide = width > NARROW
    figure = StyledFigure((width, max(2.7, 0.3 * len(named) * is_wide + 0.7)))
    axes = figure.subplots()
    lines = frame.assign(height=NUMBER.height(frame["std"]))
    limits = NUMBER.limits(lines["height"].to_numpy())
    decorate([axes], NUMBER, limits)
    last = int(frame["at"].max())
    axes.set_xlim(0.6, last + 0.4)
    _block_ticks(axes, frame, width - 0.8 - 2 * is_wide)
    figure.supxlabel("block")
    figure.supylabel("standard deviation")
    for name, rows in lines.groupby("line", sort=False):
        _line(axes, rows, styles.get(str(name)), limits)
    if is_wide:
        _name_lines(axes, lines, styles, last, limits)
    else:
        add_key(figure, {n: Line2D([], [], **s._asdict()) for n, s in styles.items()})
    _rings(axes, lines, limits, is_wide)
    return figure


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    """What splits a name behind its block: at its first number, or the last of several in a row.

    The first one where two thirds of the blocks, at least, have what another one has, too; else it
    is that of a stage of several blocks.
    """
    held: dict[str, list[str]] = {}
    for found in filter(None, map(_BLOCK.match, names)):
        held.setdefault(found[1], []).append(found[2] or "")
    alike = Counter(map(tuple, held.values()))
    shared = sum(count for count in alike.values() if count > 1)
    return _BLOCK if 3 * shared >= 2 * len(held) else _STAGED


def _faults(found: Any) -> dict[str, str]:
    """The rule of the gravest error or warning, by the parameter that it names."""
    faults: dict[str, str] = {}
    for row in found.findings.to_dict("records"):
        if row["severity"] in ("error", "warning"):
            for name in found.named(str(row["where"])):
                faults.setdefault(name, str(row["rule"]))
    return faults


def _named(frame: pd.DataFrame) -> list[str]:
    """The lines with a colour of their own: those with a finding, of weights, of many blocks."""
    about = frame.assign(bad=frame["fault"] != "").groupby("line", sort=False)
    rank = about.agg(bad=("bad", "any"), weight=("weight", "any"), blocks=("at", "nunique"))
    best = rank.sort_values([*rank], ascending=False, kind="stable").index[:LINES]
    return [name for name in order(frame["line"]) if name in best]


def _block_ticks(axes: Axes, frame: pd.DataFrame, room: float) -> None:
    """The names of blocks, without what all have in common; some of them, where there are many."""
    blocks = frame.drop_duplicates("at").sort_values("at")
    names = [*blocks["block"]]
    heads = {name.rpartition(".")[0] for name in names}
    if len(heads) == 1:
        names = [name.rpartition(".")[2] for name in names]
    widest = max(inches(name, 7.5) for name in names) + 0.15
    step = math.ceil(len(names) * widest / room)
    shown = [*zip(blocks["at"], names, strict=True)][::step]
    axes.set_xticks([at for at, _ in shown], [shortened(name) for _, name in shown])


def _line(
    axes: Axes, rows: pd.DataFrame, stroke: Stroke | None, limits: tuple[float, float]
) -> None:
    """A parameter over the blocks, past those with a finding, and its formula."""
    at, heights = rows["at"].to_numpy(), rows["height"].to_numpy()
    color = stroke.color if stroke else to_rgba(INK, 0.25)
    known = np.isfinite(heights)
    sound = known & (rows["fault"] == "").to_numpy()
    dashes = stroke.linestyle if stroke else "-"
    axes.plot(at[sound], heights[sound], color=color, ls=dashes, lw=1.3 if stroke else 0.6)
    dotted = known if len(at) < MANY else ~sound & known
    axes.plot(at[dotted], heights[dotted], "o", color=color, ms=3.2, mew=0)
    for place in at[heights < limits[0]]:
        mark(axes, place, limits[0], "v", color)
    formula = rows.dropna(subset="expected")
    if stroke:
        expected = NUMBER.height(formula["expected"])
        axes.plot(formula["at"], expected, color=INK, ls=(0, (1, 1.6)), lw=0.9, zorder=4)


def _name_lines(
    axes: Axes,
    lines: pd.DataFrame,
    styles: dict[str, Stroke],
    last: int,
    limits: tuple[float, float],
) -> None:
    """Names and formulas of the lines, beside their ends."""
    ends = {}
    for name in styles:
        rows = lines[(lines["line"] == name) & (lines["std"] > 0)]
        known = rows["formula"][rows["formula"] != ""]
        formula = f"\n{known.mode().iloc[0]}" if len(known) else ""
        ends[f"{shortened(name)}{formula}"] = (float(rows["height"].iloc[-1]), styles[name].color)
    heights = np.array([height for height, _ in ends.values()]).clip(*limits)
    placed = apart(heights, limits, 0.27 / _height(axes))
    for (text, (_, color)), height in zip(ends.items(), placed, strict=True):
        note(axes, text, (last + 0.4, height), (4, 0), color=color, linespacing=1.1)


def _height(axes: Axes) -> float:
    """About the height of the panel, inches."""
    return float(axes.figure.bbox.height / axes.figure.dpi) - 0.6


def _rings(axes: Axes, lines: pd.DataFrame, limits: tuple[float, float], wide: bool) -> None:
    """Rings around parameters with a finding, and a name for each line of them, none on another."""
    rows = lines[lines["fault"] != ""]
    places = rows[["at", "height"]].to_numpy(dtype=float)
    places[:, 1] = places[:, 1].clip(*limits)
    _ring(axes, *places.T)
    taken = [*lines.loc[lines["fault"] == "", "height"].round(2).unique()]
    up = LINE / _height(axes) * (limits[1] - limits[0])
    (low, high), middle = limits, sum(axes.get_xlim()) / 2
    alike = rows.assign(height=places[:, 1]).groupby(["line", "fault"], sort=False)
    for (line, rule), group in [*alike][: RINGED if wide else 2]:
        at, height = group[["at", "height"]].to_numpy(dtype=float)[0]
        name = group["parameter"].iloc[0] if len(group) == 1 else f"{line} ({len(group)} blocks)"
        step = up if height < sum(limits) / 2 else -up
        beside = height + step
        while any(abs(beside - other) < 0.9 * up for other in taken) and low < beside < high:
            beside += step
        taken.append(beside)
        text = f"{shortened(str(name))}: {rule}" if wide else shortened(str(name))
        side = 1 if at < middle else -1
        style = {"ha": "left" if side > 0 else "right", "color": INK, "zorder": 7}
        note(axes, text, (at, beside), (3 * side, 0), **style)


def _ring(axes: Axes, at: Array, heights: Array) -> None:
    """Rings around points."""
    if len(at):  # no points would have room reserved for them in the figure's corner
        style: dict[str, Any] = {"mfc": "none", "mec": INK, "ms": 8, "mew": 1.1}
        axes.plot(at, heights, "o", clip_on=False, zorder=6, **style)


def by_fan(found: Any) -> pd.DataFrame:
    """The scales of weights times the square root of what a unit sums, for some roles.

    Returns:
        A row for each weight: `parameter`, `role`, the `row` of its role (of 40 at most), `scaled`
        and `expected`, its std and what the formula gives times sqrt(fan_in), and `fault`.
    """
    faults, rows = _faults(found), []
    for each in found.parameters:
        if each.kind == "weight" and each.by_chance and each.std > 0 and each.fan_in > 0:
            formula = found.formulas.get(each.name)
            root = math.sqrt(each.fan_in)
            is_std = formula and each.law.name != "orthogonal"
            expected = formula.value * root if is_std else math.nan
            fault = faults.get(each.name, "")
            rows.append((each.name, each.role, each.std * root, expected, fault))
    frame = pd.DataFrame(rows, columns=["parameter", "role", "scaled", "expected", "fault"])
    names = order(frame["role"])
    bad = {*frame.loc[frame["fault"] != "", "role"]}
    kept = {
        *evenly([name for name in names if name in bad], ROWS),
        *evenly([name for name in names if name not in bad], max(ROWS - len(bad), 0)),
    }
    frame = frame[frame["role"].isin(kept)].reset_index(drop=True)
    frame.insert(2, "row", pd.factorize(frame["role"])[0])
    return frame


@register_figure(
    page="audit", title="Scales against the number of inputs", data=by_fan, needs=[WEIGHTS]
)
def scales_by_fan(frame: pd.DataFrame, width: float = PAGE) -> Figure:
    """Each dot is one weight: the standard deviation of its entries times the square root of the
    number of inputs that a unit sums (fan_in). This is by how much a linear layer multiplies the
    size of an input that has no mean. The upright mark is what the fitting formula gives. Rings
    mark the weights that an error or a warning names.
    """
    names = order(frame["role"])
    labels = [shortened(name) for name in names]
    figure = StyledFigure((width, 0.165 * max(len(names), 3) + 0.65))
    axes = figure.subplots()
    key = {}
    for text, (value, dashes) in MARKS.items():
        style: dict[str, Any] = {"color": to_rgba(INK, 0.55), "lw": 0.8, "ls": (0, dashes)}
        axes.axvline(math.log10(value), zorder=0, **style)
        key[text] = Line2D([], [], **style)
    add_key(figure, key)
    heights = NUMBER.height(frame[["scaled", "expected"]])
    heights = np.append(heights[np.isfinite(heights)], [math.log10(v) for v, _ in MARKS.values()])
    limits = NUMBER.limits(heights)
    ticks = NUMBER.ticks(limits)
    axes.set_xlim(limits)
    axes.set_xticks(ticks, [NUMBER.label(tick) for tick in ticks])
    figure.supxlabel("standard deviation × √fan_in")
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylim(max(len(labels), 3) - 0.4, -0.6)
    _dots(axes, frame)
    return figure


def _dots(axes: Axes, frame: pd.DataFrame) -> None:
    """The weights, their formulas' values, and rings."""
    rows: Array = frame["row"].to_numpy(dtype=float)
    at = NUMBER.height(frame["scaled"])
    bad = (frame["fault"] != "").to_numpy()
    axes.plot(NUMBER.height(frame["expected"]), rows, "|", color=INK, ms=9, mew=1.2)
    for chosen, color in ((~bad, FIT), (bad, ABOVE)):
        axes.plot(at[chosen], rows[chosen], "o", color=color, ms=4.5, mew=0, alpha=0.8)
    _ring(axes, at[bad], rows[bad])
    axes.grid(axis="y", color=to_rgba(INK, 0.1), lw=0.5)
