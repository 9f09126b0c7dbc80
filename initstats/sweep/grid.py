"""What a study varies: networks, inits, activations, widths and seeds, checked at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial
from html import escape
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BeforeValidator,
    StrictBool,
    model_validator,
)

from initstats.activations import Activation
from initstats.inits import Init
from initstats.moments import BINS
from initstats.networks import Network, UnreadableError
from initstats.plural import counted
from initstats.registry import Entry
from initstats.stack import DType
from initstats.sweep.cell import Cell
from initstats.sweep.fields import (
    MAX_DEPTH,
    NOTHING,
    Activations,
    Distinct,
    Fields,
    Inits,
    Networks,
    Recipes,
    Width,
    choice,
    counted_seeds,
    device_name,
    listed,
    names_of,
    whole,
)
from initstats.sweep.plugins import BESIDE, load_config
from initstats.sweep.prepared import Prepared

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
MAX_GIGABYTES = 8
"""The limit of memory for one draw of weights under the activations that share it."""
BYTES_EACH = 1_000
"""The memory that a driver needs at least for each cell, to know which are done."""
MOST_TOGETHER = 64
"""So many activations share a draw of weights; the others make the same draw again."""


class Grid(Fields):
    """What a study varies, and what it keeps fixed. Without arguments: the default study.

    Iterating it gives its cells; `len` is their number.

    In a list of names, a range such as ``leaky_relu(negative_slope=0:0.4:5)`` stands for several
    entries (five slopes from 0 to 0.4; ``sigma_w=0.5:4:8log`` for eight by equal factors), and a
    mapping ``{"my name": function}`` names a callable of one's own.

    Attributes:
        networks, inits, activations: names, entries (`Network`, `Init`, `Activation`) or callables.
            `network` instead of `networks` names a single one.
        recipes: names of known ways to build a deep network, such as `gpt2` and `fixup(hidden=2)`,
            each of them a network that is measured with its own init alone; the table has the
            recipe as the network. Where neither networks nor inits are named, nothing else is
            measured.
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

    networks: Annotated[tuple[Network, ...], Networks, Distinct] = DEFAULT_NETWORKS
    inits: Annotated[tuple[Init, ...], Inits, Distinct] = DEFAULT_INITS
    recipes: Annotated[tuple[Prepared, ...], Recipes, Distinct] = ()
    activations: Annotated[tuple[Activation, ...], Activations, Distinct] = DEFAULT_ACTIVATIONS
    widths: Annotated[tuple[Width, ...], BeforeValidator(listed), Distinct] = (50,)
    depth: Annotated[int, BeforeValidator(partial(whole, 1, MAX_DEPTH))] = 20
    seeds: Annotated[tuple[int, ...], BeforeValidator(counted_seeds), Distinct] = tuple(range(10))
    split: Annotated[str, BeforeValidator(partial(choice, "split", SPLITS))] = "valid"
    samples: Annotated[int, BeforeValidator(partial(whole, 1, 2**63 - 1))] | None = None
    backward: StrictBool = False
    dtype: Annotated[DType, BeforeValidator(partial(choice, "dtype", get_args(DType)))] = "float32"
    device: Annotated[str, BeforeValidator(device_name)] = "cpu"

    def __init__(self, **fields: Any) -> None:
        named = [fields.get(name) for name in ("network", "networks", "inits")]
        if fields.get("recipes") and all(name is None or name in ((), []) for name in named):
            fields |= {"networks": NOTHING, "inits": NOTHING}
        super().__init__(**fields)

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

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All networks, inits and activations, those of recipes among them."""
        return (*self.every_network, *self.every_init, *self.activations)

    @property
    def every_network(self) -> tuple[Network, ...]:
        """The networks, and behind them those of recipes, in the order of the table."""
        return (*self.networks, *(recipe.network for recipe in self.recipes))

    @property
    def every_init(self) -> tuple[Init, ...]:
        """The inits, and behind them those of recipes, in the order of the table."""
        return tuple({init.name: init for init in (*self.inits, *self._own)}.values())

    @property
    def _own(self) -> tuple[Init, ...]:
        return tuple(recipe.init for recipe in self.recipes)

    @property
    def paired(self) -> dict[str, str]:
        """The init of each network that is measured with this one alone, by name."""
        return {recipe.name: recipe.init.name for recipe in self.recipes}

    def inits_of(self, network: Network) -> tuple[Init, ...]:
        """The inits that a network is measured with: all of them, or its recipe's own."""
        own = [recipe.init for recipe in self.recipes if recipe.name == network.name]
        return tuple(own) or self.inits

    def __iter__(self) -> Iterator[Cell]:  # type: ignore[override]
        pairs = (
            (network.name, init.name)
            for network in self.every_network
            for init in self.inits_of(network)
        )
        rest = [names_of(each) for each in (self.activations, self.widths, self.seeds)]
        return (Cell(*pair, *others) for pair, others in product(pairs, [*product(*rest)]))

    def __len__(self) -> int:
        pairs = len(self.networks) * len(self.inits) + len(self.recipes)
        return pairs * len(self.activations) * len(self.widths) * len(self.seeds)

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
        lists = ("networks", "inits", "recipes", "activations", "widths")
        facts = [
            (name if len(values) > 1 else name[:-1], ", ".join(map(str, values)))
            for name in lists
            if (values := config.pop(name))
        ]
        seeds = config.pop("seeds")
        count = len(seeds)
        run = seeds == list(range(count)) and count > 2
        facts.append(("seeds", f"0 to {count - 1}" if run else ", ".join(map(str, seeds))))
        config["samples"] = config["samples"] or "all"
        return facts + [(name, str(value)) for name, value in config.items()]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if same := {*names_of(self.networks)} & {*names_of(self.recipes)}:
            raise ValueError(f"recipes: {min(same)!r} is the name of a network, too")
        needed = len(self) * BYTES_EACH
        if needed > MAX_GIGABYTES * 1e9:
            raise ValueError(
                f"{len(self):,} cells need some {needed / 1e9:,.0f} GB of memory to know which are "
                f"done, and at most {MAX_GIGABYTES} GB can be had: measure some of the seeds at a "
                "time, into one folder"
            )
        with suppress(UnreadableError):  # the data may have a shape that suits the network
            self.check_memory((1, 28, 28))
        return self

    def check_memory(self, shape: tuple[int, ...]) -> int:
        """How many draws of weights fit into memory at once, for samples of a shape.

        Raises:
            ValueError: not one of the widest fits; or a network cannot take such samples.
        """
        width, together = max(self.widths), min(len(self.activations), MOST_TOGETHER)
        several = together
        if not any(init.follows_activation or init.fitted for init in self.every_init):
            several = 1
        needed = 0
        for entry in self.every_network:
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
