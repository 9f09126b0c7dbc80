"""What a study varies: networks, inits, activations, widths and seeds, checked at once."""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from itertools import product, starmap
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictBool,
    ValidationError,
    model_validator,
)

from initstats import activations as activation_entries
from initstats import inits as init_entries
from initstats import networks as network_entries
from initstats.activations import Activation
from initstats.inits import Init
from initstats.moments import BINS
from initstats.networks import Network
from initstats.plural import counted
from initstats.registry import Entry, unknown
from initstats.stack import DType
from initstats.store import to_toml
from initstats.sweep.cell import Cell
from initstats.sweep.plugins import BESIDE, load_config

DEFAULT_NETWORKS: Any = ("mlp",)
DEFAULT_INITS: Any = (
    "normal",
    "trunc_normal",
    "torch_default",
    "simplified",
    "xavier_normal",
    "kaiming_normal",
    "kaiming_uniform",
    "kaiming_normal(mode=fan_out)",
    "orthogonal",
    "matched",
    "lsuv",
)
DEFAULT_ACTIVATIONS: Any = (
    "identity",
    "relu",
    "shifted_relu",
    "leaky_relu",
    "general_relu",
    "relu6",
    "squared_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "softplus",
    "tanh",
    "sigmoid",
)
SPLITS = ("train", "valid", "test")
MAX_WIDTH, MAX_DEPTH, MAX_SEEDS = 1_000_000, 10_000, 10_000_000
MAX_GIGABYTES = 8
"""The limit of memory for one draw of weights under the activations that share it."""
BYTES_EACH = 1_000
"""The memory that a driver needs at least for each cell, to know which are done."""
MOST_TOGETHER = 64
"""So many activations share a draw of weights; the others make the same draw again."""

Item = TypeVar("Item")


def _listed(values: object) -> list[Any]:
    """The items of a list; a number or another single value that is no text is a list of one."""
    if isinstance(values, str):
        raise ValueError(f"a list is expected, not {values!r}")
    items = list(values) if isinstance(values, Iterable) else [values]
    if not items:
        raise ValueError("the list is empty: name at least one")
    return items


def _entries(kind: type[Entry], get: Callable[[Any], Any], values: object) -> list[Any]:
    """The entries that names, ranges of names, callables, and mappings of names to these mean."""
    found: list[Any] = []
    faults: list[str] = []
    cause: BaseException | None = None
    catalog = kind.catalog
    for value in [values] if isinstance(values, Mapping) else _listed(values):
        try:
            if isinstance(value, Mapping):
                if taken := [name for name in value if str(name) in catalog]:
                    raise ValueError(
                        f"{taken[0]!r} is the name of a registered {catalog.noun}: choose another"
                    )
                found += [replace(get(of), name=str(name), module="") for name, of in value.items()]
            elif isinstance(value, str) and ":" in value:
                found += map(catalog.__getitem__, catalog.expand(value))
            else:
                found.append(get(value))
        except ValueError as error:
            faults.append(str(error))
            cause = cause or error.__cause__
    if faults:
        raise ValueError(f"; {catalog.noun}s: ".join(faults)) from cause
    if not found:
        raise ValueError("the list is empty: name at least one")
    return found


def _names(items: Iterable[Any]) -> list[Any]:
    """Entries by name; numbers as they are."""
    return [getattr(item, "name", item) for item in items]


def _distinct(values: tuple[Item, ...]) -> tuple[Item, ...]:
    names = _names(values)
    if len({*names}) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise ValueError(f"named twice: {', '.join(map(str, twice))}")
    return values


def _whole(low: int, high: int, value: object) -> int:
    """A whole number, numpy's too."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"{value!r} is not a whole number")
    if not low <= (number := operator.index(value)) <= high:
        raise ValueError(f"{number} is not between {low} and {high}")
    return number


def _choice(noun: str, available: Sequence[str], value: object) -> str:
    if value not in available:
        raise unknown(noun, str(value), available)
    return str(value)


def _device(value: object) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", str(value)):
        raise ValueError(f"{value!r} is not a device that can be used: cpu, cuda or cuda:NUMBER")
    return str(value)


def _counted(seeds: object) -> list[Any]:
    """The seeds of a list; 0 to n - 1 for a number n."""
    if isinstance(seeds, Iterable):
        return [_whole(0, 2**63 - 1, seed) for seed in _listed(seeds)]
    return list(range(_whole(1, MAX_SEEDS, seeds)))


_Distinct = AfterValidator(_distinct)
_Networks = BeforeValidator(partial(_entries, Network, network_entries.get))
_Inits = BeforeValidator(partial(_entries, Init, init_entries.get))
_Activations = BeforeValidator(partial(_entries, Activation, activation_entries.get))
_Width = Annotated[int, BeforeValidator(partial(_whole, 1, MAX_WIDTH))]


class Grid(BaseModel):
    """What a study varies, and what it keeps fixed. Without arguments: the default study.

    Iterating it gives its cells; `len` is their number.

    In a list of names, a range such as ``leaky_relu(negative_slope=0:0.4:5)`` stands for several
    entries (five slopes from 0 to 0.4; ``sigma_w=0.5:4:8log`` for eight by equal factors), and a
    mapping ``{"my name": function}`` names a callable of one's own.

    Attributes:
        networks, inits, activations: names, entries (`Network`, `Init`, `Activation`) or callables.
            `network` instead of `networks` names a single one.
        widths: units of a layer; of a `cnn`, channels of the first. A number is a list of one.
        depth: layers.
        seeds: how many, from 0, or a list of them.
        split: `train`, `valid` or `test`.
        samples: how many of the split's first images; None is all.
        backward: whether gradients are measured too.
        dtype: `float32`, `float64` or `bfloat16`, of weights, samples and all between; the networks
            are the same, and statistics of bfloat16 are in float32.
        device: `cpu`, or `cuda` (`cuda:1`, ...) for the passes and statistics on a GPU.

    >>> grid = Grid(inits=["matched"], activations=["relu", "tanh"], seeds=3)
    >>> len(grid), next(iter(grid))
    (6, Cell(network='mlp', init='matched', activation='relu', width=50, seed=0))

    Raises:
        ValueError: naming every fault at once.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=True
    )

    networks: Annotated[tuple[Network, ...], _Networks, _Distinct] = DEFAULT_NETWORKS
    inits: Annotated[tuple[Init, ...], _Inits, _Distinct] = DEFAULT_INITS
    activations: Annotated[tuple[Activation, ...], _Activations, _Distinct] = DEFAULT_ACTIVATIONS
    widths: Annotated[tuple[_Width, ...], BeforeValidator(_listed), _Distinct] = (50,)
    depth: Annotated[int, BeforeValidator(partial(_whole, 1, MAX_DEPTH))] = 20
    seeds: Annotated[tuple[int, ...], BeforeValidator(_counted), _Distinct] = tuple(range(10))
    split: Annotated[str, BeforeValidator(partial(_choice, "split", SPLITS))] = "valid"
    samples: Annotated[int, BeforeValidator(partial(_whole, 1, 2**63 - 1))] | None = None
    backward: StrictBool = False
    dtype: Annotated[DType, BeforeValidator(partial(_choice, "dtype", get_args(DType)))] = "float32"
    device: Annotated[str, BeforeValidator(_device)] = "cpu"

    def __init__(self, **fields: Any) -> None:
        if "network" in fields:
            if "networks" in fields:
                raise ValueError("network and networks are both given: name one of them")
            network = fields.pop("network")
            fields["networks"] = network if isinstance(network, Mapping) else [network]
        try:
            super().__init__(**fields)
        except ValidationError as error:
            faults = error.errors()
            raised = [fault.get("ctx", {}).get("error") for fault in faults]
            causes = (each.__cause__ for each in raised if isinstance(each, Exception))
            raise ValueError("; ".join(map(_fault, faults))) from next(filter(None, causes), None)

    @classmethod
    def default(cls) -> Self:
        """The default study: what the lesson tells of inits and activations, at its width."""
        return cls()

    @classmethod
    def from_toml(cls, path: str | Path, *, trusted: bool | Collection[str] = False) -> Self:
        """The grid of a TOML file, once its plugins are imported; see `load_config`.

        Raises:
            ValueError: as `load_config` and `Grid`.
        """
        config = load_config(path, trusted=trusted)
        return cls(**{name: config[name] for name in config if name not in BESIDE})

    def to_toml(self) -> str:
        """The grid as TOML, which `from_toml` reads."""
        return to_toml(self.config)

    @property
    def config(self) -> dict[str, Any]:
        """The fields as plain values: entries by name, seeds listed."""
        return {
            field: _names(value) if isinstance(value, tuple) else value
            for field, value in vars(self).items()
        }

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All networks, inits and activations."""
        return (*self.networks, *self.inits, *self.activations)

    @property
    def _lists(self) -> list[tuple[Any, ...]]:
        """What a cell names one of, in the order of its key."""
        return [getattr(self, f"{name}s") for name in Cell._fields]

    def __iter__(self) -> Iterator[Cell]:  # type: ignore[override]
        return starmap(Cell, product(*map(_names, self._lists)))

    def __len__(self) -> int:
        return math.prod(map(len, self._lists))

    def __repr__(self) -> str:
        return f"Grid of {counted(len(self), 'cell')}: {'; '.join(map(': '.join, self._facts()))}"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align: left'>{name}</th>"
            f"<td style='text-align: left'>{escape(value)}</td></tr>"
            for name, value in self._facts()
        )
        return f"<p>Grid of {counted(len(self), 'cell')}</p><table>{rows}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        """Each field and its value, as a reader wants to see them."""
        config = self.config
        facts = [
            (name if len(config[name]) > 1 else name[:-1], ", ".join(map(str, config.pop(name))))
            for name in ("networks", "inits", "activations", "widths")
        ]
        seeds = config.pop("seeds")
        count = len(seeds)
        run = seeds == list(range(count)) and count > 2
        facts.insert(4, ("seeds", f"0 to {count - 1}" if run else ", ".join(map(str, seeds))))
        config["samples"] = config["samples"] or "all"
        return facts + [(name, str(value)) for name, value in config.items()]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        needed = len(self) * BYTES_EACH
        if needed > MAX_GIGABYTES * 1e9:
            raise ValueError(
                f"{len(self):,} cells need some {needed / 1e9:,.0f} GB of memory to know which are "
                f"done, and at most {MAX_GIGABYTES} GB can be had: measure some of the seeds at a "
                "time, into one folder"
            )
        self.check_memory((1, 28, 28))
        return self

    def check_memory(self, shape: tuple[int, ...]) -> int:
        """How many draws of weights fit into memory at once, for samples of a shape.

        Raises:
            ValueError: not one of the widest fits; or a network cannot take such samples.
        """
        width, together = max(self.widths), min(len(self.activations), MOST_TOGETHER)
        several = together
        if not any(init.follows_activation or init.fitted for init in self.inits):
            several = 1
        needed = 0
        for entry in self.networks:
            network = entry.on(shape, width, self.depth)
            weights = 4 * sum(math.prod(layer.weight) for layer in network.layers)
            rows = len(network.places(backward=self.backward)) * together
            needed = max(needed, weights * several + 8 * BINS * rows)
        if needed > MAX_GIGABYTES * 1e9:
            raise ValueError(
                f"width {width} and depth {self.depth} under {counted(together, 'activation')} "
                f"need some {needed / 1e9:.0f} GB of memory, and at most {MAX_GIGABYTES} can be had"
            )
        return int(MAX_GIGABYTES * 1e9 // needed)


def _fault(error: Mapping[str, Any]) -> str:
    """One of pydantic's faults in our words."""
    field = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return str(unknown("field", field, tuple(Grid.model_fields)))
    message = error.get("ctx", {}).get("error", error["msg"])
    return f"{field}: {message}" if field else str(message)
