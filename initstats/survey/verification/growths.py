"""Gradients of whole stacks over what theory says of them."""

from __future__ import annotations

from initstats import activations, inits, networks, theory
from initstats.survey.verification import inputs
from initstats.survey.verification.compared import Sweep, compared, gradient
from initstats.survey.verification.found import FEWER, Found
from initstats.survival import followed
from initstats.theory.exchangeable import Exchangeable, ValuesAlone

RELU = activations.get("relu")
HE, MATCHED = "kaiming_normal", "matched"


def batch_stream(*, quick: bool) -> dict[str, Found]:
    """Branches of one product behind batch norm: growth of the gradient's mean square.

    Inputs are not correlated, as the printed growth for an infinite batch asks for.
    """
    network, seeds, depth = "resmlp(norm=batch,branch=1)", FEWER if quick else 50, 24
    data = inputs.rows(64, correlation=0.0)
    rows = compared(Sweep(((network, MATCHED),), ("relu",), depth + 1, 64, seeds, data))
    growth, error = gradient(rows, 1, depth + 1)
    told = _growth(network, depth, MATCHED, 0.0)
    r = theory.response(RELU, 1.0)
    infinite = theory.pre_norm_growth(
        theory.gradient_rate(RELU, "batch", "pre"), depth, 1 / (2 * float(r.square - r.mean**2))
    )
    like = theory.pre_norm_growth(theory.gradient_rate(RELU, "layer", "pre"), depth, 1.0)
    return {
        "batch stream": Found.figure(growth, error, theory=told, width=64, seeds=seeds),
        "batch stream theory": Found.figure(told),
        "batch stream infinite": Found.figure(infinite),
        "batch stream LN": Found.figure(like),
    }


def free_transformer(*, quick: bool) -> dict[str, Found]:
    """The gradient of a transformer without norm, over theory of all paths, and of one."""
    network, seeds = "transformer(norm=none,scale=inverse_sqrt_depth)", FEWER if quick else 40
    sublayers, data = 16, inputs.patches(2)
    rows = compared(Sweep(((network, HE),), ("relu",), sublayers + 1, 64, seeds, data))
    growth, error = gradient(rows, 1, sublayers + 1)
    found = {}
    for key, kind in (("three paths", Exchangeable), ("values alone", ValuesAlone)):
        told = _growth(network, sublayers, HE, rows=kind)
        ratio = growth / told - (kind is Exchangeable)
        found[key] = Found.figure(ratio, error / told, width=64, seeds=seeds)
    return found


def _growth(
    network: str,
    branches: int,
    init: str,
    correlation: float = inputs.CORRELATION,
    rows: type[Exchangeable] = Exchangeable,
) -> float:
    """Growth of the gradient's mean square from the last layer to the first, by theory."""
    entries = networks.get(network), inits.get(init), RELU
    ends = followed(*entries, branches + 1, correlation_of_inputs=correlation, rows=rows)
    return float(ends.slopes[-1].square[0] / ends.slopes[0].square[0])
