"""Why a repair leaves a parameter, or does a part of its work, in words that follow "because"."""

from __future__ import annotations

from collections.abc import Iterable

UNSEEN = "no operation that uses it was seen"
EXCLUDED = "it is excluded"
FROZEN = "it is frozen (requires_grad is False)"
INFERENCE = "it was made in inference mode, and cannot be written to"
UNREACHED = "no entry of the batch reaches it"
ONLY_WEIGHTS = "only weights are scaled"
SEVERAL = "a bias is computed of several parameters"
FIXED = "the scale of the weight that the model computes of it is fixed, as by a norm"
UNSETTABLE = "the model does not use what is written to it, but computes something else of it"
FED_ZEROS = "it reads only what a layer of zeros makes"
ZERO_OUTPUT = (
    "its zeros look deliberate: it makes an output, and no layer comes after it (include it to "
    "draw it)"
)
ZERO_BRANCH = "its zeros look deliberate: the signal passes beside it (include it to draw it)"


def frequencies(factor: float) -> str:
    """The first layer before a periodic function, with the factor in between."""
    times = "" if factor == 1 else f", after a factor of {factor:g},"
    return (
        f"a periodic function{times} makes its weights the frequencies that the model tells inputs "
        "apart by (include it to draw it)"
    )


def held(part: str) -> str:
    """Units, or inputs, of a weight that stay at zero, as an addition to what was done."""
    kept = f", but for {part} of zeros, which look deliberate (include it to draw them)"
    return kept if part else ""


def looks_up(op: str) -> str:
    """A parameter whose entries an operation takes one by one."""
    return f"{op}, which uses it, sums over no inputs"


def parametric(op: str) -> str:
    """A parameter that no signal meets."""
    return f"only parameters reach {op}, which uses it"


def vector(op: str) -> str:
    """A parameter of one dimension in a product."""
    return f"it is a vector in {op}"


def together(op: str, names: Iterable[str]) -> str:
    """Parameters of which one weight is computed, and none is the weight."""
    return f"{op} multiplies by what is computed of {', '.join(names)} together"


def beside(op: str, name: str) -> str:
    """A parameter of which, with one that stays, a weight is computed."""
    return f"{op} uses it together with {name}, which stays"


def follows(op: str) -> str:
    """The bias of a weight that is left."""
    return f"so is the weight that {op} uses"


def unknown(op: str) -> str:
    """A use that nobody thought of."""
    return f"{op} uses it in a way that is not known"


def curved(op: str) -> str:
    """A weight inside of a recurrent layer."""
    return f"{op} is not linear in it, so that no scale fits"


def unneeded(layer: str) -> str:
    """A parameter of a computed weight that another parameter of it makes up for."""
    return f"{layer} needs no change of it"
