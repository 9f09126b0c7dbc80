"""Networks of a hundred layers, measured and predicted, beside what was printed of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from initstats import activations, inits
from initstats.survey.verification import inputs
from initstats.survey.verification.altered import altered
from initstats.survey.verification.compared import at
from initstats.survey.verification.published import HUNDRED, QUANTITIES, SEEDS, Printed
from initstats.survival import Ends, followed
from initstats.sweep import Grid, run_sweep

DEPTH, WIDTH, ROWS = 101, 64, 32
"""Layers, the first of which reads the inputs; units; rows, which are one batch."""
HALF = "mean_field(sigma_w=0.7071067811865476)"
MATCHED = "matched"
ROOT = "inverse_sqrt_depth"
RELU = activations.get("relu")
_SLACK = 1e-4  # of a cosine: between a figure that is printed up and one that is printed down
_MEDIAN = 1.2533  # the error of a normal sample's median over that of its mean


class Deep(NamedTuple):
    """How a row of the table is made.

    Attributes:
        network, init: as for a grid.
        square: second moment of the inputs, so that the first layer gives 1.
        skip: whether the network keeps its skips.
        stream: what was printed is of the activations, each times this; 0 means that it is of what
            goes through all layers.
        why: where our theory and the printed one differ, the reason.
    """

    network: str
    init: str = MATCHED
    square: float = 1.0
    skip: bool = True
    stream: float = 0.0
    why: str = ""


_SERIES = (
    "near 1, theory here counts all degrees of a function with a kink beyond the 32nd as one, and "
    "two rows seem to collapse sooner than they do"
)
DEEP = {
    "plain, He": Deep("mlp", why=_SERIES),
    "LN before relu": Deep("mlp(norm=layer)", HALF, 2.0, why=_SERIES),
    "LN after relu": Deep("mlp(norm=layer,place=after)", HALF, 2.0),
    "BN, B=32": Deep(
        "mlp(norm=batch)",
        HALF,
        2.0,
        why="the first layer reads inputs of a larger variance, and passes on half of what others "
        "do; with 1.52195 at all hundred, the factor is 1.3×10⁹",
    ),
    "weight standardization": Deep(
        "mlp(standardized=true)", "matched(gain=variance)", stream=RELU.gain.variance
    ),
    "skip, alpha=1": Deep("resmlp"),
    "skip, 1/√L": Deep(f"resmlp(scale={ROOT})"),
    "skip, 1/L": Deep("resmlp(scale=inverse_depth)"),
    "ReZero": Deep("resmlp(scale=zero)"),
    "Fixup": Deep("resmlp(scale=fixup)"),
    "pre-LN": Deep("resmlp(norm=layer)"),
    "pre-LN, 1/√L": Deep(f"resmlp(norm=layer,scale={ROOT})"),
    "post-LN": Deep("resmlp(norm=layer,place=post)", why=_SERIES),
    "DeepNorm": Deep("resmlp(norm=layer,place=post,scale=deepnorm)", "lecun_normal"),
    "pre-BN": Deep(
        "resmlp(norm=batch,branch=1)",
        why="the gradient in front of batch norm depends on how inputs differ; with inputs "
        "correlated by 0.313 in place of 0.3, theory here says 28.8",
    ),
    "transformer, no skip": Deep("transformer(place=post)", skip=False),
    "transformer, post-LN": Deep("transformer(place=post)"),
    "transformer, pre-LN": Deep("transformer"),
    "transformer, pre-LN, 1/√L": Deep(f"transformer(scale={ROOT})"),
    "transformer, no norm, 1/√L": Deep(f"transformer(norm=none,scale={ROOT})"),
    "transformer, DeepNorm": Deep("transformer(place=post,scale=deepnorm)", "lecun_normal"),
}
"""The rows of the table, by the name of their recipe."""


def hundred(recipe: str, seeds: int = SEEDS) -> pd.DataFrame:
    """A row of the table, by its quantities.

    Returns:
        `recipe`, `quantity`, of `QUANTITIES`; `measured`, the median over `seeds` draws, `low` and
        `high`, their middle half; `theory`; `published_measured`, `published_theory`, and as they
        were printed, `published`; `agrees`, whether both theories round to the same digits;
        `near`, whether both medians are as near as draws let them be; `why` theories differ.
    """
    deep, printed = DEEP[recipe], HUNDRED[recipe]
    told, found = theory(deep), measured(deep, seeds)
    rows = []
    for quantity in QUANTITIES:
        values, seen = found[quantity], printed.measured[quantity]
        middle, low, high = np.quantile(values, (0.5, 0.25, 0.75))
        agrees = rounds(told[quantity], printed.theory[quantity], quantity)
        rows.append(
            {
                "recipe": recipe,
                "quantity": quantity,
                "measured": middle,
                "low": low,
                "high": high,
                "seeds": seeds,
                "theory": told[quantity],
                "published_measured": seen.value,
                "published_theory": printed.theory[quantity].value,
                "published": printed.text[quantity],
                "agrees": agrees,
                "near": near(values, seen, logarithmic=quantity != "cosine"),
                "why": "" if agrees else deep.why,
            }
        )
    return pd.DataFrame(rows)


def theory(deep: Deep) -> dict[str, float]:
    """What theory says of a row, by quantity."""
    ends = _followed(deep)
    slopes = ends.slopes
    last = ends.behind if deep.stream else ends.last
    assert last is not None
    q, k = float(last.square[0]), float(last.k[0])
    return {
        "forward": math.sqrt(q) * (deep.stream or 1.0),
        "backward": math.sqrt(float(slopes[-1].square[0] / slopes[0].square[0])),
        "cosine": k / q,
    }


def _followed(deep: Deep) -> Ends:
    ends = followed(
        altered(deep.network, skip=deep.skip),
        *(inits.get(deep.init), RELU, DEPTH),
        width=WIDTH,
        shape=inputs.SHAPE,
        correlation_of_inputs=inputs.CORRELATION,
        square=deep.square,
    )
    if ends.why:
        raise ValueError(f"{deep.network}: {ends.why}")
    return ends


def measured(deep: Deep, seeds: int) -> dict[str, pd.Series[float]]:
    """What the engine measures of a row, in float64, by quantity; a value for each seed."""
    entry = altered(deep.network, skip=deep.skip, directed=True)
    tokens = deep.network.startswith("transformer")
    grid = Grid(
        networks=[entry],
        inits=[deep.init],
        activations=["relu"],
        widths=[WIDTH],
        depth=DEPTH,
        seeds=seeds,
        backward=True,
        dtype="float64",
    )
    data = inputs.patches(1, deep.square) if tokens else inputs.rows(ROWS, deep.square)
    table = run_sweep(grid, data)
    streams = "stream" in table["tensor"].to_numpy()
    main = "stream" if streams else "activation" if deep.stream else "preactivation"
    first, last = (at(table, layer, main, "backward") for layer in (1, DEPTH))
    return {
        "forward": at(table, DEPTH, main)["second_moment"] ** 0.5 * (deep.stream or 1.0),
        "backward": (first["second_moment"] / last["second_moment"]) ** 0.5,
        "cosine": at(table, DEPTH, "direction")["sample_correlation"],
    }


def rounds(value: float, printed: Printed, quantity: str) -> bool:
    """Whether a value may be printed so; true where nothing was printed."""
    low, high = printed.ends
    slack = _SLACK if quantity == "cosine" else 1e-3 * abs(value)
    return math.isnan(printed.value) or low - slack <= value <= high + slack


def near(values: pd.Series[float], printed: Printed, *, logarithmic: bool) -> bool:
    """Whether a median of draws and one that was printed differ by less than three errors.

    Both have the error of as many draws.
    """
    low, high = printed.ends
    if logarithmic:
        low, high, values = math.log(low), math.log(high), values.map(math.log)
    error = _MEDIAN * float(values.std()) * math.sqrt(1 / len(values) + 1 / SEEDS)
    slack = 3 * error + _SLACK
    return bool(low - slack <= values.median() <= high + slack)
