"""The weights of `flex_attention`, whose scores one function changes and another one hides.

Both functions (Dong et al. 2024, arXiv:2412.05496) are written for one score. As where torch runs
them without a fused kernel, `torch.vmap` calls them once for all scores of a block of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from initstats.moments.tokens import HIDDEN, Ratio, evenness_of_scores
from initstats.probe.attention import Unknown, blocks, counted_rows, total
from initstats.probe.masks import LOW
from initstats.probe.operations import Operation, only_mode

_ALL = slice(None)


def flexible(operation: Operation, mask: Tensor | None = None) -> dict[str, Ratio]:
    """How evenly tokens attend in `flex_attention`.

    A score is hidden where the mask's function says so, or where the other function makes -1e4 or
    less both of it and of a score of 0: that is what it fills in, or adds.

    Args:
        operation: torch's own operator, to which `flex_attention` hands what it is called with.
        mask: as for `initstats.probe.attention.fused`.

    Raises:
        Unknown: a fused kernel would hide other scores than the operator does.
    """
    query, key = (operation.argument(n, name).detach() for n, name in enumerate(("query", "key")))
    scale, grid = operation.argument(5, "scale"), _Grid.of(operation.argument(4, "block_mask"))
    changed, shown = _functions(operation)
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    key = key.expand(len(query), *key.shape[1:]).to(wide)
    shape = (*query.shape[:3], key.shape[2])
    counted, found = counted_rows(mask, shape), list[dict[str, Ratio]]()
    for at in blocks(shape, query.device):
        rows = tuple(slice(n, n + 1) if isinstance(n, int) else n for n in at) + (_ALL,) * 3
        pairs = zip(shape, (*rows[:3], _ALL), strict=True)
        places = [torch.arange(size, device=query.device)[part] for size, part in pairs]
        scores = query[rows[:3]].to(wide) @ key[rows[:2]].mT * scale
        allowed = shown(*places)
        if not grid.shows(allowed, places):
            raise Unknown("its block mask hides others than the function of its mask")
        low = changed(torch.zeros_like(scores), *places) <= LOW
        scores = changed(scores, *places).to(wide)
        allowed = allowed & ~(low & (scores <= LOW))
        choices = allowed.sum(-1)
        choices = choices if counted is None else choices * counted[rows[:3]]
        found.append(evenness_of_scores(torch.where(allowed, scores, HIDDEN), choices))
    return total(found)


Function = Callable[..., Tensor]


def _functions(operation: Operation) -> tuple[Function, Function]:
    """What changes scores, and what says which are shown.

    Both are called with vectors of samples, heads, queries and keys, the first with scores before.
    """
    given = operation.argument
    changes, hides = given(3, "score_mod"), given(4, "block_mask")[-1]
    captured = given(7, "score_mod_other_buffers", ()), given(8, "mask_mod_other_buffers", ())
    return partial(_called, changes, captured[0], 1), partial(_called, hides, captured[1], 0)


def _called(function: Function, captured: Sequence[Any], scores: int, *given: Tensor) -> Tensor:
    """Call a function of one score for all of them.

    Args:
        captured: the last arguments of the function, each the same for all scores.
        scores: how many of the first arguments have an entry for each score.
    """
    flex: Any = import_module("torch.nn.attention.flex_attention")
    compiler: Any = import_module("torch._dynamo._trace_wrapped_higher_order_op")
    inside = getattr(function, "forward", function)  # of a graph, without the hooks of modules
    every = flex._vmap_for_bhqkv(inside, prefix=(0,) * scores, suffix=(None,) * len(captured))
    with only_mode(compiler.TransformGetItemToIndex()):  # for captured tensors at places
        found: Tensor = every(*given, *captured)
    return found


class _Grid(NamedTuple):
    """The blocks of scores that a fused kernel computes.

    Attributes:
        part, whole: booleans, (samples, heads, blocks of queries, blocks of keys): the blocks for
            which the mask's function is asked, and those that are shown whole.
        size: the queries and the keys of a block.
    """

    part: Tensor
    whole: Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, block_mask: Sequence[Any]) -> _Grid:
        """The blocks that a block mask, as a tuple, lists."""
        start = next(n for n, value in enumerate(block_mask) if isinstance(value, Tensor))
        number, places, *full = block_mask[start : start + 4]
        part = _listed(number, places)
        whole = torch.zeros_like(part) if full[0] is None else _listed(*full)
        return cls(part, whole, (block_mask[-3], block_mask[-2]))

    def shows(self, allowed: Tensor, places: Sequence[Tensor]) -> bool:
        """Whether a kernel shows those of some scores that the mask's function allows."""
        samples, heads, queries, keys = places
        at = (
            (samples % len(self.part))[:, None, None, None],
            (heads % self.part.shape[1])[:, None, None],
            (queries // self.size[0])[:, None],
            keys // self.size[1],
        )
        return torch.equal(self.part[at] & allowed | self.whole[at], allowed)


def _listed(number: Tensor, places: Tensor) -> Tensor:
    """Booleans, (..., rows, columns), from how many columns of a row are there, and which."""
    columns = places.shape[-1]
    there = torch.arange(columns, device=places.device) < number[..., None]
    at = torch.where(there, places, columns).long()
    none = torch.zeros(*places.shape[:-1], columns + 1, dtype=torch.bool, device=places.device)
    return none.scatter(-1, at, True)[..., :-1]
