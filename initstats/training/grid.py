"""What a training study varies, and how it trains: checked at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from functools import partial
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, model_validator

from initstats.networks import NETWORKS
from initstats.outcome.columns import KEYS
from initstats.plural import counted
from initstats.registry import Entry
from initstats.sweep.fields import (
    MAX_WIDTH,
    Activations,
    Distinct,
    Fields,
    Inits,
    choice,
    counted_seeds,
    listed,
    whole,
)
from initstats.sweep.plugins import BESIDE, load_config
from initstats.training import architectures
from initstats.training.architectures import Architecture, is_factory, sizes_of
from initstats.training.batches import AUGMENTATIONS
from initstats.training.engine import TUNING, Recipe
from initstats.training.losses import LOSSES
from initstats.training.optimizers import OPTIMIZERS, SCHEDULES

DEFAULT_ACTIVATIONS: Any = (
    "relu",
    "shifted_relu",
    "leaky_relu(negative_slope=0.1)",
    "general_relu",
)
DEFAULT_INITS: Any = ("kaiming_normal", "torch_default")
QUICK: dict[str, Any] = {"inits": ["kaiming_normal"], "seeds": 12, "images": 20_000}
"""What `--quick` changes."""


def _architectures(values: object) -> list[Architecture]:
    """Networks by name, with ranges of their parameters, and functions that give a model."""
    found: list[Architecture] = []
    for value in listed([values] if isinstance(values, str) else values):
        if isinstance(value, str) and ":" in value and not is_factory(value):
            names = NETWORKS.expand(value)
            found += map(NETWORKS.__getitem__, names)
        else:
            found.append(architectures.get(value))
    return found


def _number(low: float, high: float, value: object) -> float:
    """A number above one bound and up to another; from 0 where that is the bound."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{value!r} is not a number")
    if not low <= (number := float(value)) <= high:
        raise ValueError(f"{value} is not between {low:g} and {high:g}")
    return number


def _rates(values: Any) -> list[float]:
    found = sorted({_rate(value) for value in listed(values)})
    if len(found) < 3:
        raise ValueError(f"{counted(len(found), 'rate')} cannot show where the best one is: give 3")
    return found


def _few(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if seeds and max(seeds) >= TUNING:
        raise ValueError(f"{max(seeds)} is one of the seeds of tuning: name smaller ones")
    return seeds


def _augmentations(values: Any) -> list[str]:
    named = [values] if isinstance(values, str) else values
    if not isinstance(named, Iterable):
        raise ValueError(f"a list is expected, not {values!r}")
    return [choice("augmentation", tuple(AUGMENTATIONS), value) for value in named]


def _steps(values: Any) -> list[int]:
    steps = values if isinstance(values, Iterable) else [values]
    return [whole(-(2**31), 2**31, value) for value in steps]


_rate = partial(_number, 1e-12, 1e6)
_Rate = Annotated[float, BeforeValidator(_rate)]
_Count = Annotated[int, BeforeValidator(partial(whole, 1, 2**31))]
_Size = Annotated[int, BeforeValidator(partial(whole, 0, MAX_WIDTH))]
_Sizes = Annotated[tuple[_Size, ...], BeforeValidator(listed), Distinct]
_Seeds = Annotated[tuple[int, ...], BeforeValidator(counted_seeds), Distinct, AfterValidator(_few)]


def _one_of(noun: str, names: Iterable[str]) -> BeforeValidator:
    return BeforeValidator(partial(choice, noun, tuple(names)))


class TrainingGrid(Fields):
    """What a training study varies, and how it trains. Without arguments: the default study.

    A variant is an activation with an init. All else is equal, and all variants of a seed see the
    same batches and the same underlying random draws.

    Attributes:
        networks: `cnn`, the lesson's conv net; `mlp`; `resnet`; any registered network, which gets
            a last layer; or ``module:function``, a function of `activation` and `init` that gives a
            model. `network` names a single one.
        inits, activations: as in `Grid`.
        widths, depths: of the networks without their last layer; by default the lesson's, 8 and 4
            for a `cnn`, 50 and 1 for an `mlp`.
        seeds: how many, from 0, or a list of them.
        images: how many of the first training images; None is all.
        epochs: passes over them.
        batch: images of a step.
        optimizer: `sgd`, `momentum` (0.9) or `adamw`.
        schedule: `linear`, to 0 at the end; or `constant`.
        weight_decay: None is the optimizer's own: 0, and 0.01 for `adamw`.
        loss: `cross_entropy`; or `mse`, the lesson's, of one output to the number of the class.
        augment: `shift`, `flip`, `crop`, or several.
        rates: learning rates to choose from, for each variant on its own.
        lr: one rate for all variants instead.
        tuning_seeds: how many runs of their own the rates are compared by.
        tuning_images: how many of the training images; None is a fifth, 5,000 or more. Four fifths
            of these train, the others judge.
        target: the training accuracy that `steps_to_target` counts the steps to.
        watch: the steps at which activation statistics are measured; -1 is the end.

    >>> grid = TrainingGrid(activations=["relu", "gelu"], inits=["matched"], seeds=3)
    >>> len(grid), grid.depths
    (6, (4,))

    Raises:
        ValueError: naming every fault at once.
    """

    networks: Annotated[tuple[Any, ...], BeforeValidator(_architectures), Distinct] = ("cnn",)
    inits: Annotated[tuple[Any, ...], Inits, Distinct] = DEFAULT_INITS
    activations: Annotated[tuple[Any, ...], Activations, Distinct] = DEFAULT_ACTIVATIONS
    widths: _Sizes | None = None
    depths: _Sizes | None = None
    seeds: _Seeds = tuple(range(20))
    images: _Count | None = None
    epochs: _Count = 3
    batch: _Count = 64
    optimizer: Annotated[str, _one_of("optimizer", OPTIMIZERS)] = "momentum"
    schedule: Annotated[str, _one_of("schedule", SCHEDULES)] = "linear"
    weight_decay: Annotated[float, BeforeValidator(partial(_number, 0, 10))] | None = None
    loss: Annotated[str, _one_of("loss", LOSSES)] = "cross_entropy"
    augment: Annotated[tuple[str, ...], BeforeValidator(_augmentations), Distinct] = ()
    rates: Annotated[tuple[float, ...], BeforeValidator(_rates)] | None = None
    lr: _Rate | None = None
    tuning_seeds: Annotated[int, BeforeValidator(partial(whole, 1, 1000))] = 2
    tuning_images: _Count | None = None
    target: Annotated[float, BeforeValidator(partial(_number, 1e-3, 1))] = 0.9
    watch: Annotated[tuple[int, ...], BeforeValidator(_steps), Distinct] = (0, -1)

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.lr is not None and self.rates is not None:
            raise ValueError("lr and rates are both given: a fixed rate is not chosen from others")
        sizes = map(set, zip(*map(sizes_of, self.networks), strict=True))
        for name, own in zip(("widths", "depths"), sizes, strict=True):
            if getattr(self, name) is None:
                if len(own) > 1:
                    raise ValueError(f"{name}: these networks have different ones: name them")
                vars(self)[name] = (own.pop(),)
        return self

    @property
    def recipe(self) -> Recipe:
        """How every run is trained."""
        decay = OPTIMIZERS[self.optimizer].decay if self.weight_decay is None else self.weight_decay
        return Recipe(
            self.epochs,
            self.batch,
            self.optimizer,
            self.schedule,
            decay,
            self.loss,
            self.augment,
            self.watch,
        )

    @property
    def ladder(self) -> tuple[float, ...]:
        """The learning rates that every variant tries."""
        return self.rates or OPTIMIZERS[self.optimizer].rates

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All registered networks, inits and activations."""
        registered = [each for each in self.networks if isinstance(each, Entry)]
        return (*registered, *self.inits, *self.activations)

    def __len__(self) -> int:
        return math.prod(len(self.config[f"{name}s"]) for name in KEYS)

    def __repr__(self) -> str:
        facts = (f"{name} {value}" for name, value in self.config.items() if value is not None)
        return f"TrainingGrid of {counted(len(self), 'run')}: {'; '.join(facts)}"

    __str__ = __repr__

    @classmethod
    def from_toml(cls, path: str | Path, *, trusted: bool | Collection[str] = False) -> Self:
        """The grid of a TOML file, once its plugins are imported; see `load_config`.

        Raises:
            ValueError: as `load_config` and `TrainingGrid`.
        """
        config = load_training_config(path, trusted=trusted)
        return cls(**{name: config[name] for name in config if name not in BESIDE})


def load_training_config(
    path: str | Path, *, trusted: bool | Collection[str] = False
) -> dict[str, Any]:
    """The fields of `TrainingGrid` in a TOML file, and those of `BESIDE`; see `load_config`.

    Raises:
        ValueError: as `load_config`; or it names functions that give models, and is not trusted.
    """
    config = load_config(path, trusted=trusted)
    networks = config.get("networks", config.get("network", ()))
    networks = [networks] if isinstance(networks, str) else networks
    own = [name for name in networks if is_factory(name)] if isinstance(networks, Iterable) else []
    if own and trusted is not True:
        raise ValueError(
            f"{path} names models, whose code would run here: {', '.join(own)}; if you trust them, "
            "say so with trusted=True, or on the command line with --trust-plugins"
        )
    return config


def described(variants: Any, network: Any, seeds: Any, settings: dict[str, Any]) -> TrainingGrid:
    """The grid that the arguments of `compare_training` describe."""
    asked = {"network": network, "seeds": seeds}
    settings = {name: value for name, value in asked.items() if value is not None} | settings
    if isinstance(variants, TrainingGrid):
        if settings:
            raise ValueError(f"{', '.join(settings)}: the grid says what to train; give it there")
        return variants
    listed = [variants] if isinstance(variants, str) or callable(variants) else list(variants)
    if listed and all(isinstance(each, tuple) and len(each) == 2 for each in listed):
        activations, inits = (list(dict.fromkeys(part)) for part in zip(*listed, strict=True))
        if "inits" in settings or {*listed} != {*product(activations, inits)}:
            raise ValueError(
                "variants: pairs (activation, init) must be each activation with each init, and "
                "inits not be given again"
            )
        listed, settings = activations, settings | {"inits": inits}
    return TrainingGrid(activations=listed, **settings)
