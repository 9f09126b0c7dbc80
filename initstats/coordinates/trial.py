"""A trial: one model of one width, depth and seed, measured at init and after each step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from initstats.coordinates.anatomy import Anatomy
from initstats.coordinates.factory import Maker, reseed, seeded
from initstats.coordinates.keeper import KeepingProbe, rms, spectral_norm
from initstats.probe.batch import called
from initstats.probe.kinds import numbers

PLACE = ["layer", "name", "op", "call", "turn", "tensor"]
"""What names a value of a model."""
Objective = Callable[[Any], Tensor]


class Size(NamedTuple):
    """A width and a depth, None where the factory takes none, and a seed."""

    width: int
    depth: int | None
    seed: int


@dataclass(frozen=True)
class Trial:
    """What was measured of one model.

    Attributes:
        size: see there.
        table: rows of step, `PLACE`, quantity and rms.
        shapes: of the parameters.
        constant: parameters, by name, whose entries are all the same at init, and not 0.
        anatomy: the graph of the first pass.
        missed: what was not measured, as the probe lists it.
        network: the model's class.
        losses: before each step, and after the last.
        spectral: spectral norms of the updates that led to a step, by parameter and step, of those
            that an optimizer makes orthogonal.
    """

    size: Size
    table: pd.DataFrame
    shapes: dict[str, tuple[int, ...]]
    constant: frozenset[str]
    anatomy: Anatomy
    missed: pd.DataFrame
    network: str
    losses: tuple[float, ...]
    spectral: dict[tuple[str, int], float]


def run_trial(
    maker: Maker,
    size: Size,
    objective: Objective,
    steps: int,
    orthogonal: Collection[str] = (),
) -> Trial:
    """Make a model, and train it for some steps under a probe.

    The random numbers of a pass (dropout) are the same in each, so that no change is by chance.

    Args:
        orthogonal: parameters whose updates' spectral norms are wanted.
    """
    spectral: dict[tuple[str, int], float] = {}
    with seeded(size.seed), placed(size):
        model, optimizer = maker.make(*size)
        inputs, rows = maker.inputs(size.width), list[dict[str, Any]]()
        losses: list[float] = []
        named = [(name, p) for name, p in model.named_parameters() if p.numel()]
        constant = [name for name, p in named if _is_constant(p)]
        with KeepingProbe(model, backward=True, weights=False) as probe:
            for step in range(steps + 1):
                losses.append(loss_at(model, optimizer, inputs, objective, size.seed))
                rows += _rows(named, step, {"value": lambda p: p.detach(), "gradient": _gradient})
                if step == steps:
                    break
                before = {name: p.detach().clone() for name, p in named}
                with suppress(StopIteration):
                    optimizer.step()
                rows += [
                    {"step": step + 1, "name": name, "quantity": "update", "rms": rms(p - old)}
                    for name, p, old in ((n, p.detach(), before[n]) for n, p in named)
                ]
                spectral |= {
                    (name, step + 1): spectral_norm(p.detach() - before[name])
                    for name, p in named
                    if name in orthogonal
                }
    table, anatomy = probe.table(), Anatomy(uses=probe.kept.uses, pairings=probe.kept.pairings)
    anatomy.scalings = probe.kept.scalings
    values = _values(table, probe.kept.changes, anatomy)
    first = {use.parameter: use for use in reversed(anatomy.uses)}
    own = pd.DataFrame(rows).assign(tensor="weight", call=1, turn=0)
    own["op"] = [first[n].op if n in first else "" for n in own["name"]]
    own["layer"] = [first[n].layer if n in first else 0 for n in own["name"]]
    columns = ["step", *PLACE, "quantity", "rms"]
    both = pd.concat([values[columns], own[columns]], ignore_index=True)
    shapes = {name: tuple(p.shape) for name, p in named}
    return Trial(
        size,
        both,
        shapes,
        frozenset(constant),
        anatomy,
        probe.missed(),
        probe.network,
        tuple(losses),
        spectral,
    )


def loss_at(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Any,
    objective: Objective,
    seed: int,
    factor: float = 1.0,
) -> float:
    """Leave the gradients of the loss, maybe times a factor, at a model's parameters; the loss."""
    optimizer.zero_grad()
    reseed(seed)
    loss = objective(called(model, inputs)) * factor
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


@contextmanager
def placed(size: Size) -> Iterator[None]:
    """Note the width on errors of the user's code."""
    try:
        yield
    except Exception as error:
        error.add_note(f"at width {size.width}")
        raise


def _rows(
    named: list[tuple[str, nn.Parameter]],
    step: int,
    quantities: dict[str, Callable[[nn.Parameter], Tensor | None]],
) -> list[dict[str, Any]]:
    found = []
    for name, p in named:
        for quantity, take in quantities.items():
            x = take(p)
            size = np.nan if x is None else rms(x)
            found.append({"step": step, "name": name, "quantity": quantity, "rms": size})
    return found


def _gradient(p: nn.Parameter) -> Tensor | None:
    if p.grad is None:
        return None
    gradient = p.grad.detach()
    return gradient.to_dense() if gradient.layout != torch.strided else gradient


def _is_constant(p: nn.Parameter) -> bool:
    flat = p.detach().flatten()
    return bool(flat[0] != 0 and (flat == flat[0]).all())


def _values(
    table: pd.DataFrame, changes: dict[tuple[int, int], float], anatomy: Anatomy
) -> pd.DataFrame:
    """The values of a probe's table and their gradients in long form; it fills the anatomy."""
    rows = table[(table["tensor"] != "weight") & (table["op"] != "input")]
    rows = rows.astype({"name": str, "op": str, "tensor": str, "direction": str, "mode": str})
    rows = rows.assign(rms=np.sqrt(rows["second_moment"]))
    rows.loc[rows["nonfinite"] > 0, "rms"] = np.inf
    first = rows[(rows["direction"] == "forward") & (rows["step"] == 0)]
    for row in records(table[table["op"] == "input"]):
        anatomy.inputs[0], anatomy.places[0] = (), (row["name"], "input")
    back = rows[(rows["direction"] == "backward") & (rows["step"] == 0)]
    anatomy.gradients = dict(zip(back["layer"], back["rms"], strict=True))
    for row in records(first):
        layer = row["layer"]
        anatomy.inputs[layer] = tuple(numbers(row["inputs"]))
        anatomy.places[layer] = row["name"], row["op"]
        anatomy.rms[layer], anatomy.entries[layer] = row["rms"], row["count"]
    places = first.drop_duplicates("layer").sort_values("layer")
    turns = places.groupby(["name", "op", "call", "tensor"]).cumcount()
    rows = rows.assign(turn=rows["layer"].map(dict(zip(places["layer"], turns, strict=True))))
    rows = rows.dropna(subset="turn").astype({"turn": int})
    rows["quantity"] = rows["direction"].map({"forward": "value", "backward": "gradient"})
    moved = rows[rows["direction"] == "forward"].assign(quantity="change")
    keys = zip(moved["step"], moved["layer"], strict=True)
    moved["rms"] = [changes.get(key, np.nan) for key in keys]
    return pd.concat([rows, moved[moved["step"] > 0]], ignore_index=True)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
