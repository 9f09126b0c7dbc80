"""Timings of streams and attention, against the plain torch module that records nothing."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Literal, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initstats import activations, inits
from initstats import networks as network_entries
from initstats.bench.timing import BATCH
from initstats.data import Split, load_data
from initstats.gaussian import one_thread
from initstats.stack import Settings, run_stack
from initstats.sweep import Progress


class Architecture(NamedTuple):
    """What is timed, and the most time of the plain module's that is the goal."""

    network: str
    width: int
    depth: int
    samples: int
    goal: float


ARCHITECTURES = (
    Architecture("resmlp(norm=layer)", 64, 51, 10_000, 0.8),
    Architecture("transformer(patch=4)", 64, 25, 1_000, 1.2),
)
"""Fifty branches of two products behind LayerNorm; twelve blocks of 49 tokens and 4 heads."""


class Streams(nn.Module):
    """The pre-norm residual net, as one writes it with torch."""

    def __init__(self, width: int, branches: int) -> None:
        super().__init__()
        self.stem = nn.Linear(784, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(branches))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(branches))
        self.last = nn.ModuleList(nn.Linear(width, width) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        """(samples, width) of (samples, 784)."""
        x = self.stem(x)
        for norm, first, last in zip(self.norms, self.first, self.last, strict=True):
            x = x + last(F.relu(first(norm(x))))
        return x


class Tokens(nn.Module):
    """The pre-norm transformer of torch's own encoder layers."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 4, 4)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(samples, tokens, width) of (samples, 784)."""
        x = self.stem(x.view(-1, 1, 28, 28)).flatten(2).mT
        for layer in self.layers:
            x = layer(x)
        return x


def architectures(
    *, rounds: int = 5, quick: bool = False, progress: Progress | None = None
) -> pd.DataFrame:
    """The time of the engine, measuring everything, over that of the module, recording nothing.

    All go forward and back on MNIST on one thread, the module in batches that stay in the cache;
    its way back includes gradients of the weights, as `backward` computes them. Each round times
    one after the other, by the processor's time.

    Returns:
        One row for each of `ARCHITECTURES` and round: `network`, `round`, seconds of `plain`, of
        `engine_off` (measuring tokens alone) and of `engine`, their `ratio` (engine over plain),
        and the `goal` that it should not exceed.
    """
    rows, rounds = [], 1 if quick else rounds
    train = load_data().train
    for done, case in enumerate(ARCHITECTURES):
        split = train.first(case.samples // (8 if quick else 1))
        with torch.random.fork_rng(devices=[]), one_thread():
            ways = _plain(case, split), _engine(case, split, "off"), _engine(case, split)
            for way in ways:
                way()  # memory, and what compiles
            for number in range(rounds):
                plain, off, engine = map(_seconds, ways)
                rows.append((case.network, number, plain, off, engine, engine / plain, case.goal))
                if progress is not None:
                    progress(done * rounds + number + 1, len(ARCHITECTURES) * rounds)
    columns = ["network", "round", "plain", "engine_off", "engine", "ratio", "goal"]
    return pd.DataFrame(rows, columns=columns)


def _engine(
    case: Architecture, split: Split, kernels: Literal["numba", "off"] = "numba"
) -> Callable[[], object]:
    settings = Settings(case.depth, len(split), backward=True, kernels=kernels).suited()
    network = network_entries.get(case.network).on(split.shape, case.width, case.depth)
    init, relu = inits.get("torch_default"), activations.get("relu")
    return lambda: [*run_stack(network, init, [relu], [0], split, None, settings)]


def _plain(case: Architecture, split: Split) -> Callable[[], object]:
    branches = case.depth - 1
    is_transformer = case.network.startswith("transformer")
    model = Tokens(case.width, branches // 2) if is_transformer else Streams(case.width, branches)
    parts = split.x.split(BATCH)  # type: ignore[no-untyped-call]

    def go() -> None:
        for part in parts:
            model.zero_grad()
            out = model(part)
            out.backward(torch.ones_like(out))

    return go


def _seconds(way: Callable[[], object]) -> float:
    start = process_time()
    way()
    return process_time() - start
