"""What is trained: a registered network with a last layer, or a model of the user's own."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initstats.activations import ACTIVATIONS, Activation
from initstats.data import Split
from initstats.draws import generator_for
from initstats.failure import in_a_line
from initstats.inits import INITS, Init
from initstats.networks import Dense, Network, Pool, Serial
from initstats.networks import get as get_network
from initstats.registry import check_importable, import_module, import_own
from initstats.stack import Settings, exact_numerics, weights_by_activation
from initstats.training.autograd import AutogradNet, expect_outputs
from initstats.training.batches import Batch
from initstats.training.byhand import HandNet, Measured, Tile, Workspace, tiles
from initstats.training.losses import Loss
from initstats.training.optimizers import Optimizer

SIZES = {"cnn": (8, 4), "resnet": (8, 6), "mlp": (50, 1)}
"""Width and depth of the lesson's networks, for those that ask for none."""
_FACTORY = re.compile(r"[\w./\\-]+:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Factory:
    """A function ``function(activation, init)`` that gives a model of the user's own.

    It is given `activation`, a module without parameters that may stand in several places, and
    `init`, a function that draws the weights of every linear and convolutional layer of a module
    and returns it.

    Attributes:
        name: ``module:function`` or ``file.py:function``, by which other processes find it.
    """

    name: str
    function: Callable[..., nn.Module] = field(repr=False, compare=False)

    def outputs(self, split: Split) -> list[float]:
        """What its model under a fixed init and activation makes of a few samples; none where it
        raises an error, which its runs will tell of.
        """
        with exact_numerics(), suppress(Exception):
            model, made = self.model(INITS["kaiming_normal"], ACTIVATIONS["relu"], 0, split)
            sizes = [float(parameter.numel()) for parameter in model.parameters()]
            return sizes + [float(f"{y:.4g}") for y in made.flatten().tolist()]
        return []

    def model(
        self, init: Init, activation: Activation, seed: int, split: Split
    ) -> tuple[nn.Module, Any]:
        """A model as the seed draws it, and what it makes of the first samples of a split.

        Parameters that a model makes when it first reads samples are there, too.

        Raises:
            ValueError: the function gives something else.
        """
        drawn = Drawn(init, activation, seed)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(generator_for(seed, "factory").get_state())
            model = self.function(Activated(activation), drawn)
            if not isinstance(model, nn.Module):
                raise ValueError(
                    "the function must return a torch.nn.Module, and returns "
                    f"{type(model).__name__}"
                )
            with torch.no_grad():
                made = model.eval()(split.first(min(4, len(split))).images)
            drawn.draw()
        return model, made

    def check_importable(self) -> None:
        """Raise a PicklingError for a function that another process cannot import."""
        check_importable("network", self.name, self.name.rpartition(":")[0])
        try:
            found = factory(self.name).function
        except ValueError:
            found = None
        if found is not self.function:
            raise pickle.PicklingError(
                f"network {self.name!r} is no function of a module by that name, which other "
                "processes could import: define it in a module (a file.py), or use workers=1"
            )

    @property
    def module(self) -> str:
        """The module that defines the function; a file is named by its path."""
        return self.function.__module__

    def __reduce__(self) -> tuple[Callable[[str, str], Factory], tuple[str, str]]:
        return _recalled, (self.name, self.module)


Architecture = Network | Factory


def get(network: object) -> Architecture:
    """The network that a spelling names, or the function of a module that gives a model.

    Raises:
        ValueError: neither.
    """
    if isinstance(network, Factory):
        return network
    if isinstance(network, str) and _FACTORY.fullmatch(network):
        return factory(network)
    if inspect.isfunction(network) and {"activation", "init"} <= {
        *inspect.signature(network).parameters
    }:
        return Factory(f"{network.__module__}:{network.__qualname__}", network)
    return get_network(network)  # type: ignore[arg-type]


def factory(name: str) -> Factory:
    """The function that ``module:function`` names.

    Raises:
        ValueError: there is none, or it cannot be imported.
    """
    module, _, function = name.rpartition(":")
    try:
        found = getattr(import_own(module), function, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = error if isinstance(error, ImportError | OSError) else in_a_line(error)
        raise ValueError(f"network {name!r} cannot be imported: {reason}") from error
    if not callable(found):
        raise ValueError(f"network {name!r}: module {module!r} has no function {function!r}")
    return Factory(name, found)


def _recalled(name: str, module: str) -> Factory:
    """A function in another process, which may work in another folder."""
    return Factory(name, getattr(import_module(module), name.rpartition(":")[2]))


def is_factory(name: object) -> bool:
    """Whether a name is that of a function in a module, whose code would run."""
    return isinstance(name, str) and _FACTORY.fullmatch(name) is not None


class Net(Protocol):
    """A network in training."""

    def train(self, batch: Any, rate: float) -> tuple[float, int]:
        """Take a step on a batch; the mean loss before it, and how many were right."""

    def evaluate(self, batch: Any) -> tuple[float, int]:
        """The sum of the losses of a batch, and how many are right."""

    def statistics(self, split: Split, seed: int) -> Measured:
        """The places and the statistics of all tensors for some samples."""


class Builder(Protocol):
    """Makes networks of one architecture."""

    def build(self, init: Init, activation: Activation, seed: int) -> Net:
        """A network as it is before training."""

    def shared(self, batch: Batch) -> Any:
        """A batch as all networks take it."""


def builder(
    architecture: Architecture,
    width: int,
    depth: int,
    fit: Split,
    classes: int,
    optimizer: Optimizer,
    decay: float,
    loss: Loss,
) -> Builder:
    """What makes the networks of an architecture.

    Args:
        width, depth: of a registered network.
        fit: the training samples that a data-dependent init is fitted on.
        classes: how many there are.
        optimizer, decay, loss: how they are trained.

    Raises:
        ValueError: the network cannot read such samples.
    """
    make = {"optimizer": optimizer, "decay": decay, "loss": loss}
    if isinstance(architecture, Factory):
        return _Models(architecture, fit, loss.outputs(classes), make)
    return _Blocks(
        classifier(architecture, fit.shape, width, depth, loss.outputs(classes)), fit, make
    )


def classifier(
    network: Network, shape: Sequence[int], width: int, depth: int, outputs: int
) -> Serial:
    """A registered network with a last layer: the mean over positions, if any, and a linear map."""
    body = network.on(shape, width, depth)
    hidden = any(leaf.tensor == "" for leaf in body.leaves())
    if body.random or hidden:
        what = "drops what it draws" if body.random else "has attention"
        raise ValueError(
            f"network {network.name!r} {what}, and such networks of blocks are measured but not "
            "trained here: train a model of your own, as MODULE:FUNCTION"
        )
    pooled = [Pool()] if body.outputs.plane else []
    assert body.inputs is not None
    return Serial(*body.blocks, *pooled, Dense(outputs)).on(body.inputs)


class _Blocks:
    """Networks of blocks, which share the memory that they run in."""

    def __init__(self, network: Serial, fit: Split, make: dict[str, Any]) -> None:
        self.workspace, self.fit, self.make = Workspace(network), fit, make

    def build(self, init: Init, activation: Activation, seed: int) -> HandNet:
        network = self.workspace.network
        settings = Settings(len(network.layers), 1)
        (drawn,) = weights_by_activation(init, [activation], network, [seed], self.fit, settings)
        return HandNet(self.workspace, activation, drawn, **self.make)

    def shared(self, batch: Batch) -> list[Tile]:
        return tiles(self.workspace, batch)


class _Models:
    """Models of the user's own."""

    def __init__(self, factory: Factory, fit: Split, outputs: int, make: dict[str, Any]) -> None:
        self.factory, self.fit, self.outputs, self.make = factory, fit, outputs, make
        self._parameters = set[nn.Parameter]()

    def build(self, init: Init, activation: Activation, seed: int) -> AutogradNet:
        model, made = self.factory.model(init, activation, seed, self.fit)
        trained = {each for each in model.parameters() if each.requires_grad}
        if not trained:
            raise ValueError("the model has no parameters to train")
        if trained & self._parameters:
            raise ValueError("the function gives one model twice: let it make a new one each time")
        self._parameters |= trained
        expect_outputs(made, min(4, len(self.fit)), self.outputs)
        return AutogradNet(model, self.fit.shape, self.outputs, seed=seed, **self.make)

    def shared(self, batch: Batch) -> Batch:
        return batch


class Activated(nn.Module):
    """An activation as a module."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """phi(x)."""
        return self.activation(x)

    def extra_repr(self) -> str:
        """Its name."""
        return self.activation.name


@dataclass
class Drawn:
    """An init as a factory is given it: ``init(module)`` draws the weights of its layers.

    The first layer that is drawn reads data, all others the activation. A layer whose shape is not
    known before it reads samples is drawn then.
    """

    init: Init
    activation: Activation
    seed: int
    layers: int = 0
    waiting: list[tuple[int, Any]] = field(default_factory=list)

    def __call__(self, module: nn.Module) -> nn.Module:
        """The same module, its linear and convolutional layers drawn anew."""
        if self.init.fitted:
            raise ValueError(
                f"init {self.init.name!r} is fitted to data, which a model of your own is not here:"
                " choose another init, or call lsuv_ in the factory"
            )
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                self.layers += 1
                self.waiting.append((self.layers, layer))
        self.draw()
        return module

    def draw(self) -> None:
        """Draw those layers that are waiting for it and whose shapes are known."""
        waiting, self.waiting = self.waiting, []
        for number, layer in waiting:
            if is_lazy(layer.weight):
                self.waiting.append((number, layer))
            else:
                self._draw(number, layer)

    def _draw(self, number: int, layer: Any) -> None:
        read = self.activation if number > 1 else ACTIVATIONS["identity"]
        generator = generator_for(self.seed, number)
        weight, bias = self.init.sample(tuple(layer.weight.shape), generator, read)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.copy_(bias)


def sizes_of(architecture: Architecture) -> tuple[int, int]:
    """The width and depth of an architecture where none are asked for; 0 for the user's own."""
    if isinstance(architecture, Factory):
        return 0, 0
    return SIZES.get(architecture.name.partition("(")[0], (50, 4))
