from __future__ import annotations

import csv
import itertools
import os
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import settings
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import initstats as ist

# two threads on a busy machine of two cores spin for each other: many times slower than one
torch.set_num_threads(1)

# the same examples every time, however busy the machine
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


NUMBERS: dict[str, Iterator[int]] = {}
"""How many cases of each test have been collected."""

LONG = [
    "cli",
    "sweep",
    "plots",
    "page",
    "dask",
    "leaving",
    "differences",
    "models",
    "repair",
    "foundations",
    "repair_kinds",
    "first_run",
    "pages",
    "explore",
    "paths",
    "bench",
]
"""Test modules that take longest: they begin first, so that no process waits for another's."""


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what `sampled` leaves out."""
    for mark in item.iter_markers("sampled"):
        number = next(NUMBERS.setdefault(item.nodeid.partition("[")[0], itertools.count()))
        if number % mark.kwargs["every"]:
            item.add_marker("rest")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


DEFECTS = ["lost", "partial", "different", "orphans", "tracebacks", "left", "unclear", "stuck"]
"""What may be wrong after a fault: cells that were committed are gone; a cell without some of its
rows; other bits than without the fault; processes, or temporary files, that stay; a traceback that
is not the user's; an exit code or a message that tells something else; no end."""


@pytest.fixture
def tell() -> Callable[[str, Sequence[Mapping[str, str]], int], None]:
    """What notes how tries with a fault went, by the defects of each, and how many met with it.

    The environment's INITSTATS_FAULT_TABLE names a CSV file for it. It fails at a defect.
    """

    def note(fault: str, found: Sequence[Mapping[str, str]], struck: int) -> None:
        counts = {name: sum(name in each for each in found) for name in DEFECTS}
        if file := os.environ.get("INITSTATS_FAULT_TABLE"):
            with Path(file).open("a", newline="") as stream:
                row = {"fault": fault, "tries": len(found), "struck": struck} | counts
                table = csv.DictWriter(stream, row)
                if not stream.tell():
                    table.writeheader()
                table.writerow(row)
        assert not any(found), [each for each in found if each]

    return note


@pytest.fixture(scope="session")
def mnist() -> ist.Dataset:
    return ist.load_data("mnist")


@pytest.fixture(scope="session")
def toy() -> ist.Dataset:
    """Byte images of 8 x 8, 96 to train and 41 to validate, with what real ones have.

    Samples differ in brightness, pixels in mean, and the corners are black in every image.
    """
    generator = np.random.default_rng(20)
    brightness = generator.uniform(0.2, 1.0, (137, 1, 1))
    ink = np.hanning(10)[1:-1, None] * np.hanning(10)[None, 1:-1]
    images = (255 * brightness * ink * generator.uniform(size=(137, 8, 8))).astype(np.uint8)
    images[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 0
    labels = generator.integers(0, 10, 137)
    return ist.Dataset.from_arrays(
        (images[:96], labels[:96]), (images[96:], labels[96:]), name="toy"
    )


@pytest.fixture(scope="session")
def digits(mnist: ist.Dataset) -> ist.Dataset:
    """Few of MNIST's, one pixel in four, so that all is quick."""
    parts = (mnist.train.first(400), mnist.valid.first(150), mnist.test and mnist.test.first(90))
    cut = [(part.raw.reshape(-1, 28, 28)[:, ::2, ::2], part.labels) for part in parts if part]
    return ist.Dataset.from_arrays(*cut, name="digits")


@pytest.fixture(scope="session")
def faults() -> Callable[[Figure], list[str]]:
    """What is wrong with a figure: texts that leave it, and texts that overlap by two pixels."""
    return _faults


def _faults(figure: Figure) -> list[str]:
    boxes: list[tuple[str, Any]] = []
    draw = Text.draw

    def recorded(text: Text, renderer: Any, *args: Any, **kwargs: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            # the extent of an annotation would hold the point that it is about, too
            boxes.append((text.get_text(), Text.get_window_extent(text, renderer)))
        draw(text, renderer, *args, **kwargs)

    with mock.patch.object(Text, "draw", recorded):
        figure.draw(FigureCanvasAgg(figure).get_renderer())  # type: ignore[no-untyped-call]
    page = figure.bbox
    assert boxes
    cut = [
        f"{text!r} is cut"
        for text, box in boxes
        if min(box.x0 - page.x0, page.x1 - box.x1, box.y0 - page.y0, page.y1 - box.y1) < -1
    ]
    return cut + [
        f"{text!r} overlaps {other!r}"
        for (text, a), (other, b) in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
    ]


@pytest.fixture(scope="session")
def training_study() -> Callable[..., dict[str, Any]]:
    """What makes the tables of a training study whose effects are known; see `trained.py`."""
    study: Callable[..., dict[str, Any]]
    study = runpy.run_path(str(Path(__file__).with_name("trained.py")))["study"]
    return study
