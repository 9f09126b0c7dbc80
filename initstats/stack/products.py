"""The matrix product, and the library that computes it.

Libraries differ in the last bits, so a run chooses once. The one behind torch's own product may
leave half of a processor's vector units idle, where oneDNN, which torch brings along, does not.
"""

from __future__ import annotations

from functools import cache
from timeit import repeat
from typing import Literal

import torch
from torch import Tensor

from initstats.stack.numerics import exact_numerics

Product = Literal["torch", "onednn"]


def product(name: Product, matrix: Tensor, x: Tensor) -> Tensor:
    """matrix @ x.

    Args:
        name: the library; `onednn` multiplies in float32 on the CPU alone, seed by seed.
        matrix: ([seeds,] units, inputs).
        x: ([seeds,] inputs, entries).
    """
    if name == "onednn" and matrix.ndim > 2:
        pairs = zip(matrix, x.expand(len(matrix), *x.shape[-2:]), strict=True)
        return torch.stack([product(name, *pair) for pair in pairs])
    if name == "onednn":
        return torch.ops.mkldnn._linear_pointwise(matrix, x.mT, None, "none", [], "")  # type: ignore[no-any-return]
    return matrix @ x


@cache
def fastest_product() -> Product:
    """oneDNN's, unless it is not there, disagrees with torch's, or is clearly slower."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(256, 256, generator=generator, dtype=torch.float32)
    x = torch.randn(256, 512, generator=generator, dtype=torch.float32)
    with exact_numerics():
        try:
            gap = (product("onednn", matrix, x) - product("torch", matrix, x)).abs().max()
        except (AttributeError, RuntimeError):  # not in this torch, or not for this processor
            return "torch"
        # sums of 256 products of size 1 have size 16
        if not gap <= 16 * 1e-5:
            return "torch"
        torchs = min(repeat(lambda: product("torch", matrix, x), number=1, repeat=9))
        onednns = min(repeat(lambda: product("onednn", matrix, x), number=1, repeat=9))
    # a margin, so that two runs on one machine choose the same library
    return "torch" if onednns > 1.2 * torchs else "onednn"
