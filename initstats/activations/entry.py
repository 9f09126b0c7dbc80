"""What an activation is, and how a function becomes one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from initstats import gaussian
from initstats.gaussian import Function, Gain
from initstats.registry import Catalog, Entry, meaning_of, name_of

Out = Callable[[Tensor, Tensor], object]
OutBackward = Callable[[Tensor, Tensor, Tensor], object]
Decorated = TypeVar("Decorated", bound=Callable[..., Tensor])

ACTIVATIONS: Catalog[Activation] = Catalog("activation")


@dataclass(frozen=True)
class Facts:
    """What is known of a function at given parameters beside its values; see `Activation`."""

    derivative: Function | None = None
    kinks: tuple[float, ...] = ()
    out_function: Out | None = None
    out_backward: OutBackward | None = None


@dataclass(frozen=True)
class Activation(Entry):
    """An activation at given parameters; call it with a tensor.

    Attributes:
        name: the canonical spelling, or the name of the callable that it was made from.
        function: elementwise; keeps shape and dtype.
        derivative: almost everywhere, elementwise, in the input's dtype.
        kinks: the x at which the derivative is known to jump, ascending.
        out_function: ``out_function(x, result)`` writes the function's values, to two units in
            the last place, into a tensor of x's shape that does not overlap it, and allocates
            nothing.
        out_backward: ``out_backward(gradient, x, result)`` takes the gradient with respect to
            phi(x) and writes that with respect to x into a tensor of x's shape that overlaps
            neither.
        meaning: one line.
        module: the module that defines a registered family; empty for any other callable.
    """

    catalog: ClassVar[Catalog[Activation]] = ACTIVATIONS

    name: str
    function: Function
    derivative: Function = field(repr=False)
    kinks: tuple[float, ...] = field(default=(), repr=False)
    out_function: Out | None = field(default=None, repr=False)
    out_backward: OutBackward | None = field(default=None, repr=False)
    meaning: str = ""
    module: str = field(default="", repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """phi(x)."""
        return self.function(x)

    @cached_property
    def gain(self) -> Gain:
        """The gains at q = 1, by quadrature."""
        return gaussian.gain(self.function, self.derivative)

    @property
    def jumps(self) -> bool:
        """Whether it jumps, so that its derivative does not say how inputs are told apart."""
        try:
            return math.isinf(self.gain.chi_1)
        except ValueError:  # no gain at q = 1
            return False


def get(activation: str | Activation | Function) -> Activation:
    """The activation that a spelling names, or one made of any callable Tensor -> Tensor.

    A callable with the name of a registered family must be that function (`torch.tanh` is `tanh`),
    as two activations of one name cannot be told apart in a table.

    >>> get("leaky_relu(negative_slope=0.010)").name
    'leaky_relu'

    Raises:
        ValueError: an unknown name or parameter; a callable that is not elementwise, changes the
            dtype, or takes a registered name.
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    if not callable(activation):
        raise ValueError(f"an activation is a name or a callable, not {activation!r}")
    name = name_of(activation)
    found = _made(name, _in_any_dtype(activation), Facts(), meaning_of(activation))
    if name not in ACTIVATIONS:
        return found
    registered = ACTIVATIONS[name]
    x = torch.linspace(-8, 8, 129, dtype=torch.float64)
    if torch.allclose(found(x), registered(x), rtol=1e-12, atol=1e-15):
        return registered
    raise ValueError(
        f"this callable is not the registered activation {name!r}: give its parameters as in "
        f"{name}(parameter=value), or rename it"
    )


def gain(activation: str | Activation | Function) -> Gain:
    """The gains of an activation, by name or of any callable; see `initstats.gaussian.Gain`.

    Those of a module with a parameter for every channel (`nn.PReLU(64)`) are the expectations over
    channels, too.

    >>> round(gain("gelu").forward, 5)
    1.53353

    Raises:
        ValueError: as `get`; or E phi(z)^2 does not exist.
    """
    if isinstance(activation, nn.Module) and (channels := _channels(activation)) > 1:
        function = _in_any_dtype(activation)
        slope = gaussian.derivative_of(function)

        def side_by_side(z: Tensor) -> Tensor:
            return z[:, None].expand(-1, channels).clone()

        return gaussian.gain(lambda z: function(side_by_side(z)), lambda z: slope(side_by_side(z)))
    return get(activation).gain


def register_activation(
    facts: Facts | Callable[..., Facts] = Facts(),
) -> Callable[[Decorated], Decorated]:
    """Register a function of a tensor and keyword parameters as a family of activations.

    The entry takes the function's name and the first line of its docstring. `facts`, which may be
    a function of the parameters, adds what is known; the derivative is autograd's by default::

        @register_activation()
        def cube(x, *, scale=1.0):
            return scale * x**3

    Raises:
        ValueError: another module took the name, or a parameter is not keyword-only with a default.
    """

    def register(function: Decorated) -> Decorated:
        def make(spelling: str, **parameters: Any) -> Activation:
            try:
                known = facts if isinstance(facts, Facts) else facts(**parameters)
            except (ArithmeticError, ValueError) as error:
                raise ValueError(f"activation {spelling!r}: {error}") from error
            at_parameters = partial(function, **parameters) if parameters else function
            _check_finite(spelling, at_parameters, parameters)
            return _made(spelling, at_parameters, known, meaning_of(function), function.__module__)

        ACTIVATIONS.add_function(function, make)
        return function

    return register


activation = register_activation


def _check_finite(name: str, function: Function, parameters: Mapping[str, Any]) -> None:
    """Refuse a parameter beyond float32 that leaves no finite values, as an infinite slope does."""
    huge = [key for key, value in parameters.items() if _is_huge(value)]
    if huge:
        _try(name, function)
        if not function(torch.linspace(-2, 2, 5)).isfinite().all():
            raise ValueError(
                f"activation {name!r}: {huge[0]} must be finite in float32: "
                f"got {parameters[huge[0]]:g}"
            )


def _is_huge(value: object) -> bool:
    return isinstance(value, float) and abs(value) > torch.finfo(torch.float32).max


def _made(
    name: str, function: Function, facts: Facts, meaning: str | None = None, module: str = ""
) -> Activation:
    _try(name, function)
    derivative = facts.derivative or _slope(facts.out_backward) or gaussian.derivative_of(function)
    known = {**vars(facts), "derivative": derivative}
    meaning = meaning_of(function) if meaning is None else meaning
    return Activation(name, function, **known, meaning=meaning, module=module)


def _in_any_dtype(function: Function) -> Function:
    """A module with its parameters in the dtype of its input; any other callable as it is."""
    if not isinstance(function, nn.Module):
        return function
    module = function

    def at_dtype(x: Tensor) -> Tensor:
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        cast = {
            name: value.detach().to(x.dtype) if value.is_floating_point() else value
            for name, value in state.items()
        }
        y: Tensor = functional_call(module, cast, (x,))
        return y

    return at_dtype


def _channels(module: nn.Module) -> int:
    """The number of entries of a module's parameters, where it is one number; else 1."""
    sizes = {parameter.numel() for parameter in module.parameters()} - {1}
    return sizes.pop() if len(sizes) == 1 else 1


def _slope(out_backward: OutBackward | None) -> Function | None:
    """The derivative, as the backward pass of a gradient of 1."""
    if out_backward is None:
        return None

    def derivative(x: Tensor) -> Tensor:
        result = torch.empty_like(x)
        out_backward(torch.ones_like(x), x.detach(), result)
        return result

    return derivative


def _try(name: str, function: Function) -> None:
    """Raise ValueError for a function that is not elementwise, found by trying it."""
    x = torch.linspace(-2, 2, 80).view(8, 10)
    try:
        with torch.no_grad():
            y, part = function(x.clone()), function(x[1:, 1:].clone())
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"activation {name!r} cannot be evaluated: {error}") from error
    if not isinstance(y, Tensor) or (y.shape, y.dtype) != (x.shape, x.dtype):
        made = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"activation {name!r} must keep shape and dtype: it made {made} of "
            f"{x.dtype} {tuple(x.shape)}"
        )
    if not torch.allclose(y[1:, 1:], part, rtol=1e-5, equal_nan=True):
        raise ValueError(
            f"activation {name!r} must be elementwise and not random: an entry's value depends on "
            "the others or on chance"
        )
