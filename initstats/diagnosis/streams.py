"""What a verdict looks at where layers add to a stream, or norms stand between them."""

from __future__ import annotations

import numpy as np
import pandas as pd

TENTH = 10
"""The branches of which one is a tenth; fewer have none."""


def is_main(table: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row is of what goes through all layers: the stream, or pre-activations where a
    network has none.
    """
    stream, plain = table["tensor"] == "stream", table["tensor"] == "preactivation"
    if not stream.any():
        return plain
    return stream | (plain & ~table["network"].isin(table.loc[stream, "network"].unique()))


def read_rms(rms: pd.Series[float], normed: pd.Series[float]) -> pd.Series[float]:
    """The rms that counts: of what norms give where there are any, 1 before the first.

    Args:
        rms: of what goes through all layers, by cell and layer.
        normed: of what norms give, likewise.
    """
    if normed.empty:
        return rms
    cells = pd.MultiIndex.from_frame(normed.index.to_frame()[rms.index.names[:-1]])
    own = pd.MultiIndex.from_frame(rms.index.to_frame()[rms.index.names[:-1]])
    return normed.reindex(rms.index).fillna(1.0).where(own.isin(cells), rms)


def branch_shares(share: pd.Series[float]) -> pd.DataFrame:
    """What branches add, by cell and layer.

    Args:
        share: a branch's part of the square of the sum that it is added to; NaN where a layer has
            no branch.

    Returns:
        `share`, the sum over the layers so far, and `front`, the part of that sum which the first
        tenth of the branches adds; NaN before the first branch, and before the tenth.
    """
    wide = share.unstack("layer")
    known = wide.notna().to_numpy()
    number = known.cumsum(axis=1)
    total = np.nancumsum(wide.to_numpy(float), axis=1)
    first = np.ceil(number / TENTH)
    # the total at the layer that has as many branches behind it
    reached = np.array(
        [
            row[np.searchsorted(count, wanted).clip(max=len(row) - 1)]
            for row, count, wanted in zip(total, number, first, strict=True)
        ]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        front = np.where(number >= TENTH, reached / total, np.nan)
    found = {"share": np.where(number > 0, total, np.nan), "front": front}
    columns = {
        name: pd.DataFrame(values, wide.index, wide.columns).stack().reindex(share.index)
        for name, values in found.items()
    }
    return pd.DataFrame(columns, share.index)
