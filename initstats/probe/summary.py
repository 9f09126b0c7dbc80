"""A measured model in lines of text."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

BARS = "▁▂▃▄▅▆▇█"
KEYS = ["layer", "name", "op", "shape"]
SPARKS = 12
"""Width of a sparkline, in characters."""


def summarize_values(table: pd.DataFrame, histograms: pd.DataFrame) -> pd.DataFrame:
    """What one looks at first, of the values of the last step.

    Args:
        table, histograms: of a probe.

    Returns:
        `layer name op shape mean std` and `distribution`: a sparkline of the entries from the
        5% quantile less half the distance to that of 95%, to as far above it; `dead`, the share
        of units that are constant, and `nonfinite`, the number of entries.
    """
    rows = _values(table)
    counts = _values(histograms).groupby(KEYS, observed=True, sort=False)
    groups = {keys: group for keys, group in counts}  # noqa: C416 (for the types)
    return pd.DataFrame(
        {
            "layer": rows["layer"],
            "name": rows["name"],
            "op": rows["op"],
            "shape": rows["shape"],
            "mean": rows["mean"],
            "std": rows["std"],
            "distribution": [
                _sparkline(groups.get(tuple(keys)), low, high)
                for *keys, low, high in rows[[*KEYS, "q05", "q95"]].itertuples(index=False)
            ],
            "dead": rows["dead_fraction"],
            "nonfinite": rows["nonfinite"],
        }
    ).reset_index(drop=True)


def as_text(summary: pd.DataFrame, coverage: str) -> str:
    """The summary in aligned columns; the last line is the coverage."""
    lines = [("layer", "name", "op", "shape", "mean", "std", "", "dead", "")]
    lines += [
        (
            str(row["layer"]),
            str(row["name"]),
            str(row["op"]),
            str(row["shape"]),
            _number(row["mean"]),
            _number(row["std"]),
            str(row["distribution"]),
            "" if not row["dead"] > 0 else f"{row['dead']:.0%}",
            f"{row['nonfinite']:,} not finite" if row["nonfinite"] else "",
        )
        for _, row in summary.iterrows()
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    right = {0, 4, 5, 7}
    printed = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*printed, coverage])


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    """The forward values of the last step."""
    chosen = (rows["tensor"] != "weight") & (rows["direction"] == "forward")
    last: pd.DataFrame = rows[chosen & (rows["step"] == rows["step"].max())]
    return last


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
