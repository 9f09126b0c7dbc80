"""The recipes of the survey, and the choices that are laid beside each other."""

from __future__ import annotations

from typing import NamedTuple

from initstats.recipes import RECIPES


class Studied(NamedTuple):
    """A network with an init and an activation, under a name of plain words."""

    label: str
    network: str
    init: str = "xavier_normal"
    activation: str = "relu"


HE = "kaiming_normal"
ROOT = "inverse_sqrt_depth"
STUDIED = (
    Studied("plain", "mlp", HE),
    Studied("layer norm before the activation", "mlp(norm=layer)", HE),
    Studied("layer norm after the activation", "mlp(norm=layer,place=after)", HE),
    Studied("batch norm", "mlp(norm=batch)", HE),
    Studied("batch norm after the activation", "mlp(norm=batch,place=after)", HE),
    Studied("weight standardization", "mlp(standardized=true)", "matched(gain=variance)"),
    Studied("skip", "resmlp", HE),
    Studied("skip, 1/√L", f"resmlp(scale={ROOT})"),
    Studied("skip, 1/L", "resmlp(scale=inverse_depth)"),
    Studied("pre-norm", "resmlp(norm=layer)"),
    Studied("pre-norm, 1/√L", f"resmlp(norm=layer,scale={ROOT})"),
    Studied("post-norm", "resmlp(norm=layer,place=post)"),
    Studied("pre-norm with batch norm", "resmlp(norm=batch,branch=1)", HE),
    Studied("transformer without norm", "transformer(norm=none)"),
    Studied("transformer without norm, 1/√L", f"transformer(norm=none,scale={ROOT})"),
    Studied("pre-norm transformer", "transformer"),
    Studied("pre-norm transformer, 1/√L", f"transformer(scale={ROOT})"),
    Studied("post-norm transformer", "transformer(place=post)"),
    *(Studied(name, each.network, each.init, each.activation) for name, each in RECIPES.items()),
)
"""Plain stacks, streams, transformers, and the recipes that have names of their own."""
PROFILED = (
    *("plain", "layer norm after the activation", "skip, 1/√L", "skip, 1/L", "pre-norm"),
    *("post-norm", "pre-norm transformer", "post-norm transformer"),
)
"""Those whose layers are drawn one by one."""
NORMS = {
    "no norm": "mlp",
    "layer norm before the activation": "mlp(norm=layer)",
    "RMS norm before the activation": "mlp(norm=rms)",
    "batch norm before the activation": "mlp(norm=batch)",
    "layer norm after the activation": "mlp(norm=layer,place=after)",
    "pre-norm stream": "resmlp(norm=layer)",
}
INITS = ("normal(std=0.01)", "lecun_normal", "xavier_normal", HE, "torch_default", "orthogonal")
ACTIVATIONS = ("relu", "gelu", "tanh", "sigmoid", "selu")
"""The inits and activations that are tried with every norm."""
PHASES = {"no norm": "transformer(norm=none,scale={})", "pre-norm": "transformer(scale={})"}
"""Transformers whose logits and branches are scaled."""
