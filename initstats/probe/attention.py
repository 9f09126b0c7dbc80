"""The weights of attention: those that a softmax made, and those that a fused kernel hides.

A fused kernel (Dao et al. 2022, arXiv:2205.14135) never has all weights at once. Here they are
computed again from queries and keys, a block of rows after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from initstats.moments.tokens import HIDDEN, Ratio, evenness, evenness_of_scores
from initstats.probe.masks import LOW
from initstats.probe.operations import Operation

BLOCK = 2**18
"""Most weights that are computed at once, unless a row has more: they stay in a CPU's cache."""
Index = tuple[slice | int, ...]


class Unknown(Exception):
    """Weights of attention that cannot be known, and why."""


def fused(operation: Operation, mask: Tensor | None = None) -> dict[str, Ratio]:
    """How evenly tokens attend in `scaled_dot_product_attention`; before its dropout.

    Args:
        mask: booleans, (samples, rows) or (samples,), of the rows that count; others do not fit.

    Raises:
        Unknown: its arguments are of a kind that is not known here.
    """
    query, key = operation.argument(0, "query"), operation.argument(1, "key")
    given, causal = operation.argument(3, "attn_mask"), operation.argument(5, "is_causal", False)
    scale = operation.kwargs.get("scale")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    if given is not None and type(given) not in (Tensor, torch.nn.Parameter):
        raise Unknown(f"its mask is of a kind of its own, {type(given).__name__}")
    if query.ndim > 2 and operation.kwargs.get("enable_gqa"):
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    pair = query.shape[:-2], key.shape[:-2]
    lead = tuple(torch.broadcast_shapes(*pair))  # type: ignore[no-untyped-call]
    shape = (*lead, query.shape[-2], key.shape[-2])
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    query = query.detach().expand(*lead, *query.shape[-2:])
    keys = key.detach().to(wide).mT.contiguous()  # products with it are three times as fast
    keys = keys.expand(*lead, *keys.shape[-2:])
    given = given if given is None else given.detach().expand(shape)
    counted = counted_rows(mask, shape)
    found: list[dict[str, Ratio]] = []
    for at in blocks(shape, query.device):
        rows = torch.arange(shape[-2])
        rows = rows[at[-1]] if len(at) == len(shape) - 1 else rows
        end = min(shape[-1], int(rows.max()) + 1) if causal and rows.numel() else shape[-1]
        scores = (query[at].to(wide) * scale) @ keys[at[: len(lead)]][..., :end]
        rows, choices = rows.to(scores.device), torch.tensor(end, device=scores.device)
        allowed = None
        if causal:
            allowed = torch.arange(end, device=scores.device) <= rows[..., None]
            choices = (rows + 1).clamp_max(end)
        if given is not None:
            block = given[at][..., :end]
            scores += 0 if block.dtype == torch.bool else block
            block = block if block.dtype == torch.bool else block > LOW
            allowed = block if allowed is None else block & allowed
            choices = allowed.sum(-1)
        if allowed is not None:
            scores = torch.where(allowed, scores, HIDDEN)
        choices = _counted(choices.expand(scores.shape[:-1]), counted, at)
        found.append(evenness_of_scores(scores, choices))
    return total(found)


def plain(
    weights: Tensor,
    dim: int,
    logits: Tensor | None,
    allowed: Tensor | None,
    mask: Tensor | None = None,
) -> dict[str, Ratio]:
    """How evenly tokens attend with weights that a model computes itself.

    Args:
        weights: shares of 1 along a dimension.
        dim: that dimension.
        logits: what a softmax made them of; None where it was written out.
        allowed: booleans that fit the weights: whether a token may attend to another.
        mask: as for `fused`.

    Raises:
        Unknown: some weights are 0, and no mask was seen.
    """
    if logits is None and allowed is None and not bool(weights.all()):
        raise Unknown("some of its weights are 0, and it is not known which are masked")
    source = weights if logits is None else logits
    if allowed is not None:
        allowed = allowed.expand(weights.shape).movedim(dim, -1)
    # a score that is never reached otherwise: what masks fill in
    lowest, rows = torch.finfo(source.dtype).min, source.detach().movedim(dim, -1)
    counted = counted_rows(mask, rows.shape)
    found = []
    for at in blocks(rows.shape, rows.device):
        block = rows[at]
        may = block > lowest if allowed is None else (block > lowest) & allowed[at]
        block = block if block.dtype == torch.float64 else block.float()
        choices = _counted(may.sum(-1), counted, at)
        if logits is None:
            found.append(evenness(block, choices))
        else:
            found.append(evenness_of_scores(torch.where(may, block, HIDDEN), choices))
    return total(found)


def _counted(choices: Tensor, counted: Tensor | None, at: Index) -> Tensor:
    """The choices of rows; 0 for rows that do not count."""
    return choices if counted is None else choices * counted[at]


def blocks(shape: Sequence[int], device: torch.device) -> Iterator[Index]:
    """Indices of all dimensions but the last, of blocks that have few entries."""
    most = BLOCK if device.type == "cpu" else 64 * BLOCK
    if math.prod(shape) <= most or len(shape) < 2:
        yield ()
        return
    inside = math.prod(shape[1:])
    if inside <= most:
        step = most // inside
        yield from ((slice(start, start + step),) for start in range(0, shape[0], step))
        return
    for number in range(shape[0]):
        yield from ((number, *rest) for rest in blocks(shape[1:], device))


def counted_rows(mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """The rows that a mask of samples, and of rows, lets count; None where it does not fit."""
    if mask is None or len(shape) < 3 or len(mask) != shape[0] or mask.ndim > 2:
        return None
    if mask.ndim == 2 and mask.shape[1] != shape[-2]:
        return None
    between = [1] * (len(shape) - 3)
    return mask.view(len(mask), *between, -1).expand(shape[:-1])


def total(found: list[dict[str, Any]]) -> dict[str, Ratio]:
    """The sums of numerators and of denominators."""
    pairs = {name: [each[name] for each in found] for name in (found[0] if found else ())}
    return {
        name: (
            torch.stack([above for above, _ in ratios]).sum(),
            torch.stack([below for _, below in ratios]).sum(),
        )
        for name, ratios in pairs.items()
    }
