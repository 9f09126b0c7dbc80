"""What each operation of torch makes of what theory knows of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from initstats.prediction.model.arguments import Arguments
from initstats.prediction.model.attention import between
from initstats.prediction.model.branches import added
from initstats.prediction.model.entries import dropped
from initstats.prediction.model.laws import Laws
from initstats.prediction.model.moving import copied, joined, mixed, picked, unfolded
from initstats.prediction.model.norms import norm, over_rows
from initstats.prediction.model.pointwise import applied
from initstats.prediction.model.signals import (
    Given,
    Signal,
    State,
    Unknown,
    Weight,
    unit_dims,
)
from initstats.prediction.model.sums import convolution, embedding, linear, with_bias, with_weights
from initstats.prediction.model.tables import Draws, Unpredicted
from initstats.probe.elementwise import filled, what_is
from initstats.probe.kinds import (
    CASTS,
    CHOOSING,
    DROPOUTS,
    MIXING,
    NORMALIZATIONS,
    REARRANGING,
    TOGETHER,
    words,
)
from initstats.probe.operations import Operation, draws, is_draw, is_maker, may_be_tried

_AVERAGING = words(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "constant_pad_nd mean pad sum upsample_bicubic2d upsample_bilinear2d upsample_linear1d "
    "upsample_nearest1d upsample_nearest2d"
)
_LARGEST = words("max_pool1d max_pool2d max_pool3d adaptive_max_pool2d")
_SHARES = words("softmax log_softmax")
_SUMS = words("add sub rsub")
_PRODUCTS = words("bmm einsum linalg_matmul matmul mm scaled_dot_product_attention")


@dataclass(frozen=True, eq=False)
class Rules:
    """Finds the state of an operation's outputs from those of its arguments.

    Attributes:
        draws: makes columns.
        laws: those of the parameters.
    """

    draws: Draws
    laws: Laws

    def follow(
        self,
        operation: Operation,
        outputs: Sequence[Tensor],
        state_of: Callable[[Tensor], State],
    ) -> list[State]:
        """The states of the outputs; unknown ones say why."""
        of = Arguments(operation, state_of, self.draws, self.laws)
        unknown = next((state for state in of.states if isinstance(state, Unknown)), None)
        if unknown is not None:
            return [unknown] * len(outputs)
        name = operation.name.rstrip("_")
        if is_draw(name) or (draws(operation) and not of.has(Signal)):
            return [Unknown("random numbers that are no weights")] * len(outputs)
        if not of.has(Signal, Weight) or is_maker(name) or _is_norm_of_data(name, of):
            return [Given(x.detach().cpu()) for x in outputs]
        found: list[State]
        try:
            found = _found(name, of, outputs)
        except Unpredicted as why:
            found = [Unknown(f"{operation.name}: {why}")] * len(outputs)
        except Exception as error:  # noqa: BLE001 (whatever a model may do with arguments)
            what = (str(error).splitlines() or [""])[0]
            why_not = f"it cannot be followed ({type(error).__name__}: {what})"
            found = [Unknown(f"{operation.name}: {why_not}")] * len(outputs)
        shapes = (x.shape for x in outputs)
        for shape, state in zip(shapes, found, strict=True):
            if isinstance(state, Signal) and state.rows.shape != shape:
                return [Unknown(f"{operation.name}: its shape is not understood")] * len(outputs)
        if name in REARRANGING:
            return found
        return [_unfolded(state) if isinstance(state, Signal) else state for state in found]


Rule = Callable[[Arguments, Tensor], Signal]


def _found(name: str, of: Arguments, outputs: Sequence[Tensor]) -> list[State]:
    if name in REARRANGING | CASTS | TOGETHER | CHOOSING:
        return _moved(name, of, outputs)
    if not of.has(Signal, Given):
        raise Unpredicted("weights that are computed from other weights")
    if len(outputs) > 1:
        raise Unpredicted("an operation of several outputs that is not known")
    return [_rule(name, of)(of, outputs[0])]


def _rule(name: str, of: Arguments) -> Rule:
    """The rule for an operation of one output."""
    if name in _RULES:
        return _RULES[name]
    if name in _PRODUCTS:
        return with_weights if of.has(Weight) else between
    if name in MIXING or name.startswith("conv"):
        raise Unpredicted("a product of a kind that is not followed")
    return _pointwise


def _moved(name: str, of: Arguments, outputs: Sequence[Tensor]) -> list[State]:
    state, *others = of.states
    if isinstance(state, Weight):
        return [Weight(x.detach(), state.name, state.shape) for x in outputs]
    if name in CASTS:
        return [state for _ in outputs]
    if name in TOGETHER:
        return [
            each.moved(partial(Tensor.expand_as, other=x)) if isinstance(each, Signal) else each
            for each, x in zip(of.states, outputs, strict=True)
        ]
    assert isinstance(state, Signal)
    if any(isinstance(other, Signal) for other in others):
        raise Unpredicted("entries are chosen by a signal")
    if of.operation.before is not None:
        raise Unpredicted("it rearranges in place")
    states_found: list[State] = []
    for number in range(len(outputs)):

        def change(index: Tensor, number: int = number) -> Tensor:
            made = of.run(index)
            return made if isinstance(made, Tensor) else made[number]

        if name in REARRANGING:
            states_found.append(state.moved(change))
        else:
            states_found.append(picked(state, change))
    return states_found


def _joined(of: Arguments, out: Tensor) -> Signal:
    dim = int(of.value(1, "dim", 0))
    given = of.value(0, "tensors")
    states = [of.state_of(x) for x in given]
    like = next(state for state in states if isinstance(state, Signal))
    values = []
    for x, state in zip(given, states, strict=True):
        if isinstance(state, Weight):
            first = like.moved(partial(_first, dim=dim, shape=x.shape))
            state = of.beside(x, state, first)
        if not isinstance(state, Signal):
            raise Unpredicted("a signal and a constant behind each other")
        values.append(state)
    if of.operation.name == "stack":
        dim %= out.ndim
        values = [x.moved(lambda i: i.unsqueeze(dim)) for x in values]
    return joined(values, dim, of.draws)


def _dropped(of: Arguments, _: Tensor) -> Signal:
    x, rate = of.signal(0, "input"), float(of.value(1, "p", 0.5))
    if not draws(of.operation) or rate == 0:
        return x
    if of.operation.name.rstrip("_") != "dropout" or rate == 1:
        raise Unpredicted("dropout of whole channels, of all, or with other values than 0")
    return dropped(x, 1 - rate, of.draws)


def _over_rows(of: Arguments, out: Tensor) -> Signal:
    x = of.signal(0, "input")
    name = of.operation.name
    if name in _SHARES:
        return over_rows(x, of.run, of.draws)
    if name in _LARGEST:
        return copied([x], of.run, out.shape, unit_dims(x), of.draws)
    if name in ("constant_pad_nd", "pad") and not _pads_zeros(of):
        raise Unpredicted("padding with other values than 0")
    dims = unit_dims(x)
    over = of.value(1, "dim")
    if name in ("mean", "sum") and over is not None:
        gone = {dim % x.rows.ndim for dim in ([over] if isinstance(over, int) else over)}
        if gone >= set(dims):
            made = copied([x], of.run, out.shape, [], of.draws)
            made.table.statistic = True
            return made
    return mixed(x, of.run, out.shape)


def _gated(of: Arguments, _: Tensor) -> Signal:
    x, dim = of.signal(0, "input"), int(of.value(1, "dim", -1))
    halves = [picked(x, partial(_half, dim=dim, number=number)) for number in (0, 1)]
    return applied(lambda a, b: a * b.sigmoid(), halves, [], of.draws)


def _half(index: Tensor, dim: int, number: int) -> Tensor:
    return index.chunk(2, dim)[number]


def _pointwise(of: Arguments, out: Tensor) -> Signal:
    if not may_be_tried(of.operation):
        raise Unpredicted("an operation that is not known")
    args, named, parts = of.holes
    states = [of.state_of(part) for part in parts]
    fixed = [_constant(part, state) for part, state in zip(parts, states, strict=True)]
    single = [c is not None and c.numel() == 1 and c.is_floating_point() for c in fixed]
    kinds = tuple(
        "constant" if one else "mask" if part.dtype == torch.bool else "value"
        for part, one in zip(parts, single, strict=True)
    )
    numbers = tuple(
        c.double() for c, one in zip(fixed, single, strict=True) if one and c is not None
    )
    if what_is(of.operation.function, args, named, kinds, out.ndim, numbers) != "elementwise":
        raise Unpredicted("an operation that is not known")
    signals = [state for state in states if isinstance(state, Signal)]
    if not signals:
        raise Unpredicted("weights that are no product with what they meet")
    like = max(signals, key=lambda x: x.rows.numel())
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        if fixed[number] is None and isinstance(state, Weight):
            states[number] = of.beside(part, state, like)
    where = [n for n, state in enumerate(states) if isinstance(state, Signal)]
    others = [n for n in range(len(parts)) if n not in where]
    values = [s for s in states if isinstance(s, Signal)]
    constants = [fixed[n] for n in others]
    name = of.operation.name.rstrip("_")
    alike = len({x.table.units for x in values}) == 1
    if name in _SUMS and len(values) == 2 and len(parts) == 2 and alike:
        alpha = float(of.value(2, "alpha", 1.0))
        signs = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[name]
        return added(values, signs)
    function = of.operation.function

    def run(*given: Tensor) -> Tensor:
        filling = [given[[*where, *others].index(n)] for n in range(len(parts))]
        made: Tensor = function(*filled(args, filling), **dict(filled(named, filling)))
        return made

    return applied(run, values, [c for c in constants if c is not None], of.draws)


def _unfolded(x: Signal) -> Signal:
    try:
        return unfolded(x)
    except Unpredicted:  # only its own gradient needs a row for each position
        return x


def _first(index: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """The first place along a dimension, as often as a tensor has such places."""
    return index.narrow(dim, 0, 1).expand(*shape)


def _constant(x: Tensor, state: State) -> Tensor | None:
    """A constant, also a parameter all of whose entries are equal; None for what is none."""
    if isinstance(state, Given):
        return state.values
    if isinstance(state, Weight):
        first = state.values.detach().flatten()[:1]
        if (state.values == first).all():
            return first.reshape(())
    return None


def _is_norm_of_data(name: str, of: Arguments) -> bool:
    """Whether it normalizes what no weights reach, with gains and biases that are not drawn."""
    if name not in NORMALIZATIONS or of.has(Signal):
        return False
    return all(
        _constant(x, state) is not None
        for x, state in zip(of.operation.read, of.states, strict=True)
    )


def _is_number(x: Tensor | None) -> bool:
    return x is not None and x.numel() == 1 and x.is_floating_point()


def _pads_zeros(of: Arguments) -> bool:
    mode, value = of.value(2, "mode", "constant"), of.value(3, "value", None)
    if of.operation.name == "constant_pad_nd":
        mode, value = "constant", of.value(2, "value", 0)
    return mode == "constant" and not value


_RULES: dict[str, Rule] = {
    "linear": linear,
    "addmm": with_bias,
    "conv1d": convolution,
    "conv2d": convolution,
    "embedding": embedding,
    "glu": _gated,
    **dict.fromkeys(NORMALIZATIONS, norm),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _joined),
    **dict.fromkeys(DROPOUTS, _dropped),
    **dict.fromkeys(_AVERAGING | _LARGEST | _SHARES, _over_rows),
}
