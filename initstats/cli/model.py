"""A model of the user's own: how it is made, what goes into it, and how it is trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from initstats.cli.app import OwnError, is_raised_here
from initstats.cli.data import given_data
from initstats.cli.options import named_function, numbers
from initstats.data import Split
from initstats.draws import generator_for
from initstats.failure import in_a_line
from initstats.probe import Probe
from initstats.probe.batch import called
from initstats.probe.objective import loss_of
from initstats.probe.operations import tensors
from initstats.registry import staying

SAMPLES = 256
"""Images in a batch of data."""
TOKENS = 100
"""Token ids are below this where neither the user nor an embedding of the model says more."""
MEASURED = 100
"""Of a longer training, about so many steps are measured, evenly taken."""
RATES = {"sgd": 0.01, "adam": 0.001}
"""The optimizers and their learning rates."""

Batch = tuple[Any, Tensor | None]
"""What the model is called with, and the classes of the samples where they have some."""


def own_model(factory: str, dtype: str | None = None, seed: int = 0) -> nn.Module:
    """The model that `module:factory` makes (or is), maybe cast to a floating type.

    Args:
        seed: torch's when the factory is imported and called, so that it gives the same weights.

    Raises:
        ValueError: there is no such factory, it cannot be called, or what it makes is no module.
        OwnError: the factory raised an error.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made = named_function(factory)
        if not isinstance(made, nn.Module):
            if not callable(made):
                raise ValueError(
                    f"{factory} is of type {type(made).__name__}: name a torch.nn.Module, or a "
                    "function or class that makes one, as in 'module:gpt(layers=6)'"
                )
            torch.default_generator.manual_seed(seed)  # its module may have drawn, too
            with own_code(factory):
                made = made()
    if not isinstance(made, nn.Module):
        raise ValueError(f"{factory} returns {type(made).__name__}, no torch.nn.Module")
    return made.to(getattr(torch, dtype)) if dtype else made


def vocabulary_of(model: nn.Module) -> int:
    """How many ids the first embedding of a model has rows for; `TOKENS` where it has none."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    sizes = (each.num_embeddings for each in model.modules() if isinstance(each, kinds))
    return next(sizes, TOKENS)


def batches(
    given: Sequence[tuple[str, str]],
    dtype: str | None,
    training: bool,
    vocabulary: int = TOKENS,
    *,
    size: int | None = None,
) -> Iterator[Batch]:
    """The batches that go into a model, without end; random ones are the same each time.

    Args:
        given: for each positional argument of the model what it is, `input`, `tokens` or `data`,
            and its sizes or its source.
        dtype: of floats.
        training: whether data is taken from the training split, a batch after the other, instead
            of the first validation images each time.
        vocabulary: token ids are below this.
        size: of the images of an image folder.

    Raises:
        ValueError: nothing is given, sizes that are no shape, or data that cannot be read.
    """
    kinds = [kind for kind, _ in given]
    if not given or kinds.count("data") > 1:
        raise ValueError(
            "say what goes into the model: --input, --tokens, --data (once), one for each of its "
            "arguments, in their order"
        )
    fixed = [
        None if kind == "data" else _random(kind, text, seed, vocabulary)
        for seed, (kind, text) in enumerate(given)
    ]
    split = None
    if "data" in kinds:
        data = given_data(given[kinds.index("data")][1], size)
        split = data.train if training else data.valid.first(min(SAMPLES, len(data.valid)))
    return _batches(fixed, split, getattr(torch, dtype or "float32"))


def random_inputs(given: Sequence[tuple[str, str]], vocabulary: int) -> Any:
    """What a model is called with, of random numbers alone; see `batches`."""
    inputs, _ = next(batches(given, None, False, vocabulary))
    return inputs


def measured(model: nn.Module, inputs: Any, *, backward: bool, spectra: bool) -> Probe:
    """The probe of one batch.

    Raises:
        ValueError: as `Probe.run`.
        OwnError: the model raised an error.
    """
    with own_code("the model", inputs):
        return Probe(model, backward=backward, spectra=spectra).run(inputs)


def train(
    model: nn.Module,
    batches: Iterator[Batch],
    steps: int,
    optimizer: str,
    rate: float | None,
    progress: Callable[[int, int], None],
    *,
    spectra: bool = False,
) -> tuple[Probe, list[float]]:
    """Train a model for some steps under a probe.

    What is minimized, `initstats.probe.objective.loss_of` says.

    Returns:
        The probe, and the loss at each step.

    Raises:
        ValueError: the model has no parameters, or its output holds nothing to train.
        OwnError: the model raised an error.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameters to train")
    chosen = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    updates = chosen(parameters, RATES[optimizer] if rate is None else rate)
    losses = []
    every = -(-steps // MEASURED)
    with Probe(model, backward=True, every=every, spectra=spectra) as probe:
        for step, (inputs, labels) in enumerate(itertools.islice(batches, steps)):
            updates.zero_grad()
            with own_code("the model", inputs):
                loss = loss_of(called(model, inputs), labels)
                loss.backward()  # type: ignore[no-untyped-call]
            updates.step()
            losses.append(loss.item())
            progress(step + 1, steps)
    return probe, losses


@contextmanager
def own_code(what: str, inputs: Any = None) -> Iterator[None]:
    """Make an OwnError of any error of the user's code; ours pass.

    Args:
        what: whose code runs.
        inputs: tensors that it is given, whose shapes are told.
    """
    try:
        with staying():
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if is_raised_here(error):
            raise
        notes = [note.split(";")[0] for note in getattr(error, "__notes__", [])]
        error.__notes__ = []
        shapes = " and ".join(str(tuple(x.shape)) for x in tensors(inputs))
        place = f" ({', '.join(notes)})" if notes else ""
        kind, colon, message = in_a_line(error).partition(": ")
        raised = f"{what} raised {kind}{' on ' * bool(shapes)}{shapes}{colon}{message}"
        ids = [x for x in tensors(inputs) if x.dtype == torch.int64]
        if ids and isinstance(error, IndexError):
            largest = max(int(x.max()) for x in ids)
            place += f"; ids up to {largest} were drawn: --vocabulary 50 draws those below 50"
        raise OwnError(raised + place) from error


def _random(kind: str, text: str, seed: int, vocabulary: int) -> Tensor:
    """Unit-normal numbers, or token ids, the same at every call."""
    sizes = numbers(f"--{kind}", [text])
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{text!r} is no shape: give sizes of at least 1, as in 8,784")
    generator = generator_for(seed, kind)
    try:
        if kind == "tokens":
            return torch.randint(vocabulary, sizes, generator=generator)
        return torch.randn(sizes, generator=generator)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"--{kind} {text}: the memory does not hold so many numbers") from error


def _batches(
    fixed: Sequence[Tensor | None], split: Split | None, floats: torch.dtype
) -> Iterator[Batch]:
    """The arguments of a model, images in the place of None, again and again."""
    none: list[tuple[Tensor, Tensor | None]] = [(torch.empty(0), None)]
    for images, labels in itertools.cycle(_tiles(split) if split else none):
        values = [images if x is None else x for x in fixed]
        cast = tuple(x.to(floats) if x.is_floating_point() else x for x in values)
        yield (cast if len(cast) > 1 else cast[0]), labels


def _tiles(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(split), SAMPLES):
        yield split.images[start : start + SAMPLES], split.y[start : start + SAMPLES]
