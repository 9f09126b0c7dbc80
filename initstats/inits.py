"""Initializations: each knows how to draw weights and which variance theory should expect of them.

Weights are (out, in[, kh, kw]), as torch keeps them. What a scheme is called says little about
its scale, so every entry states sigma_w^2 = fan_in Var W and sigma_b^2 = Var b, the terms of the
length map (Poole et al. 2016, arXiv:1606.05340). Where `torch.nn.init` has the scheme, the same
generator gives the same bits.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Generator, Tensor, nn

from initstats.activations import ACTIVATIONS, Activation
from initstats.registry import Catalog, Entry, meaning_of, name_of, unknown

Fill = Callable[..., object]
Std = Callable[..., float]
Decorated = TypeVar("Decorated", bound=Fill)
Shape = Sequence[int]

# Arguments that a draw may ask for by name; all others of a fill are its parameters.
_GIVEN = ("generator", "bias", "activation")

INITS: Catalog[Init] = Catalog("init")


@dataclass(frozen=True)
class Init(Entry):
    """An initialization at given parameters.

    Attributes:
        fill: ``fill(weight, generator=...)`` draws in place; it is also given ``bias`` (out,) and
            ``activation`` where it takes arguments of these names. The activation is the one that
            the layer reads: the identity for the first layer, which reads data.
        std: the standard deviation of a weight, ``std(shape)``; NaN where weights are not
            independent draws of one scale. Also given ``activation`` where `fill` is.
        bias_std: the same for the biases.
        fitted: the draw is only a start that is then fitted to data.
        orthogonal: rows or columns, whichever are fewer, are orthogonal and of one length, so that
            the weights do not add as much chance to the length of a signal as independent ones do.
        uniform_bias: biases are uniformly distributed, and so many inputs do not make
            pre-activations Gaussian.
        note: why no variance is declared for some shapes, in words.
    """

    catalog: ClassVar[Catalog[Init]] = INITS

    name: str
    fill: Fill
    std: Std = field(repr=False)
    bias_std: Std = field(repr=False)
    meaning: str = ""
    fitted: bool = False
    orthogonal: bool = False
    uniform_bias: bool = False
    note: str = ""
    module: str = field(default="", repr=False)

    @cached_property
    def _wanted(self) -> tuple[str, ...]:
        return tuple(key for key in _GIVEN if key in inspect.signature(self.fill).parameters)

    @property
    def follows_activation(self) -> bool:
        """Whether the draw depends on the activation in use."""
        return "activation" in self._wanted

    def sample(
        self, shape: Shape, generator: Generator, activation: Activation
    ) -> tuple[Tensor, Tensor]:
        """Draw float32 weights of `shape` (out, in[, kh, kw]) and biases (out,).

        Biases are zero unless the scheme draws them. With groups, in is the number of inputs of
        one group. The activation is the one that the layer reads.
        """
        weight = torch.zeros(tuple(shape), dtype=torch.float32, device=generator.device)
        bias = weight.new_zeros(weight.shape[0])
        given = {"generator": generator, "bias": bias, "activation": activation}
        with torch.no_grad():
            made = self.fill(weight, **{key: given[key] for key in self._wanted})
        if isinstance(made, Tensor) and made is not weight:
            raise ValueError(f"init {self.name!r} must fill `weight` in place, not return another")
        return weight, bias

    def sigma_w2(self, shape: Shape, activation: Activation) -> float:
        """fan_in * Var W, by which a layer multiplies the second moment of its input.

        NaN where no such statement holds: `identity` on square layers, schemes that are fitted to
        data, and users' own that do not declare one.
        """
        fan_in, _ = fans(shape)
        return fan_in * self._declared(self.std, shape, activation) ** 2

    def sigma_b2(self, shape: Shape, activation: Activation) -> float:
        """Var b; zero for schemes without biases."""
        return self._declared(self.bias_std, shape, activation) ** 2

    @property
    def unpredicted(self) -> str:
        """Why theory says nothing where no variance is declared."""
        if self.fitted:
            return "weights are fitted to data: nothing is left to predict"
        return self.note or f"init {self.name!r} declares no variance"

    def _declared(self, std: Std, shape: Shape, activation: Activation) -> float:
        return std(shape, activation=activation) if self.follows_activation else std(shape)


def get(init: str | Init | Fill) -> Init:
    """The init that a spelling names, or one made of a callable like those of `torch.nn.init`.

    >>> get("kaiming_normal( gain = 2.0 )").name
    'kaiming_normal(gain=2)'

    Raises:
        ValueError: an unknown name or parameter, or a value that the scheme cannot draw with; a
            callable without a `generator` argument, or with a registered name.
    """
    if isinstance(init, Init):
        return init
    if isinstance(init, str):
        return INITS[init]
    if not callable(init):
        raise ValueError(f"an init is a name or a callable, not {init!r}")
    name = name_of(init)
    if name in INITS:
        raise ValueError(f"{name!r} is the name of a registered init: rename the callable")
    return _tried(Init(name, init, _undeclared, _none, meaning_of(init)))


def register_init(
    std: Std | None = None,
    bias_std: Std | None = None,
    *,
    fitted: bool = False,
    orthogonal: bool = False,
    uniform_bias: bool = False,
    note: str = "",
) -> Callable[[Decorated], Decorated]:
    """Register a function that fills weights in place as a family of initializations.

    The function's name and the first line of its docstring are the entry's; its parameters are
    keyword-only, beside `generator`, `bias` and `activation`. `std` and `bias_std`, called with a
    shape and the parameters, declare the scale that theory should expect; the flags and the note
    are those of `Init`::

        @register_init(lambda shape, std: std)
        def flat(weight, *, generator, std=0.1):
            weight.uniform_(-(3**0.5) * std, 3**0.5 * std, generator=generator)

    Raises:
        ValueError: another module took the name, or a parameter is not keyword-only with a default.
    """

    def register(fill: Decorated) -> Decorated:
        def make(spelling: str, **parameters: Any) -> Init:
            return _tried(
                Init(
                    spelling,
                    partial(fill, **parameters),
                    partial(std, **parameters) if std else _undeclared,
                    partial(bias_std, **parameters) if bias_std else _none,
                    meaning_of(fill),
                    fitted,
                    orthogonal,
                    uniform_bias,
                    note,
                    fill.__module__,
                )
            )

        INITS.add_function(fill, make, _GIVEN)
        return fill

    return register


init = register_init


def fans(shape: Shape) -> tuple[int, int]:
    """fan_in and fan_out of a weight (out, in[, kh, kw]), as torch counts them.

    >>> fans((16, 8, 3, 3))
    (72, 144)
    """
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"a weight is (out, in[, kh, kw]), each at least 1: got {tuple(shape)}")
    out, inputs, *kernel = shape
    receptive = math.prod(kernel)
    return inputs * receptive, out * receptive


def _tried(entry: Init) -> Init:
    """The entry, once it has drawn: bad parameters raise here, and not in the middle of a sweep."""
    if "generator" not in inspect.signature(entry.fill).parameters:
        raise ValueError(
            f"init {entry.name!r} must take a `generator` to draw from, as in torch.nn.init: "
            "def name(weight, *, generator)"
        )
    try:
        linear = ACTIVATIONS["identity"]
        weight, bias = entry.sample((4, 3), Generator().manual_seed(0), linear)
        again, _ = entry.sample((4, 3), Generator().manual_seed(0), linear)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"init {entry.name!r} cannot draw: {error}") from error
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ValueError(f"init {entry.name!r} draws values that are not finite")
    if not weight.equal(again):
        raise ValueError(f"init {entry.name!r} does not draw from the `generator` it is given")
    return entry


def _undeclared(shape: Shape, **_: object) -> float:
    return math.nan


def _none(shape: Shape, **_: object) -> float:
    return 0.0


def _uniform(weight: Tensor, std: float, generator: Generator) -> None:
    bound = math.sqrt(3.0) * std
    weight.uniform_(-bound, bound, generator=generator)


# The schemes. Each formula for a standard deviation serves its draw and its declaration.


@register_init(lambda shape, std: std)
def normal(weight: Tensor, *, generator: Generator, std: float = 0.01) -> None:
    """Normal with one standard deviation for every layer."""
    nn.init.normal_(weight, std=std, generator=generator)


def _lecun_std(shape: Shape) -> float:
    return 1 / math.sqrt(fans(shape)[0])


@register_init(_lecun_std)
def simplified(weight: Tensor, *, generator: Generator) -> None:
    """randn / sqrt(fan_in): the lesson's simplified kaiming; keeps a linear signal."""
    weight.normal_(generator=generator).div_(math.sqrt(fans(weight.shape)[0]))


@register_init(_lecun_std)
def lecun_normal(weight: Tensor, *, generator: Generator) -> None:
    """Normal with variance 1 / fan_in; keeps a linear signal, made for selu."""
    weight.normal_(0, _lecun_std(weight.shape), generator=generator)


@register_init(_lecun_std)
def lecun_uniform(weight: Tensor, *, generator: Generator) -> None:
    """Uniform with variance 1 / fan_in."""
    _uniform(weight, _lecun_std(weight.shape), generator)


def _xavier_std(shape: Shape, gain: float) -> float:
    return gain * math.sqrt(2 / sum(fans(shape)))


@register_init(_xavier_std)
def xavier_normal(weight: Tensor, *, generator: Generator, gain: float = 1.0) -> None:
    """Normal with variance gain^2 * 2 / (fan_in + fan_out): forward and backward at once."""
    nn.init.xavier_normal_(weight, gain, generator)


@register_init(_xavier_std)
def xavier_uniform(weight: Tensor, *, generator: Generator, gain: float = 1.0) -> None:
    """Uniform with variance gain^2 * 2 / (fan_in + fan_out)."""
    nn.init.xavier_uniform_(weight, gain, generator)


_MODES = ("fan_in", "fan_out")


def _kaiming_std(shape: Shape, mode: str, gain: float) -> float:
    if mode not in _MODES:
        raise unknown("mode", mode, _MODES)
    return gain / math.sqrt(fans(shape)[_MODES.index(mode)])


@register_init(_kaiming_std)
def kaiming_normal(
    weight: Tensor, *, generator: Generator, mode: str = "fan_in", gain: float = math.sqrt(2)
) -> None:
    """Normal with variance gain^2 / fan: with gain sqrt 2 keeps a relu's signal."""
    weight.normal_(0, _kaiming_std(weight.shape, mode, gain), generator=generator)


@register_init(_kaiming_std)
def kaiming_uniform(
    weight: Tensor, *, generator: Generator, mode: str = "fan_in", gain: float = math.sqrt(2)
) -> None:
    """Uniform with variance gain^2 / fan: with gain sqrt 2 keeps a relu's signal."""
    _uniform(weight, _kaiming_std(weight.shape, mode, gain), generator)


def _truncated_std(shape: Shape, std: float) -> float:
    inside = math.erf(math.sqrt(2))
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    return std * math.sqrt(1 - 4 * density / inside)


@register_init(_truncated_std)
def trunc_normal(weight: Tensor, *, generator: Generator, std: float = 0.02) -> None:
    """Normal, redrawn outside two std: what is left has 0.88 of it (torch does not rescale)."""
    nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std, generator)


def _orthogonal_std(shape: Shape, gain: float) -> float:
    out, inputs = shape[0], math.prod(shape[1:])
    return gain / math.sqrt(max(out, inputs))


@register_init(_orthogonal_std, orthogonal=True)
def orthogonal(weight: Tensor, *, generator: Generator, gain: float = 1.0) -> None:
    """Orthonormal rows or columns, whichever are fewer: square layers keep every length."""
    nn.init.orthogonal_(weight, gain, generator)


def _sparse_std(shape: Shape, sparsity: float, std: float) -> float:
    return std * math.sqrt(1 - math.ceil(sparsity * shape[0]) / shape[0])


@register_init(_sparse_std)
def sparse(
    weight: Tensor, *, generator: Generator, sparsity: float = 0.9, std: float = 0.01
) -> None:
    """Normal, but each input reaches only the share 1 - sparsity of the units."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is a share between 0 and 1, got {sparsity}")
    if not 0 <= std <= torch.finfo(torch.float32).max:  # a small weight may be all zeros
        raise ValueError(f"std is at least 0, and finite in float32, got {std:g}")
    # Not nn.init.sparse_: even when given a generator, it chooses the zeros by the global one.
    columns = weight.flatten(1).normal_(0, std, generator=generator)
    out = len(columns)
    for column in columns.T:
        column[torch.randperm(out, generator=generator)[: math.ceil(sparsity * out)]] = 0


def _identity_std(shape: Shape) -> float:
    return math.nan if shape[0] == shape[1] else _orthogonal_std(shape, 1.0)


@register_init(
    _identity_std,
    orthogonal=True,
    note="the layer passes its input on: no draw of weights to take a mean over",
)
def identity(weight: Tensor, *, generator: Generator) -> None:
    """Passes its input on where the layer is square (conv: by the centre), else orthogonal."""
    if weight.shape[0] != weight.shape[1]:
        nn.init.orthogonal_(weight, generator=generator)
    elif weight.ndim == 2:
        nn.init.eye_(weight)
    else:
        nn.init.dirac_(weight)


def _torch_std(shape: Shape) -> float:
    return 1 / math.sqrt(3 * fans(shape)[0])


@register_init(_torch_std, _torch_std, uniform_bias=True)
def torch_default(weight: Tensor, *, generator: Generator, bias: Tensor) -> None:
    """What nn.Linear and nn.Conv2d do unasked: kaiming_uniform(a=sqrt 5), uniform biases."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(fans(weight.shape)[0])
    nn.init.uniform_(bias, -bound, bound, generator)


@register_init(_none)
def zeros(weight: Tensor, *, generator: Generator) -> None:
    """All weights zero: nothing passes."""
    nn.init.zeros_(weight)


_GAINS = ("forward", "backward", "variance")


def _matched_std(shape: Shape, gain: str, activation: Activation) -> float:
    if gain not in _GAINS:
        raise unknown("gain", gain, _GAINS)
    size: float = getattr(activation.gain, gain)
    if math.isinf(size):
        raise ValueError(f"{activation.name} has no {gain} gain: {activation.gain.note}")
    return _kaiming_std(shape, "fan_in", size)


@register_init(_matched_std)
def matched(
    weight: Tensor, *, generator: Generator, activation: Activation, gain: str = "forward"
) -> None:
    """kaiming_normal with the exact gain of the activation that the layer reads; 1 for data."""
    weight.normal_(0, _matched_std(weight.shape, gain, activation), generator=generator)


def _mean_field_std(shape: Shape, sigma_w: float, sigma_b: float) -> float:
    return sigma_w * _lecun_std(shape)


@register_init(_mean_field_std, lambda shape, sigma_w, sigma_b: sigma_b)
def mean_field(
    weight: Tensor,
    *,
    generator: Generator,
    bias: Tensor,
    sigma_w: float = 1.0,
    sigma_b: float = 0.0,
) -> None:
    """Normal with variance sigma_w^2 / fan_in, biases with sigma_b^2: the papers' parameters."""
    weight.normal_(0, _mean_field_std(weight.shape, sigma_w, sigma_b), generator=generator)
    bias.normal_(0, sigma_b, generator=generator)


@register_init(_mean_field_std, lambda shape, sigma_w, sigma_b: sigma_b, orthogonal=True)
def mean_field_orthogonal(
    weight: Tensor,
    *,
    generator: Generator,
    bias: Tensor,
    sigma_w: float = 1.0,
    sigma_b: float = 0.0,
) -> None:
    """Orthogonal with the variance of mean_field, biases normal with sigma_b^2."""
    out, inputs = weight.shape[0], math.prod(weight.shape[1:])
    nn.init.orthogonal_(weight, sigma_w * math.sqrt(max(out / inputs, 1)), generator)
    bias.normal_(0, sigma_b, generator=generator)


@register_init(fitted=True)
def lsuv(weight: Tensor, *, generator: Generator) -> None:
    """Orthogonal, then rescaled layer by layer until a batch of data comes out with std 1."""
    nn.init.orthogonal_(weight, generator=generator)
