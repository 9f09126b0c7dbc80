"""An initialization of a model by a published scheme: in place, and as lines of plain torch."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Generator, nn
from torch.nn.parameter import is_lazy

from initstats.repair import matched_
from initstats.schemes.anatomy import read
from initstats.schemes.code import NUMBER, names_in_code
from initstats.schemes.draw import ZEROS, Piece, drawn, normal
from initstats.schemes.part import Part
from initstats.schemes.published import Ruling, ruled, scheme

COMPUTED = "as the weight needs that is computed of it"
"""What a parameter is drawn as that has no law of its own."""
MATCHED = "matched"
"""The scheme that gives each weight the gain of the activation that its layer reads."""


@dataclass(frozen=True)
class Prescription:
    """What each parameter of a model is to be drawn from.

    Attributes:
        scheme: its name.
        network: class of the model.
        parts: the parameters, with what the model does with them.
        rulings: what each is drawn from, by name; without those of which the scheme says nothing.
        computed: names of parameters that were drawn so that the weight which the model computes
            of them has a law; they themselves have none.
        lazy: whether the model had parameters without a shape, which its first run gave them.
    """

    scheme: str
    network: str
    parts: tuple[Part, ...] = field(repr=False)
    rulings: dict[str, Ruling] = field(repr=False)
    computed: tuple[str, ...] = ()
    lazy: bool = False

    @property
    def table(self) -> pd.DataFrame:
        """A row for each parameter.

        Columns: `name`; `kind`, such as product, embedding, gain, bias; `role` in the model, such
        as query, head, or last (of a residual branch); `fan_in`, `fan_out`; `branches` of the
        residual stream that it is in; `drawn`, law and scale in words, empty where the parameter is
        left as it is; `std` of the entries, NaN where rows are drawn from different laws, or from
        none of their own.
        """
        return pd.DataFrame([self._row(part) for part in self.parts])

    def _row(self, part: Part) -> dict[str, Any]:
        ruling = self.rulings.get(part.name)
        draws = [piece.draw for piece in ruling.pieces] if ruling else []
        return {
            "name": part.name,
            "kind": part.kind,
            "role": "last" if part.last and not part.role else part.role,
            "fan_in": part.fan_in,
            "fan_out": part.fan_out,
            "branches": part.branches,
            "drawn": COMPUTED if part.name in self.computed else "; ".join(map(str, draws)),
            "std": draws[0].std if len(draws) == 1 else math.nan,
        }

    @property
    def code(self) -> str:
        """A function of plain torch that does the same, to be pasted; it draws other numbers."""
        lines = [
            "import math\n",
            "import torch",
            "from torch import nn\n\n",
            "@torch.no_grad()",
            "def initialize(model):",
            f'    """Initialize a {self.network} by the rule called {self.scheme}."""',
            "    p = dict(model.named_parameters())",
        ]
        if self.lazy:
            lines.append("    # the model is lazy: it has parameters after it has run once")
        lines += [f"    # {one} stays: the model computes a weight of it" for one in self.computed]
        return "\n".join([*lines, *self._statements(), ""])

    def _statements(self) -> Iterator[str]:
        """The statements, one for all parameters that differ by a number and are drawn alike."""
        groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for part in self.parts:
            if ruling := self.rulings.get(part.name):
                found = [piece.draw.code(piece.target("p[name]")) for piece in ruling.pieces]
                if part.padding >= 0:
                    found.append(f"p[name][{part.padding}].zero_()")
                key = NUMBER.sub("*", part.name), tuple(found)
                groups.setdefault(key, []).append(part.name)
        for (_, calls), names in groups.items():
            if len(names) == 1:
                text = json.dumps(names[0])
                yield from (f"    {call.replace('name', text, 1)}" for call in calls)
                continue
            yield f"    for name in {names_in_code(names)}:"
            yield from (f"        {call}" for call in calls)

    def __str__(self) -> str:
        seen: dict[tuple[str, str], list[str]] = {}
        for _, row in self.table.iterrows():
            key = NUMBER.sub("*", str(row["name"])), row["drawn"] or "left as it is"
            seen.setdefault(key, []).append(str(row["role"] or row["kind"]))
        rows = [(name, roles[0], len(roles), how) for (name, how), roles in seen.items()]
        table = pd.DataFrame(rows, columns=["parameter", "role", "number", "drawn"])
        return f"{self.network} by {self.scheme}\n{table.to_string(index=False)}"


def prescribe(model: nn.Module, scheme_name: str, x: Any = None) -> Prescription:
    """What a published scheme draws each parameter of a model from; nothing is changed.

    The model is run once, to see what it does with its parameters: which products end residual
    branches, which make queries, keys and values, which is the head. What `initialize_` leaves as
    it is has no law here, and no audit compares it.

    Args:
        scheme_name: such as `gpt2`, of `initstats.schemes.SCHEMES`; or `matched`, each weight with
            the gain of the activation that its layer reads, as `reinitialize_` has it.
        x: an input, as `measure` takes it. Where there is none, one is made up from the first
            layer's sizes.

    Raises:
        ValueError: no such scheme; no input that the model takes can be made up; parameters
            without numbers; a model that the scheme does not fit.
    """
    if scheme_name == MATCHED:
        return _matched(copy.deepcopy(model), x)
    rule = scheme(scheme_name)
    lazy = _lazy(model)
    parts, _ = read(model, x)
    network = type(model).__name__
    return Prescription(scheme_name, network, parts, ruled(parts, rule), lazy=lazy)


def initialize_(
    model: nn.Module, scheme_name: str, x: Any = None, *, seed: int = 0
) -> Prescription:
    """Initialize a model by a published scheme, in place.

    Each parameter's draw depends on the seed and on its own name alone; torch's random state stays.
    A parameter of which the scheme says nothing stays as it is. So does one that is not trained
    (`requires_grad` is False), unless the model trains none, and a low-rank pair that runs beside a
    weight and has zeros in one of its two, as LoRA's: it is to add nothing at first.

    Args:
        scheme_name, x: as `prescribe`.
        seed: names the draw.

    Returns:
        What was drawn: `.table` for each parameter, and `.code`, lines of plain torch that do the
        same without this package.

    Raises:
        ValueError: as `prescribe`; the model is then as it was.

    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> print(initialize_(net, "mup"))
    Sequential by mup
    parameter role  number                   drawn
     *.weight stem       1 normal, std 1 / sqrt(8)
       *.bias stem       2                   zeros
     *.weight head       1      normal, std 1 / 32
    """
    if scheme_name == MATCHED:
        return _matched(model, x, seed)
    found = prescribe(model, scheme_name, x)
    with torch.no_grad():
        for part in found.parts:
            if ruling := found.rulings.get(part.name):
                parameter = model.get_parameter(part.name)
                values = drawn(ruling.pieces, parameter, _generator(part.name, seed))
                if part.padding >= 0:
                    values[part.padding] = 0
                parameter.copy_(values)
    return found


def _matched(model: nn.Module, x: Any, seed: int = 0) -> Prescription:
    """Draw with the gains of what layers read, in place, and tell what was drawn."""
    lazy = _lazy(model)
    parts, inputs = read(model, x)
    padded = {part.name: part.padding for part in parts if part.padding >= 0}
    found: dict[str, Ruling] = {}
    computed: list[str] = []
    for name, law in matched_(model, inputs, seed=seed)[1].items():
        if law is None:
            computed.append(name)
            continue
        if name in padded:
            model.get_parameter(name).detach()[padded[name]] = 0
        times = f" / {law.factor:.6g}" if law.factor != 1 else ""
        text = f"{law.gain:.6g} / math.sqrt({law.fan_in:.6g}){times}"
        std = law.gain / math.sqrt(law.fan_in) / law.factor
        found[name] = Ruling((Piece(normal(std, text) if std else ZEROS),))
    network = type(model).__name__
    return Prescription(MATCHED, network, parts, found, tuple(computed), lazy)


def _lazy(model: nn.Module) -> bool:
    return isinstance(model, nn.Module) and any(map(is_lazy, model.parameters()))


def _generator(name: str, seed: int) -> Generator:
    """A generator of a parameter's own."""
    number = 0
    for byte in f"{seed} {name}".encode():
        number = (number * 257 + byte) % (2**61 - 1)
    return Generator().manual_seed(number)
