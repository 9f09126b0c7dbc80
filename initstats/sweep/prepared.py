"""Recipes as a grid takes them: a network with the one init that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from initstats import inits
from initstats.inits import Init
from initstats.networks import NETWORKS, Network
from initstats.recipes import RECIPES, Recipe
from initstats.registry import Catalog, Family


@dataclass(frozen=True)
class Prepared:
    """A network under the name of its recipe, and the only init that it is drawn by.

    Attributes:
        network: the recipe's, whose name is the recipe's as it is spelled.
        init: the recipe's.
    """

    network: Network
    init: Init

    @property
    def name(self) -> str:
        """The recipe's canonical spelling, which stands in the table for the network."""
        return self.network.name


PREPARED: Catalog[Prepared] = Catalog("recipe")
"""The recipes by name; their parameters are those of their networks: ``gpt2(heads=2)``."""


def _made(recipe: Recipe, spelling: str, **parameters: Any) -> Prepared:
    family = recipe.network.partition("(")[0]
    network = NETWORKS[NETWORKS.spell(family, parameters)]
    named = replace(network, name=spelling, meaning=recipe.meaning, module="")
    return Prepared(named, inits.get(recipe.init))


for _name, _recipe in RECIPES.items():
    _, _parameters = NETWORKS.parse(_recipe.network)
    PREPARED.add(Family(_name, partial(_made, _recipe), _parameters, _recipe.meaning, __name__))


def prepared(values: object) -> list[Prepared]:
    """The recipes that some names, ranges of names and entries mean.

    >>> [each.name for each in prepared(["gpt2( heads = 2 )", "fixup"])]
    ['gpt2(heads=2)', 'fixup']

    Raises:
        ValueError: no such recipe, or a parameter that its network refuses.
    """
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise ValueError(f"a list is expected, not {values!r}")
    found: list[Prepared] = []
    for value in [values] if isinstance(values, Recipe) else values:  # a Recipe is a tuple, too
        if isinstance(value, Recipe):
            value = next((name for name in RECIPES if RECIPES[name] == value), str(value))
        if isinstance(value, Prepared):
            found.append(value)
        elif isinstance(value, str):
            found += map(PREPARED.__getitem__, PREPARED.expand(value))
        else:
            raise ValueError(f"a recipe is named by a word, not {value!r}: {', '.join(RECIPES)}")
    return found
