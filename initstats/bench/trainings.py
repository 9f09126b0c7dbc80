"""Timings of training by hand, against the loop that one would write with torch."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from initstats import activations, inits
from initstats import networks as network_entries
from initstats.bench.plain import networks
from initstats.data import Dataset, load_data
from initstats.gaussian import one_thread
from initstats.sweep import Progress
from initstats.training import compare_training
from initstats.training.engine import Engine, Recipe, Task, Variant

BATCHES = {"cnn": 100, "mlp": 400}
"""Batches of 64 that each network sees in a timing; of larger ones at least 20."""
LR = 0.01
NAMES = ("relu", "leaky_relu", "shifted_relu", "gelu")


class Training(NamedTuple):
    """What is trained, and the least speedup over the plain loop that is the goal."""

    network: str
    width: int
    depth: int
    batch: int
    goal: float


TRAININGS = (
    Training("cnn", 8, 4, 64, 1.5),
    Training("cnn", 8, 4, 512, 1.0),
    Training("mlp", 50, 1, 64, 2.2),
    Training("mlp", 50, 1, 512, 2.2),
)


def training(
    *, rounds: int = 5, quick: bool = False, progress: Progress | None = None
) -> pd.DataFrame:
    """The speedup of training by hand over a plain loop of torch's, on one thread.

    Both train the same networks under four activations on the same batches of MNIST, which the
    plain loop takes from memory, already normalized. Each round times one after the other, by the
    processor's time.

    Returns:
        One row for each of `TRAININGS` and round: `network`, `batch`, `round`, images a second of
        `plain` and of `by_hand`, their `speedup`, and the `goal`.
    """
    data, rows = load_data(), []
    rounds = 1 if quick else rounds
    for done, case in enumerate(TRAININGS):
        images = max(64 * BATCHES[case.network], 20 * case.batch) // (5 if quick else 1)
        ways = (_plain(case, data, images), _by_hand(case, data, images))
        with one_thread():
            for way in ways:
                way()  # memory, and what compiles
            for number in range(rounds):
                rates = [len(NAMES) * images / _seconds(way) for way in ways]
                rows.append((*case[::3], number, *rates, rates[1] / rates[0], case.goal))
                if progress is not None:
                    progress(done * rounds + number + 1, len(TRAININGS) * rounds)
    columns = ["network", "batch", "round", "plain", "by_hand", "speedup", "goal"]
    return pd.DataFrame(rows, columns=columns)


def training_workers(
    *, rounds: int = 3, quick: bool = False, progress: Progress | None = None
) -> pd.DataFrame:
    """The speedup of a training study by two worker processes over one.

    Rates are those of the middle half of the study's runs.

    Returns:
        One row a round: `round`, runs a second of `one` and of `two` workers, their `speedup`.
    """
    data, rows = load_data(), []
    rounds = 1 if quick else rounds
    for number in range(rounds):
        rates = []
        for workers in (1, 2):
            rates.append(_rate(data, workers, 8 if quick else 24))
            if progress is not None:
                progress(2 * number + workers, 2 * rounds)
        rows.append((number, *rates, rates[1] / rates[0]))
    return pd.DataFrame(rows, columns=["round", "one", "two", "speedup"])


def _rate(data: Dataset, workers: int, seeds: int) -> float:
    """Runs a second over the middle half of a study."""
    times: list[float] = []

    def clock(what: str, done: int, total: int) -> None:
        times.append(perf_counter())

    settings: dict[str, Any] = {"images": 5_000, "epochs": 1, "lr": LR}
    compare_training(
        NAMES,
        data,
        "cnn",
        seeds,
        inits=["kaiming_normal"],
        workers=workers,
        progress=clock,
        **settings,
    )
    quarter = len(times) // 4
    middle = np.array(times[quarter:-quarter])
    # a slope, as the runs of a task all come at once
    return float(1 / np.polyfit(np.arange(len(middle)), middle, 1)[0])


def _seconds(way: Callable[[], object]) -> float:
    began = process_time()
    way()
    return process_time() - began


def _by_hand(case: Training, data: Dataset, images: int) -> Callable[[], object]:
    recipe = Recipe(1, case.batch, "momentum", "constant", 0.0, "cross_entropy")
    few = data.valid.first(16)
    engine = Engine(recipe, data.train.first(images), few, None, 10, lean=True)
    variants = (Variant(inits.get("kaiming_normal"), activations.get(name), LR) for name in NAMES)
    task = Task(network_entries.get(case.network), case.width, case.depth, 0, tuple(variants))
    return lambda: engine(task)


def _plain(case: Training, data: Dataset, images: int) -> Callable[[], object]:
    x, y = data.train.x[:images], data.train.y[:images]
    x = x.view(-1, *data.shape) if case.network == "cnn" else x

    def train() -> None:
        models = _models(case, data.shape)
        optimizers = [torch.optim.SGD(m.parameters(), LR, momentum=0.9) for m in models]
        order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
        for chosen in torch.split(order, case.batch):
            inputs, labels = x[chosen], y[chosen]
            for model, optimizer in zip(models, optimizers, strict=True):
                loss = F.cross_entropy(model(inputs), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                loss.item()

    return train


def _models(case: Training, shape: tuple[int, ...]) -> list[nn.Module]:
    """The networks as one writes them with torch, each with a last layer."""
    stacks = networks(case.network, case.width, case.depth, shape, init="kaiming_normal", seed=0)
    placed = network_entries.get(case.network).on(shape, case.width, case.depth)
    models: list[nn.Module] = []
    for name in NAMES:
        body = deepcopy(stacks[name])  # they share their layers
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if case.network == "cnn" else []
        with torch.random.fork_rng(devices=[]):
            models.append(nn.Sequential(*body, *pool, nn.Linear(placed.outputs.units, 10)))
    return models
