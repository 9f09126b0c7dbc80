from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings

import initstats as ist

# two threads on a busy machine of two cores spin for each other: many times slower than one
torch.set_num_threads(1)

# the same examples every time, however busy the machine
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


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
