"""Known ways to build and initialize a deep network, as a network and an init of this program."""

from __future__ import annotations

from typing import NamedTuple

from initstats.registry import unknown


class Recipe(NamedTuple):
    """A network and an init that belong together.

    Attributes:
        network, init: as a grid takes them.
        activation: the usual one.
        meaning: what is special about it, and its source.
    """

    network: str
    init: str
    activation: str
    meaning: str


RECIPES = {
    "fixup": Recipe(
        "resmlp(scale=fixup)",
        "kaiming_normal",
        "relu",
        "no norm: the last product of a branch is 0, the first smaller with depth (Zhang et al. "
        "2019, arXiv:1901.09321)",
    ),
    "rezero": Recipe(
        "transformer(norm=none,scale=zero)",
        "xavier_uniform",
        "relu",
        "no norm: branches are multiplied with a learned number that begins at 0 (Bachlechner et "
        "al. 2021, arXiv:2003.04887)",
    ),
    "nfnet": Recipe(
        "resmlp(norm=predicted,branch=1,alpha=0.2,standardized=true)",
        "matched(gain=variance)",
        "relu",
        "no norm: standardized weights, and branches that read the stream over its expected "
        "standard deviation (Brock et al. 2021, arXiv:2101.08692)",
    ),
    "deepnorm": Recipe(
        "transformer(place=post,scale=deepnorm)",
        "xavier_normal",
        "relu",
        "norm after the sum, the stream larger and weights smaller with depth (Wang et al. 2022, "
        "arXiv:2203.00555)",
    ),
    "gpt2": Recipe(
        "transformer(causal=true,attention_bias=false,scale=inverse_sqrt_depth)",
        "normal(std=0.02)",
        "gelu_tanh",
        "norm before the branch; std 0.02, and over the root of the number of branches for the "
        "last product of each, which at the start is a scale of the branch (Radford et al. 2019)",
    ),
    "mup": Recipe(
        "transformer(logits=inverse)",
        "lecun_normal",
        "relu",
        "norm before the branch; logits over a head's number of units, not its root (Yang et al. "
        "2022, arXiv:2203.03466); learning rates are no part of it",
    ),
    "torch_transformer": Recipe(
        "transformer(place=post,projection=1.224744871391589,attention_bias=false)",
        "torch_default",
        "relu",
        "what nn.TransformerEncoderLayer draws: queries, keys and values by Xavier's rule on one "
        "matrix of all three (variance 1/2 over fan_in), everything else as nn.Linear (1/3)",
    ),
}
"""The recipes by name."""


def recipe(name: str) -> Recipe:
    """The network and the init that a recipe stands for.

    >>> found = recipe("deepnorm")
    >>> found.network, found.init
    ('transformer(place=post,scale=deepnorm)', 'xavier_normal')

    Raises:
        ValueError: no such recipe, or not one name.
    """
    if not isinstance(name, str):
        raise ValueError(f"a recipe is named by a word, not {name!r}: {', '.join(RECIPES)}")
    if (family := name.partition("(")[0].strip()) != name and family in RECIPES:
        raise ValueError(
            f"{name!r} has parameters, which a sweep alone takes: recipes=[{name!r}]; recipe("
            f"{family!r}) gives the network, {RECIPES[family].network!r}, to add them to"
        )
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def refuse_recipes(given: object) -> None:
    """Refuse a recipe where a network, an init or an activation is asked for, or some of these.

    Args:
        given: what was named: one of them, or several.

    Raises:
        ValueError: one of them is a recipe, or the name of one.
    """
    several = given if isinstance(given, list | tuple) and not _is_recipe(given) else [given]
    for each in several:
        if _is_recipe(each):
            found = each if isinstance(each, Recipe) else RECIPES[str(each)]
            name = next((name for name in RECIPES if RECIPES[name] == found), "this")
            raise ValueError(
                f"{name} is a recipe, a network with an init: a sweep takes it by "
                f"recipes=[{name!r}] (--recipes {name}); or name its parts, network "
                f"{found.network!r}, init {found.init!r} and activation {found.activation!r}"
            )


def _is_recipe(given: object) -> bool:
    return isinstance(given, Recipe) or (isinstance(given, str) and given in RECIPES)
