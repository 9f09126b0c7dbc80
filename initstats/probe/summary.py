"""A measured model in lines of text."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

BARS = "▁▂▃▄▅▆▇█"
KEPT = ["layer", "name", "op", "shape"]
"""Columns of the table that a summary keeps."""
SPECTRA = ["participation_ratio", "stable_rank"]
"""Columns of the table that it has where spectra were measured."""
SPARKS = 12
"""Width of a sparkline, in characters."""


def summarize_values(table: pd.DataFrame, histograms: pd.DataFrame) -> pd.DataFrame:
    """The statistics of the last step that one looks at first.

    Args:
        table, histograms: what a probe's methods of these names give.

    Returns:
        `layer name op shape mean std`; `distribution`, a sparkline over the range between the 5%
        and the 95% quantile, widened by half of it on each side; `dead`, the share of units that
        are constant; `nonfinite`, the number of entries that are NaN or infinite; and, where
        spectra were measured, `participation_ratio`, and `stable_rank` of the weights at a layer.
    """
    rows = _values(table)
    counts = _values(histograms).groupby(KEPT, observed=True, sort=False)
    groups = {keys: group for keys, group in counts}  # noqa: C416 (for the types)
    lines = [
        _sparkline(groups.get(tuple(keys)), low, high)
        for *keys, low, high in rows[[*KEPT, "q05", "q95"]].itertuples(index=False)
    ]
    summary = rows[[*KEPT, "mean", "std"]].assign(
        distribution=lines, dead=rows["dead_fraction"], nonfinite=rows["nonfinite"]
    )
    if "stable_rank" in rows:  # the ratio alone is that of tokens
        weights = table[(table["tensor"] == "weight") & (table["step"] == table["step"].max())]
        ranks = weights.dropna(subset=["stable_rank"]).groupby("layer")["stable_rank"].first()
        summary["participation_ratio"] = rows["participation_ratio"]
        summary["stable_rank"] = rows["layer"].map(ranks)
    return summary.reset_index(drop=True)


def as_text(summary: pd.DataFrame, coverage: str) -> str:
    """The summary in aligned columns, with the coverage as the last line."""
    cells = _cells(summary)
    columns = []
    for name in cells:
        column = [name, *cells[name]]
        width = max(map(len, column))
        pad = str.rjust if name in ("layer", "mean", "std", "dead", *SPECTRA) else str.ljust
        columns.append([pad(cell, width) for cell in column])
    lines = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join([*lines, coverage])


def as_html(summary: pd.DataFrame, coverage: str) -> str:
    """The summary as a table for notebooks, with the coverage below."""
    with pd.option_context("display.max_colwidth", None):
        return f"{_cells(summary).to_html(index=False, border=0)}<p>{coverage}</p>"


def _cells(summary: pd.DataFrame) -> pd.DataFrame:
    """The printed entries of a summary, under their headings."""
    counts = summary["nonfinite"]
    columns = {
        **{name: summary[name].astype(str) for name in KEPT},
        "mean": summary["mean"].map(_number),
        "std": summary["std"].map(_number),
        "": summary["distribution"],
        "dead": ["" if not share > 0 else f"{share:.0%}" for share in summary["dead"]],
        " ": [f"{count:,} not finite" if count else "" for count in counts],
    }
    columns |= {
        name: ["" if math.isnan(value) else _number(value) for value in summary[name]]
        for name in SPECTRA
        if name in summary
    }
    return pd.DataFrame(columns)


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    """The forward values of the last step; in training, where it was measured in both modes."""
    chosen = (rows["tensor"] != "weight") & (rows["direction"] == "forward")
    last = rows[chosen & (rows["step"] == rows["step"].max())]
    first: pd.DataFrame = last[last["mode"] == last["mode"].max()]
    return first


def _sparkline(bins: pd.DataFrame | None, low: float, high: float) -> str:
    """The density over a range, as bars; blank where there is none."""
    if bins is None or not math.isfinite(high - low):
        return ""
    margin = (high - low) / 2 or max(abs(low), 1.0)
    edges = np.linspace(low - margin, high + margin, SPARKS + 1)
    finite = bins[np.isfinite(bins["low"]) & np.isfinite(bins["high"])]
    left, right = finite["low"].to_numpy(), finite["high"].to_numpy()
    # a bin's entries are spread evenly over it; zero has no width
    width = np.maximum(right - left, 1e-12 * (edges[-1] - edges[0]))
    inside = np.minimum(left[:, None] + width[:, None], edges[1:]) - np.maximum(
        left[:, None], edges[:-1]
    )
    share = (inside.clip(0) / width[:, None] * finite["count"].to_numpy()[:, None]).sum(axis=0)
    if not share.any():
        return ""
    heights = np.ceil(share / share.max() * (len(BARS) - 1)).astype(int)
    return "".join(BARS[height] for height in heights)


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"
