"""What was measured of a model, with what theory predicts laid beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd

KEYS = ["layer", "name", "op", "tensor", "direction"]
"""The columns that name a value of a model."""


def beside(table: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """The measured second moments and correlations of a model, and the predicted ones.

    Args:
        table: of `measure`, of one pass through the untrained model.
        predicted: of `predict_model`, for the same model and inputs.

    Returns:
        One row for each value and direction, in the order of the prediction: `layer name op tensor
        direction`; `measured` and `predicted`, the second moments; `ratio`, measured over
        predicted, 1 where both are 0, NaN where one is not known; `measured_correlation`,
        `predicted_correlation`, those of two samples; `claim` and `note` of the prediction. A
        prediction is the mean over draws, and what was measured is one draw, so that a narrow layer
        is off by chance.
    """
    names = {"second_moment": "measured", "sample_correlation": "measured_correlation"}
    kinds = dict.fromkeys(["name", "op", "tensor", "direction"], str)
    found = table[[*KEYS, *names]].rename(columns=names).astype(kinds)
    told = predicted.astype(kinds).rename(
        columns={"second_moment": "predicted", "sample_correlation": "predicted_correlation"}
    )
    rows = told.merge(found, on=KEYS, how="left")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = rows["measured"] / rows["predicted"]
    rows["ratio"] = ratio.mask((rows["measured"] == 0) & (rows["predicted"] == 0), 1.0)
    numbers = ["measured", "predicted", "ratio", "measured_correlation", "predicted_correlation"]
    return rows[[*KEYS, *numbers, "claim", "note"]]


def farthest(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """The rows of `beside` whose ratio is farthest from 1 in either direction, farthest first."""
    known = rows[rows["ratio"].notna()]
    with np.errstate(divide="ignore"):
        off = np.abs(np.log(known["ratio"].to_numpy(float)))
    return known.iloc[np.argsort(-off, kind="stable")[:most]]
