"""Images with labels, normalized: the embedded MNIST, folders of images, arrays of one's own.

The database and its file format: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning
applied to document recognition" (1998).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from initstats.files import shown, some
from initstats.idx import has_idx_files, idx_files, read_part, times
from initstats.plural import counted
from initstats.split import Array as Array
from initstats.split import Split as Split

if TYPE_CHECKING:
    from initstats.images import Images, Skipped

Labelled: TypeAlias = tuple[ArrayLike | Tensor, ArrayLike | Tensor]
"""Images and their labels."""
CACHE = "cache"
"""The folder, inside that of a run, that keeps decoded images."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples to train on, to validate with and, if there are any, to test on.

    All splits are normalized with the mean and standard deviation of the training split's values.

    Attributes:
        name: what the table's `dataset` column calls it.
        test: used only to report accuracy; None where there is none.
        classes: the names of the classes of an image folder, in the order of their labels.
        size: what the images of an image folder were cut to, in pixels; None for others.
        skipped: files of an image folder that are left out, with the `reason` for each `file`.
    """

    name: str
    train: Split
    valid: Split
    test: Split | None = None
    classes: tuple[str, ...] = ()
    size: int | None = None
    skipped: tuple[Skipped, ...] = ()

    def __repr__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("train", "valid", "test")}
        splits = ", ".join(f"{name} {len(x):,}" for name, x in sizes.items() if x is not None)
        return (
            f"Dataset {self.name!r}: samples of shape {self.shape}, {splits}; normalized with the "
            f"training mean {self.mean:.4f} and std {self.std:.4f}"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width), or (features,)."""
        return self.train.shape

    @property
    def mean(self) -> float:
        """Mean of the training split's values before normalization; a byte b counts as b / 256."""
        return self.train.mean

    @property
    def std(self) -> float:
        """Standard deviation (ddof=1) of the training split's values before normalization."""
        return self.train.std

    @classmethod
    def from_arrays(
        cls, train: Labelled, valid: Labelled, test: Labelled | None = None, *, name: str = "arrays"
    ) -> Dataset:
        """A dataset of tensors or arrays of one's own.

        Args:
            train: images and labels. Images are (samples, features), (samples, height, width) or
                (samples, channels, height, width), of floats, or of bytes counted as b / 256;
                labels are (samples,) integers.
            valid, test: the same, for validation and for the final accuracy.

        Images are kept, not copied: leave them as they are while the dataset is in use.

        >>> images, labels = np.array([[0.0, 2.0], [4.0, 6.0]]), [0, 1]
        >>> Dataset.from_arrays((images, labels), (images, labels)).mean
        3.0

        Raises:
            ValueError: images that are not finite, constant or empty; shapes, types or counts that
                do not fit together. The message says which and where.
        """
        given = [("train", train), ("valid", valid)] + ([("test", test)] if test else [])
        return _dataset(name, *(_given(split, *arrays) for split, arrays in given))


def load_data(
    source: str | Path = "mnist",
    *,
    train: int | None = None,
    valid: int | None = None,
    size: int = 64,
    cache: str | Path | None = None,
    workers: int | None = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Dataset:
    """Read a dataset: the embedded MNIST, a folder of IDX files, or an image folder.

    Of IDX files, the first images of the training file train, the last ones validate. An image
    folder is one in the layout of Imagenette and ImageWoof: a folder of images for each class in
    `train/`, in `val/` or `valid/`, and maybe in `test/`. Its classes take turns in each split, so
    that the first samples hold all of them.

    Args:
        source: "mnist", the embedded one; a folder of the four IDX files under their usual
            names, gzipped or not; or an image folder. The names of IDX files may share a prefix:
            where several sets share a folder, FOLDER/PREFIX tells which, as in
            `emnist/emnist-letters`.
        train: how many images train; by default all that do not validate.
        valid: how many images validate; by default a sixth of the training file, or all in `val/`.
        size: what the images of an image folder become: their shorter sides scaled to so many
            pixels, the middle of their longer sides, in red, green and blue. Other data stay as
            they are.
        cache: a folder that keeps the decoded images of an image folder, a file for each split and
            size, which is taken as long as names, sizes and times of the images are the same. By
            default, and where it cannot be written, nothing is written to disk.
        workers: processes that decode an image folder; 1 works in this one, None chooses by the
            work. A script that asks for others than 1 needs the guard
            ``if __name__ == "__main__":``.
        progress: called with the images decoded, and all that are to be.

    Pixels are bytes, counted as b / 256. Images that cannot be read are left out, with a warning
    that names the first of them, as long as they are at most 1% of a split, or 10 where that is
    more, and less than half.

    >>> mnist = load_data("mnist")
    >>> len(mnist.train), len(mnist.valid), round(mnist.mean, 4), round(mnist.std, 4)
    (50000, 10000, 0.1304, 0.3073)

    Raises:
        ValueError: the folder or a file of it is missing, damaged or not what its name says, or
            holds too few images, or other classes to validate than to train; too many images
            cannot be read. The message names the file, what was expected and what was found.
        RuntimeError: a script without that guard.
        ChildProcessError: no process can start.
    """
    found = _source(source)
    if isinstance(found, Path):
        counts = {"train": train, "valid": valid}
        kept = Path(cache) if cache else None
        return _image_folder(found, size, counts, cache=kept, workers=workers, progress=progress)
    name, files = found
    whole, test = (_Part(*read_part(files, part)) for part in ("train", "test"))
    return _dataset(name, *_cut(whole, train, valid), test)


def dataset_name(source: str | Path) -> str:
    """What `load_data` calls the dataset of a source.

    Raises:
        ValueError: the source is none.
    """
    found = _source(source)
    return shown(found.resolve().name) if isinstance(found, Path) else found[0]


def _source(source: str | Path) -> Path | tuple[str, dict[str, Path]]:
    """An image folder; or the name of a set of IDX files, and its files."""
    folder = _MNIST if source == "mnist" else Path(source)
    if (folder / "train").is_dir() and not has_idx_files(folder):
        return folder
    return idx_files(folder)


@dataclass(frozen=True, eq=False)
class _Part:
    """Images (samples, ...) and labels (samples,) as read, and what errors call them."""

    images: Array
    labels: Array
    images_name: str
    labels_name: str

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(
                f"{self.labels_name}: expected a label for each of the "
                f"{counted(len(self.images), 'image')} of {self.images_name}, "
                f"found {len(self.labels)}"
            )


def _dataset(name: str, train: _Part, *others: _Part) -> Dataset:
    for part in others:
        if _kind(part.images) != _kind(train.images):
            raise ValueError(
                f"{part.images_name}: expected {_kind(train.images)} as in {train.images_name}, "
                f"found {_kind(part.images)}"
            )
    mean, std = _mean_and_std(train.images)
    if not 0.0 < std < math.inf:
        raise ValueError(
            f"{train.images_name}: expected training images that vary, found mean {mean:.6g} and "
            f"standard deviation {std:.6g}"
        )
    shape = train.images.shape[1:]
    shape = (1, *shape) if len(shape) == 2 else shape
    first, second, *third = (
        Split(part.images.reshape(len(part.images), -1), part.labels, shape, mean, std)
        for part in (train, *others)
    )
    return Dataset(name, first, second, third[0] if third else None)


def _kind(images: Array) -> str:
    return f"{images.dtype} images of {times(images.shape[1:])}"


def _mean_and_std(values: Array) -> tuple[float, float]:
    """Mean and standard deviation (ddof=1); of bytes exactly, from the count of each."""
    if values.dtype != np.uint8:
        floats = torch.from_numpy(values).double()
        std, mean = torch.std_mean(floats) if values.size > 1 else (0.0, floats.item())
        return float(mean), float(std)
    flat, step = values.reshape(-1), 2**20  # so that wide integers take little memory
    parts = (flat[start : start + step] for start in range(0, len(flat), step))
    counts = np.zeros(256, np.int64)
    for part in parts:
        counts += np.bincount(part, minlength=256)
    exact = list(enumerate(counts.tolist()))
    n, total, squares = (sum(c * b**power for b, c in exact) for power in (0, 1, 2))
    variance = (n * squares - total**2) / (n * (n - 1)) if n > 1 else 0.0
    return total / n / 256.0, math.sqrt(variance) / 256.0


# arrays of the user's own

_PIXELS = ("uint8", "float16", "float32", "float64")


def _given(split: str, images: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> _Part:
    images_name, labels_name = f"{split} images", f"{split} labels"
    pixels, classes = _as_array(images), _as_array(labels)
    if pixels.ndim not in (2, 3, 4) or pixels.size == 0:
        raise ValueError(
            f"{images_name}: expected (samples, features), (samples, height, width) or (samples, "
            f"channels, height, width), none of them 0, found {pixels.shape}"
        )
    if pixels.dtype not in _PIXELS:
        raise ValueError(f"{images_name}: expected one of {_PIXELS}, found {pixels.dtype}")
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise ValueError(
            f"{labels_name}: expected (samples,) integers, found {classes.shape} {classes.dtype}"
        )
    faults = pixels.size - np.count_nonzero(finite := np.isfinite(pixels))
    if faults:
        where = np.unravel_index(finite.argmin(), pixels.shape)
        raise ValueError(
            f"{images_name}: expected finite values, found {faults} of {pixels.size} that are not, "
            f"the first {pixels[where]} at {tuple(map(int, where))}"
        )
    return _Part(pixels, classes.astype(np.int64), images_name, labels_name)


def _as_array(values: ArrayLike | Tensor) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        # numpy has no bfloat16
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    # torch wants memory that it may write to
    return np.require(np.asarray(values), requirements=["C", "W"])


# folders

_MNIST = Path(__file__).with_name("mnist")


def _image_folder(
    folder: Path,
    size: int,
    counts: dict[str, int | None],
    *,
    cache: Path | None,
    workers: int | None,
    progress: Callable[[int, int], object] | None,
) -> Dataset:
    from initstats.images import read_images  # Pillow takes a while to load

    try:
        classes, read = read_images(
            folder, size, counts, cache=cache, workers=workers, progress=progress
        )
    except PermissionError as error:
        raise ValueError(f"{error.filename}: expected a readable folder, found {error}") from error
    data = _dataset(shown(folder.resolve().name), *map(_image_part, read.values()))
    skipped = [each for images in read.values() for each in images.skipped]
    if skipped:
        start = len(shown(str(folder))) + 1
        told = some([f"{file[start:]} ({reason})" for file, reason in skipped])
        warnings.warn(
            f"{shown(str(folder))}: {counted(len(skipped), 'image')} cannot be read and are left "
            f"out: {told}",
            stacklevel=3,
        )
    return replace(data, classes=classes, size=size, skipped=tuple(skipped))


def _image_part(images: Images) -> _Part:
    return _Part(images.pixels, images.labels, images.folder, images.folder)


def _cut(whole: _Part, train: int | None, valid: int | None) -> list[_Part]:
    """The first images, to train on, and the last, to validate with."""
    n = len(whole.images)
    valid = n // 6 if valid is None else valid
    train = n - valid if train is None else train
    if min(train, valid) < 1 or train + valid > n:
        raise ValueError(
            f"{whole.images_name}: expected to share out its {counted(n, 'image')}, at least one "
            f"each, found train={train} and valid={valid}"
        )
    return [
        replace(whole, images=whole.images[rows], labels=whole.labels[rows])
        for rows in (slice(train), slice(n - valid, n))
    ]
