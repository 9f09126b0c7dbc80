"""What attention makes of tokens of known products, and how many directions tokens take."""

from __future__ import annotations

from itertools import product

import pandas as pd

from initstats import theory
from initstats.survey.verification import inputs
from initstats.survey.verification.altered import attention
from initstats.survey.verification.compared import at, over_seeds
from initstats.survey.verification.found import FEWER, Found
from initstats.sweep import Grid, run_sweep

TOKENS = 16
WIDTH = 64


def tokens_attending(*, quick: bool) -> dict[str, Found]:
    """Attention of sixteen tokens of known products, by one head and by four."""
    seeds = FEWER if quick else 80
    found = pd.concat(
        [
            _attending(heads, variance, correlation, seeds)
            for heads, variance, correlation in product((1, 4), (0.25, 1, 4, 16), (0.3, 0.8))
        ]
    )

    def worst(rows: pd.DataFrame) -> Found:
        z = (rows["relative"] / rows["error"]).abs()
        relative, error = rows[["relative", "error"]].iloc[int(rows["relative"].abs().argmax())]
        return Found.figure(relative, error, z=float(z.max()), width=WIDTH, seeds=seeds)

    by_name = dict(iter(found.groupby("statistic")))
    shares = by_name["S"]
    warm = (shares["heads"] == 4) & (shares["variance"] == 16) & (shares["correlation"] == 0.3)
    return {
        "attention q": worst(by_name["q"]),
        "attention K": worst(by_name["p"]),
        "attention S": worst(shares[shares["heads"] == 1]),
        "attention S 16": worst(shares[warm]),
        "attention gamma": worst(by_name["gamma"]),
    }


def _attending(heads: int, variance: float, correlation: float, seeds: int) -> pd.DataFrame:
    """Relative deviations from theory of one layer of attention, and their errors."""
    grid = Grid(
        networks=[attention(heads)],
        inits=[f"mean_field(sigma_w={variance**0.25})"],
        activations=["relu"],
        widths=[WIDTH],
        depth=1,
        seeds=seeds,
        backward=True,
        dtype="float64",
    )
    table = run_sweep(grid, inputs.tokens(1, WIDTH, correlation))
    stream, weights = (at(table, 1, tensor) for tensor in ("stream", "attention"))
    slopes = at(table, 0, "given", "backward")
    gains = {"logit_gain": variance, "value_gain": variance}
    tokens = theory.attend(1.0, correlation, TOKENS, **gains)
    pulled = theory.pull_attention(1.0, correlation, 1.0, 0.0, TOKENS, **gains).total
    moments = theory.softmax_moments(variance, correlation, TOKENS)
    square = stream["second_moment"]
    measured = {
        "q": (square, tokens.square),
        "p": (square * stream["pair_correlation"], tokens.product),
        "S": (weights["concentration"], moments.concentration),
        "gamma": (slopes["second_moment"], pulled.square),
    }
    rows = []
    for name, (values, told) in measured.items():
        mean, error = over_seeds(values)
        rows.append((name, mean / told - 1, error / told))
    frame = pd.DataFrame(rows, columns=["statistic", "relative", "error"])
    return frame.assign(heads=heads, variance=variance, correlation=correlation)


def participation(*, quick: bool) -> dict[str, Found]:
    """The participation ratio of tokens, over T / (1 + (T - 1) c2) of their correlation c.

    c2 = c^2 + (1 - c^2)^2 / n, for tokens each two of which are correlated by c.
    """
    seeds = FEWER if quick else 30
    grid = Grid(
        networks=["transformer(scale=inverse_sqrt_depth)"],
        inits=["matched"],
        activations=["relu"],
        widths=[WIDTH],
        depth=9,
        seeds=seeds,
        dtype="float64",
    )
    table = run_sweep(grid, inputs.patches(2))
    last = at(table, 9, "stream")
    c = last["pair_correlation"]
    formula = TOKENS / (1 + (TOKENS - 1) * (c**2 + (1 - c**2) ** 2 / WIDTH))
    mean, error = over_seeds(last["participation_ratio"] / formula)
    return {"participation": Found.figure(mean - 1, error, width=WIDTH, seeds=seeds)}
