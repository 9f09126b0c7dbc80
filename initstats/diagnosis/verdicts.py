"""The verdict on a stack of n layers: does it keep the signal, the gradient, and inputs distinct?

The vocabulary is that of mean-field theory: the length q (second moment) of the pre-activations,
the correlation c of two samples, and the factor chi_1 of the gradient's squared norm per layer,
after Schoenholz et al. (2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

CONFIGURATION = ["network", "init", "activation", "width"]
"""The columns that name a row of a summary; a cell is one configuration with one seed."""
CELL = [*CONFIGURATION, "seed"]

DECADE = 10.0
"""The factor by which an rms may differ from 1, that of normalized inputs."""
SAME = 0.99
"""The correlation at which the part that differs between inputs is a tenth of a unit's rms."""
HALF = 0.5
"""The share of a layer's units from which on the layer counts as they do."""
HEALTHY, UNKNOWN = "healthy", "unknown"
ASPECTS = ("signal", "gradient", "distinctness")
"""What a stack should keep; each has a verdict of its own."""


@dataclass(frozen=True)
class Limits:
    """How far a healthy stack may be from the ideal one.

    Attributes:
        factor: by which the rms of the last layer's pre-activations may differ from 1, that of the
            normalized input, in either direction.
        correlation: of two samples' pre-activations in the last layer, from which on they count as
            the same.
        gradient_factor: by which the gradient's norm may change from the last layer to the first.

    Raises:
        ValueError: a limit that no stack, or every stack, would keep.
    """

    factor: float = DECADE
    correlation: float = SAME
    gradient_factor: float = DECADE

    def __post_init__(self) -> None:
        for name in ("factor", "gradient_factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 1):
                raise ValueError(f"{name} is {value}: it must be a number above 1, such as 10")
        if not 0 < self.correlation <= 1:
            raise ValueError(
                f"correlation is {self.correlation}: it must be above 0 and at most 1, such as 0.99"
            )


@dataclass(frozen=True)
class Verdict:
    """A word for a stack: its name, what it is about, its meaning, and when it holds."""

    name: str
    aspect: str
    sense: str
    holds: Callable[[pd.DataFrame, Limits], pd.Series[bool]]

    @property
    def meaning(self) -> str:
        """The meaning, by the usual limits."""
        return self.under(Limits())

    def under(self, limits: Limits) -> str:
        """The meaning, by these limits."""
        return self.sense.format(**vars(limits))


VERDICTS = (
    Verdict(
        "overflows",
        "signal",
        "some layer holds infinite or NaN entries",
        lambda stack, _: stack["overflow"],
    ),
    Verdict(
        "collapses",
        "distinctness",
        "different inputs give nearly the same output: the correlation of the last layer's "
        "pre-activations is at least {correlation:g} (the ordered phase of Schoenholz et al. 2017)",
        lambda stack, limits: stack["correlation"] >= limits.correlation,
    ),
    Verdict(
        "explodes",
        "signal",
        "the last layer's pre-activations have more than {factor:g} times the normalized input's "
        "rms (He et al. 2015: it should stay as it is)",
        lambda stack, limits: stack["rms"] > limits.factor,
    ),
    Verdict(
        "vanishes",
        "signal",
        "the last layer's pre-activations have less than 1/{factor:g} of the normalized input's "
        "rms",
        lambda stack, limits: stack["rms"] < 1 / limits.factor,
    ),
    Verdict(
        "dead",
        "signal",
        "at least half of the last layer's units never fire or are saturated: they are given "
        "different values, and give the same value for every sample",
        lambda stack, _: stack["dead"] >= HALF,
    ),
    Verdict(
        "constant",
        "signal",
        "at least half of the last layer's units give the same value for every sample because "
        "they are given the same value",
        lambda stack, _: stack["constant"] >= HALF,
    ),
    Verdict(
        "gradient explodes",
        "gradient",
        "from the last layer back to the first, the norm of the gradient grows more than "
        "{gradient_factor:g} times (the chaotic phase of Schoenholz et al. 2017)",
        lambda stack, limits: stack["gradient"] > limits.gradient_factor,
    ),
    Verdict(
        "gradient vanishes",
        "gradient",
        "from the last layer back to the first, the norm of the gradient falls below "
        "1/{gradient_factor:g}",
        lambda stack, limits: stack["gradient"] < 1 / limits.gradient_factor,
    ),
    Verdict(
        "shifted",
        "signal",
        "the last layer's activations lie to one side: their mean is larger than their std "
        "(LeCun et al. 1998: inputs of a layer should average near zero)",
        lambda stack, _: stack["mean"].abs() > stack["std"],
    ),
    Verdict(HEALTHY, "", "none of the above", lambda stack, _: stack["rms"].notna()),
)
"""The verdicts, gravest first: a stack gets the first that holds."""
WORDS = [verdict.name for verdict in VERDICTS]


def judge(
    table: pd.DataFrame, theory: pd.DataFrame | None = None, limits: Limits | None = None
) -> pd.DataFrame:
    """Judge every stack of 1, 2, ... layers that a sweep's table holds.

    The first n layers of a stack are a stack of n layers. Its gradient is that of the whole stack
    on its way through them: the factor per layer depends on the layers it passes, not on where it
    comes from.

    Args:
        table: the rows of one sweep.
        theory: its predicted rows; where gradients were not measured, theory's are judged (the
            product of chi_1 over the layers), also where a note doubts the last digits.
        limits: of what is healthy.

    Returns:
        One row for each (network, init, activation, width, seed) and `layer`, which are the index.
        `overflow`: whether a layer so far has infinite or NaN entries; `rms` of the
        pre-activations and their `correlation`; `mean`, `std` of the activations; `dead`, the share
        of units whose activation is constant though their pre-activation is not, and `constant`,
        that of units whose pre-activation is; `gradient`, the gradient's norm at layer 1 over that
        at this layer; `growth`, `gradient_growth`, their natural logarithms per layer;
        `gradient_by`, `measured`, `theory` or `nothing`. Then the words: `signal`, `gradient`,
        `distinctness` (in columns `signal_verdict` and so on; `unknown` where nothing tells), and
        `verdict`, the gravest of the three.
    """
    return judged(stacks_of(table, theory), limits or Limits())


def judged(stacks: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """The numbers of stacks, as `stacks_of` gives them, with their verdicts as in `judge`."""
    # as the browser holds them: its verdicts are these, to the last digit
    held = stacks.astype(dict.fromkeys(_HELD, np.float32))
    met = {verdict.name: verdict.holds(held, limits).to_numpy() for verdict in VERDICTS}
    words = {"verdict": _first(list(met.values()), WORDS)}
    for aspect in ASPECTS:
        own = [verdict.name for verdict in VERDICTS if verdict.aspect == aspect]
        known = stacks[_TELLS[aspect]].notna().to_numpy()
        words[f"{aspect}_verdict"] = _first(
            [*(met[name] for name in own), known], [*own, HEALTHY, UNKNOWN]
        )
    return stacks.assign(**words)


_STATISTICS = (
    *("count", "nonfinite", "mean", "std", "second_moment"),
    *("dead_fraction", "sample_correlation"),
)
_HELD = ("rms", "correlation", "mean", "std", "dead", "constant", "gradient")
_TELLS = {"signal": "rms", "gradient": "gradient", "distinctness": "correlation"}


def _first(met: list[NDArray[np.bool_]], words: list[str]) -> Any:
    """For each row the first word whose condition holds; else the last word."""
    codes = np.select(met, [*range(len(met))], default=len(words) - 1)
    return pd.Categorical.from_codes(codes.tolist(), categories=pd.Index(words))


_NUMBERS = (
    "count",
    "nonfinite",
    "mean",
    "std",
    "second_moment",
    "dead_fraction",
    "sample_correlation",
)


def stacks_of(table: pd.DataFrame, theory: pd.DataFrame | None = None) -> pd.DataFrame:
    """The numbers that verdicts are about, as in `judge`, in the order of the index."""
    index = [*CELL, "layer"]
    table = table[[*index, "tensor", "direction", *_NUMBERS]]  # a table may be half of the memory
    forward = table["direction"] == "forward"
    needed = [*index, *_STATISTICS]  # a table may be half of the memory
    pre, act, back = (
        table.loc[(table["tensor"] == tensor) & (forward == is_forward), needed]
        .set_index(index)
        .sort_index()
        for tensor, is_forward in (
            ("preactivation", True),
            ("activation", True),
            ("preactivation", False),
        )
    )
    by_cell: dict[str, Any] = {"level": CELL, "observed": True, "sort": False}
    # a layer may have no activation of its own; the one before it feeds it then
    act = act.reindex(act.index.union(pre.index)).groupby(**by_cell).ffill().reindex(pre.index)
    lost = table.loc[forward & (table["nonfinite"] > 0), index].drop_duplicates()
    met = pd.Series(pre.index.isin(pd.MultiIndex.from_frame(lost)), pre.index)
    layer = pre.index.get_level_values("layer")
    steps = pd.Series(layer, pre.index) - pd.Series(layer, pre.index).groupby(**by_cell).transform(
        "first"
    )
    steps = steps.replace(0, np.nan)
    finite, seen = act["nonfinite"] == 0, pre["nonfinite"] == 0
    stacks = pd.DataFrame(index=pre.index)
    stacks["overflow"] = met.groupby(**by_cell).cummax()
    with np.errstate(divide="ignore", invalid="ignore"):
        log_rms = pd.Series(np.log(length(pre)) / 2, pre.index)
        stacks["rms"] = np.exp(log_rms)
        stacks["correlation"] = pre["sample_correlation"].where(seen)
        # what the finite remainder of an overflow does says nothing about the tensor
        stacks["mean"] = act["mean"].where(finite)
        stacks["std"] = act["std"].where(finite, np.inf)
        stacks["constant"] = pre["dead_fraction"].where(seen)
        own = act["dead_fraction"] - pre["dead_fraction"]
        stacks["dead"] = own.clip(lower=0).where(finite & seen)
        stacks["growth"] = (log_rms - log_rms.groupby(**by_cell).transform("first")) / steps
        # sums of squares, not means: those are what chi_1 multiplies (Schoenholz et al. 2017)
        squares = (length(back) * back["count"]).reindex(pre.index)
        stacks["gradient_by"] = np.where(squares.notna(), "measured", "nothing")
        if theory is not None:
            told = (_predicted(theory, pre) * pre["count"]).where(squares.isna())
            stacks.loc[told.notna(), "gradient_by"] = "theory"
            squares = squares.fillna(told)
        log_gradient = _ratio(squares.groupby(**by_cell).transform("first"), squares)
        stacks["gradient"] = np.exp(log_gradient)
        stacks["gradient_growth"] = log_gradient / steps
    return stacks


def _ratio(first: pd.Series[float], here: pd.Series[float]) -> pd.Series[float]:
    """The logarithm of the ratio of two norms, whose squares are given.

    Where both overflow or both are lost, the first layer's did so on the way from the other.
    """
    logs = pd.Series((np.log(first) - np.log(here)) / 2, here.index)
    logs = logs.mask(np.isinf(first) & np.isinf(here), np.inf)
    return logs.mask((first == 0) & (here == 0), -np.inf)


def _predicted(theory: pd.DataFrame, pre: pd.DataFrame) -> pd.Series[float]:
    """Theory's second moment of the gradient at each row, NaN where it says nothing."""
    rows = theory[(theory["tensor"] == "preactivation") & (theory["direction"] == "backward")]
    place = [*CONFIGURATION, "layer"]
    names = dict.fromkeys(["network", "init", "activation"], str)
    wanted = pre.index.to_frame(index=False)[place].astype(names)
    known = rows[[*place, "second_moment"]].astype(names)
    merged = wanted.merge(known, "left", on=place)["second_moment"]
    return pd.Series(merged.to_numpy(), pre.index)


def length(rows: pd.DataFrame) -> pd.Series[float]:
    """The second moment of a tensor, infinite where an entry is not finite."""
    return rows["second_moment"].where(rows["nonfinite"] == 0, np.inf)
