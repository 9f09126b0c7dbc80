"""The anatomy of a model: what its pass shows of each parameter's part.

Residual branches are read off the graph: a sum of a stream and of what more products have made of
it. What attention pairs are its queries and keys, and what it mixes are its values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initstats.diagnosis.graph import Graph
from initstats.diagnosis.profile import Profile, profiles
from initstats.probe import measure
from initstats.probe.kinds import ATTENTION, CHOOSING, LOOKUPS, NORMALIZATIONS, words
from initstats.probe.ranks import sharded
from initstats.schemes.attention import Attention
from initstats.schemes.branches import Branches
from initstats.schemes.inputs import candidates
from initstats.schemes.part import Kind, Left, Part, Role

_POSITION = re.compile(r"pos(ition)?(al|s)?(_|$|emb)|wpe|(^|[._])pe($|[._])")
_RELATIVE = re.compile(r"relative|rel_pos")
_ADDING = ATTENTION | words("add radd sub baddbmm")
_TRANSPOSED = ("addmm", "addbmm", "baddbmm", "matmul", "mm", "bmm")


def read(model: nn.Module, x: Any = None) -> tuple[tuple[Part, ...], Any]:
    """The parts of a model's parameters, in its order, and the input that they were read with.

    Args:
        x: an input, as `measure` takes it; one is made up where none is given.

    Raises:
        ValueError: no input that the model takes can be made up, or a parameter has no numbers.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"a torch.nn.Module is initialized, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a scripted model hides its modules: initialize it before it is scripted")
    if empty := on_meta(model):
        raise ValueError(
            f"{empty[0]} is on the meta device and holds no numbers: make the model on the CPU; or "
            'give it memory, model.to_empty(device="cpu"), and then draw every parameter and set '
            "every buffer, for it holds whatever was there"
        )
    if reason := sharded(model):
        raise ValueError(reason)
    table, x = _measured(model, x)
    return tuple(_Reader(model, profiles(table)[0]).parts()), x


def on_meta(model: nn.Module) -> list[str]:
    """The names of parameters on the meta device, which hold no numbers; lazy ones are none yet."""
    return [name for name, p in model.named_parameters() if not is_lazy(p) and p.is_meta]


def _measured(model: nn.Module, x: Any) -> tuple[pd.DataFrame, Any]:
    if x is not None:
        return measure(model, x), x
    for made_up in candidates(model):
        with suppress(Exception):  # what a model does not take, it refuses in its own way
            return measure(model, made_up), made_up
    raise ValueError(
        f"{type(model).__name__} takes none of the inputs that were made up for it: give one with "
        "x=, as measure(model, x) takes it"
    )


@dataclass
class _Reader:
    """Reads a pass."""

    model: nn.Module
    profile: Profile

    @cached_property
    def graph(self) -> Graph:
        return self.profile.graph

    @cached_property
    def uses(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of the table for each parameter, in the order of use."""
        rows = self.profile.rows
        rows = rows[(rows["tensor"] == "weight") & (rows["direction"] == "forward")]
        found: dict[str, list[dict[str, Any]]] = {}
        for row in rows.sort_values("layer", kind="stable").to_dict("records"):
            found.setdefault(str(row["name"]), []).append({str(k): v for k, v in row.items()})
        return found

    def parts(self) -> Iterator[Part]:
        """All parameters."""
        aliases: dict[int, list[str]] = {}
        for name, p in self.model.named_parameters(remove_duplicate=False):
            aliases.setdefault(id(p), []).append(name)
        for name, p in self.model.named_parameters():
            uses = [row for alias in aliases[id(p)] for row in self.uses.get(alias, ())]
            yield self._part(name, tuple(p.shape), uses)

    def _part(self, name: str, shape: tuple[int, ...], uses: list[dict[str, Any]]) -> Part:
        path, _, own = name.rpartition(".")
        owner = self.model.get_submodule(path)
        layers = [*(int(row["layer"]) for row in uses), *self._later(path, own, uses)]
        kind = _kind(name, shape, owner, uses, self.graph)
        layer = layers[0] if layers else -1
        linear = [each for each in layers if each in self.graph.linear]
        layer = linear[0] if kind == "product" and linear else layer
        fans = next(((r["fan_in"], r["fan_out"]) for r in uses if r["layer"] == layer), None)
        # that of an embedding is known where its table is the weight of a product, too
        known = fans is not None and kind in ("product", "embedding")
        fan_in, fan_out = fans if fans and known else (math.nan, math.nan)
        if kind == "bias":
            fan_in, fan_out = self.fans.get(layer, (math.nan, math.nan))
        if kind == "product" and (not fans or math.isnan(fan_in)):
            fan_in, fan_out = _fans(owner, shape)
        if isinstance(owner, nn.MultiheadAttention) and not linear:  # it cuts its weight first
            beside = self.uses.get(f"{path}.out_proj.weight".lstrip("."), [])
            layer = int(beside[0]["layer"]) if beside else -1
        role = self.roles.get(layer, "")
        if isinstance(owner, nn.MultiheadAttention) and own.startswith("in_proj"):
            role = "packed"
        if kind in ("embedding", "token", "other"):
            biases = self._biases(layers, uses)
            kind = "token" if biases and kind == "other" else kind
            role = "relative" if biases or _RELATIVE.search(name) else ""
            role = "position" if not role and _POSITION.search(name) else role
            if kind == "embedding" and not role:
                role = self._tied_role(fan_in, fan_out)
        elif kind in ("gain", "factor"):
            role = ""
        place = self.branches.places.get(layer)
        op = str(uses[0]["op"]) if uses else ""
        row = getattr(owner, "padding_idx", None)
        return Part(
            name=name,
            shape=shape,
            kind=kind,
            role=role,
            fan_in=float(fan_in),
            fan_out=float(fan_out),
            axis=int(op.rstrip("_") in _TRANSPOSED and len(shape) == 2),
            branch=place is not None,
            last=layer in self.branches.last and role != "packed",
            maps=place.maps if place else 0,
            branches=place.branches if place else 0,
            stream=place.stream if place else -1,
            head_size=self.attention.heads.sizes.get(layer, 0),
            attention=bool(place and place.layers & self.attention.heads.roles.keys()),
            padding=row if isinstance(owner, nn.Embedding) and isinstance(row, int) else -1,
            module=type(owner).__name__,
            left=self._left(name, layers),
            convolution=op.startswith("conv") or isinstance(owner, nn.modules.conv._ConvNd),
        )

    def _biases(self, layers: list[int], uses: list[dict[str, Any]]) -> bool:
        """Whether all that is done with a parameter is to add it to scores of attention."""
        scores = self.attention.scores | {*self.attention.products}
        return bool(uses) and all(
            at in self.attention.biasing or (at in scores and str(row["op"]).rstrip("_") in _ADDING)
            for at, row in zip(layers, uses, strict=True)
        )

    def _later(self, path: str, own: str, uses: list[dict[str, Any]]) -> list[int]:
        """The layer of a module's only map, where its weight was used elsewhere before."""
        if own != "weight" or not uses or any(row["layer"] in self.graph.linear for row in uses):
            return []
        found = self.maps_of.get(path, [])
        return found if len(found) == 1 else []

    @cached_property
    def _names(self) -> dict[int, str]:
        rows = self.profile.rows
        rows = rows[rows["tensor"] != "weight"]
        return dict(zip(map(int, rows["layer"]), map(str, rows["name"]), strict=True))

    @cached_property
    def maps_of(self) -> dict[str, list[int]]:
        """Layers of maps that have no weight of their own in the table, by their modules."""
        own = {int(r["layer"]) for rows in self.uses.values() for r in rows if r["fan_in"] > 0}
        found: dict[str, list[int]] = {}
        for layer in sorted(self.graph.linear - own):
            found.setdefault(self._names[layer], []).append(layer)
        return found

    def _left(self, name: str, layers: list[int]) -> Left:
        """Why a parameter is left as it is."""
        if self.trains and not self.model.get_parameter(name).requires_grad:
            return "frozen"
        return "adapter" if self.adapters & {*layers} else ""

    @cached_property
    def trains(self) -> bool:
        """Whether the model trains any parameter: else that one is not trained says nothing."""
        return any(p.requires_grad for p in self.model.parameters())

    @cached_property
    def adapters(self) -> set[int]:
        """The maps of low-rank pairs, one of which is all zeros."""
        made: dict[int, list[str]] = {}
        for name, rows in self.uses.items():
            path, _, own = name.rpartition(".")
            for layer in [*(int(row["layer"]) for row in rows), *self._later(path, own, rows)]:
                made.setdefault(layer, []).append(name)
        found = set[int]()
        for first, *_, last in self.branches.adapters:
            rank, outputs = self.fans.get(last, (math.nan, math.nan))
            names = [name for at in (first, last) for name in made.get(at, ())]
            weights = [self.model.get_parameter(name) for name in names]
            zero = any(not w.any() for w in weights if w.ndim > 1)
            if zero and rank < min(self.fans.get(first, (math.nan,))[0], outputs):
                found |= {first, last}
        return found

    @cached_property
    def fans(self) -> dict[int, tuple[float, float]]:
        """Inputs and outputs of the weights of each layer."""
        rows = self.profile.rows
        rows = rows[(rows["tensor"] != "weight") & rows["fan_in"].notna()]
        pairs = zip(rows["fan_in"], rows["fan_out"], strict=True)
        return dict(zip(map(int, rows["layer"]), pairs, strict=True))

    def _tied_role(self, fan_in: float, fan_out: float) -> Role:
        """The role of the product, of so many inputs and outputs, whose weight is a table of words.

        A weight has its row where it is used first, so that such a product has none of its own.
        """
        own = {int(r["layer"]) for rows in self.uses.values() for r in rows if r["fan_in"] > 0}
        found = [
            self.roles.get(at)
            for at, fans in self.fans.items()
            if fans == (fan_in, fan_out) and at not in own
        ]
        return found[0] or "" if len(found) == 1 else ""

    @cached_property
    def roles(self) -> dict[int, Role]:
        """Roles of products, by their layers."""
        found = dict(self.attention.heads.roles)
        inside = self.branches.places.keys() | self.attention.biasing
        outside = sorted(self.graph.linear - inside)
        behind = {each: self._reached(each, forwards=True) for each in outside}
        for layer in outside:
            if not behind[layer] & self.graph.linear and layer not in found:
                found[layer] = "head"
            elif not self._reached(layer, forwards=False) & self.graph.linear:
                found.setdefault(layer, "stem")
        return found

    def _reached(self, layer: int, *, forwards: bool) -> set[int]:
        """The layers that are made of one, or that it is made of."""
        step = self.graph.readers if forwards else self.graph.inputs
        waiting, seen = [*step[layer]], set[int]()
        while waiting:
            here = waiting.pop()
            if here not in seen:
                seen.add(here)
                waiting += step[here]
        return seen

    @cached_property
    def branches(self) -> Branches:
        """The residual branches."""
        return Branches(self.attention.unbiased, self.attention.scores)

    @cached_property
    def attention(self) -> Attention:
        """What attention does."""
        rows = self.profile.rows
        rows = rows[rows["tensor"] != "weight"].drop_duplicates("layer")
        sizes = [re.findall(r"\d+", str(shape)) for shape in rows["shape"]]
        layers = [int(layer) for layer in rows["layer"]]
        widths = {at: int(each[-1]) for at, each in zip(layers, sizes, strict=True) if each}
        counted = zip(layers, rows["paired_terms"], strict=True)
        terms = {at: int(number) for at, number in counted if number > 0}
        return Attention(self.graph, terms, widths)


def _kind(
    name: str, shape: tuple[int, ...], owner: nn.Module, uses: list[dict[str, Any]], graph: Graph
) -> Kind:
    """What a parameter is for."""
    own = name.rpartition(".")[2]
    ops = {str(row["op"]).partition("[")[0] for row in uses}
    if "parametrizations." in name or own in ("weight_g", "weight_v"):
        return "other"  # the scale of the weight is not that of what it is computed from
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) or ops & {"embedding", "embedding_bag"}:
        return "embedding"
    if "bias" in own and len(shape) <= 1:
        return "bias"
    normalizing = {row["layer"] for row in uses} & graph.normalizations or ops & NORMALIZATIONS
    if normalizing or (re.search("norm", type(owner).__name__, re.IGNORECASE) and len(shape) == 1):
        return "gain"
    if any(not math.isnan(row["fan_in"]) for row in uses if row["op"] not in LOOKUPS):
        return "product"
    summing = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)
    if isinstance(owner, summing) and len(shape) > 1:  # unused, or of what no input reaches
        return "product"
    if not uses:
        return "other"
    if ops & {"mul", "rmul", "mul_"}:
        return "factor"
    placed = {"add", "radd", "add_", "cat", "expand"} | CHOOSING
    return "token" if ops & placed and len(shape) > 1 else "other"


def _fans(owner: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
    """Inputs and outputs of a weight that was not used."""
    places = math.prod(shape[2:])
    groups = getattr(owner, "groups", 1)
    return shape[1] * places, shape[0] * places / groups
