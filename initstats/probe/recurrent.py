"""The gates inside of recurrent operations, computed once more for a few samples and steps.

A fused operation shows its states and hides its gates: those of an LSTM may all be at a bound while
its output is near 0 (Hochreiter & Schmidhuber 1997).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from initstats.probe.kinds import RECURRENT
from initstats.probe.operations import Operation

_SAMPLES = _STEPS = 16
_AT = 0.99  # |tanh| from which on an entry counts as at its bound
_OPEN = 0.9  # of a forget gate that begins open
_CELLS = ("gru_cell", "lstm_cell", "rnn_tanh_cell")
_LAYERS = ("gru", "lstm", "rnn_tanh")


class Counted(NamedTuple):
    """How many entries of gates and candidates there are, and how many at a bound.

    Attributes:
        at, entries: of all.
        shut: how many forget gates and output gates are below 1%, (layers, 2); empty where there
            are none of these.
        gates: how many of each kind a layer has.
    """

    at: Tensor
    entries: int
    shut: Tensor
    gates: int


class _Step(NamedTuple):
    """The states after a step, and its gates and candidates as a tanh would give them.

    `shut` counts the forget and the output gates that are nearly 0, (2,); empty without such.
    """

    h: Tensor
    c: Tensor | None
    pressed: Tensor
    shut: Tensor


def saturated(operation: Operation) -> Counted | None:
    """The entries at a bound among the gates and candidates of a recurrent operation.

    A sigmoid is (1 + tanh(z / 2)) / 2: within 1% of a bound where that tanh is. None where the
    operation is none, has no bounds, or is called in a way that is not known here.
    """
    name = operation.name
    if name not in RECURRENT:
        return None
    found: list[list[_Step]] = []
    with suppress(Exception), torch._C.DisableTorchFunction(), torch.no_grad():
        if name in _CELLS:
            x, states, *weights = operation.args
            h, c = states if name == "lstm_cell" else (states, None)
            count = slice(_SAMPLES)
            c = c if c is None else c[count]
            found = [[_step(name, x[count], h[count], c, weights)]]
        elif name in _LAYERS:
            found = [*_layers(name, operation)]
    if not found:
        return None
    steps = [step for layer in found for step in layer]
    total = sum((step.pressed >= _AT).count_nonzero() for step in steps)
    shut = torch.stack([torch.stack([step.shut for step in layer]).sum(0) for layer in found])
    entries = sum(step.pressed.numel() for step in steps)
    gates = sum(step.c.numel() for step in found[0] if step.c is not None)
    return Counted(torch.as_tensor(total), entries, shut, gates)


def _layers(name: str, operation: Operation) -> Iterator[list[_Step]]:
    """The steps of each layer and direction of a fused operation."""
    args = list(operation.args)
    packed = isinstance(args[1], Tensor) and not args[1].is_floating_point()
    sizes = args.pop(1) if packed else None
    x, states, weights, _, layers, _, _, both = args[:8]
    if sizes is not None:
        x = _unpacked(x, sizes)
    else:
        x = (x.transpose(0, 1) if args[8] else x)[:_STEPS, :_SAMPLES]
    hs, cs = states if name == "lstm" else (states, None)
    directions = 2 if both else 1
    each = len(weights) // (layers * directions)
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            own = weights[number * each : (number + 1) * each]
            h, c = hs[number, : x.shape[1]], None if cs is None else cs[number, : x.shape[1]]
            steps: list[_Step] = []
            for t in x.flip(0) if direction else x:
                steps.append(_step(name, t, h, c, own))
                h, c, *_ = steps[-1]
            yield steps
            made = [step.h for step in steps]
            outputs.append(torch.stack(made[::-1] if direction else made))
        x = torch.cat(outputs, -1)


def _unpacked(data: Tensor, sizes: Tensor) -> Tensor:
    """The first steps of the sequences that are long enough for them, (steps, samples, units)."""
    counts = sizes[:_STEPS].tolist()
    starts = [sum(counts[:step]) for step in range(len(counts))]
    kept = min(counts[-1], _SAMPLES)
    return torch.stack([data[start : start + kept] for start in starts])


def _step(name: str, x: Tensor, h: Tensor, c: Tensor | None, weights: Sequence[Any]) -> _Step:
    """A step of a cell; weights of the input, of the state, biases if any, and a projection."""
    biases = [w for w in weights[2:4] if w is not None and w.ndim == 1] or [None, None]
    read, kept = linear(x, weights[0], biases[0]), linear(h, weights[1], biases[1])
    none = torch.empty(0, dtype=torch.long, device=x.device)
    if name.startswith("rnn"):
        h = (read + kept).tanh()
        return _Step(h, None, h.abs(), none)
    if name.startswith("gru"):
        (r, z, n), (hr, hz, hn) = read.chunk(3, -1), kept.chunk(3, -1)
        r, z = r + hr, z + hz
        n = (n + r.sigmoid() * hn).tanh()
        h = n + z.sigmoid() * (h - n)
        return _Step(h, None, torch.cat([(r / 2).tanh(), (z / 2).tanh(), n], -1).abs(), none)
    i, f, g, o = (read + kept).chunk(4, -1)
    at = [(i / 2).tanh(), (f / 2).tanh(), (o / 2).tanh(), g.tanh()]
    if biases[0] is not None and biases[1] is not None:
        keeps = _keeps(i, f, (biases[0] + biases[1]).chunk(4)[1])
        at[:2] = at[0].where(~keeps | (i > 0), 0), at[1].where(~keeps | (f < 0), 0)
    pressed = torch.cat(at, -1).abs()
    shut = torch.stack([((gate / 2).tanh() <= -_AT).count_nonzero() for gate in (f, o)])
    assert c is not None
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    last = weights[-1]
    if last is not None and last.ndim == 2 and len(weights) % 2:  # of an odd number the last
        h = linear(h, last)
    return _Step(h, c, pressed, shut)


def _keeps(i: Tensor, f: Tensor, bias: Tensor) -> Tensor:
    """Whether a unit's bias holds its forget gate open, and all that it writes meanwhile is seen.

    A state that fades by f and takes up i of each step comes to i / (1 - f) of what it is given: so
    begin units that are to remember for long (Tallec & Ollivier 2018, chrono initialization).
    """
    return (bias.sigmoid() > _OPEN) & (i.sigmoid() > (1 - f.sigmoid()) / 10)
