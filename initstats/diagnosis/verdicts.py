"""The verdict on a stack of n layers: does it keep the signal, the gradient, and inputs distinct?

The vocabulary is that of mean-field theory: the length q (second moment) of the pre-activations,
the correlation c of two samples, and the factor chi_1 of the gradient's squared norm per layer,
after Schoenholz et al. (2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.diagnosis.streams import branch_shares, is_main, read_rms

CONFIGURATION = ["network", "init", "activation", "width"]
"""The columns that name a row of a summary; a cell is one configuration with one seed."""
CELL = [*CONFIGURATION, "seed"]

DECADE = 10.0
"""The factor by which an rms may differ from 1, that of normalized inputs."""
SAME = 0.99
"""The correlation at which the part that differs between inputs is a tenth of a unit's rms."""
HALF = 0.5
"""The share of a layer's units from which on the layer counts as they do."""
IDLE = 0.1
"""The shares of all branches, added up, below which they do nothing."""
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
            if not (_is_number(value) and math.isfinite(value) and value > 1):
                raise ValueError(f"{name} is {value}: it must be a number above 1, such as 10")
        if not (_is_number(self.correlation) and 0 < self.correlation <= 1):
            raise ValueError(
                f"correlation is {self.correlation}: it must be above 0 and at most 1, such as 0.99"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


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
    Verdict(
        "idle",
        "signal",
        "all branches together add less than a tenth of the stream's square: the stack passes on "
        "what it is given, as it is",
        lambda stack, _: stack["share"] < IDLE,
    ),
    Verdict(
        "front-loaded",
        "signal",
        "the first tenth of the branches add more than half of what all of them add",
        lambda stack, _: stack["front"] > HALF,
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
        `overflow`: whether a layer so far has infinite or NaN entries. `rms` and `correlation` of
        the pre-activations, or of the stream where layers add to one; of what a norm gives, where
        there are norms; and the larger correlation, of samples or of a sequence's tokens. `mean`,
        `std` of the activations; `dead`, the share of units whose activation is constant though
        their pre-activation is not, and `constant`, that of units whose pre-activation (or stream)
        is; `pair_correlation`, the correlation of tokens alone, where the table has it; `gradient`,
        the gradient's norm at layer 1 over that at this layer; `growth`, `gradient_growth`, the
        natural logarithms per layer of the rms (before any norm) and of the gradient; `share`, the
        sum over the branches so far of what each adds, over the square of its sum, and `front`, the
        part of that which the first tenth of the branches adds; `gradient_by`, `measured`, `theory`
        or `nothing`. Then the words: `signal`, `gradient`,
        `distinctness` (in columns `signal_verdict` and so on; `unknown` where nothing tells), and
        `verdict`, the gravest of the three.
    """
    return judged(stacks_of(table, theory), limits or Limits())


def judged(stacks: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """The numbers of stacks, as `stacks_of` gives them, with their verdicts as in `judge`."""
    # as the browser holds them: its verdicts are these, to the last digit
    with np.errstate(over="ignore"):  # what is beyond float32 is beyond every limit
        held = stacks.astype(dict.fromkeys(HELD, np.float32))
    met = {verdict.name: verdict.holds(held, limits).to_numpy() for verdict in VERDICTS}
    words = {"verdict": _first(list(met.values()), WORDS)}
    for aspect in ASPECTS:
        own = [verdict.name for verdict in VERDICTS if verdict.aspect == aspect]
        known = stacks[_TELLS[aspect]].notna().to_numpy()
        words[f"{aspect}_verdict"] = _first(
            [*(met[name] for name in own), known], [*own, HEALTHY, UNKNOWN]
        )
    return stacks.assign(**words)


HELD = ("rms", "correlation", "mean", "std", "dead", "constant", "gradient", "share", "front")
"""The numbers of a stack that are compared in the precision in which a page holds them."""
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
_NOTED = ("pair_correlation", "branch_share")


def stacks_of(table: pd.DataFrame, theory: pd.DataFrame | None = None) -> pd.DataFrame:
    """The numbers that verdicts are about, as in `judge`, in the order of the index."""
    index = [*CELL, "layer"]
    kept = [*_NUMBERS, *(name for name in _NOTED if name in table)]
    table = table[[*index, "tensor", "direction", *kept]]  # a table may be half of the memory
    forward = table["direction"] == "forward"

    def rows(wanted: pd.Series[bool]) -> pd.DataFrame:
        return table.loc[wanted, [*index, *kept]].set_index(index).sort_index()

    main = is_main(table)
    pre, back = rows(forward & main), rows(~forward & main)
    act = rows(forward & (table["tensor"] == "activation"))
    by_cell: dict[str, Any] = {"level": CELL, "observed": True, "sort": False}

    def nearest(rows: pd.DataFrame) -> pd.DataFrame:
        """Those rows at every layer: where a layer has none, those that feed it."""
        return (
            rows.reindex(rows.index.union(pre.index)).groupby(**by_cell).ffill().reindex(pre.index)
        )

    own, act = rows(forward & (table["tensor"] == "preactivation")), nearest(act)
    own = pre if own.index.equals(pre.index) else nearest(own)
    lost = table.loc[forward & (table["nonfinite"] > 0), index].drop_duplicates()
    met = pd.Series(pre.index.isin(pd.MultiIndex.from_frame(lost)), pre.index)
    layer = pd.Series(pre.index.get_level_values("layer"), pre.index)
    steps = (layer - layer.groupby(**by_cell).transform("first")).replace(0, np.nan)
    finite, seen = act["nonfinite"] == 0, pre["nonfinite"] == 0
    stacks = pd.DataFrame(index=pre.index)
    stacks["overflow"] = met.groupby(**by_cell).cummax()
    with np.errstate(divide="ignore", invalid="ignore"):
        log_rms = pd.Series(np.log(length(pre)) / 2, pre.index)
        normed = length(rows(forward & (table["tensor"] == "normed")))
        rms = (pd.Series(np.sqrt(each), each.index) for each in (length(pre), normed))
        stacks["rms"] = read_rms(*rms)
        alike = pre[[name for name in ("sample_correlation", "pair_correlation") if name in pre]]
        stacks["correlation"] = alike.max(axis=1).where(seen)
        if "pair_correlation" in pre:
            stacks["pair_correlation"] = pre["pair_correlation"].where(seen)
        # what the finite remainder of an overflow does says nothing about the tensor
        stacks["mean"] = act["mean"].where(finite)
        stacks["std"] = act["std"].where(finite, np.inf)
        stacks["constant"] = pre["dead_fraction"].where(seen)
        silent = act["dead_fraction"] - own["dead_fraction"].fillna(0.0)
        stacks["dead"] = silent.clip(lower=0).where(finite & seen)
        stacks["growth"] = (log_rms - log_rms.groupby(**by_cell).transform("first")) / steps
        stacks[["share", "front"]] = (
            branch_shares(pre["branch_share"]) if "branch_share" in pre else np.nan
        )
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
    rows = theory[is_main(theory) & (theory["direction"] == "backward")]
    place = [*CONFIGURATION, "layer"]
    names = dict.fromkeys(["network", "init", "activation"], str)
    wanted = pre.index.to_frame(index=False)[place].astype(names)
    known = rows[[*place, "second_moment"]].astype(names)
    merged = wanted.merge(known, "left", on=place)["second_moment"]
    return pd.Series(merged.to_numpy(), pre.index)


def length(rows: pd.DataFrame) -> pd.Series[float]:
    """The second moment of a tensor, infinite where an entry is not finite."""
    return rows["second_moment"].where(rows["nonfinite"] == 0, np.inf)
