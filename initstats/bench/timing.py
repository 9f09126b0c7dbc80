"""Timings of the engine and of what one would write instead, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from time import process_time

import pandas as pd
import torch
from torch import Tensor

from initstats import activations, inits
from initstats.bench.plain import FUNCTIONS, course_set, hooked, networks, whole_set
from initstats.data import Split, load_data
from initstats.gaussian import one_thread
from initstats.networks import get
from initstats.registry import Catalog
from initstats.stack import Settings, run_stack
from initstats.sweep import Progress

INIT, SEED = "kaiming_normal", 0
ACTIVATIONS = tuple(FUNCTIONS)
"""The twelve that every workload runs under one init."""
BATCH = 512
"""Samples in a batch of `plain_batched`."""


@dataclass(frozen=True)
class Workload:
    """A stack over the first samples of MNIST's validation split, under twelve activations."""

    name: str
    network: str
    width: int
    depth: int
    samples: int

    @property
    def quick(self) -> Workload:
        """A shallower stack over a tenth of the samples, and named so: no goals hold for it."""
        depth, samples = max(4, self.depth // 5), self.samples // 10
        return replace(self, name=f"{self.name} quick", depth=depth, samples=samples)


WORKLOADS: Catalog[Workload] = Catalog("workload")
"""Small and middling stacks, and the lesson's conv net."""

for _workload in (
    Workload("S10", "mlp", 50, 10, 10_000),
    Workload("S", "mlp", 50, 50, 10_000),
    Workload("M", "mlp", 256, 20, 5_000),
    Workload("M512", "mlp", 512, 20, 2_000),
    Workload("C", "cnn", 8, 4, 10_000),
):
    WORKLOADS.add_one(_workload.name, _workload, meaning="", module=__name__)

VARIANTS = {
    "engine": "the engine with the whole statistics set; it draws its weights, too",
    "engine_off": "the engine, measuring nothing",
    "engine_torch": "the engine with the pure-torch kernels",
    "engine_backward": "the engine, measuring gradients too",
    "plain": "plain: an nn.Sequential for each activation, one batch, recording nothing",
    "plain_batched": f"plain, in batches of {BATCH}, whose tensors stay in the cache",
    "course_hooks": "plain, with hooks that append mean, std and a histogram to lists",
    "whole_hooks": "plain, with hooks that compute the whole statistics set by torch calls",
}
"""The variants that are timed, and their meanings."""

SAMPLED = {"course_hooks": 4, "whole_hooks": 4}
"""Variants too slow for every activation: a round takes one in so many, the next round others."""

EVEN_ROUNDS = {"plain_batched"}
"""Variants without a goal are timed in every second round, from the first."""


def run(
    workloads: Iterable[str | Workload] = tuple(WORKLOADS),
    *,
    rounds: int = 5,
    quick: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Time every variant of every workload, in float32 on one thread.

    A round times the variants one after the other, the next round in the opposite order; what only
    happens once (imports, compilation) happens before. All run the same weights over the same
    samples under the same activations. Hooks sit on every layer and every function, which give the
    tensors that the engine measures; they run under a quarter of the activations in each round,
    another one every time, and count four times. Seconds are processor time, which leaves out what
    other programs take.

    The plain forward takes all samples in one batch. If that is larger than the cache, the plain
    forward waits for memory most of the time, while the engine does not: the conv net is several
    times faster in batches, which is why `plain_batched` is timed too.

    Args:
        workloads: names of `WORKLOADS`, or workloads of one's own.
        rounds: number of rounds.
        quick: shallower stacks, a tenth of the samples, and two rounds at most.
        progress: called after every timing.

    Returns:
        One row per workload, variant and round: `workload variant round seconds`; the variants of
        `EVEN_ROUNDS` have rows in even rounds alone.

    Raises:
        ValueError: no workload, an unknown one, or less than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds: at least one is needed, not {rounds}")
    workloads = list(workloads)
    if not workloads:
        raise ValueError("workloads: the list is empty: name at least one")
    chosen = [each if isinstance(each, Workload) else WORKLOADS[each] for each in workloads]
    if quick:
        chosen, rounds = [workload.quick for workload in chosen], min(rounds, 2)
    split = load_data().valid
    odd = [name for name in reversed(VARIANTS) if name not in EVEN_ROUNDS]
    plan = [(name, n) for n in range(rounds) for name in (odd if n % 2 else VARIANTS)]
    timings = []
    with one_thread():
        for workload in chosen:
            for timing in _timings(workload, split, plan):
                timings.append((workload.name, *timing))
                if progress is not None:
                    progress(len(timings), len(chosen) * len(plan))
    table = pd.DataFrame(timings, columns=["workload", "variant", "round", "seconds"])
    orders = {"workload": [workload.name for workload in chosen], "variant": list(VARIANTS)}
    return table.astype({name: pd.CategoricalDtype(order) for name, order in orders.items()})


def run_engine(workload: Workload, split: Split, settings: Settings) -> None:
    """Measure a workload's stack over samples, under all of its activations."""
    network = get(workload.network).on(split.shape, workload.width, workload.depth)
    entries = [activations.get(name) for name in ACTIVATIONS]
    for _ in run_stack(network, inits.get(INIT), entries, [SEED], split, None, settings):
        pass


def _timings(
    workload: Workload, split: Split, plan: Iterable[tuple[str, int]]
) -> Iterator[tuple[str, int, float]]:
    """Variant, round and seconds of every timing."""
    for call in _calls(replace(workload, depth=2, samples=1), split).values():
        call(0)
    calls = _calls(workload, split)
    for name, number in plan:
        began = process_time()
        calls[name](number)
        yield name, number, SAMPLED.get(name, 1) * (process_time() - began)


def _calls(workload: Workload, split: Split) -> dict[str, Callable[[int], object]]:
    """The calls that are timed, by variant; each takes the number of the round."""
    split = split.first(workload.samples)
    shape = split.shape if workload.network == "cnn" else split.raw.shape[1:]
    x = split.x.view(len(split), *shape)
    size = (workload.network, workload.width, workload.depth)
    plain = list(networks(*size, split.shape, init=INIT, seed=SEED).values())

    def engine(settings: Settings, number: int) -> None:
        run_engine(workload, split, settings)

    def forward(batch: int, number: int) -> None:
        with torch.inference_mode():
            for model, part in product(plain, torch.split(x, batch)):
                model(part)

    def record(variant: str, observe: Callable[[Tensor], object], number: int) -> None:
        every = SAMPLED[variant]
        with torch.inference_mode():
            for model in plain[number % every :: every]:
                with hooked(model, observe):
                    model(x)

    settings = Settings(workload.depth, len(split)).suited()
    return {
        "engine": partial(engine, settings),
        "engine_off": partial(engine, replace(settings, kernels="off")),
        "engine_torch": partial(engine, replace(settings, kernels="torch")),
        "engine_backward": partial(engine, replace(settings, backward=True)),
        "plain": partial(forward, len(x)),
        "plain_batched": partial(forward, BATCH),
        "course_hooks": partial(record, "course_hooks", course_set),
        "whole_hooks": partial(record, "whole_hooks", whole_set),
    }
