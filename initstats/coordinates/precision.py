"""Products in all digits of float32, where a GPU would round their factors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch

CUDA, CUDNN = torch.backends.cuda, torch.backends.cudnn
Switch = tuple[Callable[[], Any], Callable[[Any], object], Any]
SWITCHES: list[Switch] = [
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    (partial(getattr, CUDNN, "allow_tf32"), partial(setattr, CUDNN, "allow_tf32"), False),
]
"""What reads a switch, what sets it, and the value that rounds nothing."""
SWITCHES += [
    (partial(getattr, each, "fp32_precision"), partial(setattr, each, "fp32_precision"), "ieee")
    for each in (CUDA.matmul, getattr(CUDNN, "conv", None), getattr(CUDNN, "rnn", None))
    if hasattr(each, "fp32_precision")  # torch 2.9
]


@contextmanager
def all_digits() -> Iterator[None]:
    """No TF32 inside, as its ten bits hide the change that a small step makes.

    cuDNN's convolutions take it unless they are told otherwise.
    """
    before: list[tuple[Switch, Any]] = []
    for switch in SWITCHES:
        with suppress(RuntimeError):  # older switches cannot be read where newer ones differ
            before.append((switch, switch[0]()))
    try:
        for (_, assign, exact), _ in before:
            assign(exact)
        yield
    finally:
        for (_, assign, _), value in before:
            assign(value)
